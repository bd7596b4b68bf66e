//! [`crate::clip`] and [`crate::conditioning`], by shape.

use candle_core::DType;

use super::heap::{Heap, Tensor};
use super::loader::Loader;
use super::ops::{activation, add, attention, embedding, layer_norm, linear, sum_of};
use crate::config::ClipConfig;
use crate::error::Result;
use crate::ops::{Activation, Reads};

/// `ClipTextEncoder::load`.
pub fn load(config: &ClipConfig, project: bool, weights: &mut Loader) {
    let (width, inner) = (config.hidden_size, config.intermediate_size);
    if project {
        weights.linear(width, config.projection_dim, false);
    }
    weights.tensor(config.vocab_size * width);
    weights.tensor(config.max_position_embeddings * width);
    for _ in 0..config.num_hidden_layers {
        weights.norm(width);
        for _ in ["q", "k", "v", "out"] {
            weights.linear(width, width, true);
        }
        weights.norm(width);
        weights.linear(width, inner, true);
        weights.linear(inner, width, true);
    }
    weights.norm(width);
}

/// What an encoder gives: [B, N, C] and, where it projects, [B, P].
pub struct TextStates {
    pub hidden: Tensor,
    pub pooled: Option<Tensor>,
}

/// `ClipTextEncoder::forward` of `chunks` rows of ids.
pub fn forward(
    heap: &Heap,
    config: &ClipConfig,
    (project, dtype): (bool, DType),
    chunks: usize,
    clip_skip: usize,
) -> Result<TextStates> {
    let taken = config.hidden_state(clip_skip)?;
    let (width, length) = (config.hidden_size, config.max_position_embeddings);
    let input = heap.tensor([chunks, length], DType::U32); // [B, N]
    // The positions are a view of their table, which is no part of this count.
    let mut x = {
        let tokens = embedding(&input, width, dtype);
        sum_of(&tokens, length * width)
    };
    let needed = if project {
        config.num_hidden_layers
    } else {
        taken
    };
    let mut hidden = x.clone();
    for i in 0..needed {
        x = layer(&x, config);
        if i + 1 == taken {
            hidden = x.clone();
        }
    }
    let pooled = project.then(|| {
        let x = layer_norm(Reads::Float, &x); // [B, N, C]
        let row = x.view([1, width]);
        let rows = Tensor::cat(&vec![&row; chunks], 0); // [B, C]
        linear(&rows, config.projection_dim, false) // [B, P]
    });
    Ok(TextStates { hidden, pooled })
}

fn layer(x: &Tensor, config: &ClipConfig) -> Tensor {
    let (width, inner) = (config.hidden_size, config.intermediate_size);
    let which = match config.hidden_act.as_str() {
        "quick_gelu" => Activation::QuickGelu,
        _ => Activation::Gelu,
    };
    let x = add(x, &self_attention(&layer_norm(Reads::Float, x), config));
    let hidden = linear(&layer_norm(Reads::Float, &x), inner, true); // [B, N, 4C]
    let hidden = activation(&hidden, which);
    add(&x, &linear(&hidden, width, true))
}

fn self_attention(x: &Tensor, config: &ClipConfig) -> Tensor {
    let width = config.hidden_size;
    let (q, k, v) = (
        linear(x, width, true),
        linear(x, width, true),
        linear(x, width, true),
    );
    let heads = config.num_attention_heads;
    linear(&attention(&q, &k, &v, heads, true), width, true)
}
