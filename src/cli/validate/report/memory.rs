//! The ledger's memory: files, weights to the byte, and the heap at its highest.

use super::head;
use crate::cli::units::{bytes, grouped, or_nothing, percent};
use crate::observe::Stage;
use crate::validate::ledger::{Bytes, Component, Ledger, Pair, StagePeak};
use crate::validate::weights::Items;

/// Files and memory of each component, and their sums.
pub fn components(ledger: &Ledger) -> Vec<Vec<String>> {
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
pub fn to_the_byte(ledger: &Ledger) -> Vec<Vec<String>> {
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

/// The stages' highest.
pub fn peaks(ledger: &Ledger) -> Vec<Vec<String>> {
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

/// What the tables do not say.
pub fn notes(ledger: &Ledger) -> String {
    let memory = &ledger.memory;
    let peak = memory.peak();
    let mut notes = vec![format!(
        "At its highest memory holds {} in int8, {} unquantised. `layout` is what the kernels' order of \
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
