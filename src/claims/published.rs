//! What others published, each figure with its source.

/// NVIDIA's model card: float16, 30 steps, 1024×1024, one image.
pub const TENSORRT: &str = "model card of stabilityai/stable-diffusion-xl-1.0-tensorrt";
/// Seconds an image on an H100.
pub const TENSORRT_H100_S: f64 = 1.471;
/// On an A100.
pub const TENSORRT_A100_S: f64 = 2.742;
/// On an H100 without TensorRT.
pub const UNOPTIMISED_H100_S: f64 = 2.496;
/// The steps of all these.
pub const TENSORRT_STEPS: usize = 30;

/// MLCommons: 20 Euler steps, guidance 8, 1024×1024, 5,000 captions of COCO, offline, one accelerator.
pub const MLPERF: &str = "MLPerf Inference, SDXL offline";
/// Its steps.
pub const MLPERF_STEPS: usize = 20;
/// Images a second on an H100: v4.0, then in fp8 v4.1 and v5.1.
pub const MLPERF_H100: [f64; 3] = [1.64, 2.04, 2.26];
/// On an H200.
pub const MLPERF_H200: f64 = 2.40;
/// On a B200.
pub const MLPERF_B200: f64 = 4.07;
/// On an L40S, in int8.
pub const MLPERF_L40S: f64 = 0.69;
/// From this batch on, an H100 gains 2 to 6 % up to batch 32.
pub const MLPERF_BATCH: usize = 8;
/// Hence the share of the largest batch's throughput that this batch has at least.
pub const MLPERF_BATCH_SHARE: f64 = 0.94;
/// Joules an image at the wall: H200, capped at 450 W.
pub const MLPERF_H200_JOULES: f64 = 422.0;
/// Where that stands.
pub const MLPERF_POWER: &str = "MLPerf Inference power, H200 at 450 W (MaxQ)";

/// diffusers' page on fast inference, A100, one image.
pub const DIFFUSERS: &str = "diffusers documentation, fast_diffusion, A100";
/// Peaks in 10⁹ bytes: float32, bfloat16, int8 by dynamic quantisation.
pub const DIFFUSERS_GB: [f64; 3] = [16.83, 8.96, 7.87];

/// Model FLOP utilisation of trainings, in percent.
pub const UTILISATIONS: [(&str, f64, &str); 3] = [
    (
        "model FLOP utilisation of PaLM 540B",
        46.2,
        "Chowdhery et al. 2022",
    ),
    ("of Llama 3 405B, at best", 43.0, "Llama 3 report 2024"),
    ("of Llama 3 405B, at worst", 38.0, "Llama 3 report 2024"),
];

/// Parameters of SDXL with its refiner, in billions.
pub const SDXL_ENSEMBLE: (&str, f64, &str) = (
    "base and refiner, as announced (and 3.5 B of base alone)",
    6.6,
    "Stability AI, announcement of SDXL 1.0, 2023-07-26",
);

/// Dollars an hour of one H100 SXM on demand.
pub const H100_DOLLARS_PER_HOUR: [(&str, f64, &str); 4] = [
    ("RunPod, community cloud", 2.69, RECEIPTS),
    ("RunPod, secure cloud", 3.99, RECEIPTS),
    ("AWS p5.48xlarge", 6.88, RECEIPTS),
    ("Azure ND96isr_H100_v5", 12.29, RECEIPTS),
];
const RECEIPTS: &str = "github.com/datareceipts/data-receipts, 109-gpu-pricing, read 2026-11-09";

/// Compute that a method spares, in percent, with what it does to quality.
pub const DEEPCACHE: (&str, f64, &str) = (
    "DeepCache's time, inside MLPerf's window (FID 23.60)",
    42.0,
    "DeepCache on MLPerf's SDXL task (CLIP 31.71)",
);
/// The same, computed from what two methods published.
pub const SAVINGS: [(&str, f64, &str); 2] = [
    (
        "T-GATE's multiply-accumulates, 149.4 to 84.4 T (FID falls from 24.63 to 22.74)",
        100.0 * (1.0 - 84.4 / 149.4),
        "T-GATE, Zhang et al. 2024",
    ),
    (
        "LCM's time, 5 times faster (FID 28.43)",
        80.0,
        "LCM, Luo et al. 2023",
    ),
];

/// DyDiT on DiT-XL, ImageNet: FLOPs spared in percent, and the speed-up.
pub const DYDIT: (f64, f64) = (51.0, 1.73);
/// Its paper.
pub const DYDIT_SOURCE: &str = "DyDiT, Zhao et al. 2024, DiT-XL on ImageNet";
