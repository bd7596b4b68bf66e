//! Which GPU for a workload: forecast time and memory, calibrated on public figures, and prices.
//!
//! ```text
//! workload → forecast by batch → bound at a device's limits × calibration → seconds
//!          → memory fit, useful batch → images/s → dollars, joules, GPUs
//! ```

pub mod calibration;
pub mod prices;

use crate::error::Result;
use crate::forecast::device::{Device, GPUS};
use crate::forecast::{Forecast, Model, Processor, forecast, largest_batch};
use crate::request::{Precision, Request, Size};

use super::grounds::{HALF, INT8, bound_s};
use super::published::{MLPERF_BATCH, MLPERF_BATCH_SHARE};
use calibration::Calibration;
use prices::{Cost, cost};

/// Batches that are looked at.
const BATCHES: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Seconds of a day.
pub const DAY_S: f64 = 86_400.0;
/// Seconds of an hour.
pub const HOUR_S: f64 = 3600.0;

/// What the UNet computes in; text encoders and VAE are in half precision with both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arithmetic {
    /// bfloat16.
    Half,
    /// int8 weights and activations.
    W8a8,
}

impl Arithmetic {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Half, Self::W8a8];

    /// `half`, `w8a8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Half => "half",
            Self::W8a8 => "w8a8",
        }
    }

    /// As a request has it.
    pub fn precision(self) -> Precision {
        match self {
            Self::Half => HALF,
            Self::W8a8 => INT8,
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Workload {
    /// As the request calls it.
    pub model: String,
    /// Images a day, spread evenly.
    pub images_a_day: f64,
    /// Of an image.
    pub size: Size,
    /// Denoising steps.
    pub steps: usize,
    /// Guidance scale; off at 1 and below.
    pub guidance: f64,
    /// Seconds that a request may take, the others in its batch included.
    pub latency_s: Option<f64>,
    /// What the UNet may compute in.
    pub precisions: Vec<Arithmetic>,
    /// Dollars an hour in the place of the table's, by device.
    pub prices: Vec<(String, f64)>,
}

impl Default for Workload {
    /// A million SDXL images a day at 1024×1024, 30 guided steps.
    fn default() -> Self {
        Self {
            model: "synthetic:sdxl-base".into(),
            images_a_day: 1e6,
            size: Size {
                height_px: 1024,
                width_px: 1024,
            },
            steps: 30,
            guidance: 5.0,
            latency_s: None,
            precisions: Arithmetic::ALL.to_vec(),
            prices: Vec::new(),
        }
    }
}

impl Workload {
    fn request(&self, precision: Arithmetic, batch: usize) -> Request {
        Request {
            count: batch,
            precision: precision.precision(),
            ..Request::new(&self.model, "", self.size, self.steps, self.guidance)
        }
    }
}

/// A device in a precision.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Which.
    pub device: Device,
    /// What the UNet computes in.
    pub precision: Arithmetic,
    /// Price and power.
    pub cost: Cost,
    /// Memory of one image, in bytes.
    pub peak_bytes: u64,
    /// Images at once that memory holds; 0: not one.
    pub largest_batch: usize,
    /// Seconds of one image alone at the device's limits.
    pub bound_s: f64,
    /// The same, calibrated.
    pub latency_s: f64,
    /// Images at once that are worth it: no more than arrive, and else 8 where MLPerf's results are asked.
    pub batch: usize,
    /// Seconds of that batch, calibrated.
    pub batch_s: f64,
    /// By batches of that size.
    pub images_per_s: f64,
    /// Their throughput over that of one image at a time, at the device's limits.
    pub gain: f64,
    /// At full load.
    pub dollars_per_image: f64,
    /// At full load, of the board at its full power (TDP); its host is not counted.
    pub joules_at_tdp: f64,
    /// That make the workload.
    pub gpus: usize,
    /// Whether one image fits and is within the latency asked for.
    pub satisfies: bool,
}

impl Offer {
    /// All GPUs for a day.
    pub fn dollars_a_day(&self) -> f64 {
        self.gpus as f64 * 24.0 * self.cost.dollars_per_hour
    }
}

/// All offers.
#[derive(Clone, Debug)]
pub struct Advice {
    /// In the order of the device table.
    pub offers: Vec<Offer>,
}

impl Advice {
    fn least(&self, of: impl Fn(&Offer) -> f64) -> Option<&Offer> {
        let offers = self.offers.iter().filter(|offer| offer.satisfies);
        offers.min_by(|a, b| of(a).total_cmp(&of(b)))
    }

    /// Of those that satisfy the workload, the one with the smallest bill: whole GPUs are paid.
    pub fn cheapest(&self) -> Option<&Offer> {
        self.least(Offer::dollars_a_day)
    }

    /// The one whose image alone is done first.
    pub fn fastest(&self) -> Option<&Offer> {
        self.least(|offer| offer.latency_s)
    }
}

/// Every device of the table in every precision that the workload allows.
///
/// # Errors
/// A request that the model cannot run.
pub fn advise(model: &Model, workload: &Workload, calibrations: &[Calibration]) -> Result<Advice> {
    let mut offers = Vec::new();
    for &precision in &workload.precisions {
        let by_batch = BATCHES.map(|batch| {
            let forecast = forecast(model, &workload.request(precision, batch), Processor::Gpu);
            Ok((batch, forecast?))
        });
        let by_batch = by_batch.into_iter().collect::<Result<Vec<_>>>()?;
        let calibration = calibrations.iter().find(|c| c.precision == precision);
        let factor = calibration.map_or(1.0, |calibration| calibration.factor);
        for device in &GPUS {
            let request = workload.request(precision, 1);
            let largest = largest_batch(model, &request, Processor::Gpu, device.memory_bytes)?;
            offers.push(offer(
                workload, precision, device, &by_batch, factor, largest,
            ));
        }
    }
    let place = |offer: &Offer| GPUS.iter().position(|gpu| gpu.name == offer.device.name);
    offers.sort_by_key(|offer| (place(offer), offer.precision));
    Ok(Advice { offers })
}

fn offer(
    workload: &Workload,
    precision: Arithmetic,
    device: &Device,
    by_batch: &[(usize, Forecast)],
    factor: f64,
    largest_batch: usize,
) -> Offer {
    let times: Vec<(usize, f64)> = by_batch
        .iter()
        .map(|(batch, forecast)| (*batch, bound_s(forecast, device)))
        .collect();
    let (_, bound) = times[0];
    let within = |&&(batch, bound): &&(usize, f64)| {
        let in_time = workload.latency_s.is_none_or(|most| factor * bound <= most);
        batch <= largest_batch && in_time
    };
    let possible: Vec<(usize, f64)> = times.iter().filter(within).copied().collect();
    let arrivals_per_s = workload.images_a_day / DAY_S;
    let (batch, batch_bound) = useful(&possible, factor, arrivals_per_s).unwrap_or(times[0]);
    let batch_s = factor * batch_bound;
    let images_per_s = batch as f64 / batch_s;
    let typed = workload
        .prices
        .iter()
        .rev()
        .find(|(name, _)| device.name == *name);
    let cost = cost(&device.name, typed.map(|(_, price)| *price));
    Offer {
        precision,
        peak_bytes: by_batch[0].1.peak().memory.peak,
        largest_batch,
        bound_s: bound,
        latency_s: factor * bound,
        batch,
        batch_s,
        images_per_s,
        gain: batch as f64 * bound / batch_bound,
        dollars_per_image: cost.dollars_per_hour / HOUR_S / images_per_s,
        joules_at_tdp: cost.watts / images_per_s,
        gpus: (workload.images_a_day / DAY_S / images_per_s).ceil() as usize,
        satisfies: !possible.is_empty(),
        device: device.clone(),
        cost,
    }
}

/// Of batches and their seconds at a device's limits, the smallest with which one GPU keeps up with
/// arrivals: more images than that do not wait at once. Where none does, the smallest that has 94 % of
/// the best throughput. At a device's limits one image has that; real devices were measured to need
/// eight ([`MLPERF_BATCH`]), so no smaller one is taken where eight can be had.
fn useful(possible: &[(usize, f64)], factor: f64, arrivals_per_s: f64) -> Option<(usize, f64)> {
    let rate = |&(batch, seconds): &(usize, f64)| batch as f64 / seconds;
    let best = possible.iter().map(rate).fold(0.0, f64::max);
    let keeps_up = |at: &&(usize, f64)| rate(at) / factor >= arrivals_per_s;
    let enough = |at: &&(usize, f64)| at.0 >= MLPERF_BATCH && rate(at) >= MLPERF_BATCH_SHARE * best;
    let mut batches = possible.iter();
    let of = batches.clone().find(keeps_up);
    of.or_else(|| batches.find(enough))
        .or(possible.last())
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::grounds::tests::grounds;

    fn calibration(precision: Arithmetic, factor: f64) -> Calibration {
        Calibration {
            precision,
            factor,
            checked: Vec::new(),
        }
    }

    #[test]
    fn the_useful_batch_is_the_smallest_with_nearly_all_of_the_throughput() {
        let useful = |possible: &[_]| useful(possible, 2.0, 100.0);
        // 8 images in 9 s are 0.889 a second, 95 % of 64 in 68.4 s (0.936).
        assert_eq!(useful(&[(1, 1.2), (8, 9.0), (64, 68.4)]), Some((8, 9.0)));
        // 8 in 10 s are 85 % of it.
        assert_eq!(useful(&[(1, 1.5), (8, 10.0), (64, 68.4)]), Some((64, 68.4)));
        assert_eq!(useful(&[(1, 1.0), (4, 4.0)]), Some((4, 4.0)));
        assert_eq!(useful(&[]), None);
    }

    #[test]
    fn no_more_images_are_batched_than_arrive() {
        let batches = [(1, 1.0), (2, 1.6), (8, 5.0)];
        // Calibrated twice as long: 0.5, 0.625 and 0.8 images a second.
        for (arrivals_per_s, batch) in [(0.001, 1), (0.5, 1), (0.6, 2), (0.7, 8), (10.0, 8)] {
            let found = useful(&batches, 2.0, arrivals_per_s).expect("one is possible");
            assert_eq!(found.0, batch, "{arrivals_per_s}");
        }
    }

    #[test]
    fn an_offer_is_arithmetic_on_its_time() {
        let workload = Workload {
            prices: vec![("h100".into(), 1.0), ("h100".into(), 7.2)],
            precisions: vec![Arithmetic::Half],
            ..Workload::default()
        };
        let twice = [calibration(Arithmetic::Half, 2.0)];
        let advice = advise(grounds().model(), &workload, &twice).expect("a forecast");
        assert_eq!(advice.offers.len(), GPUS.len());
        let h100 = &advice.offers[0];
        assert_eq!(h100.latency_s, 2.0 * h100.bound_s);
        let seconds = 1.0 / h100.images_per_s;
        // The last price typed counts: 7.2 / 3600 = 0.002 dollars a second; 700 W.
        assert!((h100.dollars_per_image - 0.002 * seconds).abs() < 1e-12);
        assert!((h100.joules_at_tdp - 700.0 * seconds).abs() < 1e-9);
        // 10⁶ images in 86,400 s: 11.57 a second.
        assert_eq!(h100.gpus, (11.574_074_074 * seconds).ceil() as usize);
        assert_eq!(h100.dollars_a_day(), h100.gpus as f64 * 172.8);
        assert!((h100.batch, h100.gain >= 1.0) == (8, true));
    }

    #[test]
    fn a_latency_bound_leaves_out_what_is_slower() {
        let calibrations = Arithmetic::ALL.map(|precision| calibration(precision, 1.0));
        let advised = |latency_s| {
            let workload = Workload {
                latency_s: Some(latency_s),
                ..Workload::default()
            };
            advise(grounds().model(), &workload, &calibrations).expect("a forecast")
        };
        let fast = advised(0.5);
        let left = fast.offers.iter().filter(|offer| offer.satisfies);
        assert!(left.clone().count() > 0 && left.clone().count() < fast.offers.len());
        assert!(
            left.clone()
                .all(|offer| offer.latency_s <= 0.5 && offer.batch_s <= 0.5)
        );
        assert!(fast.fastest().expect("one").device.name == "b200");
        assert!(advised(0.001).cheapest().is_none());
    }
}
