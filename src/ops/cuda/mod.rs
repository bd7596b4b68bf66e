//! The operations on a GPU: kernels of ours where they apply (f16 and bf16, and the shapes that
//! kernels/README.md names), candle's own everywhere else.
//!
//! Every function here gets tensors of one CUDA device and checks their shapes as its CPU twin does.

mod attention;
mod conv2d;
mod int8;
mod linear;
mod movement;
mod norm;
mod pointwise;
mod sampler;

pub use attention::{attention, cross_attention, has_cross_attention};
pub use conv2d::{conv2d, conv2d_adds, conv2d_upsamples};
pub use int8::{Added, linear_geglu};
pub use linear::{linear, linear_adds};
pub use movement::{
    concat_channels, inputs_last, to_channels_first, to_channels_last, upsample_nearest,
};
pub use norm::{group_norm, group_norm_given, group_norm_moments, layer_norm};
pub use pointwise::{activation, add, geglu};
pub use sampler::{SamplerStep, model_input, sampler_step};

use std::ffi::c_int;

use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::cuda_backend::{CudaDType, CudaDevice};
use candle_core::{CudaStorage, DType, Result, Shape, Storage, Tensor};
use half::{bf16, f16};

use crate::cuda::launch::{self, Dtype, Pointer};
use crate::finite::Seen;
use crate::ops::limits::VECTOR;

/// Whether the kernels' vectors divide so many.
fn in_vectors(count: usize) -> bool {
    count > 0 && count.is_multiple_of(VECTOR)
}

/// Kernels read vectors of this many bytes.
const ALIGNMENT: usize = 16;

/// The kernels' name for the tensor's type, if they know it.
fn half(x: &Tensor) -> Option<Dtype> {
    half_of(x.dtype())
}

/// The same of a type.
fn half_of(dtype: DType) -> Option<Dtype> {
    match dtype {
        DType::F16 => Some(Dtype::F16),
        DType::BF16 => Some(Dtype::Bf16),
        _ => None,
    }
}

fn device(x: &Tensor) -> Result<&CudaDevice> {
    x.device().as_cuda_device()
}

/// The tensor with its values side by side, from an address on that the kernels can read.
fn dense(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    match x.layout().start_offset() * x.dtype().size_in_bytes() % ALIGNMENT {
        0 => Ok(x),
        _ => x.force_contiguous(),
    }
}

/// Where a dense tensor's values begin on the device. What is launched with it on candle's stream may
/// outlive the tensor, which is freed on that stream.
fn pointer(x: &Tensor) -> Result<Pointer> {
    fn of<T: CudaDType>(storage: &CudaStorage) -> Result<u64> {
        let slice = storage.as_cuda_slice::<T>()?;
        Ok(slice.device_ptr(slice.stream()).0)
    }
    let (storage, layout) = x.storage_and_layout();
    let (Storage::Cuda(storage), true) = (&*storage, layout.is_contiguous()) else {
        candle_core::bail!("a kernel reads dense tensors of its own device only")
    };
    let begin = match x.dtype() {
        DType::F16 => of::<f16>(storage)?,
        DType::BF16 => of::<bf16>(storage)?,
        DType::F32 => of::<f32>(storage)?,
        DType::U8 => of::<u8>(storage)?,
        DType::U32 => of::<u32>(storage)?,
        other => candle_core::bail!("no kernel reads {other:?}"),
    };
    let offset = layout.start_offset() * x.dtype().size_in_bytes();
    Ok((begin as usize + offset) as Pointer)
}

/// A pointer that may be absent.
fn pointer_or_null(x: Option<&Tensor>) -> Result<Pointer> {
    x.map_or(Ok(std::ptr::null_mut()), pointer)
}

/// Memory on the device of `like` for a kernel to fill.
fn empty(shape: impl Into<Shape>, dtype: DType, like: &Tensor) -> Result<Tensor> {
    // SAFETY: whoever asks for it launches a kernel that writes all of it before anything reads it.
    unsafe { Tensor::empty(shape, dtype, like.device()) }
}

/// A size as the kernels take it.
fn int(size: usize) -> Result<c_int> {
    match c_int::try_from(size) {
        Ok(size) => Ok(size),
        Err(_) => candle_core::bail!("a size of {size} is more than a kernel can count"),
    }
}

/// What of `x` is not finite, and how large the rest is.
pub fn seen(x: &Tensor) -> Result<Seen> {
    if x.elem_count() == 0 {
        return Ok(Seen::default());
    }
    let x = dense(x)?;
    let sentinel = Tensor::zeros(2, DType::U32, x.device())?;
    let parameters = launch::Finite {
        x: pointer(&x)?,
        count: x.elem_count() as i64,
        sentinel: pointer(&sentinel)?,
    };
    let plan = match (half(&x), x.dtype()) {
        (Some(dtype), _) => launch::launch_finite(&parameters, dtype),
        (None, DType::F32) => launch::launch_finite_f32(&parameters),
        (None, other) => candle_core::bail!("no kernel looks through {other:?}"),
    };
    // SAFETY: `count` values of the type that the kernel is for, and two zeroed words.
    unsafe { crate::cuda::launch(device(&x)?, &parameters, plan) }?;
    told(&sentinel)
}

/// What a kernel's sentinel says; waits for it.
pub fn told(sentinel: &Tensor) -> Result<Seen> {
    match sentinel.to_vec1::<u32>()?[..] {
        [largest, bad] => Ok(Seen {
            bad: bad as usize,
            largest: f32::from_bits(largest),
        }),
        _ => candle_core::bail!("a sentinel is two words"),
    }
}
