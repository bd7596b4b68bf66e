//! Layer normalisation over the last dimension.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::cpu::{Values, store, task_rows, vectorised};
use super::int8::{Filling, Reads};
use super::weight::for_kernels;
use super::work;
use crate::measure::op;

/// A layer norm: weight and bias `[C]`.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Reads `weight` and `bias`.
    pub fn load(channels: usize, eps: f64, vb: VarBuilder) -> Result<Self> {
        Ok(Self::new(
            for_kernels(vb.get(channels, "weight")?)?,
            for_kernels(vb.get(channels, "bias")?)?,
            eps,
        ))
    }

    /// A norm of the given tensors, `[C]` each.
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Self {
        Self { weight, bias, eps }
    }

    /// x [.., C] → the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_for(Reads::Float, x)
    }

    /// x [.., C] → the same shape, as the layers behind it read it.
    pub fn forward_for(&self, reads: Reads, x: &Tensor) -> Result<Tensor> {
        let reads = reads.given_by(x);
        let work = || {
            let channels = self.weight.elem_count();
            let (rows, bytes) = (x.elem_count() / channels, x.dtype().size_in_bytes());
            let work = work::layer_norm(rows, channels, bytes);
            work.writing(reads, rows, channels, bytes)
        };
        let op = LayerNormOp {
            eps: self.eps,
            reads,
        };
        op::run(work, || {
            #[cfg(feature = "cuda")]
            if x.device().is_cuda() {
                return super::cuda::layer_norm(reads, x, &self.weight, &self.bias, self.eps);
            }
            x.contiguous()?
                .apply_op3_no_bwd(&self.weight, &self.bias, &op)
        })
    }
}

struct LayerNormOp {
    eps: f64,
    reads: Reads,
}

impl LayerNormOp {
    /// Norms one row.
    fn row(&self, x: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32]) {
        let count = x.len() as f32;
        vectorised(
            #[inline(always)]
            || {
                let mean = sum(x, |x| x) / count;
                // What rounding left out of the mean (as in group_norm).
                let rest = sum(x, |x| x - mean) / count;
                let squares = sum(x, |x| (x - mean) * (x - mean));
                let variance = (squares / count - rest * rest).max(0.0);
                let scale = 1.0 / (variance + self.eps as f32).sqrt();
                for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
                    *out = (x - mean - rest) * scale * weight + bias;
                }
            },
        );
    }
}

/// Sum of f(x) in sixteen interleaved parts, so that the loop vectorises.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut parts = [0f32; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for (part, x) in parts.iter_mut().zip(chunk) {
            *part += f(*x);
        }
    }
    for (part, x) in parts.iter_mut().zip(rest) {
        *part += f(*x);
    }
    parts.iter().sum()
}

impl CustomOp3 for LayerNormOp {
    fn name(&self) -> &'static str {
        "layer_norm"
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
        if layout.dims().last() != Some(&channels) {
            candle_core::bail!("layer norm of {channels} channels got {:?}", layout.dims())
        }
        let values = Values::of(x, layout)?;
        let wide = values.widen();
        let weight = Values::of(weight, weight_layout)?.widen();
        let bias = Values::of(bias, bias_layout)?.widen();
        let row = |x: &[f32], out: &mut [f32]| self.row(x, &weight, &bias, out);
        if self.reads == Reads::Int8 {
            let rows = wide.len() / channels;
            let mut out = Filling::new(layout.dims(), channels);
            out.fill(0, rows, 1, |at, out| {
                row(&wide[at * channels..][..channels], out)
            });
            return Ok(out.store());
        }
        let mut out = vec![0f32; wide.len()];
        out.par_chunks_mut(channels)
            .zip(wide.par_chunks(channels))
            .with_min_len(task_rows(channels))
            .for_each(|(out, x)| row(x, out));
        Ok((store(out, values.dtype())?, layout.shape().clone()))
    }
}
