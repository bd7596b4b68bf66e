//! From a stated number and the figures beside it to a verdict, by rules that are the same for all.
//!
//! In this order:
//!
//! 1. The white paper's own inputs give another number than it states by its own formula, beyond
//!    rounding: an arithmetic error.
//! 2. A bound lies on the wrong side of the stated number: contradicted by the bound.
//! 3. There are figures of the same quantity under the same conditions, of this engine or by arithmetic.
//!    One that this engine measured, counted or planned is within [`AGREES`]: reproduced. None is, and
//!    all are on one side: contradicted by the nearest. Else not testable, since a free condition
//!    decides.
//! 4. There is room for what is stated, by plan: reproduced.
//! 5. Else not testable here, for want of what the point names. The first figure that compares is told
//!    beside it; a check puts the most alike first.
//!
//! What others published is compared and decides nothing: a number is not reproduced by its own source,
//! nor contradicted by another stack on another device. The limits of a device's datasheet are no such
//! figures: bounds are made of them.

use serde::Serialize;

use super::figure::{Bearing, Figure, Stated};

/// Two measurements of one thing agree if they are this close: the noise between machines of one
/// kind, a tenth.
pub const AGREES: f64 = 0.10;

/// What became of a number.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Verdict {
    /// Another found it, too.
    Reproduced {
        /// The figure.
        by: Figure,
    },
    /// It cannot be judged.
    NotTestable {
        /// What is missing.
        why: String,
        /// What is told beside it.
        beside: Option<Figure>,
    },
    /// Another figure or a bound excludes it.
    Contradicted {
        /// The figure.
        by: Figure,
    },
    /// It does not follow from its own inputs.
    ArithmeticError {
        /// What follows from them.
        by: Figure,
    },
}

impl Verdict {
    /// Judges a stated number; `why` says what is missing where nothing decides.
    pub fn of(stated: Option<Stated>, figures: &[Figure], why: &str) -> Self {
        let untestable = |beside: Option<&Figure>| Self::NotTestable {
            why: why.to_owned(),
            beside: beside.cloned(),
        };
        let Some(stated) = stated else {
            return untestable(figures.first());
        };
        let value = stated.value();
        let distance = |figure: &&Figure| (figure.value / value).ln().abs();
        let nearest = |a: &&Figure, b: &&Figure| distance(a).total_cmp(&distance(b));
        let of = |bearing: Bearing| {
            let alike = figures.iter().filter(move |f| f.is_like(stated));
            alike.filter(move |f| f.bearing == bearing)
        };

        let wrong =
            of(Bearing::OwnArithmetic).find(|f| (f.value - value).abs() > stated.rounding());
        if let Some(by) = wrong.cloned() {
            return Self::ArithmeticError { by };
        }
        let mut bounds = of(Bearing::AtLeast)
            .filter(|f| f.value > value)
            .chain(of(Bearing::AtMost).filter(|f| f.value < value))
            .chain(of(Bearing::Room).filter(|f| f.value < value));
        if let Some(by) = bounds.next().cloned() {
            return Self::Contradicted { by };
        }
        let same = || of(Bearing::Same).filter(|f| !f.basis.is_of_others());
        let agrees = |f: &&Figure| (f.value / value - 1.0).abs() <= AGREES;
        let own = same().filter(|f| f.basis.is_own());
        if let Some(by) = own.filter(agrees).min_by(nearest).cloned() {
            return Self::Reproduced { by };
        }
        if let Some(by) = same().min_by(nearest) {
            let above = same().filter(|f| f.value > value).count();
            return match !agrees(&by) && (above == 0 || above == same().count()) {
                true => Self::Contradicted { by: by.clone() },
                false => untestable(Some(by)),
            };
        }
        if let Some(by) = of(Bearing::Room).min_by(nearest).cloned() {
            return Self::Reproduced { by };
        }
        let mut alike = of(Bearing::OwnArithmetic).chain(of(Bearing::Comparable));
        untestable(alike.next().or(figures.first()))
    }

    /// From the mildest to the gravest.
    pub fn gravity(&self) -> usize {
        match self {
            Self::Reproduced { .. } => 0,
            Self::NotTestable { .. } => 1,
            Self::Contradicted { .. } => 2,
            Self::ArithmeticError { .. } => 3,
        }
    }

    /// `reproduced`, `contradicted` …
    pub fn name(&self) -> &'static str {
        match self {
            Self::Reproduced { .. } => "reproduced",
            Self::NotTestable { .. } => "not testable here",
            Self::Contradicted { .. } => "contradicted",
            Self::ArithmeticError { .. } => "arithmetic error",
        }
    }

    /// The figure that decided, or is told beside.
    pub fn figure(&self) -> Option<&Figure> {
        match self {
            Self::Reproduced { by } | Self::Contradicted { by } | Self::ArithmeticError { by } => {
                Some(by)
            }
            Self::NotTestable { beside, .. } => beside.as_ref(),
        }
    }

    /// How far that figure is from what was stated, in words.
    pub fn difference(&self, stated: Option<Stated>) -> Option<String> {
        self.figure()?.difference(stated)
    }

    /// What the verdict rests on, with its numbers.
    pub fn reason(&self, stated: Option<Stated>) -> String {
        let figure = self.figure().map(|f| {
            let off = self
                .difference(stated)
                .map_or_else(String::new, |off| format!("{off}; "));
            format!("{} = {} ({off}{})", f.what, f.words(), f.basis.words())
        });
        match (self, figure) {
            (Self::NotTestable { why, .. }, None) => why.clone(),
            (Self::NotTestable { why, .. }, Some(figure)) => format!("{why}; beside it: {figure}"),
            (Self::ArithmeticError { .. }, figure) => figure.unwrap_or_default(),
            (_, figure) => format!("by {}", figure.unwrap_or_default()),
        }
    }

    /// The verdict in a sentence with its numbers.
    pub fn words(&self, stated: Option<Stated>) -> String {
        format!("{}: {}", self.name(), self.reason(stated))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::figure::Unit;

    const STATED: Stated = Stated {
        text: "4.9",
        unit: Unit::Ratio,
    };

    fn judged(figures: &[(f64, Bearing)]) -> Verdict {
        let figure = |&(value, bearing): &(f64, Bearing)| {
            Figure::counted("it", value, Unit::Ratio).bears(bearing)
        };
        let figures: Vec<Figure> = figures.iter().map(figure).collect();
        Verdict::of(Some(STATED), &figures, "nobody knows")
    }

    #[test]
    fn verdicts_follow_from_numbers() {
        use Bearing::*;
        for (figures, name, difference) in [
            (
                &[(5.0, OwnArithmetic)][..],
                "arithmetic error",
                Some("+2.0 %"),
            ),
            // Within rounding, arithmetic decides nothing.
            (
                &[(4.94, OwnArithmetic)],
                "not testable here",
                Some("+0.8 %"),
            ),
            (
                &[(4.94, OwnArithmetic), (3.0, AtMost)],
                "contradicted",
                Some("-38.8 %"),
            ),
            (
                &[(3.0, AtLeast), (9.8, AtMost)],
                "not testable here",
                Some("-38.8 %"),
            ),
            (&[(9.8, AtLeast)], "contradicted", Some("+100.0 %")),
            (&[(5.3, Same), (50.0, Same)], "reproduced", Some("+8.2 %")),
            (
                &[(7.35, Same), (50.0, Same)],
                "contradicted",
                Some("+50.0 %"),
            ),
            (
                &[(2.45, Same), (50.0, Same)],
                "not testable here",
                Some("-50.0 %"),
            ),
            (&[(7.35, Room)], "reproduced", Some("+50.0 %")),
            (&[(2.45, Room)], "contradicted", Some("-50.0 %")),
            (
                &[(1.0, Context), (7.35, Comparable), (98.0, Comparable)],
                "not testable here",
                Some("+50.0 %"),
            ),
            (&[(7.35, Context)], "not testable here", None),
            (&[], "not testable here", None),
        ] {
            let verdict = judged(figures);
            assert_eq!(verdict.name(), name, "{figures:?}");
            assert_eq!(
                verdict.difference(Some(STATED)).as_deref(),
                difference,
                "{figures:?}"
            );
        }
        assert_eq!(
            Verdict::of(None, &[], "no number").name(),
            "not testable here"
        );
    }

    #[test]
    fn a_figure_in_another_unit_never_judges() {
        let seconds = Figure::arithmetic("it", 9.0, Unit::Seconds).bears(Bearing::OwnArithmetic);
        let verdict = Verdict::of(Some(STATED), &[seconds], "nobody knows");
        assert_eq!(verdict.name(), "not testable here");
        assert_eq!(verdict.difference(Some(STATED)), None);
    }

    #[test]
    fn what_others_published_decides_nothing_and_arithmetic_reproduces_nothing() {
        let judged = |figure: Figure| {
            let verdict = Verdict::of(Some(STATED), &[figure.bears(Bearing::Same)], "others");
            (verdict.name(), verdict.difference(Some(STATED)))
        };
        for value in [4.9, 9.8] {
            for figure in [
                Figure::published("it", value, Unit::Ratio, "its own paper"),
                Figure::computed("it", value, Unit::Ratio, "its own paper"),
            ] {
                assert_eq!(judged(figure).0, "not testable here");
            }
        }
        let arithmetic = |value| judged(Figure::arithmetic("it", value, Unit::Ratio));
        assert_eq!(arithmetic(4.9).0, "not testable here");
        assert_eq!(arithmetic(9.8), ("contradicted", Some("+100.0 %".into())));
        assert_eq!(judged(Figure::plan("it", 5.0, Unit::Ratio)).0, "reproduced");
    }

    #[test]
    fn a_verdict_is_told_with_its_numbers() {
        assert_eq!(
            judged(&[(5.0, Bearing::OwnArithmetic)]).words(Some(STATED)),
            "arithmetic error: it = 5.00 × (+2.0 %; counted)"
        );
        assert_eq!(
            judged(&[(9.8, Bearing::Same)]).words(Some(STATED)),
            "contradicted: by it = 9.80 × (+100.0 %; counted)"
        );
        assert_eq!(
            judged(&[]).words(Some(STATED)),
            "not testable here: nobody knows"
        );
    }
}
