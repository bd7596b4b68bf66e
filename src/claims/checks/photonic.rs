//! W13: what free matrix work could save at most (Amdahl 1967).

use crate::claims::figure::{Bearing, Figure, Stated, Unit};
use crate::claims::grounds::{Grounds, HALF, bound_s, bound_share, is_matrix};
use crate::claims::published::{MLPERF_H200_JOULES, MLPERF_POWER, TENSORRT_H100_S, TENSORRT_STEPS};
use crate::claims::source::Sourced;
use crate::claims::{Missing, Point};
use crate::error::Result;

const TIMES: Stated = Stated {
    text: "17",
    unit: Unit::Ratio,
};

/// The gain if a share (0…1) of the energy fell to nothing.
fn amdahl(share: f64) -> f64 {
    1.0 / (1.0 - share)
}

/// The share (0…1) that must fall to nothing for a gain.
fn share_for(gain: f64) -> f64 {
    1.0 - 1.0 / gain
}

/// What Amdahl's law leaves from a share of the time. Energy is no constant share of time, so none of it
/// is a bound: it compares.
pub fn w13(grounds: &Grounds) -> Result<Vec<Point>> {
    let (gain, percent) = (Unit::Ratio, Unit::Percent);
    let same = (
        Bearing::Comparable,
        Sourced::is_sdxl as fn(&Sourced) -> bool,
    );
    let what = "gain by Amdahl if matrix work cost nothing and energy went as time";
    let mut figures = grounds.measured((what, gain), same, |run| {
        Some(amdahl(run.share(is_matrix)?))
    });

    let forecast = grounds.sdxl(TENSORRT_STEPS, 1, HALF)?;
    let share = bound_share(&forecast, &grounds.h800, is_matrix);
    // All time that a real run needs beyond the forecast is taken for matrix work.
    let rest_s = bound_s(&forecast, &grounds.h800) * (1.0 - share);
    let generous = 1.0 - rest_s / TENSORRT_H100_S;
    for (what, share) in [
        ("gain by Amdahl at an H800's limits, energy as time", share),
        (
            "the same, the rest at its limits in TensorRT's 1.471 s",
            generous,
        ),
    ] {
        let figure = Figure::forecast(what, amdahl(share), gain, "h800");
        figures.push(figure.bears(Bearing::Comparable));
    }
    figures.push(Figure::arithmetic(
        "share of the energy that must cost nothing for 17 ×",
        100.0 * share_for(TIMES.value()),
        percent,
    ));
    let joules = MLPERF_H200_JOULES;
    figures.push(Figure::published(
        "energy of an image at the wall",
        joules,
        Unit::Joules,
        MLPERF_POWER,
    ));
    figures.push(Figure::computed(
        "energy that 17 × would leave of it",
        joules / TIMES.value(),
        Unit::Joules,
        MLPERF_POWER,
    ));
    let energy = ("energy of an image, of the GPU by NVML", Unit::Joules);
    figures.extend(grounds.measured(energy, same, Sourced::joules_per_image));
    Ok(vec![Point::new(
        "energy of an image",
        Some(TIMES),
        figures,
        Missing {
            why: "there are no photonic units here, and the energy of matrix work alone is not measured: \
                  its share of the time is not its share of the energy",
            measure: "no command for the gain; matrix work's share of the time: darkroom bench --model \
                      sdxl-base --size 1024 --by op --device cuda --json gpu.jsonl; joules an image: \
                      the same without --by op",
        },
    )])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::grounds::tests::grounds;
    use crate::claims::source::tests::on_gpu;

    #[test]
    fn the_rest_limits_the_gain() {
        assert_eq!((amdahl(0.75), amdahl(0.0)), (4.0, 1.0));
        // 16 / 17 = 94.1 %.
        assert!((share_for(17.0) - 0.9412).abs() < 1e-4);
        assert!((amdahl(share_for(17.0)) - 17.0).abs() < 1e-9);
    }

    #[test]
    fn shares_of_time_are_told_and_judge_nothing() {
        let point = &w13(&grounds()).expect("a check")[0];
        // 96.53 % of sdxl-base-512-f32: 1 / 0.0347 = 28.8.
        let first = &point.figures[0];
        assert!(
            first.is_measured() && (first.value - 28.8).abs() < 0.1,
            "{first:?}"
        );
        assert_eq!(point.verdict.name(), "not testable here");
        assert_eq!(point.verdict.figure(), Some(first));
        let joules = |f: &&Figure| f.is_measured() && f.unit == Unit::Joules;
        assert!(!point.figures.iter().any(|f| joules(&f)));

        let runs = vec![on_gpu("NVIDIA H800", 2.7)];
        let grounds = Grounds::new(runs, Vec::new()).expect("the program's own configs");
        let point = &w13(&grounds).expect("a check")[0];
        assert_eq!(point.verdict.name(), "not testable here");
        // 10 J in each of four stages.
        let energy = point.figures.iter().find(joules).expect("the GPU told");
        assert_eq!(energy.value, 40.0);
    }
}
