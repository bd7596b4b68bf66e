//! Euler's method with fresh noise after each step.
//!
//! Sources: k-diffusion's `sample_euler_ancestral`; diffusers'
//! `scheduling_euler_ancestral_discrete.py` (0.42).

use super::{
    Next, Schedule, SchedulerError, Step,
    euler::{exploding_step, init_noise_sigma, timesteps_f32, toward_clean},
    noise_levels::{NoiseLevels, interpolate},
    settings::Settings,
};

/// A step goes below the next σ, and noise brings it back up.
pub(super) fn schedule(settings: &Settings, steps: usize) -> Result<Schedule, SchedulerError> {
    let table = NoiseLevels::with_finite_sigmas(settings)?.sigmas();
    let timesteps = timesteps_f32(settings, steps)?;
    let sigma = |&t: &f64| f64::from(interpolate(&table, t) as f32);
    let mut sigmas: Vec<f64> = timesteps.iter().map(sigma).collect();
    sigmas.push(0.0);
    let step = |(&timestep, pair): (&f64, &[f64])| {
        let (from, to) = (pair[0], pair[1]);
        let up = to * (1.0 - (to / from).powi(2)).max(0.0).sqrt();
        let down = to * to / from;
        Step {
            next: Next {
                noise: up,
                ..toward_clean(down / from)
            },
            ..exploding_step(settings, timestep, from)
        }
    };
    Ok(Schedule {
        kind: settings.kind,
        init_noise_sigma: init_noise_sigma(settings, &sigmas),
        steps: timesteps.iter().zip(sigmas.windows(2)).map(step).collect(),
    })
}
