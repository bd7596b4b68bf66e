//! Convolutions: kernels of ours for f16, bf16 and int8, candle's for float32.

use candle_core::{DType, Result, Tensor};

use super::int8::{self, Activations, Added, Quantised, quantise_images};
use super::linear::{linear_adds, widened};
use super::{dense, device, empty, half_of, int, pointer, pointer_or_null};
use crate::cuda::Kernels;
use crate::cuda::launch::{self, Dtype, Output};
use crate::ops::Reads;
use crate::ops::conv2d::{ConvShape, Padding, out_size};
use crate::ops::doubles;
use crate::ops::int8::SCALE_BYTES;
use crate::ops::limits::PATCHES;
use crate::ops::weight::Weight;

/// Whether the convolution's kernel adds to its product.
pub fn conv2d_adds(weight: &Weight, shape: ConvShape, dtype: DType) -> bool {
    match weight {
        Weight::Int8OnGpu(_) if pointwise(shape) => linear_adds(weight, dtype),
        _ => half_of(dtype).is_some(),
    }
}

/// Whether the convolution's kernel reads an image of the size `from` as enlarged to `to`
/// ([`crate::ops::upsample_nearest`]).
pub fn conv2d_upsamples(shape: ConvShape, dtype: DType, from: [usize; 2], to: [usize; 2]) -> bool {
    let doubled = from.into_iter().zip(to).all(|(from, to)| doubles(from, to));
    half_of(dtype).is_some() && !pointwise(shape) && doubled
}

/// image [B, H, W, in], of floats or in int8 → [B, H', W', out] of `result`, with what is `added`
/// ([`conv2d_adds`]); a weight is [out, kernel, kernel, in]. The image may be `upsampled` to a size
/// ([`conv2d_upsamples`]).
pub fn conv2d(
    image: &Tensor,
    weight: &Weight,
    bias: &Tensor,
    (shape, upsampled): (ConvShape, Option<[usize; 2]>),
    (result, added): (DType, Added),
) -> Result<Tensor> {
    let (_, height, width, channels) = image.dims4()?;
    let [height, width] = upsampled.unwrap_or([height, width]);
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
    let int8 = image.dtype() == DType::U8 && Reads::of(weight) == Reads::Int8;
    let pixel = inputs + if int8 { SCALE_BYTES } else { 0 };
    if channels != pixel || height + top + bottom < kernel || width + left + right < kernel {
        candle_core::bail!(
            "convolution of {inputs} channels and kernel {kernel} got {:?} {:?}",
            image.dtype(),
            image.dims()
        )
    }
    if let (Weight::Int8OnGpu(weight), true) = (weight, pointwise(shape)) {
        return int8::linear(image, weight, Some(bias), result, added);
    }
    let (values, weight_scales) = match weight {
        Weight::Float(weight) => (weight, None),
        Weight::Int8OnGpu(weight) => (&weight.values, Some(&weight.scales)),
        Weight::Int8(_) => candle_core::bail!("a weight on the CPU met an image on a GPU"),
    };
    let Some(dtype) = half_of(result) else {
        added.nothing()?;
        if upsampled.is_some() {
            candle_core::bail!("no kernel enlarges what this convolution reads")
        }
        return match weight_scales {
            None => by_candle(image, values, bias, shape),
            Some(scales) => by_candle(image, &widened(values, scales, result)?, bias, shape),
        };
    };
    let multiplies_int8 = matches!(weight, Weight::Int8OnGpu(weight) if weight.multiplies_int8());
    let factors = Factors {
        image: match multiplies_int8 {
            false => Activations::Float(dense(image)?),
            true if int8 => Activations::Int8(Quantised::given(image, inputs)?),
            true => Activations::Int8(quantise_images(image, dtype)?),
        },
        weight: values,
        weight_scales,
    };
    launched(
        image,
        factors,
        bias,
        (shape, upsampled),
        (result, dtype, added),
    )
}

/// Whether it is a product over pixels and nothing more.
fn pointwise(shape: ConvShape) -> bool {
    shape.kernel == 1 && shape.stride == 1 && shape.padding == Padding::default()
}

/// What is multiplied; the scales of outputs are of an int8 weight.
struct Factors<'a> {
    image: Activations,
    weight: &'a Tensor,
    weight_scales: Option<&'a Tensor>,
}

/// By a kernel of ours; `image` gives sizes and device.
fn launched(
    image: &Tensor,
    factors: Factors,
    bias: &Tensor,
    (shape, upsampled): (ConvShape, Option<[usize; 2]>),
    (result, dtype, added): (DType, Dtype, Added),
) -> Result<Tensor> {
    let (batch, height, width, _) = image.dims4()?;
    let [height, width] = upsampled.unwrap_or([height, width]);
    let ConvShape {
        kernel,
        inputs,
        outputs,
        stride,
        padding,
    } = shape;
    let [out_height, out_width] = out_size(height, width, kernel, stride, padding);
    let out = empty((batch, out_height, out_width, outputs), result, image)?;
    let added = added.dense(&out)?;
    let (image_scales, _) = factors.image.scales()?;
    let bias = bias.to_dtype(DType::F32)?;
    let parameters = launch::Conv2d {
        x: factors.image.values()?,
        w: pointer(factors.weight)?,
        batch: int(batch)?,
        height: int(height)?,
        width: int(width)?,
        channels: int(inputs)?,
        kernel: int(kernel)?,
        stride: int(stride)?,
        pad_top: int(padding.top)?,
        pad_left: int(padding.left)?,
        out_height: int(out_height)?,
        out_width: int(out_width)?,
        upsample: upsampled.is_some().into(),
        out: Output {
            row_scales: image_scales,
            col_scales: pointer_or_null(factors.weight_scales)?,
            bias: pointer(&bias)?,
            m: int(batch * out_height * out_width)?,
            n: int(outputs)?,
            rows_per_scale: int(out_height * out_width)?,
            ..added.output(&out)?
        },
    };
    let device = device(image)?;
    let processors = Kernels::of(device)?.processors();
    let plan = match (&factors.image, factors.weight_scales) {
        (Activations::Int8(_), _) => launch::launch_int8_conv2d(&parameters, dtype, processors),
        (_, Some(_)) => launch::launch_w8a16_conv2d(&parameters, dtype, processors),
        (_, None) => launch::launch_conv2d(&parameters, dtype, processors),
    };
    // SAFETY: batch × height × width × channels values (half of each edge where they are read as doubled,
    // `conv2d_upsamples`), outputs × kernel² × channels weights, a result for each output pixel and channel; bias and
    // scales of as many values; what is added is as large as `Added::dense` has it.
    unsafe { crate::cuda::launch(device, &parameters, plan) }?;
    Ok(out)
}

/// In the image's own type, channels first, so many rows of the result at once as [`PATCHES`] allow.
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
    let convolved = |image: &Tensor| {
        image
            .conv2d(&weight, 0, stride, 1, 1)? // [B, out, H', W']
            .permute((0, 2, 3, 1))? // [B, H', W', out]
            .contiguous()
    };
    let (batch, inputs, height, width) = image.dims4()?;
    let kernel = weight.dim(2)?;
    let out_height = (height - kernel) / stride + 1;
    let row = batch * inputs * kernel * kernel * ((width - kernel) / stride + 1);
    let rows = (PATCHES / row).clamp(1, out_height);
    let out = match rows == out_height {
        true => convolved(&image)?,
        false => {
            let band = |first: usize| {
                let rows = rows.min(out_height - first);
                convolved(&image.narrow(2, first * stride, (rows - 1) * stride + kernel)?)
            };
            let bands: Vec<_> = (0..out_height)
                .step_by(rows)
                .map(band)
                .collect::<Result<_>>()?;
            Tensor::cat(&bands, 1)?
        }
    };
    out.broadcast_add(&bias.to_dtype(out.dtype())?)
}
