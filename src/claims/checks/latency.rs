//! W1: the time of an image, against limits, public figures and this engine.

use crate::claims::figure::{Bearing, Figure, Stated, Unit};
use crate::claims::grounds::{Grounds, HALF, bound_s, flops};
use crate::claims::published::{
    TENSORRT, TENSORRT_A100_S, TENSORRT_H100_S, TENSORRT_STEPS, UNOPTIMISED_H100_S,
};
use crate::claims::source::Source;
use crate::claims::{Missing, Point};
use crate::error::Result;
use crate::request::Dtype;

/// Seconds an image, as stated.
pub const SDXL: Stated = Stated {
    text: "2.8",
    unit: Unit::Seconds,
};

/// Steps that SDXL is usually run with; the white paper names none.
pub const STEPS: [usize; 3] = [20, 30, 50];

/// Percent of a peak that work in a time amounts to.
pub fn utilisation(flops: f64, seconds: f64, peak: f64) -> f64 {
    100.0 * flops / seconds / peak
}

/// Steps that take `seconds` where `known_steps` take `known_s`.
fn steps_in(seconds: f64, known_steps: usize, known_s: f64) -> f64 {
    known_steps as f64 * seconds / known_s
}

/// The time of an image.
pub fn w1(grounds: &Grounds) -> Result<Vec<Point>> {
    let peak = grounds.h800.peaks.of(Dtype::F16);
    let mut figures = Vec::new();
    for (what, seconds) in [
        ("H100, not optimised, 30 steps", UNOPTIMISED_H100_S),
        ("H100, TensorRT, 30 steps", TENSORRT_H100_S),
        ("A100, TensorRT, 30 steps", TENSORRT_A100_S),
    ] {
        let figure = Figure::published(what, seconds, Unit::Seconds, TENSORRT);
        figures.push(figure.bears(Bearing::Comparable));
    }
    for steps in STEPS {
        let forecast = grounds.sdxl(steps, 1, HALF)?;
        let bound = Figure::forecast(
            format!("least time of {steps} steps"),
            bound_s(&forecast, &grounds.h800),
            Unit::Seconds,
            "h800",
        );
        // A run of fewer steps than these would be no stress test.
        figures.push(bound.bears(match steps == STEPS[0] {
            true => Bearing::AtLeast,
            false => Bearing::Comparable,
        }));
        figures.push(Figure::arithmetic(
            format!("share of the H800's FP16 peak, at {steps} steps in 2.8 s"),
            utilisation(flops(&forecast), SDXL.value(), peak),
            Unit::Percent,
        ));
    }
    for (what, seconds) in [
        (
            "steps that TensorRT on an H100 does in 2.8 s",
            TENSORRT_H100_S,
        ),
        (
            "steps that the stack not optimised does",
            UNOPTIMISED_H100_S,
        ),
    ] {
        let steps = steps_in(SDXL.value(), TENSORRT_STEPS, seconds);
        figures.push(Figure::computed(what, steps, Unit::Steps, TENSORRT));
    }
    for run in grounds.sdxl_runs() {
        let stages = run.run.stages.iter().map(|stage| {
            let seconds = Unit::Seconds.words(stage.times.p50_ms / 1e3);
            format!("{} {seconds}", stage.stage)
        });
        let stages: Vec<String> = stages.collect();
        let what = format!("an image, {} ({})", run.conditions(), stages.join(", "));
        let Some(seconds) = run.seconds_per_image() else {
            continue;
        };
        let bearing = run.bears(Bearing::Same, run.is_whole_image());
        let figure = Figure::measured(what, seconds, Unit::Seconds, run);
        figures.push(figure.bears(bearing));
    }
    Ok(vec![Point::new(
        "an image",
        Some(SDXL),
        figures,
        Missing {
            why: "no number of steps is stated, and no run of SDXL on an H800 or H100 is given",
            measure: "on an H800 or H100: darkroom bench --model sdxl-base --size 1024 --steps 30 \
                      --dtype bf16 --device cuda --json h800.jsonl",
        },
    )])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utilisation_is_work_over_time_over_peak() {
        // 30 guided steps: 416 TFLOP. 416 / 2.8 = 148.6 TFLOP/s; of 989.4: 15.0 %.
        let share = utilisation(416e12, 2.8, 989.4e12);
        assert!((share - 15.02).abs() < 0.01, "{share}");
    }

    #[test]
    fn steps_scale_with_time() {
        // 2.8 / 1.471 = 1.9035; × 30 = 57.1. 2.8 / 2.496 = 1.1218; × 30 = 33.7.
        assert!((steps_in(2.8, 30, 1.471) - 57.10).abs() < 0.01);
        assert!((steps_in(2.8, 30, 2.496) - 33.65).abs() < 0.01);
    }
}
