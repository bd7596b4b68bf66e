//! What devices can do at best: GPUs as their datasheets say, those of this machine by what their driver
//! tells, its CPU as measured.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::Processor;
use crate::error::Result;
use crate::measure::memory;
use crate::measure::record::Limits;
use crate::ops::cpu::{Rows, Threads, gemm_nn};
use crate::ops::int8::kernel::Kernel;
use crate::ops::int8::{Packed, Quantised, product};
use crate::request::Dtype;

/// A device's limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// As it is called on the command line.
    pub name: Cow<'static, str>,
    /// What it is.
    pub title: Cow<'static, str>,
    /// Floating-point operations in a second.
    pub peaks: Peaks,
    /// Bytes moved to and from its memory in a second.
    pub bytes_per_s: f64,
    /// Memory: installed on a GPU of the table, free on a device of this machine.
    pub memory_bytes: u64,
    /// Where the numbers are from.
    pub source: &'static str,
    /// What kind it is.
    pub processor: Processor,
}

/// Floating-point operations in a second, a multiply-accumulate being two; `None` where the device
/// has no unit for a type. Matrix products of dense matrices: what sparsity would double is not
/// counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// float32 at full precision, and all arithmetic that is no matrix product.
    pub f32: f64,
    /// float32 kept, products rounded to TensorFloat-32: another result, so never assumed.
    pub tf32: Option<f64>,
    /// float16, sums in float32.
    pub f16: f64,
    /// bfloat16, sums in float32.
    pub bf16: f64,
    /// 8-bit integers.
    pub int8: Option<f64>,
    /// 8-bit floating point, sums in float32.
    pub fp8: Option<f64>,
}

impl Peaks {
    /// Of matrix products in a type.
    pub fn of(&self, dtype: Dtype) -> f64 {
        match dtype {
            Dtype::F32 => self.f32,
            Dtype::F16 => self.f16,
            Dtype::Bf16 => self.bf16,
        }
    }
}

/// What a driver tells of its GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct DriverFacts {
    /// `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Major and minor version.
    pub capability: (i32, i32),
    /// Multiprocessors.
    pub processors: i32,
    /// Their highest clock.
    pub clock_hz: f64,
    /// By the memory's highest clock and width.
    pub memory_bytes_per_s: f64,
    /// Installed.
    pub memory_bytes: u64,
}

const TERA: f64 = 1e12;

/// TFLOP/s of f32, TF32, f16 and bf16 alike, int8, fp8 (0: none).
const fn peaks([f32, tf32, half, int8, fp8]: [f64; 5]) -> Peaks {
    const fn some(tera: f64) -> Option<f64> {
        if tera > 0.0 { Some(tera * TERA) } else { None }
    }
    Peaks {
        f32: f32 * TERA,
        tf32: some(tf32),
        f16: half * TERA,
        bf16: half * TERA,
        int8: some(int8),
        fp8: some(fp8),
    }
}

const fn gpu(
    [name, title]: [&'static str; 2],
    tera: [f64; 5],
    gigabytes_per_s: f64,
    mebibytes: u64,
    source: &'static str,
) -> Device {
    Device {
        name: Cow::Borrowed(name),
        title: Cow::Borrowed(title),
        peaks: peaks(tera),
        bytes_per_s: gigabytes_per_s * 1e9,
        memory_bytes: mebibytes << 20,
        source,
        processor: Processor::Gpu,
    }
}

/// GPUs of data centres and desks. Where a datasheet gives figures with sparsity only, half of them
/// stands here. Memory is the total that nvidia-smi shows.
pub static GPUS: [Device; 9] = [
    gpu(
        ["h100", "NVIDIA H100 SXM"],
        [66.9, 494.7, 989.4, 1978.9, 1978.9],
        3350.0,
        81559,
        "NVIDIA H100 Tensor Core GPU datasheet; architecture whitepaper V1.04, table 2",
    ),
    gpu(
        ["h800", "NVIDIA H800 SXM"],
        [66.9, 494.7, 989.4, 1978.9, 1978.9],
        3350.0,
        81559,
        "as H100 SXM: NVLink and float64 are what is cut (NVIDIA H800 datasheet)",
    ),
    gpu(
        ["h200", "NVIDIA H200 SXM"],
        [66.9, 494.7, 989.4, 1978.9, 1978.9],
        4800.0,
        143771,
        "NVIDIA H200 Tensor Core GPU datasheet",
    ),
    gpu(
        ["a100", "NVIDIA A100 80GB SXM"],
        [19.5, 156.0, 312.0, 624.0, 0.0],
        2039.0,
        81920,
        "NVIDIA A100 Tensor Core GPU datasheet",
    ),
    gpu(
        ["l40s", "NVIDIA L40S"],
        [91.6, 183.0, 362.05, 733.0, 733.0],
        864.0,
        46068,
        "NVIDIA L40S datasheet",
    ),
    gpu(
        ["l4", "NVIDIA L4"],
        [30.3, 60.0, 121.0, 242.5, 242.5],
        300.0,
        23034,
        "NVIDIA L4 datasheet, half of its figures with sparsity",
    ),
    gpu(
        ["rtx-4090", "NVIDIA GeForce RTX 4090"],
        [82.6, 82.6, 165.2, 660.6, 330.3],
        1008.0,
        24564,
        "NVIDIA Ada GPU architecture whitepaper V2.01, appendix A (float32 accumulation)",
    ),
    gpu(
        ["rtx-3090", "NVIDIA GeForce RTX 3090"],
        [35.6, 35.6, 71.0, 284.0, 0.0],
        936.0,
        24576,
        "NVIDIA Ampere GA102 architecture whitepaper V2.0, appendix A (float32 accumulation)",
    ),
    gpu(
        ["b200", "NVIDIA B200 (HGX, 1000 W)"],
        [80.0, 1100.0, 2250.0, 4500.0, 4500.0],
        8000.0,
        183359,
        "NVIDIA Blackwell architecture technical brief and HGX B200 datasheet",
    ),
];

/// Words that a driver's name for a GPU of the table may have beside the table's own. Others (`PCIe`,
/// `NVL`, `40GB`, `Laptop`, `MIG` …) are of boards with other limits.
const MORE_WORDS: [&str; 8] = [
    "nvidia", "geforce", "sxm4", "sxm5", "80gb", "hbm2e", "hbm3", "hbm3e",
];

/// Edge of the square matrices whose product is timed: 12 MiB in all, which stay in the last cache.
const GEMM_EDGE: usize = 1024;

/// Values copied at once, 128 MiB: more than the caches hold.
const COPY_VALUES: usize = 32 << 20;

/// How long each of the two limits is looked for.
const LOOK_FOR: Duration = Duration::from_millis(100);

impl Device {
    /// A GPU of the table by its name.
    pub fn gpu(name: &str) -> Option<Self> {
        GPUS.iter().find(|device| device.name == name).cloned()
    }

    /// The GPU of the table that a driver calls so: `NVIDIA H100 80GB HBM3` is `h100`. `None` of every
    /// other, boards of the same chip with other limits included.
    pub fn called(driver_name: &str) -> Option<Self> {
        let name = driver_name.to_lowercase();
        let words: Vec<&str> = name.split([' ', '-']).filter(|w| !w.is_empty()).collect();
        let is = |device: &&Self| {
            let own: Vec<&str> = device.name.split('-').collect();
            let known = |word: &&str| own.contains(word) || MORE_WORDS.contains(word);
            own.iter().all(|word| words.contains(word)) && words.iter().all(known)
        };
        GPUS.iter().find(is).cloned()
    }

    /// Its limits, as a benchmark records them.
    pub fn limits(&self) -> Limits {
        let giga = |per_s: f64| per_s / 1e9;
        Limits {
            name: self.title.clone().into_owned(),
            f32_gflop_per_s: giga(self.peaks.f32),
            bf16_gflop_per_s: giga(self.peaks.bf16),
            f16_gflop_per_s: giga(self.peaks.f16),
            int8_gop_per_s: self.peaks.int8.map(giga),
            gb_per_s: giga(self.bytes_per_s),
            source: self.source.to_owned(),
        }
    }

    /// This machine's CPU with all threads of the pool: the best of several float32 matrix products
    /// and of several copies, in half a second. Half precision computes in float32 here.
    pub fn this_cpu() -> Self {
        let (flops_per_s, int8_per_s, bytes_per_s) =
            rayon::scope(|_| (product_limit(), int8_limit(), copy_limit()));
        Self {
            name: "cpu".into(),
            title: format!("this CPU, {} threads", rayon::current_num_threads()).into(),
            peaks: Peaks {
                f32: flops_per_s,
                tf32: None,
                f16: flops_per_s,
                bf16: flops_per_s,
                int8: Some(int8_per_s),
                fp8: None,
            },
            bytes_per_s,
            memory_bytes: memory::available_bytes().unwrap_or(0),
            source: "measured: float32 and int8 matrix products and copy on all threads",
            processor: Processor::this_cpu(),
        }
    }

    /// The device that a run is on, with the memory that is free there.
    ///
    /// # Errors
    /// A driver that does not answer.
    pub fn here(device: &candle_core::Device) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            let facts = crate::cuda::facts(device)?;
            let mut gpu = Self::called(&facts.name).unwrap_or_else(|| Self::of_driver(&facts));
            gpu.name = crate::device::name(device).into();
            gpu.memory_bytes = crate::cuda::free_bytes(device)?;
            return Ok(gpu);
        }
        debug_assert!(device.is_cpu());
        Ok(Self::this_cpu())
    }

    /// A GPU's limits from what its driver tells: operations of a multiprocessor in a clock by compute
    /// capability, at the highest clocks. Datasheets reckon with lower ones for some: an H100's figures
    /// here are 8 % above those of the table.
    pub fn of_driver(facts: &DriverFacts) -> Self {
        // A GeForce sums half-precision products in float32 at half the rate.
        let half = if facts.name.contains("GeForce") {
            0.5
        } else {
            1.0
        };
        let [f32, f16, int8, fp8] = match facts.capability {
            (8, 0) => [128.0, 2048.0, 4096.0, 0.0],
            (8, 6..=8) => [256.0, 1024.0 * half, 2048.0, 0.0],
            (8, _) | (12.., _) => [256.0, 1024.0 * half, 2048.0, 2048.0 * half],
            (..=9, _) => [256.0, 4096.0, 8192.0, 8192.0],
            _ => [256.0, 8192.0, 16384.0, 16384.0],
        };
        let tera = f64::from(facts.processors) * facts.clock_hz / TERA;
        Self {
            name: facts.name.clone().into(),
            title: facts.name.clone().into(),
            peaks: peaks([f32, f16 / 2.0, f16, int8, fp8].map(|rate| rate * tera)),
            bytes_per_s: facts.memory_bytes_per_s,
            memory_bytes: facts.memory_bytes,
            source: "by compute capability, at the highest clocks that the driver tells",
            processor: Processor::Gpu,
        }
    }

    /// Whether it is a CPU.
    pub fn is_cpu(&self) -> bool {
        self.name == "cpu"
    }
}

/// Floating-point operations in a second of the product that the operations use.
fn product_limit() -> f64 {
    let n = GEMM_EDGE;
    let (a, b) = (vec![0.5f32; n * n], vec![0.25f32; n * n]);
    let mut out = vec![0f32; n * n];
    let seconds = best(|| {
        let (a, b) = (Rows::dense(&a, n), Rows::dense(&b, n));
        gemm_nn(&mut out, n, 0.0, a, b, Threads::All);
        std::hint::black_box(&mut out);
    });
    2.0 * (n * n * n) as f64 / seconds
}

/// Integer operations in a second of the int8 product that the operations use.
fn int8_limit() -> f64 {
    let n = GEMM_EDGE;
    let x = Quantised::rows(&vec![0.5f32; n * n], n);
    let (values, scales) = (vec![77i8; n * n], vec![0.01f32; n]);
    let weight = Packed::new(Kernel::best(), &values, &scales, [n, n, 1]);
    let mut out = vec![0f32; n * n];
    let seconds = best(|| {
        product(&mut out, &x, &weight, None, |row, _| Some(row));
        std::hint::black_box(&mut out);
    });
    2.0 * (n * n * n) as f64 / seconds
}

/// Bytes read and written in a second by a copy on all threads.
fn copy_limit() -> f64 {
    let from = vec![1f32; COPY_VALUES];
    let mut to = vec![0f32; COPY_VALUES];
    let part = COPY_VALUES.div_ceil(rayon::current_num_threads());
    let seconds = best(|| {
        to.par_chunks_mut(part)
            .zip(from.par_chunks(part))
            .for_each(|(to, from)| to.copy_from_slice(from));
        std::hint::black_box(&mut to);
    });
    (2 * COPY_VALUES * size_of::<f32>()) as f64 / seconds
}

/// The shortest of at least three runs; the first, which touches new memory, is not timed.
fn best(mut run: impl FnMut()) -> f64 {
    run();
    let began = Instant::now();
    let mut shortest = f64::INFINITY;
    let mut runs = 0;
    while runs < 3 || began.elapsed() < LOOK_FOR {
        let began = Instant::now();
        run();
        shortest = shortest.min(began.elapsed().as_secs_f64());
        runs += 1;
    }
    shortest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        for device in &GPUS {
            let Device { name, peaks, .. } = device;
            assert_eq!(Device::gpu(name).as_ref(), Some(device));
            assert!(peaks.f32 < peaks.f16 && peaks.f16 == peaks.bf16, "{name}");
            assert!(peaks.tf32.is_some_and(|tf32| tf32 >= peaks.f32), "{name}");
            assert!(peaks.int8.is_some_and(|int8| int8 > peaks.f16), "{name}");
            assert!((2e11..1e13).contains(&device.bytes_per_s), "{name}");
            assert!(device.memory_bytes >= 24_000_000_000 && !device.source.is_empty());
        }
        assert_eq!(Device::gpu("abacus"), None);
    }

    #[test]
    fn what_drivers_tell_gives_what_datasheets_say() {
        // Multiprocessors and the datasheets' clocks in GHz.
        for (name, driver, capability, processors, clock) in [
            ("h100", "NVIDIA H100 80GB HBM3", (9, 0), 132, 1.83),
            ("a100", "NVIDIA A100-SXM4-80GB", (8, 0), 108, 1.41),
            ("l40s", "NVIDIA L40S", (8, 9), 142, 2.52),
            ("rtx-4090", "NVIDIA GeForce RTX 4090", (8, 9), 128, 2.52),
            ("rtx-3090", "NVIDIA GeForce RTX 3090", (8, 6), 82, 1.695),
            ("b200", "NVIDIA B200", (10, 0), 148, 1.85),
        ] {
            let table = Device::gpu(name).expect("in the table");
            let told = Device::of_driver(&DriverFacts {
                name: driver.into(),
                capability,
                processors,
                clock_hz: clock * 1e9,
                memory_bytes_per_s: table.bytes_per_s,
                memory_bytes: table.memory_bytes,
            });
            let pairs = [
                (Some(told.peaks.f32), Some(table.peaks.f32)),
                (told.peaks.tf32, table.peaks.tf32),
                (Some(told.peaks.bf16), Some(table.peaks.bf16)),
                (told.peaks.int8, table.peaks.int8),
                (told.peaks.fp8, table.peaks.fp8),
            ];
            for (told, table) in pairs {
                let off = told.zip(table).map(|(told, table)| told / table - 1.0);
                // B200's datasheet rounds to two digits; the H100's counts float32 at another clock.
                let near = off.map_or(told == table, |off| off.abs() < 0.14);
                assert!(near, "{name}: {told:?}, {table:?}");
            }
        }
    }

    #[test]
    fn a_gpu_is_known_by_its_drivers_name_and_no_other_board_is_taken_for_it() {
        for (called, name) in [
            ("NVIDIA H100 80GB HBM3", Some("h100")),
            ("NVIDIA H800", Some("h800")),
            ("NVIDIA H200", Some("h200")),
            ("NVIDIA A100-SXM4-80GB", Some("a100")),
            ("NVIDIA L40S", Some("l40s")),
            ("NVIDIA L4", Some("l4")),
            ("NVIDIA GeForce RTX 4090", Some("rtx-4090")),
            ("NVIDIA B200", Some("b200")),
            ("NVIDIA H100 PCIe", None),
            ("NVIDIA H100 NVL", None),
            ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
            ("NVIDIA GH200 480GB", None),
            ("NVIDIA A100-SXM4-40GB", None),
            ("NVIDIA A100 80GB PCIe", None),
            ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
            ("NVIDIA L40", None),
            ("Tesla T4", None),
            ("", None),
        ] {
            let device = Device::called(called);
            assert_eq!(device.as_ref().map(|d| d.name.as_ref()), name, "{called}");
        }
        let limits = Device::called("NVIDIA H100 80GB HBM3").map(|device| device.limits());
        let limits = limits.expect("it is in the table");
        assert_eq!(limits.name, "NVIDIA H100 SXM");
        assert_eq!(limits.f16_gflop_per_s, 989_400.0);
    }

    #[test]
    fn this_cpu_has_limits_of_a_cpu_and_is_measured_quickly() {
        let began = Instant::now();
        let cpu = Device::this_cpu();
        let took = began.elapsed();
        assert!((1e8..1e14).contains(&cpu.peaks.f32), "{cpu:?}");
        assert!((1e8..1e13).contains(&cpu.bytes_per_s), "{cpu:?}");
        assert!(cpu.is_cpu() && took < Duration::from_secs(30), "{took:?}");
    }
}
