//! What samples say: quantiles, the interval of a median, and whether two sets of samples differ beyond
//! their noise.

use serde::{Deserialize, Serialize};

/// Samples a side below which nothing can be said about noise.
pub const MIN_SAMPLES: usize = 3;

/// The chance that is taken of calling two equal sets different, or of an interval that misses.
const ALPHA: f64 = 0.05;

/// Samples a side up to which the rank statistic's distribution is computed rather than taken for
/// normal.
const EXACT_SAMPLES: usize = 40;

/// The `q`-quantile (0…1) of the values, linearly between neighbours as numpy has it; `None` of no
/// values.
pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(below + (above - below) * at.fract())
}

/// Where a median lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Its confidence: at least 0.95, or less where so few samples allow no more.
    pub confidence: f64,
}

/// The interval between two of the ordered samples that holds the median of what they were drawn
/// from, whatever its distribution; `None` with fewer than [`MIN_SAMPLES`].
///
/// Each sample lies below the median with a chance of one half, so how many do is binomial, and the
/// confidence is exact (Thompson 1936; David and Nagaraja, "Order Statistics", 7.1).
pub fn median_interval(values: &[f64]) -> Option<Interval> {
    let n = values.len();
    if n < MIN_SAMPLES {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    // The logarithm of the chance of `i` samples below the median, so that 2⁻ⁿ does not underflow.
    let mut ln_chance = -(n as f64) * std::f64::consts::LN_2;
    let (mut outside, mut tail) = (0, ln_chance.exp());
    for i in 0..n / 2 {
        ln_chance += ((n - i) as f64 / (i + 1) as f64).ln();
        if 2.0 * (tail + ln_chance.exp()) > ALPHA {
            break;
        }
        outside = i + 1;
        tail += ln_chance.exp();
    }
    Some(Interval {
        low: sorted[outside],
        high: sorted[n - 1 - outside],
        confidence: 1.0 - 2.0 * tail,
    })
}

/// How many times as large one set's values are as another's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// The interval's confidence: 0.95, or less where so few samples allow no more (0.9 of three and
    /// three).
    pub confidence: f64,
}

impl Ratio {
    /// Whether the sets differ beyond their noise.
    pub fn differs(&self) -> bool {
        !(self.low..=self.high).contains(&1.0)
    }
}

/// The interval of `after / before` that the samples' ranks allow, whatever their distribution;
/// `None` with fewer than [`MIN_SAMPLES`] a side. It excludes 1 exactly where the Mann-Whitney test
/// calls the sets different. All samples are above 0.
///
/// Source: Hodges and Lehmann 1963, Moses 1965: the interval of a shift from ordered pairwise
/// differences, here of logarithms.
pub fn ratio(before: &[f64], after: &[f64]) -> Option<Ratio> {
    let (n, m) = (before.len(), after.len());
    if n.min(m) < MIN_SAMPLES {
        return None;
    }
    let mut ratios: Vec<f64> = before
        .iter()
        .flat_map(|b| after.iter().map(move |a| a / b))
        .collect();
    ratios.sort_by(f64::total_cmp);
    let (outside, confidence) = cut(n, m);
    Some(Ratio {
        low: ratios[outside],
        high: ratios[ratios.len() - 1 - outside],
        confidence,
    })
}

/// How many of the n·m ordered ratios lie outside the interval on either side, and its confidence.
fn cut(n: usize, m: usize) -> (usize, f64) {
    if n.max(m) > EXACT_SAMPLES {
        let (n, m) = (n as f64, m as f64);
        let deviation = (n * m * (n + m + 1.0) / 12.0).sqrt();
        let z = 1.96; // of the normal distribution, for ALPHA
        return ((n * m / 2.0 - z * deviation) as usize, 1.0 - ALPHA);
    }
    let chances = rank_chances(n, m);
    let (mut outside, mut tail) = (0, chances[0]);
    while 2.0 * (tail + chances[outside + 1]) <= ALPHA {
        outside += 1;
        tail += chances[outside];
    }
    (outside, 1.0 - 2.0 * tail)
}

/// The chance of each value of the Mann-Whitney statistic between equal sets of `n` and `m`. The
/// largest value is of the one set (n of n + m chances) and beats all `m` of the other, or it is not.
fn rank_chances(n: usize, m: usize) -> Vec<f64> {
    // rows[j]: of i and j samples, for the current i.
    let mut rows: Vec<Vec<f64>> = vec![vec![1.0]; m + 1];
    for i in 1..=n {
        let mut next: Vec<Vec<f64>> = vec![vec![1.0]];
        for j in 1..=m {
            let mut chances = vec![0.0; i * j + 1];
            let of_i = i as f64 / (i + j) as f64;
            for (u, chance) in rows[j].iter().enumerate() {
                chances[u + j] += of_i * chance;
            }
            for (u, chance) in next[j - 1].iter().enumerate() {
                chances[u] += (1.0 - of_i) * chance;
            }
            next.push(chances);
        }
        rows = next;
    }
    rows.swap_remove(m)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{NoiseSource, TorchCpu};

    #[test]
    fn quantiles_lie_between_neighbours() {
        let values = [4.0, 1.0, 3.0, 2.0];
        for (q, expected) in [(0.0, 1.0), (0.5, 2.5), (0.95, 3.85), (1.0, 4.0)] {
            let found = quantile(&values, q).expect("four values");
            assert!((found - expected).abs() < 1e-12, "{q}: {found}");
        }
        assert_eq!(quantile(&[7.0], 0.95), Some(7.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn a_medians_interval_is_the_published_one() {
        // The ranks that tables of the sign test give at 95 %, and their true confidence.
        for (n, rank, confidence) in [
            (6, 1, 0.9688),
            (10, 2, 0.9785),
            (20, 6, 0.9586),
            (50, 18, 0.9672),
        ] {
            let values: Vec<f64> = (1..=n).rev().map(f64::from).collect();
            let found = median_interval(&values).expect("samples enough");
            assert_eq!(
                (found.low, found.high),
                (rank.into(), (n + 1 - rank).into())
            );
            assert!((found.confidence - confidence).abs() < 5e-5, "{found:?}");
        }
        let three = median_interval(&[3.0, 1.0, 2.0]).expect("three");
        assert_eq!((three.low, three.high, three.confidence), (1.0, 3.0, 0.75));
        assert_eq!(median_interval(&[1.0, 2.0]), None);
        let many: Vec<f64> = (0..20_000).map(f64::from).collect();
        let found = median_interval(&many).expect("many");
        // The normal approximation: 10,000 ± 1.96 · √20,000 / 2.
        assert!(
            (found.low - 9_861.0).abs() < 3.0 && (0.95..0.952).contains(&found.confidence),
            "{found:?}"
        );
    }

    #[test]
    fn rank_chances_are_the_published_ones() {
        // Three and three: 20 arrangements, counted 1 1 2 3 3 3 3 2 1 1.
        let counts: Vec<f64> = rank_chances(3, 3).iter().map(|c| c * 20.0).collect();
        for (found, expected) in counts
            .iter()
            .zip([1., 1., 2., 3., 3., 3., 3., 2., 1., 1.0_f64])
        {
            assert!((found - expected).abs() < 1e-12, "{counts:?}");
        }
        // Mann and Whitney's tables: critical U at 5 % of both sides, 5 and 5: 2; 8 and 10: 17.
        assert_eq!(cut(5, 5).0, 2);
        assert_eq!(cut(8, 10).0, 17);
        let (exact, normal) = (cut(40, 40).0, cut(41, 41).0);
        assert!((normal as f64 / exact as f64 - 1.0).abs() < 0.1);
    }

    #[test]
    fn few_samples_promise_less_and_too_few_nothing() {
        let three = ratio(&[1.0, 1.1, 1.2], &[2.0, 2.1, 2.2]).expect("three samples");
        assert!((three.confidence - 0.9).abs() < 1e-12 && three.differs());
        assert!((three.low - 2.0 / 1.2).abs() < 1e-12 && (three.high - 2.2).abs() < 1e-12);
        assert_eq!(ratio(&[1.0, 1.0], &[2.0, 2.0, 2.0]), None);
    }

    #[test]
    fn what_overlaps_or_equals_is_not_called_different() {
        let a = [10.0, 10.4, 9.9, 10.2, 13.0];
        assert!(!ratio(&a, &a).expect("five").differs());
        assert!(!ratio(&[5.0; 4], &[5.0; 4]).expect("four").differs());
        // One outlier in an otherwise equal run.
        let b = [10.1, 10.3, 9.8, 40.0, 10.2];
        assert!(!ratio(&a, &b).expect("five").differs());
        // Faster beyond the noise counts as a difference too.
        let fast = a.map(|ms| ms * 0.7);
        let found = ratio(&a, &fast).expect("five");
        assert!(found.differs() && found.high < 1.0);
    }

    /// Equal sets are called different as rarely as promised, and a shift of two deviations is found
    /// nearly always.
    #[test]
    fn the_promise_holds_on_random_samples() {
        let mut noise = TorchCpu::new(1);
        let mut called = |shift: f64| {
            let runs = 400;
            let mut set = |shift: f64| -> Vec<f64> {
                let deviations = noise.randn(8).into_iter();
                deviations.map(|x| 100.0 + shift + f64::from(x)).collect()
            };
            let differs = |_: &usize| ratio(&set(0.0), &set(shift)).expect("eight").differs();
            (0..runs).filter(differs).count() as f64 / f64::from(400)
        };
        let (equal, apart) = (called(0.0), called(2.0));
        assert!(equal < 0.08 && apart > 0.9, "{equal} {apart}");
    }
}
