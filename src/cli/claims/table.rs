//! The claims as people read them on a terminal, and the parts that the report shares.

use crate::claims::figure::{Basis, Figure, Stated};
use crate::claims::grounds::Grounds;
use crate::claims::{Checked, Combine, Point};
use crate::cli::units::{NOTHING, columns, or_nothing};

/// Cells of the table, below [`HEAD`].
pub const HEAD: [&str; 5] = ["claim", "stated", "recomputed", "measured here", "verdict"];

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
                out += &format!("    not measured here: {}\n", point.measure);
            }
        }
    }
    out += &format!("\n{}\n{}\n", summary(checked), measured_on(grounds));
    out
}

/// One point: claim, stated, recomputed, measured here, verdict.
pub fn row(claim: &Checked, point: &Point) -> [String; 5] {
    let verdict = match point.verdict.difference(point.stated) {
        Some(difference) => format!("{}, {difference}", point.verdict.name()),
        None => point.verdict.name().to_owned(),
    };
    [
        format!("{:3} {}", claim.claim.id, point.what),
        or_nothing(point.stated.as_ref(), Stated::words),
        or_nothing(recomputed(point), |figure| match &figure.basis {
            Basis::Published { .. } => format!("{} (published)", figure.words()),
            Basis::Forecast { device } => format!("{} (forecast, {device})", figure.words()),
            Basis::Arithmetic | Basis::Measured { .. } => figure.words(),
        }),
        match measured(point) {
            Some((figure, device)) => format!("{} ({device})", figure.words()),
            None => "not measured here".into(),
        },
        verdict,
    ]
}

/// The figure that decided or came nearest, or else the first that was not measured.
fn recomputed(point: &Point) -> Option<&Figure> {
    let decided = point
        .verdict
        .figure()
        .filter(|figure| !figure.is_measured());
    decided.or_else(|| point.figures.iter().find(|figure| !figure.is_measured()))
}

/// The first measured figure, and its device.
fn measured(point: &Point) -> Option<(&Figure, &str)> {
    point.figures.iter().find_map(|figure| match &figure.basis {
        Basis::Measured { device, .. } => Some((figure, device.as_str())),
        _ => None,
    })
}

/// What is said beside a verdict that is the mildest of several.
pub fn readings(claim: &Checked) -> &'static str {
    match claim.claim.combine {
        Combine::Any => ", in the reading that can hold",
        Combine::All => "",
    }
}

/// `15 claims: 2 arithmetic error, …`.
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
        .map(|(_, name, count)| format!("{count} {name}"));
    let words: Vec<String> = words.collect();
    let s = if checked.len() == 1 { "" } else { "s" };
    format!("{} claim{s}: {}", checked.len(), words.join(", "))
}

/// The devices of the runs.
pub fn measured_on(grounds: &Grounds) -> String {
    let mut devices: Vec<String> = grounds.runs.iter().map(|run| run.device()).collect();
    devices.sort();
    devices.dedup();
    let devices = match devices.is_empty() {
        true => NOTHING.to_owned(),
        false => devices.join("; "),
    };
    format!("measured on: {devices}; every other time of a device is a forecast or published")
}
