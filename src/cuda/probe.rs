//! What a GPU tells of its own work: time between events, memory in use, energy and memory by NVML.

use candle_core::{Device, Error, Result};
use cudarc::driver::sys::{CUdevice_attribute, CUevent_flags};
use cudarc::driver::{CudaEvent, DriverError, sys};

use super::nvml::Nvml;
use super::{problem, workspace};
use crate::forecast::device::DriverFacts;
use crate::measure::gpu::GpuStage;

/// A span of a GPU's work, from [`Probe::begin`] to [`Probe::end`].
#[derive(Debug)]
pub struct Probe {
    device: Device,
    began: CudaEvent,
    energy_mj: Option<u64>,
}

impl Probe {
    /// Begins a span, and lets the workspace's peak begin anew.
    pub fn begin(device: &Device) -> Result<Self> {
        let cuda = device.as_cuda_device()?;
        let stream = cuda.cuda_stream();
        workspace::forget_peak(&stream);
        let began = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        Ok(Self {
            began: began.map_err(told)?,
            energy_mj: Nvml::get().and_then(|nvml| nvml.energy_mj(stream.context())),
            device: device.clone(),
        })
    }

    /// Ends the span, when the GPU has come to it.
    pub fn end(self) -> Result<GpuStage> {
        let cuda = self.device.as_cuda_device()?;
        let stream = cuda.cuda_stream();
        let context = stream.context();
        let measured = || {
            let ended = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
            let ms = self.began.elapsed_ms(&ended)?;
            let usage = workspace::in_use(&stream);
            Ok(GpuStage {
                ms: f64::from(ms),
                pool_peak_bytes: usage.map(|usage| usage.peak_bytes),
                pool_reserved_bytes: usage.map(|usage| usage.reserved_bytes),
                pool_end_bytes: usage.map(|usage| usage.used_bytes),
                device_used_bytes: Nvml::get().and_then(|nvml| nvml.used_bytes(context)),
                energy_j: Nvml::get()
                    .and_then(|nvml| nvml.energy_mj(context))
                    .zip(self.energy_mj)
                    .map(|(after, before)| after.saturating_sub(before) as f64 / 1e3),
            })
        };
        measured().map_err(told)
    }
}

pub(super) fn told(error: DriverError) -> Error {
    Error::msg(problem(&error))
}

/// The GPU's name and its driver, in words.
pub fn describe(device: &Device) -> Result<String> {
    let stream = device.as_cuda_device()?.cuda_stream();
    let name = stream.context().name().map_err(told)?;
    let mut version = 0;
    // SAFETY: writes one number.
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(told)?;
    let driver = Nvml::get().and_then(Nvml::driver);
    let driver = driver.map_or(String::new(), |driver| format!(", driver {driver}"));
    Ok(format!(
        "{name}, CUDA {}.{}{driver}",
        version / 1000,
        version % 1000 / 10
    ))
}

/// What the driver tells of the GPU's speed and size.
pub fn facts(device: &Device) -> Result<DriverFacts> {
    let stream = device.as_cuda_device()?.cuda_stream();
    let context = stream.context();
    let ask = || {
        let khz = |which| Ok::<_, DriverError>(1e3 * f64::from(context.attribute(which)?));
        let bits =
            context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?;
        let memory_hz = khz(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?;
        Ok(DriverFacts {
            name: context.name()?,
            capability: context.compute_capability()?,
            processors: context
                .attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            clock_hz: khz(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?,
            // Two transfers a clock.
            memory_bytes_per_s: 2.0 * memory_hz * f64::from(bits) / 8.0,
            memory_bytes: context.total_mem()? as u64,
        })
    };
    ask().map_err(told)
}

/// What the driver may still take as work goes on, for modules and graphs: an assumption.
const DRIVER_BYTES: u64 = 256 << 20;

/// Memory of the device that tensors could take now.
pub fn free_bytes(device: &Device) -> Result<u64> {
    let stream = device.as_cuda_device()?.cuda_stream();
    let (free, _) = stream.context().mem_get_info().map_err(told)?;
    Ok((free as u64).saturating_sub(DRIVER_BYTES) + workspace::unused_bytes(&stream))
}
