//! What `bench` prints: the stages of a run, and below them what explains the figures.

use crate::cli::units::{bytes, change, columns, digits, or_nothing, percent, time};
use crate::measure::record::{Component, Run, StageRun, Times};
use crate::request::Request;

use super::assemble::forecast_total_ms;

/// `micro, 128x128, batch 1, 20 steps, guidance 4, f32, cpu`.
pub fn title(request: &Request, device: &str) -> String {
    let Request {
        model,
        height_px,
        width_px,
        count,
        steps,
        guidance,
        ..
    } = request;
    let dtype = request.precision;
    let tile = request.vae_tile;
    let tile = tile.map_or(String::new(), |tile| format!(", VAE tiles of {tile}"));
    format!(
        "{model}, {height_px}x{width_px}, batch {count}, {steps} steps, guidance {guidance}, \
         {dtype}{tile}, {device}"
    )
}

/// The whole report of a run.
pub fn report(run: &Run) -> String {
    let mut out = format!(
        "{}, {} threads; {} repeats after {} to warm up\n\n",
        title(&run.request, &run.device),
        run.threads,
        run.total.as_ref().map_or(0, |total| total.samples_ms.len()),
        run.warmup,
    );
    out.push_str(&stages(run));
    out.push('\n');
    out.push_str(&loading(run));
    out.push('\n');
    out.push_str(&notes(run));
    out
}

fn words(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|&cell| cell.to_owned()).collect()
}

fn stages(run: &Run) -> String {
    let mut rows = vec![words(&[
        "stage",
        "p50",
        "p95",
        "share",
        "forecast",
        "achieved",
        "peak memory",
        "forecast",
        "error",
    ])];
    rows.extend(run.stages.iter().map(stage));
    if let Some(total) = &run.total {
        let forecast_ms = forecast_total_ms(&run.stages);
        let peak = run.stages.iter().filter_map(StageRun::peak_bytes).max();
        let forecast_peak = run.stages.iter().map(|s| s.forecast.peak_bytes).max();
        let share: f64 = run.stages.iter().filter_map(|s| s.share).sum();
        rows.push(vec![
            "total".into(),
            time(total.p50_ms),
            time(total.p95_ms),
            percent(share),
            time(forecast_ms),
            percent(forecast_ms / total.p50_ms),
            or_nothing(peak, bytes),
            or_nothing(forecast_peak, bytes),
            or_nothing(peak.zip(forecast_peak), |(peak, forecast)| {
                change(forecast as f64 / peak as f64 - 1.0)
            }),
        ]);
    }
    columns(&rows)
}

fn stage(stage: &StageRun) -> Vec<String> {
    vec![
        stage.stage.name().into(),
        time(stage.times.p50_ms),
        time(stage.times.p95_ms),
        or_nothing(stage.share, percent),
        or_nothing(stage.forecast.ms, time),
        or_nothing(stage.achieved(), percent),
        or_nothing(stage.peak_bytes(), bytes),
        bytes(stage.forecast.peak_bytes),
        or_nothing(stage.peak_error(), change),
    ]
}

/// Components: time to load, memory beside forecast.
fn loading(run: &Run) -> String {
    let mut rows = vec![words(&["loading", "time", "memory", "forecast", "error"])];
    let steps = run.load.steps_ms.first();
    for (i, component) in run.components.iter().enumerate() {
        let ms = steps.and_then(|steps| steps.get(i));
        rows.push(component_row(component, ms.copied()));
    }
    let held = run.components.iter().map(|c| c.bytes).sum();
    let pool = run.load.gpu.as_ref().and_then(|gpu| gpu.pool_end_bytes);
    let whole = Component {
        name: "total".into(),
        bytes: pool.map_or(held, |bytes| Some(bytes as i64)),
        forecast_bytes: run.components.iter().map(|c| c.forecast_bytes).sum(),
    };
    rows.push(component_row(&whole, Some(run.load.times.p50_ms)));
    columns(&rows)
}

fn component_row(component: &Component, ms: Option<f64>) -> Vec<String> {
    let forecast = component.forecast_bytes;
    vec![
        component.name.clone(),
        or_nothing(ms, time),
        or_nothing(component.bytes, |b| bytes(b.unsigned_abs())),
        bytes(forecast),
        or_nothing(component.bytes.filter(|&b| b > 0), |b| {
            change(forecast as f64 / b as f64 - 1.0)
        }),
    ]
}

/// One line each: where the peak is and what it holds, throughput, limits, what measuring took.
fn notes(run: &Run) -> String {
    let mut lines = Vec::new();
    if let Some(peak) = run.peak.as_ref().filter(|_| run.driver.is_none()) {
        lines.push((
            "peak",
            format!(
                "{} in {}: weights {}, activations {}, workspace {}, program {}",
                bytes(peak.bytes),
                peak.stage,
                bytes(peak.weights_bytes),
                bytes(peak.activations_bytes),
                bytes(peak.workspace_bytes),
                bytes(peak.program_bytes)
            ),
        ));
    }
    let resident = run.stages.iter().filter_map(|s| s.resident_peak_bytes);
    if let Some(resident) = resident.max() {
        let what = "of the process in physical memory at most, mapped files included";
        lines.push(("resident", format!("{} {what}", bytes(resident))));
    }
    for (stage, gpu) in run
        .stages
        .iter()
        .filter_map(|s| Some((s.stage, s.gpu.as_ref()?)))
    {
        let some = |value: Option<String>, what: &str| {
            value.map_or(String::new(), |value| format!(", {value} {what}"))
        };
        lines.push((
            "gpu",
            format!(
                "{stage}: {} between events{}{}{}{}",
                time(gpu.ms),
                some(gpu.pool_peak_bytes.map(bytes), "in use at most"),
                some(gpu.pool_reserved_bytes.map(bytes), "set aside"),
                some(gpu.device_used_bytes.map(bytes), "of the device in use"),
                some(gpu.energy_j.map(digits), "J"),
            ),
        ));
    }
    if let Some(driver) = &run.driver {
        lines.push(("driver", driver.clone()));
    }
    if let Some(rate) = run.images_per_s {
        let rate = match rate < 0.1 {
            true => format!("{rate:.4}"),
            false => digits(rate),
        };
        lines.push(("throughput", format!("{rate} images/s")));
    }
    let limits = &run.limits;
    lines.push((
        "limits",
        format!(
            "{}: {} GFLOP/s in f32, {} GOP/s in int8, {} GB/s ({})",
            limits.name,
            digits(limits.f32_gflop_per_s),
            or_nothing(limits.int8_gop_per_s, digits),
            digits(limits.gb_per_s),
            limits.source
        ),
    ));
    if let Some(overhead) = &run.overhead {
        lines.push((
            "measuring",
            format!(
                "{:.3} % of the time: {} operations of {:.0} ns each, {} allocations of {:.1} ns",
                overhead.share * 100.0,
                overhead.ops,
                overhead.each.op_ns,
                overhead.allocations,
                overhead.each.allocation_ns
            ),
        ));
    }
    let lines = lines
        .iter()
        .map(|(name, text)| format!("{name:10}  {text}\n"));
    lines.collect()
}

/// `--by step`: the steps of each stage that has several.
pub fn by_step(run: &Run) -> String {
    let mut out = String::new();
    for stage in &run.stages {
        let steps = stage.steps_ms.first().map_or(0, Vec::len);
        if steps < 2 {
            continue;
        }
        let mut rows = vec![words(&[&format!("{} step", stage.stage), "p50", "p95"])];
        for step in 0..steps {
            let samples = stage.steps_ms.iter().filter_map(|steps| steps.get(step));
            let times = Times::of(samples.copied().collect());
            rows.push(vec![
                step.to_string(),
                or_nothing(times.as_ref(), |t| time(t.p50_ms)),
                or_nothing(times.as_ref(), |t| time(t.p95_ms)),
            ]);
        }
        out.push('\n');
        out.push_str(&columns(&rows));
    }
    out
}
