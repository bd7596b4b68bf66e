//! `darkroom plan`: what a run takes, from the model's configs alone.

mod args;
mod report;
mod table;

use crate::device::precision;
use crate::error::{Error, Result};
use crate::forecast::device::{Device, GPUS};
use crate::forecast::{Model, forecast, largest_batch, ways_out};
use crate::request::{Dtype, Precision, Request};

use super::failure::warn;
use super::{model, models, stdout, threads};
pub use args::Args;
use args::{Batch, Place};
use report::{Fit, Report};

/// Prints the plan; that a run does not fit is an answer, not a failure.
pub fn run(args: &Args) -> anyhow::Result<()> {
    threads::set(args.threads)?;
    let manifest = models::manifest(args.weights.as_deref())?;
    let found = model::find(manifest, &args.model)?;
    let here = match args.device {
        Place::Here(choice) => choice.open(warn)?,
        Place::Gpu(_) | Place::All => candle_core::Device::Cpu,
    };
    let types = match args.device {
        Place::Gpu(_) => Precision::all(Dtype::F16),
        Place::Here(_) | Place::All => precision(&here),
    };
    let mut request = args.request(found.name(), &found.defaults()?, types);
    request.validate()?;
    let half = request.precision.vae == Dtype::F16;
    let model = Model::of(&found.configs(half)?)?;
    let devices = devices(args, &here)?;
    if args.batch == Batch::Auto {
        request.count = auto(&model, &request, &devices)?;
    }
    let fits = devices
        .into_iter()
        .map(|device| fit(&model, &request, device))
        .collect::<Result<Vec<_>>>()?;
    match args.json {
        true => stdout::json(&Report::new(&request, &fits)),
        false => stdout::bytes(table::text(&request, &fits).as_bytes()),
    }
}

/// The devices asked for, with the memory that was typed if one was.
fn devices(args: &Args, here: &candle_core::Device) -> Result<Vec<Device>> {
    let mut devices = match &args.device {
        Place::Here(_) => vec![Device::here(here)?],
        Place::All => std::iter::once(Device::this_cpu())
            .chain(GPUS.iter().cloned())
            .collect(),
        Place::Gpu(device) => vec![(**device).clone()],
    };
    for device in &mut devices {
        if let Some(bytes) = args.memory {
            device.memory_bytes = bytes.0;
        } else if device.memory_bytes == 0 {
            return Err(Error::Device {
                device: device.name.to_string(),
                problem: "its free memory is not known here: give --memory".into(),
            });
        }
    }
    Ok(devices)
}

/// The largest batch that fits on the device, at least one image.
fn auto(model: &Model, request: &Request, devices: &[Device]) -> Result<usize> {
    let [device] = devices else {
        let text = "--batch auto asks for one device: name it by --device";
        return Err(Error::Request(text.into()));
    };
    Ok(largest_batch(model, request, device.processor, device.memory_bytes)?.max(1))
}

/// How the run does on a device.
fn fit(model: &Model, request: &Request, device: Device) -> Result<Fit> {
    let processor = device.processor;
    let forecast = forecast(model, request, processor)?;
    let fits = forecast.needed_bytes() <= device.memory_bytes;
    let ways_out = match fits {
        true => Vec::new(),
        false => ways_out(model, request, processor)?,
    };
    Ok(Fit {
        fits,
        largest_batch: largest_batch(model, request, processor, device.memory_bytes)?,
        forecast,
        ways_out,
        device,
    })
}
