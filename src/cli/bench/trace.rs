//! `--trace`: the timeline as Chrome trace events.
//!
//! Format: "Trace Event Format" of the Chromium project, which Perfetto reads: complete events (`X`)
//! nest by their times, counters (`C`) draw a track, metadata (`M`) names processes.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::Timeline;
use crate::measure::op::Work;
use crate::measure::recorder::{Span, SpanKind};

/// Writes several timelines, each as a process of its own with its name.
pub fn write(timelines: &[Timeline], out: &mut impl Write) -> io::Result<()> {
    // Event by event: a long run has more of them than one would want in memory as JSON values.
    out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n")?;
    for (pid, Timeline { name, spans }) in (1..).zip(timelines) {
        if pid > 1 {
            out.write_all(b",\n")?;
        }
        let name = json!({
            "ph": "M", "pid": pid, "tid": 1, "name": "process_name", "args": { "name": name }
        });
        serde_json::to_writer(&mut *out, &name)?;
        // Outer slices first, where they begin together.
        let mut order: Vec<&Span> = spans.iter().collect();
        order.sort_by(|a, b| {
            let begins = a.began_ms.total_cmp(&b.began_ms);
            begins.then(b.ms.total_cmp(&a.ms))
        });
        for span in order {
            for event in std::iter::once(slice(pid, span)).chain(heap(pid, span)) {
                out.write_all(b",\n")?;
                serde_json::to_writer(&mut *out, &event)?;
            }
        }
    }
    out.write_all(b"\n]}\n")
}

fn slice(pid: usize, span: &Span) -> Value {
    let (name, category, mut args) = match span.kind {
        SpanKind::Stage => (span.stage.name().to_owned(), "stage", json!({})),
        SpanKind::Step(step) => (format!("step {step}"), "step", json!({ "step": step })),
        SpanKind::Op(work) => (work.op.name().to_owned(), "op", op_args(&work)),
    };
    if let Some((peak, after)) = span.heap {
        args["heap_peak_bytes"] = peak.into();
        args["heap_after_bytes"] = after.into();
    }
    json!({
        "ph": "X", "pid": pid, "tid": 1, "name": name, "cat": category,
        "ts": span.began_ms * 1e3, "dur": span.ms * 1e3, "args": args
    })
}

fn op_args(work: &Work) -> Value {
    json!({
        "sizes": work.label(), "flops": work.flops(),
        "read_bytes": work.read_bytes, "written_bytes": work.written_bytes
    })
}

/// The heap's track: an operation's highest from its beginning on, what is left at each end.
fn heap(pid: usize, span: &Span) -> Vec<Value> {
    let at = |ms: f64, bytes: usize| {
        json!({
            "ph": "C", "pid": pid, "name": "heap", "ts": ms * 1e3, "args": { "bytes": bytes }
        })
    };
    let Some((peak, after)) = span.heap else {
        return Vec::new();
    };
    let end = at(span.began_ms + span.ms, after);
    match span.kind {
        SpanKind::Op(_) => vec![at(span.began_ms, peak), end],
        SpanKind::Stage | SpanKind::Step(_) => vec![end],
    }
}
