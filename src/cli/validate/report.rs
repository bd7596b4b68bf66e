//! The ledger as people read it, as plain text and in Markdown.

use crate::cli::units::{
    NOTHING, bytes, change, columns, digits, grouped, or_nothing, percent, time,
};
use crate::observe::Stage;
use crate::quant::Scheme;
use crate::validate::ledger::{Bytes, Component, Judgement, Ledger, Pair, StagePeak, Summary};
use crate::validate::weights::Items;

/// A part of the report.
pub enum Block {
    Heading(String),
    Words(String),
    /// The first row is the head.
    Table(Vec<Vec<String>>),
}

/// As plain text.
pub fn text(blocks: &[Block]) -> String {
    let parts = blocks.iter().map(|block| match block {
        Block::Heading(words) | Block::Words(words) => format!("{words}\n"),
        Block::Table(rows) => columns(rows),
    });
    parts.collect::<Vec<_>>().join("\n")
}

/// In Markdown.
pub fn markdown(blocks: &[Block]) -> String {
    let row = |cells: &Vec<String>| {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut first = true;
    let parts = blocks.iter().map(|block| match block {
        Block::Heading(words) => {
            let mark = if std::mem::take(&mut first) {
                "#"
            } else {
                "##"
            };
            format!("{mark} {words}\n")
        }
        Block::Words(words) => format!("{}\n", words.replace('\n', "\n\n")),
        Block::Table(rows) => {
            let mut out = row(&rows[0]);
            out += &format!("|---|{}\n", "---:|".repeat(rows[0].len() - 1));
            out.extend(rows[1..].iter().map(row));
            out
        }
    });
    parts.collect::<Vec<_>>().join("\n")
}

/// The whole report.
pub fn blocks(ledger: &Ledger) -> Vec<Block> {
    let heading = |words: &str| Block::Heading(words.to_owned());
    let mut blocks = vec![
        Block::Heading(title(ledger)),
        Block::Words(what(ledger)),
        heading("Memory of the weights"),
        Block::Table(components(ledger)),
        heading("The same to the byte"),
        Block::Table(to_the_byte(ledger)),
        heading("Heap at its highest"),
        Block::Table(peaks(ledger)),
        Block::Words(memory_notes(ledger)),
        heading("Quality, beside the twin"),
        Block::Table(quality(ledger)),
        Block::Words(quality_notes(ledger)),
    ];
    if !ledger.layers.is_empty() {
        blocks.extend([
            heading("Layers, the worst first"),
            Block::Table(layers(ledger)),
            Block::Words(layer_notes(ledger)),
        ]);
    }
    blocks.extend([
        heading("Speed"),
        Block::Table(speed(ledger)),
        heading("Verdict"),
        match ledger.verdict.is_empty() {
            true => Block::Words("no thresholds given".into()),
            false => Block::Table(verdict(ledger)),
        },
    ]);
    blocks
}

/// What was not met, one line each.
pub fn failures(ledger: &Ledger) -> Vec<String> {
    let failed = ledger.verdict.iter().filter(|judgement| !judgement.passed);
    failed
        .map(|j| {
            format!(
                "{} is {} ({} {})",
                j.what,
                figure(j.found),
                j.option,
                j.threshold
            )
        })
        .collect()
}

fn head<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

/// `micro in w8a8, beside its unquantised twin`.
fn title(ledger: &Ledger) -> String {
    let Pair { twin, int8 } = &ledger.models;
    let scheme = ledger.scheme.name();
    match twin.name == int8.name {
        true => format!("{} in {scheme}, beside its unquantised twin", twin.name),
        false => format!("{} ({scheme}), beside {}", int8.name, twin.name),
    }
}

fn what(ledger: &Ledger) -> String {
    let request = &ledger.request;
    let tile = request.vae_tile;
    let tile = tile.map_or(String::new(), |tile| format!(", VAE tiles of {tile}"));
    let commit = ledger.build.commit.as_deref().unwrap_or("of no commit");
    let mut words = format!(
        "{}x{} (height x width), {} steps of {}, guidance {}, {}{tile}; {} prompts, {} of noise each; \
         {}, {} threads ({}); darkroom {}, {commit}, {}.",
        request.height_px,
        request.width_px,
        request.steps,
        ledger.scheduler.name(),
        request.guidance,
        request.precision,
        ledger.prompts,
        match ledger.seeds {
            1 => "1 seed".to_owned(),
            seeds => format!("{seeds} seeds"),
        },
        ledger.device,
        ledger.threads,
        ledger
            .machine
            .cpu
            .as_deref()
            .unwrap_or("an unknown processor"),
        ledger.version,
        ledger.timestamp,
    );
    words += &format!("\nIn floating point stay {}.", ledger.kept.join(", "));
    if let Some(smoothing) = ledger.smoothing {
        words += &format!(" Smoothed with α {}.", smoothing.alpha);
    }
    let Pair { twin, int8 } = &ledger.models;
    words += &format!("\nFiles of {}: {}.", twin.name, twin.fingerprint);
    if twin.name != int8.name {
        words += &format!("\nFiles of {}: {}.", int8.name, int8.fingerprint);
    }
    if ledger.synthetic {
        words += " The weights are made up: memory and time are the model's, quality is not.";
    }
    words
}

/// Files and memory of each component, and their sums.
fn components(ledger: &Ledger) -> Vec<Vec<String>> {
    let mut rows = vec![head([
        "component",
        "twin's file",
        "int8's",
        "twin's forecast",
        "measured",
        "int8's forecast",
        "measured",
        "saved",
        "share",
    ])];
    let parts = &ledger.memory.components;
    rows.extend(parts.iter().map(component));
    let sum = |of: &dyn Fn(&Component) -> Option<u64>| parts.iter().map(of).sum::<Option<u64>>();
    let files = |side: fn(&Pair<Option<u64>>) -> Option<u64>| {
        let known = parts.iter().filter_map(|part| side(&part.file_bytes));
        known.reduce(|sum, bytes| sum + bytes)
    };
    let memory = |side: fn(&Pair<Bytes>) -> Bytes| Bytes {
        forecast_bytes: parts.iter().map(|p| side(&p.memory).forecast_bytes).sum(),
        measured_bytes: sum(&|part| side(&part.memory).measured_bytes),
    };
    rows.push(component(&Component {
        name: "total".into(),
        file_bytes: Pair {
            twin: files(|pair| pair.twin),
            int8: files(|pair| pair.int8),
        },
        items: None,
        memory: Pair {
            twin: memory(|pair| pair.twin),
            int8: memory(|pair| pair.int8),
        },
    }));
    rows
}

fn component(part: &Component) -> Vec<String> {
    let Pair { twin, int8 } = part.memory;
    let mut row = vec![
        part.name.clone(),
        or_nothing(part.file_bytes.twin, bytes),
        or_nothing(part.file_bytes.int8, bytes),
    ];
    row.extend(compared(twin, int8));
    row
}

/// Forecast and measured of both, and what is saved.
fn compared(twin: Bytes, int8: Bytes) -> [String; 6] {
    let best = Pair { twin, int8 }.map(Bytes::best);
    let (saved, share) = match best.twin.checked_sub(best.int8) {
        Some(saved) => (bytes(saved), best.saved()),
        None => (format!("-{}", bytes(best.int8 - best.twin)), best.saved()),
    };
    [
        bytes(twin.forecast_bytes),
        or_nothing(twin.measured_bytes, bytes),
        bytes(int8.forecast_bytes),
        or_nothing(int8.measured_bytes, bytes),
        saved,
        or_nothing(share, percent),
    ]
}

/// What each network's weights are made of, their sum, the forecast, and what loading really took.
fn to_the_byte(ledger: &Ledger) -> Vec<Vec<String>> {
    let mut rows = vec![head([
        "bytes",
        "float",
        "norms, biases",
        "int8",
        "scales",
        "layout",
        "sum",
        "forecast",
        "measured",
        "bookkeeping",
    ])];
    for part in &ledger.memory.components {
        let (Some(items), Some(beyond)) = (&part.items, part.bookkeeping_bytes()) else {
            continue;
        };
        let scheme = ledger.scheme.name();
        let both = [
            (part.name.clone(), items.twin, part.memory.twin, beyond.twin),
            (
                format!("{}, {scheme}", part.name),
                items.int8,
                part.memory.int8,
                beyond.int8,
            ),
        ];
        // Only the UNet differs.
        let shown = if items.twin == items.int8 { 1 } else { 2 };
        for (name, items, memory, beyond) in both.into_iter().take(shown) {
            rows.push(item_row(name, items, memory, beyond));
        }
    }
    rows
}

fn item_row(name: String, items: Items, memory: Bytes, beyond: Option<i64>) -> Vec<String> {
    let mut row = vec![name];
    let figures = [
        items.float_bytes,
        items.vector_bytes,
        items.int8_bytes,
        items.scale_bytes,
        items.layout_bytes,
        items.total_bytes(),
        memory.forecast_bytes,
    ];
    row.extend(figures.map(grouped));
    row.push(or_nothing(memory.measured_bytes, grouped));
    row.push(or_nothing(beyond, |beyond| match beyond {
        0.. => grouped(beyond.unsigned_abs()),
        _ => format!("-{}", grouped(beyond.unsigned_abs())),
    }));
    row
}

fn peaks(ledger: &Ledger) -> Vec<Vec<String>> {
    let mut rows = vec![head([
        "stage",
        "twin's forecast",
        "measured",
        "int8's forecast",
        "measured",
        "saved",
        "share",
    ])];
    let row = |StagePeak { stage, peak }: &StagePeak| {
        let mut row = vec![stage.name().to_owned()];
        row.extend(compared(peak.twin, peak.int8));
        row
    };
    rows.extend(ledger.memory.stages.iter().map(row));
    rows
}

/// Parameters of SDXL's UNet, and the memory that the white paper's claim W5 names for 8-bit.
const SDXL_UNET: u64 = 2_567_463_684;
const W5_BYTES: f64 = 12.4e9;

fn memory_notes(ledger: &Ledger) -> String {
    let memory = &ledger.memory;
    let peak = memory.peak();
    let mut notes = vec![format!(
        "At its highest the heap has {} in int8, {} unquantised. `layout` is what the kernels' order of \
         int8 weights adds, `bookkeeping` what the allocator counted beyond the sum: the tensors' own \
         records.",
        bytes(peak.int8),
        bytes(peak.twin)
    )];
    let load = memory.stages.iter().find(|peak| peak.stage == Stage::Load);
    let stays: u64 = memory.components.iter().map(|c| c.memory.int8.best()).sum();
    if let Some((load, unet)) = load.zip(memory.unet()) {
        let most = load.peak.int8.best();
        notes.push(format!(
            "Loading in int8 takes {} at its highest, {} more than stays; a copy of the unquantised UNet \
             would be {} more.",
            bytes(most),
            bytes(most.saturating_sub(stays)),
            bytes(unet.twin)
        ));
    }
    let resident = &memory.resident_peak_bytes;
    if let (Some(twin), Some(int8)) = (resident.twin, resident.int8) {
        notes.push(format!(
            "The process in physical memory at most, mapped files included: {} in int8, {} unquantised.",
            bytes(int8),
            bytes(twin)
        ));
    }
    if memory.unet_parameters == SDXL_UNET {
        let [twin, int8] = [peak.twin, peak.int8].map(|bytes| bytes as f64 / 1e9);
        notes.push(format!(
            "The white paper (W5) has 8-bit bring memory down to {:.1} GB; here it is {int8:.1} GB, from \
             {twin:.1} GB.",
            W5_BYTES / 1e9
        ));
    }
    notes.join("\n")
}

/// Steps shown at most; the record has all.
const STEPS: usize = 8;

fn quality(ledger: &Ledger) -> Vec<Vec<String>> {
    let quality = &ledger.quality;
    let mut rows = vec![head([
        "figure",
        "median",
        "its interval",
        "mean",
        "worst",
        "of run",
    ])];
    let mut add = |name: String, summary: &Summary, words: &dyn Fn(f64) -> String| {
        let interval = summary.median_interval;
        rows.push(vec![
            name,
            words(summary.median),
            or_nothing(interval, |i| {
                let (low, high) = (words(i.low), words(i.high));
                format!("{low} to {high} ({:.0} %)", i.confidence * 100.0)
            }),
            words(summary.mean),
            words(summary.worst),
            summary.worst_run.to_string(),
        ]);
    };
    let three = |value: f64| format!("{value:.3}");
    add("PSNR, dB".into(), &quality.psnr_db, &|v| format!("{v:.2}"));
    add("SSIM".into(), &quality.ssim, &|v| format!("{v:.4}"));
    add("SSIMULACRA 2".into(), &quality.ssimulacra2, &|v| {
        format!("{v:.2}")
    });
    let steps = quality.drift.len();
    let shown = steps.min(STEPS);
    for i in 1..=shown {
        let step = i * steps / shown;
        add(
            format!("drift after step {step}"),
            &quality.drift[step - 1],
            &three,
        );
    }
    rows
}

fn quality_notes(ledger: &Ledger) -> String {
    let quality = &ledger.quality;
    let named = |what: &str, summary: &Summary| {
        let run = &quality.runs[summary.worst_run];
        format!(
            "Run {} has the worst {what}: \"{}\", seed {}.",
            summary.worst_run, run.prompt, run.seed
        )
    };
    let mut notes = vec![
        "Drift is the distance of the latents from the twin's over the twin's length, from the same \
         noise. Intervals are of the median, by exact order statistics over all runs."
            .to_owned(),
        named("PSNR", &quality.psnr_db),
    ];
    if let Some(drift) = quality.drift.last() {
        notes.push(named("final drift", drift));
    }
    notes.join("\n")
}

/// Layers shown at most; the record has all.
const LAYERS: usize = 10;

fn layers(ledger: &Ledger) -> Vec<Vec<String>> {
    let mut rows = vec![head([
        "layer",
        "SQNR, dB",
        "1 - cosine",
        "largest input",
        "typical input",
    ])];
    rows.extend(ledger.layers.iter().take(LAYERS).map(|layer| {
        vec![
            layer.name.clone(),
            format!("{:.1}", layer.sqnr_db),
            format!("{:.1e}", 1.0 - layer.cosine),
            digits(layer.largest_input),
            digits(layer.typical_input),
        ]
    }));
    rows
}

fn layer_notes(ledger: &Ledger) -> String {
    let mut notes = format!(
        "{} layers in int8. SQNR is the power of a layer's output over that of its error, on the twin's own \
         inputs, in {} steps of the first prompt. A layer that is too far off is mended by keeping it in \
         floating point: `darkroom quantize --keep {}`.",
        ledger.layers.len(),
        ledger.layer_steps,
        ledger.layers[0].name
    );
    if ledger.scheme == Scheme::W8A8 {
        notes += " A largest input far above the typical one (root mean square) takes the int8 range from \
                  the rest of its row: `--smooth 0.5` moves it into the weights of linear layers.";
    }
    notes
}

fn speed(ledger: &Ledger) -> Vec<Vec<String>> {
    let mut rows = vec![head([
        "stage",
        "twin p50",
        "int8 p50",
        "int8 / twin",
        "interval",
    ])];
    rows.extend(ledger.speed.iter().map(|stage| {
        vec![
            stage.stage.clone(),
            time(stage.times.twin.p50_ms),
            time(stage.times.int8.p50_ms),
            format!("{:.3} ({})", stage.ratio, change(stage.ratio - 1.0)),
            or_nothing(stage.interval, |i| {
                let confidence = i.confidence * 100.0;
                format!("{:.3} to {:.3} ({confidence:.0} %)", i.low, i.high)
            }),
        ]
    }));
    rows
}

fn verdict(ledger: &Ledger) -> Vec<Vec<String>> {
    let mut rows = vec![head(["threshold", "asked", "found", "margin", "verdict"])];
    rows.extend(ledger.verdict.iter().map(|judgement| {
        let Judgement {
            what,
            option,
            threshold,
            found,
            margin,
            passed,
        } = judgement;
        vec![
            format!("{what} ({option})"),
            threshold.to_string(),
            figure(*found),
            format!("{margin:+.4}"),
            if *passed { "passed" } else { "failed" }.to_owned(),
        ]
    }));
    rows
}

fn figure(value: f64) -> String {
    match value.is_finite() {
        true => format!("{value:.4}"),
        false => NOTHING.to_owned(),
    }
}
