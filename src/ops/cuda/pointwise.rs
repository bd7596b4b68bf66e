//! Value by value: non-linearities, GEGLU, sums.

use candle_core::{D, DType, Result, Tensor};

use super::int8::Given;
use super::{dense, device, empty, half, in_vectors, int, pointer};
use crate::cuda::launch;
use crate::ops::limits::INT8_GEGLU_CHANNELS;
use crate::ops::{Activation, Reads};

/// Applies `which` to every value, in float32.
pub fn activation(x: &Tensor, which: Activation) -> Result<Tensor> {
    let Some(dtype) = half(x).filter(|_| in_vectors(x.elem_count())) else {
        let wide = x.to_dtype(DType::F32)?;
        return match which {
            Activation::Silu => wide.silu()?,
            Activation::Gelu => wide.gelu_erf()?,
            Activation::QuickGelu => (candle_nn::ops::sigmoid(&(&wide * 1.702)?)? * &wide)?,
        }
        .to_dtype(x.dtype());
    };
    let x = dense(x)?;
    let out = empty(x.shape(), x.dtype(), &x)?;
    let parameters = launch::Activation {
        x: pointer(&x)?,
        out: pointer(&out)?,
        count: x.elem_count() as i64,
        which: match which {
            Activation::Silu => 0,
            Activation::Gelu => 1,
            Activation::QuickGelu => 2,
        },
    };
    let plan = launch::launch_activation(&parameters, dtype);
    // SAFETY: `count` values in and out.
    unsafe { crate::cuda::launch(device(&x)?, &parameters, plan) }?;
    Ok(out)
}

/// x [.., 2C] → first half × gelu(second half), [.., C], as `reads` says.
pub fn geglu(reads: Reads, x: &Tensor) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let Some(last) = dims.last_mut().filter(|last| **last > 0 && **last % 2 == 0) else {
        candle_core::bail!("geglu halves the last dimension, got {:?}", x.dims())
    };
    *last /= 2;
    let channels = *last;
    let rows = x.elem_count() / (2 * channels);
    let Some(dtype) = half(x).filter(|_| in_vectors(channels) && rows > 0) else {
        let halves = x.chunk(2, D::Minus1)?;
        return halves[0].contiguous()? * activation(&halves[1].contiguous()?, Activation::Gelu)?;
    };
    let x = dense(x)?;
    let reads = match channels <= INT8_GEGLU_CHANNELS {
        true => reads,
        false => Reads::Float,
    };
    let out = Given::rows(reads, &dims, &x)?;
    let parameters = launch::Rows {
        x: pointer(&x)?,
        out: pointer(&out.tensor)?,
        out_scales: out.scales,
        rows: int(rows)?,
        channels: int(channels)?,
    };
    let plan = launch::launch_geglu(&parameters, dtype);
    // SAFETY: rows × 2·channels values in, rows × channels out, a scale for each if it is asked for.
    unsafe { crate::cuda::launch(device(&x)?, &parameters, plan) }?;
    Ok(out.tensor)
}

/// `b` is rows of `width` values; a's values are split evenly among them, and each row is repeated
/// along its part.
pub fn add(a: &Tensor, b: &Tensor, width: usize) -> Result<Tensor> {
    if a.elem_count() == 0 {
        return Ok(a.clone());
    }
    if half(a).is_some() && a.dtype() == b.dtype() && in_vectors(width) {
        let a = dense(a)?;
        let out = empty(a.shape(), a.dtype(), &a)?;
        add_into(&out, &a, &dense(b)?, width)?;
        return Ok(out);
    }
    let parts = b.elem_count() / width;
    a.reshape((parts, a.elem_count() / (parts * width), width))?
        .broadcast_add(&b.reshape((parts, 1, width))?)?
        .reshape(a.shape())
}

/// The same for a sum that nothing else holds yet, in its place.
pub fn add_in_place(sum: Tensor, b: &Tensor, width: usize) -> Result<Tensor> {
    match sum.elem_count() > 0 && half(&sum).is_some() && in_vectors(width) {
        true => {
            add_into(&sum, &sum, &dense(b)?, width)?;
            Ok(sum)
        }
        false => add(&sum, b, width),
    }
}

/// All three dense, of one type, which the kernel knows; `width` is a multiple of the kernels' vectors.
fn add_into(out: &Tensor, a: &Tensor, b: &Tensor, width: usize) -> Result<()> {
    let Some(dtype) = half(a) else {
        candle_core::bail!("no kernel adds {:?}", a.dtype())
    };
    let parts = b.elem_count() / width;
    let parameters = launch::Sum {
        a: pointer(a)?,
        b: pointer(b)?,
        out: pointer(out)?,
        parts: int(parts)?,
        repeats: int(a.elem_count() / (parts * width))?,
        width: int(width)?,
    };
    let plan = launch::launch_add_rows(&parameters, dtype);
    // SAFETY: parts × repeats × width values in a and out, parts × width in b.
    unsafe { crate::cuda::launch(device(a)?, &parameters, plan) }
}
