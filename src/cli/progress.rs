//! Progress on stderr.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use candle_core::DType;

use crate::error::Result;
use crate::observe::{Event, Observer, Stage};
use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};

use super::failure::say;

/// How often a bar is redrawn while a step lasts.
const TICK: Duration = Duration::from_millis(200);

/// The progress observer for this stderr: bars on a terminal, else one line a stage.
pub fn observer(quiet: bool) -> Box<dyn Observer> {
    match (quiet, std::io::stderr().is_terminal()) {
        (true, _) => Box::new(()),
        (false, true) => Box::new(Bars::new(false)),
        (false, false) => Box::new(Lines::default()),
    }
}

/// Bars that leave no lines behind; nothing where no terminal shows them.
pub fn bars(quiet: bool) -> Box<dyn Observer> {
    match !quiet && std::io::stderr().is_terminal() {
        true => Box::new(Bars::new(true)),
        false => Box::new(()),
    }
}

/// One bar a stage.
struct Bars {
    /// Whether a finished stage leaves no line.
    passing: bool,
    bar: Option<ProgressBar>,
    began: Option<Instant>,
    steps: usize,
}

impl Bars {
    fn new(passing: bool) -> Self {
        Self {
            passing,
            bar: None,
            began: None,
            steps: 0,
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Observer for Bars {
    fn on(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::StageBegin { stage, steps } => {
                let bar = ProgressBar::new(steps as u64).with_style(style());
                bar.set_prefix(stage.name());
                bar.enable_steady_tick(TICK);
                (self.bar, self.began, self.steps) = (Some(bar), Some(Instant::now()), steps);
            }
            Event::StepEnd { .. } => {
                if let Some(bar) = &self.bar {
                    bar.inc(1);
                }
            }
            Event::StageEnd { stage } => {
                if let (Some(bar), Some(began)) = (self.bar.take(), self.began) {
                    bar.finish_and_clear();
                    if !self.passing {
                        say(&summary(stage, self.steps, began.elapsed()));
                    }
                }
            }
            Event::Retry { stage, dtype } => match &self.bar {
                Some(bar) => bar.suspend(|| say(&retry(stage, dtype))),
                None => say(&retry(stage, dtype)),
            },
            Event::StepBegin { .. } | Event::Tensor { .. } => {}
        }
        Ok(())
    }
}

/// What a user is told of a stage that is run again.
fn retry(stage: Stage, dtype: DType) -> String {
    let name = dtype.as_str();
    format!(
        "{stage}: overflowed in f16, run once more in {name}; --dtype vae={name} saves the first try"
    )
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:12} {bar:30} {pos}/{len}  {pace}")
        .expect("a constant template")
        .progress_chars("=> ")
        .with_key(
            "pace",
            |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                // A formatter that fails has nowhere to say so.
                let _ = out.write_str(&pace(state.pos(), state.per_sec(), state.eta()));
            },
        )
}

/// `16.0 steps/s  3s left`; nothing before the first step is done, when nobody can tell.
fn pace(done: u64, per_second: f64, left: Duration) -> String {
    match done > 0 && per_second > 0.0 {
        true => format!("{}  {:#} left", rate(per_second), HumanDuration(left)),
        false => String::new(),
    }
}

/// One line a stage.
#[derive(Default)]
struct Lines {
    began: Option<Instant>,
    steps: usize,
}

impl Observer for Lines {
    fn on(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::StageBegin { steps, .. } => {
                (self.began, self.steps) = (Some(Instant::now()), steps);
            }
            Event::StageEnd { stage } => {
                if let Some(began) = self.began {
                    say(&summary(stage, self.steps, began.elapsed()));
                }
            }
            Event::Retry { stage, dtype } => say(&retry(stage, dtype)),
            _ => {}
        }
        Ok(())
    }
}

/// `denoise          1.25 s  20 steps, 16.0 steps/s`; a rate only where steps are alike.
fn summary(stage: Stage, steps: usize, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let mut line = format!("{:12} {seconds:8.2} s", stage.name());
    if stage == Stage::Denoise && steps > 0 && seconds > 0.0 {
        let _ = write!(line, "  {steps} steps, {}", rate(steps as f64 / seconds));
    }
    line
}

/// Steps a second (above 0), or seconds a step where that is the larger number.
fn rate(per_second: f64) -> String {
    match per_second >= 1.0 {
        true => format!("{per_second:.1} steps/s"),
        false => format!("{:.1} s/step", 1.0 / per_second),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_well() {
        assert_eq!(rate(16.04), "16.0 steps/s");
        assert_eq!(rate(0.25), "4.0 s/step");
        style(); // its template parses
    }

    #[test]
    fn nothing_is_foretold_before_the_first_step() {
        assert_eq!(pace(0, 0.0, Duration::ZERO), "");
        assert_eq!(pace(0, 3.0, Duration::from_secs(9)), "");
        assert_eq!(pace(1, 0.5, Duration::from_secs(9)), "2.0 s/step  9s left");
    }
}
