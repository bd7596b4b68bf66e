//! The transformer over an image's pixels, and its blocks.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::Contexts;
use super::attention::{Attention, KeyValues};
use crate::config::{TransformerConfig, UnetConfig};
use crate::error::Result;
use crate::ops::{Conv2d, GroupNorm, LayerNorm, Linear, Reads};

/// Eps of the transformer's group norm and of its blocks' layer norms; neither is in the config.
const GROUP_NORM_EPS: f64 = 1e-6;
const LAYER_NORM_EPS: f64 = 1e-5;

/// Pixels as a sequence, through `depth` blocks, around a skip.
/// Source: diffusers, `models/transformers/transformer_2d.py`, `Transformer2DModel`.
#[derive(Debug)]
pub struct SpatialTransformer {
    norm: GroupNorm,
    proj_in: Projection,
    transformer_blocks: Vec<TransformerBlock>,
    proj_out: Projection,
}

/// A linear layer over channels; older checkpoints keep it as a 1×1 convolution.
#[derive(Debug)]
enum Projection {
    Linear(Linear),
    Conv(Conv2d),
}

impl Projection {
    fn load(linear: bool, channels: usize, vb: VarBuilder) -> Result<Self> {
        Ok(if linear {
            Self::Linear(Linear::load(channels, channels, vb)?)
        } else {
            Self::Conv(Conv2d::load(channels, channels, 1, vb)?)
        })
    }

    fn reads(&self) -> Reads {
        match self {
            Self::Linear(linear) => linear.reads(),
            Self::Conv(conv) => conv.reads(),
        }
    }

    /// x [B, H, W, C] → [B, H, W, C]
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Linear(linear) => linear.forward(x)?,
            Self::Conv(conv) => conv.forward(x)?,
        })
    }

    /// residual + the projection of x.
    fn forward_add(&self, x: Tensor, residual: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Linear(linear) => linear.forward_add(x, residual)?,
            Self::Conv(conv) => conv.forward_add(x, || Ok(residual.clone()))?,
        })
    }
}

impl SpatialTransformer {
    /// Reads a transformer of `depth` blocks.
    pub fn load(
        config: &UnetConfig,
        transformer: &TransformerConfig,
        channels: usize,
        depth: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        let linear = config.use_linear_projection;
        let blocks = vb.pp("transformer_blocks");
        Ok(Self {
            norm: GroupNorm::load(
                channels,
                config.norm_num_groups,
                GROUP_NORM_EPS,
                vb.pp("norm"),
            )?,
            proj_in: Projection::load(linear, channels, vb.pp("proj_in"))?,
            transformer_blocks: (0..depth)
                .map(|i| TransformerBlock::load(transformer, channels, blocks.pp(i)))
                .collect::<Result<_>>()?,
            proj_out: Projection::load(linear, channels, vb.pp("proj_out"))?,
        })
    }

    /// Projects the text for each block's cross-attention, in the blocks' order.
    pub fn project_context(&self, context: &Tensor, out: &mut Vec<KeyValues>) -> Result<()> {
        for block in &self.transformer_blocks {
            out.push(block.attn2.project(context)?);
        }
        Ok(())
    }

    /// x [B, H, W, C] → [B, H, W, C]
    pub fn forward(&self, x: Tensor, contexts: &mut Contexts) -> Result<Tensor> {
        let (b, h, w, c) = x.dims4()?;
        let reads = self.proj_in.reads();
        let hidden = self
            .proj_in
            .forward(&self.norm.forward_for(reads, &x, None)?)?;
        let mut hidden = hidden.reshape((b, h * w, c))?; // [B, H·W, C]
        for block in &self.transformer_blocks {
            let context = contexts
                .next()
                .expect("one for each block: `Unet::prepare` made them");
            hidden = block.forward(&hidden, context)?;
        }
        self.proj_out.forward_add(hidden.reshape((b, h, w, c))?, &x)
    }
}

/// Self-attention, cross-attention, feed-forward, each normed and added.
/// Source: diffusers, `models/attention.py`, `BasicTransformerBlock`.
#[derive(Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff_in: Linear,
    ff_out: Linear,
}

impl TransformerBlock {
    fn load(config: &TransformerConfig, channels: usize, vb: VarBuilder) -> Result<Self> {
        let norm = |name: &str| LayerNorm::load(channels, LAYER_NORM_EPS, vb.pp(name));
        let (heads, context) = (config.heads, config.context_width);
        // GEGLU: four times the channels, and as many again for the gate.
        let inner = 4 * channels;
        Ok(Self {
            norm1: norm("norm1")?,
            attn1: Attention::load(channels, channels, heads, vb.pp("attn1"))?,
            norm2: norm("norm2")?,
            attn2: Attention::load(channels, context, heads, vb.pp("attn2"))?,
            norm3: norm("norm3")?,
            ff_in: Linear::load(channels, 2 * inner, vb.pp("ff.net.0.proj"))?,
            ff_out: Linear::load(inner, channels, vb.pp("ff.net.2"))?,
        })
    }

    /// x [B, H·W, C] → [B, H·W, C]
    fn forward(&self, x: &Tensor, context: &KeyValues) -> Result<Tensor> {
        let mut x = {
            let normed = self.norm1.forward_for(self.attn1.reads(), x)?;
            self.attn1.add_to(x, &normed)?
        };
        x = {
            let normed = self.norm2.forward_for(self.attn2.reads_queries(), &x)?;
            self.attn2.add_cross_to(&x, &normed, context)?
        };
        let inner = {
            let normed = self.norm3.forward_for(self.ff_in.reads(), &x)?;
            self.ff_in.forward_geglu(self.ff_out.reads(), normed)? // [B, H·W, 4C]
        };
        Ok(self.ff_out.forward_add(inner, &x)?)
    }
}
