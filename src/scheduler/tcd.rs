//! Trajectory consistency distillation: a deterministic jump to a level below
//! the next one, then noise up to it; η says how far below.
//!
//! Sources: Zheng et al. (2024), algorithm 4, where η is γ; diffusers'
//! `scheduling_tcd.py` (0.42), which reads `clip_sample` and ignores it.

use super::{
    Next, Schedule, SchedulerError, Step, noise_levels::NoiseLevels, settings::Settings, spacing,
};

/// Latents are √ᾱ·clean + √(1 − ᾱ)·noise; the last step ends at timestep 0.
pub(super) fn schedule(
    settings: &Settings,
    steps: usize,
    eta: f64,
) -> Result<Schedule, SchedulerError> {
    let levels = NoiseLevels::new(settings)?;
    let timesteps = spacing::distilled(settings, steps)?;
    let step = |(i, &timestep): (usize, &usize)| {
        let now = levels.at(timestep);
        let after = timesteps.get(i + 1).copied();
        // In float32, as torch multiplies a whole number by a fraction.
        let below = ((1.0 - eta) as f32 * after.unwrap_or(0) as f32).floor() as usize;
        let (next, below) = (levels.at(after.unwrap_or(0)), levels.at(below));
        // Of the variance after the jump, the share that is kept.
        let kept = match after {
            Some(_) if eta > 0.0 => next / below,
            _ => 1.0,
        };
        let direction = (kept * (1.0 - below)).sqrt();
        let noise = (settings.prediction_type).noise(now.sqrt(), (1.0 - now).sqrt());
        Step {
            next: Next {
                x0: (kept * below).sqrt(),
                latents: direction * noise[0],
                model_output: direction * noise[1],
                noise: (1.0 - kept).sqrt(),
                previous_x0: 0.0,
            },
            ..Step::preserving(settings, timestep, now)
        }
    };
    Ok(Schedule {
        kind: settings.kind,
        init_noise_sigma: 1.0,
        steps: timesteps.iter().enumerate().map(step).collect(),
    })
}
