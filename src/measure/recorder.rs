//! The observer that measures a run: time by stage, step and operation, memory and its parts.

use std::collections::BTreeMap;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::gpu::{self, GpuStage, Probe};
use super::memory;
use super::op::{self, Op, OpRecord, Recording, Work};
use super::timer::{StageTime, StageTimer};
use crate::error::{Error, Result};
use crate::observe::{Event, Observer, Stage, step};

/// What one stage did. A stage that ran more than once is summed up.
#[derive(Clone, Debug)]
pub struct StageRecord {
    /// Which stage, its time and its steps'.
    pub time: StageTime,
    /// Its heap, where the program counts it ([`memory::Counting`]).
    pub memory: Option<StageMemory>,
    /// The most of the process in physical memory during the stage.
    pub resident_peak_bytes: Option<u64>,
    /// What the GPU tells of it, where it ran on one.
    pub gpu: Option<GpuStage>,
    /// Its operations, those of one kind and size together.
    pub ops: BTreeMap<Work, Total>,
}

/// The heap over a stage, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageMemory {
    /// At its beginning.
    #[serde(rename = "begin_bytes")]
    pub begin: usize,
    /// At its highest.
    #[serde(rename = "peak_bytes")]
    pub peak: usize,
    /// Of the peak, what an operation held for itself: neither its inputs nor its result.
    #[serde(rename = "workspace_at_peak_bytes")]
    pub workspace_at_peak: usize,
    /// After each of its steps.
    #[serde(rename = "after_steps_bytes")]
    pub after_steps: Vec<usize>,
    /// At its end.
    #[serde(rename = "end_bytes")]
    pub end: usize,
}

impl StageMemory {
    /// What each of its steps left, in bytes.
    pub fn left_by_steps(&self) -> Vec<i64> {
        let before = [&[self.begin], &self.after_steps[..]].concat();
        let steps = before.iter().zip(&self.after_steps);
        steps
            .map(|(before, after)| *after as i64 - *before as i64)
            .collect()
    }
}

/// Operations of one kind and size together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Total {
    /// How many.
    pub calls: usize,
    /// Their time.
    pub ms: f64,
}

/// An operation or a span around it, for a timeline.
#[derive(Clone, Debug)]
pub struct Span {
    /// The stage that it belongs to.
    pub stage: Stage,
    /// What it is.
    pub kind: SpanKind,
    /// From the recording's beginning on.
    pub began_ms: f64,
    /// How long it took.
    pub ms: f64,
    /// Heap at its highest and after it, where it is counted; of a step, the latter twice.
    pub heap: Option<(usize, usize)>,
}

/// What a span covers.
#[derive(Clone, Copy, Debug)]
pub enum SpanKind {
    /// A whole stage.
    Stage,
    /// One of its steps, counted from 0.
    Step(usize),
    /// One operation.
    Op(Work),
}

/// Observer that records everything that [`super`] can measure. One at a time in a process.
#[derive(Debug)]
pub struct Recorder {
    recording: Recording,
    device: Device,
    began: Instant,
    timer: StageTimer,
    stages: Vec<(Stage, Rest)>,
    step_began: Option<(usize, Instant)>,
    stage_began: Instant,
    probe: Option<Probe>,
    /// The timeline, where one is asked for.
    spans: Option<Vec<Span>>,
    ops_recorded: usize,
}

/// What a stage has besides its time.
#[derive(Clone, Debug, Default)]
struct Rest {
    memory: StageMemory,
    resident_peak_bytes: Option<u64>,
    gpu: Option<GpuStage>,
    ops: BTreeMap<Work, Total>,
}

impl Recorder {
    /// Begins to record what the process runs on `device`; with `timeline`, every operation's span
    /// too.
    ///
    /// # Errors
    /// Another recording is under way.
    pub fn begin(device: &Device, timeline: bool) -> Result<Self> {
        let recording = Recording::begin().ok_or_else(|| {
            Error::Request("another run of this process is being measured; one at a time".into())
        })?;
        Ok(Self {
            recording,
            device: device.clone(),
            began: Instant::now(),
            timer: StageTimer::default(),
            stages: Vec::new(),
            step_began: None,
            stage_began: Instant::now(),
            probe: None,
            spans: timeline.then(Vec::new),
            ops_recorded: 0,
        })
    }

    /// The stages so far, in the order in which they first began.
    pub fn stages(&self) -> Vec<StageRecord> {
        self.timer
            .stages()
            .iter()
            .map(|time| {
                let rest = self.stages.iter().find(|(stage, _)| *stage == time.stage);
                let Rest {
                    memory,
                    resident_peak_bytes,
                    gpu,
                    ops,
                } = rest.map(|(_, rest)| rest.clone()).unwrap_or_default();
                StageRecord {
                    time: time.clone(),
                    memory: memory::counted().then_some(memory),
                    resident_peak_bytes,
                    gpu,
                    ops,
                }
            })
            .collect()
    }

    /// The timeline, if it was asked for.
    pub fn spans(&self) -> &[Span] {
        self.spans.as_deref().unwrap_or_default()
    }

    /// Operations recorded so far.
    pub fn ops_recorded(&self) -> usize {
        self.ops_recorded
    }

    fn rest(&mut self, stage: Stage) -> &mut Rest {
        let index = match self.stages.iter().position(|(known, _)| *known == stage) {
            Some(index) => index,
            None => {
                self.stages.push((stage, Rest::default()));
                self.stages.len() - 1
            }
        };
        &mut self.stages[index].1
    }

    /// Books the operations since the last event, and the heap between them.
    fn gather(&mut self, stage: Stage) {
        let records = self.recording.take();
        self.ops_recorded += records.len();
        if self.spans.is_some() {
            let spans: Vec<Span> = records.iter().map(|r| self.op_span(stage, r)).collect();
            self.spans.get_or_insert_default().extend(spans);
        }
        let tail = memory::take_peak_bytes();
        let Rest { memory, ops, .. } = self.rest(stage);
        let mut peak = |bytes: usize, workspace: usize| {
            if bytes > memory.peak {
                (memory.peak, memory.workspace_at_peak) = (bytes, workspace);
            }
        };
        for record in records {
            let total = ops.entry(record.work).or_default();
            total.calls += 1;
            total.ms += record.ms;
            peak(record.memory.gap_peak, 0);
            peak(
                record.memory.peak,
                record.memory.peak.saturating_sub(record.memory.after),
            );
        }
        peak(tail, 0);
    }

    fn op_span(&self, stage: Stage, record: &OpRecord) -> Span {
        Span {
            stage,
            kind: SpanKind::Op(record.work),
            began_ms: self.since(record.began),
            ms: record.ms,
            heap: memory::counted().then_some((record.memory.peak, record.memory.after)),
        }
    }

    fn since(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.began).as_secs_f64() * 1e3
    }

    fn push_span(&mut self, stage: Stage, kind: SpanKind, began: Instant, heap: (usize, usize)) {
        let (began_ms, ms) = (self.since(began), began.elapsed().as_secs_f64() * 1e3);
        if let Some(spans) = &mut self.spans {
            spans.push(Span {
                stage,
                kind,
                began_ms,
                ms,
                heap: memory::counted().then_some(heap),
            });
        }
    }
}

impl Observer for Recorder {
    fn on(&mut self, event: Event<'_>) -> Result<()> {
        // A device that runs behind the host has to come to the event before a clock is read.
        self.device.synchronize()?;
        match event {
            Event::StageBegin { stage, .. } => {
                self.recording.take();
                memory::reset_resident_peak();
                memory::take_peak_bytes();
                let live = memory::live_bytes();
                let memory = &mut self.rest(stage).memory;
                memory.begin = live;
                self.probe = gpu::begin(&self.device)?;
                self.stage_began = Instant::now();
                self.timer.on(event)
            }
            Event::StepBegin { step, .. } => {
                self.step_began = Some((step, Instant::now()));
                self.timer.on(event)
            }
            Event::StepEnd { stage, .. } => {
                self.timer.on(event)?;
                self.gather(stage);
                let live = memory::live_bytes();
                if let Some((step, began)) = self.step_began.take() {
                    self.push_span(stage, SpanKind::Step(step), began, (live, live));
                }
                self.rest(stage).memory.after_steps.push(live);
                Ok(())
            }
            Event::StageEnd { stage } => {
                self.timer.on(event)?;
                self.gather(stage);
                let on_gpu = self.probe.take().map(Probe::end).transpose()?;
                let live = memory::live_bytes();
                let rest = self.rest(stage);
                rest.memory.end = live;
                match (&mut rest.gpu, on_gpu) {
                    (Some(sum), Some(more)) => sum.add(more),
                    (sum, more) => *sum = sum.take().or(more),
                }
                rest.resident_peak_bytes =
                    rest.resident_peak_bytes.max(memory::resident_peak_bytes());
                let heap = (rest.memory.peak, live);
                self.push_span(stage, SpanKind::Stage, self.stage_began, heap);
                Ok(())
            }
            Event::Retry { .. } | Event::Tensor { .. } => Ok(()),
        }
    }
}

/// What measuring costs: the time of one recorded operation and of one counted allocation.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Overhead {
    /// Beyond the operation itself: to record it and to book the record.
    pub op_ns: f64,
    /// Beyond the allocation itself.
    pub allocation_ns: f64,
}

impl Overhead {
    /// Times a few thousand of each. Other runs in the process must not be recorded meanwhile.
    pub fn measure() -> Result<Self> {
        const TIMES: u32 = 4096;
        /// Operations of a network that differ in size, about.
        const KINDS: usize = 128;
        const STAGE: Stage = Stage::Denoise;
        let tensor = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
        let work = |i: u32| Work {
            op: Op::Move,
            sizes: [i as usize % KINDS, 0, 0, 0],
            macs: 0,
            other_flops: 0,
            read_bytes: 4,
            written_bytes: 4,
        };
        // One step's operations, as the pipeline runs them.
        let pass = |observer: &mut dyn Observer| -> Result<f64> {
            let began = Instant::now();
            step(observer, STAGE, 0, |_| {
                for i in 0..TIMES {
                    op::run(|| std::hint::black_box(work(i)), || Ok(tensor.clone()))?;
                }
                Ok(())
            })?;
            Ok(began.elapsed().as_secs_f64() * 1e9 / f64::from(TIMES))
        };
        let plain = pass(&mut ())?;
        let recorded = pass(&mut Recorder::begin(&Device::Cpu, false)?)?;
        let began = Instant::now();
        (0..TIMES).for_each(|_| memory::count_and_uncount(std::hint::black_box(1)));
        let allocation_ns = began.elapsed().as_secs_f64() * 1e9 / f64::from(TIMES);
        Ok(Self {
            op_ns: (recorded - plain).max(0.0),
            allocation_ns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::stage;
    use crate::ops::{Activation, activation};

    #[test]
    fn books_operations_to_their_stage_and_refuses_a_second_recording() -> Result<()> {
        let x = Tensor::zeros((3, 5), DType::F32, &Device::Cpu)?;
        let mut recorder = Recorder::begin(&Device::Cpu, true)?;
        assert!(Recorder::begin(&Device::Cpu, false).is_err());
        stage(&mut recorder, Stage::Denoise, 2, |observer| {
            for i in 0..2 {
                step(observer, Stage::Denoise, i, |_| {
                    Ok(activation(&x, Activation::Silu)?)
                })?;
            }
            Ok(())
        })?;
        stage(&mut recorder, Stage::PostProcess, 1, |_| Ok(()))?;
        let stages = recorder.stages();
        let (work, total) = stages[0].ops.first_key_value().expect("an operation ran");
        assert_eq!(
            (work.op, work.sizes[0], total.calls),
            (Op::Activation, 15, 2)
        );
        assert_eq!(work.read_bytes, 60);
        assert!(stages[1].ops.is_empty());
        let ops = recorder
            .spans()
            .iter()
            .filter(|s| matches!(s.kind, SpanKind::Op(_)));
        assert_eq!((ops.count(), recorder.spans().len()), (2, 6));
        drop(recorder);
        assert!(Recorder::begin(&Device::Cpu, false).is_ok());
        Ok(())
    }
}
