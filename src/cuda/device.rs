//! Opening a GPU, or saying why it cannot be used.

use std::ffi::c_void;

use candle_core::cuda_backend::CudaDevice;
use candle_core::{DType, Device, Tensor};
use cudarc::cublas::sys::cublasSetWorkspace_v2;
use cudarc::driver::sys::{self, CUdevice_attribute, CUresult};
use cudarc::driver::{CudaContext, DriverError, result};

use super::kernels::{Kernels, TOOLKIT};
use super::{libraries, problem, workspace};
use crate::error::{Error, Result};

/// The oldest compute capability that the kernels run on: `cp.async`, bf16, int8 `mma.sync`.
const LEAST_CAPABILITY: (i32, i32) = (8, 0);

/// Opens GPU `ordinal`: one stream for all threads, memory from one workspace, kernels loaded.
///
/// # Errors
/// [`Error::Device`]: no driver, one older than the toolkit, no such GPU, one that is too old, kernels
/// that do not load.
pub fn open(ordinal: usize) -> Result<Device> {
    try_open(ordinal).map_err(|problem| Error::Device {
        device: format!("cuda:{ordinal}"),
        problem: format!("{problem}; --device cpu runs without a GPU"),
    })
}

fn try_open(ordinal: usize) -> Result<Device, String> {
    libraries::load()?;
    check_driver()?;
    let count = CudaContext::device_count().map_err(|error| match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => "the NVIDIA driver finds no GPU".to_owned(),
        CUresult::CUDA_ERROR_STUB_LIBRARY => {
            "libcuda.so.1 is the toolkit's stub, not a driver: install NVIDIA's driver".to_owned()
        }
        _ => format!("the NVIDIA driver does not start: {}", problem(&error)),
    })?;
    if ordinal as i64 >= i64::from(count) {
        return Err(match count {
            0 => "the NVIDIA driver finds no GPU".into(),
            1 => "this machine has one GPU, cuda:0".into(),
            _ => format!(
                "this machine has {count} GPUs, cuda:0 to cuda:{}",
                count - 1
            ),
        });
    }
    let (major, minor) = check_capability(ordinal)?;
    let told = |error: candle_core::Error| first_line(&error);
    let device = Device::new_cuda_with_stream(ordinal).map_err(told)?;
    let cuda = device.as_cuda_device().map_err(told)?;
    // SAFETY: all work goes through this one stream, which keeps its order by itself.
    unsafe { cuda.disable_event_tracking() };
    keep_memory(cuda, (major, minor))?;
    Kernels::of(cuda).map_err(told)?;
    // candle's are for the one capability that they were built for, and later ones.
    let tried = Tensor::zeros(1, DType::F32, &device).and_then(|zero| zero + 1.0);
    match tried.map_err(told) {
        Ok(_) => Ok(device),
        Err(problem)
            if ["NO_BINARY", "PTX"]
                .iter()
                .any(|kind| problem.contains(kind)) =>
        {
            Err(format!(
                "candle's kernels do not run: {problem}; built with CUDA_COMPUTE_CAP=80 they run on every GPU \
                 that darkroom's do, on this one with {major}{minor} at most"
            ))
        }
        Err(problem) => Err(problem),
    }
}

/// A toolkit's libraries run on any driver of its major version, but candle's kernels are compiled by the driver, from PTX
/// that only one as late as the toolkit knows.
fn check_driver() -> Result<(), String> {
    let mut version = 0;
    // SAFETY: writes one number; allowed before cuInit.
    let asked = unsafe { sys::cuDriverGetVersion(&mut version) };
    if asked == CUresult::CUDA_ERROR_STUB_LIBRARY {
        return Ok(()); // told apart by what follows
    }
    asked
        .result()
        .map_err(|error| format!("the NVIDIA driver does not answer: {}", problem(&error)))?;
    let (major, minor) = (version / 1000, version % 1000 / 10);
    match (major, minor) < TOOLKIT {
        true => Err(format!(
            "the NVIDIA driver is for CUDA {major}.{minor}; this program, built with CUDA {}.{}, needs one \
             for that or later",
            TOOLKIT.0, TOOLKIT.1
        )),
        false => Ok(()),
    }
}

/// The device's compute capability.
fn check_capability(ordinal: usize) -> Result<(i32, i32), String> {
    let ask = || {
        let device = result::device::get(ordinal as i32)?;
        let attribute = |which| {
            // SAFETY: a device that the driver has just named.
            unsafe { result::device::get_attribute(device, which) }
        };
        Ok((
            result::device::get_name(device)?,
            (
                attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
        ))
    };
    let (name, capability) = ask().map_err(|error: DriverError| problem(&error))?;
    match capability < LEAST_CAPABILITY {
        true => Err(format!(
            "{name} has compute capability {}.{}; the kernels need {}.{} (Ampere) or later",
            capability.0, capability.1, LEAST_CAPABILITY.0, LEAST_CAPABILITY.1
        )),
        false => Ok(capability),
    }
}

/// What cuBLAS works in, in bytes: as NVIDIA advises for its largest GPUs, since 9.0, and for the others. It is given
/// it, for otherwise it allocates inside of a graph.
fn cublas_bytes(capability: (i32, i32)) -> u64 {
    match capability.0 {
        ..9 => 4 << 20,
        _ => 32 << 20,
    }
}

/// Has tensors allocated from one workspace, and gives cuBLAS its own.
fn keep_memory(cuda: &CudaDevice, capability: (i32, i32)) -> Result<(), String> {
    let stream = cuda.cuda_stream();
    if !stream.context().has_async_alloc() {
        return Ok(());
    }
    workspace::adopt(&stream);
    let bytes = cublas_bytes(capability);
    let at = workspace::lend(&stream, bytes)
        .map_err(|error| format!("memory for cuBLAS to work in: {}", problem(&error)))?;
    let cublas = cuda.cublas_handle();
    // SAFETY: memory that stays as long as the stream, which the handle keeps.
    let set = unsafe { cublasSetWorkspace_v2(*cublas.handle(), at as *mut c_void, bytes as usize) };
    set.result()
        .map_err(|error| format!("cuBLAS takes no workspace: {error:?}"))
}

/// candle adds a backtrace to its errors.
pub(super) fn first_line(error: &candle_core::Error) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}
