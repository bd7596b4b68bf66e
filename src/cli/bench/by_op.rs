//! `--by op`: what each stage's operations took, and what they should have taken.

use crate::cli::units::{NOTHING, columns, digits, percent, time};
use crate::measure::op::Op;
use crate::measure::record::{OpRun, Run, StageRun};
use crate::measure::statistics::quantile;

/// Rows of one kind and size; the rest is summed up in one row, and the record has all.
const ROWS: usize = 20;

/// A table for each stage that has operations.
pub fn report(run: &Run) -> String {
    let stages = run.stages.iter().filter(|stage| !stage.ops.is_empty());
    stages.map(|s| format!("\n{}", stage(s))).collect()
}

/// A sum of operations.
#[derive(Clone, Copy, Default)]
struct Sum {
    calls: usize,
    ms: f64,
    flops: u64,
    bytes: u64,
    forecast_ms: f64,
}

impl Sum {
    fn of<'a>(ops: impl IntoIterator<Item = &'a OpRun>) -> Self {
        ops.into_iter().fold(Self::default(), |sum, op| Self {
            calls: sum.calls + op.calls,
            ms: sum.ms + op.times.p50_ms,
            flops: sum.flops + op.work.flops() * op.calls as u64,
            bytes: sum.bytes + op.work.bytes() * op.calls as u64,
            forecast_ms: sum.forecast_ms + op.forecast_ms,
        })
    }

    fn row(&self, name: String, stage_ms: f64) -> Vec<String> {
        // 1e6 a millisecond are 1e9 a second.
        let rate = |count: u64| match self.ms > 0.0 {
            true => digits(count as f64 / self.ms / 1e6),
            false => NOTHING.into(),
        };
        vec![
            name,
            self.calls.to_string(),
            time(self.ms),
            percent(self.ms / stage_ms),
            rate(self.flops),
            rate(self.bytes),
            time(self.forecast_ms),
            percent(self.forecast_ms / self.ms.max(f64::MIN_POSITIVE)),
        ]
    }
}

fn stage(stage: &StageRun) -> String {
    let stage_ms = stage.times.p50_ms;
    let columns_named = [
        "calls", "p50", "share", "GFLOP/s", "GB/s", "forecast", "achieved",
    ];
    let mut head = vec![format!("{}, by operation", stage.stage)];
    head.extend(columns_named.map(String::from));
    let mut rows = vec![head];
    let sizes = by_size(&stage.ops);
    for (name, ops) in sizes.iter().take(ROWS) {
        rows.push(Sum::of(ops.iter().copied()).row(name.clone(), stage_ms));
    }
    if let Some(more) = sizes.get(ROWS..).filter(|more| !more.is_empty()) {
        let name = format!("{} more kinds and sizes", more.len());
        let ops = more.iter().flat_map(|(_, ops)| ops.iter().copied());
        rows.push(Sum::of(ops).row(name, stage_ms));
    }
    rows.push(Vec::new());
    let mut kinds: Vec<(Op, Sum)> = Op::ALL
        .into_iter()
        .map(|kind| {
            (
                kind,
                Sum::of(stage.ops.iter().filter(|op| op.work.op == kind)),
            )
        })
        .filter(|(_, sum)| sum.calls > 0)
        .collect();
    kinds.sort_by(|a, b| b.1.ms.total_cmp(&a.1.ms));
    for (kind, sum) in kinds {
        rows.push(sum.row(format!("all {kind}"), stage_ms));
    }
    let outside_ms = outside_ms(stage);
    let mut outside = vec![
        "outside operations".into(),
        NOTHING.into(),
        time(outside_ms),
        percent(outside_ms / stage_ms),
    ];
    outside.resize(rows[0].len(), NOTHING.into());
    rows.push(outside);
    columns(&rows)
}

/// Operations of one kind and size together, with or without a bias say; the slowest first.
fn by_size(ops: &[OpRun]) -> Vec<(String, Vec<&OpRun>)> {
    let mut sizes: Vec<(String, Vec<&OpRun>)> = Vec::new();
    for op in ops {
        let name = format!("{} {}", op.work.op, op.work.label());
        match sizes.iter_mut().find(|(known, _)| *known == name) {
            Some((_, ops)) => ops.push(op),
            None => sizes.push((name, vec![op])),
        }
    }
    let ms = |ops: &[&OpRun]| Sum::of(ops.iter().copied()).ms;
    sizes.sort_by(|a, b| ms(&b.1).total_cmp(&ms(&a.1)));
    sizes
}

/// The stage's time that none of its operations took, in the median repeat.
fn outside_ms(stage: &StageRun) -> f64 {
    let repeats = stage.times.samples_ms.iter().enumerate();
    let outside: Vec<f64> = repeats
        .map(|(i, ms)| {
            let ops = stage.ops.iter().filter_map(|op| op.times.samples_ms.get(i));
            ms - ops.sum::<f64>()
        })
        .collect();
    quantile(&outside, 0.5).unwrap_or_default().max(0.0)
}
