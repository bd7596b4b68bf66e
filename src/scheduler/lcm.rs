//! Latent consistency models: jump to the clean sample, then add noise again.
//!
//! Sources: Luo et al. (2023), algorithm 3; diffusers' `scheduling_lcm.py` (0.42).

use super::{
    Next, Schedule, SchedulerError, Step, noise_levels::NoiseLevels, settings::Settings, spacing,
};

/// Standard deviation of the data that the boundary condition assumes.
const SIGMA_DATA: f64 = 0.5;

/// Latents are √ᾱ·clean + √(1 − ᾱ)·noise; the last step ends clean.
pub(super) fn schedule(settings: &Settings, steps: usize) -> Result<Schedule, SchedulerError> {
    let levels = NoiseLevels::new(settings)?;
    let timesteps = spacing::distilled(settings, steps)?;
    let step = |(i, &timestep): (usize, &usize)| {
        let scaled = timestep as f64 * settings.timestep_scaling;
        let norm = scaled.hypot(SIGMA_DATA);
        // The boundary condition: at timestep 0 the latents are the answer.
        let (keep, jump) = ((SIGMA_DATA / norm).powi(2), scaled / norm);
        let next = timesteps.get(i + 1).map_or(1.0, |&t| levels.at(t));
        Step {
            next: Next {
                latents: next.sqrt() * keep,
                x0: next.sqrt() * jump,
                noise: (1.0 - next).sqrt(),
                ..Next::default()
            },
            ..Step::preserving(settings, timestep, levels.at(timestep))
        }
    };
    Ok(Schedule {
        kind: settings.kind,
        init_noise_sigma: 1.0,
        steps: timesteps.iter().enumerate().map(step).collect(),
    })
}
