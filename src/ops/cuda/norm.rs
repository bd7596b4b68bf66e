//! Norms: kernels of ours for f16 and bf16, candle's operations in float32 for the rest.

use candle_core::{D, DType, Result, Tensor};

use super::int8::Given;
use super::{dense, device, empty, half, int, pointer};
use crate::cuda::launch::{self, Dtype};
use crate::ops::limits::{GROUP_NORM_CHANNELS, VECTOR};
use crate::ops::{Activation, Moments, Reads};

/// x [.., C] → the same shape, as `reads` says; weight and bias `[C]`.
pub fn layer_norm(
    reads: Reads,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    let channels = weight.elem_count();
    if x.dims().last() != Some(&channels) {
        candle_core::bail!("layer norm of {channels} channels got {:?}", x.dims())
    }
    let (weight, bias) = (weight.to_dtype(DType::F32)?, bias.to_dtype(DType::F32)?);
    let rows = x.elem_count() / channels.max(1);
    let dtype = match half(x) {
        Some(dtype) if channels.is_multiple_of(VECTOR) && rows > 0 => dtype,
        _ => {
            return normalised(&x.to_dtype(DType::F32)?, eps)?
                .broadcast_mul(&weight)?
                .broadcast_add(&bias)?
                .to_dtype(x.dtype());
        }
    };
    let x = dense(x)?;
    let out = Given::rows(reads, x.dims(), &x)?;
    let parameters = launch::LayerNorm {
        x: pointer(&x)?,
        weight: pointer(&weight)?,
        bias: pointer(&bias)?,
        out: pointer(&out.tensor)?,
        out_scales: out.scales,
        rows: int(rows)?,
        channels: int(channels)?,
        eps: eps as f32,
    };
    let plan = launch::launch_layer_norm(&parameters, dtype);
    // SAFETY: rows × channels values in and out, a scale for each row if it is asked for, a weight and
    // a bias for each channel.
    unsafe { crate::cuda::launch(device(&x)?, &parameters, plan) }?;
    Ok(out.tensor)
}

/// x [B, .., C] → the same shape, the activation behind it, as `reads` says; weight and bias `[C]`.
pub fn group_norm(
    reads: Reads,
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    (groups, eps): (usize, f64),
    activation: Option<Activation>,
) -> Result<Tensor> {
    let (images, channels) = checked(x, weight, groups)?;
    let pixels = x.elem_count() / (images * channels).max(1);
    let (weight, bias) = (weight.to_dtype(DType::F32)?, bias.to_dtype(DType::F32)?);
    if let Some(dtype) = kernels(x, channels, activation) {
        let out = Given::images(reads, x.dims(), x)?;
        let by_kernels = ByKernels::new(x, (&weight, &bias), (groups, eps), activation, out)?;
        return by_kernels.with_own_statistics(dtype);
    }
    let width = channels / groups.max(1);
    let grouped = x
        .to_dtype(DType::F32)?
        .reshape((images, pixels, groups, width))?
        .transpose(1, 2)? // [B, G, pixels, C/G]
        .reshape((images, groups, pixels * width))?;
    let normed = normalised(&grouped, eps)?
        .reshape((images, groups, pixels, width))?
        .transpose(1, 2)?
        .reshape(x.shape())?
        .broadcast_mul(&weight)?
        .broadcast_add(&bias)?;
    activated(normed, activation)?.to_dtype(x.dtype())
}

/// The same with given statistics, those of another image.
pub fn group_norm_given(
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    groups: usize,
    eps: f64,
    (moments, activation): (&Moments, Option<Activation>),
) -> Result<Tensor> {
    let (_, channels) = checked(x, weight, groups)?;
    let [mean, inverse] = moments
        .by_channel(channels, eps)
        .map(|values| Tensor::from_vec(values, channels, x.device()));
    let (weight, bias) = (weight.to_dtype(DType::F32)?, bias.to_dtype(DType::F32)?);
    let (mean, scale) = (mean?, (&weight * inverse?)?);
    if let Some(dtype) = kernels(x, channels, activation) {
        let out = Given::images(Reads::Float, x.dims(), x)?;
        let by_kernels = ByKernels::new(x, (&weight, &bias), (groups, eps), activation, out)?;
        return by_kernels.with_table(&Tensor::cat(&[&mean, &scale, &bias], 0)?, dtype);
    }
    let normed = x
        .to_dtype(DType::F32)?
        .broadcast_sub(&mean)?
        .broadcast_mul(&scale)?
        .broadcast_add(&bias)?;
    activated(normed, activation)?.to_dtype(x.dtype())
}

/// A chunk of an image's pixels: how many values a group has there; the mean and the sum of squared deviations of each.
type Chunk = (f64, Vec<[f32; 2]>);

/// The statistics of the chunks of one image x [1, .., C], where there is a kernel for them.
pub fn group_norm_moments(
    x: &Tensor,
    weight: &Tensor,
    groups: usize,
) -> Result<Option<Vec<Chunk>>> {
    let (images, channels) = checked(x, weight, groups)?;
    let Some(dtype) = kernels(x, channels, None).filter(|_| images == 1) else {
        return Ok(None);
    };
    let weight = weight.to_dtype(DType::F32)?;
    // The statistics alone write no result: x stands for it.
    let out = Given {
        tensor: x.clone(),
        scales: std::ptr::null_mut(),
    };
    let by_kernels = ByKernels::new(x, (&weight, &weight), (groups, 0.0), None, out)?;
    by_kernels.launch(launch::launch_group_norm_stats(
        &by_kernels.parameters,
        dtype,
    ))?;
    let pixels = x.elem_count() / channels;
    let chunk = launch::group_norm_chunk_pixels(&by_kernels.parameters) as usize;
    let chunks = pixels.div_ceil(chunk);
    // They begin the workspace.
    let moments = by_kernels.workspace.narrow(0, 0, 2 * chunks * groups)?;
    let moments = moments.to_vec1::<f32>()?;
    let count = |at| (chunk.min(pixels - at * chunk) * channels / groups) as f64;
    let by_chunk = moments.chunks_exact(2 * groups).enumerate();
    let chunks = by_chunk.map(|(at, groups)| (count(at), groups.as_chunks().0.to_vec()));
    Ok(Some(chunks.collect()))
}

/// Images and channels of what a group norm can take.
fn checked(x: &Tensor, weight: &Tensor, groups: usize) -> Result<(usize, usize)> {
    let channels = weight.elem_count();
    match x.dims() {
        [images, .., last] if *last == channels && channels.is_multiple_of(groups) => {
            Ok((*images, channels))
        }
        dims => {
            candle_core::bail!("group norm of {channels} channels in {groups} groups got {dims:?}")
        }
    }
}

fn activated(x: Tensor, activation: Option<Activation>) -> Result<Tensor> {
    match activation {
        Some(which) => super::activation(&x, which),
        None => Ok(x),
    }
}

/// The type in which the kernels take it, if they do.
fn kernels(x: &Tensor, channels: usize, activation: Option<Activation>) -> Option<Dtype> {
    let fits = channels.is_multiple_of(VECTOR)
        && channels <= GROUP_NORM_CHANNELS
        && x.elem_count() > 0
        && matches!(activation, None | Some(Activation::Silu));
    half(x).filter(|_| fits)
}

/// A group norm that kernels of ours do.
struct ByKernels {
    x: Tensor,
    /// What `parameters` points at, too.
    _weights: [Tensor; 2],
    out: Given,
    workspace: Tensor,
    parameters: launch::GroupNorm,
}

impl ByKernels {
    /// Of x [B, .., C]; weight and bias in float32.
    fn new(
        x: &Tensor,
        (weight, bias): (&Tensor, &Tensor),
        (groups, eps): (usize, f64),
        activation: Option<Activation>,
        out: Given,
    ) -> Result<Self> {
        let (images, channels) = checked(x, weight, groups)?;
        let x = dense(x)?;
        let mut parameters = launch::GroupNorm {
            x: pointer(&x)?,
            weight: pointer(weight)?,
            bias: pointer(bias)?,
            out: pointer(&out.tensor)?,
            out_scales: out.scales,
            workspace: std::ptr::null_mut(),
            batch: int(images)?,
            pixels: int(x.elem_count() / (images * channels))?,
            channels: int(channels)?,
            groups: int(groups)?,
            eps: eps as f32,
            silu: activation.is_some().into(),
        };
        let floats = launch::group_norm_workspace_floats(&parameters) as usize;
        let workspace = empty(floats, DType::F32, &x)?;
        parameters.workspace = pointer(&workspace)?;
        Ok(Self {
            x,
            _weights: [weight.clone(), bias.clone()],
            out,
            workspace,
            parameters,
        })
    }

    fn with_own_statistics(self, dtype: Dtype) -> Result<Tensor> {
        self.launch(launch::launch_group_norm_stats(&self.parameters, dtype))?;
        self.launch(launch::launch_group_norm_table(&self.parameters, dtype))?;
        self.applied(dtype)
    }

    /// By means, scales and shifts [3·C] for every image.
    fn with_table(self, table: &Tensor, dtype: Dtype) -> Result<Tensor> {
        let images = self.parameters.batch as usize;
        let each = self.workspace.elem_count() / images;
        for image in 0..images {
            // The last of an image's part but for one word.
            let at = (image + 1) * each - table.elem_count() - 1;
            self.workspace.slice_set(table, 0, at)?;
        }
        self.applied(dtype)
    }

    fn applied(self, dtype: Dtype) -> Result<Tensor> {
        self.launch(launch::launch_group_norm_apply(&self.parameters, dtype))?;
        Ok(self.out.tensor)
    }

    fn launch(&self, plan: launch::Launch) -> Result<()> {
        // SAFETY: batch × pixels × channels values in and out, a scale for each image if it is asked for, a weight and a
        // bias for each channel, and the workspace that launch.c asks for; each launch reads what those before it, or
        // `with_table`, wrote.
        unsafe { crate::cuda::launch(device(&self.x)?, &self.parameters, plan) }
    }
}

/// (x − mean) / √(variance + eps) over the last dimension.
fn normalised(x: &Tensor, eps: f64) -> Result<Tensor> {
    let away = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = away.sqr()?.mean_keepdim(D::Minus1)?;
    away.broadcast_div(&(variance + eps)?.sqrt()?)
}
