//! What a GPU tells of a stage itself.

use candle_core::{Device, Result};
use serde::{Deserialize, Serialize};

/// A stage as its GPU saw it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuStage {
    /// Between events at the stage's two ends.
    pub ms: f64,
    /// The most that tensors took of the workspace, where the device has one.
    pub pool_peak_bytes: Option<u64>,
    /// What it had taken from the driver at most, since the device was opened.
    #[serde(default)]
    pub pool_reserved_bytes: Option<u64>,
    /// What they took at the end.
    pub pool_end_bytes: Option<u64>,
    /// Of the whole device in use at the end, by whatever process (NVML).
    pub device_used_bytes: Option<u64>,
    /// What the device took (NVML).
    pub energy_j: Option<f64>,
}

impl GpuStage {
    /// The stage run once more.
    pub fn add(&mut self, other: Self) {
        self.ms += other.ms;
        self.pool_peak_bytes = self.pool_peak_bytes.max(other.pool_peak_bytes);
        self.pool_reserved_bytes = self.pool_reserved_bytes.max(other.pool_reserved_bytes);
        self.pool_end_bytes = other.pool_end_bytes;
        self.device_used_bytes = other.device_used_bytes;
        self.energy_j = self.energy_j.zip(other.energy_j).map(|(a, b)| a + b);
    }
}

#[cfg(feature = "cuda")]
pub use crate::cuda::{Probe, Usage, usage};

/// A span of a GPU's work; this build has none.
#[cfg(not(feature = "cuda"))]
#[derive(Debug)]
pub enum Probe {}

#[cfg(not(feature = "cuda"))]
impl Probe {
    /// An error.
    pub fn begin(_: &Device) -> Result<Self> {
        candle_core::bail!("this build measures no GPU")
    }

    /// Never called.
    pub fn end(self) -> Result<GpuStage> {
        match self {}
    }
}

/// Begins a span of the device's work, if it is a GPU.
pub fn begin(device: &Device) -> Result<Option<Probe>> {
    match device.is_cpu() {
        true => Ok(None),
        false => Probe::begin(device).map(Some),
    }
}
