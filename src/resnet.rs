//! The residual block that UNet and VAE share.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::error::Result;
use crate::ops::{Activation, Conv2d, GroupNorm, Linear, Reads};

/// Norm, SiLU, convolution, twice, around a skip; the time embedding enters between.
/// Source: diffusers, `models/resnet.py`, `ResnetBlock2D`.
#[derive(Debug)]
pub struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
    scale: f64,
}

/// Runs a group norm and the SiLU behind it.
pub type Norm<'a> = dyn FnMut(&GroupNorm, Reads, &Tensor) -> Result<Tensor> + 'a;

/// What a residual block's shape depends on.
#[derive(Clone, Copy, Debug)]
pub struct ResnetShape {
    /// Channels in.
    pub inputs: usize,
    /// Channels out.
    pub outputs: usize,
    /// Groups of both norms.
    pub groups: usize,
    /// Eps of both norms.
    pub eps: f64,
    /// Width of the time embedding, where there is one.
    pub embedding: Option<usize>,
}

impl ResnetBlock {
    /// Reads a block; its sum is divided by `scale`.
    pub fn load(shape: ResnetShape, scale: f64, vb: VarBuilder) -> Result<Self> {
        let ResnetShape {
            inputs,
            outputs,
            groups,
            eps,
            embedding,
        } = shape;
        Ok(Self {
            norm1: GroupNorm::load(inputs, groups, eps, vb.pp("norm1"))?,
            conv1: Conv2d::load(inputs, outputs, 3, vb.pp("conv1"))?,
            time_emb_proj: embedding
                .map(|width| Linear::load(width, outputs, vb.pp("time_emb_proj")))
                .transpose()?,
            norm2: GroupNorm::load(outputs, groups, eps, vb.pp("norm2"))?,
            conv2: Conv2d::load(outputs, outputs, 3, vb.pp("conv2"))?,
            conv_shortcut: (inputs != outputs)
                .then(|| Conv2d::load(inputs, outputs, 1, vb.pp("conv_shortcut")))
                .transpose()?,
            scale,
        })
    }

    /// x [B, H, W, C_in], the activated time embedding [B, T] → [B, H, W, C_out]
    pub fn forward(&self, x: &Tensor, embedding: Option<&Tensor>) -> Result<Tensor> {
        self.forward_normed(x, embedding, &mut |norm, reads, x| {
            Ok(norm.forward_for(reads, x, Some(Activation::Silu))?)
        })
    }

    /// The same, where `norm` runs each group norm and the SiLU behind it, for a layer that would
    /// rather read what it is told.
    pub fn forward_normed(
        &self,
        x: &Tensor,
        embedding: Option<&Tensor>,
        norm: &mut Norm,
    ) -> Result<Tensor> {
        // Each step's input is dropped as soon as its result is there: images are what fills memory.
        let reads = self.conv1.reads();
        let normed = norm(&self.norm1, reads, x)?;
        let mut h = match (&self.time_emb_proj, embedding) {
            (Some(projection), Some(embedding)) => self
                .conv1
                .forward_add_by_image(normed, || projection.forward(embedding)),
            _ => {
                let h = self.conv1.forward(&normed);
                drop(normed);
                h
            }
        }?; // [B, H, W, C_out]
        h = norm(&self.norm2, self.conv2.reads(), &h)?;
        let sum = self.conv2.forward_add(h, || match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x),
            None => Ok(x.clone()),
        })?;
        Ok(if self.scale == 1.0 {
            sum
        } else {
            (sum / self.scale)?
        })
    }
}
