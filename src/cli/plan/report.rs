//! The record that `--json` prints.

use serde::Serialize;

use crate::forecast::device::Device;
use crate::forecast::roofline::Limit;
use crate::forecast::{Forecast, WayOut};
use crate::measure::op::Work;
use crate::request::{Precision, Request};

/// Form of the record; raised when a reader could misread it.
const SCHEMA: u32 = 1;

/// A plan on a device.
pub struct Fit {
    pub device: Device,
    pub forecast: Forecast,
    pub fits: bool,
    /// Images at once, 0 where not one fits.
    pub largest_batch: usize,
    /// Where it does not fit: what takes less.
    pub ways_out: Vec<WayOut>,
}

impl Fit {
    /// The least time of the run's computing, loading apart.
    pub fn images_per_s(&self, request: &Request) -> f64 {
        1e3 * request.count as f64 / self.forecast.bound(&self.device).ms()
    }
}

/// A plan.
#[derive(Serialize)]
pub struct Report<'a> {
    schema: u32,
    version: &'static str,
    model: &'a str,
    height_px: usize,
    width_px: usize,
    batch: usize,
    steps: usize,
    guidance: f64,
    precision: Precision,
    vae_tile: Option<usize>,
    components: Vec<Component>,
    stages: Vec<Stage>,
    peak_bytes: u64,
    devices: Vec<Place<'a>>,
}

#[derive(Serialize)]
struct Component {
    name: &'static str,
    parameters: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Stage {
    stage: &'static str,
    dtype: &'static str,
    macs: u64,
    flops: u64,
    moved_bytes: u64,
    flops_per_byte: Option<f64>,
    peak_bytes: u64,
    resident_bytes: u64,
    workspace_at_peak_bytes: u64,
    /// Kernels that a GPU is given in all steps of the denoising, in half precision.
    launches: Option<usize>,
    operations: Vec<Operation>,
}

/// What a stage does so many times.
#[derive(Serialize)]
struct Operation {
    #[serde(flatten)]
    work: Work,
    calls: usize,
}

#[derive(Serialize)]
struct Place<'a> {
    name: &'a str,
    title: &'a str,
    source: &'a str,
    memory_bytes: u64,
    needed_bytes: u64,
    fits: bool,
    largest_batch: usize,
    ways_out: Vec<Way<'a>>,
    stages: Vec<Time>,
    total_ms: f64,
    images_per_s: f64,
}

#[derive(Serialize)]
struct Way<'a> {
    options: &'a str,
    needed_bytes: u64,
    fits: bool,
}

#[derive(Serialize)]
struct Time {
    stage: &'static str,
    forecast_ms: f64,
    bound_by: Option<&'static str>,
}

impl<'a> Report<'a> {
    /// The record of a plan; its components and stages are the first device's.
    pub fn new(request: &'a Request, fits: &'a [Fit]) -> Self {
        let forecast = &fits[0].forecast;
        let components = forecast.components.iter().map(|part| Component {
            name: part.name,
            parameters: part.parameters,
            bytes: part.bytes,
        });
        let stages = forecast.stages.iter().map(|stage| Stage {
            stage: stage.stage.name(),
            dtype: stage.dtype.name(),
            macs: stage.macs(),
            flops: stage.flops(),
            moved_bytes: stage.bytes(),
            flops_per_byte: stage.intensity(),
            peak_bytes: stage.memory.peak,
            resident_bytes: stage.memory.resident,
            workspace_at_peak_bytes: stage.memory.workspace_at_peak,
            launches: stage.launches,
            operations: stage
                .ops
                .iter()
                .map(|(&work, &calls)| Operation { work, calls })
                .collect(),
        });
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            model: &request.model,
            height_px: request.height_px,
            width_px: request.width_px,
            batch: request.count,
            steps: request.steps,
            guidance: request.guidance,
            precision: request.precision,
            vae_tile: request.vae_tile,
            components: components.collect(),
            stages: stages.collect(),
            peak_bytes: forecast.peak().memory.peak,
            devices: fits.iter().map(|fit| Place::new(request, fit)).collect(),
        }
    }
}

impl<'a> Place<'a> {
    fn new(request: &Request, fit: &'a Fit) -> Self {
        let Device {
            name,
            title,
            source,
            memory_bytes,
            ..
        } = &fit.device;
        let ways_out = fit.ways_out.iter().map(|way| Way {
            options: &way.options,
            needed_bytes: way.needed_bytes(),
            fits: way.needed_bytes() <= *memory_bytes,
        });
        let stages = fit.forecast.stages.iter().map(|stage| {
            let bound = stage.bound(&fit.device);
            Time {
                stage: stage.stage.name(),
                forecast_ms: bound.ms(),
                bound_by: bound.limit().map(Limit::name),
            }
        });
        Self {
            name,
            title,
            source,
            memory_bytes: *memory_bytes,
            needed_bytes: fit.forecast.needed_bytes(),
            fits: fit.fits,
            largest_batch: fit.largest_batch,
            ways_out: ways_out.collect(),
            stages: stages.collect(),
            total_ms: fit.forecast.bound(&fit.device).ms(),
            images_per_s: fit.images_per_s(request),
        }
    }
}
