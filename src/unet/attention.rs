//! Attention as the UNet's transformers use it.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::error::Result;
use crate::ops::{Linear, Mask, Reads, attention, cross_attention};

/// Attention's projections. Source: diffusers, `models/attention_processor.py`, `Attention`.
#[derive(Debug)]
pub struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
}

/// Keys and values, [B, N, C] each.
#[derive(Clone, Debug)]
pub struct KeyValues {
    keys: Tensor,
    values: Tensor,
}

impl Attention {
    /// Reads the projections: queries from `width` channels, keys and values from `context_width`.
    pub fn load(width: usize, context_width: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            to_q: Linear::load_no_bias(width, width, vb.pp("to_q"))?,
            to_k: Linear::load_no_bias(context_width, width, vb.pp("to_k"))?,
            to_v: Linear::load_no_bias(context_width, width, vb.pp("to_v"))?,
            to_out: Linear::load(width, width, vb.pp("to_out.0"))?,
            heads,
        })
    }

    /// What a self-attention would rather read.
    pub fn reads(&self) -> Reads {
        Reads::all([&self.to_q, &self.to_k, &self.to_v].map(Linear::reads))
    }

    /// What a cross-attention would rather read.
    pub fn reads_queries(&self) -> Reads {
        self.to_q.reads()
    }

    /// context [B, N, C_context] → keys and values.
    pub fn project(&self, context: &Tensor) -> Result<KeyValues> {
        Ok(KeyValues {
            keys: self.to_k.forward(context)?,
            values: self.to_v.forward(context)?,
        })
    }

    /// x + its attention over itself: `normed` is x's norm, [B, H·W, C] → [B, H·W, C]
    pub fn add_to(&self, x: &Tensor, normed: &Tensor) -> Result<Tensor> {
        let KeyValues { keys, values } = self.project(normed)?;
        let queries = self.to_q.forward(normed)?;
        let mixed = attention(&queries, &keys, &values, self.heads, Mask::None)?;
        drop(queries);
        Ok(self.to_out.forward_add(mixed, x)?)
    }

    /// The same over the text.
    pub fn add_cross_to(
        &self,
        x: &Tensor,
        normed: &Tensor,
        KeyValues { keys, values }: &KeyValues,
    ) -> Result<Tensor> {
        let mixed = cross_attention(normed, &self.to_q, keys, values, self.heads)?;
        Ok(self.to_out.forward_add(mixed, x)?)
    }
}
