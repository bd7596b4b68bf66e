//! What the networks are made of.
//!
//! A network calls an operation and never asks what device it is on. Each operation is one file: a
//! candle custom operation whose CPU path is ours (a CUDA launch will stand beside it), tested
//! against a plain f64 reference. Images are kept channels-last, `[B, H, W, C]`: a pixel's channels
//! are neighbours, so a transformer reads an image as `[B, H·W, C]` without a transpose, and a
//! convolution is a matrix product over pixels.

mod activation;
mod attention;
mod conv2d;
mod cpu;
mod embedding;
mod group_norm;
mod layer_norm;
mod linear;
mod upsample;
mod weight;

pub use activation::{Activation, activation, geglu};
pub use attention::{Mask, attention};
pub use conv2d::{Conv2d, Padding};
pub use embedding::{Embedding, SinusoidConfig, sinusoid};
pub use group_norm::{GroupNorm, Moments};
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use upsample::upsample_nearest;
pub use weight::OUTPUTS_LAST;

pub(crate) use cpu::vectorised;
pub(crate) use weight::Turn;

use candle_core::{Result, Tensor};

/// Channels-first image to channels-last: `[B, C, H, W]` → `[B, H, W, C]`.
pub fn to_channels_last(image: &Tensor) -> Result<Tensor> {
    image.permute((0, 2, 3, 1))?.contiguous()
}

/// Channels-last image to channels-first: `[B, H, W, C]` → `[B, C, H, W]`.
pub fn to_channels_first(image: &Tensor) -> Result<Tensor> {
    image.permute((0, 3, 1, 2))?.contiguous()
}
