//! How much noise there is at each training timestep, and between them.
//!
//! Computed in float32 as diffusers does, since the rounding of 1 − β shows
//! in σ: `__init__`, `_convert_to_karras` and `_sigma_to_t` of
//! `schedulers/scheduling_euler_discrete.py` (0.42), the same in each class.

use super::{
    BetaSchedule, SchedulerError,
    settings::{Betas, Settings, bad},
};
use std::f64::consts::FRAC_PI_2;

/// Karras et al. (2022), table 1.
const KARRAS_RHO: f64 = 7.0;
/// ᾱ at the last timestep where betas are rescaled to zero signal and σ must
/// stay finite: float16's smallest positive number.
const ALMOST_NO_SIGNAL: f32 = 1.0 / (1 << 24) as f32;

/// ᾱ, the share of signal in the variance, at each training timestep.
#[derive(Clone, Debug)]
pub(super) struct NoiseLevels {
    alphas_cumprod: Vec<f32>,
}

impl NoiseLevels {
    /// As DDIM, LCM and TCD have it: zero signal is ᾱ = 0.
    pub fn new(settings: &Settings) -> Result<Self, SchedulerError> {
        let mut betas = betas(settings);
        if !betas.iter().all(|beta| (0.0..=1.0).contains(beta)) {
            let needs = "every beta must be between 0 and 1";
            return Err(bad("the schedule of betas", "followed", needs));
        }
        if settings.rescale_betas_zero_snr {
            rescale_to_zero_signal(&mut betas);
        }
        Ok(Self {
            alphas_cumprod: cumulative_product(&betas),
        })
    }

    /// As the samplers with σ have it: zero signal is almost zero.
    pub fn with_finite_sigmas(settings: &Settings) -> Result<Self, SchedulerError> {
        let mut levels = Self::new(settings)?;
        if settings.rescale_betas_zero_snr
            && let Some(last) = levels.alphas_cumprod.last_mut()
        {
            *last = ALMOST_NO_SIGNAL;
        }
        Ok(levels)
    }

    /// ᾱ at a training timestep, or none beyond the last.
    pub fn alpha_cumprod(&self, timestep: usize) -> Option<f64> {
        self.alphas_cumprod.get(timestep).map(|&a| f64::from(a))
    }

    /// ᾱ at a timestep known to be a training timestep.
    pub fn at(&self, timestep: usize) -> f64 {
        f64::from(self.alphas_cumprod[timestep])
    }

    /// σ/α at every training timestep, in float32.
    pub fn sigmas(&self) -> Vec<f32> {
        let sigma = |&a: &f32| ((1.0 - a) / a).sqrt();
        self.alphas_cumprod.iter().map(sigma).collect()
    }

    /// Training timesteps whose ln(α/σ) is at least `least`, counted.
    pub fn count_above_lambda(&self, least: f64) -> usize {
        let lambda = |&a: &f32| f64::from(a.sqrt().ln() - (1.0 - a).sqrt().ln());
        let enough = |a: &&f32| lambda(a) >= least;
        self.alphas_cumprod.iter().filter(enough).count()
    }
}

fn betas(settings: &Settings) -> Vec<f32> {
    let count = settings.num_train_timesteps;
    match &settings.betas {
        Betas::Trained(betas) => betas.iter().map(|&beta| beta as f32).collect(),
        &Betas::Schedule(BetaSchedule::Linear, start, end) => linspace_f32(start, end, count),
        &Betas::Schedule(BetaSchedule::ScaledLinear, start, end) => {
            let roots = linspace_f32(start.sqrt(), end.sqrt(), count);
            roots.into_iter().map(|root| root * root).collect()
        }
        Betas::Schedule(BetaSchedule::SquaredcosCapV2, ..) => (0..count)
            .map(|i| cosine_beta(i, count).min(0.999) as f32)
            .collect(),
    }
}

/// Nichol and Dhariwal (2021): ᾱ falls as a squared cosine.
fn cosine_beta(i: usize, count: usize) -> f64 {
    let alpha_bar = |i: usize| {
        let time = i as f64 / count as f64;
        ((time + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2)
    };
    1.0 - alpha_bar(i + 1) / alpha_bar(i)
}

/// Lin et al. (2023), algorithm 1: no signal at the last timestep.
fn rescale_to_zero_signal(betas: &mut [f32]) {
    let mut roots = cumulative_product(betas);
    roots.iter_mut().for_each(|a| *a = a.sqrt());
    let (Some(&first), Some(&last)) = (roots.first(), roots.last()) else {
        return;
    };
    let scale = first / (first - last);
    let mut before = 1.0;
    for (beta, root) in betas.iter_mut().zip(roots) {
        let root = (root - last) * scale;
        let alpha_bar = root * root;
        *beta = 1.0 - alpha_bar / before;
        before = alpha_bar;
    }
}

/// ∏(1 − β), accumulated in float64 as torch does, each kept in float32.
fn cumulative_product(betas: &[f32]) -> Vec<f32> {
    let mut product = 1.0;
    let step = |&beta: &f32| {
        product *= f64::from(1.0 - beta);
        product as f32
    };
    betas.iter().map(step).collect()
}

/// torch's `linspace` in float32, which runs from both ends to the middle.
pub(super) fn linspace_f32(start: f64, end: f64, count: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    let step = (end - start) / (count.max(2) - 1) as f32;
    let value = |i: usize| {
        if i < count / 2 {
            start + step * i as f32
        } else {
            end - step * (count - 1 - i) as f32
        }
    };
    match count {
        1 => vec![start],
        _ => (0..count).map(value).collect(),
    }
}

/// A table's value between two of its indices, the ends continued.
pub(super) fn interpolate(table: &[f32], at: f64) -> f64 {
    let last = table.len() - 1;
    let at = at.clamp(0.0, last as f64);
    let low = (at.floor() as usize).min(last);
    let high = (low + 1).min(last);
    let (from, to) = (f64::from(table[low]), f64::from(table[high]));
    (to - from) * (at - low as f64) + from
}

/// Karras et al. (2022), equation 5: `count` levels from `max` down to `min`.
pub(super) fn karras(min: f64, max: f64, count: usize) -> Vec<f64> {
    let (min, max) = (min.powf(1.0 / KARRAS_RHO), max.powf(1.0 / KARRAS_RHO));
    let ramp = super::spacing::linspace(1.0, count);
    let level = |x: f64| (max + x * (min - max)).powf(KARRAS_RHO);
    ramp.into_iter().map(level).collect()
}

/// The training timestep, with a fraction, at which ln σ is that of `sigma`.
pub(super) fn timestep_of(sigma: f64, sigmas: &[f32]) -> f64 {
    let log = |s: f32| f64::from(f64::from(s).ln() as f32);
    let wanted = sigma.max(1e-10).ln();
    let below = sigmas.iter().rposition(|&s| log(s) <= wanted).unwrap_or(0);
    let low = below.min(sigmas.len().saturating_sub(2));
    let high = (low + 1).min(sigmas.len() - 1);
    let (from, to) = (log(sigmas[low]), log(sigmas[high]));
    let weight = ((from - wanted) / (from - to)).clamp(0.0, 1.0);
    (1.0 - weight) * low as f64 + weight * high as f64
}
