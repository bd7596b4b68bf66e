//! W5: the memory of SDXL in 8 bits.

use crate::claims::figure::{Bearing, Figure, Stated, Unit};
use crate::claims::grounds::{EDGE_PX, Grounds, HALF, INT8, peak_gb};
use crate::claims::published::{DIFFUSERS, DIFFUSERS_GB};
use crate::claims::source::{Source, Sourced, is_sdxl};
use crate::claims::{Missing, Point};
use crate::error::Result;
use crate::request::{Dtype, Request};
use crate::validate::ledger::{Ledger, Pair};

const INT8_GB: Stated = Stated {
    text: "12.4",
    unit: Unit::Gigabytes,
};

/// 10⁹ bytes of parameters at a width.
fn weights_gb(parameters: u64, bytes_each: f64) -> f64 {
    parameters as f64 * bytes_each / 1e9
}

/// The largest batch whose peak is within `gb`.
fn batch_in(grounds: &Grounds, gb: f64) -> Result<usize> {
    let mut batch = 0;
    while peak_gb(&grounds.sdxl(1, batch + 1, INT8)?) <= gb {
        batch += 1;
    }
    Ok(batch)
}

/// How the peak of a run in 8 bits bears: its tensors take the same room on any device, if they are one
/// whole image's beside weights that are nowhere wider than 16 bits.
fn bearing(request: &Request) -> Bearing {
    let is_one = (request.height_px, request.width_px, request.count) == (EDGE_PX, EDGE_PX, 1);
    match is_one && request.precision.unet != Dtype::F32 {
        true => Bearing::Same,
        false => Bearing::Context,
    }
}

/// What a validation of SDXL's shapes counted; nothing that it only forecast.
fn validated(validation: &Sourced<Ledger>) -> Vec<Figure> {
    let Ledger {
        request, memory, ..
    } = &validation.run;
    if !is_sdxl(request) {
        return Vec::new();
    }
    let conditions = validation.conditions();
    let measured = |what: &str, value, unit| {
        let what = format!("{what}, {conditions}");
        Figure::measured(what, value, unit, validation)
    };
    let gigabytes = |what, bytes: u64| measured(what, bytes as f64 / 1e9, Unit::Gigabytes);
    let mut figures = Vec::new();
    let peaks = memory
        .stages
        .iter()
        .map(|stage| stage.peak.int8.measured_bytes);
    if let Some(peaks) = peaks.collect::<Option<Vec<_>>>()
        && let Some(&most) = peaks.iter().max()
    {
        figures.push(gigabytes("peak", most).bears(bearing(request)));
    }
    let unet = memory.components.iter().find(|c| c.name == "unet");
    let bytes = unet.map(|unet| unet.memory.map(|bytes| bytes.measured_bytes));
    if let Some(Pair {
        twin: Some(twin),
        int8: Some(int8),
    }) = bytes
    {
        figures.push(gigabytes("the UNet's weights", int8));
        let saved = 100.0 * (1.0 - int8 as f64 / twin as f64);
        let what = format!(
            "saved of the {} UNet's weights",
            request.precision.unet.name()
        );
        figures.push(measured(&what, saved, Unit::Percent));
    }
    figures
}

/// Peak memory.
pub fn w5(grounds: &Grounds) -> Result<Vec<Point>> {
    let gb = Unit::Gigabytes;
    let int8 = grounds.sdxl(1, 1, INT8)?;
    let half = grounds.sdxl(1, 1, HALF)?;
    let parameters = half.parameters();
    let [f32_gb, bf16_gb, int8_gb] = DIFFUSERS_GB;
    let bf16_error = 100.0 * (peak_gb(&half) / bf16_gb - 1.0);
    let mut figures = vec![
        Figure::plan(
            "peak of one image, int8 UNet, the rest in half precision",
            peak_gb(&int8),
            gb,
        )
        .bears(Bearing::Same),
        Figure::published(
            "peak of one image, int8 by dynamic quantisation",
            int8_gb,
            gb,
            DIFFUSERS,
        )
        .bears(Bearing::Comparable),
        Figure::published("peak, bfloat16", bf16_gb, gb, DIFFUSERS),
        Figure::plan("peak in half precision", peak_gb(&half), gb),
        Figure::computed(
            "by which that is above the published one",
            bf16_error,
            Unit::Percent,
            DIFFUSERS,
        ),
        Figure::published("peak, float32", f32_gb, gb, DIFFUSERS),
        Figure::counted("all weights at 8 bits", weights_gb(parameters, 1.0), gb),
        Figure::counted("all weights at 16 bits", weights_gb(parameters, 2.0), gb),
    ];
    for run in grounds.sdxl_runs() {
        let request = &run.run.request;
        let is_int8 = request.precision.quant.is_some();
        let Some(bytes) = run.peak_bytes().filter(|_| is_int8) else {
            continue;
        };
        let what = format!("peak, {}", run.conditions());
        let figure = Figure::measured(what, bytes as f64 / 1e9, gb, run);
        figures.push(figure.bears(bearing(request)));
    }
    for validation in &grounds.validations {
        figures.extend(validated(validation));
    }
    let at_once = Figure::plan(
        "images of 1024x1024 at once whose peak is within 12.4 GB",
        batch_in(grounds, INT8_GB.value())? as f64,
        Unit::Images,
    );
    let missing = |why| Missing {
        why,
        measure: "darkroom bench --model synthetic:sdxl-base --size 1024 --steps 1 --dtype bf16 \
                  --quant w8a8 --json int8.jsonl, or validate with the same options for both beside \
                  each other",
    };
    Ok(vec![
        Point::new(
            "peak memory in 8 bits, of one image",
            Some(INT8_GB),
            figures,
            missing("no figure decides"),
        )
        .reading(),
        Point::new(
            "the same, of several at once",
            Some(INT8_GB),
            vec![at_once],
            missing("neither a batch nor a size is stated"),
        )
        .reading(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::grounds::tests::grounds;

    #[test]
    fn weights_are_parameters_times_their_width() {
        // 2,567,463,684 + 817,720,320 + 83,653,863 = 3,468,837,867 weights.
        assert!((weights_gb(3_468_837_867, 2.0) - 6.938).abs() < 1e-3);
        assert!((weights_gb(3_468_837_867, 1.0) - 3.469).abs() < 1e-3);
    }

    #[test]
    fn twelve_gigabytes_are_more_than_one_image_takes() {
        let [point, several] = &w5(&grounds()).expect("a check")[..] else {
            panic!("two readings")
        };
        let names = [point.verdict.name(), several.verdict.name()];
        assert_eq!(names, ["contradicted", "not testable here"]);
        // 5.76 GB by plan: 4.4 of weights, 2.6 of them the int8 UNet's, and 1.3 of the VAE's tensors.
        let by = point.verdict.figure().expect("the plan's");
        assert!((by.value - 5.76).abs() < 0.02, "{by:?}");
        // sdxl-base-512-w8a8.txt: 6.61 GiB.
        let measured = point.figures.iter().find(|f| f.is_measured());
        assert!((measured.expect("the int8 run").value - 7.096).abs() < 1e-3);
        // sdxl-base-256-w8a8.md: the UNet takes 2,613,729,760 bytes, and 5,134,927,368 in its twin.
        let weights = |what: &str| {
            let figure = point.figures.iter().find(|f| f.what.starts_with(what));
            figure.expect("a validation").value
        };
        assert!((weights("the UNet's weights") - 2.6137).abs() < 1e-3);
        assert!((weights("saved of the bf16 UNet's weights") - 49.1).abs() < 0.1);
    }
}
