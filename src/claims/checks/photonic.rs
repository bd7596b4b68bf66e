//! W13: what free matrix work could save at most (Amdahl 1967).

use crate::claims::figure::{Bearing, Figure, Stated, Unit};
use crate::claims::grounds::{Grounds, HALF, bound_s, bound_share, is_matrix};
use crate::claims::published::{MLPERF_H200_JOULES, MLPERF_POWER, TENSORRT_H100_S, TENSORRT_STEPS};
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

/// Bounds from the share of matrix work, energy taken as time at a constant power.
pub fn w13(grounds: &Grounds) -> Result<Vec<Point>> {
    let forecast = grounds.sdxl(TENSORRT_STEPS, 1, HALF)?;
    let share = bound_share(&forecast, &grounds.h800, is_matrix);
    let joules = MLPERF_H200_JOULES;
    // More generous than the forecast's own share: all time that a real run needs beyond it is taken for
    // matrix work.
    let rest_s = bound_s(&forecast, &grounds.h800) * (1.0 - share);
    let generous = 1.0 - rest_s / TENSORRT_H100_S;
    let mut figures = vec![
        Figure::forecast(
            "bound if matrix work cost nothing, the rest of the operations takes its least time and \
             the whole TensorRT's 1.471 s",
            amdahl(generous),
            Unit::Ratio,
            "h800",
        )
        .bears(Bearing::AtMost),
        Figure::forecast(
            "the same where matrix work takes its least time, too",
            amdahl(share),
            Unit::Ratio,
            "h800",
        ),
        Figure::forecast(
            "share of matrix work in the first",
            100.0 * generous,
            Unit::Percent,
            "h800",
        ),
        Figure::arithmetic(
            "share that must cost nothing for 17 ×",
            100.0 * share_for(TIMES.value()),
            Unit::Percent,
        ),
        Figure::published(
            "energy of an image at the wall",
            joules,
            Unit::Joules,
            MLPERF_POWER,
        ),
        Figure::arithmetic(
            "energy that 17 × would leave of it",
            joules / TIMES.value(),
            Unit::Joules,
        ),
        Figure::arithmetic(
            "energy that the first bound leaves of it",
            joules / amdahl(generous),
            Unit::Joules,
        ),
    ];
    let bound = (
        "bound if matrix work cost nothing",
        Unit::Ratio,
        Bearing::AtMost,
    );
    figures.extend(grounds.measured(bound, |run| Some(amdahl(run.share(is_matrix)?))));
    Ok(vec![Point::new(
        "energy of an image",
        Some(TIMES),
        figures,
        Missing {
            why: "no share of matrix work on an H800 or H100 is given",
            measure: "its share of the time: darkroom bench --model synthetic:sdxl-base --by op \
                      --json ops.jsonl; joules: no command of this build",
        },
    )])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::grounds::tests::grounds;

    #[test]
    fn the_rest_bounds_the_gain() {
        assert_eq!((amdahl(0.75), amdahl(0.0)), (4.0, 1.0));
        // 16 / 17 = 94.1 %.
        assert!((share_for(17.0) - 0.9412).abs() < 1e-4);
        assert!((amdahl(share_for(17.0)) - 17.0).abs() < 1e-9);
    }

    #[test]
    fn measured_shares_bound_it_by_device() {
        let point = &w13(&grounds()).expect("a check")[0];
        let measured: Vec<f64> = point
            .figures
            .iter()
            .filter(|f| f.is_measured())
            .map(|f| f.value)
            .collect();
        // 96.53 % of sdxl-base-512-f32: 1 / 0.0347 = 28.8.
        assert!((measured[0] - 28.8).abs() < 0.1, "{measured:?}");
        assert!(
            point
                .figures
                .iter()
                .all(|f| !f.is_measured() || f.bearing == Bearing::Context)
        );
    }
}
