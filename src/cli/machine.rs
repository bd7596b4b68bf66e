//! The processor and memory of this machine.

use serde::Serialize;

use crate::measure::memory;

/// What the CPU path will find.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: Option<String>,
    /// Threads that this process may use.
    pub threads: usize,
    /// SIMD extensions that fast kernels look for, as far as this processor has them.
    pub simd: Vec<&'static str>,
    /// Memory installed, or what the container allows if that is less.
    pub memory_bytes: Option<u64>,
    /// Memory that could be taken now.
    pub memory_available_bytes: Option<u64>,
}

impl Machine {
    /// Asks the processor and the system.
    pub fn look() -> Self {
        Self {
            cpu: cpu_name(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            simd: simd(),
            memory_bytes: memory::installed_bytes(),
            memory_available_bytes: memory::available_bytes(),
        }
    }
}

fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text
        .lines()
        .find(|l| l.starts_with("model name") || l.starts_with("Model"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Names of those that `$detect!` finds.
macro_rules! present {
    ($detect:path, $($name:tt)*) => {{
        use $detect as detect;
        [$(($name, detect!($name))),*].into_iter().filter(|(_, has)| *has).map(|(n, _)| n).collect()
    }};
}

#[cfg(target_arch = "x86_64")]
fn simd() -> Vec<&'static str> {
    present!(std::is_x86_feature_detected,
        "sse4.2" "avx" "avx2" "fma" "f16c" "avxvnni" "avx512f" "avx512vnni" "avx512bf16" "avx512fp16")
}

#[cfg(target_arch = "aarch64")]
fn simd() -> Vec<&'static str> {
    present!(std::arch::is_aarch64_feature_detected, "neon" "dotprod" "fp16" "bf16" "i8mm" "sve")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn simd() -> Vec<&'static str> {
    Vec::new()
}

/// Those that the whole binary was compiled for.
pub fn compiled_for() -> Vec<&'static str> {
    [
        ("avx2", cfg!(target_feature = "avx2")),
        ("fma", cfg!(target_feature = "fma")),
        ("avx512f", cfg!(target_feature = "avx512f")),
        ("neon", cfg!(target_feature = "neon")),
    ]
    .into_iter()
    .filter(|(_, on)| *on)
    .map(|(name, _)| name)
    .collect()
}
