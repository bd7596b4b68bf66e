//! Rows of activations in int8, each with its scale.

use std::borrow::Cow;

use candle_core::{CpuStorage, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::weights::as_i8;
use super::{Int8Weights, quantise_row};
use crate::ops::cpu::{Values, task_rows};
use crate::ops::weight::Weight;

/// What a layer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Values of the run's type. An int8 layer quantises them itself.
    Float,
    /// Rows in int8, which the operation before gives in the same pass that computes them; as a
    /// tensor, bytes of shape [.., width + 4]: the values of all rows, then their float32 scales.
    /// On a GPU images [B, H, W, ..] have one scale each in place of one for each pixel; the bytes
    /// behind them are not used.
    Int8,
}

impl Reads {
    /// What a layer of this weight would rather read.
    pub(in crate::ops) fn of(weight: &Weight) -> Self {
        match weight {
            Weight::Int8(weight) if matches!(**weight, Int8Weights::Packed(_)) => Self::Int8,
            #[cfg(feature = "cuda")]
            Weight::Int8OnGpu(weight) if weight.multiplies_int8() => Self::Int8,
            _ => Self::Float,
        }
    }

    /// What an operation on `x` gives a layer that would read this: a GPU quantises f16 and bf16 only.
    pub(in crate::ops) fn given_by(self, x: &Tensor) -> Self {
        match x.device().is_cpu() || x.dtype() != DType::F32 {
            true => self,
            false => Self::Float,
        }
    }

    /// What several layers read that share their input.
    pub fn all(layers: impl IntoIterator<Item = Self>) -> Self {
        match layers.into_iter().all(|reads| reads == Self::Int8) {
            true => Self::Int8,
            false => Self::Float,
        }
    }
}

/// Bytes of a row's scale.
pub const SCALE_BYTES: usize = size_of::<f32>();

/// Rows of activations in int8, each with its scale.
pub struct Quantised<'a> {
    pub(super) values: Cow<'a, [i8]>,
    pub(super) scales: Vec<f32>,
    pub(super) width: usize,
}

impl<'a> Quantised<'a> {
    /// Quantises rows of `width` values.
    pub fn rows(x: &[f32], width: usize) -> Self {
        let mut values = vec![0i8; x.len()];
        let mut scales = vec![0f32; x.len() / width.max(1)];
        values
            .par_chunks_mut(width)
            .zip(x.par_chunks(width))
            .zip(&mut scales)
            .with_min_len(task_rows(width))
            .for_each(|((q, x), scale)| *scale = quantise_row(x, q));
        Self {
            values: values.into(),
            scales,
            width,
        }
    }

    /// The rows of a tensor of [`Reads::Int8`], or those of floats, quantised now.
    pub(in crate::ops) fn read(x: &'a CpuStorage, layout: &Layout, width: usize) -> Result<Self> {
        let (CpuStorage::U8(bytes), Some((start, end))) = (x, layout.contiguous_offsets()) else {
            return Ok(Self::rows(&Values::of(x, layout)?.widen(), width));
        };
        let rows = (end - start) / (width + SCALE_BYTES);
        let (values, scales) = bytes[start..end].split_at(rows * width);
        let (scales, _) = scales.as_chunks();
        Ok(Self {
            values: as_i8(values).into(),
            scales: scales.iter().map(|s| f32::from_ne_bytes(*s)).collect(),
            width,
        })
    }
}

/// The type of what a layer gives that was loaded in `own`: that of its input, unless this is in int8.
pub(in crate::ops) fn result_dtype(input: DType, own: DType) -> DType {
    match input {
        DType::U8 => own,
        float => float,
    }
}

/// A tensor of [`Reads::Int8`] as it is filled.
pub(in crate::ops) struct Filling {
    bytes: Vec<u8>,
    dims: Vec<usize>,
    rows: usize,
    width: usize,
}

impl Filling {
    /// Zeros for values of shape [.., width].
    pub fn new(dims: &[usize], width: usize) -> Self {
        let mut dims = dims.to_vec();
        dims.pop();
        let rows = dims.iter().product();
        dims.push(width + SCALE_BYTES);
        Self {
            bytes: vec![0; rows * (width + SCALE_BYTES)],
            dims,
            rows,
            width,
        }
    }

    /// Computes and quantises the `rows` rows from `first` on, in blocks of `block` rows: `compute`
    /// gives the values of the block of this number.
    pub fn fill(
        &mut self,
        first: usize,
        rows: usize,
        block: usize,
        compute: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let width = self.width;
        let (values, scales) = self.bytes.split_at_mut(self.rows * width);
        let values = &mut values[first * width..][..rows * width];
        let scales = &mut scales[first * SCALE_BYTES..][..rows * SCALE_BYTES];
        values
            .par_chunks_mut(block * width)
            .zip(scales.par_chunks_mut(block * SCALE_BYTES))
            .enumerate()
            .with_min_len(task_rows(block * width))
            .for_each_init(
                || vec![0f32; block * width],
                |floats, (at, (values, scales))| {
                    let floats = &mut floats[..values.len()];
                    compute(at, floats);
                    let rows = floats
                        .chunks_exact(width)
                        .zip(as_i8_mut(values).chunks_exact_mut(width));
                    for ((x, q), scale) in rows.zip(scales.as_chunks_mut().0) {
                        *scale = quantise_row(x, q).to_ne_bytes();
                    }
                },
            );
    }

    /// The tensor.
    pub fn store(self) -> (CpuStorage, Shape) {
        (CpuStorage::U8(self.bytes), self.dims.into())
    }
}

/// These bytes as integers.
fn as_i8_mut(bytes: &mut [u8]) -> &mut [i8] {
    // SAFETY: u8 and i8 have one size and alignment, and every bit pattern is valid in both.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len()) }
}
