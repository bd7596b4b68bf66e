//! Pointwise non-linearities, and GEGLU.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu::{Values, exp, store, task_rows, vectorised};
use super::int8::{Filling, Reads};
use super::work;
use crate::measure::op;

/// Which non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x·σ(x).
    Silu,
    /// x·Φ(x) with the exact Gaussian distribution function.
    Gelu,
    /// x·σ(1.702·x), as OpenAI's CLIP has it.
    QuickGelu,
}

impl Activation {
    /// Applies it in place.
    pub(super) fn apply(self, values: &mut [f32]) {
        vectorised(
            #[inline(always)]
            || match self {
                Activation::Silu => values.iter_mut().for_each(|x| *x = silu(*x)),
                Activation::Gelu => values.iter_mut().for_each(|x| *x = gelu(*x)),
                Activation::QuickGelu => values.iter_mut().for_each(|x| *x = quick_gelu(*x)),
            },
        );
    }
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[inline(always)]
fn quick_gelu(x: f32) -> f32 {
    x / (1.0 + exp(-1.702 * x))
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// The error function in float32: an odd rational function on −4…4, ±1 outside, exactly: GELU
/// multiplies what 1 + erf(x) leaves by x. Coefficients as in Eigen's `generic_fast_erf_float` (MathFunctionsImpl.h).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let s = x * x;
    let mut p = -2.726_142_3e-10;
    p = p * s + 2.770_681_4e-8;
    p = p * s - 2.101_024e-6;
    p = p * s - 5.692_506_5e-5;
    p = p * s - 7.349_906_4e-4;
    p = p * s - 2.954_6e-3;
    p = p * s - 1.609_603_4e-2;
    let mut q = -1.456_607_2e-5;
    q = q * s - 2.133_740_6e-4;
    q = q * s - 1.682_827e-3;
    q = q * s - 7.373_329_3e-3;
    q = q * s - 1.426_473_9e-2;
    if s < 16.0 { x * p / q } else { x * 0.25 }
}

/// Values handled by one task.
const CHUNK: usize = 1 << 14;

/// Applies `which` to every value.
pub fn activation(x: &Tensor, which: Activation) -> Result<Tensor> {
    let work = || work::activation(x.elem_count(), which, x.dtype().size_in_bytes());
    op::run(work, || {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return super::cuda::activation(x, which);
        }
        x.contiguous()?.apply_op1_no_bwd(&ActivationOp(which))
    })
}

struct ActivationOp(Activation);

impl CustomOp1 for ActivationOp {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let values = Values::of(x, layout)?;
        let mut out = values.widen().into_owned();
        out.par_chunks_mut(CHUNK)
            .for_each(|chunk| self.0.apply(chunk));
        Ok((store(out, values.dtype())?, layout.shape().clone()))
    }
}

/// Gated linear unit with GELU: x [.., 2C] → first half × gelu(second half), [.., C], as the layer
/// behind it reads it.
pub fn geglu(reads: Reads, x: &Tensor) -> Result<Tensor> {
    let reads = reads.given_by(x);
    let work = || {
        let channels = x.dims().last().map_or(0, |width| width / 2);
        let rows = x.elem_count() / (2 * channels).max(1);
        let bytes = x.dtype().size_in_bytes();
        work::geglu(rows, channels, bytes).writing(reads, rows, channels, bytes)
    };
    op::run(work, || {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return super::cuda::geglu(reads, x);
        }
        x.contiguous()?.apply_op1_no_bwd(&GegluOp { reads })
    })
}

struct GegluOp {
    reads: Reads,
}

impl CustomOp1 for GegluOp {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut dims = layout.dims().to_vec();
        let Some(last) = dims.last_mut().filter(|last| **last > 0 && **last % 2 == 0) else {
            candle_core::bail!("geglu halves the last dimension, got {:?}", layout.dims())
        };
        *last /= 2;
        let channels = *last;
        let values = Values::of(x, layout)?;
        let wide = values.widen();
        let row = |x: &[f32], out: &mut [f32]| {
            let (value, gate) = x.split_at(channels);
            vectorised(
                #[inline(always)]
                || {
                    for ((out, value), gate) in out.iter_mut().zip(value).zip(gate) {
                        *out = value * gelu(*gate);
                    }
                },
            );
        };
        if self.reads == Reads::Int8 {
            let mut out = Filling::new(&dims, channels);
            let rows = wide.len() / (2 * channels);
            out.fill(0, rows, 1, |at, out| {
                row(&wide[2 * at * channels..][..2 * channels], out)
            });
            return Ok(out.store());
        }
        let mut out = vec![0f32; wide.len() / 2];
        out.par_chunks_mut(channels)
            .zip(wide.par_chunks(2 * channels))
            .with_min_len(task_rows(2 * channels))
            .for_each(|(out, x)| row(x, out));
        Ok((store(out, values.dtype())?, dims.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_and_exp_are_float32_exact() {
        let mut x = -12.0f64;
        while x < 12.0 {
            let wide = (x as f32) as f64;
            let exact = candle_core::cpu::erf::erf_f64(wide);
            assert!(
                (erf(wide as f32) as f64 - exact).abs() < 4e-7,
                "erf({wide})"
            );
            let relative = exp(wide as f32) as f64 / wide.exp() - 1.0;
            assert!(
                relative.abs() < 2.5e-7,
                "exp({wide}) is off by {relative:e}"
            );
            x += 0.000_37;
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e30) < 2e-38 && exp(f32::NAN).is_nan() && gelu(f32::NAN).is_nan());
        assert!(silu(f32::NEG_INFINITY).is_nan() || silu(f32::NEG_INFINITY) <= 0.0);
    }
}
