//! `darkroom bench compare`: what changed between two files of runs, noise taken into account.

use std::path::{Path, PathBuf};

use anyhow::bail;
use serde::Serialize;

use super::file;
use crate::cli::failure::warn;
use crate::cli::stdout;
use crate::cli::units::{NOTHING, bytes, change, columns, or_nothing, percent, time};
use crate::measure::record::{Run, StageRun, Times};
use crate::measure::statistics::{MIN_SAMPLES, Ratio, ratio};
use crate::request::Request;

/// Form of the report; raised when a reader could misread it.
const SCHEMA: u32 = 1;

/// The row of all stages but loading.
const TOTAL: &str = "total";

const HELP: &str = "\
Runs are paired by model, size, batch, steps, number types and device. A time has changed where the
95 % interval of the ratio, taken from the ranks of all samples (Hodges-Lehmann), excludes 1; three
samples a side allow no more than 90 %, fewer say nothing about noise. The interval holds for the
noise within the runs: another load on the machine during one of them looks like a change.";

/// What was typed.
#[derive(clap::Args, Debug)]
#[command(after_help = HELP)]
pub struct Args {
    /// Runs before the change, from `darkroom bench --json`
    before: PathBuf,

    /// Runs after it
    after: PathBuf,

    /// Fail where a time grew by more than this, beyond the noise
    #[arg(long, value_name = "PERCENT")]
    fail_above: Option<f64>,

    /// Print one JSON record
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    before: &'a Path,
    after: &'a Path,
    pairs: Vec<Pair>,
    /// Runs without a partner, and those of another schema.
    left_out: Vec<String>,
}

/// Two runs of the same work.
#[derive(Serialize)]
struct Pair {
    run: String,
    /// What else differs between them.
    differences: Vec<String>,
    rows: Vec<Row>,
}

/// A stage, or all of them.
#[derive(Serialize)]
struct Row {
    stage: String,
    before_ms: f64,
    after_ms: f64,
    ratio: f64,
    /// `null` with fewer than three samples a side.
    interval: Option<Interval>,
    time: Verdict,
    before_peak_bytes: Option<u64>,
    after_peak_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Interval {
    low: f64,
    high: f64,
    confidence: f64,
}

/// What became of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Slower,
    Faster,
    WithinNoise,
    NoiseUnknown,
}

impl Verdict {
    fn of(ratio: Option<Ratio>) -> Self {
        match ratio {
            None => Self::NoiseUnknown,
            Some(ratio) if !ratio.differs() => Self::WithinNoise,
            Some(ratio) if ratio.low > 1.0 => Self::Slower,
            Some(_) => Self::Faster,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Slower => "slower",
            Self::Faster => "faster",
            Self::WithinNoise => "within noise",
            Self::NoiseUnknown => "noise unknown",
        }
    }
}

/// Prints what changed.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if args.fail_above.is_some_and(|p| !p.is_finite() || p < 0.0) {
        let wrong = "--fail-above takes a number of percent from 0 up";
        return Err(crate::error::Error::Request(wrong.into()).into());
    }
    let [before, after] = [&args.before, &args.after].map(|path| file::read(path));
    let (before, after) = (before?, after?);
    let mut left_out = [before.skipped, after.skipped].concat();
    let (pairs, alone) = pair(&args.before, before.runs, &args.after, after.runs);
    left_out.extend(alone);
    left_out.iter().for_each(warn);
    if pairs.is_empty() {
        bail!(
            "{} and {} share no run: nothing to compare",
            args.before.display(),
            args.after.display()
        );
    }
    let unended: Vec<String> = pairs
        .iter()
        .filter(|(before, after)| after.total.is_none() && before.total.is_some())
        .map(|(_, after)| format!("  {}: did not end", label(after)))
        .collect();
    let report = Report {
        schema: SCHEMA,
        before: &args.before,
        after: &args.after,
        pairs: pairs
            .iter()
            .map(|(before, after)| compared(before, after))
            .collect(),
        left_out,
    };
    match args.json {
        true => stdout::json(&report)?,
        false => stdout::bytes(text(&report).as_bytes())?,
    }
    let Some(limit) = args.fail_above.map(|percent| percent / 100.0) else {
        return Ok(());
    };
    let unknown = |row: &Row| row.stage == TOTAL && row.time == Verdict::NoiseUnknown;
    for pair in report
        .pairs
        .iter()
        .filter(|pair| pair.rows.iter().any(unknown))
    {
        warn(format_args!(
            "{}: too few repeats to judge (--repeat {MIN_SAMPLES} or more)",
            pair.run
        ));
    }
    match [unended, worse(&report, limit)].concat() {
        lines if lines.is_empty() => Ok(()),
        lines => bail!("worse than before:\n{}", lines.join("\n")),
    }
}

/// What two runs must share to be compared.
fn key(run: &Run) -> impl PartialEq + use<> {
    let Request {
        model,
        width_px,
        height_px,
        count,
        steps,
        precision,
        guidance,
        vae_tile,
        ..
    } = run.request.clone();
    (
        model,
        [width_px, height_px, count, steps],
        precision,
        guidance.to_bits(),
        vae_tile,
        run.scheduler,
        run.device.clone(),
    )
}

/// Pairs, and a line for each run that is alone. Of several alike in one file, the first is paired
/// with the other file's first, and so on.
fn pair(
    before_path: &Path,
    before: Vec<Run>,
    after_path: &Path,
    mut after: Vec<Run>,
) -> (Vec<(Run, Run)>, Vec<String>) {
    let (mut pairs, mut alone) = (Vec::new(), Vec::new());
    let lonely =
        |path: &Path, run: &Run| format!("{}: no partner for {}", path.display(), label(run));
    for run in before {
        match after.iter().position(|other| key(other) == key(&run)) {
            Some(partner) => pairs.push((run, after.remove(partner))),
            None => alone.push(lonely(before_path, &run)),
        }
    }
    alone.extend(after.iter().map(|run| lonely(after_path, run)));
    (pairs, alone)
}

/// The key in words.
fn label(run: &Run) -> String {
    let Request {
        model,
        height_px,
        width_px,
        count,
        steps,
        precision,
        ..
    } = &run.request;
    let dtype = precision;
    let device = &run.device;
    format!("{model}, {height_px}x{width_px}, batch {count}, {steps} steps, {dtype}, {device}")
}

fn compared(before: &Run, after: &Run) -> Pair {
    let mut rows = vec![stage_row(&before.load, &after.load)];
    for stage in &before.stages {
        let partner = after.stages.iter().find(|other| other.stage == stage.stage);
        rows.extend(partner.map(|other| stage_row(stage, other)));
    }
    if let (Some(a), Some(b)) = (&before.total, &after.total) {
        let peak = |run: &Run| run.peak.as_ref().map(|peak| peak.bytes);
        rows.push(row(TOTAL.into(), (a, b), (peak(before), peak(after))));
    }
    Pair {
        run: label(before),
        differences: differences(before, after),
        rows,
    }
}

fn stage_row(before: &StageRun, after: &StageRun) -> Row {
    let peak = |stage: &StageRun| stage.memory.as_ref().map(|memory| memory.peak as u64);
    row(
        before.stage.name().into(),
        (&before.times, &after.times),
        (peak(before), peak(after)),
    )
}

fn row(
    stage: String,
    (before, after): (&Times, &Times),
    (before_peak_bytes, after_peak_bytes): (Option<u64>, Option<u64>),
) -> Row {
    // Of the samples, not of the summary beside them.
    let p50 = |times: &Times| Times::of(times.samples_ms.clone()).map_or(0.0, |t| t.p50_ms);
    let (before_ms, after_ms) = (p50(before), p50(after));
    let found = ratio(&before.samples_ms, &after.samples_ms);
    Row {
        stage,
        before_ms,
        after_ms,
        ratio: after_ms / before_ms,
        interval: found.map(|r| Interval {
            low: r.low,
            high: r.high,
            confidence: r.confidence,
        }),
        time: Verdict::of(found),
        before_peak_bytes,
        after_peak_bytes,
    }
}

/// What differs besides the figures, one line each.
fn differences(before: &Run, after: &Run) -> Vec<String> {
    let mut lines = Vec::new();
    let mut differ = |what: &str, before: String, after: String| {
        if before != after {
            lines.push(format!("{what}: {before} before, {after} after"));
        }
    };
    let machine = |run: &Run| {
        let machine = &run.machine;
        let cpu = machine.cpu.as_deref().unwrap_or("unknown processor");
        let simd = machine.simd.join(" ");
        let memory = or_nothing(machine.memory_bytes, bytes);
        format!("{cpu}, {} threads, {memory}, {simd}", machine.threads)
    };
    let named = |name: &Option<String>| name.clone().unwrap_or_else(|| "not named".into());
    let number = |number: Option<usize>| or_nothing(number, |n| n.to_string());
    differ("another machine", machine(before), machine(after));
    differ(
        "threads",
        before.threads.to_string(),
        after.threads.to_string(),
    );
    differ("driver", named(&before.driver), named(&after.driver));
    differ("version", before.version.clone(), after.version.clone());
    differ(
        "commit",
        named(&before.build.commit),
        named(&after.build.commit),
    );
    differ(
        "build",
        before.build.profile.clone(),
        after.build.profile.clone(),
    );
    let fingerprint = |run: &Run| run.model_fingerprint.clone();
    differ("the model's files", fingerprint(before), fingerprint(after));
    let request = |run: &Run| run.request.clone();
    let (a, b) = (request(before), request(after));
    differ("prompt", a.prompt, b.prompt);
    differ("seed", a.seed.to_string(), b.seed.to_string());
    differ("guidance", a.guidance.to_string(), b.guidance.to_string());
    differ(
        "sampler",
        before.scheduler.to_string(),
        after.scheduler.to_string(),
    );
    differ("VAE tile", number(a.vae_tile), number(b.vae_tile));
    for (when, run) in [("before", before), ("after", after)] {
        if let Some(error) = &run.error {
            lines.push(format!("the run {when} did not end: {error}"));
        }
    }
    let stages = |run: &Run| -> Vec<_> { run.stages.iter().map(|s| s.stage).collect() };
    let (a, b) = (stages(before), stages(after));
    for (when, these, others) in [("before", &a, &b), ("after", &b, &a)] {
        let only = these.iter().filter(|stage| !others.contains(stage));
        lines.extend(only.map(|stage| format!("{stage} ran only {when}")));
    }
    lines
}

fn text(report: &Report<'_>) -> String {
    let mut out = String::new();
    for (i, pair) in report.pairs.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        out.push_str(&format!("{}\n", pair.run));
        for line in &pair.differences {
            out.push_str(&format!("  {line}\n"));
        }
        let head = [
            "stage",
            "before",
            "after",
            "ratio",
            "interval",
            "time",
            "peak before",
            "after",
            "change",
        ];
        let mut rows = vec![head.map(String::from).to_vec()];
        rows.extend(pair.rows.iter().map(cells));
        out.push_str(&columns(&rows));
    }
    out
}

fn cells(row: &Row) -> Vec<String> {
    let peaks = row.before_peak_bytes.zip(row.after_peak_bytes);
    vec![
        row.stage.clone(),
        time(row.before_ms),
        time(row.after_ms),
        format!("{:.3}", row.ratio),
        or_nothing(row.interval.as_ref(), |interval| {
            let Interval {
                low,
                high,
                confidence,
            } = interval;
            format!("{low:.3} to {high:.3} ({:.0} %)", confidence * 100.0)
        }),
        row.time.words().into(),
        or_nothing(row.before_peak_bytes, bytes),
        or_nothing(row.after_peak_bytes, bytes),
        match peaks {
            None => NOTHING.into(),
            Some((before, after)) if before == after => "none".into(),
            Some((before, after)) => format!("{:+} B", i128::from(after) - i128::from(before)),
        },
    ]
}

/// A line for each time that grew by more than `limit` beyond the noise, and each peak of memory
/// (which has no noise) that did.
fn worse(report: &Report<'_>, limit: f64) -> Vec<String> {
    let mut lines = Vec::new();
    for pair in &report.pairs {
        for row in &pair.rows {
            if row.time == Verdict::Slower && row.ratio - 1.0 > limit {
                lines.push(format!(
                    "  {}: {} by {}, more than {}",
                    pair.run,
                    row.stage,
                    change(row.ratio - 1.0),
                    percent(limit)
                ));
            }
            let peaks = row.before_peak_bytes.zip(row.after_peak_bytes);
            if let Some((before, after)) = peaks
                && after as f64 > before as f64 * (1.0 + limit)
            {
                lines.push(format!(
                    "  {}: {} takes {}, {} before",
                    pair.run,
                    row.stage,
                    bytes(after),
                    bytes(before)
                ));
            }
        }
    }
    lines
}
