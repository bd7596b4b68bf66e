//! Convolutions: kernels of ours for f16, bf16 and int8, candle's for float32.

use candle_core::{DType, Result, Tensor};

use super::int8::{self, quantise_images};
use super::linear::widened;
use super::{dense, device, empty, half, int, pointer, pointer_or_null};
use crate::cuda::Kernels;
use crate::cuda::launch::{self, Dtype, Output};
use crate::ops::conv2d::{ConvShape, Padding, out_size};
use crate::ops::int8::Scheme;
use crate::ops::weight::{Int8OnGpu, Weight};

/// What an int8 convolution's channels are a multiple of.
const INT8_STEP: usize = 16;

/// image [B, H, W, in] → [B, H', W', out]; a weight is [out, kernel, kernel, in].
pub fn conv2d(image: &Tensor, weight: &Weight, bias: &Tensor, shape: ConvShape) -> Result<Tensor> {
    let (_, height, width, channels) = image.dims4()?;
    let ConvShape {
        kernel,
        inputs,
        padding,
        ..
    } = shape;
    let Padding {
        top,
        left,
        bottom,
        right,
    } = padding;
    if channels != inputs || height + top + bottom < kernel || width + left + right < kernel {
        candle_core::bail!(
            "convolution of {inputs} channels and kernel {kernel} got {:?}",
            image.dims()
        )
    }
    match (weight, half(image)) {
        (Weight::Float(weight), Some(dtype)) => float(image, weight, bias, shape, dtype),
        (Weight::Float(weight), None) => by_candle(image, weight, bias, shape),
        (Weight::Int8OnGpu(weight), dtype) => of_int8(image, weight, bias, shape, dtype),
        (Weight::Int8(_), _) => candle_core::bail!("a weight on the CPU met an image on a GPU"),
    }
}

fn of_int8(
    image: &Tensor,
    weight: &Int8OnGpu,
    bias: &Tensor,
    shape: ConvShape,
    dtype: Option<Dtype>,
) -> Result<Tensor> {
    let (batch, height, width, channels) = image.dims4()?;
    let ConvShape {
        kernel,
        inputs,
        outputs,
        stride,
        padding,
    } = shape;
    if kernel == 1 && stride == 1 && padding == Padding::default() {
        let pixels = image.reshape((batch * height * width, channels))?;
        return int8::linear(&pixels, weight, Some(bias))?.reshape((batch, height, width, outputs));
    }
    let Int8OnGpu {
        scheme,
        values,
        scales,
    } = weight;
    match dtype {
        Some(dtype) if *scheme == Scheme::W8A8 && inputs.is_multiple_of(INT8_STEP) => {
            let x = quantise_images(image, dtype)?;
            let factors = Factors {
                image: &x.values,
                weight: values,
                scales: Some((&x.scales, scales)),
            };
            launched(image, factors, bias, shape, dtype)
        }
        Some(dtype) => {
            let weight = widened(values, scales, image.dtype())?;
            float(image, &weight, bias, shape, dtype)
        }
        None => by_candle(image, &widened(values, scales, image.dtype())?, bias, shape),
    }
}

fn float(
    image: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    shape: ConvShape,
    dtype: Dtype,
) -> Result<Tensor> {
    let image = dense(image)?;
    let factors = Factors {
        image: &image,
        weight,
        scales: None,
    };
    launched(&image, factors, bias, shape, dtype)
}

/// What is multiplied: values of `dtype`, or int8 with the scales of images and of outputs.
struct Factors<'a> {
    image: &'a Tensor,
    weight: &'a Tensor,
    scales: Option<(&'a Tensor, &'a Tensor)>,
}

/// By a kernel of ours; `image` gives sizes, type and device.
fn launched(
    image: &Tensor,
    factors: Factors,
    bias: &Tensor,
    shape: ConvShape,
    dtype: Dtype,
) -> Result<Tensor> {
    let (batch, height, width, channels) = image.dims4()?;
    let ConvShape {
        kernel,
        outputs,
        stride,
        padding,
        ..
    } = shape;
    let [out_height, out_width] = out_size(height, width, kernel, stride, padding);
    let out = empty(
        (batch, out_height, out_width, outputs),
        image.dtype(),
        image,
    )?;
    let bias = bias.to_dtype(DType::F32)?;
    let parameters = launch::Conv2d {
        x: pointer(factors.image)?,
        w: pointer(factors.weight)?,
        batch: int(batch)?,
        height: int(height)?,
        width: int(width)?,
        channels: int(channels)?,
        kernel: int(kernel)?,
        stride: int(stride)?,
        pad_top: int(padding.top)?,
        pad_left: int(padding.left)?,
        out_height: int(out_height)?,
        out_width: int(out_width)?,
        upsample: 0,
        out: Output {
            row_scales: pointer_or_null(factors.scales.map(|(images, _)| images))?,
            col_scales: pointer_or_null(factors.scales.map(|(_, outputs)| outputs))?,
            bias: pointer(&bias)?,
            m: int(batch * out_height * out_width)?,
            n: int(outputs)?,
            rows_per_scale: int(out_height * out_width)?,
            ..Output::to(&out)?
        },
    };
    let device = device(image)?;
    let processors = Kernels::of(device)?.processors();
    let plan = match factors.scales {
        Some(_) => launch::launch_int8_conv2d(&parameters, dtype, processors),
        None => launch::launch_conv2d(&parameters, dtype, processors),
    };
    // SAFETY: batch × height × width × channels values, outputs × kernel² × channels weights, a result
    // for each output pixel and channel; bias and scales of as many values.
    unsafe { crate::cuda::launch(device, &parameters, plan) }?;
    Ok(out)
}

/// In the image's own type, channels first.
fn by_candle(image: &Tensor, weight: &Tensor, bias: &Tensor, shape: ConvShape) -> Result<Tensor> {
    let ConvShape {
        stride, padding, ..
    } = shape;
    let image = image
        .permute((0, 3, 1, 2))? // [B, in, H, W]
        .pad_with_zeros(2, padding.top, padding.bottom)?
        .pad_with_zeros(3, padding.left, padding.right)?
        .contiguous()?;
    let weight = weight.permute((0, 3, 1, 2))?.contiguous()?; // [out, in, kernel, kernel]
    image
        .conv2d(&weight, 0, stride, 1, 1)? // [B, out, H', W']
        .permute((0, 2, 3, 1))? // [B, H', W', out]
        .contiguous()?
        .broadcast_add(&bias.to_dtype(image.dtype())?)
}
