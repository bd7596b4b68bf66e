//! darkroom's kernels on a device: loaded once, launched on candle's own stream.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use candle_core::cuda_backend::CudaDevice;
use candle_core::{Error, Result};
use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute, CUresult};
use cudarc::driver::{CudaFunction, CudaModule, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use super::launch::{Launch, Parameters};
use super::{Driver, problem};

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// Dynamic shared memory that a kernel may have unasked, in bytes.
const SHARED_UNASKED: u32 = 48 << 10;

/// What a device has of ours.
pub struct Kernels {
    modules: Vec<Arc<CudaModule>>,
    functions: Mutex<HashMap<String, Function>>,
    processors: i32,
}

#[derive(Clone)]
struct Function {
    function: CudaFunction,
    /// Dynamic shared memory that it may have.
    shared_bytes: u32,
}

impl Kernels {
    /// Those of `device`, loaded when its GPU is first asked for; they stay loaded.
    pub fn of(device: &CudaDevice) -> Result<Arc<Self>> {
        static GPUS: LazyLock<Mutex<HashMap<usize, Arc<Kernels>>>> = LazyLock::new(Mutex::default);
        let mut gpus = GPUS.lock().unwrap_or_else(PoisonError::into_inner);
        let ordinal = device.cuda_stream().context().ordinal();
        if let Some(kernels) = gpus.get(&ordinal) {
            return Ok(kernels.clone());
        }
        let kernels = Arc::new(Self::load(device)?);
        gpus.insert(ordinal, kernels.clone());
        Ok(kernels)
    }

    fn load(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let context = stream.context();
        let load = |image: &&[u8]| context.load_module(Ptx::from_binary(image.to_vec()));
        let modules = IMAGES
            .iter()
            .map(load)
            .collect::<Driver<Vec<_>>>()
            .map_err(|error| {
                let hint = match error.0 {
                    CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
                    | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
                    | CUresult::CUDA_ERROR_INVALID_PTX => format!(
                        "; this program has them for compute capabilities {ARCHS} (in tenths) and, \
                         with a driver no older than its toolkit, later ones"
                    ),
                    _ => String::new(),
                };
                Error::msg(format!("loading the kernels: {}{hint}", problem(&error)))
            })?;
        let processors = context
            .attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(|error| Error::msg(problem(&error)))?;
        Ok(Self {
            modules,
            functions: Mutex::default(),
            processors,
        })
    }

    /// Multiprocessors of the device.
    pub fn processors(&self) -> i32 {
        self.processors
    }

    /// The kernel, allowed `shared_bytes` of dynamic shared memory.
    fn function(&self, name: &str, shared_bytes: u32) -> Driver<CudaFunction> {
        let mut functions = self
            .functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut found = match functions.get(name) {
            Some(known) => known.clone(),
            None => Function {
                function: self.find(name)?,
                shared_bytes: SHARED_UNASKED,
            },
        };
        if shared_bytes > found.shared_bytes {
            found.function.set_attribute(
                CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                shared_bytes as i32,
            )?;
            found.shared_bytes = shared_bytes;
        }
        let function = found.function.clone();
        functions.insert(name.to_owned(), found);
        Ok(function)
    }

    /// Looks for it in each module.
    fn find(&self, name: &str) -> Driver<CudaFunction> {
        let absent = DriverError(CUresult::CUDA_ERROR_NOT_FOUND);
        for module in &self.modules {
            match module.load_function(name) {
                Err(error) if error == absent => {}
                other => return other,
            }
        }
        Err(absent)
    }
}

/// Launches what launch.c planned for `parameters`, on the stream that all of candle's work on `device`
/// goes through. The result is there when the stream comes to it; an error may come from earlier work.
///
/// # Safety
/// The pointers in `parameters` are of memory on `device` as large as the kernel reads and writes (its
/// shape in launch.h says how large), and that memory is freed on the same stream.
pub unsafe fn launch<P: Parameters + cudarc::driver::DeviceRepr>(
    device: &CudaDevice,
    parameters: &P,
    plan: Launch,
) -> Result<()> {
    let kernel = plan.kernel().map_err(Error::msg)?;
    let Launch {
        grid: [x, y, z],
        block,
        shared_bytes,
        ..
    } = plan;
    let failed = |error: DriverError| {
        Error::msg(format!(
            "kernel {kernel}, {x}x{y}x{z} blocks of {block} threads with {shared_bytes} bytes of shared \
             memory: {}",
            problem(&error)
        ))
    };
    let function = Kernels::of(device)?
        .function(kernel, shared_bytes)
        .map_err(failed)?;
    let stream = device.cuda_stream();
    let mut arguments = stream.launch_builder(&function);
    arguments.arg(parameters);
    let geometry = LaunchConfig {
        grid_dim: (x, y, z),
        block_dim: (block, 1, 1),
        shared_mem_bytes: shared_bytes,
    };
    // SAFETY: the kernel takes these parameters by value (launch.h), and the caller vouches for what
    // they point to.
    unsafe { arguments.launch(geometry) }.map_err(failed)?;
    Ok(())
}
