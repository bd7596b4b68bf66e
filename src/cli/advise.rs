//! `darkroom advise`: which GPU for a workload, by forecast and price.

mod args;
pub mod plot;
mod record;
mod table;

use anyhow::bail;

use super::plot::{Format, bytes};
use super::{model, models, stdout, whole_file};
use crate::claims::advise::calibration::calibrations;
use crate::claims::advise::{Advice, Workload, advise};
use crate::forecast::Model;
use crate::forecast::device::GPUS;
pub use args::Args;

/// Prints the advice; that nothing satisfies the workload is a failure.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(path) = &args.plot {
        Format::of(path)?;
        whole_file::check(path, args.force)?;
    }
    let manifest = models::manifest(args.weights.as_deref())?;
    let found = model::find(manifest, &args.model)?;
    let workload = args.workload(found.name(), &found.defaults()?);
    let model = Model::of(&found.configs(false)?)?;
    let mut calibrations = calibrations()?;
    calibrations.retain(|c| workload.precisions.contains(&c.precision));
    let advice = advise(&model, &workload, &calibrations)?;
    if advice.cheapest().is_none() {
        bail!(unsatisfied(&advice, &workload));
    }
    if let Some(path) = &args.plot {
        let picture = bytes(&plot::Costs(&advice), Format::of(path)?)?;
        whole_file::write(path, args.force, &picture)?;
    }
    match args.json {
        true => stdout::json(&record::Record::new(&workload, &advice, &calibrations)),
        false => {
            let text = table::text(&workload, &advice, &calibrations);
            stdout::bytes(text.as_bytes())
        }
    }
}

/// Why no device will do, and what comes nearest.
fn unsatisfied(advice: &Advice, workload: &Workload) -> String {
    let fitting = advice.offers.iter().filter(|offer| offer.largest_batch > 0);
    let fastest = fitting.min_by(|a, b| a.latency_s.total_cmp(&b.latency_s));
    match (fastest, workload.latency_s) {
        (Some(offer), Some(most)) => format!(
            "no device of the table makes an image in {most} s: the fastest, {} in {}, takes {:.2} s; \
             fewer --steps, a smaller --size or --precision w8a8 take less",
            offer.device.name,
            offer.precision.name(),
            offer.latency_s
        ),
        _ => {
            let most = GPUS.iter().map(|gpu| gpu.memory_bytes).max().unwrap_or(0);
            format!(
                "an image of {}x{} fits on no device of the table: the largest has {}",
                workload.size.height_px,
                workload.size.width_px,
                super::units::bytes(most)
            )
        }
    }
}
