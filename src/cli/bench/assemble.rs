//! From what was measured and what was forecast to the record of a run.

use std::collections::BTreeMap;

use super::expect;
use super::measure::{Measured, Repeat};
use crate::forecast::{ComponentForecast, Forecast};
use crate::measure::gpu::GpuStage;
use crate::measure::op::Work;
use crate::measure::record::{Component, OpRun, OverheadShare, Peak, StageRun, Times, Unfinished};
use crate::measure::recorder::{Overhead, StageMemory, StageRecord};
use crate::observe::Stage;

/// A stage over all repeats, which all have it at `index`.
pub fn stage(
    repeats: &[Repeat],
    index: usize,
    expected: &expect::Expectation<'_>,
    by_op: bool,
) -> Option<StageRun> {
    let records: Vec<&StageRecord> = repeats.iter().map(|r| &r.stages[index]).collect();
    let stage = records.first()?.time.stage;
    Some(StageRun {
        stage,
        times: Times::of(records.iter().map(|r| r.time.total_ms).collect())?,
        share: None,
        steps_ms: records.iter().map(|r| r.time.steps_ms.clone()).collect(),
        memory: median_memory(&records),
        resident_peak_bytes: records.iter().filter_map(|r| r.resident_peak_bytes).max(),
        gpu: median_gpu(&records),
        forecast: expected.stage(stage)?,
        ops: match by_op {
            true => ops(&records, stage, expected),
            false => Vec::new(),
        },
    })
}

/// All stages, with their shares.
pub fn stages(
    repeats: &[Repeat],
    expected: &expect::Expectation<'_>,
    by_op: bool,
) -> Vec<StageRun> {
    let count = repeats.first().map_or(0, |repeat| repeat.stages.len());
    let mut stages: Vec<StageRun> = (0..count)
        .filter_map(|index| stage(repeats, index, expected, by_op))
        .collect();
    let sum_ms: f64 = stages.iter().map(|stage| stage.times.p50_ms).sum();
    for stage in &mut stages {
        stage.share = Some(stage.times.p50_ms / sum_ms);
    }
    stages
}

/// The heap of the repeat whose peak is in the middle: the timeline of the last one weighs a little.
fn median_memory(records: &[&StageRecord]) -> Option<StageMemory> {
    let mut memories: Vec<&StageMemory> =
        records.iter().filter_map(|r| r.memory.as_ref()).collect();
    memories.sort_by_key(|memory| memory.peak);
    let middle = memories.len().checked_sub(1)? / 2;
    Some(memories[middle].clone())
}

/// The slowest first.
fn ops(records: &[&StageRecord], stage: Stage, expected: &expect::Expectation<'_>) -> Vec<OpRun> {
    let mut samples: BTreeMap<Work, (usize, Vec<f64>)> = BTreeMap::new();
    for record in records {
        for (work, total) in &record.ops {
            let (calls, ms) = samples.entry(*work).or_default();
            *calls = total.calls;
            ms.push(total.ms);
        }
    }
    let mut ops: Vec<OpRun> = samples
        .into_iter()
        .filter_map(|(work, (calls, ms))| {
            Some(OpRun {
                work,
                calls,
                times: Times::of(ms)?,
                forecast_ms: expected.op_ms(stage, &work)? * calls as f64,
            })
        })
        .collect();
    ops.sort_by(|a, b| b.times.p50_ms.total_cmp(&a.times.p50_ms));
    ops
}

/// The GPU's figures of the repeat whose time is in the middle.
fn median_gpu(records: &[&StageRecord]) -> Option<GpuStage> {
    let mut stages: Vec<&GpuStage> = records.iter().filter_map(|r| r.gpu.as_ref()).collect();
    stages.sort_by(|a, b| a.ms.total_cmp(&b.ms));
    let middle = stages.len().checked_sub(1)? / 2;
    Some(stages[middle].clone())
}

/// What each step of loading left in memory; a GPU's workspace is told of as a whole only.
pub fn components(load: &StageRun, names: &[&str], forecast: &Forecast) -> Vec<Component> {
    let heap = load.memory.as_ref().filter(|_| load.gpu.is_none());
    let left = heap.map(StageMemory::left_by_steps);
    names
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let forecast = forecast.components.iter().find(|c| c.name == *name);
            Component {
                name: (*name).to_owned(),
                bytes: left.as_ref().and_then(|left| left.get(i)).copied(),
                forecast_bytes: forecast.map_or(0, |c: &ComponentForecast| c.bytes),
            }
        })
        .collect()
}

/// The highest heap of the stages, and its parts.
pub fn peak(load: &StageRun, stages: &[StageRun]) -> Option<Peak> {
    let load = load.memory.as_ref()?;
    let (stage, memory) = stages
        .iter()
        .filter_map(|s| Some((s.stage, s.memory.as_ref()?)))
        .max_by_key(|(_, memory)| memory.peak)?;
    let weights = load.end.saturating_sub(load.begin);
    let rest = memory.peak.saturating_sub(load.begin + weights);
    let workspace = memory.workspace_at_peak.min(rest);
    Some(Peak {
        stage,
        bytes: memory.peak as u64,
        weights_bytes: weights as u64,
        activations_bytes: (rest - workspace) as u64,
        workspace_bytes: workspace as u64,
        program_bytes: load.begin as u64,
    })
}

/// What measuring took of the median repeat.
pub fn overhead(repeats: &[Repeat], each: Overhead) -> Option<OverheadShare> {
    let mut order: Vec<&Repeat> = repeats.iter().collect();
    order.sort_by(|a, b| a.total_ms().total_cmp(&b.total_ms()));
    let repeat = order.get(order.len().checked_sub(1)? / 2)?;
    let (ops, allocations) = (repeat.ops, repeat.allocations);
    let ns = each.op_ns * ops as f64 + each.allocation_ns * allocations as f64;
    Some(OverheadShare {
        each,
        ops,
        allocations,
        share: ns / 1e6 / repeat.total_ms(),
    })
}

/// The stages of the repeat that failed.
pub fn unfinished(measured: &Measured) -> Option<Vec<Unfinished>> {
    let repeat = measured.unfinished.as_ref()?;
    let last = repeat.stages.len().saturating_sub(1);
    let stages = repeat.stages.iter().enumerate();
    Some(
        stages
            .map(|(i, StageRecord { time, .. })| Unfinished {
                stage: time.stage,
                // A stage that was cut has no total yet.
                ms: (i < last || time.total_ms > 0.0).then_some(time.total_ms),
                steps_ms: time.steps_ms.clone(),
            })
            .collect(),
    )
}

/// The stages that a forecast adds up: all but loading.
pub fn forecast_total_ms(stages: &[StageRun]) -> f64 {
    let timed = stages.iter().filter(|s| s.stage != Stage::Load);
    timed.filter_map(|s| s.forecast.ms).sum()
}
