//! Wall-clock time by stage and step.

use std::time::Instant;

use crate::error::Result;
use crate::observe::{Event, Observer, Stage};

/// The time one stage took. A stage that ran more than once is summed up.
#[derive(Clone, Debug, PartialEq)]
pub struct StageTime {
    /// Which stage.
    pub stage: Stage,
    /// From its beginning to its end.
    pub total_ms: f64,
    /// Each of its steps, in order.
    pub steps_ms: Vec<f64>,
}

/// Observer that keeps the time of every stage and step.
///
/// It reads the host's clock at each event: on a device that runs behind the host, the pipeline has
/// to wait for the device before it announces an end.
#[derive(Debug, Default)]
pub struct StageTimer {
    done: Vec<StageTime>,
    stage_began: Option<Instant>,
    step_began: Option<Instant>,
}

impl StageTimer {
    /// The stages so far, in the order in which they first began.
    pub fn stages(&self) -> &[StageTime] {
        &self.done
    }

    /// One stage, if it ran.
    pub fn stage(&self, stage: Stage) -> Option<&StageTime> {
        self.done.iter().find(|time| time.stage == stage)
    }

    fn entry(&mut self, stage: Stage) -> &mut StageTime {
        let index = self
            .done
            .iter()
            .position(|time| time.stage == stage)
            .unwrap_or_else(|| {
                self.done.push(StageTime {
                    stage,
                    total_ms: 0.0,
                    steps_ms: Vec::new(),
                });
                self.done.len() - 1
            });
        &mut self.done[index]
    }
}

impl Observer for StageTimer {
    fn on(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::StageBegin { stage, .. } => {
                self.entry(stage);
                self.stage_began = Some(Instant::now());
            }
            Event::StepBegin { .. } => self.step_began = Some(Instant::now()),
            Event::StepEnd { stage, .. } => {
                if let Some(began) = self.step_began.take() {
                    self.entry(stage).steps_ms.push(elapsed_ms(began));
                }
            }
            Event::StageEnd { stage } => {
                if let Some(began) = self.stage_began.take() {
                    self.entry(stage).total_ms += elapsed_ms(began);
                }
            }
            Event::Retry { .. } | Event::Tensor { .. } => {}
        }
        Ok(())
    }
}

fn elapsed_ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::observe::{stage, step};

    #[test]
    fn sums_a_stage_that_runs_twice_and_keeps_each_step() -> Result<()> {
        let mut timer = StageTimer::default();
        let pause = || {
            std::thread::sleep(Duration::from_millis(3));
            Ok(())
        };
        for _ in 0..2 {
            stage(&mut timer, Stage::Denoise, 2, |observer| {
                step(observer, Stage::Denoise, 0, |_| pause())?;
                step(observer, Stage::Denoise, 1, |_| pause())
            })?;
        }
        let denoise = timer.stage(Stage::Denoise).expect("it ran");
        assert_eq!(denoise.steps_ms.len(), 4);
        assert!(denoise.steps_ms.iter().all(|&ms| ms >= 3.0));
        assert!(denoise.total_ms >= denoise.steps_ms.iter().sum());
        assert_eq!(timer.stages().len(), 1);
        assert!(timer.stage(Stage::VaeEncode).is_none());
        Ok(())
    }
}
