//! Options that commands share.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use candle_core::Device;

use super::generate::scheduler;
use super::model::Defaults;
use crate::device::{self, DeviceChoice};
use crate::request::{Precision, Request, Size};
use crate::scheduler::SchedulerKind;

/// What is computed for a prompt, over the model's defaults.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Work")]
pub struct WorkArgs {
    /// Denoising steps [default: the model's]
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,

    /// Guidance scale; off at 1 and below [default: the model's]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub guidance: Option<f64>,

    /// Sampler [default: the model's]
    #[arg(long, value_name = "NAME", value_parser = scheduler())]
    pub scheduler: Option<SchedulerKind>,

    /// f32, bf16 or f16, or by component: text=f32,unet=bf16,vae=f32 [default: f32, on a GPU f16]
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<Precision>,

    /// Decode in overlapping tiles of N latents
    #[arg(long, value_name = "N")]
    pub vae_tile: Option<usize>,

    /// Seed of the noise
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

impl WorkArgs {
    /// Number types of the components; nothing in int8.
    pub fn precision(&self, device: &Device) -> Precision {
        self.dtype.unwrap_or_else(|| device::precision(device))
    }

    /// The request for a prompt.
    pub fn request(
        &self,
        model: &str,
        prompt: &str,
        defaults: &Defaults,
        size: Size,
        precision: Precision,
    ) -> Request {
        let steps = self.steps.unwrap_or(defaults.steps);
        let guidance = self.guidance.unwrap_or(defaults.guidance);
        Request {
            seed: self.seed,
            scheduler: self.scheduler.or(defaults.scheduler),
            timestep_spacing: defaults.timestep_spacing,
            precision,
            vae_tile: self.vae_tile,
            ..Request::new(model, prompt, size, steps, guidance)
        }
    }
}

/// Where it is computed, and where models come from.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Machine")]
pub struct MachineArgs {
    /// auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: DeviceChoice,

    /// CPU threads [default: one a core]
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Take models from the cache only
    #[arg(long)]
    pub offline: bool,

    /// More models, in the form of darkroom's weights.toml
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
}

/// One edge of a square, or both.
pub fn size(text: &str) -> Result<Size, String> {
    match text.parse() {
        Ok(edge) => Ok(Size {
            height_px: edge,
            width_px: edge,
        }),
        Err(_) => text
            .parse()
            .map_err(|_| "neither an edge such as 512 nor HEIGHTxWIDTH such as 512x768".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_or_refused() {
        let of = |height_px, width_px| {
            Ok(Size {
                height_px,
                width_px,
            })
        };
        assert_eq!(size("512"), of(512, 512));
        assert_eq!(size("512x768"), of(512, 768));
        for bad in ["", "x", "512x", "-8"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
