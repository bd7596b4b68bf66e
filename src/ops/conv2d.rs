//! Two-dimensional convolution of a channels-last image.
//!
//! The CPU path gathers the patches of a block of output pixels (never of the whole image) and
//! multiplies the block by the weights. A 1×1 convolution of stride 1 is the product alone.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::cpu::{Rows, Values, linear_rows, store, task_rows};
use super::weight::{self, outputs_last};
use super::work;
use crate::measure::op;

/// Zeros put around an image before a convolution, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Padding {
    /// Above.
    pub top: usize,
    /// Left.
    pub left: usize,
    /// Below.
    pub bottom: usize,
    /// Right.
    pub right: usize,
}

impl Padding {
    /// The same on all sides.
    pub fn all(pixels: usize) -> Self {
        Self {
            top: pixels,
            left: pixels,
            bottom: pixels,
            right: pixels,
        }
    }
}

/// A convolution: weight kept as [kernel, kernel, in, out], bias `[out]`.
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Tensor,
    stride: usize,
    padding: Padding,
}

impl Conv2d {
    /// Reads `weight` [out, in, kernel, kernel] and `bias`; stride 1, the image's size kept.
    pub fn load(inputs: usize, outputs: usize, kernel: usize, vb: VarBuilder) -> Result<Self> {
        let shape = [outputs, inputs, kernel, kernel];
        Ok(Self {
            weight: weight::load(&shape, &vb)?, // [kernel, kernel, in, out]
            bias: vb.get(outputs, "bias")?,
            stride: 1,
            padding: Padding::all(kernel / 2),
        })
    }

    /// The same convolution with another stride and padding.
    pub fn with_stride(self, stride: usize, padding: Padding) -> Self {
        Self {
            stride,
            padding,
            ..self
        }
    }

    /// A convolution of the given tensors: weight [out, in, kernel, kernel], bias `[out]`.
    pub fn new(weight: &Tensor, bias: Tensor, stride: usize, padding: Padding) -> Result<Self> {
        let weight = outputs_last(weight)?; // [kernel, kernel, in, out]
        Ok(Self {
            weight,
            bias,
            stride,
            padding,
        })
    }

    /// image [B, H, W, in] → [B, H', W', out].
    pub fn forward(&self, image: &Tensor) -> Result<Tensor> {
        let conv = ConvOp {
            stride: self.stride,
            padding: self.padding,
        };
        let (batch, height, width, _) = image.dims4()?;
        let (kernel, _, inputs, outputs) = self.weight.dims4()?;
        let work = || {
            let [out_height, out_width] =
                out_size(height, width, kernel, self.stride, self.padding);
            work::conv2d(
                (batch * height * width, batch * out_height * out_width),
                kernel * kernel,
                inputs,
                outputs,
                image.dtype().size_in_bytes(),
            )
        };
        op::run(work, || {
            image
                .contiguous()?
                .apply_op3_no_bwd(&self.weight, &self.bias, &conv)
        })
    }
}

/// Height and width of a convolution's result.
pub(crate) fn out_size(
    height: usize,
    width: usize,
    kernel: usize,
    stride: usize,
    padding: Padding,
) -> [usize; 2] {
    let edge = |length: usize| length.saturating_sub(kernel) / stride + 1;
    [
        edge(height + padding.top + padding.bottom),
        edge(width + padding.left + padding.right),
    ]
}

/// Patch values gathered at once, at most (unless [`MIN_BLOCK_PIXELS`] need more).
const BLOCK_VALUES: usize = 2 << 20;

/// Output pixels multiplied at once, at least: fewer would not repay reading the weights.
const MIN_BLOCK_PIXELS: usize = 256;

/// Output pixels whose patches, of `patch` values each, are gathered at once.
pub(super) fn block_pixels(patch: usize, pixels: usize) -> usize {
    (BLOCK_VALUES / patch).max(MIN_BLOCK_PIXELS).min(pixels)
}

struct ConvOp {
    stride: usize,
    padding: Padding,
}

/// Sizes of one convolution, in pixels and channels.
struct Geometry {
    kernel: usize,
    stride: usize,
    padding: Padding,
    height: usize,
    width: usize,
    channels: usize,
    out_width: usize,
}

impl Geometry {
    /// Writes the patch of output pixel `pixel` (row-major): [kernel, kernel, channels].
    fn gather(&self, image: &[f32], pixel: usize, patch: &mut [f32]) {
        let (out_y, out_x) = (pixel / self.out_width, pixel % self.out_width);
        let c = self.channels;
        // Columns of the image under the patch, and where the first of them falls in a patch row.
        let x0 = (out_x * self.stride) as isize - self.padding.left as isize;
        let skip = (-x0).clamp(0, self.kernel as isize) as usize;
        let take =
            (self.width as isize - x0).clamp(skip as isize, self.kernel as isize) as usize - skip;
        for (ky, row) in patch.chunks_exact_mut(self.kernel * c).enumerate() {
            let y = (out_y * self.stride + ky).wrapping_sub(self.padding.top);
            if y >= self.height || take == 0 {
                row.fill(0.0);
                continue;
            }
            let start = (y * self.width + (x0 + skip as isize) as usize) * c;
            row[..skip * c].fill(0.0);
            row[skip * c..][..take * c].copy_from_slice(&image[start..][..take * c]);
            row[(skip + take) * c..].fill(0.0);
        }
    }
}

impl CustomOp3 for ConvOp {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        image: &CpuStorage,
        image_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, height, width, channels) = image_layout.shape().dims4()?;
        let (kernel, _, inputs, outputs) = weight_layout.shape().dims4()?;
        let Padding {
            top,
            left,
            bottom,
            right,
        } = self.padding;
        if channels != inputs || height + top + bottom < kernel || width + left + right < kernel {
            candle_core::bail!(
                "convolution of {inputs} channels and kernel {kernel} got {:?}",
                image_layout.dims()
            )
        }
        let [out_height, out_width] = out_size(height, width, kernel, self.stride, self.padding);
        let geometry = Geometry {
            kernel,
            stride: self.stride,
            padding: self.padding,
            height,
            width,
            channels,
            out_width,
        };
        let values = Values::of(image, image_layout)?;
        let wide = values.widen();
        let weight = Values::of(weight, weight_layout)?;
        let bias = Values::of(bias, bias_layout)?.widen();

        let patch = kernel * kernel * channels;
        let pixels = out_height * out_width;
        let mut out = vec![0f32; batch * pixels * outputs];
        let pointwise = kernel == 1 && self.stride == 1 && self.padding == Padding::default();
        if pointwise {
            linear_rows(
                &mut out,
                Rows::dense(&wide, channels),
                weight,
                Some(&bias),
                outputs,
            );
        } else {
            let block = block_pixels(patch, pixels);
            let mut patches = vec![0f32; block * patch];
            for (image, out) in wide
                .chunks_exact(height * width * channels)
                .zip(out.chunks_exact_mut(pixels * outputs))
            {
                for (i, out) in out.chunks_mut(block * outputs).enumerate() {
                    let patches = &mut patches[..out.len() / outputs * patch];
                    patches
                        .par_chunks_mut(patch)
                        .enumerate()
                        .with_min_len(task_rows(patch))
                        .for_each(|(j, patch)| geometry.gather(image, i * block + j, patch));
                    linear_rows(
                        out,
                        Rows::dense(patches, patch),
                        weight,
                        Some(&bias),
                        outputs,
                    );
                }
            }
        }
        let shape = (batch, out_height, out_width, outputs);
        Ok((store(out, values.dtype())?, shape.into()))
    }
}
