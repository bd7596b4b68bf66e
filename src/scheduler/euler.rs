//! Euler's method on the probability flow, in σ.
//!
//! Sources: Karras et al. (2022), algorithm 2 without churn; diffusers'
//! `scheduling_euler_discrete.py` (0.42).

use super::{
    FinalSigmas, InterpolationType, Next, Schedule, SchedulerError, Step, TimestepSpacing,
    noise_levels::{NoiseLevels, interpolate, karras, linspace_f32, timestep_of},
    settings::Settings,
    spacing,
};

/// Latents are clean + σ·noise; σ steps down to the next level.
pub(super) fn schedule(settings: &Settings, steps: usize) -> Result<Schedule, SchedulerError> {
    let levels = NoiseLevels::with_finite_sigmas(settings)?;
    let table = levels.sigmas();
    let (mut timesteps, mut sigmas) = visited(settings, &table, steps)?;
    sigmas.push(match settings.final_sigmas_type {
        FinalSigmas::Zero => 0.0,
        FinalSigmas::SigmaMin => f64::from(table[0]),
    });
    sigmas.iter_mut().for_each(|s| *s = f64::from(*s as f32));
    if settings.continuous_timesteps {
        timesteps = sigmas.iter().map(|sigma| 0.25 * sigma.ln()).collect();
    }
    let step = |(&timestep, pair): (&f64, &[f64])| {
        let (sigma, next) = (pair[0], pair[1]);
        Step {
            next: toward_clean(next / sigma),
            ..exploding_step(settings, f64::from(timestep as f32), sigma)
        }
    };
    Ok(Schedule {
        kind: settings.kind,
        init_noise_sigma: init_noise_sigma(settings, &sigmas),
        steps: timesteps.iter().zip(sigmas.windows(2)).map(step).collect(),
    })
}

/// Timesteps, and σ at each (one σ more where it is interpolated in logarithm).
fn visited(
    settings: &Settings,
    table: &[f32],
    steps: usize,
) -> Result<(Vec<f64>, Vec<f64>), SchedulerError> {
    let timesteps = timesteps_f32(settings, steps)?;
    let (low, high) = (table[0], table[table.len() - 1]);
    let sigmas: Vec<f64> = match settings.interpolation_type {
        InterpolationType::Linear => {
            let sigma = |&t: &f64| interpolate(table, t);
            timesteps.iter().map(sigma).collect()
        }
        InterpolationType::LogLinear => {
            let (from, to) = (f64::from(high.ln()), f64::from(low.ln()));
            let logs = linspace_f32(from, to, steps + 1);
            logs.into_iter().map(|log| f64::from(log.exp())).collect()
        }
    };
    if !settings.kind.is_karras() {
        return Ok((timesteps, sigmas));
    }
    let min = settings.sigma_min.unwrap_or(sigmas[sigmas.len() - 1]);
    let sigmas = karras(min, settings.sigma_max.unwrap_or(sigmas[0]), steps);
    let timesteps = sigmas.iter().map(|&s| timestep_of(s, table)).collect();
    Ok((timesteps, sigmas))
}

/// Timesteps as Euler's samplers keep them: float32, fractions and all.
pub(super) fn timesteps_f32(settings: &Settings, steps: usize) -> Result<Vec<f64>, SchedulerError> {
    let timesteps = spacing::timesteps(settings, steps)?;
    Ok(timesteps.into_iter().map(|t| f64::from(t as f32)).collect())
}

/// All of a step that follows from where it starts.
pub(super) fn exploding_step(settings: &Settings, timestep: f64, sigma: f64) -> Step {
    Step {
        timestep,
        sigma,
        input_scale: 1.0 / sigma.hypot(1.0),
        x0: settings.prediction_type.clean_from_exploding(sigma),
        clamp_x0: None,
        next: Next::default(),
        noised: [1.0, sigma],
    }
}

/// A straight line from the latents to the clean sample, to where `remaining`
/// of the way is left.
pub(super) fn toward_clean(remaining: f64) -> Next {
    Next {
        latents: remaining,
        x0: 1.0 - remaining,
        ..Next::default()
    }
}

/// Spacings that start at the last training timestep start from σ alone.
pub(super) fn init_noise_sigma(settings: &Settings, sigmas: &[f64]) -> f64 {
    let max = sigmas.iter().copied().fold(0.0, f64::max);
    match settings.timestep_spacing {
        TimestepSpacing::Linspace | TimestepSpacing::Trailing => max,
        TimestepSpacing::Leading => max.hypot(1.0),
    }
}
