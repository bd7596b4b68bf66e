//! What should happen: arithmetic, traffic and memory of a run, known from the configs alone, and
//! the time that a device needs for it at its limits.
//!
//! ```text
//! configs + request → walk of the networks by shape → operations, heap    [`Forecast`]
//! operations + device → roofline                                          [`roofline::Bound`]
//! ```
//!
//! Nothing is loaded or allocated. The counts equal those that the operations themselves report
//! while recorded (tests/forecast.rs), and the memory is that of the CPU path's own allocations.

use std::collections::BTreeMap;

use crate::measure::op::Work;
use crate::observe::Stage;

/// What a run of a model should do.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// Weights and vocabulary by component, in the order of `pipeline::load_steps`.
    pub components: Vec<ComponentForecast>,
    /// The stages that run, in order; loading is the first.
    pub stages: Vec<StageForecast>,
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
    /// How often each of its operations runs.
    pub ops: BTreeMap<Work, usize>,
    /// The heap, in bytes.
    pub memory: MemoryForecast,
}

/// The heap over a stage, in bytes, everything loaded included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryForecast {
    /// Weights and vocabularies.
    pub resident: u64,
    /// At its highest.
    pub peak: u64,
    /// Of the peak, what an operation holds for itself.
    pub workspace_at_peak: u64,
}

impl StageForecast {
    fn sum(&self, of: impl Fn(&Work) -> u64) -> u64 {
        self.ops
            .iter()
            .map(|(work, &calls)| of(work) * calls as u64)
            .sum()
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
