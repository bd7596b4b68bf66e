//! Products of int8 weights.
//!
//! Differences from the CPU: a convolution has one activation scale for each image, not for each pixel;
//! where no kernel fits (float32 activations, channels that are not a multiple of 16, convolutions of
//! more than a pixel under W8A16), the weight is widened for the call and the product is a float one.

use candle_core::{DType, Result, Tensor};

use super::linear::{float, widened};
use super::{dense, device, empty, half, int, pointer, pointer_or_null};
use crate::cuda::Kernels;
use crate::cuda::launch::{self, Dtype, Gemm, Output};
use crate::ops::int8::Scheme;
use crate::ops::weight::Int8OnGpu;

/// What a product's inner dimension is a multiple of.
const STEP: usize = 16;

/// Activations in int8, in two's complement, with a scale for each row.
pub struct Quantised {
    pub values: Tensor,
    pub scales: Tensor,
}

/// Quantises each row of x [rows, width]; `width` is a multiple of 8.
pub fn quantise_rows(x: &Tensor, dtype: Dtype) -> Result<Quantised> {
    let (rows, channels) = x.dims2()?;
    let x = dense(x)?;
    let quantised = Quantised {
        values: empty((rows, channels), DType::U8, &x)?,
        scales: empty(rows, DType::F32, &x)?,
    };
    let parameters = launch::Rows {
        x: pointer(&x)?,
        out: pointer(&quantised.values)?,
        out_scales: pointer(&quantised.scales)?,
        rows: int(rows)?,
        channels: int(channels)?,
    };
    let plan = launch::launch_quantise_rows(&parameters, dtype);
    // SAFETY: rows × channels values in and out, a scale for each row.
    unsafe { crate::cuda::launch(device(&x)?, &parameters, plan) }?;
    Ok(quantised)
}

/// Quantises whole images x [B, H, W, C] with one scale each; C is a multiple of 8.
pub fn quantise_images(x: &Tensor, dtype: Dtype) -> Result<Quantised> {
    let (batch, height, width, channels) = x.dims4()?;
    let x = dense(x)?;
    let quantised = Quantised {
        values: empty(x.shape(), DType::U8, &x)?,
        scales: empty(batch, DType::F32, &x)?,
    };
    let largest = Tensor::zeros(batch, DType::U32, x.device())?;
    let parameters = launch::Images {
        x: pointer(&x)?,
        out: pointer(&quantised.values)?,
        out_scales: pointer(&quantised.scales)?,
        largest: pointer(&largest)?,
        batch: int(batch)?,
        values: int(height * width * channels)?,
    };
    let device = device(&x)?;
    for plan in [
        launch::launch_images_largest(&parameters, dtype),
        launch::launch_quantise_images(&parameters, dtype),
    ] {
        // SAFETY: batch × values in and out, a scale and a zeroed word for each image.
        unsafe { crate::cuda::launch(device, &parameters, plan) }?;
    }
    Ok(quantised)
}

/// x [rows, in] → [rows, out].
pub fn linear(x: &Tensor, weight: &Int8OnGpu, bias: Option<&Tensor>) -> Result<Tensor> {
    let Int8OnGpu {
        scheme,
        values,
        scales,
    } = weight;
    let (rows, inputs) = x.dims2()?;
    let outputs = scales.elem_count();
    let dtype = match half(x) {
        Some(dtype) if inputs.is_multiple_of(STEP) && rows > 0 => dtype,
        _ => {
            let weight = widened(values, scales, x.dtype())?.reshape((outputs, inputs))?;
            return float(x, &weight, bias);
        }
    };
    let out = empty((rows, outputs), x.dtype(), x)?;
    let x = dense(x)?;
    let quantised = match scheme {
        Scheme::W8A8 => Some(quantise_rows(&x, dtype)?),
        Scheme::W8A16 => None,
    };
    let bias = bias.map(|bias| bias.to_dtype(DType::F32)).transpose()?;
    let parameters = Gemm {
        a: pointer(quantised.as_ref().map_or(&x, |q| &q.values))?,
        w: pointer(values)?,
        k: int(inputs)?,
        out: Output {
            row_scales: pointer_or_null(quantised.as_ref().map(|q| &q.scales))?,
            col_scales: pointer(scales)?,
            bias: pointer_or_null(bias.as_ref())?,
            m: int(rows)?,
            n: int(outputs)?,
            ..Output::to(&out)?
        },
    };
    let device = device(&x)?;
    let processors = Kernels::of(device)?.processors();
    let plan = match scheme {
        Scheme::W8A8 => launch::launch_int8_gemm(&parameters, dtype, processors),
        Scheme::W8A16 => launch::launch_w8a16_gemm(&parameters, dtype, processors),
    };
    // SAFETY: rows × inputs activations, outputs × inputs weights, rows × outputs results; scales and
    // bias of as many values.
    unsafe { crate::cuda::launch(device, &parameters, plan) }?;
    Ok(out)
}

impl Output {
    /// A product that goes to `out` as it is; sizes are the caller's to set.
    pub fn to(out: &Tensor) -> Result<Self> {
        let none = std::ptr::null_mut();
        Ok(Self {
            row_scales: none,
            col_scales: none,
            bias: none,
            image_bias: none,
            residual: none,
            out: pointer(out)?,
            sentinel: none,
            m: 0,
            n: 0,
            rows_per_scale: 1,
            rows_per_image: 1,
        })
    }
}
