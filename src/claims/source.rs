//! Measured records, each with the file that it is from.

use std::ops::RangeInclusive;

use super::grounds::EDGE_PX;
use crate::measure::machine::Machine;
use crate::measure::op::Work;
use crate::measure::record::Run;
use crate::request::{Dtype, Request};
use crate::validate::ledger::Ledger;

/// Steps that SDXL is run with; the white paper names none.
const USUAL_STEPS: RangeInclusive<usize> = 20..=50;

/// A record and the file that it is from.
#[derive(Clone, Debug)]
pub struct Sourced<R = Run> {
    /// The file's name.
    pub source: String,
    /// The record.
    pub run: R,
}

/// What a measured figure says of where it is from.
pub trait Source {
    /// The file's name.
    fn file(&self) -> &str;

    /// What it ran on: `AMD EPYC, 2 threads`, or the GPU.
    fn device(&self) -> String;

    /// `synthetic:sdxl-base 512x512, batch 1, 1 step, f32, w8a8`.
    fn conditions(&self) -> String;
}

impl Source for Sourced<Run> {
    fn file(&self) -> &str {
        &self.source
    }

    fn device(&self) -> String {
        let Run {
            machine,
            device,
            threads,
            limits,
            ..
        } = &self.run;
        cpu(device, machine, *threads).unwrap_or_else(|| limits.name.clone())
    }

    fn conditions(&self) -> String {
        conditions(&self.run.request)
    }
}

impl Source for Sourced<Ledger> {
    fn file(&self) -> &str {
        &self.source
    }

    fn device(&self) -> String {
        let Ledger {
            machine,
            device,
            threads,
            ..
        } = &self.run;
        cpu(device, machine, *threads).unwrap_or_else(|| device.clone())
    }

    /// Of the int8 model.
    fn conditions(&self) -> String {
        let mut request = self.run.request.clone();
        request.precision.quant = Some(self.run.scheme);
        conditions(&request)
    }
}

fn cpu(device: &str, machine: &Machine, threads: usize) -> Option<String> {
    let cpu = machine.cpu.as_ref().filter(|_| device == "cpu")?;
    Some(format!("{cpu}, {threads} threads"))
}

fn conditions(request: &Request) -> String {
    let Request {
        model,
        height_px,
        width_px,
        count,
        steps,
        precision,
        ..
    } = request;
    let s = if *steps == 1 { "" } else { "s" };
    format!("{model} {height_px}x{width_px}, batch {count}, {steps} step{s}, {precision}")
}

/// Whether a request is for SDXL base, by weights of its own or made up.
pub fn is_sdxl(request: &Request) -> bool {
    request.model.ends_with("sdxl-base")
}

impl Sourced<Run> {
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
        is_sdxl(&self.run.request)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::grounds::tests::grounds;
    use crate::claims::grounds::{HALF, INT8};
    use crate::request::Precision;

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
}
