//! Group normalisation of channels-last images, with the activation that follows it.
//!
//! Statistics are exact: each block of pixels gives its channels' means and squared deviations (two
//! passes over a block that stays in cache, corrected for the mean's rounding), and the blocks are
//! merged in f64 by the update of Chan, Golub and LeVeque ("Algorithms for computing the sample
//! variance", 1983). The plain difference of squares would lose the variance of channels with a
//! large mean.

use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Storage, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::Activation;
use super::cpu::{Values, store, task_rows, vectorised};
use super::int8::{Filling, Reads};
use super::weight::for_kernels;
use super::work;
use crate::measure::op;

/// A group norm: weight and bias `[C]`.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// Reads `weight` and `bias`.
    pub fn load(channels: usize, groups: usize, eps: f64, vb: VarBuilder) -> Result<Self> {
        Ok(Self::new(
            for_kernels(vb.get(channels, "weight")?)?,
            for_kernels(vb.get(channels, "bias")?)?,
            groups,
            eps,
        ))
    }

    /// A norm of the given tensors, `[C]` each.
    pub fn new(weight: Tensor, bias: Tensor, groups: usize, eps: f64) -> Self {
        Self {
            weight,
            bias,
            groups,
            eps,
        }
    }

    /// x [B, .., C] → the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, self.op())
    }

    /// x [B, .., C] → the same shape, the activation applied in the same pass.
    pub fn forward_activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        self.forward_for(Reads::Float, x, Some(activation))
    }

    /// x [B, .., C] → the same shape, as the layer behind it reads it; the activation, if there is
    /// one, applied in the same pass.
    pub fn forward_for(
        &self,
        reads: Reads,
        x: &Tensor,
        activation: Option<Activation>,
    ) -> Result<Tensor> {
        let op = GroupNormOp {
            activation,
            reads: reads.given_by(x),
            ..self.op()
        };
        self.run(x, op)
    }

    /// Like [`GroupNorm::forward_activated`], with given statistics in place of x's own: how a part
    /// of an image is normed as the whole is.
    pub fn forward_given(
        &self,
        x: &Tensor,
        moments: &Moments,
        activation: Activation,
    ) -> Result<Tensor> {
        let op = GroupNormOp {
            activation: Some(activation),
            given: Some(moments.clone()),
            ..self.op()
        };
        self.run(x, op)
    }

    /// The statistics of the image x [1, .., C]. Where a GPU has a kernel for them it gives those of chunks, which the CPU
    /// merges; else the CPU computes them.
    pub fn moments(&self, x: &Tensor) -> Result<Moments> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda()
            && let Some(chunks) = super::cuda::group_norm_moments(x, &self.weight, self.groups)?
        {
            let merged = chunks.into_iter().map(|(count, groups)| Moments {
                count,
                mean: groups.iter().map(|[mean, _]| f64::from(*mean)).collect(),
                squares: groups.iter().map(|[_, sum]| f64::from(*sum)).collect(),
            });
            if let Some(moments) = merged.reduce(Moments::merge) {
                return Ok(moments);
            }
        }
        let x = x.contiguous()?.to_device(&Device::Cpu)?;
        let (storage, layout) = x.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            candle_core::bail!("group norm's statistics are of a tensor on the CPU")
        };
        let channels = self.weight.elem_count();
        self.op().check(layout, channels)?;
        let values = Values::of(storage, layout)?.widen();
        Ok(self.op().moments(&values, channels))
    }

    fn op(&self) -> GroupNormOp {
        GroupNormOp {
            groups: self.groups,
            eps: self.eps,
            activation: None,
            given: None,
            reads: Reads::Float,
        }
    }

    fn run(&self, x: &Tensor, op: GroupNormOp) -> Result<Tensor> {
        let work = || {
            let channels = self.weight.elem_count();
            let (pixels, bytes) = (x.elem_count() / channels, x.dtype().size_in_bytes());
            let work = match (&op.given, op.activation) {
                (Some(_), Some(activation)) => {
                    work::group_norm_given(pixels, channels, activation, bytes)
                }
                (_, activation) => work::group_norm(pixels, channels, activation, bytes),
            };
            work.writing(op.reads, pixels, channels, bytes)
        };
        op::run(work, || {
            #[cfg(feature = "cuda")]
            if x.device().is_cuda() {
                use super::cuda::{group_norm, group_norm_given};
                let affine = (&self.weight, &self.bias);
                let (groups, eps) = (op.groups, op.eps);
                return match &op.given {
                    Some(given) => group_norm_given(x, affine, groups, eps, (given, op.activation)),
                    None => group_norm(op.reads, x, affine, (groups, eps), op.activation),
                };
            }
            x.contiguous()?
                .apply_op3_no_bwd(&self.weight, &self.bias, &op)
        })
    }
}

/// Values in a block of pixels: fits in a core's first-level cache.
const BLOCK_VALUES: usize = 8 << 10;

/// Pixels in a block, at most: longer sums in float32 would lose digits.
const BLOCK_PIXELS: usize = 256;

struct GroupNormOp {
    groups: usize,
    eps: f64,
    activation: Option<Activation>,
    given: Option<Moments>,
    reads: Reads,
}

/// Count, mean and sum of squared deviations of each group.
#[derive(Clone, Debug)]
pub struct Moments {
    count: f64,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Moments {
    /// Bytes in memory.
    pub(super) fn bytes(groups: usize) -> usize {
        size_of::<Self>() + 2 * groups * size_of::<f64>()
    }

    /// Mean and 1 / √(variance + eps) of each of `channels` channels.
    #[cfg(feature = "cuda")]
    pub(super) fn by_channel(&self, channels: usize, eps: f64) -> [Vec<f32>; 2] {
        let width = channels / self.mean.len().max(1);
        let mean = (0..channels).map(|c| self.mean[c / width] as f32);
        let inverse = (0..channels).map(|c| {
            let variance = self.squares[c / width] / self.count;
            (1.0 / (variance + eps).sqrt()) as f32
        });
        [mean.collect(), inverse.collect()]
    }

    /// The statistics of both sides' values together.
    fn merge(mut self, other: Self) -> Self {
        if self.count == 0.0 {
            return other;
        }
        if other.count > 0.0 {
            let count = self.count + other.count;
            for g in 0..self.mean.len() {
                let delta = other.mean[g] - self.mean[g];
                self.mean[g] += delta * other.count / count;
                self.squares[g] +=
                    other.squares[g] + delta * delta * self.count * other.count / count;
            }
            self.count = count;
        }
        self
    }
}

/// Values in a block of whole pixels.
pub(super) fn block_values(channels: usize) -> usize {
    (BLOCK_VALUES / channels).clamp(1, BLOCK_PIXELS) * channels
}

impl GroupNormOp {
    fn check(&self, layout: &Layout, channels: usize) -> Result<()> {
        let dims = layout.dims();
        if dims.len() < 2
            || dims[dims.len() - 1] != channels
            || !channels.is_multiple_of(self.groups)
        {
            candle_core::bail!(
                "group norm of {channels} channels in {} groups got {dims:?}",
                self.groups
            )
        }
        Ok(())
    }

    /// The moments of each group over an image: x [pixels, C].
    fn moments(&self, x: &[f32], channels: usize) -> Moments {
        // Merged in the blocks' order, so that the result does not depend on the threads.
        let block = block_values(channels);
        let blocks: Vec<Moments> = x
            .par_chunks(block)
            .with_min_len(task_rows(block))
            .map(|block| self.block_moments(block, channels))
            .collect();
        let none = Moments {
            count: 0.0,
            mean: vec![0.0; self.groups],
            squares: vec![0.0; self.groups],
        };
        blocks.into_iter().fold(none, Moments::merge)
    }

    /// The moments of each group over a block of pixels: block [pixels, C].
    fn block_moments(&self, block: &[f32], channels: usize) -> Moments {
        let pixels = block.len() / channels;
        let width = channels / self.groups;
        let mut means = vec![0f32; channels];
        let mut squares = vec![0f32; channels];
        // What rounding left out of the means: without it, a mean of 10⁴ deviations is lost.
        let mut rests = vec![0f32; channels];
        vectorised(
            #[inline(always)]
            || {
                for pixel in block.chunks_exact(channels) {
                    for (mean, x) in means.iter_mut().zip(pixel) {
                        *mean += x;
                    }
                }
                let scale = 1.0 / pixels as f32;
                means.iter_mut().for_each(|mean| *mean *= scale);
                for pixel in block.chunks_exact(channels) {
                    for (((square, rest), x), mean) in
                        squares.iter_mut().zip(&mut rests).zip(pixel).zip(&means)
                    {
                        let away = x - mean;
                        *square += away * away;
                        *rest += away;
                    }
                }
            },
        );
        let mut moments = Moments {
            count: (pixels * width) as f64,
            mean: Vec::with_capacity(self.groups),
            squares: Vec::with_capacity(self.groups),
        };
        let pixels = pixels as f64;
        let rests: Vec<f64> = rests.iter().map(|&r| f64::from(r) / pixels).collect();
        for first in (0..channels).step_by(width) {
            let group = first..first + width;
            let means = group.clone().map(|c| f64::from(means[c]) + rests[c]);
            let mean = means.clone().sum::<f64>() / width as f64;
            let between: f64 = means.map(|m| (m - mean).powi(2)).sum();
            let within: f64 = group
                .map(|c| (f64::from(squares[c]) - rests[c] * rests[c] * pixels).max(0.0))
                .sum();
            moments.mean.push(mean);
            moments.squares.push(within + between * pixels);
        }
        moments
    }
}

impl CustomOp3 for GroupNormOp {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let channels = weight_layout.shape().elem_count();
        self.check(layout, channels)?;
        let values = Values::of(x, layout)?;
        let wide = values.widen();
        let weight = Values::of(weight, weight_layout)?.widen();
        let bias = Values::of(bias, bias_layout)?.widen();
        let mut out = match self.reads {
            Reads::Float => Out::Float(vec![0f32; wide.len()]),
            Reads::Int8 => Out::Int8(Filling::new(layout.dims(), channels)),
        };
        let block = block_values(channels);
        let image = (wide.len() / layout.dims()[0].max(1)).max(1);
        for (i, x) in wide.chunks_exact(image).enumerate() {
            let moments = match &self.given {
                Some(given) => given.clone(),
                None => self.moments(x, channels),
            };
            // y = (x − mean)·scale + shift, by channel. The difference is nearly exact; the part of
            // the mean that float32 does not hold goes into the shift.
            let width = channels / self.groups;
            let mean: Vec<f32> = (0..channels)
                .map(|c| moments.mean[c / width] as f32)
                .collect();
            let (scale, shift): (Vec<f32>, Vec<f32>) = (0..channels)
                .map(|c| {
                    let variance = moments.squares[c / width] / moments.count;
                    let scale = f64::from(weight[c]) / (variance + self.eps).sqrt();
                    let rest = moments.mean[c / width] - f64::from(mean[c]);
                    (scale as f32, (f64::from(bias[c]) - rest * scale) as f32)
                })
                .unzip();
            let norm = |x: &[f32], out: &mut [f32]| {
                vectorised(
                    #[inline(always)]
                    || {
                        for (out, x) in out.chunks_exact_mut(channels).zip(x.chunks_exact(channels))
                        {
                            for ((((out, x), mean), scale), shift) in
                                out.iter_mut().zip(x).zip(&mean).zip(&scale).zip(&shift)
                            {
                                *out = (x - mean) * scale + shift;
                            }
                        }
                    },
                );
                if let Some(activation) = self.activation {
                    activation.apply(out);
                }
            };
            match &mut out {
                Out::Float(out) => out[i * image..][..image]
                    .par_chunks_mut(block)
                    .zip(x.par_chunks(block))
                    .with_min_len(task_rows(block))
                    .for_each(|(out, x)| norm(x, out)),
                Out::Int8(out) => {
                    let pixels = image / channels;
                    out.fill(i * pixels, pixels, block / channels, |at, out| {
                        norm(&x[at * block..][..out.len()], out);
                    });
                }
            }
        }
        Ok(match out {
            Out::Float(out) => (store(out, values.dtype())?, layout.shape().clone()),
            Out::Int8(out) => out.store(),
        })
    }
}

/// A group norm's result as it is computed.
enum Out {
    Float(Vec<f32>),
    Int8(Filling),
}
