//! `--by op`: what each stage's operations took, and what they should have taken.

use crate::cli::units::{NOTHING, columns, digits, or_nothing, percent, time};
use crate::measure::op::Op;
use crate::measure::record::{OpRun, Run, StageRun};
use crate::measure::statistics::quantile;

/// Rows of one kind and size; the rest is summed up in one row, and the record has all.
const ROWS: usize = 20;

/// The largest differences between forecast and measured time, so many.
const GAPS: usize = 10;

/// A table for each stage that has operations, and where the run's time went beyond the forecast.
pub fn report(run: &Run) -> String {
    let stages = run.stages.iter().filter(|stage| !stage.ops.is_empty());
    let tables: String = stages.map(|s| format!("\n{}", stage(s))).collect();
    match run.limits {
        Some(_) => format!("{tables}\n{}", gaps(run)),
        None => tables, // nothing to be beyond of
    }
}

/// Operations of all stages by what they took beyond their forecast, the most first.
fn gaps(run: &Run) -> String {
    let mut all: Vec<(String, String, Sum)> = Vec::new();
    for stage in &run.stages {
        for (name, ops) in by_size(&stage.ops) {
            let sum = Sum::of(ops.iter().copied());
            all.push((stage.stage.to_string(), name, sum));
        }
        let outside = Sum {
            ms: outside_ms(stage),
            ..Sum::NONE
        };
        all.push((
            stage.stage.to_string(),
            "outside operations".into(),
            outside,
        ));
    }
    let beyond = |sum: &Sum| sum.ms - sum.forecast_ms.unwrap_or(0.0);
    let whole: f64 = all.iter().map(|(_, _, sum)| beyond(sum)).sum();
    all.sort_by(|a, b| beyond(&b.2).total_cmp(&beyond(&a.2)));
    let head = [
        "beyond the forecast",
        "stage",
        "beyond",
        "of all",
        "p50",
        "forecast",
        "achieved",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    for (stage, name, sum) in all.iter().take(GAPS).filter(|(.., sum)| beyond(sum) > 0.0) {
        rows.push(vec![
            name.clone(),
            stage.clone(),
            time(beyond(sum)),
            percent(beyond(sum) / whole.max(f64::MIN_POSITIVE)),
            time(sum.ms),
            or_nothing(sum.forecast_ms, time),
            or_nothing(sum.achieved(), percent),
        ]);
    }
    columns(&rows)
}

/// A sum of operations.
#[derive(Clone, Copy)]
struct Sum {
    calls: usize,
    ms: f64,
    flops: u64,
    bytes: u64,
    /// `None` where no limits are known.
    forecast_ms: Option<f64>,
}

impl Sum {
    const NONE: Self = Self {
        calls: 0,
        ms: 0.0,
        flops: 0,
        bytes: 0,
        forecast_ms: Some(0.0),
    };

    fn of<'a>(ops: impl IntoIterator<Item = &'a OpRun>) -> Self {
        ops.into_iter().fold(Self::NONE, |sum, op| Self {
            calls: sum.calls + op.calls,
            ms: sum.ms + op.times.p50_ms,
            flops: sum.flops + op.work.flops() * op.calls as u64,
            bytes: sum.bytes + op.work.bytes() * op.calls as u64,
            forecast_ms: sum.forecast_ms.zip(op.forecast_ms).map(|(a, b)| a + b),
        })
    }

    fn achieved(&self) -> Option<f64> {
        Some(self.forecast_ms? / self.ms.max(f64::MIN_POSITIVE))
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
            or_nothing(self.forecast_ms, time),
            or_nothing(self.achieved(), percent),
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
