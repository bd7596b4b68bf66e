//! W10: a cluster's utilisation, before and after.

use super::utilisation::RAISED;
use crate::claims::figure::{Figure, Stated, Unit};
use crate::claims::grounds::Grounds;
use crate::claims::{Missing, Point};
use crate::error::Result;

const GAIN: Stated = Stated {
    text: "23",
    unit: Unit::Percent,
};

/// The utilisation, in percent, that a relative gain in percent raised to `after`.
fn before(after: f64, gain: f64) -> f64 {
    after / (1.0 + gain / 100.0)
}

/// What the gain says of the schedule before it. Its parts are of another quantity: no figure here
/// judges a gain.
pub fn w10(_: &Grounds) -> Result<Vec<Point>> {
    let (gain, after) = (GAIN.value(), RAISED.value());
    let figures = [
        (
            "utilisation before it, at most, if 23 % are relative and all GPUs are busy after it",
            before(100.0, gain),
        ),
        (
            "utilisation before it, if 23 % are relative and W8's 91 % is after it",
            before(after, gain),
        ),
        (
            "utilisation before it, if 23 % are percentage points and W8's 91 % is after it",
            after - gain,
        ),
    ];
    let figures = figures.map(|(what, percent)| Figure::arithmetic(what, percent, Unit::Percent));
    Ok(vec![Point::new(
        "gain of a cluster's utilisation",
        Some(GAIN),
        figures.to_vec(),
        Missing {
            why: "no trace, no baseline and no cluster are stated, nor whether the gain is relative, \
                  and this engine has no scheduler to simulate",
            measure: "no command of this build: the simulation of schedulers is not built",
        },
    )])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gain_bounds_what_was_before() {
        // 100 / 1.23 = 81.3; 91 / 1.23 = 73.98.
        assert!((before(100.0, 23.0) - 81.30).abs() < 0.01);
        assert!((before(91.0, 23.0) - 73.98).abs() < 0.01);
        let grounds = Grounds::new(Vec::new(), Vec::new()).expect("the program's own configs");
        let point = &w10(&grounds).expect("a check")[0];
        assert_eq!(point.figures[2].value, 68.0);
        assert_eq!(point.verdict.name(), "not testable here");
        assert_eq!(point.verdict.difference(point.stated), None);
    }
}
