//! The ledger as people read it, as plain text and in Markdown.

mod memory;

use crate::cli::units::{NOTHING, change, columns, digits, or_nothing, time};
use crate::quant::Scheme;
use crate::validate::ledger::{Judgement, Ledger, Pair, Summary};

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
        Block::Table(memory::components(ledger)),
        heading("The same to the byte"),
        Block::Table(memory::to_the_byte(ledger)),
        heading("Memory at its highest"),
        Block::Table(memory::peaks(ledger)),
        Block::Words(memory::notes(ledger)),
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

/// `1 seed`, `2 seeds`.
fn counted(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn what(ledger: &Ledger) -> String {
    let request = &ledger.request;
    let tile = request.vae_tile;
    let tile = tile.map_or(String::new(), |tile| format!(", VAE tiles of {tile}"));
    let commit = ledger.build.commit.as_deref().unwrap_or("of no commit");
    let mut words = format!(
        "{}x{} (height x width), {} of {}, guidance {}, {}{tile}; {}, {} of noise each; \
         {}, {} threads ({}); darkroom {}, {commit}, {}.",
        request.height_px,
        request.width_px,
        counted(request.steps as u64, "step"),
        ledger.scheduler.name(),
        request.guidance,
        request.precision,
        counted(ledger.prompts as u64, "prompt"),
        counted(ledger.seeds, "seed"),
        ledger.gpu.as_ref().unwrap_or(&ledger.device),
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
