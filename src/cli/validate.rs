//! `darkroom validate`: an int8 model beside its unquantised twin, in a ledger that can be signed.

mod args;
mod assemble;
mod models;
mod plot;
mod prompts;
mod report;
mod side;

use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, bail};
use candle_core::Device;

use super::failure::{say, warn};
use super::interrupt::Interrupt;
use super::json_lines::JsonLines;
use super::plot::{self as pictures, Format};
use super::{stdout, threads, units, whole_file};
use crate::device;
use crate::error::{Error, Result};
use crate::forecast::{Forecast, Processor, fitting};
use crate::pipeline::{Pipeline, schedule};
use crate::quant::{Audit, Layers, Smoothing, audit};
use crate::request::{Precision, Request};
use crate::validate::ledger::{Ledger, Likeness, Pair};
use crate::validate::picture::{MIN_EDGE_PX, psnr_db, ssim, ssimulacra2};
use crate::validate::tape::{Compare, Keep, Tape};
use crate::weights::checkpoint::Component;
pub use args::Args;
use assemble::Found;
use models::{Models, Opened};
use side::{How, Side};

/// What can go wrong without the networks goes wrong before they are loaded. Nothing is written
/// unless both models ran to their end.
pub fn run(args: &Args) -> anyhow::Result<()> {
    threads::set(args.machine.threads)?;
    let thresholds = args.thresholds()?;
    check_files(args)?;
    let lines = JsonLines::begin(args.json.as_deref(), args.force)?;
    let prompts = prompts::read(args.prompts.as_deref(), args.count)?;
    let device = args.machine.device.open(warn)?;
    let precision = args.work.precision(&device);
    let models = Models::find(args, precision)?;
    if models.twin.checkpoint.is_synthetic() {
        warn("the weights are made up: memory and time are the model's, quality is not");
    }
    let requests = requests(args, &models, precision, &prompts)?;
    let forecasts = forecasts(&models, &requests[0], &device)?;
    let sampler = schedule(&models.twin.checkpoint, &requests[0])?.kind;
    let fingerprints = Pair {
        twin: models.twin.checkpoint.fingerprint()?,
        int8: models.int8.checkpoint.fingerprint()?,
    };

    let interrupt = Interrupt::install()?;
    let how = How {
        device: &device,
        interrupt: &interrupt,
        quiet: args.quiet,
    };
    let timestamp = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let measured = measure(how, &models, &requests, &forecasts)?;
    let ledger = Found {
        timestamp,
        device: device::name(&device),
        gpu: device::gpu(&device)?,
        sampler,
        fingerprints,
        prompts: prompts.len(),
        seeds: args.seeds,
        request: &requests[0],
        models: &models,
        forecasts,
        measured,
    }
    .ledger(&thresholds)?;
    write(args, lines, &ledger)?;
    let failed: Vec<String> = report::failures(&ledger);
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("thresholds not met: {}", failed.join("; ")),
    }
}

/// Refuses what could not be written at the end.
fn check_files(args: &Args) -> Result<()> {
    let files = [&args.json, &args.markdown, &args.plot].map(|file| file.as_deref());
    let files: Vec<&Path> = files.into_iter().flatten().collect();
    whole_file::check_distinct(&files)?;
    if let Some(path) = &args.plot {
        Format::of(path)?;
    }
    let mut drawn = [&args.markdown, &args.plot].into_iter().flatten();
    drawn.try_for_each(|path| whole_file::check(path, args.force))
}

/// The twin's runs: each prompt with each seed.
fn requests(
    args: &Args,
    models: &Models,
    precision: Precision,
    prompts: &[String],
) -> Result<Vec<Request>> {
    let size = args.size.unwrap_or(models.defaults.size);
    let last = args.work.seed.checked_add(args.seeds - 1);
    let Some(last) = last else {
        return Err(Error::Request(format!(
            "--seed {} with --seeds {} runs past the largest seed",
            args.work.seed, args.seeds
        )));
    };
    let name = &models.twin.name;
    let of = |prompt: &String| {
        let request = args
            .work
            .request(name, prompt, &models.defaults, size, precision);
        (args.work.seed..=last).map(move |seed| Request {
            seed,
            ..request.clone()
        })
    };
    let requests: Vec<Request> = prompts.iter().flat_map(of).collect();
    requests[0].validate()?;
    if size.height_px.min(size.width_px) < MIN_EDGE_PX {
        return Err(Error::Request(format!(
            "--size {}x{}: SSIM looks at {MIN_EDGE_PX}x{MIN_EDGE_PX} pixels",
            size.height_px, size.width_px
        )));
    }
    Ok(requests)
}

/// What both should take, refused where it does not fit: at the end, the twin beside the int8 layers.
fn forecasts(models: &Models, request: &Request, device: &Device) -> Result<Pair<Forecast>> {
    let processor = Processor::of(device);
    let free_bytes = device::free_bytes(device)?.unwrap_or(u64::MAX); // where nobody can tell
    let int8 = models.int8_request(request);
    let int8 = fitting(&models.int8.forecast, &int8, processor, free_bytes)?;
    let unet = int8.components.iter().find(|part| part.name == "unet");
    let left = free_bytes.saturating_sub(unet.map_or(0, |unet| unet.bytes));
    let twin = fitting(&models.twin.forecast, request, processor, left).map_err(|e| match e {
        Error::Memory(text) => {
            Error::Memory(format!("unquantised, beside the int8 layers: {text}"))
        }
        other => other,
    })?;
    Ok(Pair { twin, int8 })
}

/// Steps, at most, in which the layers are compared: their inputs from pure noise on.
const AUDIT_STEPS: usize = 4;

/// Everything measured.
struct Measured {
    sides: Pair<Side>,
    likenesses: Vec<Likeness>,
    audit: Audit,
    audit_steps: usize,
}

/// The twin's runs, then those in int8, then the layers: one model in memory at a time, but for the
/// int8 layers beside the twin at the end.
fn measure(
    how: How<'_>,
    models: &Models,
    requests: &[Request],
    forecasts: &Pair<Forecast>,
) -> anyhow::Result<Measured> {
    let mut tape = Tape::new()?;
    device::set_aside(how.device, forecasts.twin.needed_bytes())?;
    let (mut twin, pipeline) = load(how, &models.twin, &requests[0])?;
    for (i, request) in requests.iter().enumerate() {
        if request.seed == requests[0].seed {
            pipeline.prompt_cut(request)?.iter().for_each(warn);
        }
        let picture = twin.draw(how, &pipeline, request, &mut Keep(&mut tape))?;
        tape.keep(&picture)?;
        tell(how, "twin", i, requests.len(), &twin);
    }
    drop(pipeline);

    tape.rewind()?;
    let mut likenesses = Vec::with_capacity(requests.len());
    device::set_aside(how.device, forecasts.int8.needed_bytes())?;
    let (mut int8, pipeline) = load(how, &models.int8, &models.int8_request(&requests[0]))?;
    for (i, request) in requests.iter().enumerate() {
        let mut compare = Compare::new(&mut tape);
        let request = models.int8_request(request);
        let picture = int8.draw(how, &pipeline, &request, &mut compare)?;
        let drift = compare.drift;
        let of_twin = tape.picture_like(&picture)?;
        likenesses.push(Likeness {
            psnr_db: psnr_db(&of_twin, &picture),
            ssim: ssim(&of_twin, &picture),
            ssimulacra2: ssimulacra2(&of_twin, &picture)?,
            drift,
            prompt: request.prompt,
            seed: request.seed,
        });
        tell(how, "int8", i, requests.len(), &int8);
    }
    let one = Request {
        steps: requests[0].steps.min(AUDIT_STEPS),
        ..requests[0].clone()
    };
    let factors = Smoothing::read(models.int8.checkpoint.folder(Component::Unet)?)?;
    let layers = Layers::of(&pipeline, &models.int8_request(&one))?.smoothed(factors);
    drop(pipeline);

    how.interrupt.check()?;
    if !how.quiet {
        say("layers, each beside its twin");
    }
    let (_, pipeline) = load(how, &models.twin, &one)?;
    let audit = audit(&pipeline, &layers, &one)?;
    how.interrupt.check()?;
    Ok(Measured {
        sides: Pair { twin, int8 },
        likenesses,
        audit,
        audit_steps: one.steps,
    })
}

fn load(how: How<'_>, model: &Opened, request: &Request) -> anyhow::Result<(Side, Pipeline)> {
    side::load(how, &model.checkpoint, request.precision)
        .with_context(|| format!("model `{}`", model.name))
}

fn tell(how: How<'_>, which: &str, run: usize, runs: usize, side: &Side) {
    if !how.quiet {
        let ms = side.totals_ms().last().copied().unwrap_or(0.0);
        say(&format!(
            "{which} {} of {runs}: {}",
            run + 1,
            units::time(ms)
        ));
    }
}

/// Prints the ledger and writes its files.
fn write(args: &Args, mut lines: JsonLines, ledger: &Ledger) -> anyhow::Result<()> {
    let blocks = report::blocks(ledger);
    if !lines.to_stdout() {
        stdout::bytes(report::text(&blocks).as_bytes())?;
    }
    lines.push(ledger)?;
    if let Some(path) = &args.markdown {
        whole_file::write(path, args.force, report::markdown(&blocks).as_bytes())?;
    }
    match &args.plot {
        Some(path) => {
            let picture = pictures::bytes(&plot::Picture(ledger), Format::of(path)?)?;
            Ok(whole_file::write(path, args.force, &picture)?)
        }
        None => Ok(()),
    }
}
