//! NVML, NVIDIA's management library, as far as its measurements go. It comes with the driver and is
//! loaded where it is there; without it those figures are absent.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::OnceLock;

use cudarc::driver::{CudaContext, sys};

type Handle = *mut c_void;

/// nvmlMemory_t.
#[repr(C)]
#[derive(Default)]
struct Memory {
    total: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// The functions that are called, as nvml.h declares them; 0 is success.
pub struct Nvml {
    handle_by_bus: unsafe extern "C" fn(*const c_char, *mut Handle) -> c_int,
    energy: unsafe extern "C" fn(Handle, *mut c_ulonglong) -> c_int,
    memory: unsafe extern "C" fn(Handle, *mut Memory) -> c_int,
    driver: unsafe extern "C" fn(*mut c_char, c_uint) -> c_int,
}

impl Nvml {
    /// The library, if it is there and starts.
    pub fn get() -> Option<&'static Self> {
        static NVML: OnceLock<Option<Nvml>> = OnceLock::new();
        NVML.get_or_init(Self::load).as_ref()
    }

    fn load() -> Option<Self> {
        // SAFETY: opens a library of the driver's, which stays open; the names are those of nvml.h, and
        // each is given the type that is declared there.
        unsafe {
            let library = libc::dlopen(c"libnvidia-ml.so.1".as_ptr(), libc::RTLD_NOW);
            if library.is_null() {
                return None;
            }
            let symbol = |name: &CStr| {
                let at = libc::dlsym(library, name.as_ptr());
                (!at.is_null()).then_some(at)
            };
            let init: unsafe extern "C" fn() -> c_int =
                std::mem::transmute(symbol(c"nvmlInit_v2")?);
            let nvml = Self {
                handle_by_bus: std::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(*const c_char, *mut Handle) -> c_int,
                >(symbol(c"nvmlDeviceGetHandleByPciBusId_v2")?),
                energy: std::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(Handle, *mut c_ulonglong) -> c_int,
                >(symbol(c"nvmlDeviceGetTotalEnergyConsumption")?),
                memory: std::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(Handle, *mut Memory) -> c_int,
                >(symbol(c"nvmlDeviceGetMemoryInfo")?),
                driver: std::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(*mut c_char, c_uint) -> c_int,
                >(symbol(c"nvmlSystemGetDriverVersion")?),
            };
            (init() == 0).then_some(nvml)
        }
    }

    /// CUDA and NVML count devices differently; the bus is the same.
    fn handle(&self, context: &CudaContext) -> Option<Handle> {
        let mut bus = [0 as c_char; 32];
        let mut handle = std::ptr::null_mut();
        // SAFETY: the buffer's length is told; the text in it ends with a zero.
        let found = unsafe {
            let asked =
                sys::cuDeviceGetPCIBusId(bus.as_mut_ptr(), bus.len() as c_int, context.cu_device());
            asked.result().is_ok() && (self.handle_by_bus)(bus.as_ptr(), &mut handle) == 0
        };
        found.then_some(handle)
    }

    /// Energy since the driver was loaded, in mJ (Volta and later).
    pub fn energy_mj(&self, context: &CudaContext) -> Option<u64> {
        let mut energy = 0;
        // SAFETY: a handle of NVML's, and one number to write.
        let done = unsafe { (self.energy)(self.handle(context)?, &mut energy) } == 0;
        done.then_some(energy)
    }

    /// Memory of the whole device in use, by whatever process.
    pub fn used_bytes(&self, context: &CudaContext) -> Option<u64> {
        let mut memory = Memory::default();
        // SAFETY: a handle of NVML's, and one struct to write.
        let done = unsafe { (self.memory)(self.handle(context)?, &mut memory) } == 0;
        done.then_some(memory.used)
    }

    /// The driver's version.
    pub fn driver(&self) -> Option<String> {
        let mut version = [0 as c_char; 80];
        // SAFETY: the buffer's length is told; the text in it ends with a zero.
        unsafe {
            let done = (self.driver)(version.as_mut_ptr(), version.len() as c_uint) == 0;
            done.then(|| {
                CStr::from_ptr(version.as_ptr())
                    .to_string_lossy()
                    .into_owned()
            })
        }
    }
}
