//! A benchmark run on record: one line of JSON, which `bench` writes and other commands read back.

use serde::{Deserialize, Serialize};

use super::gpu::GpuStage;
use super::machine::{Build, Machine};
use super::op::Work;
use super::recorder::{Overhead, StageMemory};
use super::statistics::quantile;
use crate::observe::Stage;
use crate::request::Request;
use crate::scheduler::SchedulerKind;

/// Form of the record; raised when a reader could misread it.
pub const SCHEMA: u32 = 1;

/// Repeats of one request on one device, and what they should have cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Of darkroom.
    pub version: String,
    /// The program that ran.
    pub build: Build,
    /// When the run began: RFC 3339, UTC.
    pub timestamp: String,
    /// Where it ran.
    pub machine: Machine,
    /// `cpu`, `cuda:0` …
    pub device: String,
    /// The GPU's own name; `null` on the CPU.
    #[serde(default)]
    pub gpu: Option<String>,
    /// The GPU's name and driver; `null` on the CPU.
    pub driver: Option<String>,
    /// Whether the denoising step was a CUDA graph.
    #[serde(default)]
    pub cuda_graph: bool,
    /// Threads of the CPU work.
    pub threads: usize,
    /// What the device can do at most, which the forecast reckons with.
    pub limits: Limits,
    /// What was asked for; its `count` is the batch.
    pub request: Request,
    /// The sampler that ran.
    pub scheduler: SchedulerKind,
    /// Of the model's files.
    pub model_fingerprint: String,
    /// Repeats run before the measured ones.
    pub warmup: usize,
    /// Repeats asked for.
    pub repeat: usize,
    /// Loading, done once for all runs of a command.
    pub load: StageRun,
    /// What was loaded, in order.
    pub components: Vec<Component>,
    /// The stages of the run, in order; none where no repeat ended.
    pub stages: Vec<StageRun>,
    /// All stages but loading.
    pub total: Option<Times>,
    /// By the median repeat.
    pub images_per_s: Option<f64>,
    /// Where the heap was highest, and what it held.
    pub peak: Option<Peak>,
    /// What measuring took of a repeat.
    pub overhead: Option<OverheadShare>,
    /// What was measured of a repeat that did not end.
    pub unfinished: Option<Vec<Unfinished>>,
    /// Why not all repeats ended.
    pub error: Option<String>,
}

/// A device's limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// The device's name.
    pub name: String,
    /// Matrix products in float32, and all other arithmetic.
    pub f32_gflop_per_s: f64,
    /// Matrix products in bfloat16.
    pub bf16_gflop_per_s: f64,
    /// Matrix products in half precision.
    pub f16_gflop_per_s: f64,
    /// Integer operations of int8 products, where they are known.
    pub int8_gop_per_s: Option<f64>,
    /// Memory traffic.
    pub gb_per_s: f64,
    /// Where the figures come from.
    pub source: String,
}

/// Samples and their summary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// One a repeat.
    pub samples_ms: Vec<f64>,
    /// Their median.
    pub p50_ms: f64,
    /// Their 95th percentile, between neighbours where they are few.
    pub p95_ms: f64,
}

impl Times {
    /// Of at least one sample.
    pub fn of(samples_ms: Vec<f64>) -> Option<Self> {
        Some(Self {
            p50_ms: quantile(&samples_ms, 0.5)?,
            p95_ms: quantile(&samples_ms, 0.95)?,
            samples_ms,
        })
    }
}

/// One stage over all repeats.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageRun {
    /// Which.
    pub stage: Stage,
    /// Its time.
    #[serde(flatten)]
    pub times: Times,
    /// Of all stages' medians, loading apart: 0…1.
    pub share: Option<f64>,
    /// Each repeat's steps.
    pub steps_ms: Vec<Vec<f64>>,
    /// Its heap in the median repeat, where the program counts it.
    pub memory: Option<StageMemory>,
    /// The most of the process in physical memory.
    pub resident_peak_bytes: Option<u64>,
    /// What the GPU tells of it in the median repeat, where it ran on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuStage>,
    /// What it should have cost.
    pub forecast: Expected,
    /// Its operations, where they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ops: Vec<OpRun>,
}

impl StageRun {
    /// Forecast over measured time: 1 is the device's limit. `None` where no time is forecast.
    pub fn achieved(&self) -> Option<f64> {
        self.forecast.ms.map(|ms| ms / self.times.p50_ms)
    }

    /// The most memory: of the GPU's workspace where it ran on one, else of the heap.
    pub fn peak_bytes(&self) -> Option<u64> {
        match &self.gpu {
            Some(gpu) => gpu.pool_peak_bytes,
            None => self.memory.as_ref().map(|memory| memory.peak as u64),
        }
    }

    /// How far the forecast of the peak is off: 0.05 is 5 % too high.
    pub fn peak_error(&self) -> Option<f64> {
        let measured = self.peak_bytes()?;
        Some(self.forecast.peak_bytes as f64 / measured as f64 - 1.0)
    }
}

/// What a stage should cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// At the device's limits; `null` for a stage without operations.
    pub ms: Option<f64>,
    /// What takes most of that time.
    pub bound: Option<String>,
    /// Multiply-accumulates of matrix products.
    pub macs: u64,
    /// Floating-point operations, those included twice.
    pub flops: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Heap at its highest.
    pub peak_bytes: u64,
    /// Of the peak, what an operation holds for itself.
    pub workspace_at_peak_bytes: u64,
}

/// Operations of one kind and size in one repeat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpRun {
    /// What each does.
    #[serde(flatten)]
    pub work: Work,
    /// How many.
    pub calls: usize,
    /// The time of all of them.
    #[serde(flatten)]
    pub times: Times,
    /// What all of them should take.
    pub forecast_ms: f64,
}

/// A part of the model in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// `unet`, `vae` …
    pub name: String,
    /// Heap that loading it took, where the program counts it; not told of a GPU.
    pub bytes: Option<i64>,
    /// Heap that it should take.
    pub forecast_bytes: u64,
}

/// The highest heap of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peak {
    /// When.
    pub stage: Stage,
    /// All of it: the sum of the following.
    pub bytes: u64,
    /// What loading left: weights and vocabularies.
    pub weights_bytes: u64,
    /// Inputs, results and what later operations will read.
    pub activations_bytes: u64,
    /// What an operation held for itself.
    pub workspace_bytes: u64,
    /// What the program held before loading.
    pub program_bytes: u64,
}

/// What measuring took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct OverheadShare {
    /// Of one operation and one allocation.
    #[serde(flatten)]
    pub each: Overhead,
    /// Operations recorded in the median repeat.
    pub ops: usize,
    /// Allocations counted in the median repeat.
    pub allocations: usize,
    /// Of the repeat's time: 0…1.
    pub share: f64,
}

/// A stage of a repeat that did not end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unfinished {
    /// Which.
    pub stage: Stage,
    /// `null` for the stage that was cut.
    pub ms: Option<f64>,
    /// Its steps that ended.
    pub steps_ms: Vec<f64>,
}
