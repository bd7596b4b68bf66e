//! The record that `--json` prints.

use serde::Serialize;

use crate::claims::Checked;
use crate::claims::figure::{Figure, Stated};
use crate::claims::grounds::Grounds;
use crate::claims::verdict::Verdict;

/// Form of the record; raised when a reader could misread it.
const SCHEMA: u32 = 2;

/// All that was checked.
#[derive(Serialize)]
pub struct Record<'a> {
    schema: u32,
    version: &'static str,
    runs: Vec<Run>,
    claims: Vec<Claim<'a>>,
}

#[derive(Serialize)]
struct Run {
    file: String,
    device: String,
    conditions: String,
}

#[derive(Serialize)]
struct Claim<'a> {
    id: &'a str,
    title: &'a str,
    statement: &'a str,
    verdict: &'a str,
    points: Vec<Point<'a>>,
}

#[derive(Serialize)]
struct Point<'a> {
    what: &'a str,
    stated: Option<Stated>,
    stated_value: Option<f64>,
    figures: &'a [Figure],
    /// Under the white paper's conditions.
    measured: bool,
    /// The command that would.
    measure: &'a str,
    verdict: &'a Verdict,
    /// The deciding figure's, from what is stated.
    difference: Option<String>,
    /// Whether it is one of several readings of an unclear text.
    reading: bool,
    words: String,
}

impl<'a> Record<'a> {
    /// The record of a check.
    pub fn new(checked: &'a [Checked], grounds: &Grounds) -> Self {
        let runs = grounds.sources().map(|run| Run {
            file: run.file().to_owned(),
            device: run.device(),
            conditions: run.conditions(),
        });
        let claims = checked.iter().map(|checked| Claim {
            id: checked.claim.id,
            title: checked.claim.title,
            statement: checked.claim.statement,
            verdict: checked.deciding().verdict.name(),
            points: checked.points.iter().map(Point::new).collect(),
        });
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            runs: runs.collect(),
            claims: claims.collect(),
        }
    }
}

impl<'a> Point<'a> {
    fn new(point: &'a crate::claims::Point) -> Self {
        Self {
            what: point.what,
            stated: point.stated,
            stated_value: point.stated.map(|stated| stated.value()),
            figures: &point.figures,
            measured: point.is_measured(),
            measure: point.measure,
            verdict: &point.verdict,
            difference: point.verdict.difference(point.stated),
            reading: point.is_reading,
            words: point.verdict.words(point.stated),
        }
    }
}
