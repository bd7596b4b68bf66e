//! [`crate::unet`], by shape.

use std::iter;

use candle_core::DType;

use super::heap::{Heap, Tensor};
use super::loader::Loader;
use super::model::Int8;
use super::ops::{
    Conv, Statistics, activation, add, attention, concat_channels, cross_attention, group_norm,
    layer_norm, linear_add, linear_geglu, linear_in, to_channels_first, to_channels_last,
};
use super::resnet;
use crate::config::{LevelConfig, TransformerConfig, UnetConfig};
use crate::ops::int8::Scheme;
use crate::ops::{Activation, Padding, Reads};
use crate::unet::halving;

/// `Unet::load`.
pub fn load(config: &UnetConfig, int8: &Int8, weights: &mut Loader) {
    let base = config.base_channels();
    let embedding = Some(config.time_embedding_width);
    let mut inputs = base;
    let mut skips = vec![base];
    for (i, level) in config.down.iter().enumerate() {
        let last = i + 1 == config.down.len();
        for _ in 0..level.layers {
            resnet::load(inputs, level.channels, embedding, int8, weights);
            inputs = level.channels;
        }
        if !last {
            weights.layer([inputs, inputs, 9], true, int8, "downsamplers.0.conv");
        }
        load_transformers(level.transformer.as_ref(), inputs, int8, weights);
        skips.extend(vec![inputs; level.layers + usize::from(!last)]);
    }
    if let Some(transformer) = &config.mid {
        for _ in 0..1 + usize::from(transformer.is_some()) {
            resnet::load(inputs, inputs, embedding, int8, weights);
        }
        load_transformers(transformer.as_ref(), inputs, int8, weights);
    }
    for (i, level) in config.up.iter().enumerate() {
        for skip in skips.split_off(skips.len() - level.layers).iter().rev() {
            resnet::load(skip + inputs, level.channels, embedding, int8, weights);
            inputs = level.channels;
        }
        if i + 1 < config.up.len() {
            weights.layer([inputs, inputs, 9], true, int8, "upsamplers.0.conv");
        }
        load_transformers(level.transformer.as_ref(), inputs, int8, weights);
    }
    let taps = |kernel: usize| kernel * kernel;
    let sizes = [base, config.in_channels, taps(config.conv_in_kernel)];
    weights.layer(sizes, true, int8, "conv_in");
    let width = config.time_embedding_width;
    for (part, inputs, condition) in [
        (TIME_EMBEDDING, base, config.time_cond_proj_dim),
        (
            ADD_EMBEDDING,
            config.projection_class_embeddings_input_dim,
            None,
        ),
    ] {
        weights.layer([width, inputs, 1], true, int8, part);
        weights.layer([width, width, 1], true, int8, part);
        if let Some(condition) = condition {
            weights.layer([inputs, condition, 1], false, int8, part);
        }
    }
    weights.norm(base);
    let sizes = [config.out_channels, base, taps(config.conv_out_kernel)];
    weights.layer(sizes, true, int8, "conv_out");
}

/// A projection has as many weights as a linear layer and as a 1×1 convolution.
fn load_transformers(
    transformer: Option<&TransformerConfig>,
    channels: usize,
    int8: &Int8,
    weights: &mut Loader,
) {
    let linear = |weights: &mut Loader, inputs, outputs, bias, part: &str| {
        weights.layer([outputs, inputs, 1], bias, int8, part);
    };
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
        linear(weights, channels, channels, true, "proj_in");
        for _ in 0..depth {
            for (parts, context) in [(SELF, channels), (CROSS, *context_width)] {
                weights.norm(channels);
                linear(weights, channels, channels, false, parts.to_q);
                linear(weights, context, channels, false, parts.to_k);
                linear(weights, context, channels, false, parts.to_v);
                linear(weights, channels, channels, true, parts.to_out);
            }
            weights.norm(channels);
            linear(weights, channels, 8 * channels, true, FF_IN);
            linear(weights, 4 * channels, channels, true, FF_OUT);
        }
        linear(weights, channels, channels, true, "proj_out");
    }
}

const TIME_EMBEDDING: &str = "time_embedding";
const ADD_EMBEDDING: &str = "add_embedding";
const FF_IN: &str = "ff.net.0.proj";
const FF_OUT: &str = "ff.net.2";

/// Names of an attention's projections.
#[derive(Clone, Copy)]
struct Projections {
    to_q: &'static str,
    to_k: &'static str,
    to_v: &'static str,
    to_out: &'static str,
}

const SELF: Projections = Projections {
    to_q: "attn1.to_q",
    to_k: "attn1.to_k",
    to_v: "attn1.to_v",
    to_out: "attn1.to_out.0",
};

const CROSS: Projections = Projections {
    to_q: "attn2.to_q",
    to_k: "attn2.to_k",
    to_v: "attn2.to_v",
    to_out: "attn2.to_out.0",
};

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
pub fn prepare(
    config: &UnetConfig,
    (dtype, int8): (DType, &Int8),
    context: &Tensor,
    pooled: &Tensor,
) -> Prepared {
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
        .map(|(k, v)| {
            let project = |part, width| linear_in(int8.of(part), &context, width, false);
            (project(CROSS.to_k, k), project(CROSS.to_v, v))
        })
        .collect();
    Prepared {
        added: added(config, int8, &pooled.cast(dtype)),
        guidance: config.time_cond_proj_dim.map(|width| {
            let wave = context.heap().tensor([1, width], DType::F32);
            wave.cast(dtype)
        }),
        key_values,
    }
}

/// `Embeddings::added`: pooled [R, P] → [R, T].
fn added(config: &UnetConfig, int8: &Int8, pooled: &Tensor) -> Tensor {
    let [rows, pooled_width] = pooled.sizes();
    let width = config.projection_class_embeddings_input_dim - pooled_width;
    let waves = pooled.heap().tensor([rows, width], DType::F32);
    let joined = Tensor::cat(&[pooled, &waves.cast(pooled.dtype())], 1);
    embed(config, int8.of(ADD_EMBEDDING), &joined, None)
}

/// `EmbeddingMlp::forward`.
fn embed(
    config: &UnetConfig,
    int8: Option<Scheme>,
    x: &Tensor,
    condition: Option<&Tensor>,
) -> Tensor {
    let width = config.time_embedding_width;
    let x = match condition {
        Some(condition) => {
            linear_in(int8, condition, x.width(), false);
            x.heap().launch(Some(1));
            x.like()
        }
        None => x.clone(),
    };
    let hidden = activation(&linear_in(int8, &x, width, true), Activation::Silu);
    linear_in(int8, &hidden, width, true)
}

/// What the blocks of one forward share.
struct Forward<'a> {
    config: &'a UnetConfig,
    int8: &'a Int8,
    /// The activated time embedding: [B, T].
    embedding: Tensor,
    /// The remaining cross-attentions' keys and values.
    contexts: std::slice::Iter<'a, (Tensor, Tensor)>,
}

/// `Unet::forward`: sample [B, C_in, H, W] → [B, C_out, H, W].
pub fn forward(
    config: &UnetConfig,
    (dtype, int8): (DType, &Int8),
    sample: &Tensor,
    prepared: &Prepared,
) -> Tensor {
    let heap: &Heap = sample.heap();
    let base = config.base_channels();
    let wave = heap.tensor([1, base], DType::F32).cast(dtype);
    let time = embed(
        config,
        int8.of(TIME_EMBEDDING),
        &wave,
        prepared.guidance.as_ref(),
    ); // [1, T]
    let embedding = add(&prepared.added, &time); // [R, T]
    let [rows, width] = embedding.sizes();
    let images = sample.dims()[0] / rows;
    // The wave's cast, a copy for each image.
    heap.launch(Some(1 + if images == 1 { 0 } else { images }));
    let embedding = match images {
        1 => embedding,
        _ => heap.tensor([rows * images, width], dtype),
    };
    let mut run = Forward {
        config,
        int8,
        embedding: activation(&embedding, Activation::Silu), // [B, T]
        contexts: prepared.key_values.iter(),
    };

    let x = to_channels_last(sample, dtype); // [B, H, W, C_in]
    let conv_in = edge(base, config.conv_in_kernel).kept_in(int8.of("conv_in"));
    let mut x = conv_in.forward(&x); // [B, H, W, C]
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
    let x = run.norm(Reads::Float, &x, Some(Activation::Silu));
    let conv_out = edge(config.out_channels, config.conv_out_kernel).kept_in(int8.of("conv_out"));
    let x = conv_out.forward(&x); // [B, H, W, C_out]
    to_channels_first(&x, DType::F32) // [B, C_out, H, W]
}

/// The first and the last convolution.
fn edge(outputs: usize, kernel: usize) -> Conv {
    Conv::new(outputs, kernel, 1, Padding::all((kernel - 1) / 2))
}

impl Forward<'_> {
    fn norm(&self, reads: Reads, x: &Tensor, activation: Option<Activation>) -> Tensor {
        group_norm(
            reads,
            x,
            self.config.norm_num_groups,
            activation,
            Statistics::Own,
        )
    }

    fn resnet(&self, x: &Tensor, outputs: usize, scale: f64) -> Tensor {
        resnet::forward(
            x,
            outputs,
            Some(&self.embedding),
            scale,
            self.int8,
            &|reads, x| self.norm(reads, x, Some(Activation::Silu)),
        )
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
            let conv = Conv::new(level.channels, 3, 2, halving);
            x = conv
                .kept_in(self.int8.of("downsamplers.0.conv"))
                .forward(&x);
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
            let conv = Conv::same(level.channels, 3).kept_in(self.int8.of("upsamplers.0.conv"));
            x = conv.forward_upsampled(&x, [height, width]);
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
        let int8 = self.int8;
        let linear = self.config.use_linear_projection;
        let project = |x: &Tensor, part| match linear {
            true => linear_in(int8.of(part), x, c, true),
            false => Conv::same(c, 1).kept_in(int8.of(part)).forward(x),
        };
        let hidden = project(&self.norm(int8.reads("proj_in"), &x, None), "proj_in");
        let mut hidden = hidden.view([b, h * w, c]); // [B, H·W, C]
        for _ in 0..depth {
            let context = self.contexts.next().expect("one for each block");
            hidden = block(&hidden, transformer.heads, int8, context);
        }
        let pixels = hidden.view([b, h, w, c]);
        match linear {
            true => linear_add(int8.of("proj_out"), pixels, &x),
            false => Conv::same(c, 1)
                .kept_in(int8.of("proj_out"))
                .forward_add(pixels, || x.clone()),
        }
    }
}

/// `TransformerBlock::forward`: x [B, H·W, C] → [B, H·W, C].
fn block(x: &Tensor, heads: usize, int8: &Int8, (keys, values): &(Tensor, Tensor)) -> Tensor {
    let c = x.width();
    let project = |x: &Tensor, width, bias, part| linear_in(int8.of(part), x, width, bias);
    let mut x = {
        let reads = Reads::all([SELF.to_q, SELF.to_k, SELF.to_v].map(|part| int8.reads(part)));
        let normed = layer_norm(reads, x);
        let keys = project(&normed, c, false, SELF.to_k);
        let values = project(&normed, c, false, SELF.to_v);
        let queries = project(&normed, c, false, SELF.to_q);
        let mixed = attention(&queries, &keys, &values, heads, false);
        drop(queries);
        linear_add(int8.of(SELF.to_out), mixed, x)
    };
    x = {
        let normed = layer_norm(int8.reads(CROSS.to_q), &x);
        let mixed = cross_attention(int8.of(CROSS.to_q), &normed, keys, values, heads);
        linear_add(int8.of(CROSS.to_out), mixed, &x)
    };
    let normed = layer_norm(int8.reads(FF_IN), &x);
    let inner = linear_geglu(int8.of(FF_IN), normed, 4 * c, int8.reads(FF_OUT)); // [B, H·W, 4C]
    linear_add(int8.of(FF_OUT), inner, &x)
}
