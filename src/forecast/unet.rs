//! [`crate::unet`], by shape.

use std::iter;

use candle_core::DType;

use super::heap::{Heap, Tensor};
use super::loader::Loader;
use super::ops::{
    Conv, Statistics, activation, add, attention, concat_channels, geglu, group_norm, layer_norm,
    linear, to_channels_first, to_channels_last, upsample_nearest,
};
use super::resnet;
use crate::config::{LevelConfig, TransformerConfig, UnetConfig};
use crate::ops::{Activation, Padding};
use crate::unet::halving;

/// `Unet::load`.
pub fn load(config: &UnetConfig, weights: &mut Loader) {
    let base = config.base_channels();
    let embedding = Some(config.time_embedding_width);
    let mut inputs = base;
    let mut skips = vec![base];
    for (i, level) in config.down.iter().enumerate() {
        let last = i + 1 == config.down.len();
        for _ in 0..level.layers {
            resnet::load(inputs, level.channels, embedding, weights);
            inputs = level.channels;
        }
        if !last {
            weights.conv(inputs, inputs, 3);
        }
        load_transformers(level.transformer.as_ref(), inputs, weights);
        skips.extend(vec![inputs; level.layers + usize::from(!last)]);
    }
    if let Some(transformer) = &config.mid {
        for _ in 0..1 + usize::from(transformer.is_some()) {
            resnet::load(inputs, inputs, embedding, weights);
        }
        load_transformers(transformer.as_ref(), inputs, weights);
    }
    for (i, level) in config.up.iter().enumerate() {
        for skip in skips.split_off(skips.len() - level.layers).iter().rev() {
            resnet::load(skip + inputs, level.channels, embedding, weights);
            inputs = level.channels;
        }
        if i + 1 < config.up.len() {
            weights.conv(inputs, inputs, 3);
        }
        load_transformers(level.transformer.as_ref(), inputs, weights);
    }
    weights.conv(config.in_channels, base, config.conv_in_kernel);
    let width = config.time_embedding_width;
    for (inputs, condition) in [
        (base, config.time_cond_proj_dim),
        (config.projection_class_embeddings_input_dim, None),
    ] {
        weights.linear(inputs, width, true);
        weights.linear(width, width, true);
        if let Some(condition) = condition {
            weights.linear(condition, inputs, false);
        }
    }
    weights.norm(base);
    weights.conv(base, config.out_channels, config.conv_out_kernel);
}

/// A projection has as many weights as a linear layer and as a 1×1 convolution.
fn load_transformers(
    transformer: Option<&TransformerConfig>,
    channels: usize,
    weights: &mut Loader,
) {
    let Some(TransformerConfig {
        context_width,
        depths,
        ..
    }) = transformer
    else {
        return;
    };
    for &depth in depths {
        weights.norm(channels);
        weights.linear(channels, channels, true);
        for _ in 0..depth {
            for context in [channels, *context_width] {
                weights.norm(channels);
                weights.linear(channels, channels, false);
                weights.linear(context, channels, false);
                weights.linear(context, channels, false);
                weights.linear(channels, channels, true);
            }
            weights.norm(channels);
            weights.linear(channels, 8 * channels, true);
            weights.linear(4 * channels, channels, true);
        }
        weights.linear(channels, channels, true);
    }
}

/// `unet::Prepared`.
pub struct Prepared {
    added: Tensor,
    guidance: Option<Tensor>,
    key_values: Vec<(Tensor, Tensor)>,
}

impl Prepared {
    /// Rows of conditioning.
    pub fn rows(&self) -> usize {
        self.added.dims()[0]
    }
}

/// `Unet::prepare`: context [R, N, C], pooled [R, P].
pub fn prepare(config: &UnetConfig, dtype: DType, context: &Tensor, pooled: &Tensor) -> Prepared {
    let context = context.cast(dtype);
    let levels = |levels: &[LevelConfig]| -> Vec<(usize, usize)> {
        let blocks = |level: &LevelConfig| {
            let depth = level.transformer.iter().flat_map(|t| &t.depths).sum();
            iter::repeat_n(level.channels, depth)
        };
        levels.iter().flat_map(blocks).map(|c| (c, c)).collect()
    };
    let mid = config.mid.iter().flatten().map(|transformer| LevelConfig {
        channels: config.down[config.down.len() - 1].channels,
        layers: 1,
        transformer: Some(transformer.clone()),
    });
    let mid: Vec<LevelConfig> = mid.collect();
    let widths = [levels(&config.down), levels(&mid), levels(&config.up)].concat();
    let key_values = widths
        .into_iter()
        .map(|(k, v)| (linear(&context, k, false), linear(&context, v, false)))
        .collect();
    Prepared {
        added: added(config, &pooled.cast(dtype)),
        guidance: config.time_cond_proj_dim.map(|width| {
            let wave = context.heap().tensor([1, width], DType::F32);
            wave.cast(dtype)
        }),
        key_values,
    }
}

/// `Embeddings::added`: pooled [R, P] → [R, T].
fn added(config: &UnetConfig, pooled: &Tensor) -> Tensor {
    let [rows, pooled_width] = pooled.sizes();
    let width = config.projection_class_embeddings_input_dim - pooled_width;
    let waves = pooled.heap().tensor([rows, width], DType::F32);
    let joined = Tensor::cat(&[pooled, &waves.cast(pooled.dtype())], 1);
    embed(config, &joined, None)
}

/// `EmbeddingMlp::forward`.
fn embed(config: &UnetConfig, x: &Tensor, condition: Option<&Tensor>) -> Tensor {
    let width = config.time_embedding_width;
    let x = match condition {
        Some(condition) => {
            linear(condition, x.width(), false);
            x.like()
        }
        None => x.clone(),
    };
    let hidden = activation(&linear(&x, width, true), Activation::Silu);
    linear(&hidden, width, true)
}

/// What the blocks of one forward share.
struct Forward<'a> {
    config: &'a UnetConfig,
    /// The activated time embedding: [B, T].
    embedding: Tensor,
    /// The remaining cross-attentions' keys and values.
    contexts: std::slice::Iter<'a, (Tensor, Tensor)>,
}

/// `Unet::forward`: sample [B, C_in, H, W] → [B, C_out, H, W].
pub fn forward(config: &UnetConfig, dtype: DType, sample: &Tensor, prepared: &Prepared) -> Tensor {
    let heap: &Heap = sample.heap();
    let base = config.base_channels();
    let wave = heap.tensor([1, base], DType::F32).cast(dtype);
    let _time = embed(config, &wave, prepared.guidance.as_ref()); // [1, T]
    let embedding = prepared.added.like(); // [R, T]
    let [rows, width] = embedding.sizes();
    let images = sample.dims()[0] / rows;
    let embedding = match images {
        1 => embedding,
        _ => heap.tensor([rows * images, width], dtype),
    };
    let mut run = Forward {
        config,
        embedding: activation(&embedding, Activation::Silu), // [B, T]
        contexts: prepared.key_values.iter(),
    };

    let x = to_channels_last(sample, dtype); // [B, H, W, C_in]
    let mut x = edge(base, config.conv_in_kernel).forward(&x); // [B, H, W, C]
    let mut skips = vec![x.clone()];
    for (i, level) in config.down.iter().enumerate() {
        x = run.down(x, level, i + 1 == config.down.len(), &mut skips);
    }
    if let Some(transformer) = &config.mid {
        x = run.mid(x, transformer.as_ref());
    }
    for (i, level) in config.up.iter().enumerate() {
        x = run.up(x, level, i + 1 == config.up.len(), &mut skips);
    }
    let x = run.norm(&x, Some(Activation::Silu));
    let x = edge(config.out_channels, config.conv_out_kernel).forward(&x); // [B, H, W, C_out]
    to_channels_first(&x, DType::F32) // [B, C_out, H, W]
}

/// The first and the last convolution.
fn edge(outputs: usize, kernel: usize) -> Conv {
    Conv::new(outputs, kernel, 1, Padding::all((kernel - 1) / 2))
}

impl Forward<'_> {
    fn norm(&self, x: &Tensor, activation: Option<Activation>) -> Tensor {
        group_norm(x, self.config.norm_num_groups, activation, Statistics::Own)
    }

    fn resnet(&self, x: &Tensor, outputs: usize, scale: f64) -> Tensor {
        resnet::forward(x, outputs, Some(&self.embedding), scale, &|x| {
            self.norm(x, Some(Activation::Silu))
        })
    }

    fn down(
        &mut self,
        mut x: Tensor,
        level: &LevelConfig,
        last: bool,
        skips: &mut Vec<Tensor>,
    ) -> Tensor {
        for i in 0..level.layers {
            x = self.resnet(&x, level.channels, 1.0);
            x = self.transformer(x, level.transformer.as_ref(), i);
            skips.push(x.clone());
        }
        if !last {
            let halving = halving(self.config.downsample_padding);
            x = Conv::new(level.channels, 3, 2, halving).forward(&x);
            skips.push(x.clone());
        }
        x
    }

    fn mid(&mut self, x: Tensor, transformer: Option<&TransformerConfig>) -> Tensor {
        let (channels, scale) = (x.width(), self.config.mid_block_scale_factor);
        let mut x = self.resnet(&x, channels, scale);
        if transformer.is_some() {
            x = self.transformer(x, transformer, 0);
            x = self.resnet(&x, channels, scale);
        }
        x
    }

    fn up(
        &mut self,
        mut x: Tensor,
        level: &LevelConfig,
        last: bool,
        skips: &mut Vec<Tensor>,
    ) -> Tensor {
        for i in 0..level.layers {
            let skip = skips.pop().expect("as many skips as layers");
            x = concat_channels(&x, &skip); // [B, H, W, C + C_skip]
            drop(skip);
            x = self.resnet(&x, level.channels, 1.0);
            x = self.transformer(x, level.transformer.as_ref(), i);
        }
        if let (false, Some(next)) = (last, skips.last()) {
            let [_, height, width, _] = next.sizes();
            x = Conv::same(level.channels, 3).forward(&upsample_nearest(&x, height, width));
        }
        x
    }

    /// `SpatialTransformer::forward` of a level's layer `i`, where the level has transformers.
    fn transformer(
        &mut self,
        x: Tensor,
        transformer: Option<&TransformerConfig>,
        i: usize,
    ) -> Tensor {
        let Some(transformer) = transformer else {
            return x;
        };
        let Some(&depth) = transformer.depths.get(i) else {
            return x;
        };
        let [b, h, w, c] = x.sizes();
        let project = |x: &Tensor| match self.config.use_linear_projection {
            true => linear(x, c, true),
            false => Conv::same(c, 1).forward(x),
        };
        let hidden = project(&self.norm(&x, None));
        let mut hidden = hidden.view([b, h * w, c]); // [B, H·W, C]
        for _ in 0..depth {
            let context = self.contexts.next().expect("one for each block");
            hidden = block(&hidden, transformer.heads, context);
        }
        let hidden = project(&hidden.view([b, h, w, c]));
        add(&hidden, &x)
    }
}

/// `TransformerBlock::forward`: x [B, H·W, C] → [B, H·W, C].
fn block(x: &Tensor, heads: usize, (keys, values): &(Tensor, Tensor)) -> Tensor {
    let c = x.width();
    let attend = |x: &Tensor, keys: &Tensor, values: &Tensor| {
        let queries = linear(x, c, false);
        linear(&attention(&queries, keys, values, heads, false), c, true)
    };
    let mut x = {
        let normed = layer_norm(x);
        let (keys, values) = (linear(&normed, c, false), linear(&normed, c, false));
        add(x, &attend(&normed, &keys, &values))
    };
    x = add(&x, &attend(&layer_norm(&x), keys, values));
    let inner = geglu(&linear(&layer_norm(&x), 8 * c, true)); // [B, H·W, 4C]
    add(&x, &linear(&inner, c, true))
}
