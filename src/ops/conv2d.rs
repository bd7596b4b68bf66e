//! Two-dimensional convolution of a channels-last image.
//!
//! The CPU path gathers the patches of a block of output pixels (never of the whole image) and
//! multiplies the block by the weights. A 1×1 convolution of stride 1 is the product alone.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::cpu::{Rows, Values, linear_rows, store, task_rows};
#[cfg(feature = "cuda")]
use super::cuda::Added;
use super::int8::{Int8Weights, Quantised, Reads, SCALE_BYTES, Scheme, product, result_dtype};
use super::probe::{self, Layer};
use super::weight::{Weight, for_kernels, load_weight, outputs_last};
use super::{add, add_by_image, upsample_nearest, work};
use crate::measure::op::{self, Work};

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

/// A convolution: weight kept as its device reads it ([kernel, kernel, in, out] on the CPU) or in int8,
/// bias `[out]`.
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Weight,
    bias: Tensor,
    shape: ConvShape,
    dtype: DType,
    /// In the checkpoint; empty where it is from none.
    name: String,
}

/// Channels, kernel, stride and padding of a convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConvShape {
    pub(super) kernel: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) stride: usize,
    pub(super) padding: Padding,
}

impl Conv2d {
    /// Reads `weight` [out, in, kernel, kernel] and `bias`; stride 1, the image's size kept.
    pub fn load(inputs: usize, outputs: usize, kernel: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: load_weight(&[outputs, inputs, kernel, kernel], &vb)?,
            bias: for_kernels(vb.get(outputs, "bias")?)?,
            shape: ConvShape {
                kernel,
                inputs,
                outputs,
                stride: 1,
                padding: Padding::all(kernel / 2),
            },
            dtype: vb.dtype(),
            name: vb.prefix(),
        })
    }

    /// The same convolution with another stride and padding.
    pub fn with_stride(self, stride: usize, padding: Padding) -> Self {
        Self {
            shape: ConvShape {
                stride,
                padding,
                ..self.shape
            },
            ..self
        }
    }

    /// A convolution of the given tensors: weight [out, in, kernel, kernel], bias `[out]`.
    pub fn new(weight: &Tensor, bias: Tensor, stride: usize, padding: Padding) -> Result<Self> {
        let (outputs, inputs, kernel, _) = weight.dims4()?;
        Ok(Self {
            dtype: weight.dtype(),
            weight: Weight::Float(outputs_last(weight)?), // [kernel, kernel, in, out]
            bias,
            shape: ConvShape {
                kernel,
                inputs,
                outputs,
                stride,
                padding,
            },
            name: String::new(),
        })
    }

    /// A convolution of an int8 weight [out, in, kernel, kernel], bias `[out]`.
    pub fn new_int8(
        weight: Int8Weights,
        bias: Tensor,
        [inputs, outputs, kernel]: [usize; 3],
        stride: usize,
        padding: Padding,
    ) -> Self {
        Self {
            weight: Weight::Int8(Arc::new(weight)),
            dtype: bias.dtype(),
            bias,
            shape: ConvShape {
                kernel,
                inputs,
                outputs,
                stride,
                padding,
            },
            name: String::new(),
        }
    }

    /// Its scheme, if it is int8.
    pub fn int8(&self) -> Option<Scheme> {
        self.weight.int8()
    }

    /// The largest magnitude of its weights for each input, where they are floats.
    pub fn largest_weights(&self) -> Result<Option<Vec<f32>>> {
        self.weight.largest_by_input(self.shape.inputs)
    }

    /// What it would rather read.
    pub fn reads(&self) -> Reads {
        Reads::of(&self.weight)
    }

    /// image [B, H, W, in], or its pixels in int8 ([`Reads::Int8`]) → [B, H', W', out].
    pub fn forward(&self, image: &Tensor) -> Result<Tensor> {
        let out = self.forward_unseen(image)?;
        probe::tell(&self.name, || Layer::Conv2d(self.clone()), image, &out)?;
        Ok(out)
    }

    /// [`Conv2d::forward`] of the image + a row [B, out] for each image's pixels, in one kernel where a
    /// GPU has one.
    pub fn forward_add_by_image(
        &self,
        image: Tensor,
        row: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if self.adds(&image) {
            return self.forward_added(&image, Added::by_image(row()?));
        }
        let out = self.forward(&image)?;
        // Not needed while the sum is made.
        drop(image);
        add_by_image(&out, &row()?)
    }

    /// residual + [`Conv2d::forward`] of the image, in one kernel where a GPU has one.
    pub fn forward_add(
        &self,
        image: Tensor,
        residual: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if self.adds(&image) {
            return self.forward_added(&image, Added::residual(residual()?));
        }
        let out = self.forward(&image)?;
        drop(image);
        add(&residual()?, &out)
    }

    /// [`Conv2d::forward`] of the image enlarged to a height and width ([`upsample_nearest`]); where a GPU's
    /// kernel reads a pixel twice each way, the larger image never exists.
    pub fn forward_upsampled(&self, image: &Tensor, size: [usize; 2]) -> Result<Tensor> {
        let [height, width] = size;
        #[cfg(feature = "cuda")]
        if image.device().is_cuda() && !probe::watched() {
            let (batch, from_height, from_width, _) = image.dims4()?;
            let dtype = self.result_dtype(image);
            let from = [from_height, from_width];
            if super::cuda::conv2d_upsamples(self.shape, dtype, from, size) {
                let work = || self.work_on((batch, from, size), image);
                return op::run(work, || self.on_gpu(image, Some(size), Added::default()));
            }
        }
        self.forward(&upsample_nearest(image, height, width)?)
    }

    #[cfg(feature = "cuda")]
    fn adds(&self, image: &Tensor) -> bool {
        let dtype = self.result_dtype(image);
        image.device().is_cuda()
            && super::cuda::conv2d_adds(&self.weight, self.shape, dtype)
            && !probe::watched()
    }

    #[cfg(feature = "cuda")]
    fn forward_added(&self, image: &Tensor, added: Added) -> Result<Tensor> {
        let (sizes, values) = (image.dims4()?, added.values());
        let work = || {
            let product = self.work(sizes, image);
            let bytes = self.result_dtype(image).size_in_bytes();
            let results = product.written_bytes as usize / bytes;
            product.adding(work::add(results, values, bytes))
        };
        op::run(work, || self.on_gpu(image, None, added))
    }

    #[cfg(feature = "cuda")]
    fn on_gpu(
        &self,
        image: &Tensor,
        upsampled: Option<[usize; 2]>,
        added: Added,
    ) -> Result<Tensor> {
        let (shape, kind) = ((self.shape, upsampled), (self.result_dtype(image), added));
        super::cuda::conv2d(image, &self.weight, &self.bias, shape, kind)
    }

    /// What it has to do for images of these sizes.
    fn work(
        &self,
        (batch, height, width, _): (usize, usize, usize, usize),
        image: &Tensor,
    ) -> Work {
        self.work_on((batch, [height, width], [height, width]), image)
    }

    /// The same for images that are read as if they were enlarged from one size to another.
    fn work_on(
        &self,
        (batch, stored, [height, width]): (usize, [usize; 2], [usize; 2]),
        image: &Tensor,
    ) -> Work {
        let ConvShape {
            kernel,
            inputs,
            outputs,
            stride,
            padding,
        } = self.shape;
        let [out_height, out_width] = out_size(height, width, kernel, stride, padding);
        let pixels = batch * stored[0] * stored[1];
        let bytes = self.result_dtype(image).size_in_bytes();
        let work = work::conv2d(
            (pixels, batch * out_height * out_width),
            kernel * kernel,
            inputs,
            outputs,
            bytes,
            self.weight.int8(),
        );
        match image.dtype() {
            DType::U8 => work.reading_int8(pixels, inputs, bytes),
            _ => work,
        }
    }

    pub(super) fn forward_unseen(&self, image: &Tensor) -> Result<Tensor> {
        let sizes = image.dims4()?;
        let work = || self.work(sizes, image);
        op::run(work, || {
            #[cfg(feature = "cuda")]
            if image.device().is_cuda() {
                return self.on_gpu(image, None, Default::default());
            }
            let image = image.contiguous()?;
            match &self.weight {
                Weight::Float(weight) => {
                    image.apply_op3_no_bwd(weight, &self.bias, &ConvOp(self.shape))
                }
                Weight::Int8(weight) => image.apply_op2_no_bwd(
                    &self.bias,
                    &Int8ConvOp {
                        shape: self.shape,
                        weight,
                        dtype: self.result_dtype(&image),
                    },
                ),
                #[cfg(feature = "cuda")]
                Weight::Int8OnGpu(_) => {
                    candle_core::bail!("a weight on a GPU met an image elsewhere")
                }
            }
        })
    }

    fn result_dtype(&self, image: &Tensor) -> DType {
        result_dtype(image.dtype(), self.dtype)
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

/// Sizes of one convolution, in pixels.
struct Geometry {
    shape: ConvShape,
    height: usize,
    width: usize,
    out_height: usize,
    out_width: usize,
}

impl Geometry {
    /// Of images [B, H, W, `pixel`].
    fn of(shape: ConvShape, image: &Layout, pixel: usize) -> Result<(usize, Self)> {
        let (batch, height, width, channels) = image.shape().dims4()?;
        let ConvShape {
            kernel,
            inputs,
            stride,
            padding,
            ..
        } = shape;
        let Padding {
            top,
            left,
            bottom,
            right,
        } = padding;
        if channels != pixel || height + top + bottom < kernel || width + left + right < kernel {
            candle_core::bail!(
                "convolution of {inputs} channels and kernel {kernel} got {:?}",
                image.dims()
            )
        }
        let [out_height, out_width] = out_size(height, width, kernel, stride, padding);
        let geometry = Self {
            shape,
            height,
            width,
            out_height,
            out_width,
        };
        Ok((batch, geometry))
    }

    /// Shape of the result.
    fn result(&self, batch: usize) -> Shape {
        (batch, self.out_height, self.out_width, self.shape.outputs).into()
    }

    /// Whether it is a product over pixels and nothing more.
    fn pointwise(&self) -> bool {
        let ConvShape {
            kernel,
            stride,
            padding,
            ..
        } = self.shape;
        kernel == 1 && stride == 1 && padding == Padding::default()
    }

    /// The pixel that output pixel `pixel` reads at a tap of the kernel, all row-major, if it lies in
    /// the image.
    fn source(&self, pixel: usize, tap: usize) -> Option<usize> {
        let ConvShape {
            kernel,
            stride,
            padding,
            ..
        } = self.shape;
        let y = (pixel / self.out_width * stride + tap / kernel).wrapping_sub(padding.top);
        let x = (pixel % self.out_width * stride + tap % kernel).wrapping_sub(padding.left);
        (y < self.height && x < self.width).then(|| y * self.width + x)
    }

    /// Writes the patch of output pixel `pixel` (row-major): [kernel, kernel, channels].
    fn gather(&self, image: &[f32], pixel: usize, patch: &mut [f32]) {
        let ConvShape {
            kernel,
            inputs: c,
            stride,
            padding,
            ..
        } = self.shape;
        let (out_y, out_x) = (pixel / self.out_width, pixel % self.out_width);
        // Columns of the image under the patch, and where the first of them falls in a patch row.
        let x0 = (out_x * stride) as isize - padding.left as isize;
        let skip = (-x0).clamp(0, kernel as isize) as usize;
        let take = (self.width as isize - x0).clamp(skip as isize, kernel as isize) as usize - skip;
        for (ky, row) in patch.chunks_exact_mut(kernel * c).enumerate() {
            let y = (out_y * stride + ky).wrapping_sub(padding.top);
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

    /// Multiplies the patches of images [B, H, W, in] by a weight [kernel, kernel, in, out].
    fn multiply(&self, images: &[f32], weight: Values, bias: &[f32], out: &mut [f32]) {
        let ConvShape {
            kernel,
            inputs,
            outputs,
            ..
        } = self.shape;
        if self.pointwise() {
            let x = Rows::dense(images, inputs);
            return linear_rows(out, x, weight, Some(bias), outputs);
        }
        let patch = kernel * kernel * inputs;
        let pixels = self.out_height * self.out_width;
        let block = block_pixels(patch, pixels);
        let mut patches = vec![0f32; block * patch];
        for (image, out) in images
            .chunks_exact(self.height * self.width * inputs)
            .zip(out.chunks_exact_mut(pixels * outputs))
        {
            for (i, out) in out.chunks_mut(block * outputs).enumerate() {
                let patches = &mut patches[..out.len() / outputs * patch];
                patches
                    .par_chunks_mut(patch)
                    .enumerate()
                    .with_min_len(task_rows(patch))
                    .for_each(|(j, patch)| self.gather(image, i * block + j, patch));
                let patches = Rows::dense(patches, patch);
                linear_rows(out, patches, weight, Some(bias), outputs);
            }
        }
    }
}

/// The convolution of floats: image [B, H, W, in] → [B, H', W', out].
fn floats(
    shape: ConvShape,
    image: (&CpuStorage, &Layout),
    weight: Values,
    bias: (&CpuStorage, &Layout),
) -> Result<(CpuStorage, Shape)> {
    let (batch, geometry) = Geometry::of(shape, image.1, shape.inputs)?;
    let values = Values::of(image.0, image.1)?;
    let wide = values.widen();
    let bias = Values::of(bias.0, bias.1)?.widen();
    let result = geometry.result(batch);
    let mut out = vec![0f32; result.elem_count()];
    geometry.multiply(&wide, weight, &bias, &mut out);
    Ok((store(out, values.dtype())?, result))
}

struct ConvOp(ConvShape);

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
        let weight = Values::of(weight, weight_layout)?;
        floats(self.0, (image, image_layout), weight, (bias, bias_layout))
    }
}

struct Int8ConvOp<'a> {
    shape: ConvShape,
    weight: &'a Int8Weights,
    dtype: DType,
}

impl CustomOp2 for Int8ConvOp<'_> {
    fn name(&self) -> &'static str {
        "int8_conv2d"
    }

    fn cpu_fwd(
        &self,
        image: &CpuStorage,
        image_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let weight = match self.weight {
            Int8Weights::Packed(weight) => weight,
            Int8Weights::Wide { values, scales } => {
                let weight = Values::I8 { values, scales };
                return floats(
                    self.shape,
                    (image, image_layout),
                    weight,
                    (bias, bias_layout),
                );
            }
        };
        let inputs = self.shape.inputs;
        let int8 = image.dtype() == DType::U8;
        let pixel = inputs + if int8 { SCALE_BYTES } else { 0 };
        let (batch, geometry) = Geometry::of(self.shape, image_layout, pixel)?;
        let x = Quantised::read(image, image_layout, inputs)?;
        let bias = Values::of(bias, bias_layout)?.widen();
        let result = geometry.result(batch);
        let mut out = vec![0f32; result.elem_count()];
        let pixels = geometry.out_height * geometry.out_width;
        let in_pixels = geometry.height * geometry.width;
        product(&mut out, &x, weight, Some(&bias), |row, tap| {
            let source = geometry.source(row % pixels, tap);
            source.map(|at| row / pixels * in_pixels + at)
        });
        Ok((store(out, self.dtype)?, result))
    }
}
