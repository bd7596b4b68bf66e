//! `darkroom bench`: what each stage costs, beside what it should cost.

mod args;
mod assemble;
mod by_op;
mod compare;
mod expect;
pub mod file;
mod measure;
mod plan;
mod plot;
mod table;
mod trace;

use std::cell::Cell;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Context;

use crate::device;
use crate::error::{Error, Result};
use crate::forecast::device::Device;
use crate::forecast::{Model, Processor};
use crate::measure::machine::{Build, Machine};
use crate::measure::record::{Run, SCHEMA, StageRun, Times};
use crate::measure::recorder::{Overhead, Span};
use crate::pipeline::{Pipeline, load_steps, schedule};
use crate::request::Dtype;
use crate::scheduler::SchedulerKind;

use super::failure::{say, warn};
use super::interrupt::Interrupt;
use super::json_lines::JsonLines;
use super::plot::Format;
use super::{model, models, stdout, threads, whole_file};
pub use args::Args;
use args::{By, Command, RunArgs};
use expect::Expectation;
use measure::{How, Measured, measure, recorded};
use plan::Plan;

/// A recorded timeline.
struct Timeline {
    name: String,
    spans: Vec<Span>,
}

/// Measures, or compares what was measured.
pub fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Some(Command::Compare(args)) => compare::run(&args),
        None => bench(&args.run),
    }
}

/// What can go wrong without the networks goes wrong before they are loaded; what is measured before
/// a failure is kept.
fn bench(args: &RunArgs) -> anyhow::Result<()> {
    threads::set(args.machine.threads)?;
    check_files(args)?;
    let lines = JsonLines::begin(args.json.as_deref(), args.force)?;
    let manifest = models::manifest(args.machine.weights.as_deref())?;
    let found = model::find(manifest, &args.model)?;
    let name = found.name().to_owned();
    let defaults = found.defaults()?;
    let device = args.machine.device.open(warn)?;
    device::check_cuda_graph(&device, args.cuda_graph)?;
    if args.cuda_graph && args.by.contains(&By::Op) {
        let text = "--by op cannot look into a CUDA graph: leave one of it and --cuda-graph out";
        return Err(Error::Request(text.into()).into());
    }
    let precision = args.precision(&device);
    let half = precision.vae == Dtype::F16;
    let checkpoint = found.checkpoint(half, args.machine.offline, args.quiet)?;
    let machine = Machine::look();
    let plans = plan::plans(
        args,
        &name,
        &defaults,
        precision,
        &Model::of(&checkpoint)?,
        Processor::of(&device),
        device::free_bytes(&device)?.unwrap_or(u64::MAX), // where nobody can tell, nothing is refused
    )?;
    let needed_bytes = plans.iter().map(|plan| plan.forecast.needed_bytes()).max();
    let first = plans
        .first()
        .ok_or_else(|| Error::Request("no run: give --batch and --size".into()))?;
    let sampler = schedule(&checkpoint, &first.request)?.kind;
    let fingerprint = checkpoint.fingerprint()?;
    let limits = Device::here(&device)?;
    let overhead = Overhead::measure()?;

    let interrupt = Interrupt::install()?;
    let how = How {
        warmup: args.warmup,
        repeat: args.repeat.get(),
        timeline: args.trace.is_some() || args.plot.is_some(),
        quiet: args.quiet,
        device: &device,
        interrupt: &interrupt,
        found: &Cell::new(None),
    };
    device::set_aside(&device, needed_bytes.unwrap_or(0))?;
    let (load, pipeline) = recorded(how, how.timeline, |observer| {
        Pipeline::load(&checkpoint, precision, &device, observer)
    })?;
    let pipeline = pipeline
        .and_then(|pipeline| pipeline.with_cuda_graph(args.cuda_graph))
        .with_context(|| format!("model `{name}`"))?;
    let expected = Expectation {
        forecast: &first.forecast,
        device: &limits,
    };
    let mut session = Session {
        args,
        device: device::name(&device),
        gpu: device::gpu(&device)?,
        driver: device::driver(&device)?,
        machine,
        limits: &limits,
        sampler,
        fingerprint,
        overhead,
        components: load_steps(&checkpoint)?,
        load: assemble::stage(std::slice::from_ref(&load), 0, &expected, false)
            .context("loading was not recorded")?,
        lines,
        runs: Vec::new(),
        timelines: vec![Timeline {
            name: format!("load {name}"),
            spans: load.spans,
        }],
    };
    let result = plans
        .iter()
        .try_for_each(|plan| session.run(&pipeline, plan, how));
    let drawn = session.draw();
    result.and(drawn)
}

/// Refuses what could not be written at the end.
fn check_files(args: &RunArgs) -> Result<()> {
    let files = [&args.json, &args.plot, &args.trace].map(|file| file.as_deref());
    whole_file::check_distinct(&files.into_iter().flatten().collect::<Vec<_>>())?;
    if let Some(path) = &args.plot {
        Format::of(path)?;
    }
    let drawn: [Option<&PathBuf>; 2] = [args.plot.as_ref(), args.trace.as_ref()];
    let mut drawn = drawn.into_iter().flatten();
    drawn.try_for_each(|path| whole_file::check(path, args.force))
}

/// What all runs of a command share, and what they have given so far.
struct Session<'a> {
    args: &'a RunArgs,
    device: String,
    gpu: Option<String>,
    driver: Option<String>,
    machine: Machine,
    limits: &'a Device,
    sampler: SchedulerKind,
    fingerprint: String,
    overhead: Overhead,
    load: StageRun,
    /// Names of what was loaded.
    components: Vec<&'static str>,
    lines: JsonLines,
    runs: Vec<Run>,
    /// Of loading, then of each run.
    timelines: Vec<Timeline>,
}

impl Session<'_> {
    /// Measures one run and tells of it; a run that fails is told of, too.
    fn run(&mut self, pipeline: &Pipeline, plan: &Plan, how: How<'_>) -> anyhow::Result<()> {
        let title = table::title(&plan.request, &self.device);
        if !how.quiet {
            say(&title);
        }
        let timestamp = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let mut measured = measure(pipeline, &plan.request, how);
        let run = self.record(plan, timestamp, &measured);
        self.lines.push(&run)?;
        if !self.lines.to_stdout() && !run.stages.is_empty() {
            self.tell(&run)?;
        }
        let last = measured.unfinished.take().or(measured.repeats.pop());
        self.timelines.push(Timeline {
            name: title,
            spans: last.map_or(Vec::new(), |repeat| repeat.spans),
        });
        self.runs.push(run);
        match measured.error {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    fn record(&self, plan: &Plan, timestamp: String, measured: &Measured) -> Run {
        let expected = Expectation {
            forecast: &plan.forecast,
            device: self.limits,
        };
        let by_op = self.args.by.contains(&By::Op);
        let stages = assemble::stages(&measured.repeats, &expected, by_op);
        let total = Times::of(measured.repeats.iter().map(|r| r.total_ms()).collect());
        let images = plan.request.count as f64;
        Run {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").into(),
            build: Build::this(),
            timestamp,
            machine: self.machine.clone(),
            device: self.device.clone(),
            gpu: self.gpu.clone(),
            driver: self.driver.clone(),
            cuda_graph: self.args.cuda_graph,
            threads: rayon::current_num_threads(),
            limits: self.limits.limits(),
            request: plan.request.clone(),
            scheduler: self.sampler,
            model_fingerprint: self.fingerprint.clone(),
            warmup: self.args.warmup,
            repeat: self.args.repeat.get(),
            components: assemble::components(&self.load, &self.components, &plan.forecast),
            images_per_s: total.as_ref().map(|total| images / total.p50_ms * 1e3),
            total,
            peak: assemble::peak(&self.load, &stages),
            overhead: assemble::overhead(&measured.repeats, self.overhead),
            unfinished: assemble::unfinished(measured),
            error: measured.error.as_ref().map(Error::to_string),
            load: self.load.clone(),
            stages,
        }
    }

    fn tell(&self, run: &Run) -> anyhow::Result<()> {
        let mut text = table::report(run);
        if self.args.by.contains(&By::Step) {
            text.push_str(&table::by_step(run));
        }
        if self.args.by.contains(&By::Op) {
            text.push_str(&by_op::report(run));
        }
        let between = if self.runs.is_empty() { "" } else { "\n" };
        stdout::bytes(format!("{between}{text}").as_bytes())
    }

    /// Writes the trace and the plot of what was measured.
    fn draw(&self) -> anyhow::Result<()> {
        if let Some(path) = &self.args.trace {
            whole_file::write_with(path, self.args.force, |file| {
                let mut out = std::io::BufWriter::new(file);
                trace::write(&self.timelines, &mut out)
                    .and_then(|()| std::io::Write::flush(&mut out))
                    .map_err(|e| Error::file(path, format!("not written: {e}")))
            })?;
        }
        let Some(path) = &self.args.plot else {
            return Ok(());
        };
        let runs: Vec<_> = self
            .runs
            .iter()
            .zip(&self.timelines[1..])
            .filter(|(run, _)| !run.stages.is_empty())
            .collect();
        match runs.is_empty() {
            true => Ok(()),
            false => plot::write(&runs, path, self.args.force),
        }
    }
}
