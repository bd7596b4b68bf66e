//! What was typed after `darkroom bench`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use candle_core::Device;
use clap::ValueEnum;

use super::compare;
use crate::cli::generate::quant;
use crate::cli::run_args::{MachineArgs, WorkArgs, size};
use crate::quant::Scheme;
use crate::request::{Precision, Size};

const EXAMPLES: &str = "\
Examples:
  darkroom bench
  darkroom bench --batch 1,4,8 --size 512,1024 --steps 4 --json runs.jsonl --plot runs.svg
  darkroom bench --by op,step --repeat 5 --trace trace.json     # open it in ui.perfetto.dev
  darkroom bench compare before.jsonl after.jsonl --fail-above 5

Forecast is the time at the device's limits, achieved the share of them that was reached; what \
caches hold can be faster. A CPU's limits are measured; a GPU's are those of the device table \
(`darkroom plan --device all`), of another GPU by the clocks that its driver tells.";

/// What was typed.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Option<Command>,

    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Say what changed between two benchmarks
    Compare(compare::Args),
}

/// What to measure.
#[derive(clap::Args, Debug)]
pub struct RunArgs {
    /// Model name (`darkroom models` lists them) or a folder in diffusers' layout
    #[arg(long, value_name = "NAME|DIR", default_value = crate::cli::model::DEFAULT_MODEL)]
    pub model: String,

    /// What to draw
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "a red apple on a blue background",
        help_heading = "Work"
    )]
    pub prompt: String,

    /// Image sizes in pixels, one run each [default: the model's]
    #[arg(long, value_name = "N|HxW", value_delimiter = ',', help_heading = "Work", value_parser = size)]
    pub size: Vec<Size>,

    /// Images at once, one run each; `auto` is those of 1, 4, 8, 16, 32, 64 that fit into memory
    #[arg(
        long,
        value_name = "N|auto",
        value_delimiter = ',',
        default_value = "1",
        help_heading = "Work"
    )]
    pub batch: Vec<Batch>,

    #[command(flatten)]
    pub work: WorkArgs,

    /// Int8 weights of the UNet, with int8 or float activations [default: none]
    #[arg(long, value_name = "SCHEME", help_heading = "Work", value_parser = quant())]
    pub quant: Option<Scheme>,

    /// Measured repeats of each run
    #[arg(
        long,
        value_name = "N",
        default_value = "3",
        help_heading = "Measuring"
    )]
    pub repeat: NonZeroUsize,

    /// Repeats before the measured ones
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        help_heading = "Measuring"
    )]
    pub warmup: usize,

    /// Besides the stages: their operations, their steps
    #[arg(
        long,
        value_name = "WHAT",
        value_delimiter = ',',
        default_value = "stage",
        help_heading = "Measuring"
    )]
    pub by: Vec<By>,

    #[command(flatten)]
    pub machine: MachineArgs,

    /// Run the denoising step as a CUDA graph (GPUs only)
    #[arg(long, help_heading = "Machine")]
    pub cuda_graph: bool,

    /// Write every figure, one JSON object a line, one line a run; `-` prints them in the tables' place
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub json: Option<PathBuf>,

    /// Draw time and memory, measured beside forecast: an SVG or PNG file
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub plot: Option<PathBuf>,

    /// Write the last repeat's timeline as Chrome trace events, which Perfetto shows
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub trace: Option<PathBuf>,

    /// Replace existing files
    #[arg(long, help_heading = "Output")]
    pub force: bool,

    /// No progress
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,
}

impl RunArgs {
    /// Number types of the components, and int8 where it is asked for.
    pub fn precision(&self, device: &Device) -> Precision {
        Precision {
            quant: self.quant,
            ..self.work.precision(device)
        }
    }
}

/// Images at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batch {
    /// This many.
    Of(usize),
    /// As many as fit.
    Auto,
}

impl FromStr for Batch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::Auto),
            (_, Ok(batch)) if batch > 0 => Ok(Self::Of(batch)),
            _ => Err("not a number of images such as 4, nor `auto`".into()),
        }
    }
}

/// What a time is broken down by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// The table that is always shown.
    Stage,
    /// Kinds and sizes of operations.
    Op,
    /// Steps of a stage.
    Step,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_read_or_refused() {
        assert_eq!("auto".parse(), Ok(Batch::Auto));
        assert_eq!("4".parse(), Ok(Batch::Of(4)));
        for bad in ["many", "0", "-1"] {
            assert!(bad.parse::<Batch>().is_err(), "{bad}");
        }
    }
}
