//! W13: what free matrix work could save at most (Amdahl 1967).

use crate::claims::figure::{Bearing, Figure, Stated, Unit};
use crate::claims::grounds::{Grounds, HALF, bound_share, is_matrix};
use crate::claims::published::{MLPERF_H200_JOULES, MLPERF_POWER};
use crate::claims::{Missing, Point};
use crate::error::Result;

const TIMES: Stated = Stated {
    text: "17",
    unit: Unit::Ratio,
};
const STEPS: usize = 30;

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
    let forecast = grounds.sdxl(STEPS, 1, HALF)?;
    let share = bound_share(&forecast, &grounds.h800, is_matrix);
    let joules = MLPERF_H200_JOULES;
    let mut figures = vec![
        Figure::forecast(
            "bound if matrix work cost nothing: this engine's operations",
            amdahl(share),
            Unit::Ratio,
            "h800",
        )
        .bears(Bearing::AtMost),
        Figure::forecast(
            "its share of the time",
            100.0 * share,
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
            "energy that the bound leaves of it",
            joules / amdahl(share),
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
            why: "no share of matrix work on an H800 is given",
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
