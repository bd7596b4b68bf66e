//! `AutoencoderKL` of diffusers.

use serde::Deserialize;

use super::{above_zero, divides, four, levels, one_of, read, silu, sizes, yes};
use crate::error::Result;
use crate::weights::folder::Folder;

/// The VAE (diffusers, `AutoencoderKL`).
#[derive(Clone, Debug, Deserialize)]
pub struct VaeConfig {
    /// Colours.
    #[serde(default = "VaeConfig::three")]
    pub in_channels: usize,
    /// Colours.
    #[serde(default = "VaeConfig::three")]
    pub out_channels: usize,
    /// Kinds of the encoder's levels.
    pub down_block_types: Vec<String>,
    /// Kinds of the decoder's levels.
    pub up_block_types: Vec<String>,
    /// Channels by level, from the finest.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks by level in the encoder; the decoder has one more.
    #[serde(default = "VaeConfig::one_usize")]
    pub layers_per_block: usize,
    /// Latent channels.
    #[serde(default = "four")]
    pub latent_channels: usize,
    /// Groups of all group norms.
    #[serde(default = "VaeConfig::norm_num_groups")]
    pub norm_num_groups: usize,
    /// Multiplies latents on their way out of the encoder.
    #[serde(default = "VaeConfig::scaling_factor")]
    pub scaling_factor: f64,
    /// Mean of each latent channel, where latents are standardised.
    pub latents_mean: Option<Vec<f64>>,
    /// Standard deviation of each latent channel, where latents are standardised.
    pub latents_std: Option<Vec<f64>>,
    #[serde(default = "silu")]
    act_fn: String,
    /// The network overflows in f16.
    #[serde(default = "yes")]
    pub force_upcast: bool,
    /// A 1×1 convolution behind the encoder.
    #[serde(default = "yes")]
    pub use_quant_conv: bool,
    /// A 1×1 convolution before the decoder.
    #[serde(default = "yes")]
    pub use_post_quant_conv: bool,
    /// Attention at the coarsest level.
    #[serde(default = "yes")]
    pub mid_block_add_attention: bool,
    shift_factor: Option<f64>,
}

impl VaeConfig {
    fn three() -> usize {
        3
    }
    fn one_usize() -> usize {
        1
    }
    fn norm_num_groups() -> usize {
        32
    }
    fn scaling_factor() -> f64 {
        0.18215
    }

    /// Reads and checks the VAE's config.
    pub fn load(folder: &Folder) -> Result<Self> {
        read(folder, |c: &Self| {
            one_of("act_fn", &c.act_fn, &["silu", "swish"])?;
            levels(&c.block_out_channels)?;
            for (key, kinds, known) in [
                (
                    "down_block_types",
                    &c.down_block_types,
                    "DownEncoderBlock2D",
                ),
                ("up_block_types", &c.up_block_types, "UpDecoderBlock2D"),
            ] {
                if kinds.len() != c.block_out_channels.len() {
                    return Err(format!(
                        "`{key}` has {} entries for {} levels",
                        kinds.len(),
                        c.block_out_channels.len()
                    ));
                }
                kinds
                    .iter()
                    .try_for_each(|kind| one_of(key, kind, &[known]))?;
            }
            sizes(&[
                ("layers_per_block", c.layers_per_block),
                ("latent_channels", c.latent_channels),
            ])?;
            for &width in &c.block_out_channels {
                divides(
                    "norm_num_groups",
                    c.norm_num_groups,
                    "`block_out_channels`",
                    width,
                )?;
            }
            if c.shift_factor.is_some_and(|shift| shift != 0.0) {
                return Err("`shift_factor` is set, which SDXL does not use".into());
            }
            if c.out_channels != 3 || c.in_channels != 3 {
                return Err(
                    "pictures have 3 colours; `in_channels` or `out_channels` differ".into(),
                );
            }
            above_zero("scaling_factor", c.scaling_factor)?;
            for (key, values) in [
                ("latents_mean", &c.latents_mean),
                ("latents_std", &c.latents_std),
            ] {
                if values
                    .as_ref()
                    .is_some_and(|v| v.len() != c.latent_channels)
                {
                    return Err(format!(
                        "`{key}` does not have one value for each latent channel"
                    ));
                }
            }
            c.latents_std
                .iter()
                .flatten()
                .try_for_each(|&std| above_zero("latents_std", std))
        })
    }

    /// Pixels by latent along each edge: 2^(levels − 1).
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}
