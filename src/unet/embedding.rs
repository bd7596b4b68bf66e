//! What the residual blocks are told besides the image: timestep, pooled text, sizes.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;

use crate::config::UnetConfig;
use crate::error::{Error, Result};
use crate::ops::{Activation, Linear, SinusoidConfig, activation, sinusoid};

/// Two linear layers with SiLU between. Source: diffusers, `models/embeddings.py`,
/// `TimestepEmbedding`.
#[derive(Debug)]
struct EmbeddingMlp {
    linear_1: Linear,
    linear_2: Linear,
    cond_proj: Option<Linear>,
}

impl EmbeddingMlp {
    fn load(inputs: usize, width: usize, condition: Option<usize>, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            linear_1: Linear::load(inputs, width, vb.pp("linear_1"))?,
            linear_2: Linear::load(width, width, vb.pp("linear_2"))?,
            cond_proj: condition
                .map(|width| Linear::load_no_bias(width, inputs, vb.pp("cond_proj")))
                .transpose()?,
        })
    }

    /// x [B, in], condition [1, cond] → [B, T]
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let x = match (&self.cond_proj, condition) {
            (Some(projection), Some(condition)) => (x + projection.forward(condition)?)?,
            _ => x.clone(),
        };
        let hidden = activation(&self.linear_1.forward(&x)?, Activation::Silu)?;
        Ok(self.linear_2.forward(&hidden)?)
    }
}

/// Timestep, guidance scale, pooled text and time ids → one embedding of width T.
#[derive(Debug)]
pub struct Embeddings {
    time_embedding: EmbeddingMlp,
    add_embedding: EmbeddingMlp,
    time_proj: SinusoidConfig,
    add_time_proj: SinusoidConfig,
    condition_width: Option<usize>,
    added_width: usize,
}

impl Embeddings {
    /// Reads `time_embedding` and `add_embedding`.
    pub fn load(config: &UnetConfig, vb: VarBuilder) -> Result<Self> {
        let width = config.time_embedding_width;
        let base = config.base_channels();
        let condition_width = config.time_cond_proj_dim;
        let added_width = config.projection_class_embeddings_input_dim;
        let sinusoid = |width| SinusoidConfig {
            width,
            flip_sin_to_cos: config.flip_sin_to_cos,
            freq_shift: config.freq_shift,
        };
        Ok(Self {
            time_embedding: EmbeddingMlp::load(
                base,
                width,
                condition_width,
                vb.pp("time_embedding"),
            )?,
            add_embedding: EmbeddingMlp::load(added_width, width, None, vb.pp("add_embedding"))?,
            time_proj: sinusoid(base),
            add_time_proj: sinusoid(config.addition_time_embed_dim),
            condition_width,
            added_width,
        })
    }

    /// The timestep's sinusoid: [1, C].
    pub fn wave(&self, timestep: f64, dtype: DType, device: &Device) -> Result<Tensor> {
        let wave = sinusoid(timestep as f32, self.time_proj);
        Ok(Tensor::from_vec(wave, (1, self.time_proj.width), device)?.to_dtype(dtype)?)
    }

    /// The embedded timestep, of its sinusoid: [1, T].
    pub fn time(&self, wave: &Tensor, guidance: Option<&Tensor>) -> Result<Tensor> {
        self.time_embedding.forward(wave, guidance)
    }

    /// The embedded guidance scale, for networks distilled to take one: [1, cond].
    /// Source: diffusers' SDXL pipeline, `get_guidance_scale_embedding`.
    pub fn guidance(&self, scale: f64, dtype: DType, device: &Device) -> Result<Option<Tensor>> {
        let Some(width) = self.condition_width else {
            return Ok(None);
        };
        let config = SinusoidConfig {
            width,
            flip_sin_to_cos: false,
            freq_shift: 1.0,
        };
        let wave = sinusoid((scale - 1.0) as f32 * 1000.0, config);
        Ok(Some(
            Tensor::from_vec(wave, (1, width), device)?.to_dtype(dtype)?,
        ))
    }

    /// pooled [B, P] and one list of time ids a row → [B, T]
    pub fn added(&self, pooled: &Tensor, time_ids: &[Vec<f32>]) -> Result<Tensor> {
        let (batch, pooled_width) = pooled.dims2()?;
        let waves: Vec<f32> = time_ids
            .iter()
            .flatten()
            .flat_map(|&id| sinusoid(id, self.add_time_proj))
            .collect();
        let width = waves.len() / batch;
        if pooled_width + width != self.added_width {
            return Err(Error::checkpoint(
                "unet/config.json",
                format!(
                    "`projection_class_embeddings_input_dim` is {}, but pooled text and time ids \
                     make {pooled_width} + {width}",
                    self.added_width
                ),
            ));
        }
        let waves = Tensor::from_vec(waves, (batch, width), pooled.device())?;
        let joined = Tensor::cat(&[pooled, &waves.to_dtype(pooled.dtype())?], D::Minus1)?;
        self.add_embedding.forward(&joined, None)
    }
}
