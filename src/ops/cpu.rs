//! What the CPU paths of the operations share.
//!
//! Every CPU path computes in float32. Tensors kept in f16 or bf16 are widened where an operation
//! reads them and rounded once where it writes, so half precision on the CPU saves memory and costs
//! only the rounding of what is stored.

use std::borrow::Cow;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, Layout, Result, bail};
use gemm::Parallelism;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

/// Values widened or rounded by one task.
const CONVERT_CHUNK: usize = 1 << 14;

/// A contiguous tensor's values in the type that they are kept in.
#[derive(Clone, Copy)]
pub enum Values<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
    /// Rows of as many integers as there are scales.
    I8 {
        values: &'a [i8],
        scales: &'a [f32],
    },
}

impl<'a> Values<'a> {
    /// The values of a contiguous tensor.
    pub fn of(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!(
                "operation needs a contiguous tensor, got strides {:?}",
                layout.stride()
            )
        };
        match storage {
            CpuStorage::F32(v) => Ok(Self::F32(&v[start..end])),
            CpuStorage::F16(v) => Ok(Self::F16(&v[start..end])),
            CpuStorage::BF16(v) => Ok(Self::Bf16(&v[start..end])),
            other => bail!(
                "operation needs f32, f16 or bf16, got {:?}",
                BackendStorage::dtype(other)
            ),
        }
    }

    /// The type that the values are kept in.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F16(_) => DType::F16,
            Self::Bf16(_) => DType::BF16,
            Self::I8 { .. } => DType::U8, // candle has no name for it
        }
    }

    /// A part of the values; of integers, whole rows.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Self {
        match self {
            Self::F32(v) => Self::F32(&v[range]),
            Self::F16(v) => Self::F16(&v[range]),
            Self::Bf16(v) => Self::Bf16(&v[range]),
            Self::I8 { values, scales } => Self::I8 {
                values: &values[range],
                scales,
            },
        }
    }

    /// The values in f32: borrowed if they are kept so, else widened.
    pub fn widen(&self) -> Cow<'a, [f32]> {
        match self {
            Self::F32(v) => Cow::Borrowed(v),
            Self::F16(v) => Cow::Owned(widened(v)),
            Self::Bf16(v) => Cow::Owned(widened(v)),
            Self::I8 { values, scales } => Cow::Owned(scaled(values, scales)),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F16(v) => v.len(),
            Self::Bf16(v) => v.len(),
            Self::I8 { values, .. } => values.len(),
        }
    }
}

fn widened<H: Copy + Sync>(values: &[H]) -> Vec<f32>
where
    [H]: HalfFloatSliceExt,
{
    let mut out = vec![0f32; values.len()];
    out.par_chunks_mut(CONVERT_CHUNK)
        .zip(values.par_chunks(CONVERT_CHUNK))
        .for_each(|(out, values)| values.convert_to_f32_slice(out));
    out
}

fn scaled(values: &[i8], scales: &[f32]) -> Vec<f32> {
    let width = scales.len().max(1);
    let mut out = vec![0f32; values.len()];
    out.par_chunks_mut(width)
        .zip(values.par_chunks(width))
        .with_min_len(task_rows(width))
        .for_each(|(out, values)| {
            vectorised(
                #[inline(always)]
                || {
                    for ((out, value), scale) in out.iter_mut().zip(values).zip(scales) {
                        *out = f32::from(*value) * scale;
                    }
                },
            );
        });
    out
}

fn rounded<H: Copy + Default + Send>(values: &[f32]) -> Vec<H>
where
    [H]: HalfFloatSliceExt,
{
    let mut out = vec![H::default(); values.len()];
    out.par_chunks_mut(CONVERT_CHUNK)
        .zip(values.par_chunks(CONVERT_CHUNK))
        .for_each(|(out, values)| out.convert_from_f32_slice(values));
    out
}

/// Storage of type `dtype` for computed values.
pub fn store(values: Vec<f32>, dtype: DType) -> Result<CpuStorage> {
    match dtype {
        DType::F32 => Ok(CpuStorage::F32(values)),
        DType::F16 => Ok(CpuStorage::F16(rounded(&values))),
        DType::BF16 => Ok(CpuStorage::BF16(rounded(&values))),
        other => bail!("operation cannot write {other:?}"),
    }
}

/// A row-major matrix in memory: `rows` × `cols`, consecutive rows `stride` apart.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// A matrix with nothing between its rows.
    pub fn dense(data: &'a [f32], cols: usize) -> Self {
        Self {
            data,
            rows: data.len() / cols,
            cols,
            stride: cols,
        }
    }

    fn check(&self) {
        assert!(
            self.rows == 0 || (self.rows - 1) * self.stride + self.cols <= self.data.len(),
            "matrix of {}x{} (stride {}) in {} values",
            self.rows,
            self.cols,
            self.stride,
            self.data.len()
        );
    }
}

/// Multiplications from which on a matrix product is worth sharing among threads.
const PARALLEL_PRODUCTS: usize = 1 << 21;

/// Whether [`gemm_nt`] and [`gemm_nn`] may use all threads, or run inside a parallel task.
#[derive(Clone, Copy)]
pub enum Threads {
    One,
    All,
}

/// `out = keep·out + a · bᵀ`: a [m, k], b [n, k], out [m, n] with rows `out_stride` apart.
pub fn gemm_nt(out: &mut [f32], out_stride: usize, keep: f32, a: Rows, b: Rows, threads: Threads) {
    assert_eq!(a.cols, b.cols, "inner sizes");
    let strides = (1, b.stride as isize);
    gemm_f32(
        out,
        out_stride,
        keep,
        a,
        b,
        (b.rows, b.cols),
        strides,
        threads,
    );
}

/// `out = keep·out + a · b`: a [m, k], b [k, n], out [m, n] with rows `out_stride` apart.
pub fn gemm_nn(out: &mut [f32], out_stride: usize, keep: f32, a: Rows, b: Rows, threads: Threads) {
    assert_eq!(a.cols, b.rows, "inner sizes");
    let strides = (b.stride as isize, 1);
    gemm_f32(
        out,
        out_stride,
        keep,
        a,
        b,
        (b.cols, b.rows),
        strides,
        threads,
    );
}

#[allow(clippy::too_many_arguments)] // the one place that names BLAS's arguments
fn gemm_f32(
    out: &mut [f32],
    out_stride: usize,
    keep: f32,
    a: Rows,
    b: Rows,
    (n, k): (usize, usize),
    (b_row_stride, b_col_stride): (isize, isize),
    threads: Threads,
) {
    let m = a.rows;
    if m == 0 || n == 0 {
        return;
    }
    a.check();
    b.check();
    assert!(
        (m - 1) * out_stride + n <= out.len(),
        "output of {m}x{n} in {} values",
        out.len()
    );
    let parallelism = match threads {
        Threads::All if m * n * k >= PARALLEL_PRODUCTS => {
            Parallelism::Rayon(rayon::current_num_threads())
        }
        _ => Parallelism::None,
    };
    // SAFETY: the three matrices lie inside their slices (checked above); `out` is borrowed mutably,
    // so it overlaps neither input.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            keep != 0.0,
            a.data.as_ptr(),
            1,
            a.stride as isize,
            b.data.as_ptr(),
            b_col_stride,
            b_row_stride,
            keep,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Weights widened at once by [`linear_rows`]: small enough to stay in a core's cache.
const WIDEN_VALUES: usize = 1 << 19;

/// Inputs of a half-precision weight [k, n] that are widened at once: blocks of about one size.
pub(super) fn widened_inputs(k: usize, n: usize) -> usize {
    k.div_ceil((n * k).div_ceil(WIDEN_VALUES).max(1)).max(1)
}

/// The fewest rows from which on a row's result does not depend on how many there are, for `n` columns.
///
/// For less work gemm 0.19 (gemm-common, src/gemm.rs) takes other ways: a matrix-vector product for
/// one row, dot products for at most 16·16 results, longer runs of the inner sum for at most 64×64.
/// Each rounds its sums differently, so an image would depend on how many are made with it.
pub(super) fn steady_rows(n: usize) -> usize {
    let dot_products = 256;
    let small = if n <= 64 { 64 } else { 1 };
    (dot_products / n.max(1)).max(small) + 1
}

/// `out = x · weight + bias`: x [m, k], weight [k, n] in any type, out [m, n], all threads. A row of
/// `out` depends on its row of `x` only, to the bit.
///
/// The weight has its outputs side by side because gemm reads that order in place; the checkpoints'
/// order would be repacked at every call, which costs most where rows are few.
pub fn linear_rows(out: &mut [f32], x: Rows, weight: Values, bias: Option<&[f32]>, n: usize) {
    debug_assert_eq!(weight.len(), n * x.cols);
    let rows = steady_rows(n);
    if x.rows >= rows {
        return steady_linear_rows(out, x, weight, bias, n);
    }
    let k = x.cols;
    let mut padded_x = vec![0f32; rows * k];
    for (padded, row) in padded_x.chunks_exact_mut(k).zip(x.data.chunks(x.stride)) {
        padded.copy_from_slice(&row[..k]);
    }
    let mut padded_out = vec![0f32; rows * n];
    steady_linear_rows(&mut padded_out, Rows::dense(&padded_x, k), weight, bias, n);
    out.copy_from_slice(&padded_out[..out.len()]);
}

/// [`linear_rows`] for at least [`steady_rows`].
fn steady_linear_rows(out: &mut [f32], x: Rows, weight: Values, bias: Option<&[f32]>, n: usize) {
    let k = x.cols;
    if let Some(bias) = bias {
        out.par_chunks_mut(n)
            .with_min_len(task_rows(n))
            .for_each(|row| row.copy_from_slice(bias));
    }
    let block = match weight {
        Values::F32(_) => k,
        _ => widened_inputs(k, n),
    };
    for first in (0..k).step_by(block) {
        let last = (first + block).min(k);
        let part = weight.slice(first * n..last * n).widen();
        let x = Rows {
            data: &x.data[first..],
            cols: last - first,
            ..x
        };
        let keep = if bias.is_some() || first > 0 {
            1.0
        } else {
            0.0
        };
        gemm_nn(out, n, keep, x, Rows::dense(&part, n), Threads::All);
    }
}

/// Values that a parallel task should have at least: less would not repay handing it over.
const TASK_VALUES: usize = 1 << 15;

/// Rows of `width` values that make a task.
pub fn task_rows(width: usize) -> usize {
    (TASK_VALUES / width.max(1)).max(1)
}

/// Runs `body` compiled for the widest vectors that this CPU has.
#[inline(always)]
pub fn vectorised<R>(body: impl FnOnce() -> R) -> R {
    struct Body<F>(F);
    impl<R, F: FnOnce() -> R> pulp::NullaryFnOnce for Body<F> {
        type Output = R;

        #[inline(always)]
        fn call(self) -> R {
            (self.0)()
        }
    }
    pulp::Arch::new().dispatch(Body(body))
}

/// eˣ in float32 with an error below 2 ulp; plain arithmetic, so that loops over it vectorise.
///
/// Range reduction by ln 2 in two parts and a degree-6 polynomial, after Cephes' `expf`
/// (Moshier, netlib.org/cephes).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5·2²³ rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // Below −87.3 the result would be denormal; above 88.7 it is infinite.
    let x = x.clamp(-87.336_54, 88.722_83);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    // n reaches 128, so the scale is applied in two halves.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    let scale = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    y * scale(half) * scale(n.wrapping_sub(half))
}
