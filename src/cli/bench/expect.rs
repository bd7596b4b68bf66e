//! What a run should cost, in the record's terms.

use crate::forecast::{Forecast, MemoryForecast};
use crate::measure::op::Work;
use crate::measure::record::{Expected, Limits};
use crate::observe::Stage;

/// A run's forecast on a device.
#[derive(Clone, Copy)]
pub struct Expectation<'a> {
    pub forecast: &'a Forecast,
    pub limits: &'a Limits,
}

impl Expectation<'_> {
    /// A stage at the device's limits.
    pub fn stage(&self, stage: Stage) -> Expected {
        let forecast = self.forecast.stages.iter().find(|s| s.stage == stage);
        let MemoryForecast {
            peak,
            workspace_at_peak,
            ..
        } = forecast.map_or(MemoryForecast::default(), |s| s.memory);
        let ops = forecast.map(|s| &s.ops).filter(|ops| !ops.is_empty());
        let ms = ops.map(|ops| ops.iter().map(|(w, &n)| self.op_ms(w) * n as f64).sum());
        Expected {
            ms,
            bound: None,
            macs: forecast.map_or(0, |s| s.macs()),
            flops: forecast.map_or(0, |s| s.flops()),
            bytes: forecast.map_or(0, |s| s.bytes()),
            peak_bytes: peak,
            workspace_at_peak_bytes: workspace_at_peak,
        }
    }

    /// One operation at the device's limits.
    pub fn op_ms(&self, work: &Work) -> f64 {
        let arithmetic = work.flops() as f64 / self.limits.gflop_per_s;
        let traffic = work.bytes() as f64 / self.limits.gb_per_s;
        arithmetic.max(traffic) / 1e6
    }
}
