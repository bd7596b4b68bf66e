//! The report.

use super::plot::Plot;
use super::table::{HEAD, heading, measure, measured_on, row, sentence, summary};
use crate::claims::advise::calibration::NOTES;
use crate::claims::figure::{Bearing, Figure};
use crate::claims::grounds::Grounds;
use crate::claims::{Checked, Point};
use crate::cli::units::NOTHING;

const INTRODUCTION: &str = "\
Made by `darkroom claims --report DIR`. The claims are of a Chinese white paper, *AIGC compute
consumption: the architecture cost difference of Stable Diffusion and Midjourney* (2025-05, an H800
cluster), here in our words. A verdict follows from the numbers by rules that are the same for all
(src/claims/verdict.rs): *same* figures judge if they are this engine's or arithmetic, a *bound* can only
exclude; *comparable* ones are the same quantity on another device or under other conditions, and *context*
is another quantity: both judge nothing, and only what compares has a difference. What others published
decides nothing, but for the limits of a device's datasheet, of which bounds are made. A forecast of time is
a lower bound at these limits. A plan of memory is no bound: it is what this engine's GPU path takes,
counted on an emulated GPU; driver and cuBLAS come on top, and gaps but for what fits (W5 has its difference from a published peak).
";

/// All of it.
pub fn text(checked: &[Checked], grounds: &Grounds, runs: &str) -> String {
    let mut out = format!(
        "# The white paper's numbers, checked\n\n{INTRODUCTION}\n{}; {}.\n\n",
        summary(checked),
        measured_on(grounds, runs)
    );
    out += &table(
        &HEAD,
        checked.iter().flat_map(|claim| {
            let rows = claim.points.iter();
            rows.map(|point| row(claim, point).to_vec())
        }),
    );
    for plot in Plot::of(checked) {
        out += &format!("\n![{}]({})\n", plot.title(), plot.file());
    }
    for claim in checked {
        section(&mut out, claim);
    }
    out += "\n## Runs\n\n";
    for run in grounds.sources() {
        out += &format!(
            "- `{}`: {}, {}\n",
            run.file(),
            run.device(),
            run.conditions()
        );
    }
    if Plot::of(checked).contains(&Plot::Costs) {
        out += "\n## On the calibration of `darkroom advise` (W9)\n\n";
        for note in NOTES {
            out += &format!("- {note}\n");
        }
    }
    out
}

fn section(out: &mut String, claim: &Checked) {
    *out += &format!("\n## {}\n\n{}\n", heading(claim), claim.claim.statement);
    for point in &claim.points {
        let stated = point
            .stated
            .map_or_else(String::new, |s| format!(", stated {}", s.words()));
        *out += &format!("\n**{}{stated}**\n\n", capital(point.what));
        if !point.figures.is_empty() {
            let head = ["figure", "value", "difference", "from", "bears as"];
            *out += &table(
                &head,
                point.figures.iter().map(|figure| cells(point, figure)),
            );
            *out += "\n";
        }
        *out += &format!("{}.\n", capital(&sentence(claim, point)));
        if let Some(measure) = measure(claim, point) {
            *out += &format!("To measure it: {measure}.\n");
        }
    }
}

fn cells(point: &Point, figure: &Figure) -> Vec<String> {
    let bears = match figure.bearing {
        Bearing::OwnArithmetic => "the paper's own arithmetic",
        Bearing::AtLeast => "lower bound",
        Bearing::AtMost => "upper bound",
        Bearing::Room => "room up to it",
        Bearing::Same => "same",
        Bearing::Comparable => "comparable",
        Bearing::Context => "context",
    };
    vec![
        figure.what.clone(),
        figure.words(),
        figure
            .difference(point.stated)
            .unwrap_or_else(|| NOTHING.into()),
        figure.basis.words(),
        bears.into(),
    ]
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters
        .next()
        .map(|letter| letter.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let mut out = line(&head) + &format!("|{}\n", "---|".repeat(head.len()));
    for row in rows {
        out += &line(&row);
    }
    out
}
