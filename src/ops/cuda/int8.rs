//! Products of int8 weights.
//!
//! Differences from the CPU: what reads a group norm, and a convolution of more than a pixel, has one
//! activation scale for each image, not for each pixel; where no kernel fits (float32 activations, a
//! linear layer's inputs that are not a multiple of 16), the weight is widened for the call and the
//! product is a float one; a W8A8 convolution of such channels reads floats.

use candle_core::{DType, Result, Tensor};

use super::linear::{float, widened};
use super::{dense, device, empty, half_of, int, pointer, pointer_or_null};
use crate::cuda::Kernels;
use crate::cuda::launch::{self, Dtype, Gemm, Output, Pointer};
use crate::ops::Reads;
use crate::ops::int8::{SCALE_BYTES, Scheme};
use crate::ops::weight::Int8OnGpu;

/// Activations in int8, in two's complement: a tensor of [`Reads::Int8`].
pub struct Quantised {
    tensor: Tensor,
    /// Of a row of values.
    width: usize,
}

impl Quantised {
    /// Memory for values [.., width].
    fn empty(dims: &[usize], like: &Tensor) -> Result<Self> {
        let Some((&width, rows)) = dims.split_last() else {
            candle_core::bail!("int8 rows of no dimension")
        };
        let dims = [rows, &[width + SCALE_BYTES]].concat();
        let tensor = empty(dims, DType::U8, like)?;
        Ok(Self { tensor, width })
    }

    /// What the operation before gave, [.., width + 4].
    pub fn given(x: &Tensor, width: usize) -> Result<Self> {
        if x.dtype() != DType::U8 || x.dims().last() != Some(&(width + SCALE_BYTES)) {
            candle_core::bail!(
                "int8 rows of {width} values are not {:?} {:?}",
                x.dtype(),
                x.dims()
            )
        }
        let tensor = dense(x)?;
        Ok(Self { tensor, width })
    }

    /// Where the values are.
    pub fn values(&self) -> Result<Pointer> {
        pointer(&self.tensor)
    }

    /// Where the scales are.
    pub fn scales(&self) -> Result<Pointer> {
        let rows = self.tensor.elem_count() / (self.width + SCALE_BYTES);
        Ok(self.values()?.wrapping_byte_add(rows * self.width))
    }

    /// How many rows share a scale: an image's pixels, else one.
    pub fn rows_per_scale(&self) -> usize {
        match self.tensor.dims() {
            [_, height, width, _] => height * width,
            _ => 1,
        }
    }
}

/// What a product multiplies its weight by.
pub enum Activations {
    Float(Tensor),
    Int8(Quantised),
}

impl Activations {
    /// Where the values are.
    pub fn values(&self) -> Result<Pointer> {
        match self {
            Self::Float(x) => pointer(x),
            Self::Int8(x) => x.values(),
        }
    }

    /// Where their scales are, if they have any, and how many rows share one.
    pub fn scales(&self) -> Result<(Pointer, usize)> {
        match self {
            Self::Float(_) => Ok((std::ptr::null_mut(), 1)),
            Self::Int8(x) => Ok((x.scales()?, x.rows_per_scale())),
        }
    }
}

/// Memory for what a norm or GEGLU gives: values of its input's type, or int8 and where its scales go.
pub struct Given {
    pub tensor: Tensor,
    pub scales: Pointer,
}

impl Given {
    /// From a kernel that gives a scale for each row, which images do not have.
    pub fn rows(reads: Reads, dims: &[usize], x: &Tensor) -> Result<Self> {
        Self::new(reads == Reads::Int8 && dims.len() != 4, dims, x)
    }

    /// From a kernel that gives a scale for each image.
    pub fn images(reads: Reads, dims: &[usize], x: &Tensor) -> Result<Self> {
        Self::new(reads == Reads::Int8 && dims.len() == 4, dims, x)
    }

    fn new(int8: bool, dims: &[usize], x: &Tensor) -> Result<Self> {
        if int8 {
            let quantised = Quantised::empty(dims, x)?;
            return Ok(Self {
                scales: quantised.scales()?,
                tensor: quantised.tensor,
            });
        }
        Ok(Self {
            tensor: empty(dims, x.dtype(), x)?,
            scales: std::ptr::null_mut(),
        })
    }
}

/// Quantises each row of x [rows, width]; `width` is a multiple of 8.
fn quantise_rows(x: &Tensor, dtype: Dtype) -> Result<Quantised> {
    let (rows, channels) = x.dims2()?;
    let x = dense(x)?;
    let quantised = Quantised::empty(x.dims(), &x)?;
    let parameters = launch::Rows {
        x: pointer(&x)?,
        out: quantised.values()?,
        out_scales: quantised.scales()?,
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
    let quantised = Quantised::empty(x.dims(), &x)?;
    let largest = Tensor::zeros(batch, DType::U32, x.device())?;
    let parameters = launch::Images {
        x: pointer(&x)?,
        out: quantised.values()?,
        out_scales: quantised.scales()?,
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

/// x [.., in], of floats or in int8 → [.., out] of `result`, with what is `added`.
pub fn linear(
    x: &Tensor,
    weight: &Int8OnGpu,
    bias: Option<&Tensor>,
    result: DType,
    added: Added,
) -> Result<Tensor> {
    product(x, weight, bias, result, Behind::Sum(added))
}

/// GEGLU of the same: [.., out / 2], by the kernel that multiplies. The weight stays as a checkpoint has
/// it, values' rows before gates': the kernel takes eight of each in turn as it reads them.
pub fn linear_geglu(
    x: &Tensor,
    weight: &Int8OnGpu,
    bias: Option<&Tensor>,
    result: DType,
) -> Result<Tensor> {
    product(x, weight, bias, result, Behind::Geglu)
}

/// What a product's kernel does to its sums before it rounds them.
enum Behind {
    Sum(Added),
    Geglu,
}

impl Behind {
    /// Fails where no kernel does it.
    fn nothing(&self) -> Result<()> {
        match self {
            Self::Sum(added) => added.nothing(),
            Self::Geglu => candle_core::bail!("no kernel does GEGLU behind this product"),
        }
    }
}

fn product(
    x: &Tensor,
    weight: &Int8OnGpu,
    bias: Option<&Tensor>,
    result: DType,
    behind: Behind,
) -> Result<Tensor> {
    let Int8OnGpu {
        scheme,
        values,
        scales,
    } = weight;
    let (inputs, columns) = (weight.inputs(), scales.elem_count());
    let outputs = match behind {
        Behind::Sum(_) => columns,
        Behind::Geglu if columns.is_multiple_of(2) => columns / 2,
        Behind::Geglu => candle_core::bail!("geglu halves a layer of {columns} outputs"),
    };
    let int8 = x.dtype() == DType::U8;
    let width = inputs + if int8 { SCALE_BYTES } else { 0 };
    let mut dims = x.dims().to_vec();
    match dims.last_mut() {
        Some(last) if *last == width => *last = outputs,
        _ => candle_core::bail!("linear of {inputs} inputs got {:?} {dims:?}", x.dtype()),
    }
    let rows = x.elem_count() / width;
    let floats = || x.reshape((rows, inputs));
    let dtype = match half_of(result) {
        Some(dtype) if weight.has_kernel() && rows > 0 => dtype,
        _ => {
            behind.nothing()?;
            let weight = widened(values, scales, result)?.reshape((outputs, inputs))?;
            return float(&floats()?, &weight, bias)?.reshape(dims);
        }
    };
    let a = match scheme {
        Scheme::W8A8 if int8 => Activations::Int8(Quantised::given(x, inputs)?),
        Scheme::W8A8 => Activations::Int8(quantise_rows(&floats()?, dtype)?),
        Scheme::W8A16 => Activations::Float(dense(&floats()?)?),
    };
    let out = empty(dims, result, x)?;
    let (added, geglu) = match behind {
        Behind::Sum(added) => (added.dense(&out)?, false),
        Behind::Geglu => (Added::default(), true),
    };
    let bias = bias.map(|bias| bias.to_dtype(DType::F32)).transpose()?;
    let (row_scales, rows_per_scale) = a.scales()?;
    let parameters = Gemm {
        a: a.values()?,
        w: pointer(values)?,
        k: int(inputs)?,
        out: Output {
            row_scales,
            col_scales: pointer(scales)?,
            bias: pointer_or_null(bias.as_ref())?,
            m: int(rows)?,
            n: int(outputs)?,
            rows_per_scale: int(rows_per_scale)?,
            ..added.output(&out)?
        },
    };
    let device = device(x)?;
    let processors = Kernels::of(device)?.processors();
    let plan = match (scheme, geglu) {
        (Scheme::W8A8, false) => launch::launch_int8_gemm,
        (Scheme::W8A8, true) => launch::launch_int8_gemm_geglu,
        (Scheme::W8A16, false) => launch::launch_w8a16_gemm,
        (Scheme::W8A16, true) => launch::launch_w8a16_gemm_geglu,
    }(&parameters, dtype, processors);
    // SAFETY: rows × inputs activations, columns × inputs weights, rows × outputs results; scales and
    // bias of `columns` values, a scale of activations for each row or image; what is added is as large
    // as `Added::dense` has it.
    unsafe { crate::cuda::launch(device, &parameters, plan) }?;
    Ok(out)
}

/// What a product's kernel adds to its sums before it rounds them.
#[derive(Default)]
pub struct Added {
    by_image: Option<Tensor>,
    residual: Option<Tensor>,
}

impl Added {
    /// A row [B, out] for all of an image's pixels.
    pub fn by_image(row: Tensor) -> Self {
        Self {
            by_image: Some(row),
            residual: None,
        }
    }

    /// A tensor of the result's shape.
    pub fn residual(x: Tensor) -> Self {
        Self {
            by_image: None,
            residual: Some(x),
        }
    }

    /// How many values.
    pub fn values(&self) -> usize {
        let all = self.by_image.iter().chain(&self.residual);
        all.map(Tensor::elem_count).sum()
    }

    /// Fails if there is anything, where no kernel adds it.
    pub fn nothing(&self) -> Result<()> {
        match (&self.by_image, &self.residual) {
            (None, None) => Ok(()),
            _ => candle_core::bail!("no kernel adds to this product"),
        }
    }

    /// As the kernels read it, for the result `out` [B, .., n].
    pub fn dense(self, out: &Tensor) -> Result<Self> {
        let dims = out.dims();
        let row = [dims[0], dims[dims.len() - 1]];
        let readable = |x: Option<Tensor>, dims: &[usize]| match x {
            Some(x) if x.dims() != dims || x.dtype() != out.dtype() => {
                candle_core::bail!(
                    "sum of {:?} {dims:?} and {:?} {:?}",
                    out.dtype(),
                    x.dtype(),
                    x.dims()
                )
            }
            x => x.map(|x| dense(&x)).transpose(),
        };
        Ok(Self {
            by_image: readable(self.by_image, &row)?,
            residual: readable(self.residual, dims)?,
        })
    }

    /// A product that goes to `out` [B, .., n] with this; scales, bias and sizes are the caller's to set.
    pub fn output(&self, out: &Tensor) -> Result<Output> {
        let none = std::ptr::null_mut();
        let dims = out.dims();
        Ok(Output {
            row_scales: none,
            col_scales: none,
            bias: none,
            image_bias: pointer_or_null(self.by_image.as_ref())?,
            residual: pointer_or_null(self.residual.as_ref())?,
            out: pointer(out)?,
            m: 0,
            n: 0,
            rows_per_scale: 1,
            rows_per_image: int(dims[1..dims.len() - 1].iter().product())?,
        })
    }
}
