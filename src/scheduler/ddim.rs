//! Denoising diffusion implicit models, η from 0 (deterministic) to 1 (DDPM).
//!
//! Sources: Song et al. (2021), equations 12 and 16; diffusers'
//! `scheduling_ddim.py` (0.42).

use super::{
    Next, Schedule, SchedulerError, Step,
    noise_levels::NoiseLevels,
    settings::{Settings, bad},
    spacing,
};

/// Latents are √ᾱ·clean + √(1 − ᾱ)·noise, ᾱ read at whole timesteps.
pub(super) fn schedule(
    settings: &Settings,
    steps: usize,
    eta: f64,
) -> Result<Schedule, SchedulerError> {
    let levels = NoiseLevels::new(settings)?;
    let timesteps = spacing::timesteps(settings, steps)?;
    let stride = settings.num_train_timesteps / steps;
    let last = match settings.set_alpha_to_one {
        true => Some(1.0),
        false => levels.alpha_cumprod(0),
    };
    let step = |timestep: f64| {
        let timestep = timestep.round_ties_even() as usize;
        let now = levels.alpha_cumprod(timestep);
        // Not the timestep visited next, but one stride down.
        let next = match timestep.checked_sub(stride) {
            Some(timestep) => levels.alpha_cumprod(timestep),
            None => last,
        };
        let (Some(now), Some(next)) = (now, next) else {
            let needs = "it leads beyond num_train_timesteps with so many steps";
            return Err(bad("steps_offset", settings.steps_offset, needs));
        };
        let spread = eta * ((1.0 - next) / (1.0 - now) * (1.0 - now / next)).sqrt();
        let (alpha, sigma) = (now.sqrt(), (1.0 - now).sqrt());
        // The direction to the latents, of the noise as the model predicted
        // it: clipping the clean sample does not change it.
        let direction = (1.0 - next - spread * spread).max(0.0).sqrt();
        let noise = settings.prediction_type.noise(alpha, sigma);
        Ok(Step {
            next: Next {
                x0: next.sqrt(),
                latents: direction * noise[0],
                model_output: direction * noise[1],
                noise: spread,
                previous_x0: 0.0,
            },
            ..Step::preserving(settings, timestep, now)
        })
    };
    Ok(Schedule {
        kind: settings.kind,
        init_noise_sigma: 1.0,
        steps: timesteps.into_iter().map(step).collect::<Result<_, _>>()?,
    })
}
