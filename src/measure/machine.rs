//! Where figures come from: this machine's processor and memory, and this build.

use serde::{Deserialize, Serialize};

use crate::measure::memory;

/// What the CPU path will find.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: Option<String>,
    /// Threads that this process may use.
    pub threads: usize,
    /// SIMD extensions that fast kernels look for, as far as this processor has them.
    pub simd: Vec<String>,
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
        names(&[$(($name, detect!($name))),*])
    }};
}

#[cfg(target_arch = "x86_64")]
fn simd() -> Vec<String> {
    present!(std::is_x86_feature_detected,
        "sse4.2" "avx" "avx2" "fma" "f16c" "avxvnni" "avx512f" "avx512vnni" "avx512bf16" "avx512fp16")
}

#[cfg(target_arch = "aarch64")]
fn simd() -> Vec<String> {
    present!(std::arch::is_aarch64_feature_detected, "neon" "dotprod" "fp16" "bf16" "i8mm" "sve")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn simd() -> Vec<String> {
    Vec::new()
}

fn names(known: &[(&str, bool)]) -> Vec<String> {
    let on = known.iter().filter(|(_, on)| *on);
    on.map(|(name, _)| (*name).to_owned()).collect()
}

/// How this program was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// The commit, with `+changes` where files differed from it; none outside of a clone (build.rs).
    pub commit: Option<String>,
    /// Processor family and system.
    pub target: String,
    /// `release`, or `debug` where assertions are compiled in.
    pub profile: String,
    /// SIMD extensions that the compiler was allowed to use everywhere.
    pub compiled_for: Vec<String>,
}

impl Build {
    /// Of this program.
    pub fn this() -> Self {
        Self {
            commit: option_env!("DARKROOM_COMMIT").map(str::to_owned),
            target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            profile: match cfg!(debug_assertions) {
                true => "debug".into(),
                false => "release".into(),
            },
            compiled_for: names(&[
                ("avx2", cfg!(target_feature = "avx2")),
                ("fma", cfg!(target_feature = "fma")),
                ("avx512f", cfg!(target_feature = "avx512f")),
                ("neon", cfg!(target_feature = "neon")),
            ]),
        }
    }
}
