//! An int8 weight in memory, as its scheme multiplies it.

use candle_core::{CpuStorage, DType, Result, Storage, Tensor};
use serde::{Deserialize, Serialize};

use super::Packed;
use super::kernel::Kernel;
use crate::ops::weight::{Turn, turned};

/// What int8 weights are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Activations in int8, quantised row by row as they arrive.
    W8A8,
    /// Activations as they are.
    W8A16,
}

impl Scheme {
    /// Both.
    pub const ALL: [Scheme; 2] = [Scheme::W8A8, Scheme::W8A16];

    /// `w8a8` or `w8a16`.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::W8A8 => "w8a8",
            Scheme::W8A16 => "w8a16",
        }
    }
}

/// A layer's int8 weight.
#[derive(Debug)]
pub enum Int8Weights {
    /// For products of integers.
    Packed(Packed),
    /// To be widened block by block: values [taps, in, out].
    Wide {
        /// Integers.
        values: Vec<i8>,
        /// `[out]`.
        scales: Vec<f32>,
    },
}

impl Int8Weights {
    /// A checkpoint's weight, ready for `scheme`: `values` is a U8 tensor [out, in, ..kernel] whose
    /// bytes are the integers, `scales` is `[out]`.
    pub fn new(scheme: Scheme, values: &Tensor, scales: &Tensor) -> Result<Self> {
        let dims = values.dims();
        let [outputs, inputs, kernel @ ..] = dims else {
            candle_core::bail!("int8 weight of {dims:?} has no inputs")
        };
        let sizes = [*outputs, *inputs, kernel.iter().product()];
        let scales = scales.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        if scales.len() != *outputs {
            candle_core::bail!("{} scales for {outputs} outputs", scales.len())
        }
        let (storage, layout) = values.storage_and_layout();
        let (Storage::Cpu(CpuStorage::U8(bytes)), Some((start, end))) =
            (&*storage, layout.contiguous_offsets())
        else {
            candle_core::bail!(
                "int8 weights are bytes on the CPU, got {:?}",
                values.dtype()
            )
        };
        let values = as_i8(&bytes[start..end]);
        Ok(match scheme {
            Scheme::W8A8 => Self::Packed(Packed::new(Kernel::best(), values, &scales, sizes)),
            Scheme::W8A16 => Self::Wide {
                values: turned(values, Turn::of(dims)?),
                scales,
            },
        })
    }

    /// What it is multiplied by.
    pub fn scheme(&self) -> Scheme {
        match self {
            Self::Packed(_) => Scheme::W8A8,
            Self::Wide { .. } => Scheme::W8A16,
        }
    }

    /// Bytes that a weight of [out, in, taps] takes on this machine.
    pub fn bytes(scheme: Scheme, sizes: [usize; 3]) -> usize {
        match scheme {
            Scheme::W8A8 => Packed::bytes(Kernel::best(), sizes),
            Scheme::W8A16 => sizes.iter().product::<usize>() + 4 * sizes[0],
        }
    }
}

/// The integers that these bytes are.
pub(super) fn as_i8(bytes: &[u8]) -> &[i8] {
    // SAFETY: u8 and i8 have one size and alignment, and every bit pattern is valid in both.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) }
}
