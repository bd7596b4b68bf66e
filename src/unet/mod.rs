//! The UNet: noisy latents, timestep and text → the model's prediction.
//!
//! Source: huggingface/diffusers, `models/unets/unet_2d_condition.py` and `unet_2d_blocks.py`.
//! Differences: images are channels-last inside; what does not change over the steps (the embedding
//! of pooled text and time ids, the text's keys and values) is computed once, by [`Unet::prepare`].
//! Letters: B batch, C channels, H, W latent edges, N text positions, T time embedding's width.

mod attention;
mod embedding;
mod transformer;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use crate::config::{LevelConfig, TransformerConfig, UnetConfig};
use crate::error::Result;
use crate::ops::{
    Activation, Conv2d, GroupNorm, Padding, add_to_each, concat_channels, to_channels_first,
    to_channels_last,
};
use crate::resnet::{ResnetBlock, ResnetShape};
use attention::KeyValues;
use embedding::Embeddings;
use transformer::SpatialTransformer;

/// The network.
#[derive(Debug)]
pub struct Unet {
    conv_in: Conv2d,
    embeddings: Embeddings,
    down_blocks: Vec<DownBlock>,
    mid_block: Option<MidBlock>,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    config: UnetConfig,
    dtype: DType,
    device: Device,
}

/// What a run's text and sizes contribute to every step, computed once.
#[derive(Debug)]
pub struct Prepared {
    /// Embedded pooled text and time ids: [R, T].
    added: Tensor,
    /// Embedded guidance scale, for networks distilled to take one: [1, cond width].
    guidance: Option<Tensor>,
    /// Keys and values of each cross-attention, in the order that a forward meets them.
    key_values: Vec<KeyValues>,
}

impl Prepared {
    /// Rows of conditioning: 2 where a negative one is there.
    pub fn rows(&self) -> usize {
        self.added.dims()[0]
    }
}

impl Unet {
    /// Reads the network.
    pub fn load(config: UnetConfig, vb: VarBuilder) -> Result<Self> {
        let base = config.base_channels();
        let conv = |name: &str, inputs, outputs, kernel| {
            // The reference pads (kernel − 1) / 2 on every side.
            Ok::<_, candle_core::Error>(
                Conv2d::load(inputs, outputs, kernel, vb.pp(name))?
                    .with_stride(1, Padding::all((kernel - 1) / 2)),
            )
        };
        let down_vb = vb.pp("down_blocks");
        let mut inputs = base;
        let mut skips = vec![base];
        let mut down_blocks = Vec::new();
        for (i, level) in config.down.iter().enumerate() {
            let last = i + 1 == config.down.len();
            down_blocks.push(DownBlock::load(
                &config,
                level,
                inputs,
                last,
                down_vb.pp(i),
            )?);
            skips.extend(vec![level.channels; level.layers + usize::from(!last)]);
            inputs = level.channels;
        }
        let mid_block = config
            .mid
            .as_ref()
            .map(|transformer| {
                MidBlock::load(&config, transformer.as_ref(), inputs, vb.pp("mid_block"))
            })
            .transpose()?;
        let up_vb = vb.pp("up_blocks");
        let mut up_blocks = Vec::new();
        for (i, level) in config.up.iter().enumerate() {
            let last = i + 1 == config.up.len();
            let skips = skips.split_off(skips.len() - level.layers);
            up_blocks.push(UpBlock::load(
                &config,
                level,
                inputs,
                &skips,
                last,
                up_vb.pp(i),
            )?);
            inputs = level.channels;
        }
        Ok(Self {
            conv_in: conv("conv_in", config.in_channels, base, config.conv_in_kernel)?,
            embeddings: Embeddings::load(&config, vb.clone())?,
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: GroupNorm::load(
                base,
                config.norm_num_groups,
                config.norm_eps,
                vb.pp("conv_norm_out"),
            )?,
            conv_out: conv(
                "conv_out",
                base,
                config.out_channels,
                config.conv_out_kernel,
            )?,
            config,
            dtype: vb.dtype(),
            device: vb.device().clone(),
        })
    }

    /// The network's shape.
    pub fn config(&self) -> &UnetConfig {
        &self.config
    }

    /// Computes what does not depend on the step, for R rows of conditioning: `context` [R, N, C],
    /// `pooled` [R, P], a list of `time_ids` for each row; `guidance` is used by networks that embed
    /// it.
    pub fn prepare(
        &self,
        context: &Tensor,
        pooled: &Tensor,
        time_ids: &[Vec<f32>],
        guidance: f64,
    ) -> Result<Prepared> {
        let context = context.to_dtype(self.dtype)?;
        let mut key_values = Vec::new();
        let transformers = self
            .down_blocks
            .iter()
            .flat_map(|block| &block.attentions)
            .chain(self.mid_block.iter().flat_map(|block| &block.attentions))
            .chain(self.up_blocks.iter().flat_map(|block| &block.attentions));
        for transformer in transformers {
            transformer.project_context(&context, &mut key_values)?;
        }
        Ok(Prepared {
            added: self
                .embeddings
                .added(&pooled.to_dtype(self.dtype)?, time_ids)?,
            guidance: self
                .embeddings
                .guidance(guidance, self.dtype, &self.device)?,
            key_values,
        })
    }

    /// sample [B, C_in, H, W] → prediction [B, C_out, H, W], both float32. B is a multiple of the R
    /// rows that `prepared` holds; the first B/R images have its first row, and so on.
    pub fn forward(&self, sample: &Tensor, timestep: f64, prepared: &Prepared) -> Result<Tensor> {
        self.forward_wave(sample, &self.wave(timestep)?, prepared)
    }

    /// What is computed of a timestep on the host: [1, W].
    pub(crate) fn wave(&self, timestep: f64) -> Result<Tensor> {
        self.embeddings.wave(timestep, self.dtype, &self.device)
    }

    /// [`Unet::forward`] of what [`Unet::wave`] gave.
    pub(crate) fn forward_wave(
        &self,
        sample: &Tensor,
        wave: &Tensor,
        prepared: &Prepared,
    ) -> Result<Tensor> {
        let time = self.embeddings.time(wave, prepared.guidance.as_ref())?;
        let (rows, width) = prepared.added.dims2()?;
        let images = sample.dim(0)? / rows;
        let embedding = add_to_each(&prepared.added.unsqueeze(1)?, &time)?; // [R, 1, T]
        let embedding = embedding.repeat((1, images, 1))?; // [R, B/R, T]
        let embedding = embedding.reshape((rows * images, width))?; // [B, T]
        // Every residual block projects the same activated embedding.
        let embedding = crate::ops::activation(&embedding, Activation::Silu)?;
        let mut key_values = prepared.key_values.iter();

        let x = to_channels_last(sample, self.dtype)?; // [B, H, W, C_in]
        let mut x = self.conv_in.forward(&x)?; // [B, H, W, C]
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            x = block.forward(x, &embedding, &mut key_values, &mut skips)?;
        }
        if let Some(block) = &self.mid_block {
            x = block.forward(x, &embedding, &mut key_values)?;
        }
        for block in &self.up_blocks {
            x = block.forward(x, &embedding, &mut key_values, &mut skips)?;
        }
        let x = self.conv_norm_out.forward_activated(&x, Activation::Silu)?;
        let x = self.conv_out.forward(&x)?; // [B, H, W, C_out]
        Ok(to_channels_first(&x, DType::F32)?) // [B, C_out, H, W]
    }
}

/// The remaining cross-attentions' keys and values.
type Contexts<'a> = std::slice::Iter<'a, KeyValues>;

fn load_transformers(
    config: &UnetConfig,
    level: &LevelConfig,
    vb: VarBuilder,
) -> Result<Vec<SpatialTransformer>> {
    let Some(transformer) = &level.transformer else {
        return Ok(Vec::new());
    };
    let TransformerConfig { depths, .. } = transformer;
    depths
        .iter()
        .enumerate()
        .map(|(i, &depth)| {
            SpatialTransformer::load(config, transformer, level.channels, depth, vb.pp(i))
        })
        .collect()
}

fn load_resnet(
    config: &UnetConfig,
    (inputs, outputs): (usize, usize),
    scale: f64,
    vb: VarBuilder,
) -> Result<ResnetBlock> {
    let shape = ResnetShape {
        inputs,
        outputs,
        groups: config.norm_num_groups,
        eps: config.norm_eps,
        embedding: Some(config.time_embedding_width),
    };
    ResnetBlock::load(shape, scale, vb)
}

/// Source: diffusers, `models/downsampling.py`, `Downsample2D`.
pub(crate) fn halving(padding: usize) -> Padding {
    match padding {
        0 => Padding {
            bottom: 1,
            right: 1,
            ..Padding::default()
        },
        pixels => Padding::all(pixels),
    }
}

#[derive(Debug)]
struct DownBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<SpatialTransformer>,
    downsampler: Option<Conv2d>,
}

impl DownBlock {
    fn load(
        config: &UnetConfig,
        level: &LevelConfig,
        inputs: usize,
        last: bool,
        vb: VarBuilder,
    ) -> Result<Self> {
        let channels = level.channels;
        let resnets = (0..level.layers)
            .map(|i| {
                let inputs = if i == 0 { inputs } else { channels };
                load_resnet(config, (inputs, channels), 1.0, vb.pp("resnets").pp(i))
            })
            .collect::<Result<_>>()?;
        let downsampler = (!last)
            .then(|| {
                Conv2d::load(channels, channels, 3, vb.pp("downsamplers.0.conv"))
                    .map(|conv| conv.with_stride(2, halving(config.downsample_padding)))
            })
            .transpose()?;
        Ok(Self {
            resnets,
            attentions: load_transformers(config, level, vb.pp("attentions"))?,
            downsampler,
        })
    }

    /// x [B, H, W, C_in] → [B, H/2, W/2, C] (the last level keeps its size); every layer's result is
    /// pushed on `skips`.
    fn forward(
        &self,
        mut x: Tensor,
        embedding: &Tensor,
        contexts: &mut Contexts,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            x = resnet.forward(&x, Some(embedding))?;
            if let Some(attention) = self.attentions.get(i) {
                x = attention.forward(x, contexts)?;
            }
            skips.push(x.clone());
        }
        if let Some(downsampler) = &self.downsampler {
            x = downsampler.forward(&x)?;
            skips.push(x.clone());
        }
        Ok(x)
    }
}

#[derive(Debug)]
struct MidBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<SpatialTransformer>,
}

impl MidBlock {
    fn load(
        config: &UnetConfig,
        transformer: Option<&TransformerConfig>,
        channels: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        // Without attention, the reference's mid block is one residual block.
        let layers = 1 + usize::from(transformer.is_some());
        let resnets = (0..layers)
            .map(|i| {
                let scale = config.mid_block_scale_factor;
                load_resnet(config, (channels, channels), scale, vb.pp("resnets").pp(i))
            })
            .collect::<Result<_>>()?;
        let level = LevelConfig {
            channels,
            layers: 1,
            transformer: transformer.cloned(),
        };
        Ok(Self {
            resnets,
            attentions: load_transformers(config, &level, vb.pp("attentions"))?,
        })
    }

    /// x [B, H, W, C] → [B, H, W, C]
    fn forward(&self, x: Tensor, embedding: &Tensor, contexts: &mut Contexts) -> Result<Tensor> {
        let mut x = self.resnets[0].forward(&x, Some(embedding))?;
        for (attention, resnet) in self.attentions.iter().zip(&self.resnets[1..]) {
            x = attention.forward(x, contexts)?;
            x = resnet.forward(&x, Some(embedding))?;
        }
        Ok(x)
    }
}

#[derive(Debug)]
struct UpBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<SpatialTransformer>,
    upsampler: Option<Conv2d>,
}

impl UpBlock {
    /// `skips` holds the channels of the skips that it takes, the last first used.
    fn load(
        config: &UnetConfig,
        level: &LevelConfig,
        inputs: usize,
        skips: &[usize],
        last: bool,
        vb: VarBuilder,
    ) -> Result<Self> {
        let channels = level.channels;
        let resnets = skips
            .iter()
            .rev()
            .enumerate()
            .map(|(i, skip)| {
                let inputs = skip + if i == 0 { inputs } else { channels };
                load_resnet(config, (inputs, channels), 1.0, vb.pp("resnets").pp(i))
            })
            .collect::<Result<_>>()?;
        let upsampler = (!last)
            .then(|| Conv2d::load(channels, channels, 3, vb.pp("upsamplers.0.conv")))
            .transpose()?;
        Ok(Self {
            resnets,
            attentions: load_transformers(config, level, vb.pp("attentions"))?,
            upsampler,
        })
    }

    /// x [B, H, W, C_in] → [B, 2H, 2W, C] (the last level keeps its size). Each layer reads one of
    /// `skips`; the size it is enlarged to is that of the next skip, which is odd where halving
    /// rounded up.
    fn forward(
        &self,
        mut x: Tensor,
        embedding: &Tensor,
        contexts: &mut Contexts,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            let skip = skips
                .pop()
                .expect("as many skips as layers: `Unet::load` split them so");
            x = concat_channels(&x, &skip)?; // [B, H, W, C + C_skip]
            drop(skip);
            x = resnet.forward(&x, Some(embedding))?;
            if let Some(attention) = self.attentions.get(i) {
                x = attention.forward(x, contexts)?;
            }
        }
        if let (Some(upsampler), Some(next)) = (&self.upsampler, skips.last()) {
            let (_, height, width, _) = next.dims4()?;
            x = upsampler.forward_upsampled(&x, [height, width])?;
        }
        Ok(x)
    }
}
