//! Runs and records: loading once, then each request as often as asked.

use std::cell::Cell;
use std::time::Instant;

use candle_core::Device;

use crate::cli::failure::say;
use crate::cli::interrupt::Interrupt;
use crate::cli::{progress, units};
use crate::error::{Error, Result};
use crate::measure::memory;
use crate::measure::recorder::{Recorder, Span, StageRecord};
use crate::observe::{Observer, Stage};
use crate::pipeline::{Pipeline, Start};
use crate::request::Request;

/// How a request is measured.
#[derive(Clone, Copy)]
pub struct How<'a> {
    pub warmup: usize,
    pub repeat: usize,
    /// Whether the last repeat's timeline is wanted.
    pub timeline: bool,
    pub quiet: bool,
    pub device: &'a Device,
    pub interrupt: &'a Interrupt,
    /// The heap as the first repeat of all found it. What it has grown by since is the bench's own
    /// samples, which are no part of the model's memory.
    pub found: &'a Cell<Option<usize>>,
}

/// One repeat, or loading.
#[derive(Default)]
pub struct Repeat {
    pub stages: Vec<StageRecord>,
    /// Empty unless it was asked for.
    pub spans: Vec<Span>,
    pub ops: usize,
    pub allocations: usize,
}

impl Repeat {
    /// All its stages.
    pub fn total_ms(&self) -> f64 {
        self.stages.iter().map(|stage| stage.time.total_ms).sum()
    }
}

/// All repeats of a request, as far as they came.
#[derive(Default)]
pub struct Measured {
    pub repeats: Vec<Repeat>,
    /// What was measured of a repeat that failed.
    pub unfinished: Option<Repeat>,
    /// Why there are no more.
    pub error: Option<Error>,
}

/// Runs `body` on record. The record is there also if it fails.
pub fn recorded<T>(
    how: How<'_>,
    timeline: bool,
    body: impl FnOnce(&mut dyn Observer) -> Result<T>,
) -> Result<(Repeat, Result<T>)> {
    let mut recorder = Recorder::begin(how.device, timeline)?;
    let before = memory::allocations();
    let mut observers: Vec<Box<dyn Observer + '_>> = vec![
        Box::new(how.interrupt.clone()),
        Box::new(&mut recorder),
        progress::bars(how.quiet),
    ];
    let result = body(&mut observers);
    drop(observers);
    let repeat = Repeat {
        allocations: memory::allocations() - before,
        stages: without_growth(recorder.stages(), how.found),
        ops: recorder.ops_recorded(),
        spans: recorder.spans().to_vec(),
    };
    Ok((repeat, result))
}

/// Takes off the stages' memory what the heap has grown by since the first repeat.
fn without_growth(mut stages: Vec<StageRecord>, found: &Cell<Option<usize>>) -> Vec<StageRecord> {
    let begin = |record: &StageRecord| Some(record.memory.as_ref()?.begin);
    let Some(begin) = stages
        .first()
        .filter(|s| s.time.stage != Stage::Load)
        .and_then(begin)
    else {
        return stages;
    };
    let first = found.get().unwrap_or(begin);
    found.set(Some(first));
    let growth = begin.saturating_sub(first);
    for memory in stages.iter_mut().filter_map(|s| s.memory.as_mut()) {
        let counted = [&mut memory.begin, &mut memory.peak, &mut memory.end];
        for bytes in counted.into_iter().chain(&mut memory.after_steps) {
            *bytes = bytes.saturating_sub(growth);
        }
    }
    stages
}

/// Warms up, then repeats the request.
pub fn measure(pipeline: &Pipeline, request: &Request, how: How<'_>) -> Measured {
    let mut measured = Measured::default();
    measured.error = repeat(pipeline, request, how, &mut measured).err();
    measured
}

fn repeat(
    pipeline: &Pipeline,
    request: &Request,
    how: How<'_>,
    measured: &mut Measured,
) -> Result<()> {
    let tell = |what: &str, i: usize, of: usize, ms: f64| {
        if !how.quiet {
            say(&format!("{what} {i} of {of}: {}", units::time(ms)));
        }
    };
    for i in 1..=how.warmup {
        let mut observers: Vec<Box<dyn Observer + '_>> =
            vec![Box::new(how.interrupt.clone()), progress::bars(how.quiet)];
        let began = Instant::now();
        pipeline.generate(request, Start::default(), &mut observers)?;
        let ms = began.elapsed().as_secs_f64() * 1e3;
        tell("warm-up", i, how.warmup, ms);
    }
    for i in 1..=how.repeat {
        let timeline = how.timeline && i == how.repeat;
        let (repeat, images) = recorded(how, timeline, |observer| {
            pipeline.generate(request, Start::default(), observer)
        })?;
        if let Err(error) = images {
            measured.unfinished = Some(repeat);
            return Err(error);
        }
        tell("repeat", i, how.repeat, repeat.total_ms());
        measured.repeats.push(repeat);
    }
    how.interrupt.check()
}
