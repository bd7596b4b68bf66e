//! What should happen: arithmetic, traffic and memory of a run, known from the configs alone, and
//! the time that a device needs for it at its limits.
//!
//! ```text
//! configs + request → walk of the networks by shape → operations, heap    [`Forecast`]
//! operations + device → roofline                                          [`roofline::Bound`]
//! ```
//!
//! Nothing is loaded or allocated. The counts equal those that the operations themselves report
//! while recorded, and the memory is that of the allocations of the processor's own path
//! (tests/forecast.rs, on a GPU tests/cuda.rs).

mod clip;
pub mod device;
mod fit;
mod heap;
mod launches;
mod loader;
mod model;
mod ops;
mod resnet;
pub mod roofline;
mod run;
mod unet;
mod vae;
mod vocabulary;

use std::collections::BTreeMap;

use crate::error::Result;
use crate::measure::op::Work;
use crate::observe::Stage;
use crate::request::{Dtype, Request};
pub use fit::{WayOut, fitting, largest_batch, ways_out};
pub use model::Model;

/// What computes: which operations are one kernel, and what each holds for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    /// The process's own threads; memory is its heap.
    Cpu {
        /// So many.
        threads: usize,
    },
    /// A GPU; memory is what tensors take, without what driver and cuBLAS take for themselves.
    Gpu,
}

impl Processor {
    /// Of a device of this machine.
    pub fn of(device: &candle_core::Device) -> Self {
        match device.is_cpu() {
            true => Self::this_cpu(),
            false => Self::Gpu,
        }
    }

    /// All threads of this process.
    pub fn this_cpu() -> Self {
        Self::Cpu {
            threads: rayon::current_num_threads(),
        }
    }
}

/// What `request` does on `model`. A prompt counts as one chunk of
/// tokens; what `--long-prompt` adds is known only once it is read.
///
/// # Errors
/// A request that the model cannot run: steps, size or clip skip.
pub fn forecast(model: &Model, request: &Request, processor: Processor) -> Result<Forecast> {
    run::walk(model, request, processor)
}

/// What a run of a model should do.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// Weights and vocabulary by component, in the order of `pipeline::load_steps`.
    pub components: Vec<ComponentForecast>,
    /// The stages that run, in order; loading is the first.
    pub stages: Vec<StageForecast>,
    /// What computes.
    pub processor: Processor,
}

/// One component in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentForecast {
    /// `vocabulary`, `text_encoder`, `unet` …
    pub name: &'static str,
    /// Values of its weights.
    pub parameters: u64,
    /// Bytes in memory once loaded.
    pub bytes: u64,
}

/// One stage.
#[derive(Clone, Debug)]
pub struct StageForecast {
    /// Which.
    pub stage: Stage,
    /// What its networks compute in; float32 where there are none.
    pub dtype: Dtype,
    /// How often each of its operations runs.
    pub ops: BTreeMap<Work, usize>,
    /// The heap or a GPU's workspace, in bytes.
    pub memory: MemoryForecast,
    /// Kernels that a GPU is given in all steps of the denoising, in half precision, where their number
    /// is known.
    pub launches: Option<usize>,
}

/// The heap or a GPU's workspace over a stage, in bytes, everything loaded included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryForecast {
    /// Weights, and in a process vocabularies.
    pub resident: u64,
    /// At its highest.
    pub peak: u64,
    /// Of the peak, what an operation holds for itself.
    pub workspace_at_peak: u64,
}

impl Forecast {
    /// A stage, if it runs.
    pub fn stage(&self, stage: Stage) -> Option<&StageForecast> {
        self.stages.iter().find(|forecast| forecast.stage == stage)
    }

    /// The stage that takes the most memory.
    pub fn peak(&self) -> &StageForecast {
        let highest = self.stages.iter().max_by_key(|stage| stage.memory.peak);
        highest.expect("loading is always one")
    }

    /// Memory that has to be free for it: the highest peak, on a GPU with an eighth of what a run holds besides the weights
    /// for the gaps that tensors of different sizes leave between them.
    pub fn needed_bytes(&self) -> u64 {
        let peak = self.peak().memory;
        match self.processor {
            Processor::Cpu { .. } => peak.peak,
            Processor::Gpu => peak.peak.max(peak.resident + self.held_bytes() * 9 / 8),
        }
    }

    /// The most that a stage holds besides the weights, once they are loaded.
    fn held_bytes(&self) -> u64 {
        let run = self
            .stages
            .iter()
            .filter(|stage| stage.stage != Stage::Load);
        let held = run.map(|stage| stage.memory.peak.saturating_sub(stage.memory.resident));
        held.max().unwrap_or(0)
    }

    /// Values of all weights.
    pub fn parameters(&self) -> u64 {
        self.components.iter().map(|part| part.parameters).sum()
    }
}

impl MemoryForecast {
    /// Of the peak, what is neither weights nor workspace.
    pub fn activations(&self) -> u64 {
        self.peak
            .saturating_sub(self.resident + self.workspace_at_peak)
    }
}

impl StageForecast {
    fn sum(&self, of: impl Fn(&Work) -> u64) -> u64 {
        self.ops
            .iter()
            .map(|(work, &calls)| of(work).saturating_mul(calls as u64))
            .fold(0, u64::saturating_add)
    }

    /// Multiply-accumulates of its matrix products.
    pub fn macs(&self) -> u64 {
        self.sum(|work| work.macs)
    }

    /// Floating-point operations.
    pub fn flops(&self) -> u64 {
        self.sum(Work::flops)
    }

    /// Bytes moved, each tensor read or written once an operation.
    pub fn bytes(&self) -> u64 {
        self.sum(Work::bytes)
    }
}
