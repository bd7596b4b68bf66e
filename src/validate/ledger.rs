//! The record of a validation: memory, quality and speed of an int8 model beside its twin, and the
//! verdict.

use serde::{Deserialize, Serialize};

use super::weights::Items;
use crate::measure::machine::{Build, Machine};
use crate::measure::record::Times;
use crate::measure::statistics::{Interval, Ratio, median_interval, quantile, ratio};
use crate::observe::Stage;
use crate::quant::{LayerAudit, Scheme, SmoothingConfig};
use crate::request::Request;
use crate::scheduler::SchedulerKind;

/// Form of the record; raised when a reader could misread it.
pub const SCHEMA: u32 = 1;

/// All stages but loading, in [`Ledger::speed`].
pub const TOTAL: &str = "total";

/// A validation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ledger {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Of darkroom.
    pub version: String,
    /// The program that ran.
    pub build: Build,
    /// When it began: RFC 3339, UTC.
    pub timestamp: String,
    /// Where it ran.
    pub machine: Machine,
    /// `cpu`, `cuda:0` …
    pub device: String,
    /// The GPU's own name; `null` on the CPU.
    #[serde(default)]
    pub gpu: Option<String>,
    /// Threads of the CPU work.
    pub threads: usize,
    /// Of the twin's first run; further runs have other prompts and seeds.
    pub request: Request,
    /// The sampler that ran.
    pub scheduler: SchedulerKind,
    /// What the weights of the UNet are multiplied by.
    pub scheme: Scheme,
    /// Parts of the UNet that stay in floating point.
    pub kept: Vec<String>,
    /// How its layers were smoothed, if they were.
    pub smoothing: Option<SmoothingConfig>,
    /// Whether the weights are made up, so that quality says nothing about a real model's.
    pub synthetic: bool,
    /// The two models, and their files' fingerprints.
    pub models: Pair<Model>,
    /// How many.
    pub prompts: usize,
    /// Of each prompt.
    pub seeds: u64,
    /// What is saved.
    pub memory: Memory,
    /// What is kept.
    pub quality: Quality,
    /// Each int8 layer beside its twin, on the twin's inputs in a run of the first prompt and seed; the
    /// worst first.
    pub layers: Vec<LayerAudit>,
    /// Steps of that run.
    pub layer_steps: usize,
    /// What it takes.
    pub speed: Vec<StageSpeed>,
    /// Whether the thresholds are met; empty where none was given.
    pub verdict: Vec<Judgement>,
}

/// The same of both models.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pair<T> {
    /// Unquantised.
    pub twin: T,
    /// With int8 weights.
    pub int8: T,
}

impl<T> Pair<T> {
    /// The same figure of both.
    pub fn map<U>(&self, of: impl Fn(&T) -> U) -> Pair<U> {
        Pair {
            twin: of(&self.twin),
            int8: of(&self.int8),
        }
    }
}

impl Pair<u64> {
    /// The share of the twin's bytes that is saved.
    pub fn saved(&self) -> Option<f64> {
        (self.twin > 0).then(|| 1.0 - self.int8 as f64 / self.twin as f64)
    }
}

/// A model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Model {
    /// As it was named.
    pub name: String,
    /// Of its files.
    pub fingerprint: String,
}

/// Bytes that should be taken, and those that the allocator counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// From the configs alone.
    pub forecast_bytes: u64,
    /// Where the program counts its heap.
    pub measured_bytes: Option<u64>,
}

impl Bytes {
    /// Measured, else forecast.
    pub fn best(&self) -> u64 {
        self.measured_bytes.unwrap_or(self.forecast_bytes)
    }
}

/// The memory of both models.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Memory {
    /// What each step of loading leaves, in order.
    pub components: Vec<Component>,
    /// The heap at its highest in each stage, what the process held before apart.
    pub stages: Vec<StagePeak>,
    /// The most of the process in physical memory: mapped files and all overhead too.
    pub resident_peak_bytes: Pair<Option<u64>>,
    /// Values of the UNet's weights.
    pub unet_parameters: u64,
}

/// A part of the models.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Component {
    /// `unet`, `vae` …
    pub name: String,
    /// Its weight files; `null` where the weights are made up, or where there are none.
    pub file_bytes: Pair<Option<u64>>,
    /// What its weights take, to the byte; `null` of the vocabulary.
    pub items: Option<Pair<Items>>,
    /// What it takes.
    pub memory: Pair<Bytes>,
}

impl Component {
    /// What the allocator counted beyond the weights themselves.
    pub fn bookkeeping_bytes(&self) -> Option<Pair<Option<i64>>> {
        let items = self.items.as_ref()?;
        let beyond = |memory: &Bytes, items: &Items| {
            Some(memory.measured_bytes? as i64 - items.total_bytes() as i64)
        };
        Some(Pair {
            twin: beyond(&self.memory.twin, &items.twin),
            int8: beyond(&self.memory.int8, &items.int8),
        })
    }
}

/// A stage's highest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StagePeak {
    /// Which.
    pub stage: Stage,
    /// Of both.
    pub peak: Pair<Bytes>,
}

impl Memory {
    /// The UNet's weights.
    pub fn unet(&self) -> Option<Pair<u64>> {
        let unet = self.components.iter().find(|c| c.name == "unet")?;
        Some(unet.memory.map(Bytes::best))
    }

    /// The highest of all stages.
    pub fn peak(&self) -> Pair<u64> {
        let most = |side: fn(&Pair<Bytes>) -> &Bytes| {
            let peaks = self.stages.iter().map(|stage| side(&stage.peak).best());
            peaks.max().unwrap_or(0)
        };
        Pair {
            twin: most(|pair| &pair.twin),
            int8: most(|pair| &pair.int8),
        }
    }
}

/// How alike the runs are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Quality {
    /// After each step, ‖latents − twin's‖₂ / ‖twin's‖₂.
    pub drift: Vec<Summary>,
    /// Peak signal-to-noise ratio of the pictures.
    pub psnr_db: Summary,
    /// Structural similarity.
    pub ssim: Summary,
    /// SSIMULACRA 2.
    pub ssimulacra2: Summary,
    /// Each run.
    pub runs: Vec<Likeness>,
}

/// A run beside its twin's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Likeness {
    /// What was drawn.
    pub prompt: String,
    /// Of the noise.
    pub seed: u64,
    /// After each step.
    pub drift: Vec<f64>,
    /// Peak signal-to-noise ratio.
    pub psnr_db: f64,
    /// Structural similarity.
    pub ssim: f64,
    /// SSIMULACRA 2.
    pub ssimulacra2: f64,
}

/// A figure over all runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Half of the runs are better.
    pub median: f64,
    /// Where the median of further runs of this kind lies, by exact order statistics: each run counts
    /// as one sample. `null` where they are too few.
    pub median_interval: Option<Interval>,
    /// Their mean.
    pub mean: f64,
    /// The worst run's.
    pub worst: f64,
    /// Which it is, counted from 0.
    pub worst_run: usize,
}

impl Summary {
    /// Of at least one run; the worst is the least, or with `rising` the most.
    fn of(values: &[f64], rising: bool) -> Option<Self> {
        let badness = |value: f64| if rising { value } else { -value };
        let (worst_run, &worst) = values
            .iter()
            .enumerate()
            .max_by(|(_, a), (_, b)| badness(**a).total_cmp(&badness(**b)))?;
        Some(Self {
            median: quantile(values, 0.5)?,
            median_interval: median_interval(values),
            mean: values.iter().sum::<f64>() / values.len() as f64,
            worst,
            worst_run,
        })
    }
}

impl Quality {
    /// Of at least one run; all have as many steps.
    pub fn of(runs: Vec<Likeness>) -> Option<Self> {
        let over = |of: &dyn Fn(&Likeness) -> Option<f64>, rising| {
            Summary::of(&runs.iter().filter_map(of).collect::<Vec<_>>(), rising)
        };
        let steps = runs.first()?.drift.len();
        Some(Self {
            drift: (0..steps)
                .map(|step| over(&|run| run.drift.get(step).copied(), true))
                .collect::<Option<_>>()?,
            psnr_db: over(&|run| Some(run.psnr_db), false)?,
            ssim: over(&|run| Some(run.ssim), false)?,
            ssimulacra2: over(&|run| Some(run.ssimulacra2), false)?,
            runs,
        })
    }
}

/// A stage's time in both.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageSpeed {
    /// `denoise` …, or [`TOTAL`].
    pub stage: String,
    /// Every run's.
    pub times: Pair<Times>,
    /// Of the medians: int8 over twin.
    pub ratio: f64,
    /// Where the ratio lies; `null` where the runs are too few.
    pub interval: Option<Ratio>,
}

impl StageSpeed {
    /// Of at least one sample each.
    pub fn of(stage: impl Into<String>, samples_ms: Pair<Vec<f64>>) -> Option<Self> {
        let interval = ratio(&samples_ms.twin, &samples_ms.int8);
        let times = Pair {
            twin: Times::of(samples_ms.twin)?,
            int8: Times::of(samples_ms.int8)?,
        };
        Some(Self {
            stage: stage.into(),
            ratio: times.int8.p50_ms / times.twin.p50_ms,
            times,
            interval,
        })
    }
}

/// What must be met.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Thresholds {
    /// Of the median PSNR, at least.
    pub min_psnr_db: Option<f64>,
    /// Of the worst run's drift after the last step, at most.
    pub max_drift: Option<f64>,
    /// Of the share that is saved of the memory of the UNet's weights, at least.
    pub min_saving: Option<f64>,
}

/// A threshold that was given, and what was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// `median PSNR` …
    pub what: String,
    /// The option that gave it.
    pub option: String,
    /// As given.
    pub threshold: f64,
    /// As found.
    pub found: f64,
    /// How far the threshold is met; below 0 where it is not.
    pub margin: f64,
    /// Whether it is met.
    pub passed: bool,
}

impl Thresholds {
    /// Judges by what is stated at each.
    pub fn judge(&self, memory: &Memory, quality: &Quality) -> Vec<Judgement> {
        let saving = memory.unet().and_then(|unet| unet.saved()).unwrap_or(0.0);
        let drift = quality.drift.last().map_or(0.0, |drift| drift.worst);
        let least = |what, option, threshold: Option<f64>, found: f64, sign: f64| {
            let threshold = threshold?;
            let margin = sign * (found - threshold);
            Some(Judgement {
                what: String::from(what),
                option: String::from(option),
                threshold,
                found,
                margin,
                passed: margin >= 0.0, // and not where the figure is not a number
            })
        };
        let psnr = quality.psnr_db.median;
        [
            least("median PSNR, dB", "--min-psnr", self.min_psnr_db, psnr, 1.0),
            least(
                "worst final drift",
                "--max-drift",
                self.max_drift,
                drift,
                -1.0,
            ),
            least(
                "saved of the UNet's weights",
                "--min-saving",
                self.min_saving,
                saving,
                1.0,
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn likeness(psnr_db: f64, drift: [f64; 2]) -> Likeness {
        Likeness {
            prompt: "a fox".into(),
            seed: 0,
            drift: drift.into(),
            psnr_db,
            ssim: psnr_db / 100.0,
            ssimulacra2: psnr_db + 40.0,
        }
    }

    fn memory(twin: u64, int8: u64) -> Memory {
        let bytes = |bytes| Bytes {
            forecast_bytes: bytes,
            measured_bytes: None,
        };
        Memory {
            components: vec![Component {
                name: "unet".into(),
                file_bytes: Pair::default(),
                items: None,
                memory: Pair {
                    twin: bytes(twin),
                    int8: bytes(int8),
                },
            }],
            stages: Vec::new(),
            resident_peak_bytes: Pair::default(),
            unet_parameters: 1,
        }
    }

    #[test]
    fn a_summary_names_the_worst_run_of_either_kind() {
        let runs = [(30.0, 0.1), (20.0, 0.3), (40.0, 0.2)];
        let runs = runs
            .map(|(psnr, drift)| likeness(psnr, [0.0, drift]))
            .to_vec();
        let quality = Quality::of(runs).expect("three runs");
        assert_eq!(
            (quality.psnr_db.worst, quality.psnr_db.worst_run),
            (20.0, 1)
        );
        assert_eq!((quality.psnr_db.median, quality.psnr_db.mean), (30.0, 30.0));
        let last = quality.drift[1];
        assert_eq!((last.worst, last.worst_run, last.median), (0.3, 1, 0.2));
        let interval = quality.ssim.median_interval.expect("three are enough");
        assert_eq!(
            (interval.low, interval.high, interval.confidence),
            (0.2, 0.4, 0.75)
        );
        assert!(Quality::of(Vec::new()).is_none());
    }

    #[test]
    fn thresholds_are_met_up_to_the_figure_itself() {
        let quality = Quality::of(vec![likeness(30.0, [0.0, 0.25])]).expect("a run");
        let judge = |thresholds: Thresholds| {
            let found = thresholds.judge(&memory(400, 100), &quality);
            found
                .into_iter()
                .map(|j| (j.passed, j.margin))
                .collect::<Vec<_>>()
        };
        assert_eq!(judge(Thresholds::default()), []);
        let met = Thresholds {
            min_psnr_db: Some(30.0),
            max_drift: Some(0.25),
            min_saving: Some(0.75),
        };
        assert_eq!(judge(met), [(true, 0.0); 3]);
        let missed = Thresholds {
            min_psnr_db: Some(30.5),
            max_drift: Some(0.125),
            min_saving: Some(1.0),
        };
        assert_eq!(
            judge(missed),
            [(false, -0.5), (false, -0.125), (false, -0.25)]
        );
        let nothing = Quality::of(vec![likeness(f64::NAN, [f64::NAN; 2])]).expect("a run");
        let found = met.judge(&memory(400, 100), &nothing);
        assert!(!found[0].passed && !found[1].passed && found[2].passed);
    }
}
