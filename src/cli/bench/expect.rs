//! What a run should cost, in the record's terms.

use crate::forecast::Forecast;
use crate::forecast::device::Device;
use crate::forecast::roofline::{Bound, Limit};
use crate::measure::op::Work;
use crate::measure::record::Expected;
use crate::observe::Stage;

/// A run's forecast on a device.
#[derive(Clone, Copy)]
pub struct Expectation<'a> {
    pub forecast: &'a Forecast,
    pub device: &'a Device,
}

impl Expectation<'_> {
    /// A stage at the device's limits; `None` of a stage that is not in the forecast.
    pub fn stage(&self, stage: Stage) -> Option<Expected> {
        let forecast = self.forecast.stage(stage)?;
        let bound = forecast.bound(self.device);
        let limit = bound.limit();
        Some(Expected {
            ms: limit.map(|_| bound.ms()),
            bound: limit.map(Limit::name).map(str::to_owned),
            macs: forecast.macs(),
            flops: forecast.flops(),
            bytes: forecast.bytes(),
            peak_bytes: forecast.memory.peak,
            workspace_at_peak_bytes: forecast.memory.workspace_at_peak,
        })
    }

    /// One of a stage's operations at the device's limits.
    pub fn op_ms(&self, stage: Stage, work: &Work) -> Option<f64> {
        let dtype = self.forecast.stage(stage)?.dtype;
        Some(Bound::of(work, dtype, self.device).ms())
    }
}
