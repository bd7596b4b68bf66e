//! `--plot`: the drift by step, the pictures' PSNR, and the memory of both.

use plotters::backend::DrawingBackend;

use crate::cli::plot;
use crate::cli::plot::canvas::{
    Anchor, BLACK, Canvas, Drawn, FORECAST, Frame, GREY, LIGHT, MEASURED, round_numbers,
};
use crate::cli::units::bytes;
use crate::validate::ledger::{Bytes, Ledger, Likeness, Pair};

const WIDTH: f64 = 1080.0;
const HEIGHT: f64 = 330.0;

/// A ledger's picture.
pub struct Picture<'a>(pub &'a Ledger);

impl plot::Picture for Picture<'_> {
    fn size(&self) -> (f64, f64) {
        (WIDTH, HEIGHT)
    }

    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<'_, DB>) -> Drawn<DB> {
        let ledger = self.0;
        let request = &ledger.request;
        let heading = format!(
            "{} in {}: {}x{}, {} steps, {} runs",
            ledger.models.twin.name,
            ledger.scheme.name(),
            request.height_px,
            request.width_px,
            request.steps,
            ledger.quality.runs.len()
        );
        canvas.text(&heading, (16.0, 18.0), 14.0, BLACK, Anchor::Start)?;
        let frame = |left, right| Frame {
            left,
            right,
            top: 66.0,
            bottom: HEIGHT - 42.0,
        };
        drift(canvas, frame(56.0, 356.0), ledger)?;
        psnr(canvas, frame(420.0, 680.0), ledger)?;
        memory(canvas, frame(760.0, WIDTH - 20.0), ledger)
    }
}

/// Ticks at round numbers up to the end of an axis.
fn ticks(most: f64) -> Vec<(f64, String)> {
    let places = |number: &f64| (0..4).find(|&p| (number * 10f64.powi(p)).fract().abs() < 1e-6);
    let numbers = round_numbers(most, 10.0);
    let places = numbers.iter().map(|n| places(n).unwrap_or(4)).max();
    let places = places.unwrap_or(0) as usize;
    let tick = |number: f64| (number / most, format!("{number:.places$}"));
    numbers.into_iter().map(tick).collect()
}

/// The median and the worst run after each step.
fn drift<DB: DrawingBackend>(canvas: &Canvas<'_, DB>, frame: Frame, ledger: &Ledger) -> Drawn<DB> {
    let drift = &ledger.quality.drift;
    let most = drift
        .iter()
        .map(|d| d.worst)
        .fold(f64::MIN_POSITIVE, f64::max)
        * 1.1;
    frame.axes(canvas, "drift of the latents", &ticks(most))?;
    frame.legend(canvas, &[("median", MEASURED), ("worst run", FORECAST)])?;
    let steps = drift.len() as f64;
    let at = |i: usize, value: f64| frame.at((i as f64 + 0.5) / steps, value / most);
    let line =
        |of: &dyn Fn(usize) -> f64| (0..drift.len()).map(|i| at(i, of(i))).collect::<Vec<_>>();
    for (points, color) in [
        (line(&|i| drift[i].worst), FORECAST),
        (line(&|i| drift[i].median), MEASURED),
    ] {
        canvas.line(&points, 1.5, color)?;
        for (x, y) in points {
            canvas.fill([(x - 2.0, y - 2.0), (x + 2.0, y + 2.0)], color)?;
        }
    }
    for step in round_numbers(steps, 10.0) {
        let step = step.round() as usize;
        if step > 0 {
            let (x, y) = at(step - 1, 0.0);
            canvas.text(
                &step.to_string(),
                (x, y + 13.0),
                11.0,
                BLACK,
                Anchor::Middle,
            )?;
        }
    }
    below(canvas, frame, "after step")
}

/// Words below a diagram's axis.
fn below<DB: DrawingBackend>(canvas: &Canvas<'_, DB>, frame: Frame, words: &str) -> Drawn<DB> {
    let (middle, bottom) = frame.at(0.5, 0.0);
    canvas.text(words, (middle, bottom + 29.0), 11.0, BLACK, Anchor::Middle)
}

/// Bars of a histogram.
const BARS: usize = 16;

/// Least and width of the bars' range, and how many pictures each has.
fn histogram(runs: &[Likeness]) -> (f64, f64, [usize; BARS]) {
    let values = || runs.iter().map(|run| run.psnr_db);
    let least = values().fold(f64::INFINITY, f64::min).floor();
    let most = values().fold(f64::NEG_INFINITY, f64::max).floor() + 1.0;
    let range = most - least;
    let mut bars = [0; BARS];
    for value in values() {
        let bar = (value - least) / range * BARS as f64;
        bars[(bar as usize).min(BARS - 1)] += 1;
    }
    (least, range, bars)
}

/// How many pictures have which PSNR, and their median.
fn psnr<DB: DrawingBackend>(canvas: &Canvas<'_, DB>, frame: Frame, ledger: &Ledger) -> Drawn<DB> {
    let quality = &ledger.quality;
    let (least, range, bars) = histogram(&quality.runs);
    let most = bars.iter().copied().max().unwrap_or(0) as f64 * 1.1;
    let whole = round_numbers(most, 10.0).into_iter();
    let whole = whole.filter(|count| count.fract() < 1e-9);
    let whole: Vec<_> = whole.map(|n| (n / most, format!("{n:.0}"))).collect();
    frame.axes(canvas, "pictures by PSNR", &whole)?;
    frame.legend(canvas, &[("median", FORECAST)])?;
    for (i, &count) in bars.iter().enumerate() {
        let x = |edge: f64| (i as f64 + edge) / BARS as f64;
        let corners = [
            frame.at(x(0.08), 0.0),
            frame.at(x(0.92), count as f64 / most),
        ];
        canvas.fill(corners, MEASURED)?;
    }
    let (x, _) = frame.at((quality.psnr_db.median - least) / range, 0.0);
    canvas.line(&[(x, frame.top), (x, frame.bottom)], 1.5, FORECAST)?;
    for share in [0.0, 0.5, 1.0] {
        let (x, y) = frame.at(share, 0.0);
        let label = format!("{}", least + share * range);
        canvas.text(&label, (x, y + 13.0), 11.0, BLACK, Anchor::Middle)?;
    }
    below(canvas, frame, "dB")
}

/// Both models' weights and highest heap.
fn memory<DB: DrawingBackend>(canvas: &Canvas<'_, DB>, frame: Frame, ledger: &Ledger) -> Drawn<DB> {
    let memory = &ledger.memory;
    let all = Pair {
        twin: memory.components.iter().map(|c| c.memory.twin.best()).sum(),
        int8: memory.components.iter().map(|c| c.memory.int8.best()).sum(),
    };
    let load = memory
        .stages
        .first()
        .map(|stage| stage.peak.map(Bytes::best));
    let groups = [
        ("UNet's weights", memory.unet().unwrap_or_default()),
        ("all weights", all),
        ("peak of loading", load.unwrap_or_default()),
        ("peak of all", memory.peak()),
    ];
    let highest = groups
        .iter()
        .map(|(_, pair)| pair.twin.max(pair.int8))
        .max();
    let most = highest.unwrap_or(1).max(1) as f64 * 1.12;
    let label = |number: f64| match number {
        0.0 => "0".to_owned(),
        number => bytes(number as u64).replace(".00", ""),
    };
    let tick = |number: f64| (number / most, label(number));
    let ticks: Vec<_> = round_numbers(most, 2.0).into_iter().map(tick).collect();
    frame.axes(canvas, "memory", &ticks)?;
    frame.legend(canvas, &[("unquantised", LIGHT), ("int8", MEASURED)])?;
    let slot = 1.0 / groups.len() as f64;
    for (i, (name, pair)) in groups.iter().enumerate() {
        for (from, figure, color) in [(0.12, pair.twin, LIGHT), (0.52, pair.int8, MEASURED)] {
            let x = |share: f64| (i as f64 + share) * slot;
            let top = figure as f64 / most;
            canvas.fill(
                [frame.at(x(from), 0.0), frame.at(x(from + 0.36), top)],
                color,
            )?;
        }
        let (x, y) = frame.at((i as f64 + 0.5) * slot, 0.0);
        canvas.text(name, (x, y + 13.0), 9.0, BLACK, Anchor::Middle)?;
        let share = pair.saved().map_or(String::new(), |saved| {
            format!("{:.0} % saved", saved * 100.0)
        });
        canvas.text(&share, (x, y + 27.0), 9.0, GREY, Anchor::Middle)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_picture_is_in_one_bar() {
        let run = |psnr_db: f64| Likeness {
            prompt: String::new(),
            seed: 0,
            drift: Vec::new(),
            psnr_db,
            ssim: 1.0,
            ssimulacra2: 100.0,
        };
        let (least, range, bars) = histogram(&[30.0, 33.5, 45.99, 46.0].map(run));
        assert_eq!((least, range), (30.0, 17.0));
        assert_eq!(
            (bars[0], bars[3], bars[15], bars.iter().sum()),
            (1, 1, 2, 4)
        );
        assert_eq!(histogram(&[30.0].map(run)).2[0], 1);
    }

    #[test]
    fn ticks_have_as_many_places_as_they_need() {
        let labels = |most| ticks(most).into_iter().map(|(_, l)| l).collect::<Vec<_>>();
        assert_eq!(labels(0.011), ["0.000", "0.005", "0.010"]);
        assert_eq!(labels(9.0), ["0", "2", "4", "6", "8"]);
    }
}
