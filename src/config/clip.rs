//! `CLIPTextConfig` of transformers.

use serde::Deserialize;

use super::{above_zero, divides, one_of, read, sizes};
use crate::error::{Error, Result};
use crate::weights::folder::Folder;

/// A CLIP text encoder (transformers, `CLIPTextConfig`).
#[derive(Clone, Debug, Deserialize)]
pub struct ClipConfig {
    /// Entries of the token table.
    #[serde(default = "ClipConfig::vocab_size")]
    pub vocab_size: usize,
    /// Width of a hidden state.
    #[serde(default = "ClipConfig::hidden_size")]
    pub hidden_size: usize,
    /// Width inside the feed-forward network.
    #[serde(default = "ClipConfig::intermediate_size")]
    pub intermediate_size: usize,
    /// Width of the pooled projection.
    #[serde(default = "ClipConfig::hidden_size")]
    pub projection_dim: usize,
    /// Layers.
    #[serde(default = "ClipConfig::num_hidden_layers")]
    pub num_hidden_layers: usize,
    /// Attention heads.
    #[serde(default = "ClipConfig::num_attention_heads")]
    pub num_attention_heads: usize,
    /// Positions, 77.
    #[serde(default = "ClipConfig::max_position_embeddings")]
    pub max_position_embeddings: usize,
    /// `quick_gelu` or `gelu`.
    #[serde(default = "ClipConfig::hidden_act")]
    pub hidden_act: String,
    /// Of the layer norms.
    #[serde(default = "ClipConfig::layer_norm_eps")]
    pub layer_norm_eps: f64,
    /// The token whose row is pooled; 2 in old files, where it means the largest id.
    #[serde(default = "ClipConfig::eos_token_id")]
    pub eos_token_id: u32,
}

impl ClipConfig {
    fn vocab_size() -> usize {
        49408
    }
    fn hidden_size() -> usize {
        512
    }
    fn intermediate_size() -> usize {
        2048
    }
    fn num_hidden_layers() -> usize {
        12
    }
    fn num_attention_heads() -> usize {
        8
    }
    fn max_position_embeddings() -> usize {
        77
    }
    fn hidden_act() -> String {
        "quick_gelu".into()
    }
    fn layer_norm_eps() -> f64 {
        1e-5
    }
    fn eos_token_id() -> u32 {
        49407
    }

    /// Layers behind the hidden state that is taken, `clip_skip + 2` from the end (0: the last but
    /// one, as SDXL has it). transformers' hidden_states holds the embeddings and every layer's
    /// output.
    pub fn hidden_state(&self, clip_skip: usize) -> Result<usize> {
        let depth = self.num_hidden_layers;
        (depth + 1)
            .checked_sub(clip_skip.saturating_add(2))
            .ok_or_else(|| {
                Error::Request(format!(
                    "--clip-skip {clip_skip}: this text encoder has {depth} layers, so at most {}",
                    depth.saturating_sub(1)
                ))
            })
    }

    /// Reads and checks a text encoder's config.
    pub fn load(folder: &Folder) -> Result<Self> {
        read(folder, |c: &Self| {
            sizes(&[
                ("vocab_size", c.vocab_size),
                ("hidden_size", c.hidden_size),
                ("intermediate_size", c.intermediate_size),
                ("projection_dim", c.projection_dim),
                ("num_hidden_layers", c.num_hidden_layers),
                ("max_position_embeddings", c.max_position_embeddings),
            ])?;
            above_zero("layer_norm_eps", c.layer_norm_eps)?;
            one_of("hidden_act", &c.hidden_act, &["quick_gelu", "gelu"])?;
            divides(
                "num_attention_heads",
                c.num_attention_heads,
                "`hidden_size`",
                c.hidden_size,
            )
        })
    }
}
