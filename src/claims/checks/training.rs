//! W4: the cost of training, by the white paper's formula and by the usual one.

use crate::claims::figure::{Bearing, Figure, Stated, Unit};
use crate::claims::grounds::{Grounds, HALF};
use crate::claims::published::{SDXL_ENSEMBLE, UTILISATIONS};
use crate::claims::{Missing, Point};
use crate::error::Result;
use crate::request::Dtype;

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
/// Of an H800.
const PEAK: Stated = Stated {
    text: "1978",
    unit: Unit::TeraflopPerSecond,
};
/// Midjourney's, in billions.
const MIDJOURNEY: f64 = 34.0;
/// An assumption, since none is stated: as many images …
const IMAGES: f64 = 1e9;
/// … of as many latent positions, each a token: 1024×1024 pixels are 128×128 of them.
const TOKENS_AN_IMAGE: f64 = 128.0 * 128.0;

/// The white paper's formula: billions of parameters × 6 over TFLOP/s × 0.7. 10⁹ × FLOP over
/// 10¹² FLOP/s: thousandths of a second, for one token.
fn stated_cost(billions: f64) -> f64 {
    billions * 6.0 / (PEAK.value() * UTILISATION.value() / 100.0)
}

/// Floating-point operations of training N parameters on D tokens (Kaplan et al. 2020): 6·N·D.
fn training_flops(parameters: f64, tokens: f64) -> f64 {
    6.0 * parameters * tokens
}

/// Hours of one GPU at a rate.
fn gpu_hours(flops: f64, flops_per_s: f64) -> f64 {
    flops / flops_per_s / 3600.0
}

/// The factor, and the inputs that can be checked.
pub fn w4(grounds: &Grounds) -> Result<Vec<Point>> {
    let missing = |why| Missing {
        why,
        measure: "no command: darkroom does not train",
    };
    let parameters = parameters(grounds)?;
    let [in_fp16, in_fp8] = utilisation(grounds);
    let fp8 = grounds.h800.peaks.fp8.expect("the H800 has FP8 units");
    let fp16 = grounds.h800.peaks.of(Dtype::F16);
    let peak = |what, per_s: f64| {
        let source = grounds.h800.source;
        Figure::published(what, per_s / 1e12, PEAK.unit, source).bears(Bearing::Comparable)
    };
    let peaks = vec![
        peak(
            "FP8 peak of an H800, which is FP16's with sparsity too",
            fp8,
        ),
        peak("its FP16 peak, dense, as weights in training are", fp16),
    ];
    Ok(vec![
        Point::new(
            "Midjourney's cost over SDXL's",
            Some(TIMES),
            factor(),
            missing("no figure decides"),
        ),
        Point::new(
            "peak of an H800",
            Some(PEAK),
            peaks,
            missing("it is not said of which arithmetic it is the peak"),
        ),
        Point::new(
            "share of that peak, training in FP16",
            Some(UTILISATION),
            in_fp16,
            missing("no figure decides"),
        )
        .reading(),
        Point::new(
            "share of that peak, training in FP8",
            Some(UTILISATION),
            in_fp8,
            missing("no training of SDXL or Midjourney is public to that detail"),
        )
        .reading(),
        Point::new(
            "parameters of SDXL",
            Some(SDXL),
            parameters,
            missing("no figure decides"),
        ),
    ])
}

/// The factor by the formula, and what the formula leaves out.
fn factor() -> Vec<Figure> {
    let times = stated_cost(MIDJOURNEY) / stated_cost(SDXL.value());
    let tokens = IMAGES * TOKENS_AN_IMAGE;
    let flops = training_flops(SDXL.value() * 1e9, tokens);
    let rate = PEAK.value() * 1e12 * UTILISATION.value() / 100.0;
    vec![
        Figure::arithmetic("the formula, 34 B over 6.8 B", times, Unit::Ratio)
            .bears(Bearing::OwnArithmetic),
        Figure::arithmetic(
            "tokens of Midjourney over SDXL's that make it 4.9 by C = 6·N·D",
            TIMES.value() / times,
            Unit::Ratio,
        ),
        Figure::arithmetic(
            "what the formula gives for SDXL: the time of one token, as it leaves out D",
            stated_cost(SDXL.value()) / 1e3,
            Unit::Seconds,
        ),
        Figure::arithmetic(
            "C = 6·N·D of 6.8 B if D is 10⁹ images of 128×128 tokens (assumed)",
            flops / 1e21,
            Unit::Zettaflop,
        ),
        Figure::arithmetic(
            "that at the formula's 70 % of 1978 TFLOP/s",
            gpu_hours(flops, rate),
            Unit::GpuHours,
        ),
        Figure::arithmetic(
            "the same of 34 B",
            times * gpu_hours(flops, rate),
            Unit::GpuHours,
        ),
    ]
}

/// 70 % of the stated peak, in FP16 and in FP8.
fn utilisation(grounds: &Grounds) -> [Vec<Figure>; 2] {
    let fp16 = grounds.h800.peaks.of(Dtype::F16) / 1e12;
    let source = grounds.h800.source;
    let percent = Unit::Percent;
    let most = "share of 1978 TFLOP/s that is all of the FP16 peak";
    let of_fp16 = "70 % of 1978 TFLOP/s as a share of the FP16 peak";
    let in_fp16 = vec![
        Figure::computed(most, 100.0 * fp16 / PEAK.value(), percent, source).bears(Bearing::AtMost),
        Figure::computed(
            of_fp16,
            UTILISATION.value() * PEAK.value() / fp16,
            percent,
            source,
        ),
    ];
    let in_fp8 = UTILISATIONS.map(|(what, share, source)| {
        Figure::published(what, share, percent, source).bears(Bearing::Comparable)
    });
    [in_fp16, in_fp8.to_vec()]
}

/// SDXL's parameters by what is counted.
fn parameters(grounds: &Grounds) -> Result<Vec<Figure>> {
    let base = grounds.sdxl(1, 1, HALF)?.parameters() as f64 / 1e9;
    let refiner = grounds.refiner()?;
    let unet = refiner.components.iter().find(|part| part.name == "unet");
    let refiner_unet = unet.map_or(0, |part| part.parameters) as f64 / 1e9;
    let counted = |what, value| Figure::counted(what, value, Unit::Billions);
    let (what, billions, source) = SDXL_ENSEMBLE;
    Ok(vec![
        counted(
            "base and refiner, the second text encoder and the VAE twice: the most that can be counted",
            base + refiner.parameters() as f64 / 1e9,
        )
        .bears(Bearing::AtMost),
        counted("base and refiner, each weight once", base + refiner_unet)
            .bears(Bearing::Comparable),
        counted("base", base).bears(Bearing::Comparable),
        Figure::published(what, billions, Unit::Billions, source).bears(Bearing::Comparable),
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
        // 3.6·10²¹ FLOP at 10¹⁵ a second: 3.6·10⁶ s.
        assert_eq!(gpu_hours(3.6e21, 1e15), 1000.0);
        // 6 × 6.8·10⁹ × 10⁹ × 16,384 = 6.685·10²³; at 1384.6·10¹² a second 4.828·10⁸ s: 134,100 h.
        let figures = factor();
        assert!((figures[3].value - 668.5).abs() < 0.1, "{:?}", figures[3]);
        assert!(
            (figures[4].value - 134_111.0).abs() < 5.0,
            "{:?}",
            figures[4]
        );
    }

    #[test]
    fn the_factor_is_an_error_the_share_is_beyond_fp16_and_no_count_reaches_the_parameters() {
        let points = w4(&grounds()).expect("a check");
        let verdicts: Vec<_> = points
            .iter()
            .map(|p| (p.verdict.name(), p.verdict.difference(p.stated)))
            .collect();
        let of = |name, difference: &str| (name, Some(difference.to_owned()));
        assert_eq!(
            verdicts,
            [
                of("arithmetic error", "+2.0 %"),
                // 1978.9 of FP8 is beside it.
                of("not testable here", "+0.0 %"),
                // 989.4 / 1978 = 50.0 %.
                of("contradicted", "-20.0 points"),
                // 46.2 % of PaLM is beside it.
                of("not testable here", "-23.8 points"),
                // 6.508 B.
                of("contradicted", "-4.3 %"),
            ]
        );
        // 1384.6 / 989.4.
        assert!((points[2].figures[1].value - 139.94).abs() < 0.01);
        // Base 3.469 B; the refiner's UNet 2.26 B, its text encoder 0.695 B and VAE 0.084 B.
        let [twice, once, base] = [0, 1, 2].map(|i| points[4].figures[i].value);
        assert!((base - 3.468_838).abs() < 1e-6, "{base}");
        let (encoder, vae) = (0.694_659_840, 0.083_653_863);
        assert!(
            (twice - once - encoder - vae).abs() < 1e-6,
            "{twice} {once}"
        );
    }
}
