//! W9: what this engine's own advice is made of.

use crate::claims::advise::calibration::calibrations;
use crate::claims::advise::{Workload, advise};
use crate::claims::figure::{Figure, Unit};
use crate::claims::grounds::Grounds;
use crate::claims::{Missing, Point};
use crate::error::Result;

/// The advice for the default workload, and how far its forecasts were off.
pub fn w9(grounds: &Grounds) -> Result<Vec<Point>> {
    let calibrations = calibrations()?;
    let advice = advise(grounds.model(), &Workload::default(), &calibrations)?;
    let mut figures = Vec::new();
    for (which, offer) in [
        ("cheapest", advice.cheapest()),
        ("fastest", advice.fastest()),
    ] {
        let Some(offer) = offer else { continue };
        let name = offer.device.name.as_ref();
        let precision = offer.precision.name();
        figures.push(Figure::forecast(
            format!("{which} of the table, {precision}: an image"),
            offer.dollars_per_image,
            Unit::Dollars,
            name,
        ));
        figures.push(Figure::forecast(
            format!("{which} of the table, {precision}: one image alone"),
            offer.latency_s,
            Unit::Seconds,
            name,
        ));
    }
    for calibration in &calibrations {
        let name = calibration.precision.name();
        figures.push(Figure::arithmetic(
            format!(
                "public times over the forecasts, {name}, of {} figures",
                calibration.checked.len()
            ),
            calibration.factor,
            Unit::Ratio,
        ));
        figures.push(Figure::arithmetic(
            format!("largest error of a forecast calibrated by the others, {name}"),
            100.0 * calibration.largest_error(),
            Unit::Percent,
        ));
    }
    Ok(vec![Point::new(
        "the table",
        None,
        figures,
        Missing {
            why: "no number of the table is handed down",
            measure: "darkroom advise",
        },
    )])
}
