//! The stages' times: a bar measured, with each sample as a stroke on it, and a bar forecast.

use plotters::backend::DrawingBackend;

use crate::cli::plot::canvas::{
    Anchor, BLACK, Canvas, Drawn, FORECAST, Frame, GREY, MEASURED, round_numbers,
};
use crate::cli::units::time;
use crate::measure::record::{Run, StageRun};

/// Times that are further apart than this get a logarithmic axis.
const LINEAR_SPREAD: f64 = 20.0;

/// The vertical axis.
enum Axis {
    /// From 0 to this.
    Linear(f64),
    /// Between these powers of ten.
    Log(i32, i32),
}

impl Axis {
    fn of(stages: &[&StageRun]) -> Self {
        let times = || {
            let forecast = stages.iter().filter_map(|s| s.forecast.ms);
            let measured = stages
                .iter()
                .flat_map(|s| s.times.samples_ms.iter().copied());
            forecast.chain(measured).filter(|&ms| ms > 0.0)
        };
        let (least, most) = (
            times().fold(f64::INFINITY, f64::min),
            times().fold(f64::MIN_POSITIVE, f64::max),
        );
        match most / least > LINEAR_SPREAD {
            true => Self::Log(least.log10().floor() as i32, most.log10().ceil() as i32),
            false => Self::Linear(most * 1.15),
        }
    }

    /// The share of the axis at a time above 0.
    fn share(&self, ms: f64) -> f64 {
        match *self {
            Self::Linear(most) => ms / most,
            Self::Log(low, high) => (ms.log10() - f64::from(low)) / f64::from(high - low),
        }
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        let numbers = match *self {
            Self::Linear(most) => round_numbers(most, 10.0),
            Self::Log(low, high) => (low..=high).map(|power| 10f64.powi(power)).collect(),
        };
        let tick = |ms: f64| match ms {
            0.0 => (0.0, "0".to_owned()),
            ms => (self.share(ms), round_time(ms)),
        };
        numbers.into_iter().map(tick).collect()
    }
}

/// `10 µs`, `1 ms`, `100 s` of a round number.
fn round_time(ms: f64) -> String {
    let (number, unit) = match ms {
        ms if ms < 1.0 => (ms * 1e3, "µs"),
        ms if ms < 1e3 => (ms, "ms"),
        ms => (ms / 1e3, "s"),
    };
    // Powers of ten come out a rounding error off.
    format!("{} {unit}", (number * 1e3).round() / 1e3)
}

pub fn draw<DB: DrawingBackend>(canvas: &Canvas<'_, DB>, frame: Frame, run: &Run) -> Drawn<DB> {
    let stages: Vec<&StageRun> = run.stages.iter().collect();
    let axis = Axis::of(&stages);
    let title = match axis {
        Axis::Linear(_) => "time (median)",
        Axis::Log(..) => "time (median), logarithmic",
    };
    frame.axes(canvas, title, &axis.ticks())?;
    frame.legend(canvas, &[("measured", MEASURED), ("forecast", FORECAST)])?;
    let slot = 1.0 / stages.len().max(1) as f64;
    for (i, stage) in stages.iter().enumerate() {
        let x = |share: f64| (i as f64 + share) * slot;
        let bar = |from: f64, to: f64, ms: f64| {
            let share = axis.share(ms).max(0.0);
            [frame.at(x(from), 0.0), frame.at(x(to), share)]
        };
        let label = |from: f64, to: f64, ms: f64| {
            let [(left, _), (right, top)] = bar(from, to, ms);
            let place = ((left + right) / 2.0, top - 8.0);
            canvas.text(&time(ms), place, 9.0, BLACK, Anchor::Middle)
        };
        canvas.fill(bar(0.1, 0.48, stage.times.p50_ms), MEASURED)?;
        for &sample in &stage.times.samples_ms {
            let y = axis.share(sample).max(0.0);
            canvas.line(&[frame.at(x(0.2), y), frame.at(x(0.38), y)], 1.0, BLACK)?;
        }
        let highest = stage
            .times
            .samples_ms
            .iter()
            .fold(0.0, |a, &b| f64::max(a, b));
        let [(left, _), (right, top)] = bar(0.1, 0.48, highest);
        let above = ((left + right) / 2.0, top - 8.0);
        canvas.text(&time(stage.times.p50_ms), above, 9.0, BLACK, Anchor::Middle)?;
        if let Some(ms) = stage.forecast.ms.filter(|&ms| ms > 0.0) {
            canvas.fill(bar(0.52, 0.9, ms), FORECAST)?;
            label(0.52, 0.9, ms)?;
        }
        let (middle, bottom) = frame.at(x(0.5), 0.0);
        let name = stage.stage.name();
        canvas.text(name, (middle, bottom + 13.0), 11.0, BLACK, Anchor::Middle)?;
        if let Some(achieved) = stage.achieved() {
            let words = format!("{:.0} % achieved", achieved * 100.0);
            canvas.text(&words, (middle, bottom + 27.0), 9.0, GREY, Anchor::Middle)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_names_its_powers() {
        let ticks = Axis::Log(-1, 4).ticks();
        let labels: Vec<&str> = ticks.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s"]);
        assert_eq!((ticks[0].0, ticks[5].0), (0.0, 1.0));
    }
}
