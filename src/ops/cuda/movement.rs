//! Values put elsewhere: kernels of ours for f16 and bf16, candle's copies for the rest.

use candle_core::{D, DType, Result, Tensor};

use super::{dense, device, empty, half, half_of, in_vectors, int, pointer};
use crate::cuda::launch;
use crate::ops::movement::source;

/// image [B, C, H, W] → [B, H, W, C] in the given type.
pub fn to_channels_last(image: &Tensor, dtype: DType) -> Result<Tensor> {
    let (batch, channels, height, width) = image.dims4()?;
    let Some(kind) = half_of(dtype).filter(|_| image.dtype() == DType::F32) else {
        return image.to_dtype(dtype)?.permute((0, 2, 3, 1))?.contiguous();
    };
    let image = dense(image)?;
    let out = empty((batch, height, width, channels), dtype, &image)?;
    let parameters = relayout(&image, &out, [batch, channels, height * width])?;
    let plan = launch::launch_channels_last(&parameters, kind);
    // SAFETY: batch × channels × pixels values in and out.
    unsafe { crate::cuda::launch(device(&image)?, &parameters, plan) }?;
    Ok(out)
}

/// image [B, H, W, C] → [B, C, H, W] in the given type.
pub fn to_channels_first(image: &Tensor, dtype: DType) -> Result<Tensor> {
    let (batch, height, width, channels) = image.dims4()?;
    let Some(kind) = half(image).filter(|_| dtype == DType::F32) else {
        return image.to_dtype(dtype)?.permute((0, 3, 1, 2))?.contiguous();
    };
    let image = dense(image)?;
    let out = empty((batch, channels, height, width), dtype, &image)?;
    let parameters = relayout(&image, &out, [batch, channels, height * width])?;
    let plan = launch::launch_channels_first(&parameters, kind);
    // SAFETY: batch × channels × pixels values in and out.
    unsafe { crate::cuda::launch(device(&image)?, &parameters, plan) }?;
    Ok(out)
}

fn relayout(
    image: &Tensor,
    out: &Tensor,
    [batch, channels, pixels]: [usize; 3],
) -> Result<launch::Relayout> {
    Ok(launch::Relayout {
        x: pointer(image)?,
        out: pointer(out)?,
        batch: int(batch)?,
        channels: int(channels)?,
        pixels: int(pixels)?,
    })
}

/// a [.., C₁], b [.., C₂] → [.., C₁ + C₂].
pub fn concat_channels(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let [a_channels, b_channels] = [a.dim(D::Minus1)?, b.dim(D::Minus1)?];
    let fits = a.dtype() == b.dtype() && in_vectors(a_channels) && in_vectors(b_channels);
    let rows = a.elem_count() / a_channels.max(1);
    let Some(dtype) = half(a).filter(|_| fits && rows > 0) else {
        return Tensor::cat(&[a, b], D::Minus1);
    };
    let (a, b) = (dense(a)?, dense(b)?);
    let mut dims = a.dims().to_vec();
    dims.pop();
    dims.push(a_channels + b_channels);
    let out = empty(dims, a.dtype(), &a)?;
    let parameters = launch::Concat {
        a: pointer(&a)?,
        b: pointer(&b)?,
        out: pointer(&out)?,
        rows: int(rows)?,
        a_channels: int(a_channels)?,
        b_channels: int(b_channels)?,
    };
    let plan = launch::launch_concat(&parameters, dtype);
    // SAFETY: rows × a_channels and rows × b_channels values in, as many out.
    unsafe { crate::cuda::launch(device(&a)?, &parameters, plan) }?;
    Ok(out)
}

/// image [B, H, W, C] → [B, height, width, C], each pixel the one at floor(i · H / height).
pub fn upsample_nearest(image: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (_, in_height, in_width, _) = image.dims4()?;
    let sources = |input, output| {
        let at = (0..output).map(|i| source(i, input, output) as u32);
        Tensor::from_iter(at, image.device())
    };
    image
        .index_select(&sources(in_height, height)?, 1)?
        .index_select(&sources(in_width, width)?, 2)
}

/// A checkpoint's weight [out, in, ..kernel] with its inputs side by side: [out, ..kernel, in].
pub fn inputs_last(weight: &Tensor) -> Result<Tensor> {
    let mut order: Vec<usize> = (0..weight.rank()).collect();
    order[1..].rotate_left(1);
    weight.permute(order)?.contiguous()
}
