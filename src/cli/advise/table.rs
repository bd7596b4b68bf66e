//! The advice as people read it.

use crate::claims::advise::calibration::{Calibration, NOTES};
use crate::claims::advise::{Advice, Offer, Workload};
use crate::claims::published::{MLPERF_H200_JOULES, MLPERF_POWER};
use crate::cli::units::{bytes, change, columns, digits, or_nothing, percent, time};

/// All of it.
pub fn text(workload: &Workload, advice: &Advice, calibrations: &[Calibration]) -> String {
    let parts = [
        heading(workload),
        columns(&offers(advice)),
        choices(advice),
        sources(advice),
        calibration(calibrations),
    ];
    parts.join("\n")
}

fn heading(workload: &Workload) -> String {
    let Workload {
        model,
        images_a_day,
        size,
        steps,
        guidance,
        latency_s,
        ..
    } = workload;
    let within = latency_s.map_or_else(String::new, |s| format!(", each within {s} s"));
    format!(
        "{model}: {images_a_day} images a day of {}x{} (height x width), {steps} steps, guidance \
         {guidance}{within}\n",
        size.height_px, size.width_px
    )
}

fn offers(advice: &Advice) -> Vec<Vec<String>> {
    let head = [
        "device",
        "UNet",
        "$/h",
        "memory",
        "at once",
        "one image",
        "bound",
        "batch",
        "gain",
        "batch takes",
        "images/s",
        "$/1000",
        "J at TDP",
        "GPUs",
        "$/day",
        "will do",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    rows.extend(advice.offers.iter().map(row));
    rows
}

fn row(offer: &Offer) -> Vec<String> {
    vec![
        offer.device.name.to_string(),
        offer.precision.name().into(),
        format!("{:.2}", offer.cost.dollars_per_hour),
        bytes(offer.peak_bytes),
        offer.largest_batch.to_string(),
        time(1e3 * offer.latency_s),
        time(1e3 * offer.bound_s),
        offer.batch.to_string(),
        change(offer.gain - 1.0),
        time(1e3 * offer.batch_s),
        digits(offer.images_per_s),
        format!("{:.3}", 1e3 * offer.dollars_per_image),
        digits(offer.joules_at_tdp),
        offer.gpus.to_string(),
        digits(offer.dollars_a_day()),
        if offer.satisfies { "yes" } else { "no" }.into(),
    ]
}

fn choices(advice: &Advice) -> String {
    let choice = |which, offer: Option<&Offer>| {
        or_nothing(offer, |offer| {
            format!(
                "{which}: {} in {}, {} of them, {} an image alone, ${:.5} an image, ${} a day\n",
                offer.device.name,
                offer.precision.name(),
                offer.gpus,
                time(1e3 * offer.latency_s),
                offer.dollars_per_image,
                digits(offer.dollars_a_day())
            )
        })
    };
    choice("cheapest", advice.cheapest()) + &choice("fastest", advice.fastest())
}

fn sources(advice: &Advice) -> String {
    let mut lines: Vec<(&str, Vec<&str>)> = Vec::new();
    for offer in &advice.offers {
        let (source, name) = (offer.cost.source, offer.device.name.as_ref());
        match lines.iter_mut().find(|(known, _)| *known == source) {
            Some((_, names)) if names.contains(&name) => {}
            Some((_, names)) => names.push(name),
            None => lines.push((source, vec![name])),
        }
    }
    let prices = lines
        .iter()
        .map(|(source, names)| format!("{}: {source}\n", names.join(", ")));
    format!(
        "prices an hour\n{}joules: at most, by the board's full power (TDP) for the whole time; \
         published: {MLPERF_H200_JOULES} J an image at the wall ({MLPERF_POWER})\n",
        prices.collect::<String>()
    )
}

fn calibration(calibrations: &[Calibration]) -> String {
    let mut rows = vec![
        [
            "public figure",
            "UNet",
            "published",
            "forecast",
            "error",
            "by the others",
            "by all",
        ]
        .map(String::from)
        .to_vec(),
    ];
    for calibration in calibrations {
        rows.extend(calibration.checked.iter().map(|checked| {
            let anchor = &checked.anchor;
            vec![
                format!(
                    "{}, {} steps, {} ({})",
                    anchor.device, anchor.steps, anchor.what, anchor.source
                ),
                anchor.precision.name().into(),
                time(1e3 * anchor.seconds),
                time(1e3 * checked.forecast_s),
                change(checked.raw_error),
                or_nothing(checked.left_out_error, change),
                change(checked.fitted_error),
            ]
        }));
    }
    let mut out = columns(&rows);
    for calibration in calibrations {
        out += &format!(
            "{}: forecasts times {:.2}; a figure forecast by the others is off by up to {}\n",
            calibration.precision.name(),
            calibration.factor,
            percent(calibration.largest_error())
        );
    }
    for note in NOTES {
        out += &format!("{note}\n");
    }
    out
}
