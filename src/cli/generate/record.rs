//! The record that `--json` prints.

use std::path::Path;

use crate::image_file::sha256_hex;
use crate::measure::timer::{StageTime, StageTimer};
use crate::observe::Stage;
use crate::request::{Precision, Request};
use crate::scheduler::{SchedulerKind, TimestepSpacing};
use serde::Serialize;
use serde_json::{Map, Value};

/// Form of the record; raised when a reader could misread it.
const SCHEMA: u32 = 1;

/// One run.
#[derive(Serialize)]
pub struct Record<'a> {
    schema: u32,
    version: &'static str,
    model: &'a str,
    prompt: &'a str,
    seed: u64,
    seeds: Vec<u64>,
    width_px: usize,
    height_px: usize,
    steps: usize,
    guidance: f64,
    /// The sampler that ran.
    scheduler: SchedulerKind,
    /// `null` where the checkpoint's own is used.
    timestep_spacing: Option<TimestepSpacing>,
    precision: Precision,
    device: String,
    threads: usize,
    /// The stages that ran, by name, in order.
    stage_ms: Map<String, Value>,
    /// Each denoising step.
    denoise_step_ms: Vec<f64>,
    /// From the start of the process to the last file written.
    total_ms: f64,
    files: Vec<File>,
}

/// A file written.
#[derive(Serialize)]
pub struct File {
    path: String,
    seed: u64,
    sha256: String,
    bytes: usize,
}

impl File {
    /// `bytes`, written to `path`.
    pub fn new(path: &Path, seed: u64, bytes: &[u8]) -> Self {
        let path = path.display().to_string();
        Self {
            path,
            seed,
            sha256: sha256_hex(bytes),
            bytes: bytes.len(),
        }
    }
}

impl<'a> Record<'a> {
    /// The record of a finished run.
    pub fn new(
        request: &'a Request,
        scheduler: SchedulerKind,
        device: String,
        timer: &StageTimer,
        total_ms: f64,
        files: Vec<File>,
    ) -> Self {
        let stage_ms = timer.stages().iter();
        let denoise = timer.stage(Stage::Denoise);
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            model: &request.model,
            prompt: &request.prompt,
            seed: request.seed,
            seeds: files.iter().map(|file| file.seed).collect(),
            width_px: request.width_px,
            height_px: request.height_px,
            steps: request.steps,
            guidance: request.guidance,
            scheduler,
            timestep_spacing: request.timestep_spacing,
            precision: request.precision,
            device,
            threads: rayon::current_num_threads(),
            stage_ms: stage_ms
                .map(|s| (s.stage.name().to_owned(), s.total_ms.into()))
                .collect(),
            denoise_step_ms: denoise
                .map_or(Vec::new(), |StageTime { steps_ms, .. }| steps_ms.clone()),
            total_ms,
            files,
        }
    }
}
