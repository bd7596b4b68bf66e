//! `darkroom quantize`: a checkpoint anew, its UNet's weights in int8.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use candle_core::Device;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::failure::say;
use super::interrupt::Interrupt;
use super::model::Defaults;
use super::{model, models, stdout};
use crate::error::Error;
use crate::pipeline::Pipeline;
use crate::quant::{Calibration, KEPT, Saved, Scheme, Selection, Smoothing, SmoothingConfig, save};
use crate::request::{Precision, Request};
use crate::weights::checkpoint::{Checkpoint, Component};

/// The form of the JSON that this command prints.
const SCHEMA: u32 = 1;

const EXAMPLES: &str = "\
Examples:
  darkroom quantize --model sdxl-base --scheme w8a8 -o sdxl-base-w8a8
  darkroom generate \"a fox\" --model sdxl-base-w8a8
  darkroom quantize --model micro --smooth 0.5 -o micro-w8a8   # SmoothQuant

The new folder is in diffusers' layout; every command takes it as a model. Other parts than the UNet
are copied as they are.";

/// What was typed after `darkroom quantize`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Model name (`darkroom models` lists them) or a folder in diffusers' layout
    #[arg(long, value_name = "NAME|DIR")]
    model: String,

    /// Int8 weights for int8 (w8a8) or float (w8a16) activations
    #[arg(long, value_name = "SCHEME", default_value = "w8a8", value_parser = super::generate::quant())]
    scheme: Scheme,

    /// The new folder
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,

    /// Keep layers in floating point whose name has this part, such as attn2.to_k (repeatable)
    #[arg(long, value_name = "NAME")]
    keep: Vec<String>,

    /// Quantise a part that is kept by default (repeatable)
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(KEPT.map(|k| k.name)))]
    int8: Vec<String>,

    /// SmoothQuant: share of the activations' range, 0 to 1, that goes into the weights (0.5 is usual;
    /// w8a8 only). The model runs in float32 on the calibration prompts first
    #[arg(long, value_name = "ALPHA", value_parser = share)]
    smooth: Option<f64>,

    /// Calibration prompts, one a line, in place of those in the program
    #[arg(long, value_name = "FILE", requires = "smooth")]
    calibration: Option<PathBuf>,

    /// Denoising steps of each calibration prompt
    #[arg(long, value_name = "N", default_value = "8", requires = "smooth")]
    calibration_steps: NonZeroUsize,

    /// Take models from the cache only
    #[arg(long)]
    offline: bool,

    /// More models, in the form of darkroom's weights.toml
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,

    /// Print a JSON record instead of a table
    #[arg(long)]
    json: bool,

    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Serialize)]
struct Record {
    schema: u32,
    model: String,
    scheme: Scheme,
    output: PathBuf,
    int8_layers: usize,
    float_layers: usize,
    unet_bytes_before: u64,
    unet_bytes_after: u64,
    kept: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    smoothing: Option<SmoothingConfig>,
}

/// Subjects, styles and backgrounds of all kinds: what matters is the range that they reach.
const CALIBRATION: [&str; 8] = [
    "a green frog on a yellow background",
    "a castle in noto style on a blue background",
    "a slice of pizza in flat style",
    "a portrait photo of an old sailor, dramatic light",
    "a watercolor of mountains in the mist",
    "a red sports car at night, neon signs, rain",
    "a white cat on a black background",
    "a bowl of fruit, oil painting",
];

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(alpha) if (0.0..=1.0).contains(&alpha) => Ok(alpha),
        _ => Err("a number from 0 to 1, such as 0.5".into()),
    }
}

impl Args {
    /// Smoothing factors from runs of the unquantised model.
    fn smoothing(
        &self,
        alpha: f64,
        (name, defaults): (&str, &Defaults),
        checkpoint: &Checkpoint,
        selection: &Selection,
        interrupt: &Interrupt,
    ) -> anyhow::Result<(Smoothing, SmoothingConfig)> {
        if self.scheme != Scheme::W8A8 {
            return Err(Error::Request(
                "--smooth is for w8a8: under w8a16 the activations are not quantised".into(),
            )
            .into());
        }
        if checkpoint.quantisation()?.is_some() {
            return Err(Error::Request(format!(
                "`{name}` is quantised already: take the model that it was made from"
            ))
            .into());
        }
        let text = match &self.calibration {
            None => CALIBRATION.join("\n"),
            Some(path) => std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?,
        };
        let prompts: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        if let (true, Some(path)) = (prompts.is_empty(), &self.calibration) {
            return Err(Error::file(path, "holds no prompt: write one a line").into());
        }
        checkpoint.mapped(Component::Unet)?; // files to write from, before hours of runs
        let precision = Precision::default();
        let pipeline = Pipeline::load(checkpoint, precision, &Device::Cpu, &mut ())?;
        let steps = self.calibration_steps.get();
        let bar = self.bar("calibrate {bar:30} {pos}/{len} prompts {eta}");
        bar.set_length(prompts.len() as u64);
        let mut calibration = Calibration::default();
        for (seed, prompt) in prompts.iter().enumerate() {
            let request = Request {
                scheduler: defaults.scheduler,
                timestep_spacing: defaults.timestep_spacing,
                seed: seed as u64,
                ..Request::new(name, prompt, defaults.size, steps, defaults.guidance)
            };
            calibration.add(&pipeline, &request)?;
            bar.inc(1);
            interrupt.check()?;
        }
        bar.finish_and_clear();
        let config = SmoothingConfig {
            alpha,
            prompts: prompts.len(),
            steps,
        };
        Ok((calibration.smoothing(selection, alpha), config))
    }

    fn bar(&self, template: &str) -> ProgressBar {
        let bar = match self.quiet {
            true => ProgressBar::hidden(),
            false => ProgressBar::new(0),
        };
        bar.with_style(ProgressStyle::with_template(template).expect("a sound template"))
    }
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    let selection = Selection::changed(&args.keep, &args.int8)?;
    let manifest = models::manifest(args.weights.as_deref())?;
    let found = model::find(manifest, &args.model)?;
    let name = found.name().to_owned();
    let defaults = args.smooth.map(|_| found.defaults()).transpose()?;
    let checkpoint = found.checkpoint(false, args.offline, args.quiet)?;
    let interrupt = Interrupt::install()?;
    let smoothing = match (args.smooth, &defaults) {
        (Some(alpha), Some(defaults)) => {
            let model = (name.as_str(), defaults);
            Some(args.smoothing(alpha, model, &checkpoint, &selection, &interrupt)?)
        }
        _ => None,
    };
    let bar = args.bar("quantize {bar:30} {pos}/{len} tensors {eta}");
    let on_tensor = |done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        interrupt.check()
    };
    let saved = save(
        &checkpoint,
        args.scheme,
        &selection,
        smoothing
            .as_ref()
            .map(|(factors, config)| (factors, *config)),
        &args.output,
        &on_tensor,
    );
    bar.finish_and_clear();
    let Saved {
        int8_layers,
        float_layers,
        unet_bytes: [before, after],
    } = saved?;
    if args.json {
        return stdout::json(&Record {
            schema: SCHEMA,
            model: name,
            scheme: args.scheme,
            output: args.output,
            int8_layers,
            float_layers,
            unet_bytes_before: before,
            unet_bytes_after: after,
            kept: selection.kept().to_vec(),
            smoothing: smoothing.map(|(_, config)| config),
        });
    }
    if !args.quiet {
        say(&format!(
            "{name}: {int8_layers} layers in int8, {float_layers} kept in floating point ({})",
            selection.kept().join(", ")
        ));
        if let Some((factors, config)) = &smoothing {
            say(&format!(
                "smoothed with α {}: {} input channels, by {} prompts of {} steps",
                config.alpha,
                factors.channels(),
                config.prompts,
                config.steps
            ));
        }
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        say(&format!(
            "UNet: {:.1} MiB before, {:.1} MiB after ({:.0} %)",
            mib(before),
            mib(after),
            100.0 * after as f64 / before as f64
        ));
    }
    stdout::line(args.output.display().to_string())
}
