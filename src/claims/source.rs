//! Measured records, each with the file that it is from.

use std::ops::RangeInclusive;

use super::figure::Bearing;
use super::grounds::EDGE_PX;
use crate::forecast::device::Device;
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

/// A record's device where it is no GPU.
const CPU: &str = "cpu";

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
        let run = &self.run;
        device(&run.device, run.gpu.as_deref(), &run.machine, run.threads)
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
        let run = &self.run;
        device(&run.device, run.gpu.as_deref(), &run.machine, run.threads)
    }

    /// Of the int8 model.
    fn conditions(&self) -> String {
        let mut request = self.run.request.clone();
        request.precision.quant = Some(self.run.scheme);
        conditions(&request)
    }
}

fn device(device: &str, gpu: Option<&str>, machine: &Machine, threads: usize) -> String {
    match (gpu, device) {
        (Some(gpu), _) => gpu.to_owned(),
        (None, CPU) => {
            let cpu = machine.cpu.as_deref().unwrap_or("a CPU without a name");
            format!("{cpu}, {threads} threads")
        }
        (None, device) => format!("{device}, a GPU whose name is not on record"),
    }
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
    /// The GPU of the device table that it ran on.
    fn gpu(&self) -> Option<Device> {
        Device::called(self.run.gpu.as_deref()?)
    }

    /// Floating-point operations in a second that its device can do at most in a type, if that is known.
    pub fn peak_flops_per_s(&self, dtype: Dtype) -> Option<f64> {
        if self.run.device != CPU {
            return Some(self.gpu()?.peaks.of(dtype)); // not of what limits a record may hold
        }
        let limits = &self.run.limits;
        let giga = match dtype {
            Dtype::F32 => limits.f32_gflop_per_s,
            Dtype::Bf16 => limits.bf16_gflop_per_s,
            Dtype::F16 => limits.f16_gflop_per_s,
        };
        Some(giga * 1e9)
    }

    /// Whether it is of SDXL's shapes.
    pub fn is_sdxl(&self) -> bool {
        is_sdxl(&self.run.request)
    }

    /// Whether it made SDXL's whole image, in a usual number of steps.
    pub fn is_whole_image(&self) -> bool {
        let Request {
            height_px,
            width_px,
            steps,
            ..
        } = self.run.request;
        self.is_sdxl()
            && (height_px, width_px) == (EDGE_PX, EDGE_PX)
            && USUAL_STEPS.contains(&steps)
    }

    /// Whether it ran under the white paper's conditions: the whole image in half precision, on an H800
    /// or on the H100 that computes alike.
    pub fn is_under_conditions(&self) -> bool {
        let precision = self.run.request.precision;
        let gpu = self.gpu();
        self.is_whole_image()
            && gpu.is_some_and(|gpu| gpu.name == "h800" || gpu.name == "h100")
            && precision.unet != Dtype::F32
            && precision.quant.is_none()
    }

    /// How a figure of it bears: as `bearing` under the white paper's conditions, else at most as one that
    /// compares, where it is the same quantity.
    pub fn bears(&self, bearing: Bearing, is_same_quantity: bool) -> Bearing {
        match is_same_quantity {
            true if self.is_under_conditions() => bearing,
            true => Bearing::Comparable,
            false => Bearing::Context,
        }
    }

    /// Of the median repeat, all stages but loading.
    pub fn seconds_per_image(&self) -> Option<f64> {
        Some(1.0 / self.run.images_per_s?)
    }

    /// The most memory of its device: the heap on the CPU, the workspace that tensors lie in on a GPU.
    pub fn peak_bytes(&self) -> Option<u64> {
        match self.run.device.as_str() {
            CPU => Some(self.run.peak.as_ref()?.bytes),
            _ => {
                let stages = self.run.stages.iter();
                stages.filter_map(|s| s.gpu.as_ref()?.pool_peak_bytes).max()
            }
        }
    }

    /// Joules an image that its GPU told of, all stages but loading.
    pub fn joules_per_image(&self) -> Option<f64> {
        let stages = self.run.stages.iter();
        let joules: f64 = stages
            .map(|s| s.gpu.as_ref()?.energy_j)
            .sum::<Option<_>>()?;
        (joules > 0.0).then(|| joules / self.run.request.count as f64)
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
pub mod tests {
    use super::*;
    use crate::claims::grounds::tests::grounds;
    use crate::claims::grounds::{HALF, INT8};
    use crate::measure::gpu::GpuStage;
    use crate::request::Precision;

    /// SDXL's image in `seconds`, as `bench --device cuda` records it on a GPU of this name, with 10 J a
    /// stage.
    pub fn on_gpu(name: &str, seconds: f64) -> Sourced {
        let mut run = grounds().runs[0].clone();
        let record = &mut run.run;
        record.device = "cuda:0".into();
        record.gpu = Some(name.into());
        record.driver = Some(format!("{name}, CUDA 12.8, driver 570.1"));
        if let Some(device) = Device::called(name) {
            record.limits = device.limits();
        }
        record.images_per_s = Some(1.0 / seconds);
        let request = &mut record.request;
        (request.height_px, request.width_px, request.steps) = (EDGE_PX, EDGE_PX, 30);
        request.precision = HALF;
        for stage in &mut record.stages {
            stage.gpu = Some(GpuStage {
                energy_j: Some(10.0),
                ..GpuStage::default()
            });
        }
        run
    }

    #[test]
    fn a_run_on_the_papers_device_is_under_its_conditions() {
        assert!(!grounds().runs[0].is_under_conditions());
        for (name, is) in [
            ("NVIDIA H800", true),
            ("NVIDIA H100 80GB HBM3", true),
            ("NVIDIA H100 PCIe", false),
            ("NVIDIA A100-SXM4-80GB", false),
        ] {
            let run = on_gpu(name, 2.7);
            assert_eq!(
                (run.is_under_conditions(), run.device().as_str()),
                (is, name)
            );
        }
        let run = on_gpu("NVIDIA H800", 2.7);
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
    fn a_gpu_without_a_name_is_no_cpu_and_one_that_the_table_lacks_has_no_peak() {
        // Limits of the CPU beside a GPU's times: what benches wrote before they recorded its name.
        let mut run = on_gpu("NVIDIA H800", 2.7);
        assert_eq!(run.peak_flops_per_s(Dtype::F16), Some(989.4e12));
        run.run.limits = grounds().runs[0].run.limits.clone();
        assert_eq!(run.peak_flops_per_s(Dtype::F16), Some(989.4e12));
        run.run.gpu = None;
        assert_eq!(run.peak_flops_per_s(Dtype::F16), None);
        assert_eq!(run.device(), "cuda:0, a GPU whose name is not on record");
        assert!(!run.is_under_conditions());
        let unknown = on_gpu("Tesla T4", 2.7);
        assert_eq!(unknown.peak_flops_per_s(Dtype::F16), None);
    }

    #[test]
    fn a_gpus_peak_is_its_own_and_not_the_programs() {
        let mut run = on_gpu("NVIDIA H800", 2.7);
        assert_eq!(run.peak_bytes(), None);
        for (bytes, stage) in (1..).zip(&mut run.run.stages) {
            stage.gpu.as_mut().expect("of a GPU").pool_peak_bytes = Some(bytes);
        }
        assert_eq!(run.peak_bytes(), Some(run.run.stages.len() as u64));
        let on_cpu = &grounds().runs[0];
        assert_eq!(
            on_cpu.peak_bytes(),
            on_cpu.run.peak.as_ref().map(|peak| peak.bytes)
        );
    }

    #[test]
    fn joules_are_those_of_all_stages() {
        let mut run = on_gpu("NVIDIA H800", 2.7);
        let stages = run.run.stages.len() as f64;
        run.run.request.count = 2;
        assert_eq!(run.joules_per_image(), Some(10.0 * stages / 2.0));
        run.run.stages[0].gpu = None;
        assert_eq!(run.joules_per_image(), None);
        assert_eq!(grounds().runs[0].joules_per_image(), None);
    }
}
