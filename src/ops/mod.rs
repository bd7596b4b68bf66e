//! What the networks are made of.
//!
//! A network calls an operation and never asks what device it is on. Each operation is one file: a
//! candle custom operation whose CPU path is ours, tested against a plain f64 reference; what it does
//! on a GPU instead is in `cuda/`. Images are kept channels-last, `[B, H, W, C]`: a pixel's channels
//! are neighbours, so a transformer reads an image as `[B, H·W, C]` without a transpose, and a
//! convolution is a matrix product over pixels. What an operation has to do at given sizes stands in
//! [`work`], and what it holds for itself meanwhile in [`workspace`]; each tells its work to
//! [`crate::measure::op`].

mod activation;
mod add;
mod attention;
mod conv2d;
pub(crate) mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod embedding;
mod group_norm;
pub mod int8;
mod layer_norm;
pub(crate) mod limits;
mod linear;
mod movement;
pub mod probe;
pub(crate) mod weight;
pub mod work;
pub mod workspace;

pub use activation::{Activation, activation, geglu};
pub use add::{add, add_by_image, add_to_each};
pub use attention::{Mask, attention, cross_attention};
pub(crate) use conv2d::out_size;
pub use conv2d::{Conv2d, Padding};
pub use embedding::{Embedding, SinusoidConfig, sinusoid};
pub use group_norm::{GroupNorm, Moments};
pub use int8::Reads;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use movement::{concat_channels, to_channels_first, to_channels_last, upsample_nearest};
pub use weight::OUTPUTS_LAST;

pub(crate) use cpu::vectorised;
#[cfg(feature = "cuda")]
pub use cuda::{SamplerStep, model_input, sampler_step};
#[cfg(feature = "cuda")]
pub(crate) use cuda::{seen, told};
pub(crate) use movement::doubles;
pub(crate) use weight::Turn;
