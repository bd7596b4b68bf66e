//! What was typed.

use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;

use crate::claims::advise::{Arithmetic, Workload};
use crate::cli::model::Defaults;
use crate::forecast::device::{Device, GPUS};
use crate::request::Size;

const HELP: &str = "\
Examples:
  darkroom advise
  darkroom advise --images-per-day 40000000 --steps 20 --latency 2 --quality mlperf
  darkroom advise --precision half --price h100=1.99 --price l40s=0.55 --plot cost.svg

Times are forecasts at a device's limits, times a factor from public figures whose errors are \
printed. darkroom itself has been timed on none of these devices. A bound of quality chooses what the \
UNet may compute in, and nothing else: no picture is looked at.";

/// What was typed after `darkroom advise`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Images a day, spread evenly
    #[arg(long, value_name = "N", default_value = "1000000", value_parser = positive)]
    images_per_day: f64,

    /// HEIGHTxWIDTH, or one number for a square [default: the model's]
    #[arg(long, value_name = "HxW|N", value_parser = crate::cli::run_args::size)]
    size: Option<Size>,

    /// Denoising steps [default: the model's]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,

    /// Guidance scale; off at 1 and below [default: the model's]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    guidance: Option<f64>,

    /// Seconds that a request may take, with the others of its batch
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    latency: Option<f64>,

    /// What the UNet may compute in [default: by --quality]
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    precision: Vec<PrecisionChoice>,

    /// What pictures must be like, which chooses among precisions alone
    #[arg(
        long,
        value_name = "BOUND",
        default_value = "mlperf",
        conflicts_with = "precision"
    )]
    quality: Quality,

    /// Dollars an hour of a device, in the place of the table's; may be repeated
    #[arg(long = "price", value_name = "NAME=USD")]
    prices: Vec<Price>,

    /// Model name, a folder in diffusers' layout, or synthetic:NAME; configs only are read
    #[arg(long, value_name = "NAME|DIR", default_value = "synthetic:sdxl-base")]
    pub model: String,

    /// More models, in the form of darkroom's weights.toml
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,

    /// Print one JSON record
    #[arg(long)]
    pub json: bool,

    /// Draw cost against latency: an SVG or PNG file
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,

    /// Replace an existing file
    #[arg(long, requires = "plot")]
    pub force: bool,
}

impl Args {
    /// What is to be done, over the model's defaults.
    pub fn workload(&self, model: &str, defaults: &Defaults) -> Workload {
        let mut precisions: Vec<Arithmetic> = match self.precision.is_empty() {
            false => self.precision.iter().map(|&choice| choice.into()).collect(),
            true => match self.quality {
                Quality::Reference => vec![Arithmetic::Half],
                Quality::Mlperf => Arithmetic::ALL.to_vec(),
            },
        };
        precisions.sort();
        precisions.dedup();
        Workload {
            model: model.to_owned(),
            images_a_day: self.images_per_day,
            size: self.size.unwrap_or(defaults.size),
            steps: self.steps.unwrap_or(defaults.steps),
            guidance: self.guidance.unwrap_or(defaults.guidance),
            latency_s: self.latency,
            precisions,
            prices: self
                .prices
                .iter()
                .map(|p| (p.device.clone(), p.dollars))
                .collect(),
        }
    }
}

/// What the UNet computes in.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum PrecisionChoice {
    /// bfloat16
    Half,
    /// int8 weights and activations
    W8a8,
}

impl From<PrecisionChoice> for Arithmetic {
    fn from(choice: PrecisionChoice) -> Self {
        match choice {
            PrecisionChoice::Half => Self::Half,
            PrecisionChoice::W8a8 => Self::W8a8,
        }
    }
}

/// How far pictures may be from the model's own.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Quality {
    /// As in half precision: nothing of 8 bits
    Reference,
    /// Inside MLPerf's window of FID and CLIP score, as its results in 8 bits are; this engine's int8 has
    /// not been held against it
    Mlperf,
}

/// Dollars an hour of a device.
#[derive(Clone, Debug, PartialEq)]
struct Price {
    device: String,
    dollars: f64,
}

impl FromStr for Price {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, dollars) = text
            .split_once('=')
            .ok_or("a price is NAME=USD, such as h100=2.50")?;
        let name = name.trim().to_lowercase();
        if Device::gpu(&name).is_none() {
            let names: Vec<&str> = GPUS.iter().map(|gpu| gpu.name.as_ref()).collect();
            return Err(format!(
                "`{name}` is no device of the table: {}",
                names.join(", ")
            ));
        }
        Ok(Self {
            dollars: positive(dollars)?,
            device: name,
        })
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    let number = number.filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| format!("`{text}` is not a number above 0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_read_or_refused() {
        let price: Price = "h100=2.5".parse().expect("a price");
        assert_eq!((price.device.as_str(), price.dollars), ("h100", 2.5));
        assert_eq!("H100=2.5".parse(), Ok(price));
        for bad in ["h100", "abacus=1", "h100=", "h100=-1", "h100=inf", "h100=0"] {
            assert!(bad.parse::<Price>().is_err(), "{bad}");
        }
    }
}
