//! Which training timesteps a schedule visits, as numpy rounds them.
//!
//! Source: `set_timesteps` of diffusers' schedulers (0.42). What differs: for
//! 62 of the step counts up to 1000 (61, 103, 121 …) rounding makes numpy's
//! `arange` give `trailing` one timestep too many, −1; here n steps are n.

use super::{
    SchedulerError, SchedulerKind, TimestepSpacing,
    settings::{Settings, bad},
};

/// `steps` timesteps in descending order, those of `linspace` with a fraction.
pub(super) fn timesteps(settings: &Settings, steps: usize) -> Result<Vec<f64>, SchedulerError> {
    let trained = settings.num_train_timesteps;
    in_range(settings.kind, steps, trained)?;
    Ok(match settings.timestep_spacing {
        TimestepSpacing::Linspace => {
            let mut up = linspace((trained - 1) as f64, steps);
            up.reverse();
            up
        }
        TimestepSpacing::Leading => {
            let ratio = trained / steps;
            let timestep = |i| (i * ratio + settings.steps_offset) as f64;
            (0..steps).rev().map(timestep).collect()
        }
        TimestepSpacing::Trailing => trailing(trained, trained as f64 / steps as f64, steps),
    })
}

/// numpy's `linspace(0, stop, count)`.
pub(super) fn linspace(stop: f64, count: usize) -> Vec<f64> {
    let gap = stop / (count.max(2) - 1) as f64;
    let mut values: Vec<f64> = (0..count).map(|i| i as f64 * gap).collect();
    if count > 1 {
        values[count - 1] = stop;
    }
    values
}

/// numpy's `arange(start, 0, -gap).round() - 1`, of which at most `count`.
pub(super) fn trailing(start: usize, gap: f64, count: usize) -> Vec<f64> {
    let start = start as f64;
    // numpy takes the difference of the first two values for its step.
    let step = (start - gap) - start;
    let length = (start / gap).ceil() as usize;
    (0..length.min(count))
        .map(|i| (start + i as f64 * step).round_ties_even() - 1.0)
        .collect()
}

/// An error unless there are between 1 and `max` steps.
pub(super) fn in_range(
    kind: SchedulerKind,
    steps: usize,
    max: usize,
) -> Result<(), SchedulerError> {
    if (1..=max).contains(&steps) {
        Ok(())
    } else {
        Err(SchedulerError::Steps { steps, kind, max })
    }
}

/// The timesteps of LCM and TCD: spread over the ones they were distilled on.
pub(super) fn distilled(settings: &Settings, steps: usize) -> Result<Vec<usize>, SchedulerError> {
    let (trained, distilled) = (
        settings.num_train_timesteps,
        settings.original_inference_steps,
    );
    if !(1..=trained).contains(&distilled) {
        let needs = "it must be between 1 and num_train_timesteps";
        return Err(bad("original_inference_steps", distilled, needs));
    }
    in_range(settings.kind, steps, distilled)?;
    let (stride, gap) = (trained / distilled, distilled as f64 / steps as f64);
    let timestep = |i: usize| (distilled - (i as f64 * gap).floor() as usize) * stride - 1;
    Ok((0..steps).map(timestep).collect())
}
