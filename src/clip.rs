//! CLIP text encoders: token ids → hidden states and a pooled embedding.
//!
//! Source: huggingface/transformers, `models/clip/modeling_clip.py`. Only what SDXL takes is
//! computed: a hidden state before the last layer has no final layer norm, and encoder 1 stops there.

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;

use crate::config::ClipConfig;
use crate::error::Result;
use crate::ops::{
    Activation, Embedding, LayerNorm, Linear, Mask, activation, add, add_to_each, attention,
};

/// One text encoder. Letters: N positions (77), C hidden width, P projection width.
#[derive(Debug)]
pub struct ClipTextEncoder {
    token_embedding: Embedding,
    position_embedding: Embedding,
    layers: Vec<Layer>,
    final_layer_norm: LayerNorm,
    text_projection: Option<Linear>,
    config: ClipConfig,
    device: Device,
}

/// What an encoder gives for a chunk of text.
#[derive(Clone, Debug)]
pub struct TextStates {
    /// The hidden state asked for: [B, N, C].
    pub hidden: Tensor,
    /// The projected embedding of the first EOS token, where the encoder has a projection: [B, P].
    pub pooled: Option<Tensor>,
}

impl ClipTextEncoder {
    /// Reads an encoder; with `project`, its `text_projection` too. Keys may carry the prefix
    /// `text_model.` (older transformers) or not.
    pub fn load(config: ClipConfig, project: bool, vb: VarBuilder) -> Result<Self> {
        let width = config.hidden_size;
        let text_projection = project
            .then(|| Linear::load_no_bias(width, config.projection_dim, vb.pp("text_projection")))
            .transpose()?;
        let prefixed = vb.contains_tensor("text_model.final_layer_norm.weight");
        let vb = if prefixed { vb.pp("text_model") } else { vb };
        let embeddings = vb.pp("embeddings");
        let layers = vb.pp("encoder.layers");
        Ok(Self {
            token_embedding: Embedding::load(
                config.vocab_size,
                width,
                embeddings.pp("token_embedding"),
            )?,
            position_embedding: Embedding::load(
                config.max_position_embeddings,
                width,
                embeddings.pp("position_embedding"),
            )?,
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::load(&config, layers.pp(i)))
                .collect::<Result<_>>()?,
            final_layer_norm: LayerNorm::load(
                width,
                config.layer_norm_eps,
                vb.pp("final_layer_norm"),
            )?,
            text_projection,
            device: vb.device().clone(),
            config,
        })
    }

    /// The encoder's settings.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// ids: B rows of N → the hidden state `clip_skip + 2` from the end (0: the last but one, as SDXL
    /// has it) and the pooled embedding.
    pub fn forward(&self, ids: &[Vec<u32>], clip_skip: usize) -> Result<TextStates> {
        let taken = self.config.hidden_state(clip_skip)?;
        let (batch, length) = (ids.len(), ids.first().map_or(0, Vec::len));
        let flat: Vec<u32> = ids.iter().flatten().copied().collect();
        let input = Tensor::from_vec(flat, (batch, length), &self.device)?; // [B, N]
        let positions = self.position_embedding.first(length)?; // [N, C]
        let mut x = add_to_each(&self.token_embedding.forward(&input)?, &positions)?; // [B, N, C]

        let needed = if self.text_projection.is_some() {
            self.layers.len()
        } else {
            taken
        };
        let mut hidden = x.clone();
        for (i, layer) in self.layers[..needed].iter().enumerate() {
            x = layer.forward(&x)?;
            if i + 1 == taken {
                hidden = x.clone();
            }
        }
        let pooled = match &self.text_projection {
            None => None,
            Some(projection) => {
                let x = self.final_layer_norm.forward(&x)?; // [B, N, C]
                let rows = ids
                    .iter()
                    .enumerate()
                    .map(|(b, ids)| x.get(b)?.get(self.pooled_position(ids)))
                    .collect::<candle_core::Result<Vec<_>>>()?;
                Some(projection.forward(&Tensor::stack(&rows, 0)?)?) // [B, P]
            }
        };
        Ok(TextStates { hidden, pooled })
    }

    /// The row that is pooled: the first EOS token, or, where a config of the first CLIP release says
    /// that EOS is 2, the first of the largest ids.
    fn pooled_position(&self, ids: &[u32]) -> usize {
        let wanted = match self.config.eos_token_id {
            2 => ids.iter().copied().max(),
            eos => Some(eos),
        };
        ids.iter().position(|id| Some(*id) == wanted).unwrap_or(0)
    }

    /// Width of the pooled embedding.
    pub fn projection_dim(&self) -> usize {
        self.config.projection_dim
    }
}

#[derive(Debug)]
struct Layer {
    layer_norm1: LayerNorm,
    self_attn: SelfAttention,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl Layer {
    fn load(config: &ClipConfig, vb: VarBuilder) -> Result<Self> {
        let (width, inner, eps) = (
            config.hidden_size,
            config.intermediate_size,
            config.layer_norm_eps,
        );
        let mlp = vb.pp("mlp");
        Ok(Self {
            layer_norm1: LayerNorm::load(width, eps, vb.pp("layer_norm1"))?,
            self_attn: SelfAttention::load(width, config.num_attention_heads, vb.pp("self_attn"))?,
            layer_norm2: LayerNorm::load(width, eps, vb.pp("layer_norm2"))?,
            fc1: Linear::load(width, inner, mlp.pp("fc1"))?,
            fc2: Linear::load(inner, width, mlp.pp("fc2"))?,
            activation: match config.hidden_act.as_str() {
                "quick_gelu" => Activation::QuickGelu,
                _ => Activation::Gelu, // the config allows no third
            },
        })
    }

    /// x [B, N, C] → [B, N, C]
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = add(x, &self.self_attn.forward(&self.layer_norm1.forward(x)?)?)?;
        let inner = self.fc1.forward(&self.layer_norm2.forward(&x)?)?; // [B, N, 4C]
        let inner = activation(&inner, self.activation)?;
        Ok(add(&x, &self.fc2.forward(&inner)?)?)
    }
}

#[derive(Debug)]
struct SelfAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: usize,
}

impl SelfAttention {
    fn load(width: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        let linear = |name: &str| Linear::load(width, width, vb.pp(name));
        Ok(Self {
            q_proj: linear("q_proj")?,
            k_proj: linear("k_proj")?,
            v_proj: linear("v_proj")?,
            out_proj: linear("out_proj")?,
            heads,
        })
    }

    /// x [B, N, C] → [B, N, C]; a token sees those before it, and padding is not masked.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (q, k, v) = (
            self.q_proj.forward(x)?,
            self.k_proj.forward(x)?,
            self.v_proj.forward(x)?,
        );
        Ok(self
            .out_proj
            .forward(&attention(&q, &k, &v, self.heads, Mask::Causal)?)?)
    }
}
