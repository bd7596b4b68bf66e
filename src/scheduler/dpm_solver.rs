//! DPM-Solver++, order 1 and multistep order 2 ("2M").
//!
//! Sources: Lu et al. (2022), "DPM-Solver++", algorithm 2; diffusers'
//! `scheduling_dpmsolver_multistep.py` (0.42).

use super::{
    BetaSchedule, FinalSigmas, Next, Schedule, SchedulerError, Step, TimestepSpacing,
    noise_levels::{NoiseLevels, interpolate, karras, timestep_of},
    prediction::unit_variance,
    settings::Settings,
    spacing,
};

/// Below this many steps `lower_order_final` makes the last one of order 1.
const FEW_STEPS: usize = 15;

/// Latents are α·clean + σ·noise; a step is exact for a clean sample that is
/// constant (order 1) or linear (order 2) in ln(α/σ).
pub(super) fn schedule(settings: &Settings, steps: usize) -> Result<Schedule, SchedulerError> {
    let levels = NoiseLevels::with_finite_sigmas(settings)?;
    let table = levels.sigmas();
    let (timesteps, mut sigmas) = visited(settings, &levels, &table, steps)?;
    let steps = timesteps.len(); // lambda_min_clipped may leave fewer
    sigmas.push(match settings.final_sigmas_type {
        FinalSigmas::Zero => 0.0,
        FinalSigmas::SigmaMin => f64::from(table[0]),
    });
    sigmas.iter_mut().for_each(|s| *s = f64::from(*s as f32));
    let first_order = |i: usize| {
        let low_end = settings.euler_at_final
            || (settings.lower_order_final && steps < FEW_STEPS)
            || settings.final_sigmas_type == FinalSigmas::Zero;
        settings.solver_order == 1 || i == 0 || (i + 1 == steps && low_end)
    };
    let step = |(i, timestep): (usize, f64)| {
        let [alpha, sigma] = unit_variance(sigmas[i]);
        let before = (!first_order(i)).then(|| sigmas[i - 1]);
        Step {
            timestep,
            sigma: sigmas[i],
            input_scale: 1.0,
            x0: settings.prediction_type.clean(alpha, sigma),
            clamp_x0: None,
            next: next(before, sigmas[i], sigmas[i + 1], settings.heun),
            noised: [alpha, sigma],
        }
    };
    Ok(Schedule {
        kind: settings.kind,
        init_noise_sigma: 1.0,
        steps: timesteps.into_iter().enumerate().map(step).collect(),
    })
}

/// A step from `now` to `after`, all given as σ/α; of order 2 where the level
/// `before` is given.
fn next(before: Option<f64>, now: f64, after: f64, heun: bool) -> Next {
    let ([_, sigma_now], [alpha, sigma]) = (unit_variance(now), unit_variance(after));
    // 1 − e⁻ʰ, with h = ln(now/after) the step in ln(α/σ).
    let gain = 1.0 - after / now;
    let slope = before.map_or(0.0, |before| {
        let h = (now / after).ln();
        let weight = match heun {
            false => 0.5 * gain,
            true if h == 0.0 => 0.0,
            true => 1.0 - gain / h,
        };
        // The difference of the last two clean samples, per step like this one.
        alpha * weight * h / (before / now).ln()
    });
    Next {
        latents: sigma / sigma_now,
        x0: alpha * gain + slope,
        previous_x0: -slope,
        ..Next::default()
    }
}

/// Timesteps, whole ones, and σ/α at each.
fn visited(
    settings: &Settings,
    levels: &NoiseLevels,
    table: &[f32],
    steps: usize,
) -> Result<(Vec<f64>, Vec<f64>), SchedulerError> {
    if settings.kind.is_karras() {
        spacing::in_range(settings.kind, steps, settings.num_train_timesteps)?;
        let min = settings.sigma_min.unwrap_or(f64::from(table[0]));
        let max = f64::from(table[table.len() - 1]);
        let sigmas = karras(min, settings.sigma_max.unwrap_or(max), steps);
        let cosine = settings.betas.is_schedule(BetaSchedule::SquaredcosCapV2);
        let whole = |&sigma: &f64| match timestep_of(sigma, table) {
            t if cosine => t.trunc(),
            t => t.round_ties_even(),
        };
        return Ok((sigmas.iter().map(whole).collect(), sigmas));
    }
    let timesteps = spaced(settings, levels, steps)?;
    let sigmas = timesteps.iter().map(|&t| interpolate(table, t)).collect();
    Ok((timesteps, sigmas))
}

/// Unlike the other samplers', these leave out the last of steps + 1 timesteps.
fn spaced(
    settings: &Settings,
    levels: &NoiseLevels,
    steps: usize,
) -> Result<Vec<f64>, SchedulerError> {
    let trained = settings.num_train_timesteps;
    let last = levels.count_above_lambda(settings.lambda_min_clipped);
    let max = match settings.timestep_spacing {
        TimestepSpacing::Trailing => last,
        _ => last.saturating_sub(1),
    };
    spacing::in_range(settings.kind, steps, max)?;
    Ok(match settings.timestep_spacing {
        TimestepSpacing::Linspace => {
            let up = spacing::linspace((last - 1) as f64, steps + 1);
            let whole = up.into_iter().rev().map(f64::round_ties_even);
            whole.take(steps).collect()
        }
        TimestepSpacing::Leading => {
            let ratio = last / (steps + 1);
            let timestep = |i| (i * ratio + settings.steps_offset) as f64;
            (1..=steps).rev().map(timestep).collect()
        }
        TimestepSpacing::Trailing => spacing::trailing(last, trained as f64 / steps as f64, steps),
    })
}
