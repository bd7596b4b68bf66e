//! NVIDIA GPUs: the device, and the launches of darkroom's own kernels (kernels/README.md).
//!
//! The operations' GPU paths are in `ops::cuda`. What has no kernel of ours is candle's. Everything
//! goes through one stream, so that work is done in the order in which it is asked for. None of this
//! has run on a GPU yet: it is tested on stand-ins for CUDA's libraries (scripts/cuda-emulated).

mod blocks;
mod device;
mod driver;
mod graph;
mod kernels;
pub mod launch;
mod libraries;
mod nvml;
mod probe;
mod workspace;

pub use device::open;
pub use graph::Replay;
pub use kernels::{Kernels, launch};
pub use probe::{Probe, describe, facts, free_bytes};
pub use workspace::{Usage, set_aside, usage};

use std::borrow::Cow;
use std::ffi::CStr;

use cudarc::driver::DriverError;

/// What a call of the driver gives.
type Driver<T> = Result<T, DriverError>;

/// The driver's own words: `CUDA_ERROR_OUT_OF_MEMORY (out of memory)`.
pub fn problem(error: &DriverError) -> String {
    fn text(words: Driver<&CStr>) -> Cow<'_, str> {
        words.map_or(
            "an error unknown to the driver".into(),
            CStr::to_string_lossy,
        )
    }
    format!(
        "{} ({})",
        text(error.error_name()),
        text(error.error_string())
    )
}
