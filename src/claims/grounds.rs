//! What claims are checked against: this engine's forecast of SDXL, and measured runs.

use super::figure::{Bearing, Figure, Unit};
use super::source::{Source, Sourced};
use crate::error::Result;
use crate::forecast::device::Device;
use crate::forecast::roofline::Bound;
use crate::forecast::{Forecast, Model, Processor, forecast, largest_batch};
use crate::measure::op::{Op, Work};
use crate::quant::Scheme;
use crate::request::{Dtype, Precision, Request, Size};
use crate::validate::ledger::Ledger;
use crate::weights::checkpoint::Checkpoint;
use crate::weights::synthetic;

macro_rules! committed {
    ($path:literal) => {
        ($path, include_str!(concat!("../../benches/runs/", $path)))
    };
}

/// Runs that come with the program: name, and the lines that `darkroom bench` or `validate` wrote.
pub const COMMITTED: [(&str, &str); 7] = [
    committed!("2026-11-25-epyc-2-cores/sdxl-base-512-f32.jsonl"),
    committed!("2026-11-25-epyc-2-cores/sdxl-base-512-w8a8.jsonl"),
    committed!("2026-11-25-epyc-2-cores/sdxl-base-256-bf16.jsonl"),
    committed!("2026-11-25-epyc-2-cores/micro-f32.jsonl"),
    committed!("2026-11-25-epyc-2-cores/micro-w8a8.jsonl"),
    committed!("2026-11-25-validate/sdxl-base-256-w8a8.jsonl"),
    committed!("2026-11-25-validate/micro-w8a8.jsonl"),
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
/// diffusers' guidance for SDXL: two forwards of the UNet a step.
const GUIDANCE: f64 = 5.0;

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
    /// Benchmarks.
    pub runs: Vec<Sourced>,
    /// Int8 models beside their twins.
    pub validations: Vec<Sourced<Ledger>>,
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
    pub fn new(runs: Vec<Sourced>, validations: Vec<Sourced<Ledger>>) -> Result<Self> {
        let model = |name| {
            let folder = synthetic::models::folder(name).expect("it is in the binary");
            Model::of(&Checkpoint::synthetic(&folder)?)
        };
        Ok(Self {
            runs,
            validations,
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
        forecast(
            &self.model,
            &request(steps, batch, precision),
            Processor::Gpu,
        )
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
        forecast(&self.model, &request, Processor::Gpu)
    }

    /// Images of 1024×1024 at once on the H800.
    ///
    /// # Errors
    /// Those of [`forecast`].
    pub fn largest_batch(&self, precision: Precision) -> Result<usize> {
        let memory = self.h800.memory_bytes;
        largest_batch(
            &self.model,
            &request(1, 1, precision),
            Processor::Gpu,
            memory,
        )
    }

    /// SDXL's configs.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The refiner, with a text encoder and VAE of its own.
    ///
    /// # Errors
    /// Those of [`forecast`].
    pub fn refiner(&self) -> Result<Forecast> {
        forecast(&self.refiner, &request(1, 1, HALF), Processor::Gpu)
    }

    /// Runs of SDXL's shapes.
    pub fn sdxl_runs(&self) -> impl Iterator<Item = &Sourced> {
        self.runs.iter().filter(|run| run.is_sdxl())
    }

    /// A figure of each run that has it. Where the run is of the `same` quantity it bears as `bearing`
    /// under the white paper's conditions, and compares under others.
    pub fn measured(
        &self,
        (what, unit): (&str, Unit),
        (bearing, same): (Bearing, fn(&Sourced) -> bool),
        of: impl Fn(&Sourced) -> Option<f64>,
    ) -> Vec<Figure> {
        let figure = |run: &Sourced| {
            let what = format!("{what}, {}", run.conditions());
            let figure = Figure::measured(what, of(run)?, unit, run);
            Some(figure.bears(run.bears(bearing, same(run))))
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

    /// The same of int8 weights. A validation's times are none: its runs of the two models are not
    /// taken in turn.
    pub fn int8_gains(&self) -> Vec<Gain<'_>> {
        self.gains(|before, after| {
            let mut changed = before.clone();
            changed.precision.quant = after.precision.quant;
            before.precision.quant.is_none() && after.precision.quant.is_some() && changed == *after
        })
    }

    /// All that was measured.
    pub fn sources(&self) -> impl Iterator<Item = &dyn Source> {
        let runs = self.runs.iter().map(|run| run as &dyn Source);
        runs.chain(self.validations.iter().map(|run| run as &dyn Source))
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
        let (mut runs, mut validations) = (Vec::new(), Vec::new());
        for (name, lines) in COMMITTED {
            for line in lines.lines() {
                let source = name.to_owned();
                match name.contains("validate") {
                    true => validations.push(Sourced {
                        source,
                        run: serde_json::from_str(line).expect("a committed validation"),
                    }),
                    false => runs.push(Sourced {
                        source,
                        run: serde_json::from_str(line).expect("a committed benchmark"),
                    }),
                }
            }
        }
        Grounds::new(runs, validations).expect("the program's own configs")
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
    fn forecasts_have_sdxls_known_work() {
        let grounds = grounds();
        // 30 steps × 2 forwards × 3.38 TMAC × 2, and 10.5 TFLOP of VAE: 416 TFLOP.
        let tera = flops(&grounds.sdxl(30, 1, HALF).expect("a forecast")) / 1e12;
        assert!((tera - 416.0).abs() < 3.0, "{tera}");
        let base = grounds.sdxl(1, 1, HALF).expect("a forecast").parameters();
        assert_eq!(base, 2_567_463_684 + 123_060_480 + 694_659_840 + 83_653_863);
    }
}
