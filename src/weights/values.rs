//! Weights on their way into memory: each value is written once, in the number type and the order
//! that the networks keep.

use candle_core::{DType, Device, Result, Tensor, WithDType, bail};
use half::slice::HalfFloatSliceExt;
use half::vec::HalfBitsVecExt;
use half::{bf16, f16};

/// Values of a tensor that a task writes.
pub const TASK: usize = 1 << 14;

/// Where a tensor's values come from.
pub trait Fill {
    /// Writes all of them.
    fn fill<T: Kept>(&self, out: &mut [T]);
}

/// A new tensor of these values.
pub fn tensor(
    values: &impl Fill,
    shape: Vec<usize>,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    fn of<T: Kept>(values: &impl Fill, shape: Vec<usize>, device: &Device) -> Result<Tensor> {
        let mut kept = T::zeros(shape.iter().product());
        values.fill(&mut kept);
        Tensor::from_vec(kept, shape, device)
    }
    match dtype {
        DType::F32 => of::<f32>(values, shape, device),
        DType::F16 => of::<f16>(values, shape, device),
        DType::BF16 => of::<bf16>(values, shape, device),
        other => bail!("weights are kept in f32, f16 or bf16, not in {other:?}"),
    }
}

/// Writes `out` by way of float32, a few values at a time: `give(i, values)` gives those from the
/// `i`-th on.
#[inline(always)]
pub fn store<T: Kept>(out: &mut [T], mut give: impl FnMut(usize, &mut [f32])) {
    const BLOCK: usize = 1 << 10;
    let mut values = [0f32; BLOCK];
    for (block, out) in out.chunks_mut(BLOCK).enumerate() {
        let values = &mut values[..out.len()];
        give(block * BLOCK, values);
        T::round(values, out);
    }
}

/// A number type that weights are kept in.
pub trait Kept: WithDType {
    /// Memory that the system has cleared and nobody has touched.
    fn zeros(count: usize) -> Vec<Self>;
    /// Writes the nearest numbers.
    fn round(values: &[f32], out: &mut [Self]);
}

impl Kept for f32 {
    fn zeros(count: usize) -> Vec<Self> {
        vec![0.0; count]
    }

    fn round(values: &[f32], out: &mut [Self]) {
        out.copy_from_slice(values);
    }
}

impl Kept for f16 {
    fn zeros(count: usize) -> Vec<Self> {
        vec![0u16; count].reinterpret_into()
    }

    fn round(values: &[f32], out: &mut [Self]) {
        out.convert_from_f32_slice(values);
    }
}

impl Kept for bf16 {
    fn zeros(count: usize) -> Vec<Self> {
        vec![0u16; count].reinterpret_into()
    }

    fn round(values: &[f32], out: &mut [Self]) {
        out.convert_from_f32_slice(values);
    }
}
