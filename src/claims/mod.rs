//! A white paper's numbers, checked line by line.
//!
//! The paper ("AIGC compute consumption: the architecture cost difference of Stable Diffusion and
//! Midjourney", 2025-05, an H800 cluster) states fifteen things, W1 to W15 ([`LEDGER`]). Of each:
//!
//! ```text
//! stated number    [`Stated`]  ┐
//! recomputed                   │
//! measured by this engine      ├ figures with unit, source and bearing [`Figure`] → [`Verdict`]
//! published by others          │
//! forecast for a device        ┘
//! ```
//!
//! A claim may have several numbers, and a number several readings, of which one may hold.
//!
//! A check ([`checks`]) makes figures, by code with tests; it never chooses a verdict. That follows from
//! the numbers by the rules of [`verdict`], the same for all claims. A figure of another device or under
//! other conditions is compared and judges nothing; one of another quantity is not even compared.
//!
//! [`advise`] answers what the paper's ninth claim is about: which GPU for which workload.

pub mod advise;
pub mod checks;
pub mod figure;
pub mod grounds;
mod ledger;
pub mod published;
pub mod source;
pub mod verdict;

use crate::error::{Error, Result};
use figure::{Bearing, Figure, Stated};
use grounds::Grounds;
pub use ledger::LEDGER;
use verdict::Verdict;

/// One of the white paper's claims.
pub struct Claim {
    /// `W1` … `W15`.
    pub id: &'static str,
    /// In a few words.
    pub title: &'static str,
    /// What it says, in our words.
    pub statement: &'static str,
    /// Makes its points.
    pub check: fn(&Grounds) -> Result<Vec<Point>>,
}

/// One number of a claim, or one reading of it.
#[derive(Clone, Debug)]
pub struct Point {
    /// What is stated.
    pub what: &'static str,
    /// The number, where there is one.
    pub stated: Option<Stated>,
    /// What stands beside it.
    pub figures: Vec<Figure>,
    /// What follows.
    pub verdict: Verdict,
    /// What would measure it, or why nothing does.
    pub measure: &'static str,
    /// Whether it is one of several readings of an unclear text, of which one may hold.
    pub is_reading: bool,
}

/// What a point lacks to be judged by measurement.
pub struct Missing {
    /// Why it cannot be tested where no figure decides.
    pub why: &'static str,
    /// The command that would measure it, or that there is none.
    pub measure: &'static str,
}

impl Point {
    /// Judges figures. One in another unit than what is stated is of another quantity, whatever it was
    /// said to bear as.
    pub fn new(
        what: &'static str,
        stated: Option<Stated>,
        mut figures: Vec<Figure>,
        missing: Missing,
    ) -> Self {
        let unit = stated.map(|stated| stated.unit);
        for figure in figures.iter_mut().filter(|f| Some(f.unit) != unit) {
            figure.bearing = Bearing::Context;
        }
        Self {
            what,
            stated,
            verdict: Verdict::of(stated, &figures, missing.why),
            figures,
            measure: missing.measure,
            is_reading: false,
        }
    }

    /// As one of several readings.
    pub fn reading(self) -> Self {
        Self {
            is_reading: true,
            ..self
        }
    }

    /// Whether this engine measured it under the white paper's conditions.
    pub fn is_measured(&self) -> bool {
        let judges = |bearing| !matches!(bearing, Bearing::Comparable | Bearing::Context);
        let mut figures = self.figures.iter();
        figures.any(|figure| figure.is_measured() && judges(figure.bearing))
    }
}

/// A claim with its points.
pub struct Checked {
    /// Which.
    pub claim: &'static Claim,
    /// Its numbers or readings, at least one.
    pub points: Vec<Point>,
}

impl Checked {
    /// The point whose verdict is the claim's: its parts and the mildest of its readings must all hold,
    /// so the gravest of these counts.
    pub fn deciding(&self) -> &Point {
        let gravity = |point: &&Point| point.verdict.gravity();
        let readings = self.points.iter().filter(|point| point.is_reading);
        let parts = self.points.iter().filter(|point| !point.is_reading);
        let all = parts.chain(readings.min_by_key(gravity));
        let gravest = all.rev().max_by_key(gravity); // the first of equals
        gravest.expect("a check makes at least one point")
    }
}

/// Checks the claims of these ids, or all, in the ledger's order.
///
/// # Errors
/// [`Error::Request`] for an unknown id.
pub fn check(ids: &[String], grounds: &Grounds) -> Result<Vec<Checked>> {
    let is = |claim: &Claim, id: &String| claim.id.eq_ignore_ascii_case(id.trim());
    for id in ids {
        if !LEDGER.iter().any(|claim| is(claim, id)) {
            let (first, last) = (LEDGER[0].id, LEDGER[LEDGER.len() - 1].id);
            let text = format!("unknown claim `{id}`: there are {first} to {last}");
            return Err(Error::Request(text));
        }
    }
    let asked = |claim: &&Claim| ids.is_empty() || ids.iter().any(|id| is(claim, id));
    let checked = LEDGER.iter().filter(asked).map(|claim| {
        Ok(Checked {
            claim,
            points: (claim.check)(grounds)?,
        })
    });
    checked.collect()
}
