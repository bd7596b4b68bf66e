//! W14 and W15: dollars an image, and a day's bill.

use super::dynamic::MIDJOURNEY;
use super::latency::SDXL;
use super::utilisation::RAISED;
use crate::claims::advise::{DAY_S, HOUR_S};
use crate::claims::figure::{Bearing, Figure, Stated, Unit};
use crate::claims::grounds::Grounds;
use crate::claims::published::{H100_DOLLARS_PER_HOUR, MLPERF, MLPERF_H100};
use crate::claims::source::Source;
use crate::claims::{Missing, Point};
use crate::error::Result;

const AN_IMAGE: Stated = Stated {
    text: "0.007",
    unit: Unit::Dollars,
};
const BELOW: Stated = Stated {
    text: "37",
    unit: Unit::Percent,
};
/// Midjourney's images a day.
const A_DAY: f64 = 40e6;

/// Dollars of an image that takes `seconds` of a GPU at a price, which is paid for idle time, too.
fn dollars(price_per_hour: f64, seconds: f64, utilisation: f64) -> f64 {
    price_per_hour / HOUR_S * seconds / utilisation
}

/// The price an hour that an image's dollars imply.
fn implied_price(dollars: f64, seconds: f64, utilisation: f64) -> f64 {
    dollars * utilisation / seconds * HOUR_S
}

/// GPUs that make so many images a day, busy all day.
fn gpus(images_a_day: f64, seconds: f64) -> f64 {
    images_a_day * seconds / DAY_S
}

/// Dollars an image.
pub fn w14(grounds: &Grounds) -> Result<Vec<Point>> {
    let seconds = SDXL.value();
    let implied = |utilisation| implied_price(AN_IMAGE.value(), seconds, utilisation);
    let mut figures = vec![
        Figure::arithmetic(
            "price that it implies at 2.8 s, always busy",
            implied(1.0),
            Unit::DollarsPerHour,
        ),
        Figure::arithmetic(
            "price that it implies at W8's utilisation",
            implied(RAISED.value() / 100.0),
            Unit::DollarsPerHour,
        ),
    ];
    let prices = H100_DOLLARS_PER_HOUR.map(|(what, price, source)| {
        let what = format!("2.8 s at ${price}/h, {what}");
        let dollars = dollars(price, seconds, 1.0);
        Figure::computed(what, dollars, Unit::Dollars, source).bears(Bearing::Comparable)
    });
    figures.extend(prices);
    for (what, price, _) in H100_DOLLARS_PER_HOUR {
        for run in grounds.runs.iter().filter(|run| run.is_under_conditions()) {
            let what = format!("an image at ${price}/h, {what}, {}", run.conditions());
            figures.extend(run.seconds_per_image().map(|seconds| {
                let dollars = dollars(price, seconds, 1.0);
                // No price is stated, so that none of them judges.
                Figure::measured(what, dollars, Unit::Dollars, run).bears(Bearing::Comparable)
            }));
        }
    }
    let [_, cheapest_known, best] = MLPERF_H100;
    let [.., (_, dearest, _)] = H100_DOLLARS_PER_HOUR;
    for (rate, price) in [(cheapest_known, 2.5), (best, dearest)] {
        let what = format!("{rate} images/s of an H100 at ${price}/h");
        let cost = dollars(price, 1.0 / rate, 1.0);
        let figure = Figure::computed(what, cost, Unit::Dollars, MLPERF);
        figures.push(figure.bears(Bearing::Comparable));
    }
    Ok(vec![Point::new(
        "an image",
        Some(AN_IMAGE),
        figures,
        Missing {
            why: "no price an hour is stated, and those of an H100 in 2026 (the paper is of 2025-05) lie \
                  on both sides of the one implied",
            measure: "seconds: darkroom bench --model sdxl-base --size 1024 --device cuda --json \
                      h800.jsonl on an H800; dollars: darkroom advise --price h800=USD",
        },
    )])
}

/// Midjourney's compute cost beside Stable Diffusion's.
pub fn w15(_: &Grounds) -> Result<Vec<Point>> {
    let ratio = MIDJOURNEY.value() / SDXL.value();
    let kept = 1.0 - BELOW.value() / 100.0;
    let [.., best] = MLPERF_H100;
    let bill = |what, dollars: f64| Figure::arithmetic(what, dollars, Unit::Dollars);
    let fleet = |what: &str, seconds| Figure::arithmetic(what, gpus(A_DAY, seconds), Unit::Gpus);
    let what = "saving by W1's and W2's seconds, at one price for both: inconsistent with them";
    let at_one = Figure::arithmetic(what, 100.0 * (1.0 - ratio), Unit::Percent);
    let figures = vec![
        Figure::arithmetic(
            "price of its GPU-hour over the other's that reconciles 37 % with W1 and W2",
            kept / ratio,
            Unit::Ratio,
        ),
        fleet(
            "H800s for 40 million images a day at 1.2 s",
            MIDJOURNEY.value(),
        ),
        fleet("H800s at 2.8 s", SDXL.value()),
        Figure::computed(
            "H100s at their best public throughput",
            gpus(A_DAY, 1.0 / best),
            Unit::Gpus,
            MLPERF,
        ),
        bill(
            "a day of 40 million images at W14's $0.007",
            A_DAY * AN_IMAGE.value(),
        ),
        bill("37 % below that", A_DAY * AN_IMAGE.value() * kept),
    ];
    let missing = |why| Missing {
        why,
        measure: "no command: Midjourney's pipeline is not public",
    };
    Ok(vec![
        Point::new(
            "compute cost below Stable Diffusion's, at one price",
            Some(BELOW),
            vec![at_one.bears(Bearing::Same)],
            missing("no figure decides"),
        )
        .reading(),
        Point::new(
            "the same, at two prices",
            Some(BELOW),
            figures,
            missing("it is a modelled number, and no price of either is stated"),
        )
        .reading(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::grounds::tests::grounds;

    #[test]
    fn dollars_prices_and_fleets() {
        // 0.007 / 2.8 × 3600 = 9.00; at 91 %: 8.19.
        assert!((implied_price(0.007, 2.8, 1.0) - 9.0).abs() < 1e-9);
        assert!((implied_price(0.007, 2.8, 0.91) - 8.19).abs() < 1e-9);
        // 2.5 / 3600 / 2.04 = 0.000340; and back at half utilisation: 0.000681.
        assert!((dollars(2.5, 1.0 / 2.04, 1.0) - 0.000_340_4).abs() < 1e-7);
        assert!((dollars(2.5, 1.0 / 2.04, 0.5) - 0.000_680_8).abs() < 1e-7);
        // 40·10⁶ × 1.2 / 86,400 = 555.6; × 2.8: 1296.3.
        assert!((gpus(40e6, 1.2) - 555.56).abs() < 0.01);
        assert!((gpus(40e6, 2.8) - 1296.30).abs() < 0.01);
    }

    #[test]
    fn the_papers_own_seconds_give_another_saving() {
        let points = w15(&grounds()).expect("a check");
        let names: Vec<&str> = points.iter().map(|p| p.verdict.name()).collect();
        assert_eq!(names, ["contradicted", "not testable here"]);
        // 1 - 1.2 / 2.8 = 57.14 %, 20.1 points above 37.
        let difference = points[0].verdict.difference(points[0].stated);
        assert_eq!(difference.as_deref(), Some("+20.1 points"));
        // 0.63 / 0.42857 = 1.47; 40·10⁶ × 0.007 = 280,000; × 0.63 = 176,400.
        let figures = &points[1].figures;
        assert!((figures[0].value - 1.47).abs() < 1e-9);
        assert!((figures[4].value - 280_000.0).abs() < 1e-6);
        assert!((figures[5].value - 176_400.0).abs() < 1e-6);
    }

    #[test]
    fn the_implied_price_lies_between_public_ones() {
        let point = &w14(&grounds()).expect("a check")[0];
        assert_eq!(point.verdict.name(), "not testable here");
        // AWS: 2.8 × 6.88 / 3600 = 0.00535; Azure: 2.8 × 12.29 / 3600 = 0.00956.
        for (i, dollars) in [(4, 0.005_351), (5, 0.009_559)] {
            assert!((point.figures[i].value - dollars).abs() < 1e-6, "{i}");
        }
    }
}
