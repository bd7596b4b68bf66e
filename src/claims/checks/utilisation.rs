//! W8: what 91 % utilisation can mean.

use super::latency::{SDXL, STEPS, utilisation};
use crate::claims::figure::{Bearing, Figure, Stated, Unit};
use crate::claims::grounds::{Grounds, HALF, flops};
use crate::claims::published::{MLPERF, MLPERF_H100, MLPERF_STEPS};
use crate::claims::{Missing, Point};
use crate::error::Result;
use crate::request::Dtype;

/// As stated.
pub const RAISED: Stated = Stated {
    text: "91",
    unit: Unit::Percent,
};

/// As a share of the FLOP/s, and as a share of the time.
pub fn w8(grounds: &Grounds) -> Result<Vec<Point>> {
    let peaks = &grounds.h800.peaks;
    let [.., best] = MLPERF_H100;
    let work = flops(&grounds.sdxl(MLPERF_STEPS, 1, HALF)?);
    let fp8 = peaks.fp8.expect("the H800 has FP8 units");
    let mut of_flops = vec![
        Figure::published(
            "share of an H100's FP8 peak, the best result at 20 steps",
            utilisation(work, 1.0 / best, fp8),
            Unit::Percent,
            MLPERF,
        )
        .bears(Bearing::Same),
    ];
    for steps in STEPS {
        let work = flops(&grounds.sdxl(steps, 1, HALF)?);
        let share = utilisation(work, SDXL.value(), peaks.of(Dtype::F16));
        let what = format!("share of the FP16 peak that W1's 2.8 s are at {steps} steps");
        of_flops.push(Figure::arithmetic(what, share, Unit::Percent));
    }
    let share = (
        "share of the device's peak, reached by this engine",
        Unit::Percent,
        Bearing::Same,
    );
    of_flops.extend(grounds.measured(share, |run| {
        let precision = run.run.request.precision;
        let limits = &run.run.limits;
        let giga = match precision.unet {
            _ if precision.quant.is_some() => return None, // two peaks at once
            Dtype::F32 => limits.f32_gflop_per_s,
            Dtype::Bf16 => limits.bf16_gflop_per_s,
            Dtype::F16 => limits.f16_gflop_per_s,
        };
        let work: f64 = run.run.stages.iter().map(|s| s.forecast.flops as f64).sum();
        let seconds = run.run.total.as_ref()?.p50_ms / 1e3;
        Some(utilisation(work, seconds, giga * 1e9))
    }));
    let busy = (
        "share of the time in this engine's operations",
        Unit::Percent,
        Bearing::Same,
    );
    Ok(vec![
        Point::new(
            "91 %, read as a share of the FLOP/s",
            Some(RAISED),
            of_flops,
            Missing {
                why: "no figure decides",
                measure: "on an H800 or H100: darkroom bench --model sdxl-base --size 1024 --batch 8 \
                          --dtype bf16 --device cuda --json h800.jsonl",
            },
        ),
        Point::new(
            "91 %, read as a share of the time in which any kernel runs",
            Some(RAISED),
            grounds.measured(busy, |run| Some(100.0 * run.share(|_| true)?)),
            Missing {
                why: "nvidia-smi counts so: one slow kernel after another makes it 100 %, and no run on \
                      an H800 or H100 is given",
                measure: "on an H800 or H100: darkroom bench --model sdxl-base --size 1024 --by op \
                          --dtype bf16 --device cuda --json h800.jsonl",
            },
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::grounds::tests::grounds;

    #[test]
    fn the_best_public_result_is_a_third_of_the_peak() {
        let points = w8(&grounds()).expect("a check");
        // (20 × 2 × 6.76 + 10.5) TFLOP × 2.26 / s = 635 TFLOP/s; of 1978.9: 32.1 %.
        let best = points[0].figures[0].value;
        assert!((best - 32.1).abs() < 0.4, "{best}");
        assert_eq!(points[0].verdict.name(), "contradicted");
        assert_eq!(points[1].verdict.name(), "not testable here");
    }
}
