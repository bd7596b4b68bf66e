//! What was typed.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use crate::cli::generate::quant;
use crate::cli::model::{DEFAULT_MODEL, Defaults};
use crate::cli::run_args::size;
use crate::device::DeviceChoice;
use crate::forecast::device::{Device, GPUS};
use crate::quant::Scheme;
use crate::request::{Precision, Request, Size};

const EXAMPLES: &str = "\
Examples:
  darkroom plan --model synthetic:sdxl-base --batch auto
  darkroom plan --model synthetic:sdxl-base --dtype bf16 --device all
  darkroom plan --model path/to/checkpoint --size 1536x1024 --memory 12GiB

The memory is that of the allocations of the device's own path: on a CPU the process's, on a GPU what
tensors take, without driver and cuBLAS (no part of darkroom has run on one). With --device all,
stages are the CPU's. Times are lower bounds, at the device's limits.";

/// What was typed after `darkroom plan`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Model name, a folder in diffusers' layout, or synthetic:NAME; configs only are read
    #[arg(long, value_name = "NAME|DIR", default_value = DEFAULT_MODEL)]
    pub model: String,

    /// HEIGHTxWIDTH, or one number for a square [default: the model's]
    #[arg(long, value_name = "HxW|N", value_parser = size, conflicts_with_all = ["width", "height"])]
    size: Option<Size>,

    /// Image width in pixels [default: the model's]
    #[arg(long, value_name = "PX")]
    width: Option<usize>,

    /// Image height in pixels [default: the model's]
    #[arg(long, value_name = "PX")]
    height: Option<usize>,

    /// Images at once; `auto`: as many as fit
    #[arg(long, value_name = "N|auto", default_value = "1")]
    pub batch: Batch,

    /// Denoising steps [default: the model's]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,

    /// Guidance scale; off at 1 and below [default: the model's]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    guidance: Option<f64>,

    /// f32, bf16 or f16, or by component: text=f32,unet=bf16,vae=f32 [default: f16 on a GPU, else
    /// f32; with --device all f32]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<Precision>,

    /// Int8 weights of the UNet, with int8 or float activations [default: none]
    #[arg(long, value_name = "SCHEME", value_parser = quant())]
    quant: Option<Scheme>,

    /// Decode in overlapping tiles of N latents
    #[arg(long, value_name = "N")]
    vae_tile: Option<usize>,

    /// auto, cpu, cuda or cuda:N (this machine's), all, or a GPU of the table: h100, h800, h200,
    /// a100, l40s, l4, rtx-4090, rtx-3090, b200
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub device: Place,

    /// Memory to plan for, such as 24GiB [default: free here, installed on a GPU of the table]
    #[arg(long, value_name = "BYTES")]
    pub memory: Option<Memory>,

    /// CPU threads [default: one a core]
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Print one JSON record
    #[arg(long)]
    pub json: bool,

    /// More models, in the form of darkroom's weights.toml
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
}

impl Args {
    /// The run to plan, over the model's defaults and the device's number types.
    pub fn request(&self, model: &str, defaults: &Defaults, types: Precision) -> Request {
        let size = self.size.unwrap_or(defaults.size);
        let size = Size {
            height_px: self.height.unwrap_or(size.height_px),
            width_px: self.width.unwrap_or(size.width_px),
        };
        let steps = self.steps.unwrap_or(defaults.steps);
        let guidance = self.guidance.unwrap_or(defaults.guidance);
        Request {
            count: match self.batch {
                Batch::Of(count) => count,
                Batch::Auto => 1,
            },
            scheduler: defaults.scheduler,
            timestep_spacing: defaults.timestep_spacing,
            precision: Precision {
                quant: self.quant,
                ..self.dtype.unwrap_or(types)
            },
            vae_tile: self.vae_tile,
            ..Request::new(model, "", size, steps, guidance)
        }
    }
}

/// Images at once, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batch {
    /// So many.
    Of(usize),
    /// As many as fit.
    Auto,
}

impl FromStr for Batch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            number => number
                .parse()
                .map(Self::Of)
                .map_err(|_| "a batch is a whole number, or `auto`".into()),
        }
    }
}

/// Where the run is to be.
#[derive(Clone, Debug)]
pub enum Place {
    /// A device of this machine.
    Here(DeviceChoice),
    /// A GPU of the table.
    Gpu(Box<Device>),
    /// This machine's CPU and all of the table.
    All,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        if let Some(device) = Device::gpu(text) {
            return Ok(Self::Gpu(Box::new(device)));
        }
        text.parse().map(Self::Here).map_err(|_| {
            let names: Vec<&str> = GPUS.iter().map(|gpu| gpu.name.as_ref()).collect();
            let names = names.join(", ");
            format!("known are auto, cpu, cuda, cuda:N, all, {names}")
        })
    }
}

/// An amount of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory(pub u64);

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit: u64 = match &text[digits.len()..].to_ascii_lowercase()[..] {
            "" | "b" => 1,
            "kb" => 1000,
            "mb" => 1000 * 1000,
            "gb" => 1000 * 1000 * 1000,
            "kib" | "k" => 1 << 10,
            "mib" | "m" => 1 << 20,
            "gib" | "g" => 1 << 30,
            _ => 0,
        };
        let amount: Option<f64> = digits.trim().parse().ok();
        match amount.filter(|a| unit > 0 && a.is_finite() && *a > 0.0) {
            Some(amount) => Ok(Self((amount * unit as f64) as u64)),
            None => Err("an amount of memory is a number with B, MiB, GiB, MB or GB".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_batches_and_devices_are_read_or_refused() {
        for (text, bytes) in [
            ("1024", 1024),
            ("24GiB", 24 << 30),
            ("1.5 gib", 3 << 29),
            ("80GB", 80_000_000_000),
            ("512m", 512 << 20),
        ] {
            assert_eq!(text.parse(), Ok(Memory(bytes)), "{text}");
        }
        for bad in ["", "GiB", "-1GiB", "12 apples", "nan", "0"] {
            assert!(bad.parse::<Memory>().is_err(), "{bad}");
        }
        assert!("auto".parse::<Batch>() == Ok(Batch::Auto) && "x".parse::<Batch>().is_err());
        assert!(matches!("rtx-4090".parse(), Ok(Place::Gpu(_))));
        let second = "cuda:1".parse();
        assert!(matches!(second, Ok(Place::Here(DeviceChoice::Cuda(1)))));
        let error = "abacus".parse::<Place>().expect_err("not in the table");
        assert!(error.contains("h100"), "{error}");
    }
}
