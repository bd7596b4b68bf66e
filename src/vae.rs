//! The VAE: pixels ↔ latents.
//!
//! Source: huggingface/diffusers, `models/autoencoders/autoencoder_kl.py` and `vae.py`. Differences:
//! channels-last inside; tiles overlap enough, and are blended smoothly enough, that no seam shows.
//! Letters: B batch, L latent channels, h, w latent edges, H, W pixel edges.

mod tiling;

pub(crate) use tiling::tile_starts;

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use crate::config::VaeConfig;
use crate::error::Result;
use crate::ops::{
    Activation, Conv2d, GroupNorm, Linear, Mask, Moments, Padding, add, attention,
    to_channels_first, to_channels_last,
};
use crate::resnet::{Norm, ResnetBlock, ResnetShape};

/// Eps of all the VAE's norms; not in its config.
const EPS: f64 = 1e-6;

/// The autoencoder.
#[derive(Debug)]
pub struct Vae {
    encoder: Encoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    decoder: Decoder,
    config: VaeConfig,
    dtype: DType,
}

/// A Gaussian over latents: [B, L, h, w] each, float32.
#[derive(Clone, Debug)]
pub struct Posterior {
    /// Mean.
    pub mean: Tensor,
    /// Logarithm of the variance, within −30…20.
    pub log_variance: Tensor,
}

impl Posterior {
    /// mean + standard deviation × noise.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        Ok((&self.mean + ((&self.log_variance * 0.5)?.exp()? * noise)?)?)
    }
}

impl Vae {
    /// Reads the autoencoder.
    pub fn load(config: VaeConfig, vb: VarBuilder) -> Result<Self> {
        let latent = config.latent_channels;
        let moments = 2 * latent;
        Ok(Self {
            encoder: Encoder::load(&config, vb.pp("encoder"))?,
            quant_conv: config
                .use_quant_conv
                .then(|| Conv2d::load(moments, moments, 1, vb.pp("quant_conv")))
                .transpose()?,
            post_quant_conv: config
                .use_post_quant_conv
                .then(|| Conv2d::load(latent, latent, 1, vb.pp("post_quant_conv")))
                .transpose()?,
            decoder: Decoder::load(&config, vb.pp("decoder"))?,
            config,
            dtype: vb.dtype(),
        })
    }

    /// The autoencoder's settings.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// The type that it is run in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// pixels [B, 3, H, W] in −1…1 → the distribution of unscaled latents.
    pub fn encode(&self, pixels: &Tensor) -> Result<Posterior> {
        let x = to_channels_last(pixels, self.dtype)?; // [B, H, W, 3]
        let mut x = self.encoder.forward(x)?; // [B, h, w, 2L]
        if let Some(conv) = &self.quant_conv {
            x = conv.forward(&x)?;
        }
        let x = to_channels_first(&x, DType::F32)?; // [B, 2L, h, w]
        let latent = self.config.latent_channels;
        Ok(Posterior {
            mean: x.narrow(1, 0, latent)?.contiguous()?,
            log_variance: x.narrow(1, latent, latent)?.clamp(-30.0, 20.0)?,
        })
    }

    /// Unscaled latents [B, L, h, w] → pixels [B, 3, H, W] around −1…1, float32.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let mut x = to_channels_last(latents, self.dtype)?; // [B, h, w, L]
        if let Some(conv) = &self.post_quant_conv {
            x = conv.forward(&x)?;
        }
        let x = self.decoder.tail(self.decoder.head(&x)?)?; // [B, H, W, 3]
        Ok(to_channels_first(&x, DType::F32)?) // [B, 3, H, W]
    }

    /// What the UNet's latents are in the autoencoder's own scale.
    pub fn unscale(&self, latents: &Tensor) -> Result<Tensor> {
        let config = &self.config;
        Ok(match (&config.latents_mean, &config.latents_std) {
            (Some(mean), Some(std)) => latents
                .broadcast_mul(&self.by_channel(std, latents)?)?
                .affine(1.0 / config.scaling_factor, 0.0)?
                .broadcast_add(&self.by_channel(mean, latents)?)?,
            _ => (latents / config.scaling_factor)?,
        })
    }

    /// The reverse of [`Vae::unscale`].
    pub fn scale(&self, latents: &Tensor) -> Result<Tensor> {
        let config = &self.config;
        Ok(match (&config.latents_mean, &config.latents_std) {
            (Some(mean), Some(std)) => latents
                .broadcast_sub(&self.by_channel(mean, latents)?)?
                .affine(config.scaling_factor, 0.0)?
                .broadcast_div(&self.by_channel(std, latents)?)?,
            _ => (latents * config.scaling_factor)?,
        })
    }

    fn by_channel(&self, values: &[f64], like: &Tensor) -> Result<Tensor> {
        let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        Ok(Tensor::from_vec(
            values,
            (1, self.config.latent_channels, 1, 1),
            like.device(),
        )?)
    }
}

fn resnet(
    config: &VaeConfig,
    inputs: usize,
    outputs: usize,
    vb: VarBuilder,
) -> Result<ResnetBlock> {
    let shape = ResnetShape {
        inputs,
        outputs,
        groups: config.norm_num_groups,
        eps: EPS,
        embedding: None,
    };
    ResnetBlock::load(shape, 1.0, vb)
}

/// The residual blocks of a level: the first changes the channels.
fn resnets(
    config: &VaeConfig,
    (inputs, outputs): (usize, usize),
    layers: usize,
    vb: VarBuilder,
) -> Result<Vec<ResnetBlock>> {
    (0..layers)
        .map(|i| {
            resnet(
                config,
                if i == 0 { inputs } else { outputs },
                outputs,
                vb.pp(i),
            )
        })
        .collect()
}

#[derive(Debug)]
struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<(Vec<ResnetBlock>, Option<Conv2d>)>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn load(config: &VaeConfig, vb: VarBuilder) -> Result<Self> {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let mut inputs = first;
        let mut down_blocks = Vec::new();
        for (i, &outputs) in channels.iter().enumerate() {
            let vb = vb.pp("down_blocks").pp(i);
            let blocks = resnets(
                config,
                (inputs, outputs),
                config.layers_per_block,
                vb.pp("resnets"),
            )?;
            // Halving pads below and to the right only.
            let halve = Padding {
                bottom: 1,
                right: 1,
                ..Padding::default()
            };
            let downsampler = (i + 1 < channels.len())
                .then(|| {
                    Conv2d::load(outputs, outputs, 3, vb.pp("downsamplers.0.conv"))
                        .map(|conv| conv.with_stride(2, halve))
                })
                .transpose()?;
            down_blocks.push((blocks, downsampler));
            inputs = outputs;
        }
        Ok(Self {
            conv_in: Conv2d::load(config.in_channels, first, 3, vb.pp("conv_in"))?,
            down_blocks,
            mid_block: MidBlock::load(config, last, vb.pp("mid_block"))?,
            conv_norm_out: GroupNorm::load(
                last,
                config.norm_num_groups,
                EPS,
                vb.pp("conv_norm_out"),
            )?,
            conv_out: Conv2d::load(last, 2 * config.latent_channels, 3, vb.pp("conv_out"))?,
        })
    }

    /// x [B, H, W, 3] → [B, h, w, 2L]
    fn forward(&self, x: Tensor) -> Result<Tensor> {
        let mut x = self.conv_in.forward(&x)?;
        for (blocks, downsampler) in &self.down_blocks {
            for block in blocks {
                x = block.forward(&x, None)?;
            }
            if let Some(downsampler) = downsampler {
                x = downsampler.forward(&x)?;
            }
        }
        let x = self.mid_block.forward(&x)?;
        let x = self.conv_norm_out.forward_activated(&x, Activation::Silu)?;
        Ok(self.conv_out.forward(&x)?)
    }
}

#[derive(Debug)]
struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<(Vec<ResnetBlock>, Option<Conv2d>)>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn load(config: &VaeConfig, vb: VarBuilder) -> Result<Self> {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let mut inputs = last;
        let mut up_blocks = Vec::new();
        for (i, &outputs) in channels.iter().rev().enumerate() {
            let vb = vb.pp("up_blocks").pp(i);
            let layers = config.layers_per_block + 1;
            let blocks = resnets(config, (inputs, outputs), layers, vb.pp("resnets"))?;
            let upsampler = (i + 1 < channels.len())
                .then(|| Conv2d::load(outputs, outputs, 3, vb.pp("upsamplers.0.conv")))
                .transpose()?;
            up_blocks.push((blocks, upsampler));
            inputs = outputs;
        }
        Ok(Self {
            conv_in: Conv2d::load(config.latent_channels, last, 3, vb.pp("conv_in"))?,
            mid_block: MidBlock::load(config, last, vb.pp("mid_block"))?,
            up_blocks,
            conv_norm_out: GroupNorm::load(
                first,
                config.norm_num_groups,
                EPS,
                vb.pp("conv_norm_out"),
            )?,
            conv_out: Conv2d::load(first, config.out_channels, 3, vb.pp("conv_out"))?,
        })
    }

    /// The coarsest level: x [B, h, w, L] → [B, h, w, C]
    fn head(&self, x: &Tensor) -> Result<Tensor> {
        self.mid_block.forward(&self.conv_in.forward(x)?)
    }

    /// The enlarging levels: x [B, h, w, C] → [B, H, W, 3]
    fn tail(&self, x: Tensor) -> Result<Tensor> {
        self.tail_normed(x, &mut |norm, reads, x| {
            Ok(norm.forward_for(reads, x, Some(Activation::Silu))?)
        })
    }

    /// The same, where `norm` runs each group norm and the SiLU behind it.
    fn tail_normed(&self, mut x: Tensor, norm: &mut Norm) -> Result<Tensor> {
        for (blocks, upsampler) in &self.up_blocks {
            for block in blocks {
                x = block.forward_normed(&x, None, norm)?;
            }
            if let Some(upsampler) = upsampler {
                let (_, height, width, _) = x.dims4()?;
                x = upsampler.forward_upsampled(&x, [2 * height, 2 * width])?;
            }
        }
        x = norm(&self.conv_norm_out, self.conv_out.reads(), &x)?;
        Ok(self.conv_out.forward(&x)?)
    }

    /// The statistics of each norm of the enlarging levels, in order: x [1, h, w, C].
    fn tail_moments(&self, x: Tensor) -> Result<Vec<Moments>> {
        let mut all = Vec::new();
        self.tail_normed(x, &mut |norm, _, x| {
            let moments = norm.moments(x)?;
            let normed = norm.forward_given(x, &moments, Activation::Silu)?;
            all.push(moments);
            Ok(normed)
        })?;
        Ok(all)
    }

    /// [`Decoder::tail`] of a part of an image, normed by given statistics.
    fn tail_given(&self, x: Tensor, moments: &[Moments]) -> Result<Tensor> {
        let mut moments = moments.iter();
        self.tail_normed(x, &mut |norm, _, x| {
            let moments = moments
                .next()
                .expect("one for each norm: both ways are the same");
            Ok(norm.forward_given(x, moments, Activation::Silu)?)
        })
    }
}

/// Residual block, attention over all pixels (one head), residual block.
#[derive(Debug)]
struct MidBlock {
    resnets: [ResnetBlock; 2],
    attention: Option<PixelAttention>,
}

impl MidBlock {
    fn load(config: &VaeConfig, channels: usize, vb: VarBuilder) -> Result<Self> {
        let block = |i: usize| resnet(config, channels, channels, vb.pp("resnets").pp(i));
        Ok(Self {
            resnets: [block(0)?, block(1)?],
            attention: config
                .mid_block_add_attention
                .then(|| PixelAttention::load(config, channels, vb.pp("attentions.0")))
                .transpose()?,
        })
    }

    /// x [B, h, w, C] → [B, h, w, C]
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.resnets[0].forward(x, None)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x)?;
        }
        self.resnets[1].forward(&x, None)
    }
}

#[derive(Debug)]
struct PixelAttention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl PixelAttention {
    fn load(config: &VaeConfig, channels: usize, vb: VarBuilder) -> Result<Self> {
        // Checkpoints saved before diffusers 0.18 use the second names.
        let linear = |name: &str, old: &str| {
            let vb = if vb.contains_tensor(&format!("{old}.weight")) {
                vb.pp(old)
            } else {
                vb.pp(name)
            };
            Linear::load(channels, channels, vb)
        };
        Ok(Self {
            group_norm: GroupNorm::load(
                channels,
                config.norm_num_groups,
                EPS,
                vb.pp("group_norm"),
            )?,
            to_q: linear("to_q", "query")?,
            to_k: linear("to_k", "key")?,
            to_v: linear("to_v", "value")?,
            to_out: linear("to_out.0", "proj_attn")?,
        })
    }

    /// x [B, h, w, C] → [B, h, w, C]
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, h, w, c) = x.dims4()?;
        let normed = self.group_norm.forward(x)?.reshape((b, h * w, c))?; // [B, h·w, C]
        let (q, k, v) = (
            self.to_q.forward(&normed)?,
            self.to_k.forward(&normed)?,
            self.to_v.forward(&normed)?,
        );
        let mixed = self
            .to_out
            .forward(&attention(&q, &k, &v, 1, Mask::None)?)?;
        Ok(add(x, &mixed.reshape((b, h, w, c))?)?)
    }
}
