//! The heap over time in the last repeat, and the forecast's peak of each stage.

use plotters::backend::DrawingBackend;

use crate::cli::bench::Timeline;
use crate::cli::plot::canvas::{
    Anchor, BLACK, Canvas, Drawn, FORECAST, Frame, GREY, LIGHT, MEASURED, PALE, WEIGHTS,
    round_numbers,
};
use crate::cli::units::{bytes, time};
use crate::measure::record::Run;
use crate::measure::recorder::{Span, SpanKind};

/// Columns that the curve is drawn in; what lies in one column is drawn at its highest and at its
/// last.
const COLUMNS: usize = 400;

pub fn draw<DB: DrawingBackend>(
    canvas: &Canvas<'_, DB>,
    frame: Frame,
    run: &Run,
    timeline: &Timeline,
) -> Drawn<DB> {
    let stages: Vec<&Span> = timeline
        .spans
        .iter()
        .filter(|span| matches!(span.kind, SpanKind::Stage) && span.heap.is_some())
        .collect();
    let Some(last_ms) = stages.last().map(|span| span.began_ms + span.ms) else {
        let (x, y) = frame.at(0.5, 0.5);
        return canvas.text("no heap was counted", (x, y), 12.0, GREY, Anchor::Middle);
    };
    let forecasts = run.stages.iter().map(|stage| stage.forecast.peak_bytes);
    let peaks = stages
        .iter()
        .filter_map(|span| span.heap)
        .map(|heap| heap.0 as u64);
    let most = forecasts.chain(peaks).max().unwrap_or(1) as f64 * 1.12;
    let tick = |number: f64| (number / most, round_bytes(number));
    let ticks: Vec<_> = round_numbers(most, 2.0).into_iter().map(tick).collect();
    frame.axes(canvas, "heap", &ticks)?;
    frame.legend(
        canvas,
        &[
            ("weights", WEIGHTS),
            ("between operations", MEASURED),
            ("inside them", LIGHT),
            ("forecast peak", FORECAST),
        ],
    )?;

    let at = |ms: f64, bytes: f64| frame.at(ms / last_ms, bytes / most);
    let columns = columns(&timeline.spans, last_ms);
    for (color, pick) in [(LIGHT, 0), (MEASURED, 1)] {
        let mut outline = vec![frame.at(0.0, 0.0)];
        for (i, column) in columns.iter().enumerate() {
            let height = [column.highest, column.last][pick] as f64 / most;
            outline.push(frame.at(i as f64 / COLUMNS as f64, height));
            outline.push(frame.at((i + 1) as f64 / COLUMNS as f64, height));
        }
        outline.push(frame.at(1.0, 0.0));
        canvas.shape(&outline, color)?;
    }
    if let Some(load) = &run.load.memory {
        let corners = [frame.at(0.0, 0.0), frame.at(1.0, load.end as f64 / most)];
        canvas.fill(corners, WEIGHTS)?;
    }
    for span in &stages {
        let (left, right) = (at(span.began_ms, 0.0).0, at(span.began_ms + span.ms, 0.0).0);
        canvas.line(&[(left, frame.top), (left, frame.bottom)], 0.5, PALE)?;
        let forecast = run.stages.iter().find(|stage| stage.stage == span.stage);
        if let Some(stage) = forecast {
            let y = at(0.0, stage.forecast.peak_bytes as f64).1;
            // A stage too short to be seen still gets a dash.
            let right = right.max(left + 5.0).min(frame.right);
            let left = left.min(right - 5.0);
            if let Some((peak, _)) = span.heap {
                let y = at(0.0, peak as f64).1;
                canvas.line(&[(left, y), (right, y)], 1.0, MEASURED)?;
            }
            canvas.dashes((left, right), y, FORECAST)?;
        }
        let name = span.stage.name();
        // A name is left out where it is wider than its stage.
        if right - left > canvas.width(name, 10.0)? {
            let place = ((left + right) / 2.0, frame.top - 7.0);
            canvas.text(name, place, 10.0, GREY, Anchor::Middle)?;
        }
    }
    for ms in round_numbers(last_ms, 10.0) {
        let (x, y) = at(ms, 0.0);
        canvas.line(&[(x, y), (x, y + 3.0)], 1.0, BLACK)?;
        let label = match ms {
            0.0 => "0".into(),
            ms => time(ms),
        };
        canvas.text(&label, (x, y + 13.0), 11.0, BLACK, Anchor::Middle)?;
    }
    let (middle, bottom) = frame.at(0.5, 0.0);
    let words = "time in the last repeat";
    canvas.text(words, (middle, bottom + 29.0), 11.0, BLACK, Anchor::Middle)
}

/// The heap in one column of the diagram.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Column {
    highest: usize,
    last: usize,
}

/// The heap by column; a column in which nothing was noted goes on with what the one before left.
fn columns(spans: &[Span], last_ms: f64) -> Vec<Column> {
    let mut notes: Vec<(f64, usize, usize)> = Vec::new(); // when, highest, left
    for span in spans {
        let Some((peak, after)) = span.heap else {
            continue;
        };
        // Of a stage only its end is known as a moment: its peak is where its operations have it.
        let highest = match span.kind {
            SpanKind::Op(_) => peak,
            SpanKind::Stage | SpanKind::Step(_) => after,
        };
        notes.push((span.began_ms + span.ms, highest, after));
    }
    notes.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut notes = notes.into_iter().peekable();
    let mut last = notes.peek().map_or(0, |&(_, _, after)| after);
    (1..=COLUMNS)
        .map(|column| {
            let until = last_ms * column as f64 / COLUMNS as f64;
            let mut highest = last;
            while let Some((_, peak, after)) = notes.next_if(|note| note.0 <= until) {
                highest = highest.max(peak);
                last = after;
            }
            Column { highest, last }
        })
        .collect()
}

/// `64 MiB` of a round number.
fn round_bytes(number: f64) -> String {
    match number {
        0.0 => "0".into(),
        number => bytes(number as u64).replace(".00", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Stage;

    #[test]
    fn a_column_keeps_its_highest_and_its_last() {
        let step = |began_ms: f64, ms: f64, after: usize| Span {
            stage: Stage::Denoise,
            kind: SpanKind::Step(0),
            began_ms,
            ms,
            heap: Some((after, after)),
        };
        let ms = COLUMNS as f64; // a millisecond a column
        let found = columns(
            &[step(0.0, 0.5, 7), step(0.5, 0.2, 3), step(0.7, 9.0, 5)],
            ms,
        );
        assert_eq!(
            found[0],
            Column {
                highest: 7,
                last: 3
            }
        );
        assert_eq!(
            found[5],
            Column {
                highest: 3,
                last: 3
            }
        );
        assert_eq!(
            found[9],
            Column {
                highest: 5,
                last: 5
            }
        );
        assert_eq!(found.len(), COLUMNS);
    }
}
