//! The claims as people read them on a terminal, and the parts that the report shares.

use crate::claims::figure::{Basis, Stated};
use crate::claims::grounds::Grounds;
use crate::claims::{Checked, Combine, Point};
use crate::cli::units::{NOTHING, columns, or_nothing};

/// Cells of the table, below [`HEAD`].
pub const HEAD: [&str; 6] = [
    "claim",
    "stated",
    "recomputed",
    "published",
    "measured here",
    "verdict",
];

/// The table, then each verdict with its numbers, and what would measure what was not.
pub fn text(checked: &[Checked], grounds: &Grounds) -> String {
    let mut rows = vec![HEAD.map(String::from).to_vec()];
    for claim in checked {
        rows.extend(claim.points.iter().map(|point| row(claim, point).to_vec()));
    }
    let mut out = columns(&rows);
    for claim in checked {
        let verdict = claim.deciding().verdict.name();
        out += &format!(
            "\n{} {}: {verdict}{}\n",
            claim.claim.id,
            claim.claim.title,
            readings(claim)
        );
        for point in &claim.points {
            out += &format!("  {}: {}\n", point.what, point.verdict.words(point.stated));
            if !point.is_measured() {
                out += &format!("    to measure it: {}\n", point.measure);
            }
        }
    }
    out += &format!("\n{}\n{}\n", summary(checked), measured_on(grounds));
    out
}

/// One point: claim, stated, recomputed, published, measured here, verdict.
pub fn row(claim: &Checked, point: &Point) -> [String; 6] {
    let verdict = match point.verdict.difference(point.stated) {
        Some(difference) => format!("{}, {difference}", point.verdict.name()),
        None => point.verdict.name().to_owned(),
    };
    let measured = match of(point, |basis| matches!(basis, Basis::Measured { .. })) {
        Some(cell) => cell,
        None => "not measured here".into(),
    };
    let recomputed = |basis: &Basis| matches!(basis, Basis::Arithmetic | Basis::Forecast { .. });
    let published = |basis: &Basis| matches!(basis, Basis::Published { .. });
    [
        format!("{:3} {}", claim.claim.id, point.what),
        or_nothing(point.stated.as_ref(), Stated::words),
        or_nothing(of(point, recomputed), |cell| cell),
        or_nothing(of(point, published), |cell| cell),
        measured,
        verdict,
    ]
}

/// Of the figures of a kind, the one of the verdict, else the first in the stated number's unit, else the
/// first; with its device.
fn of(point: &Point, kind: impl Fn(&Basis) -> bool) -> Option<String> {
    let figures = || point.figures.iter().filter(|figure| kind(&figure.basis));
    let decided = point.verdict.figure().filter(|figure| kind(&figure.basis));
    let unit = point.stated.map(|stated| stated.unit);
    let figure = decided
        .or_else(|| figures().find(|figure| Some(figure.unit) == unit))
        .or_else(|| figures().next())?;
    Some(match &figure.basis {
        Basis::Arithmetic | Basis::Published { .. } => figure.words(),
        Basis::Forecast { device } => format!("{} (forecast, {device})", figure.words()),
        Basis::Measured { device, .. } => format!("{} ({device})", figure.words()),
    })
}

/// What is said beside a verdict that is the mildest of several.
pub fn readings(claim: &Checked) -> &'static str {
    match claim.claim.combine {
        Combine::Any => ", in the reading that can hold",
        Combine::All => "",
    }
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

/// The devices of the runs.
pub fn measured_on(grounds: &Grounds) -> String {
    let mut devices: Vec<String> = grounds.sources().map(|run| run.device()).collect();
    devices.sort();
    devices.dedup();
    let devices = match devices.is_empty() {
        true => NOTHING.to_owned(),
        false => devices.join("; "),
    };
    format!("measured on: {devices}; every other time of a device is a forecast or published")
}
