//! Where a run happens.

use std::fmt;
use std::str::FromStr;

use candle_core::{Device, DeviceLocation};

use crate::error::{Error, Result};
use crate::measure::memory;
use crate::request::{Dtype, Precision};

/// What the user asked for: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// A GPU if this build and machine have one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU with this ordinal.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", n)) if n.parse::<usize>().is_ok() => {
                Ok(Self::Cuda(n.parse().expect("checked by the guard")))
            }
            _ => Err(format!(
                "`{text}` is not a device: auto, cpu, cuda or cuda:N"
            )),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

impl DeviceChoice {
    /// Opens the device. `auto` takes the first GPU if it can be used, else the CPU, and in a build for GPUs tells
    /// `warn` why.
    pub fn open(self, warn: impl FnOnce(Error)) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(ordinal) => open_cuda(ordinal),
            Self::Auto => Ok(open_cuda(0).unwrap_or_else(|error| {
                if cfg!(feature = "cuda") {
                    warn(error);
                }
                Device::Cpu
            })),
        }
    }
}

#[cfg(feature = "cuda")]
use crate::cuda::open as open_cuda;

#[cfg(not(feature = "cuda"))]
fn open_cuda(ordinal: usize) -> Result<Device> {
    Err(Error::Device {
        device: format!("cuda:{ordinal}"),
        problem:
            "this build runs on the CPU only: build it with `--features cuda`, or use --device cpu"
                .into(),
    })
}

/// Number types where none are asked for: on a GPU half precision, which its kernels compute in.
pub fn precision(device: &Device) -> Precision {
    Precision::all(match device.is_cpu() {
        true => Dtype::F32,
        false => Dtype::F16,
    })
}

/// A GPU's own name, as its driver has it: `NVIDIA H100 80GB HBM3`; the CPU has none.
pub fn gpu(device: &Device) -> Result<Option<String>> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        let stream = device.as_cuda_device()?.cuda_stream();
        let name = stream.context().name();
        let told = |e| candle_core::Error::msg(crate::cuda::problem(&e));
        return Ok(Some(name.map_err(told)?));
    }
    debug_assert!(device.is_cpu());
    Ok(None)
}

/// A GPU's name and driver, in words; the CPU has none.
pub fn driver(device: &Device) -> Result<Option<String>> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return Ok(Some(crate::cuda::describe(device)?));
    }
    debug_assert!(device.is_cpu());
    Ok(None)
}

/// Memory of the device that could be taken now, where it can be told.
pub fn free_bytes(device: &Device) -> Result<Option<u64>> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return Ok(Some(crate::cuda::free_bytes(device)?));
    }
    debug_assert!(device.is_cpu());
    Ok(memory::available_bytes())
}

/// Takes `bytes` of a GPU's memory in one piece: the workspace that all tensors of what follows lie in, weights and all,
/// and which takes nothing more from the driver. Nothing on the CPU, and where the GPU has not so much in one piece: what
/// follows may need less, or tells of it.
pub fn set_aside(device: &Device, bytes: u64) -> Result<()> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        crate::cuda::set_aside(&device.as_cuda_device()?.cuda_stream(), bytes);
        return Ok(());
    }
    debug_assert!(device.is_cpu(), "{bytes}");
    Ok(())
}

/// Refuses a CUDA graph where there is no GPU.
pub fn check_cuda_graph(device: &Device, wanted: bool) -> Result<()> {
    match wanted && !device.is_cuda() {
        true => Err(Error::Device {
            device: name(device),
            problem: "--cuda-graph captures a GPU's work: leave it out, or use --device cuda"
                .into(),
        }),
        false => Ok(()),
    }
}

/// The device's name as [`DeviceChoice`] reads it.
pub fn name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => "cpu".into(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}
