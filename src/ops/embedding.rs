//! Table look-up, and the sinusoid that embeds a number.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::work;
use crate::measure::op;

/// A table of vectors: weight [entries, width].
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: Tensor,
}

impl Embedding {
    /// Reads `weight`.
    pub fn load(entries: usize, width: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: vb.get((entries, width), "weight")?,
        })
    }

    /// ids [B, N] (u32) → [B, N, width].
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let (batch, length) = ids.dims2()?;
        let width = self.weight.dim(1)?;
        let (count, bytes) = (batch * length * width, self.weight.dtype().size_in_bytes());
        op::run(
            || work::moved((count, bytes), (count, bytes)),
            || {
                self.weight
                    .index_select(&ids.flatten_all()?, 0)?
                    .reshape((batch, length, width))
            },
        )
    }

    /// The first `length` entries: [length, width].
    pub fn first(&self, length: usize) -> Result<Tensor> {
        self.weight.narrow(0, 0, length)
    }
}

/// How [`sinusoid`] lays out its two halves and spaces its frequencies.
#[derive(Clone, Copy, Debug)]
pub struct SinusoidConfig {
    /// Length of the embedding.
    pub width: usize,
    /// Cosines before sines.
    pub flip_sin_to_cos: bool,
    /// Subtracted from the number of frequencies in the exponent's denominator.
    pub freq_shift: f64,
}

/// Embeds `value` as cosines and sines of falling frequencies (10000 to 1), in float32 as the
/// reference computes it (diffusers, models/embeddings.py, `get_timestep_embedding`).
pub fn sinusoid(value: f32, config: SinusoidConfig) -> Vec<f32> {
    let half = config.width / 2;
    let angles = (0..half).map(|i| {
        let exponent =
            -(10000f64.ln() as f32) * i as f32 / (half as f64 - config.freq_shift) as f32;
        value * exponent.exp()
    });
    let sines = angles.clone().map(f32::sin);
    let cosines = angles.map(f32::cos);
    let mut out: Vec<f32> = if config.flip_sin_to_cos {
        cosines.chain(sines).collect()
    } else {
        sines.chain(cosines).collect()
    };
    out.resize(config.width, 0.0);
    out
}
