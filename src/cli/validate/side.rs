//! One model's loading and runs, measured.

use candle_core::Device;

use crate::cli::interrupt::Interrupt;
use crate::cli::progress;
use crate::error::Result;
use crate::measure::recorder::{Recorder, StageMemory, StageRecord};
use crate::observe::{Observer, Stage};
use crate::pipeline::{Pipeline, Start};
use crate::request::{Precision, Request};
use crate::weights::checkpoint::Checkpoint;
use image::RgbImage;

/// How both are run.
#[derive(Clone, Copy)]
pub struct How<'a> {
    pub device: &'a Device,
    pub interrupt: &'a Interrupt,
    pub quiet: bool,
}

/// What was measured of a model.
pub struct Side {
    /// Loading's heap, where the program counts it and the weights are in it.
    pub load: Option<StageMemory>,
    /// The stages, in order; loading is the first.
    pub stages: Vec<StageRuns>,
    /// The most of the process in physical memory.
    pub resident_peak_bytes: Option<u64>,
}

/// A stage of all runs.
pub struct StageRuns {
    pub stage: Stage,
    /// One a run.
    pub samples_ms: Vec<f64>,
    /// The heap, or the GPU's workspace, at its highest in any run.
    pub peak_bytes: Option<u64>,
}

/// Loads a model.
pub fn load(
    how: How<'_>,
    checkpoint: &Checkpoint,
    precision: Precision,
) -> Result<(Side, Pipeline)> {
    let mut side = Side {
        load: None,
        stages: Vec::new(),
        resident_peak_bytes: None,
    };
    let pipeline = side.measured(how, &mut (), |observer| {
        Pipeline::load(checkpoint, precision, how.device, observer)
    })?;
    Ok((side, pipeline))
}

impl Side {
    /// Draws a picture while `watching`.
    pub fn draw(
        &mut self,
        how: How<'_>,
        pipeline: &Pipeline,
        request: &Request,
        watching: &mut dyn Observer,
    ) -> Result<RgbImage> {
        let mut pictures = self.measured(how, watching, |observer| {
            pipeline.generate(request, Start::default(), observer)
        })?;
        Ok(pictures.remove(0))
    }

    /// The time of all stages but loading, by run.
    pub fn totals_ms(&self) -> Vec<f64> {
        let stages = || self.stages.iter().filter(|s| s.stage != Stage::Load);
        let runs = stages().map(|s| s.samples_ms.len()).min().unwrap_or(0);
        (0..runs)
            .map(|run| stages().map(|s| s.samples_ms[run]).sum())
            .collect()
    }

    fn measured<T>(
        &mut self,
        how: How<'_>,
        watching: &mut dyn Observer,
        body: impl FnOnce(&mut dyn Observer) -> Result<T>,
    ) -> Result<T> {
        let mut recorder = Recorder::begin(how.device, false)?;
        let mut observers: Vec<Box<dyn Observer + '_>> = vec![
            Box::new(how.interrupt.clone()),
            Box::new(&mut recorder),
            Box::new(watching),
            progress::bars(how.quiet),
        ];
        let value = body(&mut observers)?;
        drop(observers);
        recorder.stages().into_iter().for_each(|s| self.add(s));
        how.interrupt.check()?;
        Ok(value)
    }

    fn add(&mut self, record: StageRecord) {
        let stage = record.time.stage;
        self.resident_peak_bytes = self.resident_peak_bytes.max(record.resident_peak_bytes);
        let peak = match (&record.gpu, &record.memory) {
            (Some(gpu), _) => gpu.pool_peak_bytes,
            (None, memory) => memory.as_ref().map(|memory| memory.peak as u64),
        };
        if stage == Stage::Load && record.gpu.is_none() {
            self.load = record.memory;
        }
        match self.stages.iter_mut().find(|s| s.stage == stage) {
            Some(known) => {
                known.samples_ms.push(record.time.total_ms);
                known.peak_bytes = known.peak_bytes.max(peak);
            }
            None => self.stages.push(StageRuns {
                stage,
                samples_ms: vec![record.time.total_ms],
                peak_bytes: peak,
            }),
        }
    }
}
