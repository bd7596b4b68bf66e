//! What was typed. Every option is absent until typed, so that a receipt, the model's defaults and
//! the command line can be laid over each other; help names what absence means.

use std::path::PathBuf;
use std::str::FromStr;

use crate::device::DeviceChoice;
use crate::quant::Scheme;
use crate::request::{Precision, Rng, Size};
use crate::scheduler::{SchedulerKind, TimestepSpacing};
use clap::builder::{PossibleValuesParser, TypedValueParser};

const EXAMPLES: &str = "\
Examples:
  darkroom generate \"a red apple on a blue background\" --seed 7
  darkroom generate \"a harbour\" --init-image sketch.jpg --strength 0.6 -o harbour.png
  darkroom generate --from harbour.png --steps 40 -o finer.png

A prompt that starts with a dash is given last, after two dashes:
  darkroom generate --seed 7 -- \"-40 degrees, a frozen lake\"";

/// What was typed after `darkroom generate`.
#[derive(clap::Args, Debug, Default)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What to draw (needed unless --from has it)
    pub prompt: Option<String>,

    /// Model name (`darkroom models` lists them), a folder in diffusers' layout, or `synthetic:` and
    /// either, for its shapes with made-up weights [default: micro]
    #[arg(long, value_name = "NAME|DIR")]
    pub model: Option<String>,

    /// Make the image in this PNG again; options beside it change its request
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,

    /// What not to draw
    #[arg(
        long,
        value_name = "TEXT",
        help_heading = "Text",
        allow_hyphen_values = true
    )]
    pub negative: Option<String>,

    /// Another prompt for the second text encoder
    #[arg(
        long,
        value_name = "TEXT",
        help_heading = "Text",
        allow_hyphen_values = true
    )]
    pub prompt_2: Option<String>,

    /// Another negative prompt for the second text encoder
    #[arg(
        long,
        value_name = "TEXT",
        help_heading = "Text",
        allow_hyphen_values = true
    )]
    pub negative_2: Option<String>,

    /// Encode a prompt of any length in chunks, rather than cut it at 77 tokens
    #[arg(long, help_heading = "Text")]
    pub long_prompt: bool,

    /// Layers to leave out at the end of both text encoders
    #[arg(long, value_name = "N", help_heading = "Text")]
    pub clip_skip: Option<usize>,

    /// Image width in pixels [default: the model's]
    #[arg(long, value_name = "PX", help_heading = "Image")]
    pub width: Option<usize>,

    /// Image height in pixels [default: the model's]
    #[arg(long, value_name = "PX", help_heading = "Image")]
    pub height: Option<usize>,

    /// A number, or `random`; image i of several has seed + i [default: 0]
    #[arg(
        long,
        value_name = "N",
        help_heading = "Image",
        allow_hyphen_values = true
    )]
    pub seed: Option<Seed>,

    /// Images to make; `auto`: 4 to 64, as many as fit in free memory, or 1 [default: 1]
    #[arg(
        long,
        visible_alias = "batch",
        value_name = "N|auto",
        help_heading = "Image"
    )]
    pub count: Option<Count>,

    /// Start from this picture (PNG, JPEG, WebP), resized to the image's size
    #[arg(long, value_name = "FILE", help_heading = "Image")]
    pub init_image: Option<PathBuf>,

    /// How far to go from the initial picture, above 0 and at most 1 [default: 0.3]
    #[arg(
        long,
        value_name = "X",
        help_heading = "Image",
        allow_negative_numbers = true
    )]
    pub strength: Option<f64>,

    /// Start from the tensor `latents` [B, 4, H/8, W/8] in this safetensors file, not from the seed
    #[arg(long, value_name = "FILE", help_heading = "Image")]
    pub latents: Option<PathBuf>,

    /// torch's generator of the noise: `torch` on the CPU, `philox` on a GPU [default: torch]
    #[arg(long, value_name = "NAME", help_heading = "Image", value_parser = rng())]
    pub rng: Option<Rng>,

    /// Denoising steps [default: the model's]
    #[arg(long, value_name = "N", help_heading = "Denoising")]
    pub steps: Option<usize>,

    /// Guidance scale; off at 1 and below [default: the model's]
    #[arg(
        long,
        value_name = "X",
        help_heading = "Denoising",
        allow_negative_numbers = true
    )]
    pub guidance: Option<f64>,

    /// Share of rescaled guidance, 0 to 1 [default: 0]
    #[arg(
        long,
        value_name = "X",
        help_heading = "Denoising",
        allow_negative_numbers = true
    )]
    pub guidance_rescale: Option<f64>,

    /// Sampler [default: the model's]
    #[arg(long, value_name = "NAME", help_heading = "Denoising", value_parser = scheduler())]
    pub scheduler: Option<SchedulerKind>,

    /// Placement of the timesteps [default: the model's]
    #[arg(long, value_name = "NAME", help_heading = "Denoising", value_parser = spacing())]
    pub timestep_spacing: Option<TimestepSpacing>,

    /// Size of the imagined original [default: the image's]
    #[arg(long, value_name = "HxW", help_heading = "Micro-conditioning")]
    pub original_size: Option<Size>,

    /// Corner of the imagined crop [default: 0,0]
    #[arg(long, value_name = "TOP,LEFT", help_heading = "Micro-conditioning", value_parser = crop)]
    pub crop: Option<(usize, usize)>,

    /// Size aimed at [default: the image's]
    #[arg(long, value_name = "HxW", help_heading = "Micro-conditioning")]
    pub target_size: Option<Size>,

    /// f32, bf16 or f16, or by component: text=f32,unet=bf16,vae=f32 [default: f32, on a GPU f16]
    #[arg(long, value_name = "TYPE", help_heading = "Machine")]
    pub dtype: Option<Precision>,

    /// Int8 weights of the UNet, with int8 or float activations [default: none]
    #[arg(long, value_name = "SCHEME", help_heading = "Machine", value_parser = quant())]
    pub quant: Option<Scheme>,

    /// auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", help_heading = "Machine", default_value_t)]
    pub device: DeviceChoice,

    /// Run the denoising step as a CUDA graph (GPUs only)
    #[arg(long, help_heading = "Machine")]
    pub cuda_graph: bool,

    /// CPU threads [default: one a core]
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub threads: Option<std::num::NonZeroUsize>,

    /// Decode in overlapping tiles of N latents; smaller tiles need less memory and cost fidelity
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub vae_tile: Option<usize>,

    /// Take models from the cache only
    #[arg(long, help_heading = "Machine")]
    pub offline: bool,

    /// More models, in the form of darkroom's weights.toml
    #[arg(long, value_name = "FILE", help_heading = "Machine")]
    pub weights: Option<PathBuf>,

    /// A PNG file or a folder; several images are numbered [default: named after the prompt]
    #[arg(short, long, value_name = "PATH", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// Replace existing files; without -o, the next free name is taken all the same
    #[arg(long, help_heading = "Output")]
    pub force: bool,

    /// Print one JSON record of the run instead of the paths
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// Write what the run computed, as float32 safetensors
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub dump: Option<PathBuf>,

    /// No progress
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,
}

/// A number of images as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// So many.
    Of(usize),
    /// As free memory allows.
    Auto,
}

impl Count {
    /// The number, where one was typed.
    pub fn number(self) -> Option<usize> {
        match self {
            Self::Of(count) => Some(count),
            Self::Auto => None,
        }
    }
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            number => number
                .parse()
                .map(Self::Of)
                .map_err(|_| "a count is a whole number, or `auto`".into()),
        }
    }
}

/// A seed as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seed {
    /// This one.
    Fixed(u64),
    /// A fresh one.
    Random,
}

impl FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "random" => Ok(Self::Random),
            number => number.parse().map(Self::Fixed).map_err(|_| {
                format!(
                    "a seed is a whole number from 0 to {}, or `random`",
                    u64::MAX
                )
            }),
        }
    }
}

fn crop(text: &str) -> Result<(usize, usize), String> {
    text.split_once(',')
        .and_then(|(top, left)| Some((top.trim().parse().ok()?, left.trim().parse().ok()?)))
        .ok_or_else(|| "not TOP,LEFT in pixels, such as 0,64".into())
}

/// Parser for one of a few names, which help and completions list.
fn one_of<T, const N: usize>(choices: [(&'static str, T); N]) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    PossibleValuesParser::new(choices.map(|(name, _)| name)).map(move |typed| {
        let found = choices.iter().find(|(name, _)| *name == typed);
        found.expect("the parser lets only these names pass").1
    })
}

fn rng() -> impl TypedValueParser<Value = Rng> {
    one_of([("torch", Rng::Torch), ("philox", Rng::Philox)])
}

/// Parser of a sampler's name.
pub fn scheduler() -> impl TypedValueParser<Value = SchedulerKind> {
    one_of(SchedulerKind::ALL.map(|kind| (kind.name(), kind)))
}

/// Parser for a quantisation scheme.
pub fn quant() -> impl TypedValueParser<Value = Scheme> {
    one_of(Scheme::ALL.map(|scheme| (scheme.name(), scheme)))
}

fn spacing() -> impl TypedValueParser<Value = TimestepSpacing> {
    one_of([
        ("leading", TimestepSpacing::Leading),
        ("linspace", TimestepSpacing::Linspace),
        ("trailing", TimestepSpacing::Trailing),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_seeds_and_crops_are_read_or_refused() {
        assert_eq!("3".parse(), Ok(Count::Of(3)));
        assert_eq!("auto".parse(), Ok(Count::Auto));
        for bad in ["-1", "all", ""] {
            assert!(bad.parse::<Count>().is_err(), "{bad}");
        }
        assert_eq!("7".parse(), Ok(Seed::Fixed(7)));
        assert_eq!("random".parse(), Ok(Seed::Random));
        for bad in ["-1", "1.5", "18446744073709551616", ""] {
            assert!(bad.parse::<Seed>().is_err(), "{bad}");
        }
        assert_eq!(crop("0, 64"), Ok((0, 64)));
        for bad in ["64", "-1,0", "1,2,3", ""] {
            assert!(crop(bad).is_err(), "{bad}");
        }
    }
}
