//! The record that `--json` prints.

use serde::Serialize;

use crate::claims::advise::calibration::{self, NOTES};
use crate::claims::advise::{self, Workload};
use crate::claims::published::{MLPERF_H200_JOULES, MLPERF_POWER};

/// Form of the record; raised when a reader could misread it.
const SCHEMA: u32 = 2;

/// An advice.
#[derive(Serialize)]
pub struct Record<'a> {
    schema: u32,
    version: &'static str,
    model: &'a str,
    images_per_day: f64,
    height_px: usize,
    width_px: usize,
    steps: usize,
    guidance: f64,
    latency_s: Option<f64>,
    cheapest: Option<Choice<'a>>,
    fastest: Option<Choice<'a>>,
    offers: Vec<Offer<'a>>,
    calibrations: Vec<Calibration<'a>>,
    notes: [&'static str; NOTES.len()],
    published_energy: Energy,
}

#[derive(Serialize)]
struct Choice<'a> {
    device: &'a str,
    precision: &'static str,
}

#[derive(Serialize)]
struct Offer<'a> {
    device: &'a str,
    precision: &'static str,
    dollars_per_hour: f64,
    price_source: &'a str,
    peak_bytes: u64,
    memory_bytes: u64,
    largest_batch: usize,
    bound_s: f64,
    latency_s: f64,
    useful_batch: usize,
    useful_batch_s: f64,
    gain_at_limits: f64,
    images_per_s: f64,
    dollars_per_image: f64,
    board_watts: f64,
    board_joules_per_image_at_tdp: f64,
    gpus: usize,
    dollars_per_day: f64,
    satisfies: bool,
}

#[derive(Serialize)]
struct Calibration<'a> {
    precision: &'static str,
    factor: f64,
    largest_left_out_error: f64,
    anchors: Vec<Anchor<'a>>,
}

#[derive(Serialize)]
struct Anchor<'a> {
    device: &'a str,
    what: &'a str,
    source: &'a str,
    steps: usize,
    forecast_batch: usize,
    published_s: f64,
    forecast_s: f64,
    raw_error: f64,
    left_out_error: Option<f64>,
    fitted_error: f64,
}

#[derive(Serialize)]
struct Energy {
    joules_per_image: f64,
    source: &'static str,
}

impl<'a> Record<'a> {
    /// The record of an advice.
    pub fn new(
        workload: &'a Workload,
        advice: &'a advise::Advice,
        calibrations: &'a [calibration::Calibration],
    ) -> Self {
        let choice = |offer: &'a advise::Offer| Choice {
            device: &offer.device.name,
            precision: offer.precision.name(),
        };
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            model: &workload.model,
            images_per_day: workload.images_a_day,
            height_px: workload.size.height_px,
            width_px: workload.size.width_px,
            steps: workload.steps,
            guidance: workload.guidance,
            latency_s: workload.latency_s,
            cheapest: advice.cheapest().map(choice),
            fastest: advice.fastest().map(choice),
            offers: advice.offers.iter().map(Offer::new).collect(),
            calibrations: calibrations.iter().map(Calibration::new).collect(),
            notes: NOTES,
            published_energy: Energy {
                joules_per_image: MLPERF_H200_JOULES,
                source: MLPERF_POWER,
            },
        }
    }
}

impl<'a> Offer<'a> {
    fn new(offer: &'a advise::Offer) -> Self {
        Self {
            device: &offer.device.name,
            precision: offer.precision.name(),
            dollars_per_hour: offer.cost.dollars_per_hour,
            price_source: offer.cost.source,
            peak_bytes: offer.peak_bytes,
            memory_bytes: offer.device.memory_bytes,
            largest_batch: offer.largest_batch,
            bound_s: offer.bound_s,
            latency_s: offer.latency_s,
            useful_batch: offer.batch,
            useful_batch_s: offer.batch_s,
            gain_at_limits: offer.gain,
            images_per_s: offer.images_per_s,
            dollars_per_image: offer.dollars_per_image,
            board_watts: offer.cost.watts,
            board_joules_per_image_at_tdp: offer.joules_at_tdp,
            gpus: offer.gpus,
            dollars_per_day: offer.dollars_a_day(),
            satisfies: offer.satisfies,
        }
    }
}

impl<'a> Calibration<'a> {
    fn new(calibration: &'a calibration::Calibration) -> Self {
        let anchors = calibration.checked.iter().map(|checked| Anchor {
            device: checked.anchor.device,
            what: checked.anchor.what,
            source: checked.anchor.source,
            steps: checked.anchor.steps,
            forecast_batch: checked.anchor.batch,
            published_s: checked.anchor.seconds,
            forecast_s: checked.forecast_s,
            raw_error: checked.raw_error,
            left_out_error: checked.left_out_error,
            fitted_error: checked.fitted_error,
        });
        Self {
            precision: calibration.precision.name(),
            factor: calibration.factor,
            largest_left_out_error: calibration.largest_error(),
            anchors: anchors.collect(),
        }
    }
}
