//! Linear layers: cuBLAS for floats, kernels of ours for int8.

use candle_core::{DType, Result, Tensor};

use super::int8::{self, Added};
use super::{half_of, pointwise};
use crate::ops::weight::Weight;

/// x [.., in], or its rows in int8 → [.., out] of `dtype`, with what is `added` ([`linear_adds`]); a
/// float weight is [out, in].
pub fn linear(
    x: &Tensor,
    weight: &Weight,
    bias: Option<&Tensor>,
    [inputs, outputs]: [usize; 2],
    (dtype, added): (DType, Added),
) -> Result<Tensor> {
    let weight = match weight {
        Weight::Float(weight) => weight,
        Weight::Int8OnGpu(weight) => return int8::linear(x, weight, bias, dtype, added),
        Weight::Int8(_) => candle_core::bail!("a weight on the CPU met activations on a GPU"),
    };
    added.nothing()?;
    let mut dims = x.dims().to_vec();
    match dims.last_mut() {
        Some(last) if *last == inputs => *last = outputs,
        _ => candle_core::bail!("linear of {inputs} inputs got {dims:?}"),
    }
    let rows = x.reshape((x.elem_count() / inputs, inputs))?; // [rows, in]
    float(&rows, weight, bias)?.reshape(dims)
}

/// Whether the layer's kernel adds to its product, or does GEGLU behind it: cuBLAS' does not.
pub fn linear_adds(weight: &Weight, dtype: DType) -> bool {
    matches!(weight, Weight::Int8OnGpu(weight) if weight.has_kernel()) && half_of(dtype).is_some()
}

/// x [rows, in] · weight [out, in]ᵀ + bias, summed in float32 by cuBLAS.
pub fn float(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let out = x.matmul(&weight.t()?)?; // [rows, out]
    match bias {
        Some(bias) => {
            let bias = bias.to_dtype(out.dtype())?;
            pointwise::add_in_place(out, &bias, bias.elem_count())
        }
        None => Ok(out),
    }
}

/// A weight's integers and scales as floats: values [out, ..] in two's complement, scales [out].
pub fn widened(values: &Tensor, scales: &Tensor, dtype: DType) -> Result<Tensor> {
    let bytes = values.to_dtype(DType::F32)?;
    // From 128 on a byte stands for itself less 256.
    let wrapped = (bytes.ge(128f32)?.to_dtype(DType::F32)? * 256.0)?;
    let mut by_row = vec![1; values.rank()];
    by_row[0] = scales.elem_count();
    (bytes - wrapped)?
        .broadcast_mul(&scales.reshape(by_row)?)?
        .to_dtype(dtype)
}
