//! W3 and W7: what batches do, and which fit.

use super::latency::{SDXL, STEPS};
use crate::claims::figure::{Bearing, Figure, Stated, Unit};
use crate::claims::grounds::{Grounds, HALF, INT8, bound_s, flops, peak_gb};
use crate::claims::published::{
    MLPERF, MLPERF_B200, MLPERF_BATCH, MLPERF_BATCH_SHARE, MLPERF_H100, MLPERF_H200,
};
use crate::claims::source::{Source, Sourced};
use crate::claims::{Missing, Point};
use crate::error::Result;
use crate::request::{Dtype, Precision, Request};

/// The stress test's batch, and the largest of dynamic batching.
const BATCH: usize = 64;
/// The smallest of it.
const LEAST: usize = 4;

const MOST: Stated = Stated {
    text: "64",
    unit: Unit::Images,
};

const MEASURE: &str = "on an H800 or H100: darkroom bench --model sdxl-base --size 1024 --batch \
                       1,4,8,16,32,64 --dtype bf16 --device cuda --json h800.jsonl";

/// Whether the batch fits, and the 2.8 s of W1 as its time and as the time of an image in it.
pub fn w3(grounds: &Grounds) -> Result<Vec<Point>> {
    let batch = grounds.sdxl(STEPS[0], BATCH, HALF)?;
    let needed = flops(&batch) / SDXL.value() / grounds.h800.peaks.of(Dtype::F16);
    let bound = bound_s(&batch, &grounds.h800);
    let at_least = |what, seconds| {
        let figure = Figure::forecast(what, seconds, Unit::Seconds, "h800");
        figure.bears(Bearing::AtLeast)
    };
    let what = "share of an H800's FP16 peak that it would take";
    let mut whole = vec![
        at_least("least time of a batch of 64 at 20 steps", bound),
        Figure::arithmetic(what, 100.0 * needed, Unit::Percent),
    ];
    let mut each = vec![at_least(
        "least time an image in a batch of 64 at 20 steps",
        bound / BATCH as f64,
    )];
    let [first, _, last] = MLPERF_H100;
    for (what, rate) in [
        ("an image, H100 v4.0, 20 steps", first),
        ("H100 v5.1, fp8", last),
        ("H200", MLPERF_H200),
        ("B200", MLPERF_B200),
    ] {
        let figure = Figure::computed(what, 1.0 / rate, Unit::Seconds, MLPERF);
        each.push(figure.bears(Bearing::Comparable));
    }
    each.push(Figure::published(
        "throughput of batch 32 over batch 8, H100, at most",
        1.06,
        Unit::Ratio,
        MLPERF,
    ));
    let of_batch = |run: &Sourced| match run.run.request.count == BATCH {
        true => run.seconds_per_image(),
        false => None,
    };
    let same = (
        Bearing::Same,
        Sourced::is_whole_image as fn(&Sourced) -> bool,
    );
    whole.extend(
        grounds.measured(("a batch of 64", Unit::Seconds), same, |run| {
            Some(BATCH as f64 * of_batch(run)?)
        }),
    );
    let what = ("an image in a batch of 64", Unit::Seconds);
    each.extend(grounds.measured(what, same, of_batch));
    for gain in grounds.gains(more_at_once) {
        let what = format!(
            "throughput over that of batch 1, {}",
            gain.after.conditions()
        );
        each.push(Figure::measured(what, gain.times, Unit::Ratio, gain.after));
    }
    let missing = |why| Missing {
        why,
        measure: MEASURE,
    };
    let fits = vec![room(grounds, HALF, "half precision")?];
    Ok(vec![
        Point::new(
            "a batch of 64 fits",
            Some(MOST),
            fits,
            missing("no memory of an H800 is given"),
        ),
        Point::new(
            "2.8 s as the time of a batch of 64",
            Some(SDXL),
            whole,
            missing("no batch of 64 on an H800 or H100 is given"),
        )
        .reading(),
        Point::new(
            "2.8 s as the time of an image in it",
            Some(SDXL),
            each,
            missing("no number of steps is stated, and no batch of 64 on an H800 or H100 is given"),
        )
        .reading(),
    ])
}

/// How many images an H800 has room for.
fn room(grounds: &Grounds, precision: Precision, words: &str) -> Result<Figure> {
    let at_once = grounds.largest_batch(precision)? as f64;
    let what = format!("images of 1024x1024 that fit at once into an H800, {words}");
    Ok(Figure::plan(what, at_once, Unit::Images).bears(Bearing::Room))
}

/// Whether the second is the first with more images than one.
fn more_at_once(a: &Request, b: &Request) -> bool {
    let changed = Request {
        count: b.count,
        ..a.clone()
    };
    a.count == 1 && b.count > 1 && changed == *b
}

/// Of runs that differ in their batch alone, the smallest batch with 94 % of the best throughput.
fn enough(grounds: &Grounds) -> Vec<Figure> {
    let alone = grounds.runs.iter().filter(|run| run.run.request.count == 1);
    let smallest = alone.filter_map(|one| {
        let mut rates = vec![(1, 1.0, one)];
        let larger = grounds
            .gains(|before, after| before == &one.run.request && more_at_once(before, after));
        rates.extend(
            larger
                .iter()
                .map(|gain| (gain.after.run.request.count, gain.times, gain.after)),
        );
        rates.sort_by_key(|(batch, ..)| *batch);
        let best = rates.iter().map(|(_, rate, _)| *rate).fold(0.0, f64::max);
        let enough = rates
            .iter()
            .find(|(_, rate, _)| *rate >= MLPERF_BATCH_SHARE * best);
        let &(batch, _, run) = enough.filter(|_| rates.len() > 1)?;
        let what = format!(
            "batch that has 94 % of the best throughput, {}",
            run.conditions()
        );
        Some(Figure::measured(what, batch as f64, Unit::Images, run))
    });
    smallest.collect()
}

/// Which batches fit; beside it, which are worth it.
pub fn w7(grounds: &Grounds) -> Result<Vec<Point>> {
    let mut figures = Vec::new();
    for (precision, words) in [(HALF, "half precision"), (INT8, "an int8 UNet")] {
        figures.push(room(grounds, precision, words)?);
        for batch in [LEAST, BATCH] {
            let gb = peak_gb(&grounds.sdxl(1, batch, precision)?);
            let what = format!("memory of a batch of {batch}, {words}");
            figures.push(Figure::plan(what, gb, Unit::Gigabytes));
        }
    }
    figures.push(Figure::published(
        "batch that larger ones gain at most 6 % over, H100: a reason not to fill the memory",
        MLPERF_BATCH as f64,
        Unit::Images,
        MLPERF,
    ));
    figures.extend(enough(grounds));
    let bound = |batch| -> Result<f64> {
        Ok(bound_s(&grounds.sdxl(STEPS[1], batch, HALF)?, &grounds.h800) / batch as f64)
    };
    let most = bound(BATCH)?;
    for batch in [1, MLPERF_BATCH] {
        figures.push(Figure::forecast(
            format!("throughput of batch {batch} over batch 64, at the device's limits"),
            100.0 * most / bound(batch)?,
            Unit::Percent,
            "h800",
        ));
    }
    let missing = Missing {
        why: "no memory of an H800 is given",
        measure: MEASURE,
    };
    Ok(vec![Point::new(
        "batches of 4 to 64 fit",
        Some(MOST),
        figures,
        missing,
    )])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::grounds::tests::grounds;

    #[test]
    fn a_batch_of_64_in_the_time_stated_is_beyond_the_peak() {
        let points = w3(&grounds()).expect("a check");
        // 64 × (20 × 2 × 6.76 + 10.5) TFLOP = 17,980; in 2.8 s 6.42 PFLOP/s; of 0.9894: 649 %.
        let needed = &points[1].figures[1];
        assert!((needed.value - 649.0).abs() < 6.0, "{needed:?}");
        let names: Vec<&str> = points.iter().map(|p| p.verdict.name()).collect();
        assert_eq!(names, ["reproduced", "contradicted", "not testable here"]);
        // sdxl-base-256-bf16.txt: 0.0569 images/s over 0.0480.
        let gain = points[2].figures.iter().find(|f| f.is_measured());
        assert!((gain.expect("two runs").value - 1.187).abs() < 1e-3);
    }

    #[test]
    fn sixty_four_fit_and_what_mlperf_found_judges_nothing() {
        let point = &w7(&grounds()).expect("a check")[0];
        assert_eq!(point.verdict.name(), "reproduced");
        // 85.5 GB hold 6.94 GB of weights and 0.280 GB, an eighth of them for gaps, for each of 281 images.
        let by = point.verdict.figure().expect("the plan's");
        assert!((by.value - 281.0).abs() <= 2.0, "{by:?}");
        // sdxl-base-256-bf16: one image at a time has 1 / 1.187 = 84 % of the throughput of two.
        let measured = point.figures.iter().find(|f| f.is_measured());
        assert_eq!(measured.expect("two runs").value, 2.0);
        let judges = |f: &&Figure| f.bearing != Bearing::Context;
        assert_eq!(point.figures.iter().filter(judges).count(), 2);
    }
}
