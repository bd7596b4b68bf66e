//! From what was measured and what was forecast to the ledger.

use anyhow::Context;

use super::Measured;
use super::models::{Models, Opened};
use super::side::Side;
use crate::error::Result;
use crate::forecast::Forecast;
use crate::measure::machine::{Build, Machine};
use crate::observe::Stage;
use crate::pipeline::load_steps;
use crate::request::Request;
use crate::scheduler::SchedulerKind;
use crate::validate::ledger::{
    Bytes, Component, Ledger, Memory, Model, Pair, Quality, SCHEMA, StagePeak, StageSpeed, TOTAL,
    Thresholds,
};
use crate::validate::weights::items;
use crate::weights::checkpoint::Component as Part;

/// All that goes into a ledger.
pub struct Found<'a> {
    pub timestamp: String,
    pub device: String,
    pub gpu: Option<String>,
    pub sampler: SchedulerKind,
    pub fingerprints: Pair<String>,
    pub prompts: usize,
    pub seeds: u64,
    /// The first of the twin's.
    pub request: &'a Request,
    pub models: &'a Models,
    pub forecasts: Pair<Forecast>,
    pub measured: Measured,
}

impl Found<'_> {
    /// The ledger, with its verdict.
    pub fn ledger(self, thresholds: &Thresholds) -> anyhow::Result<Ledger> {
        let memory = self.memory()?;
        let speed = self.speed();
        let Self {
            models,
            measured,
            fingerprints,
            ..
        } = self;
        let quality = Quality::of(measured.likenesses).context("no run was compared")?;
        let model = |opened: &Opened, fingerprint| Model {
            name: opened.name.clone(),
            fingerprint,
        };
        Ok(Ledger {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build: Build::this(),
            timestamp: self.timestamp,
            machine: Machine::look(),
            device: self.device,
            gpu: self.gpu,
            threads: rayon::current_num_threads(),
            request: self.request.clone(),
            scheduler: self.sampler,
            scheme: models.scheme,
            kept: models.kept.clone(),
            smoothing: models.smoothing,
            synthetic: models.twin.checkpoint.is_synthetic(),
            models: Pair {
                twin: model(&models.twin, fingerprints.twin),
                int8: model(&models.int8, fingerprints.int8),
            },
            prompts: self.prompts,
            seeds: self.seeds,
            verdict: thresholds.judge(&memory, &quality),
            memory,
            quality,
            layers: measured.audit.layers,
            layer_steps: measured.audit_steps,
            speed,
        })
    }

    fn memory(&self) -> Result<Memory> {
        let Models { twin, int8, .. } = self.models;
        let precision = self.request.precision;
        let items = Pair {
            twin: items(&twin.checkpoint, precision)?,
            int8: items(
                &int8.checkpoint,
                self.models.int8_request(self.request).precision,
            )?,
        };
        let sides = &self.measured.sides;
        let left = sides.map(|side| side.load.as_ref().map(|load| load.left_by_steps()));
        let names = load_steps(&twin.checkpoint)?;
        let component = |(i, name): (usize, &&str)| {
            let memory = |forecast: &Forecast, left: &Option<Vec<i64>>| {
                let forecast = forecast.components.iter().find(|part| part.name == *name);
                let measured = left.as_ref().and_then(|left| left.get(i));
                Bytes {
                    forecast_bytes: forecast.map_or(0, |part| part.bytes),
                    measured_bytes: measured.map(|&bytes| bytes.max(0) as u64),
                }
            };
            let of = |items: &[(Part, _)]| {
                let found = items.iter().find(|(part, _)| part.name() == *name);
                found.map(|(_, items)| *items)
            };
            Ok(Component {
                name: (*name).to_owned(),
                file_bytes: Pair {
                    twin: file_bytes(twin, name)?,
                    int8: file_bytes(int8, name)?,
                },
                items: of(&items.twin)
                    .zip(of(&items.int8))
                    .map(|(twin, int8)| Pair { twin, int8 }),
                memory: Pair {
                    twin: memory(&self.forecasts.twin, &left.twin),
                    int8: memory(&self.forecasts.int8, &left.int8),
                },
            })
        };
        let unet = self.forecasts.twin.components.iter();
        Ok(Memory {
            components: names
                .iter()
                .enumerate()
                .map(component)
                .collect::<Result<_>>()?,
            stages: self.stage_peaks(),
            resident_peak_bytes: sides.map(|side| side.resident_peak_bytes),
            unet_parameters: unet
                .filter(|part| part.name == Part::Unet.name())
                .map(|part| part.parameters)
                .sum(),
        })
    }

    /// The heap beyond what the process held before (a GPU's workspace was empty). Buffers that the twin's
    /// runs left to the process are in the forecast from the first matrix product on, so from there on
    /// they count for both models: only loading is measured from its own beginning.
    fn stage_peaks(&self) -> Vec<StagePeak> {
        let sides = &self.measured.sides;
        let begin = |side: &Side| side.load.as_ref().map_or(0, |load| load.begin as u64);
        let peak = |side: &Side, forecast: &Forecast, stage: Stage| {
            let before = match stage {
                Stage::Load => begin(side),
                _ => begin(&sides.twin),
            };
            let measured = side.stages.iter().find(|s| s.stage == stage);
            Bytes {
                forecast_bytes: forecast.stage(stage).map_or(0, |s| s.memory.peak),
                measured_bytes: measured
                    .and_then(|s| s.peak_bytes)
                    .map(|peak| peak.saturating_sub(before)),
            }
        };
        let stages = sides.twin.stages.iter().map(|s| s.stage);
        stages
            .map(|stage| StagePeak {
                stage,
                peak: Pair {
                    twin: peak(&sides.twin, &self.forecasts.twin, stage),
                    int8: peak(&sides.int8, &self.forecasts.int8, stage),
                },
            })
            .collect()
    }

    fn speed(&self) -> Vec<StageSpeed> {
        let Pair { twin, int8 } = &self.measured.sides;
        let stages = twin.stages.iter().zip(&int8.stages).map(|(twin, int8)| {
            let samples = Pair {
                twin: twin.samples_ms.clone(),
                int8: int8.samples_ms.clone(),
            };
            (twin.stage.name(), samples)
        });
        let total = Pair {
            twin: twin.totals_ms(),
            int8: int8.totals_ms(),
        };
        stages
            .chain([(TOTAL, total)])
            .filter_map(|(stage, samples)| StageSpeed::of(stage, samples))
            .collect()
    }
}

/// A component's weight files together.
fn file_bytes(model: &Opened, name: &str) -> Result<Option<u64>> {
    let mut sum = None;
    for (component, folder, file) in model.checkpoint.files()? {
        if component.name() == name && file.ends_with(".safetensors") {
            let bytes = folder.map(&file)?.as_ref().len() as u64;
            sum = Some(sum.unwrap_or(0) + bytes);
        }
    }
    Ok(sum)
}
