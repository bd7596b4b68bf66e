//! `darkroom quantize`: a checkpoint anew, its UNet's weights in int8.

use std::path::PathBuf;

use serde::Serialize;

use super::failure::say;
use super::interrupt::Interrupt;
use super::{model, models, stdout};
use crate::quant::{KEPT, Saved, Scheme, Selection, save};
use indicatif::{ProgressBar, ProgressStyle};

/// The form of the JSON that this command prints.
const SCHEMA: u32 = 1;

const EXAMPLES: &str = "\
Examples:
  darkroom quantize --model sdxl-base --scheme w8a8 -o sdxl-base-w8a8
  darkroom generate \"a fox\" --model sdxl-base-w8a8

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
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    let selection = Selection::changed(&args.keep, &args.int8)?;
    let manifest = models::manifest(args.weights.as_deref())?;
    let found = model::find(manifest, &args.model)?;
    let name = found.name().to_owned();
    let checkpoint = found.checkpoint(false, args.offline, args.quiet)?;
    let interrupt = Interrupt::install()?;
    let bar = match args.quiet {
        true => ProgressBar::hidden(),
        false => ProgressBar::new(0),
    };
    bar.set_style(
        ProgressStyle::with_template("quantize {bar:30} {pos}/{len} tensors {eta}")
            .expect("a sound template"),
    );
    let on_tensor = |done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        interrupt.check()
    };
    let saved = save(
        &checkpoint,
        args.scheme,
        &selection,
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
        });
    }
    if !args.quiet {
        say(&format!(
            "{name}: {int8_layers} layers in int8, {float_layers} kept in floating point ({})",
            selection.kept().join(", ")
        ));
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
