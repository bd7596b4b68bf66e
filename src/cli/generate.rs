//! `darkroom generate`: a prompt becomes an image.

mod args;
mod latents;
mod output;
mod plan;
mod record;

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::config::VaeConfig;
use crate::device;
use crate::error::{Error, Result};
use crate::forecast::{Model, Processor, fitting, largest_batch};
use crate::image_file::{LatentsFile, Receipt, encode_png, read_init_image, read_receipt};
use crate::measure::timer::StageTimer;
use crate::observe::Observer;
use crate::pipeline::{Pipeline, Start, schedule};
use crate::request::{Dtype, Precision, Request};
use crate::weights::checkpoint::{Checkpoint, Component};
use anyhow::Context;
use candle_core::Device;
use image::RgbImage;

use super::dump::Dump;
use super::failure::{say, warn};
use super::interrupt::Interrupt;
use super::{model, models, progress, stdout, threads, whole_file};
use args::Count;
pub use args::{Args, quant, scheduler};
use latents::Noise;
use record::{File, Record};

/// What can go wrong without the networks goes wrong before they are loaded.
pub fn run(args: Args) -> anyhow::Result<()> {
    let began = Instant::now();
    threads::set(args.threads)?;
    let receipt = args.from.as_deref().map(read_receipt).transpose()?;
    let manifest = models::manifest(args.weights.as_deref())?;
    let found = model::find(manifest, plan::model_name(&args, receipt.as_ref()))?;
    let name = found.name().to_owned();
    let mut request = plan::request(&args, receipt.as_ref(), &name, || found.defaults())?;
    let noise = noise(&args, receipt.as_ref(), &mut request)?;
    let init_image = init_image(&mut request)?;
    let paths = output::paths(args.output.as_deref(), &request, args.force)?;
    if let Some(path) = &args.dump {
        output::check_dump(path, &paths, args.force)?;
    }
    let device = args.device.open(warn)?;
    device::check_cuda_graph(&device, args.cuda_graph)?;
    let device_name = device::name(&device);
    if args.dtype.is_none() && receipt.is_none() {
        request.precision = Precision {
            quant: request.precision.quant,
            ..device::precision(&device)
        };
    }

    let half = request.precision.vae == Dtype::F16;
    let checkpoint = found.checkpoint(half, args.offline, args.quiet)?;
    if checkpoint.is_synthetic() {
        warn("the weights are made up: time and memory are the model's, the picture is noise");
    }
    let vae = VaeConfig::load(checkpoint.folder(Component::Vae)?)?;
    request.latent_size(vae.factor())?;
    if let Some((path, _, noise)) = &noise {
        noise.fits(path, &request, &vae)?;
    }
    let needed_bytes = fit(&args, &checkpoint, &device, &mut request)?;
    // The count may be another one now.
    output::paths(args.output.as_deref(), &request, args.force)?;
    let sampler = schedule(&checkpoint, &request)?.kind;
    let fingerprint = checkpoint.fingerprint()?;
    if let Some(receipt) = &receipt {
        compare(receipt, &device_name, &fingerprint);
    }

    let interrupt = Interrupt::install()?;
    let mut timer = StageTimer::default();
    let mut dump = args.dump.as_ref().map(|_| Dump::default());
    let mut observers: Vec<Box<dyn Observer + '_>> = vec![
        Box::new(interrupt.clone()),
        Box::new(&mut timer),
        progress::observer(args.quiet),
    ];
    if let Some(dump) = &mut dump {
        observers.push(Box::new(dump));
    }
    if !args.quiet {
        say(&announcement(&request));
    }
    device::set_aside(&device, needed_bytes)?;
    let pipeline = Pipeline::load(&checkpoint, request.precision, &device, &mut observers)
        .and_then(|pipeline| pipeline.with_cuda_graph(args.cuda_graph))
        .with_context(|| format!("model `{}`", request.model))?;
    pipeline.prompt_cut(&request)?.iter().for_each(warn);
    let latents = noise.as_ref().map(|(_, _, noise)| noise.latents.clone());
    let images = pipeline.generate(
        &request,
        Start {
            latents,
            init_image,
        },
        &mut observers,
    )?;
    drop(observers);
    interrupt.check()?;

    let mut receipts = (0..images.len())
        .map(|i| Receipt {
            model_fingerprint: Some(fingerprint.clone()),
            ..Receipt::of_image(&request, i, &device_name, sampler)
        })
        .collect::<Vec<_>>();
    if let Some((path, first, noise)) = &noise {
        for (row, receipt) in (*first..).zip(&mut receipts) {
            let (path, sha256) = (path.clone(), noise.sha256.clone());
            receipt.latents = Some(LatentsFile { path, sha256, row });
        }
    }
    // Asked again: another run may have taken a name in the meantime.
    let paths = output::paths(args.output.as_deref(), &request, args.force)?;
    let files = write(&images, &receipts, &paths, args.force)?;
    if let (Some(dump), Some(path)) = (&dump, &args.dump) {
        dump.write(path, args.force)?;
    }
    if args.json {
        let total_ms = began.elapsed().as_secs_f64() * 1e3;
        let record = Record::new(&request, sampler, device_name, &timer, total_ms, files);
        return stdout::json(&record);
    }
    paths
        .iter()
        .try_for_each(|path| stdout::line(path.display().to_string()))
}

/// Images that `--count auto` makes where memory allows: below the least there is one at a time.
const AUTO_COUNT: std::ops::RangeInclusive<usize> = 4..=64;

/// Takes the count from free memory where `auto` was typed; refuses a run that memory cannot hold. The bytes that it
/// needs; 0 where nobody can tell what is free.
fn fit(
    args: &Args,
    checkpoint: &Checkpoint,
    device: &Device,
    request: &mut Request,
) -> Result<u64> {
    let Some(free_bytes) = device::free_bytes(device)? else {
        return Ok(0);
    };
    let model = Model::of(checkpoint)?;
    let processor = Processor::of(device);
    if args.count == Some(Count::Auto) {
        let most = largest_batch(&model, request, processor, free_bytes)?;
        request.count = match most < *AUTO_COUNT.start() {
            true => 1,
            false => most.min(*AUTO_COUNT.end()),
        };
        request.validate()?;
    }
    let forecast = fitting(&model, request, processor, free_bytes)?;
    Ok(forecast.needed_bytes())
}

/// File, first row and noise of `--latents` or of the receipt; its rows set a count that was not
/// typed.
fn noise(
    args: &Args,
    receipt: Option<&Receipt>,
    request: &mut Request,
) -> Result<Option<(PathBuf, usize, Noise)>> {
    if let Some(path) = &args.latents {
        if args.count == Some(Count::Auto) {
            let text =
                "--count auto beside --latents: the file's rows are the images, leave it out";
            return Err(Error::Request(text.into()));
        }
        let noise = Noise::read(path)?;
        if args.count.is_none() {
            request.count = noise.rows();
            request.validate()?;
        }
        return Ok(Some((path.clone(), 0, noise)));
    }
    // A seed typed beside --from asks for other noise than the file's.
    let Some(file) = receipt
        .and_then(|r| r.latents.as_ref())
        .filter(|_| args.seed.is_none())
    else {
        return Ok(None);
    };
    let noise = Noise::read(&file.path).map_err(|e| wanted(e, "--latents"))?;
    if noise.sha256 != file.sha256 {
        return Err(wanted(changed(&file.path), "--latents"));
    }
    Ok(Some((
        file.path.clone(),
        file.row,
        noise.only(&file.path, file.row)?,
    )))
}

/// The initial image at the request's size. Its hash goes into the request; a hash that is there
/// already must be the file's.
fn init_image(request: &mut Request) -> Result<Option<RgbImage>> {
    let (width, height) = (request.width_px, request.height_px);
    let Some(init) = &mut request.init_image else {
        return Ok(None);
    };
    let of_receipt = !init.sha256.is_empty();
    let picture = read_init_image(&init.path).map_err(|e| match of_receipt {
        true => wanted(e, "--init-image"),
        false => e,
    })?;
    if of_receipt && init.sha256 != picture.sha256 {
        return Err(wanted(changed(&init.path), "--init-image"));
    }
    init.sha256 = picture.sha256.clone();
    let (from_width, from_height) = picture.image.dimensions();
    if from_width as usize * height != from_height as usize * width {
        warn(format_args!(
            "the initial image of {from_width}x{from_height} is stretched to {width}x{height} \
             (width x height)"
        ));
    }
    picture.resized(width, height).map(Some)
}

fn changed(path: &Path) -> Error {
    Error::file(
        path,
        "is not the file that the image was made from: its SHA-256 differs",
    )
}

/// Adds to what is wrong with a file that it comes from the receipt, and the way around it.
fn wanted(error: Error, option: &str) -> Error {
    match error {
        Error::File { path, problem } => Error::File {
            path,
            problem: format!(
                "{problem}; the receipt wants this file, {option} puts another in its place"
            ),
        },
        other => other,
    }
}

/// Says what may keep an image from coming out the same. Older receipts have no fingerprint.
fn compare(receipt: &Receipt, device: &str, fingerprint: &str) {
    if let Some(made_with) = &receipt.model_fingerprint
        && made_with != fingerprint
    {
        warn("the model's files are not those that the image was made from, so it will differ");
    }
    if receipt.version != env!("CARGO_PKG_VERSION") {
        warn(format_args!(
            "made by darkroom {}; this is {}, so bits may differ",
            receipt.version,
            env!("CARGO_PKG_VERSION")
        ));
    }
    if receipt.device != device {
        warn(format_args!(
            "made on {}; this is {device}, so bits may differ",
            receipt.device
        ));
    }
}

/// `micro, 128x128, 20 steps, seeds 0 to 3`.
fn announcement(request: &Request) -> String {
    let Request {
        model,
        width_px,
        height_px,
        steps,
        seed,
        count,
        ..
    } = request;
    let seeds = match count {
        1 => format!("seed {seed}"),
        _ => format!("seeds {seed} to {}", seed.saturating_add(*count as u64 - 1)),
    };
    format!("{model}, {width_px}x{height_px}, {steps} steps, {seeds}")
}

fn write(
    images: &[RgbImage],
    receipts: &[Receipt],
    paths: &[PathBuf],
    force: bool,
) -> Result<Vec<File>> {
    let mut files = Vec::new();
    for ((image, receipt), path) in images.iter().zip(receipts).zip(paths) {
        let png = encode_png(image, receipt)?;
        whole_file::make_folder_of(path)?;
        whole_file::write(path, force, &png)?;
        files.push(File::new(path, receipt.request.seed, &png));
    }
    Ok(files)
}
