//! The claims as people read them on a terminal, and the parts that the report shares.

use crate::claims::figure::{Basis, Stated};
use crate::claims::grounds::Grounds;
use crate::claims::{Checked, Point};
use crate::cli::units::{NOTHING, or_nothing};
use crate::cli::width::{self, paragraph};

/// Cells of the table, below [`HEAD`].
pub const HEAD: [&str; 6] = [
    "claim",
    "stated",
    "recomputed",
    "published",
    "measured",
    "verdict",
];
/// Their widths but the first one's, which takes what is left.
const WIDTHS: [usize; 5] = [12, 17, 9, 17, 17];
/// The first one's, at least.
const LEAST: usize = 16;

/// The table, then each verdict with its numbers, and what would measure what was not.
pub fn text(checked: &[Checked], grounds: &Grounds, runs: &str, columns: usize) -> String {
    let mut rows = vec![HEAD.map(String::from)];
    for claim in checked {
        rows.extend(claim.points.iter().map(|point| row(claim, point)));
    }
    let [stated, recomputed, published, measured, verdict] = WIDTHS;
    let fixed = WIDTHS.iter().map(|width| width + 2).sum();
    let first = columns.saturating_sub(fixed).max(LEAST);
    let widths = [first, stated, recomputed, published, measured, verdict];
    let mut out = width::table(&rows, widths);
    for claim in checked {
        out += &format!("\n{}\n", heading(claim));
        for point in &claim.points {
            out += &paragraph(&sentence(claim, point), 2, columns);
            if let Some(measure) = measure(claim, point) {
                out += &paragraph(&format!("to measure it: {measure}"), 4, columns);
            }
        }
    }
    out += "\n";
    out += &paragraph(&summary(checked), 0, columns);
    out += &paragraph(&measured_on(grounds, runs), 0, columns);
    out
}

/// `W4 cost of training: arithmetic error`.
pub fn heading(claim: &Checked) -> String {
    let deciding = claim.deciding();
    let reading = match deciding.is_reading {
        true => ", in the reading that can hold",
        false => "",
    };
    format!(
        "{} {}: {}{reading}",
        claim.claim.id,
        claim.claim.title,
        deciding.verdict.name()
    )
}

/// A point's verdict with its numbers, below the heading that says what need not be said twice.
pub fn sentence(claim: &Checked, point: &Point) -> String {
    match claim.points.len() {
        1 => point.verdict.reason(point.stated),
        _ => format!("{}: {}", point.what, point.verdict.words(point.stated)),
    }
}

/// What would measure a point that is not, said once for all points that it would measure.
pub fn measure(claim: &Checked, point: &Point) -> Option<&'static str> {
    let alike = |p: &&Point| !p.is_measured() && p.measure == point.measure;
    let last = claim.points.iter().rfind(alike)?;
    std::ptr::eq(last, point).then_some(point.measure)
}

/// One point: claim, stated, recomputed, published, measured, verdict. Only figures that compare with what
/// is stated.
pub fn row(claim: &Checked, point: &Point) -> [String; 6] {
    let verdict = match point.verdict.difference(point.stated) {
        Some(difference) => format!("{}, {difference}", point.verdict.name()),
        None => point.verdict.name().to_owned(),
    };
    let measured = of(point, |basis| matches!(basis, Basis::Measured { .. }));
    let recomputed = |basis: &Basis| {
        let is_measured = matches!(basis, Basis::Measured { .. });
        !is_measured && !basis.is_of_others()
    };
    [
        format!("{} {}", claim.claim.id, point.what),
        or_nothing(point.stated.as_ref(), Stated::words),
        or_nothing(of(point, recomputed), |cell| cell),
        or_nothing(of(point, Basis::is_of_others), |cell| cell),
        measured.unwrap_or_else(|| "not measured here".into()),
        verdict,
    ]
}

/// Of the figures of a kind that compare with what is stated, the one of the verdict, else the first; with
/// its device.
fn of(point: &Point, kind: impl Fn(&Basis) -> bool) -> Option<String> {
    let stated = point.stated?;
    let figures = point.verdict.figure().into_iter().chain(&point.figures);
    let mut alike = figures.filter(|figure| kind(&figure.basis) && figure.is_like(stated));
    let figure = alike.next()?;
    Some(match &figure.basis {
        Basis::Forecast { .. } | Basis::Plan => {
            format!("{} ({})", figure.words(), figure.basis.words())
        }
        Basis::Measured { device, .. } => format!("{} ({device})", figure.words()),
        Basis::Arithmetic | Basis::Counted | Basis::Published { .. } | Basis::Computed { .. } => {
            figure.words()
        }
    })
}

/// `15 claims: arithmetic error 2, …`.
pub fn summary(checked: &[Checked]) -> String {
    let mut counts: Vec<(usize, &str, usize)> = Vec::new();
    for claim in checked {
        let verdict = &claim.deciding().verdict;
        match counts
            .iter_mut()
            .find(|(_, name, _)| *name == verdict.name())
        {
            Some((.., count)) => *count += 1,
            None => counts.push((verdict.gravity(), verdict.name(), 1)),
        }
    }
    counts.sort();
    let words = counts
        .iter()
        .rev()
        .map(|(_, name, count)| format!("{name} {count}"));
    let words: Vec<String> = words.collect();
    let s = if checked.len() == 1 { "" } else { "s" };
    format!("{} claim{s}: {}", checked.len(), words.join(", "))
}

/// The devices of the runs, of which `runs` says whose they are.
pub fn measured_on(grounds: &Grounds, runs: &str) -> String {
    let mut devices: Vec<String> = grounds.sources().map(|run| run.device()).collect();
    devices.sort();
    devices.dedup();
    let devices = match devices.is_empty() {
        true => NOTHING.to_owned(),
        false => devices.join("; "),
    };
    format!("measured ({runs}): {devices}; every other time of a device is a forecast or published")
}
