//! How far the forecast is from what others measured, and the factor that this gives.
//!
//! A forecast is a lower bound: nothing reaches all limits at once. Of each public figure, the measured
//! time over the forecast; their geometric mean is the precision's factor. What the factor is worth is
//! told by leaving each figure out in turn and forecasting it by the others.

use super::Arithmetic;
use crate::claims::grounds::{Grounds, bound_s};
use crate::claims::published::{
    MLPERF, MLPERF_B200, MLPERF_BATCH, MLPERF_H100, MLPERF_H200, MLPERF_L40S, MLPERF_STEPS,
    TENSORRT, TENSORRT_A100_S, TENSORRT_H100_S, TENSORRT_STEPS,
};
use crate::error::Result;
use crate::forecast::device::Device;

/// A public time of SDXL base at 1024×1024 with guidance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Anchor {
    /// By the device table.
    pub device: &'static str,
    /// What it is, in words.
    pub what: &'static str,
    /// What it is compared with.
    pub precision: Arithmetic,
    /// Denoising steps.
    pub steps: usize,
    /// Images at once that the forecast takes for it.
    pub batch: usize,
    /// Measured, an image.
    pub seconds: f64,
    /// Where it is published.
    pub source: &'static str,
}

const fn tensorrt(device: &'static str, seconds: f64) -> Anchor {
    Anchor {
        device,
        what: "float16, one image",
        precision: Arithmetic::Half,
        steps: TENSORRT_STEPS,
        batch: 1,
        seconds,
        source: TENSORRT,
    }
}

const fn mlperf(device: &'static str, what: &'static str, images_per_s: f64) -> Anchor {
    Anchor {
        device,
        what,
        precision: Arithmetic::W8a8,
        steps: MLPERF_STEPS,
        batch: MLPERF_BATCH,
        seconds: 1.0 / images_per_s,
        source: MLPERF,
    }
}

/// The best public figure of each device of the table.
pub const ANCHORS: [Anchor; 6] = [
    tensorrt("h100", TENSORRT_H100_S),
    tensorrt("a100", TENSORRT_A100_S),
    mlperf("h100", "fp8, offline, v5.1", MLPERF_H100[2]),
    mlperf("h200", "8-bit type not named, offline", MLPERF_H200),
    mlperf("b200", "8-bit type not named, offline", MLPERF_B200),
    mlperf("l40s", "int8, offline", MLPERF_L40S),
];

/// Of those, what a reader must know; and the public figures that are left out.
pub const NOTES: [&str; 5] = [
    "MLPerf's results are mostly in fp8, which this engine does not have: they calibrate w8a8, since \
     these devices' fp8 and int8 peaks are equal. Which layers are 8 bits wide differs, too.",
    "MLPerf's batches differ; the forecast takes 8. The w8a8 factor, from throughput, is used for \
     single images as well: that is optimistic.",
    "The useful batch is 8 by MLPerf, where an H100 gains 2 to 6 % beyond it; the forecast itself gains next \
     to nothing from a batch. It is smaller where 8 do not fit, take too long, or do not arrive.",
    "Memory, and what fits at once, are those of this engine's GPU path, counted on an emulated GPU; what fits \
     has an eighth for gaps between tensors; what driver and cuBLAS take comes on top.",
    "Left out: A10 (8.160 s) and MI325X (2.32 images/s), not in the device table; H100 v4.0 (1.64) and \
     v4.1 (2.04), older results of the same device; H100 not optimised (2.496 s), another kind of stack.",
];

/// A figure beside its forecast. Errors are shares: 0.1 is a forecast 10 % too long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Checked {
    /// The figure.
    pub anchor: Anchor,
    /// At the device's limits, an image.
    pub forecast_s: f64,
    /// Of the forecast as it is.
    pub raw_error: f64,
    /// Of the forecast times the factor of the other figures; `None` where there are none.
    pub left_out_error: Option<f64>,
    /// Of the forecast times the factor of all.
    pub fitted_error: f64,
}

/// A precision's factor.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Which.
    pub precision: Arithmetic,
    /// Measured time over forecast.
    pub factor: f64,
    /// What it is from.
    pub checked: Vec<Checked>,
}

impl Calibration {
    /// From figures and their forecasts.
    fn of(precision: Arithmetic, pairs: &[(Anchor, f64)]) -> Self {
        let factor = factor(pairs);
        let checked = pairs.iter().enumerate().map(|(i, &(anchor, forecast_s))| {
            let others: Vec<_> = [&pairs[..i], &pairs[i + 1..]].concat();
            let error = |factor: f64| forecast_s * factor / anchor.seconds - 1.0;
            Checked {
                anchor,
                forecast_s,
                raw_error: error(1.0),
                left_out_error: (!others.is_empty()).then(|| error(self::factor(&others))),
                fitted_error: error(factor),
            }
        });
        Self {
            precision,
            factor,
            checked: checked.collect(),
        }
    }

    /// The largest error of a figure forecast by the others, without its sign.
    pub fn largest_error(&self) -> f64 {
        let errors = self.checked.iter().filter_map(|c| c.left_out_error);
        errors.map(f64::abs).fold(0.0, f64::max)
    }
}

/// The geometric mean of measured over forecast.
fn factor(pairs: &[(Anchor, f64)]) -> f64 {
    let logs = pairs
        .iter()
        .map(|(anchor, forecast)| (anchor.seconds / forecast).ln());
    (logs.sum::<f64>() / pairs.len() as f64).exp()
}

/// Of both precisions, from [`ANCHORS`].
///
/// # Errors
/// Those of [`crate::forecast::forecast`].
pub fn calibrations() -> Result<Vec<Calibration>> {
    let grounds = Grounds::new(Vec::new(), Vec::new())?;
    let of = |precision: Arithmetic| {
        let anchors = ANCHORS
            .iter()
            .filter(|anchor| anchor.precision == precision);
        let pairs = anchors.map(|&anchor| {
            let device = Device::gpu(anchor.device).expect("anchors name devices of the table");
            let forecast = grounds.sdxl(anchor.steps, anchor.batch, precision.precision())?;
            Ok((anchor, bound_s(&forecast, &device) / anchor.batch as f64))
        });
        let pairs = pairs.collect::<Result<Vec<_>>>()?;
        Ok(Calibration::of(precision, &pairs))
    };
    Arithmetic::ALL.into_iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_is_the_geometric_mean_and_judged_by_leaving_out() {
        let pairs = [(tensorrt("h100", 2.0), 1.0), (tensorrt("a100", 8.0), 1.0)];
        let calibration = Calibration::of(Arithmetic::Half, &pairs);
        // √(2 · 8) = 4.
        assert!((calibration.factor - 4.0).abs() < 1e-12);
        let [first, second] = calibration.checked[..] else {
            panic!("two figures")
        };
        // 1 s for 2 s: half too short. By the other's factor 8: 8 s for 2 s. By both: 4 s.
        let near =
            |error: Option<f64>, wanted: f64| error.is_some_and(|e| (e - wanted).abs() < 1e-9);
        assert!(first.raw_error == -0.5 && near(first.left_out_error, 3.0));
        assert!((first.fitted_error - 1.0).abs() < 1e-12);
        // By the first's factor 2: 2 s for 8 s.
        assert!(near(second.left_out_error, -0.75));
        assert!(near(Some(calibration.largest_error()), 3.0));
        let alone = Calibration::of(Arithmetic::Half, &pairs[..1]);
        assert_eq!(alone.checked[0].left_out_error, None);
    }

    #[test]
    fn forecasts_are_below_what_was_measured_and_peaks_of_8_bits_are_equal() {
        for calibration in calibrations().expect("forecasts") {
            assert!(calibration.factor > 1.0);
            for checked in &calibration.checked {
                assert!(checked.raw_error < 0.0, "{checked:?}");
                let device = Device::gpu(checked.anchor.device).expect("in the table");
                let fp8 = device.peaks.fp8;
                let eight_bits = checked.anchor.precision == Arithmetic::W8a8;
                assert!(!eight_bits || fp8 == device.peaks.int8, "{checked:?}");
            }
        }
    }
}
