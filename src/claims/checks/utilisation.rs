//! W8: what 91 % utilisation can mean.

use super::dynamic::MIDJOURNEY;
use super::latency::{SDXL, STEPS, utilisation};
use crate::claims::figure::{Bearing, Figure, Stated, Unit};
use crate::claims::grounds::{Grounds, HALF, flops};
use crate::claims::published::{MLPERF, MLPERF_H100, MLPERF_STEPS};
use crate::claims::source::Sourced;
use crate::claims::{Missing, Point};
use crate::error::Result;
use crate::request::Dtype;

/// As stated.
pub const RAISED: Stated = Stated {
    text: "91",
    unit: Unit::Percent,
};

const DENSITY: Stated = Stated {
    text: "2",
    unit: Unit::Ratio,
};

/// What doubles; and 91 % as a share of the FLOP/s, and as a share of the time.
pub fn w8(grounds: &Grounds) -> Result<Vec<Point>> {
    let peaks = &grounds.h800.peaks;
    let [.., best] = MLPERF_H100;
    let work = flops(&grounds.sdxl(MLPERF_STEPS, 1, HALF)?);
    let fp8 = peaks.fp8.expect("the H800 has FP8 units");
    let what = "share of an H100's FP8 peak, that device's best result at 20 steps";
    let share = utilisation(work, 1.0 / best, fp8);
    let mut of_flops =
        vec![Figure::computed(what, share, Unit::Percent, MLPERF).bears(Bearing::Comparable)];
    for steps in STEPS {
        let work = flops(&grounds.sdxl(steps, 1, HALF)?);
        let share = utilisation(work, SDXL.value(), peaks.of(Dtype::F16));
        let what = format!("share of the FP16 peak that W1's 2.8 s are at {steps} steps");
        let figure = Figure::arithmetic(what, share, Unit::Percent);
        of_flops.push(figure.bears(Bearing::Comparable));
    }
    let same = (Bearing::Same, Sourced::is_sdxl as fn(&Sourced) -> bool);
    let share = (
        "share of the device's peak, reached by this engine",
        Unit::Percent,
    );
    of_flops.extend(grounds.measured(share, same, |run| {
        let precision = run.run.request.precision;
        if precision.quant.is_some() {
            return None; // two peaks at once
        }
        let peak = run.peak_flops_per_s(precision.unet)?;
        let work: f64 = run.run.stages.iter().map(|s| s.forecast.flops as f64).sum();
        let seconds = run.run.total.as_ref()?.p50_ms / 1e3;
        Some(utilisation(work, seconds, peak))
    }));
    let busy = (
        "share of the time in this engine's operations",
        Unit::Percent,
    );
    let busy = grounds.measured(busy, same, |run| Some(100.0 * run.share(|_| true)?));
    let times = SDXL.value() / MIDJOURNEY.value();
    let what = "images in the same time by W1 and W2, of which a mixture of experts is one cause";
    let density = vec![Figure::arithmetic(what, times, Unit::Ratio)];
    Ok(vec![
        Point::new(
            "compute density by a mixture of experts",
            Some(DENSITY),
            density,
            Missing {
                why: "it is not said what is counted, the experts are private, and this engine has none",
                measure: "no command of this build: a mixture of experts is not built",
            },
        ),
        Point::new(
            "91 % as a share of the FLOP/s",
            Some(RAISED),
            of_flops,
            Missing {
                why: "no run on an H800 or H100 is given",
                measure: "on an H800 or H100: darkroom bench --model sdxl-base --size 1024 --batch 8 \
                          --dtype bf16 --device cuda --json h800.jsonl",
            },
        )
        .reading(),
        Point::new(
            "91 % as a share of the time in which any kernel runs",
            Some(RAISED),
            busy,
            Missing {
                why: "nvidia-smi counts so: one slow kernel after another makes it 100 %, and no run on \
                      an H800 or H100 is given",
                measure: "on an H800 or H100: darkroom bench --model sdxl-base --size 1024 --by op \
                          --dtype bf16 --device cuda --json h800.jsonl",
            },
        )
        .reading(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::grounds::tests::grounds;
    use crate::claims::source::tests::on_gpu;

    #[test]
    fn the_best_public_result_of_an_h100_is_a_third_of_its_peak() {
        let points = w8(&grounds()).expect("a check");
        // (20 × 2 × 6.76 + 10.5) TFLOP × 2.26 / s = 635 TFLOP/s; of 1978.9: 32.1 %.
        let best = points[1].figures[0].value;
        assert!((best - 32.1).abs() < 0.4, "{best}");
        assert!(
            points
                .iter()
                .all(|p| p.verdict.name() == "not testable here")
        );
        // 2.8 / 1.2.
        assert!((points[0].figures[0].value - 2.333).abs() < 1e-3);
    }

    #[test]
    fn a_gpus_share_is_of_its_own_peak_and_of_an_unknown_gpu_there_is_none() {
        let share = |name: &str| {
            let grounds = Grounds::new(vec![on_gpu(name, 2.7)], Vec::new());
            let points = w8(&grounds.expect("the program's own configs")).expect("a check");
            let measured = points[1].figures.iter().find(|f| f.is_measured()).cloned();
            (measured, points[1].verdict.name())
        };
        let (measured, verdict) = share("NVIDIA H800");
        // The record's stages are those of sdxl-base-512-f32: its forecast FLOPs in its 60.7 s.
        let run = &grounds().runs[0].run;
        let work: f64 = run.stages.iter().map(|s| s.forecast.flops as f64).sum();
        let expected = 100.0 * work / 60.749 / 989.4e12;
        let measured = measured.expect("its peak is known");
        assert!(
            (measured.value / expected - 1.0).abs() < 1e-3,
            "{measured:?}"
        );
        assert_eq!((measured.bearing, verdict), (Bearing::Same, "contradicted"));
        assert_eq!(share("Tesla T4"), (None, "not testable here"));
    }
}
