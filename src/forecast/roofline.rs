//! The time that a device needs at its limits.
//!
//! Of each operation: the longer of its arithmetic at the device's peak and of its traffic at the
//! device's bandwidth (Williams, Waterman and Patterson, "Roofline", 2009); of a stage: their sum. It
//! is a lower bound. It leaves out the launch of an operation, caches that spare traffic and shapes
//! that fill no whole tile of a matrix unit, what runs between operations (guidance, the sampler's
//! step, the last stage), reading weights from a disk, and on a CPU the widening of half precision.

use super::device::Device;
use super::{Forecast, StageForecast};
use crate::measure::op::{Op, Work};
use crate::request::Dtype;

/// Which limit binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The device computes as fast as it can.
    Arithmetic,
    /// Its memory moves bytes as fast as it can.
    Memory,
}

impl Limit {
    /// `arithmetic` or `memory`.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Arithmetic => "arithmetic",
            Limit::Memory => "memory",
        }
    }
}

/// The least time of operations on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bound {
    /// Of those that arithmetic binds.
    pub arithmetic_ms: f64,
    /// Of those that memory binds.
    pub memory_ms: f64,
}

impl Bound {
    /// Of one operation on tensors of a type.
    pub fn of(work: &Work, dtype: Dtype, device: &Device) -> Self {
        let peaks = &device.peaks;
        let products = match work.op {
            Op::Int8Linear | Op::Int8Conv2d => peaks.int8.unwrap_or(peaks.of(dtype)),
            _ => peaks.of(dtype),
        };
        let arithmetic_ms =
            1e3 * (2.0 * work.macs as f64 / products + work.other_flops as f64 / peaks.f32);
        let memory_ms = 1e3 * work.bytes() as f64 / device.bytes_per_s;
        match arithmetic_ms >= memory_ms {
            true => Self {
                arithmetic_ms,
                memory_ms: 0.0,
            },
            false => Self {
                arithmetic_ms: 0.0,
                memory_ms,
            },
        }
    }

    /// All of it.
    pub fn ms(&self) -> f64 {
        self.arithmetic_ms + self.memory_ms
    }

    /// What binds most of the time; `None` where there is none.
    pub fn limit(&self) -> Option<Limit> {
        match self.arithmetic_ms >= self.memory_ms {
            _ if self.ms() == 0.0 => None,
            true => Some(Limit::Arithmetic),
            false => Some(Limit::Memory),
        }
    }

    /// The share of the device's limits that a measured time reached, 1 at best.
    pub fn achieved(&self, measured_ms: f64) -> f64 {
        self.ms() / measured_ms
    }

    fn plus(self, other: Self, times: usize) -> Self {
        Self {
            arithmetic_ms: self.arithmetic_ms + times as f64 * other.arithmetic_ms,
            memory_ms: self.memory_ms + times as f64 * other.memory_ms,
        }
    }
}

impl StageForecast {
    /// Its least time on a device.
    pub fn bound(&self, device: &Device) -> Bound {
        let of = |work| Bound::of(work, self.dtype, device);
        self.ops
            .iter()
            .fold(Bound::default(), |sum, (work, &calls)| {
                sum.plus(of(work), calls)
            })
    }

    /// Floating-point operations a byte moved; `None` where nothing is moved.
    pub fn intensity(&self) -> Option<f64> {
        let bytes = self.bytes();
        (bytes > 0).then(|| self.flops() as f64 / bytes as f64)
    }
}

impl Forecast {
    /// The least time of all stages on a device.
    pub fn bound(&self, device: &Device) -> Bound {
        self.stages.iter().fold(Bound::default(), |sum, stage| {
            sum.plus(stage.bound(device), 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::forecast::MemoryForecast;
    use crate::measure::op::Op;
    use crate::observe::Stage;
    use crate::ops::work;

    /// 1 GFLOP/s in float32, 4 in half precision; 1 MB/ms.
    fn device() -> Device {
        let mut device = Device::gpu("a100").expect("in the table");
        device.peaks.f32 = 1e9;
        (device.peaks.f16, device.peaks.bf16) = (4e9, 4e9);
        device.bytes_per_s = 1e9;
        device
    }

    #[test]
    fn an_operation_takes_the_longer_of_arithmetic_and_traffic() {
        // 2 · 1000³ FLOP at 1 GFLOP/s, 3 · 1000² values of 4 bytes at 1 GB/s.
        let product = work::linear(1000, 1000, 1000, false, 4, None);
        let bound = Bound::of(&product, Dtype::F32, &device());
        assert_eq!((bound.arithmetic_ms, bound.memory_ms), (2000.0, 0.0));
        assert_eq!(bound.limit(), Some(Limit::Arithmetic));
        assert_eq!(bound.achieved(8000.0), 0.25);
        let half = work::linear(1000, 1000, 1000, false, 2, None);
        assert_eq!(Bound::of(&half, Dtype::F16, &device()).ms(), 500.0);
        // One row: 2 · 10⁶ FLOP take 2 ms, 4 · (10⁶ + 2 · 10³) bytes take 4.008 ms.
        let row = work::linear(1, 1000, 1000, false, 4, None);
        let bound = Bound::of(&row, Dtype::F32, &device());
        assert_eq!((bound.arithmetic_ms, bound.memory_ms), (0.0, 4.008));
        assert_eq!(bound.limit(), Some(Limit::Memory));
    }

    #[test]
    fn a_stage_is_the_sum_of_its_operations() {
        let sum = work::add(500_000, 500_000, 4); // 6 MB: 6 ms
        let product = work::linear(100, 100, 100, false, 4, None); // 2 · 10⁶ FLOP: 2 ms
        assert_eq!(sum.op, Op::Add);
        let stage = StageForecast {
            stage: Stage::Denoise,
            dtype: Dtype::F32,
            ops: BTreeMap::from([(sum, 2), (product, 5)]),
            memory: MemoryForecast::default(),
            launches: None,
        };
        let bound = stage.bound(&device());
        assert_eq!((bound.arithmetic_ms, bound.memory_ms), (10.0, 12.0));
        assert_eq!(bound.limit(), Some(Limit::Memory));
        assert_eq!(Bound::default().limit(), None);
        let flops = 2.0 * 500_000.0 + 5.0 * 2e6;
        let bytes = 2.0 * 6e6 + 5.0 * 4.0 * 3e4;
        assert_eq!(stage.intensity(), Some(flops / bytes));
    }
}
