//! What a GPU tells of its own work: time between events, memory of its pool, energy and memory by NVML.

use candle_core::{Device, Error, Result};
use cudarc::driver::sys::{CUdevice_attribute, CUevent_flags, CUmemPool_attribute, CUmemoryPool};
use cudarc::driver::{CudaContext, CudaEvent, DriverError, result, sys};

use super::nvml::Nvml;
use super::{Driver, problem};
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
    /// Begins a span, and lets the pool's high-water mark begin anew.
    pub fn begin(device: &Device) -> Result<Self> {
        let cuda = device.as_cuda_device()?;
        let stream = cuda.cuda_stream();
        let begin = || {
            if let Some(pool) = pool(stream.context())? {
                let mut now = 0u64;
                // SAFETY: the device's own pool; 0 sets the mark to what is in use.
                unsafe {
                    let mark = CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
                    result::mem_pool::set_attribute(pool, mark, (&raw mut now).cast())?;
                }
            }
            stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
        };
        Ok(Self {
            began: begin().map_err(told)?,
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
            let pool = pool(context)?;
            let ask = |attribute| pool.map(|pool| used(pool, attribute)).transpose();
            Ok(GpuStage {
                ms: f64::from(ms),
                pool_peak_bytes: ask(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?,
                pool_end_bytes: ask(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?,
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

/// The stream-ordered pool that all tensors lie in, where the device has one.
pub(super) fn pool(context: &CudaContext) -> Driver<Option<CUmemoryPool>> {
    match context.has_async_alloc() {
        // SAFETY: the context's own device.
        true => unsafe { result::device::get_default_mem_pool(context.cu_device()) }.map(Some),
        false => Ok(None),
    }
}

fn used(pool: CUmemoryPool, attribute: CUmemPool_attribute) -> Driver<u64> {
    let mut bytes = 0u64;
    // SAFETY: the device's own pool; these attributes are 64-bit numbers.
    unsafe { result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()) }?;
    Ok(bytes)
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

/// Memory of the device that could be taken now.
pub fn free_bytes(device: &Device) -> Result<u64> {
    let stream = device.as_cuda_device()?.cuda_stream();
    let (free, _) = stream.context().mem_get_info().map_err(told)?;
    Ok(free as u64)
}
