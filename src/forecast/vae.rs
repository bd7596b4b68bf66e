//! [`crate::vae`], by shape.

use candle_core::DType;

use super::heap::Tensor;
use super::loader::Loader;
use super::model::Int8;
use super::ops::{
    Conv, Statistics, add, attention, group_norm, linear, to_channels_first, to_channels_last,
    upsample_nearest,
};
use super::resnet;
use crate::config::VaeConfig;
use crate::ops::{Activation, Padding, Reads};
use crate::vae::tile_starts;

/// `Vae::load`.
pub fn load(config: &VaeConfig, weights: &mut Loader) {
    let channels = &config.block_out_channels;
    let (first, last) = (channels[0], channels[channels.len() - 1]);
    let latent = config.latent_channels;

    let mut inputs = first;
    for (i, &outputs) in channels.iter().enumerate() {
        load_level((inputs, outputs), config.layers_per_block, weights);
        if i + 1 < channels.len() {
            weights.conv(outputs, outputs, 3);
        }
        inputs = outputs;
    }
    weights.conv(config.in_channels, first, 3);
    load_mid(config, last, weights);
    weights.norm(last);
    weights.conv(last, 2 * latent, 3);
    if config.use_quant_conv {
        weights.conv(2 * latent, 2 * latent, 1);
    }
    if config.use_post_quant_conv {
        weights.conv(latent, latent, 1);
    }

    let mut inputs = last;
    for (i, &outputs) in channels.iter().rev().enumerate() {
        load_level((inputs, outputs), config.layers_per_block + 1, weights);
        if i + 1 < channels.len() {
            weights.conv(outputs, outputs, 3);
        }
        inputs = outputs;
    }
    weights.conv(latent, last, 3);
    load_mid(config, last, weights);
    weights.norm(first);
    weights.conv(first, config.out_channels, 3);
}

fn load_level((inputs, outputs): (usize, usize), layers: usize, weights: &mut Loader) {
    for i in 0..layers {
        let inputs = if i == 0 { inputs } else { outputs };
        resnet::load(inputs, outputs, None, &Int8::default(), weights);
    }
}

fn load_mid(config: &VaeConfig, channels: usize, weights: &mut Loader) {
    for _ in 0..2 {
        resnet::load(channels, channels, None, &Int8::default(), weights);
    }
    if config.mid_block_add_attention {
        weights.norm(channels);
        for _ in ["q", "k", "v", "out"] {
            weights.linear(channels, channels, true);
        }
    }
}

/// `vae::Posterior`.
pub struct Posterior {
    mean: Tensor,
    log_variance: Tensor,
}

impl Posterior {
    /// `Posterior::sample`.
    pub fn sample(&self) -> Tensor {
        let deviation = {
            let half = self.log_variance.like();
            half.like()
        };
        let noise = deviation.like();
        drop(deviation);
        let sample = self.mean.like();
        drop(noise);
        sample
    }
}

/// An autoencoder that computes in a type.
#[derive(Clone, Copy)]
pub struct Vae<'a> {
    pub config: &'a VaeConfig,
    pub dtype: DType,
}

impl Vae<'_> {
    /// `Vae::encode`: pixels [B, 3, H, W].
    pub fn encode(self, pixels: &Tensor) -> Posterior {
        let x = to_channels_last(pixels, self.dtype); // [B, H, W, 3]
        let mut x = self.encoder(x); // [B, h, w, 2L]
        if self.config.use_quant_conv {
            x = Conv::same(x.width(), 1).forward(&x);
        }
        let x = to_channels_first(&x, DType::F32); // [B, 2L, h, w]
        let [batch, moments, h, w] = x.sizes();
        let mean = x.view([batch, moments / 2, h, w]);
        let log_variance = {
            let above = x.heap().tensor(mean.dims(), DType::F32);
            above.like()
        };
        Posterior { mean, log_variance }
    }

    fn encoder(self, x: Tensor) -> Tensor {
        let channels = &self.config.block_out_channels;
        let mut hidden = Conv::same(channels[0], 3).forward(&x);
        for (i, &outputs) in channels.iter().enumerate() {
            for _ in 0..self.config.layers_per_block {
                hidden = self.resnet(&hidden, outputs, Statistics::Own);
            }
            if i + 1 < channels.len() {
                let halve = Padding {
                    bottom: 1,
                    right: 1,
                    ..Padding::default()
                };
                hidden = Conv::new(outputs, 3, 2, halve).forward(&hidden);
            }
        }
        let hidden = self.mid(&hidden);
        let hidden = self.norm(&hidden, Some(Activation::Silu), Statistics::Own);
        Conv::same(2 * self.config.latent_channels, 3).forward(&hidden)
    }

    /// `Vae::decode`: latents [B, L, h, w] → [B, 3, H, W].
    pub fn decode(self, latents: &Tensor) -> Tensor {
        let mut x = to_channels_last(latents, self.dtype); // [B, h, w, L]
        if self.config.use_post_quant_conv {
            x = Conv::same(x.width(), 1).forward(&x);
        }
        let x = self.tail(self.head(&x), Statistics::Own); // [B, H, W, 3]
        to_channels_first(&x, DType::F32) // [B, 3, H, W]
    }

    /// `Vae::decode_tiled`.
    pub fn decode_tiled(self, latents: &Tensor, tile: usize) -> Tensor {
        let [_, _, height, width] = latents.sizes();
        let factor = self.config.factor();
        let mut x = to_channels_last(latents, self.dtype); // [B, h, w, L]
        if self.config.use_post_quant_conv {
            x = Conv::same(x.width(), 1).forward(&x);
        }
        let x = self.head(&x); // [B, h, w, C]
        let (tile_height, tile_width) = (tile.min(height), tile.min(width));
        let sample = upsample_nearest(&x, tile_height, tile_width);
        drop(self.tail(sample, Statistics::Taken));
        let mut image = None;
        for top in tile_starts(height, tile) {
            let mut row = None;
            for left in tile_starts(width, tile) {
                let part = x.view([1, tile_height, tile_width, x.width()]);
                // Rows of the whole width lie together already.
                let part = match tile_width == width {
                    true => part,
                    false => part.like(),
                };
                let part = self.tail(part, Statistics::Given);
                let wide = part.cast(DType::F32);
                let weighted = {
                    let across = wide.like();
                    across.like()
                };
                let right = width - left - tile_width;
                row = plus(row, pad(&weighted, 2, left * factor, right * factor));
            }
            let row: Tensor = row.expect("a row has at least one tile");
            let below = height - top - tile_height;
            image = plus(image, pad(&row, 1, top * factor, below * factor));
        }
        let image = image.expect("an image has at least one row of tiles");
        to_channels_first(&image, DType::F32) // [B, 3, H, W]
    }

    fn head(self, x: &Tensor) -> Tensor {
        let channels = &self.config.block_out_channels;
        self.mid(&Conv::same(channels[channels.len() - 1], 3).forward(x))
    }

    fn tail(self, mut x: Tensor, statistics: Statistics) -> Tensor {
        let channels = &self.config.block_out_channels;
        for (i, &outputs) in channels.iter().rev().enumerate() {
            for _ in 0..self.config.layers_per_block + 1 {
                x = self.resnet(&x, outputs, statistics);
            }
            if i + 1 < channels.len() {
                let [_, height, width, _] = x.sizes();
                x = Conv::same(outputs, 3).forward_upsampled(&x, [2 * height, 2 * width]);
            }
        }
        x = self.norm(&x, Some(Activation::Silu), statistics);
        Conv::same(self.config.out_channels, 3).forward(&x)
    }

    fn norm(self, x: &Tensor, activation: Option<Activation>, statistics: Statistics) -> Tensor {
        group_norm(
            Reads::Float,
            x,
            self.config.norm_num_groups,
            activation,
            statistics,
        )
    }

    fn resnet(self, x: &Tensor, outputs: usize, statistics: Statistics) -> Tensor {
        resnet::forward(x, outputs, None, 1.0, &Int8::default(), &|_, x| {
            self.norm(x, Some(Activation::Silu), statistics)
        })
    }

    /// `MidBlock::forward`.
    fn mid(self, x: &Tensor) -> Tensor {
        let channels = x.width();
        let mut x = self.resnet(x, channels, Statistics::Own);
        if self.config.mid_block_add_attention {
            x = self.pixel_attention(&x);
        }
        self.resnet(&x, channels, Statistics::Own)
    }

    fn pixel_attention(self, x: &Tensor) -> Tensor {
        let [b, h, w, c] = x.sizes();
        let normed = self.norm(x, None, Statistics::Own).view([b, h * w, c]); // [B, h·w, C]
        let (q, k, v) = (
            linear(&normed, c, true),
            linear(&normed, c, true),
            linear(&normed, c, true),
        );
        let mixed = linear(&attention(&q, &k, &v, 1, false), c, true);
        add(x, &mixed.view([b, h, w, c]))
    }
}

/// `tiling::plus`.
fn plus(sum: Option<Tensor>, part: Tensor) -> Option<Tensor> {
    Some(match sum {
        None => part,
        Some(sum) => sum.like(),
    })
}

/// candle's `pad_with_zeros`.
fn pad(x: &Tensor, dim: usize, before: usize, after: usize) -> Tensor {
    let zeros = |length: usize| {
        let mut dims = x.dims().to_vec();
        dims[dim] = length;
        x.heap().tensor(dims, x.dtype())
    };
    let before = (before > 0).then(|| zeros(before));
    let after = (after > 0).then(|| zeros(after));
    let parts: Vec<&Tensor> = before.iter().chain([x]).chain(after.iter()).collect();
    Tensor::cat(&parts, dim)
}
