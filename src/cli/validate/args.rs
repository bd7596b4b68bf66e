//! What was typed after `darkroom validate`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use crate::cli::generate::quant;
use crate::cli::run_args::{MachineArgs, WorkArgs, size};
use crate::error::{Error, Result};
use crate::quant::Scheme;
use crate::request::Size;
use crate::validate::ledger::Thresholds;

const EXAMPLES: &str = "\
Examples:
  darkroom validate --quant w8a8
  darkroom validate --quant w8a8 --min-psnr 30 --max-drift 0.2 --min-saving 0.7   # exit code 1 if not
  darkroom validate --model sdxl-base --quantised sdxl-base-w8a8 --prompts prompts.txt --count 8 \\
    --json ledger.jsonl --markdown ledger.md --plot ledger.svg

Both models draw the same prompts from the same noise, one after the other; then each int8 layer is
compared with its twin. PSNR is that of the pictures, drift the relative distance of the latents.";

/// What was typed.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
#[group(id = "int8", required = true, multiple = false, args = ["quant", "quantised"])]
pub struct Args {
    /// The unquantised model: a name (`darkroom models` lists them), a folder in diffusers' layout, or
    /// `synthetic:` and either
    #[arg(long, value_name = "NAME|DIR", default_value = crate::cli::model::DEFAULT_MODEL)]
    pub model: String,

    /// Compare with the model itself, its UNet's weights in int8
    #[arg(long, value_name = "SCHEME", value_parser = quant())]
    pub quant: Option<Scheme>,

    /// Compare with a folder that `darkroom quantize` made of the model
    #[arg(long, value_name = "DIR")]
    pub quantised: Option<String>,

    /// A file of prompts, one a line [default: sixty icons, which the embedded model was taught]
    #[arg(long, value_name = "FILE", help_heading = "Work")]
    pub prompts: Option<PathBuf>,

    /// Only so many of the prompts, from the first on
    #[arg(long, value_name = "N", help_heading = "Work")]
    pub count: Option<NonZeroUsize>,

    /// Seeds of each prompt, from --seed on
    #[arg(long, value_name = "N", default_value = "1", help_heading = "Work",
        value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub seeds: u64,

    /// Image size in pixels [default: the model's]
    #[arg(long, value_name = "N|HxW", help_heading = "Work", value_parser = size)]
    pub size: Option<Size>,

    #[command(flatten)]
    pub work: WorkArgs,

    /// Least PSNR of the median picture
    #[arg(
        long,
        value_name = "DB",
        help_heading = "Verdict",
        allow_negative_numbers = true
    )]
    min_psnr: Option<f64>,

    /// Most drift of the worst run after its last step: 0.1 is a tenth of the latents' length
    #[arg(
        long,
        value_name = "REL",
        help_heading = "Verdict",
        allow_negative_numbers = true
    )]
    max_drift: Option<f64>,

    /// Least share, 0 to 1, of the memory of the UNet's weights that is saved
    #[arg(
        long,
        value_name = "SHARE",
        help_heading = "Verdict",
        allow_negative_numbers = true
    )]
    min_saving: Option<f64>,

    #[command(flatten)]
    pub machine: MachineArgs,

    /// Write every figure as one line of JSON; `-` prints it in the tables' place
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub json: Option<PathBuf>,

    /// Write the tables in Markdown
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub markdown: Option<PathBuf>,

    /// Draw drift, PSNR and memory: an SVG or PNG file
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub plot: Option<PathBuf>,

    /// Replace existing files
    #[arg(long, help_heading = "Output")]
    pub force: bool,

    /// No progress
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,
}

impl Args {
    /// The thresholds, refused where none could be meant.
    pub fn thresholds(&self) -> Result<Thresholds> {
        for (option, value, most) in [
            ("--min-psnr", self.min_psnr, f64::MAX),
            ("--max-drift", self.max_drift, f64::MAX),
            ("--min-saving", self.min_saving, 1.0),
        ] {
            if let Some(value) = value.filter(|value| !(0.0..=most).contains(value)) {
                let range = if most == 1.0 { "0 to 1" } else { "0 up" };
                return Err(Error::Request(format!(
                    "{option} {value} is not a number from {range}"
                )));
            }
        }
        Ok(Thresholds {
            min_psnr_db: self.min_psnr,
            max_drift: self.max_drift,
            min_saving: self.min_saving,
        })
    }
}
