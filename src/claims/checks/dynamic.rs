//! W2: a dynamic pipeline beside the plain one.

use super::latency::SDXL;
use super::savings::steps_for;
use crate::claims::figure::{Bearing, Figure, Stated, Unit};
use crate::claims::grounds::Grounds;
use crate::claims::source::Source;
use crate::claims::{Missing, Point};
use crate::error::Result;

/// Seconds an image of Midjourney's pipeline, as stated.
pub const MIDJOURNEY: Stated = Stated {
    text: "1.2",
    unit: Unit::Seconds,
};

const RATIO: Stated = Stated {
    text: "0.43",
    unit: Unit::Ratio,
};

/// The ratio of the two pipelines' times.
pub fn w2(grounds: &Grounds) -> Result<Vec<Point>> {
    let ratio = MIDJOURNEY.value() / SDXL.value();
    let mut figures = vec![
        Figure::arithmetic("1.2 s over 2.8 s", ratio, Unit::Ratio).bears(Bearing::OwnArithmetic),
        Figure::arithmetic(
            "steps of 50 that leave 0.43 of the compute, all else alike",
            steps_for(grounds, 1.0 - RATIO.value())? as f64,
            Unit::Steps,
        ),
    ];
    for gain in grounds.int8_gains() {
        let what = format!("time over that without int8, {}", gain.after.conditions());
        let ratio = 1.0 / gain.times;
        figures.push(Figure::measured(what, ratio, Unit::Ratio, gain.after));
    }
    Ok(vec![Point::new(
        "its time over SDXL's",
        Some(RATIO),
        figures,
        Missing {
            why: "its arithmetic holds, and this engine has no dynamic pipeline to time beside the \
                  plain one",
            measure: "no command of this build: the dynamic pipeline is not built",
        },
    )])
}
