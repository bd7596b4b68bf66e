//! What claims are checked against: this engine's forecast of SDXL, and benchmark runs.

use std::ops::RangeInclusive;

use super::figure::{Bearing, Figure, Unit};
use crate::error::Result;
use crate::forecast::device::Device;
use crate::forecast::roofline::Bound;
use crate::forecast::{Forecast, Model, forecast, largest_batch};
use crate::measure::op::{Op, Work};
use crate::measure::record::Run;
use crate::quant::Scheme;
use crate::request::{Dtype, Precision, Request, Size};
use crate::weights::checkpoint::Checkpoint;
use crate::weights::synthetic;

macro_rules! committed {
    ($path:literal) => {
        ($path, include_str!(concat!("../../benches/runs/", $path)))
    };
}

/// Runs that come with the program: name, and the lines that `darkroom bench` wrote.
pub const COMMITTED: [(&str, &str); 5] = [
    committed!("2026-11-25-epyc-2-cores/sdxl-base-512-f32.jsonl"),
    committed!("2026-11-25-epyc-2-cores/sdxl-base-512-w8a8.jsonl"),
    committed!("2026-11-25-epyc-2-cores/sdxl-base-256-bf16.jsonl"),
    committed!("2026-11-25-epyc-2-cores/micro-f32.jsonl"),
    committed!("2026-11-25-epyc-2-cores/micro-w8a8.jsonl"),
];

/// Number types of a half-precision run: bfloat16, in which SDXL's own VAE does not overflow.
pub const HALF: Precision = Precision {
    text_encoder: Dtype::Bf16,
    unet: Dtype::Bf16,
    vae: Dtype::Bf16,
    quant: None,
};

/// The same with a UNet of int8 weights and activations.
pub const INT8: Precision = Precision {
    quant: Some(Scheme::W8A8),
    ..HALF
};

/// SDXL's image, as the white paper's numbers take it.
pub const EDGE_PX: usize = 1024;
/// Steps that SDXL is run with; the white paper names none.
const USUAL_STEPS: RangeInclusive<usize> = 20..=50;
/// diffusers' guidance for SDXL: two forwards of the UNet a step.
const GUIDANCE: f64 = 5.0;
/// Of the CPU path's workspaces, which stand in for a GPU's.
pub const THREADS: usize = 1;

/// A run and the file that it is from.
#[derive(Clone, Debug)]
pub struct Sourced {
    /// The file's name.
    pub source: String,
    /// The record.
    pub run: Run,
}

impl Sourced {
    /// What it ran on: `AMD EPYC, 2 threads`, or the GPU.
    pub fn device(&self) -> String {
        let Run {
            machine,
            device,
            threads,
            limits,
            ..
        } = &self.run;
        match (device.as_str(), &machine.cpu) {
            ("cpu", Some(cpu)) => format!("{cpu}, {threads} threads"),
            _ => limits.name.clone(),
        }
    }

    /// `synthetic:sdxl-base 512x512, batch 1, 1 step, f32, w8a8`.
    pub fn conditions(&self) -> String {
        let Request {
            model,
            height_px,
            width_px,
            count,
            steps,
            precision,
            ..
        } = &self.run.request;
        let s = if *steps == 1 { "" } else { "s" };
        format!("{model} {height_px}x{width_px}, batch {count}, {steps} step{s}, {precision}")
    }

    /// Whether it is SDXL base, by weights of its own or made up.
    pub fn is_sdxl(&self) -> bool {
        self.run.request.model.ends_with("sdxl-base")
    }

    /// Whether it ran on the white paper's device, or on the H100 that computes alike.
    pub fn is_on_h800(&self) -> bool {
        let name = self.run.limits.name.to_lowercase();
        name.contains("h800") || name.contains("h100")
    }

    /// Whether it ran under the white paper's conditions: SDXL's whole image on an H800 or H100, in half
    /// precision and a usual number of steps.
    pub fn is_under_conditions(&self) -> bool {
        let Request {
            height_px,
            width_px,
            steps,
            precision,
            ..
        } = self.run.request;
        self.is_sdxl()
            && self.is_on_h800()
            && (height_px, width_px) == (EDGE_PX, EDGE_PX)
            && USUAL_STEPS.contains(&steps)
            && precision.unet != Dtype::F32
            && precision.quant.is_none()
    }

    /// Of the median repeat, all stages but loading.
    pub fn seconds_per_image(&self) -> Option<f64> {
        Some(1.0 / self.run.images_per_s?)
    }

    /// A share of the median repeat's time, 0…1: that of operations, where they were recorded.
    pub fn share(&self, of: impl Fn(&Work) -> bool) -> Option<f64> {
        let ops = || self.run.stages.iter().flat_map(|stage| &stage.ops);
        let total_ms = self.run.total.as_ref()?.p50_ms;
        ops().next()?;
        let ms: f64 = ops()
            .filter(|op| of(&op.work))
            .map(|op| op.times.p50_ms)
            .sum();
        Some(ms / total_ms)
    }
}

/// Whether an operation is a matrix product: what a matrix unit of any kind could do.
pub fn is_matrix(work: &Work) -> bool {
    matches!(
        work.op,
        Op::Linear | Op::Int8Linear | Op::Conv2d | Op::Int8Conv2d | Op::Attention
    )
}

/// What a change gave.
pub struct Gain<'a> {
    /// The run with it.
    pub after: &'a Sourced,
    /// Its throughput over that without.
    pub times: f64,
}

/// The forecast and the runs.
pub struct Grounds {
    /// Measured.
    pub runs: Vec<Sourced>,
    /// The white paper's device.
    pub h800: Device,
    model: Model,
    refiner: Model,
}

impl Grounds {
    /// SDXL's shapes are in the program.
    ///
    /// # Errors
    /// None that a user can cause: those of reading the program's own configs.
    pub fn new(runs: Vec<Sourced>) -> Result<Self> {
        let model = |name| {
            let folder = synthetic::models::folder(name).expect("it is in the binary");
            Model::of(&Checkpoint::synthetic(&folder)?)
        };
        Ok(Self {
            runs,
            h800: Device::gpu("h800").expect("it is in the table"),
            model: model("sdxl-base")?,
            refiner: model("sdxl-refiner")?,
        })
    }

    /// SDXL base at 1024×1024, guided.
    ///
    /// # Errors
    /// Those of [`forecast`].
    pub fn sdxl(&self, steps: usize, batch: usize, precision: Precision) -> Result<Forecast> {
        forecast(&self.model, &request(steps, batch, precision), THREADS)
    }

    /// The same without guidance.
    ///
    /// # Errors
    /// Those of [`forecast`].
    pub fn unguided(&self, steps: usize) -> Result<Forecast> {
        let request = Request {
            guidance: 1.0,
            ..request(steps, 1, HALF)
        };
        forecast(&self.model, &request, THREADS)
    }

    /// Images of 1024×1024 at once on the H800.
    ///
    /// # Errors
    /// Those of [`forecast`].
    pub fn largest_batch(&self, precision: Precision) -> Result<usize> {
        let memory = self.h800.memory_bytes;
        largest_batch(&self.model, &request(1, 1, precision), THREADS, memory)
    }

    /// SDXL's configs.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Weights of the refiner with its own text encoder and VAE.
    ///
    /// # Errors
    /// Those of [`forecast`].
    pub fn refiner_parameters(&self) -> Result<u64> {
        Ok(forecast(&self.refiner, &request(1, 1, HALF), THREADS)?.parameters())
    }

    /// Runs of SDXL's shapes.
    pub fn sdxl_runs(&self) -> impl Iterator<Item = &Sourced> {
        self.runs.iter().filter(|run| run.is_sdxl())
    }

    /// A figure of each run that has it, which has a bearing if the run was under the white paper's
    /// conditions.
    pub fn measured(
        &self,
        (what, unit, bearing): (&str, Unit, Bearing),
        of: impl Fn(&Sourced) -> Option<f64>,
    ) -> Vec<Figure> {
        let figure = |run: &Sourced| {
            let what = format!("{what}, {}", run.conditions());
            let figure = Figure::measured(what, of(run)?, unit, run);
            Some(match run.is_under_conditions() {
                true => figure.bears(bearing),
                false => figure,
            })
        };
        self.runs.iter().filter_map(figure).collect()
    }

    /// A ratio of throughputs for each two runs of which the second is the first with a change:
    /// `changed(a, b)` says whether it is.
    pub fn gains(&self, changed: impl Fn(&Request, &Request) -> bool) -> Vec<Gain<'_>> {
        let mut gains = Vec::new();
        for before in &self.runs {
            for after in &self.runs {
                let alike = before.device() == after.device();
                let rates = after.run.images_per_s.zip(before.run.images_per_s);
                if let Some((with, without)) = rates
                    && alike
                    && changed(&before.run.request, &after.run.request)
                {
                    let times = with / without;
                    gains.push(Gain { after, times });
                }
            }
        }
        gains
    }

    /// The same of int8 weights.
    pub fn int8_gains(&self) -> Vec<Gain<'_>> {
        self.gains(|before, after| {
            let mut changed = before.clone();
            changed.precision.quant = after.precision.quant;
            before.precision.quant.is_none() && after.precision.quant.is_some() && changed == *after
        })
    }
}

fn request(steps: usize, batch: usize, precision: Precision) -> Request {
    let size = Size {
        height_px: EDGE_PX,
        width_px: EDGE_PX,
    };
    Request {
        count: batch,
        precision,
        ..Request::new("sdxl-base", "", size, steps, GUIDANCE)
    }
}

/// Floating-point operations of a whole run.
pub fn flops(forecast: &Forecast) -> f64 {
    let all = forecast.stages.iter().map(|stage| stage.flops() as f64);
    all.sum()
}

/// Seconds of a whole run at a device's limits.
pub fn bound_s(forecast: &Forecast, device: &Device) -> f64 {
    forecast.bound(device).ms() / 1e3
}

/// A share of that time, 0…1: that of operations.
pub fn bound_share(forecast: &Forecast, device: &Device, of: impl Fn(&Work) -> bool) -> f64 {
    let ops = forecast.stages.iter().flat_map(|stage| {
        let ops = stage.ops.iter();
        ops.map(|(work, &calls)| (work, stage.dtype, calls))
    });
    let ms: f64 = ops
        .filter(|(work, ..)| of(work))
        .map(|(work, dtype, calls)| Bound::of(work, dtype, device).ms() * calls as f64)
        .sum();
    ms / forecast.bound(device).ms()
}

/// Highest memory, in 10⁹ bytes.
pub fn peak_gb(forecast: &Forecast) -> f64 {
    forecast.peak().memory.peak as f64 / 1e9
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The forecast and the committed runs.
    pub fn grounds() -> Grounds {
        let runs = COMMITTED.iter().flat_map(|(name, lines)| {
            lines.lines().map(|line| Sourced {
                source: (*name).to_owned(),
                run: serde_json::from_str(line).expect("a committed record"),
            })
        });
        Grounds::new(runs.collect()).expect("the program's own configs")
    }

    #[test]
    fn a_share_of_operations_is_that_of_the_record() {
        let grounds = grounds();
        let f32 = &grounds.runs[0];
        assert_eq!(
            f32.conditions(),
            "synthetic:sdxl-base 512x512, batch 1, 1 step, f32"
        );
        assert_eq!(f32.device(), "AMD EPYC, 2 threads");
        // sdxl-base-512-f32.txt: linear 37.9 %, conv2d 54.7 % and attention 3.9 % of 60.7 s.
        let share = f32.share(is_matrix).expect("recorded by operation");
        assert!((share - 0.965).abs() < 1e-3, "{share}");
        let seconds = f32.seconds_per_image().expect("it ended");
        assert!((seconds - 60.749).abs() < 1e-3, "{seconds}");
        // The third and fourth were not recorded by operation.
        assert_eq!(grounds.runs[2].share(is_matrix), None);
    }

    #[test]
    fn a_run_on_the_papers_device_is_under_its_conditions() {
        let mut run = grounds().runs[0].clone();
        assert!(!run.is_under_conditions());
        run.run.limits.name = "NVIDIA H800 SXM".into();
        let request = &mut run.run.request;
        (request.height_px, request.width_px, request.steps) = (1024, 1024, 30);
        request.precision = HALF;
        assert!(run.is_under_conditions());
        let but = |change: fn(&mut Request)| {
            let mut other = run.clone();
            change(&mut other.run.request);
            assert!(!other.is_under_conditions());
        };
        but(|request| request.model = "micro".into());
        but(|request| request.steps = 4);
        but(|request| request.precision = INT8);
        but(|request| request.precision = Precision::default());
        but(|request| request.width_px = 512);
    }

    #[test]
    fn forecasts_have_sdxls_known_work() {
        let grounds = grounds();
        // 30 steps × 2 forwards × 3.38 TMAC × 2, and 10.5 TFLOP of VAE: 416 TFLOP.
        let tera = flops(&grounds.sdxl(30, 1, HALF).expect("a forecast")) / 1e12;
        assert!((tera - 416.0).abs() < 3.0, "{tera}");
        let base = grounds.sdxl(1, 1, HALF).expect("a forecast").parameters();
        assert_eq!(base, 2_567_463_684 + 123_060_480 + 694_659_840 + 83_653_863);
    }
}
