//! W4: the cost of training, by the white paper's formula and by the usual one.

use crate::claims::figure::{Bearing, Figure, Stated, Unit};
use crate::claims::grounds::{Grounds, HALF};
use crate::claims::published::UTILISATIONS;
use crate::claims::{Missing, Point};
use crate::error::Result;

const TIMES: Stated = Stated {
    text: "4.9",
    unit: Unit::Ratio,
};
const UTILISATION: Stated = Stated {
    text: "70",
    unit: Unit::Percent,
};
const SDXL: Stated = Stated {
    text: "6.8",
    unit: Unit::Billions,
};
/// Midjourney's, in billions.
const MIDJOURNEY: f64 = 34.0;
/// Of an H800, in TFLOP/s: its FP8 peak.
const PEAK: f64 = 1978.0;

/// The white paper's formula: billions of parameters × 6 over TFLOP/s × 0.7. 10⁹ × FLOP over
/// 10¹² FLOP/s: thousandths of a second, for one token.
fn stated_cost(billions: f64) -> f64 {
    billions * 6.0 / (PEAK * UTILISATION.value() / 100.0)
}

/// Floating-point operations of training N parameters on D tokens (Kaplan et al. 2020): 6·N·D.
fn training_flops(parameters: f64, tokens: f64) -> f64 {
    6.0 * parameters * tokens
}

const MEASURE: &str = "no command: darkroom does not train";

/// The factor, and the two inputs that can be checked.
pub fn w4(grounds: &Grounds) -> Result<Vec<Point>> {
    let times = stated_cost(MIDJOURNEY) / stated_cost(SDXL.value());
    let tokens = 1.0;
    let of_flops = training_flops(MIDJOURNEY, tokens) / training_flops(SDXL.value(), tokens);
    let ratio = vec![
        Figure::arithmetic("the formula, 34 B over 6.8 B", times, Unit::Ratio)
            .bears(Bearing::OwnArithmetic),
        Figure::arithmetic(
            "C = 6·N·D with as many tokens for both",
            of_flops,
            Unit::Ratio,
        )
        .bears(Bearing::OwnArithmetic),
        Figure::arithmetic(
            "tokens over SDXL's that would make it 4.9",
            TIMES.value() / of_flops,
            Unit::Ratio,
        ),
        Figure::arithmetic(
            "what the formula gives for SDXL: the time of one token, as it leaves out D",
            stated_cost(SDXL.value()) / 1e3,
            Unit::Seconds,
        ),
    ];
    let utilisation = UTILISATIONS.map(|(what, percent, source)| {
        Figure::published(what, percent, Unit::Percent, source).bears(Bearing::Same)
    });
    let base = grounds.sdxl(1, 1, HALF)?.parameters() as f64 / 1e9;
    let both = base + grounds.refiner_parameters()? as f64 / 1e9;
    let figure = |what, value| Figure::arithmetic(what, value, Unit::Billions).bears(Bearing::Same);
    let parameters = vec![
        figure("weights of SDXL base, counted from its configs", base),
        figure("base and refiner, each with text encoder and VAE", both),
    ];
    let missing = || Missing {
        why: "no figure decides",
        measure: MEASURE,
    };
    Ok(vec![
        Point::new(
            "Midjourney's cost over SDXL's",
            Some(TIMES),
            ratio,
            missing(),
        ),
        Point::new(
            "share of the peak that training reaches",
            Some(UTILISATION),
            utilisation.to_vec(),
            missing(),
        ),
        Point::new("parameters of SDXL", Some(SDXL), parameters, missing()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::grounds::tests::grounds;

    #[test]
    fn the_formula_gives_five() {
        // 6.8 × 6 = 40.8; 1978 × 0.7 = 1384.6; 40.8 / 1384.6 = 0.029467. 204 / 1384.6 = 0.147335.
        assert!((stated_cost(6.8) - 0.029_467).abs() < 1e-6);
        assert!((stated_cost(34.0) - 0.147_335).abs() < 1e-6);
        assert!((stated_cost(34.0) / stated_cost(6.8) - 5.0).abs() < 1e-12);
        // 6 × 6.8·10⁹ × 10¹² tokens.
        assert_eq!(training_flops(6.8e9, 1e12), 4.08e22);
    }

    #[test]
    fn the_factor_is_an_error_the_utilisation_is_contradicted_the_parameters_are_found() {
        let points = w4(&grounds()).expect("a check");
        let names: Vec<&str> = points.iter().map(|p| p.verdict.name()).collect();
        assert_eq!(names, ["arithmetic error", "contradicted", "reproduced"]);
        // 70 against 46.2 of PaLM, which is nearest.
        let difference = points[1].verdict.difference(points[1].stated);
        assert_eq!(difference.as_deref(), Some("-23.8 points"));
        // Base 3.469 B; refiner's UNet, text encoder 0.695 B and VAE 0.084 B.
        let base = points[2].figures[0].value;
        assert!((base - 3.468_838).abs() < 1e-6, "{base}");
    }
}
