//! A sampler as a table of coefficients.
//!
//! Every supported sampler's step is linear in its tensors but for one
//! optional clamp. So this module computes plain float64 numbers, and whoever
//! holds the tensors applies them (a, b … are [`Step`]'s fields):
//!
//! ```text
//! latents = noise · init_noise_sigma                  txt2img
//! latents = noised[0]·image + noised[1]·noise         img2img, from the first step kept
//! for each step:
//!     model_output = unet(latents · input_scale, timestep)
//!     x0      = x0[0]·latents + x0[1]·model_output, clamped to ±clamp_x0 if given
//!     latents = next.latents·latents + next.model_output·model_output
//!             + next.x0·x0 + next.previous_x0·(the step before's x0)
//!             + next.noise·(fresh noise, drawn only where the coefficient is not 0)
//! ```
//!
//! The coefficients are those of diffusers 0.42, run step by step: the index
//! into the schedule is a counter, never a search for the timestep.

mod config;
mod ddim;
mod dpm_solver;
mod error;
mod euler;
mod euler_ancestral;
mod kind;
mod lcm;
mod noise_levels;
mod prediction;
mod settings;
mod spacing;
mod tcd;

pub use config::{
    BetaSchedule, FinalSigmas, InterpolationType, PredictionType, SchedulerConfig, TimestepSpacing,
    TimestepType,
};
pub use error::SchedulerError;
pub use kind::SchedulerKind;
use settings::Settings;

/// One denoising step: all that a tensor engine needs, as plain numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What the UNet is told: a training timestep, with a fraction for some
    /// samplers.
    pub timestep: f64,
    /// Noise over signal in the latents, σ/α: for display.
    pub sigma: f64,
    /// The model's input is latents · `input_scale`.
    pub input_scale: f64,
    /// The predicted clean sample: `x0[0]`·latents + `x0[1]`·model output.
    pub x0: [f64; 2],
    /// The predicted clean sample is clamped to ± this.
    pub clamp_x0: Option<f64>,
    /// The latents after the step.
    pub next: Next,
    /// Latents of this step's noise level: `noised[0]`·clean + `noised[1]`·noise.
    pub noised: [f64; 2],
}

/// The latents after a step: the sum of these coefficients times these tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Next {
    /// The latents before the step.
    pub latents: f64,
    /// What the UNet returned.
    pub model_output: f64,
    /// The predicted clean sample, clamped.
    pub x0: f64,
    /// The step before's predicted clean sample; 0 in a schedule's first step.
    pub previous_x0: f64,
    /// Fresh noise of unit variance; draw none where this is 0.
    pub noise: f64,
}

/// What to sample with, beside the checkpoint's config.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScheduleOptions {
    /// Number of denoising steps.
    pub steps: usize,
    /// A sampler instead of the config's own, on the config's settings.
    pub scheduler: Option<SchedulerKind>,
    /// A spacing instead of the config's own (`ddim`, `dpm++2m` and the Euler
    /// samplers; `lcm` and `tcd` have their own).
    pub timestep_spacing: Option<TimestepSpacing>,
    /// η of `ddim` and `tcd`, 0…1: how much of the noise is fresh at each
    /// step. 0 is what diffusers' SDXL pipeline passes where the caller says
    /// nothing; TCD's authors use 0.3. Other samplers have none.
    pub eta: f64,
}

/// A sampler's steps, in the order they run.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// The sampler.
    pub kind: SchedulerKind,
    /// Standard deviation of the latents that the first step takes.
    pub init_noise_sigma: f64,
    /// At least one.
    pub steps: Vec<Step>,
}

impl Schedule {
    /// The schedule of a checkpoint's `scheduler_config.json`.
    ///
    /// # Errors
    /// A class or setting that is not supported, steps or η out of range, and
    /// settings whose coefficients are not finite (as zero signal with epsilon
    /// prediction).
    pub fn new(
        config: &SchedulerConfig,
        options: &ScheduleOptions,
    ) -> Result<Self, SchedulerError> {
        let ScheduleOptions { steps, eta, .. } = *options;
        if !(0.0..=1.0).contains(&eta) {
            return Err(SchedulerError::Eta(eta));
        }
        let mut settings = Settings::resolve(config, options.scheduler)?;
        if let Some(spacing) = options.timestep_spacing {
            settings.timestep_spacing = spacing;
        }
        let settings = &settings;
        let schedule = match settings.kind {
            SchedulerKind::Euler | SchedulerKind::EulerKarras => euler::schedule(settings, steps)?,
            SchedulerKind::EulerAncestral => euler_ancestral::schedule(settings, steps)?,
            SchedulerKind::Ddim => ddim::schedule(settings, steps, eta)?,
            SchedulerKind::DpmSolver2M | SchedulerKind::DpmSolver2MKarras => {
                dpm_solver::schedule(settings, steps)?
            }
            SchedulerKind::Lcm => lcm::schedule(settings, steps)?,
            SchedulerKind::Tcd => tcd::schedule(settings, steps, eta)?,
        };
        schedule.finite()
    }

    /// The last part of the schedule, for img2img: a strength of 0.3 keeps the
    /// last 30 % of the steps. Start from the first step's `noised`;
    /// `init_noise_sigma` does not apply.
    ///
    /// Source: `get_timesteps` of diffusers'
    /// `pipeline_stable_diffusion_xl_img2img.py`.
    ///
    /// # Errors
    /// A strength outside 0…1, or one that leaves no step.
    pub fn from_strength(mut self, strength: f64) -> Result<Self, SchedulerError> {
        if !(0.0..=1.0).contains(&strength) {
            return Err(SchedulerError::Strength(strength));
        }
        let steps = self.steps.len();
        let kept = (steps as f64 * strength) as usize;
        self.steps.drain(..steps - kept.min(steps));
        let Some(first) = self.steps.first_mut() else {
            let least = (1000.0 / steps as f64).ceil() / 1000.0;
            return Err(SchedulerError::NoSteps {
                strength,
                steps,
                least,
            });
        };
        // With no step before it, a multistep solver starts at order 1: the
        // same as a step before with the same clean sample.
        first.next.x0 += first.next.previous_x0;
        first.next.previous_x0 = 0.0;
        Ok(self)
    }

    /// An error unless every coefficient is a number.
    fn finite(self) -> Result<Self, SchedulerError> {
        let broken = self.steps.iter().position(|step| !step.is_finite());
        match broken {
            Some(i) => Err(SchedulerError::NotFinite {
                step: i + 1,
                kind: self.kind,
                timestep: self.steps[i].timestep,
            }),
            None => Ok(self),
        }
    }
}

impl Step {
    /// All of a step that follows from where it starts, for latents
    /// √ᾱ·clean + √(1 − ᾱ)·noise.
    fn preserving(settings: &Settings, timestep: usize, alpha_cumprod: f64) -> Self {
        let (alpha, sigma) = (alpha_cumprod.sqrt(), (1.0 - alpha_cumprod).sqrt());
        Self {
            timestep: timestep as f64,
            sigma: sigma / alpha,
            input_scale: 1.0,
            x0: settings.prediction_type.clean(alpha, sigma),
            clamp_x0: settings.clip_x0,
            next: Next::default(),
            noised: [alpha, sigma],
        }
    }

    /// Whether every coefficient is a number. σ may be infinite: at zero
    /// signal it is.
    fn is_finite(&self) -> bool {
        let Next {
            latents,
            model_output,
            x0,
            previous_x0,
            noise,
        } = self.next;
        [latents, model_output, x0, previous_x0, noise]
            .into_iter()
            .chain([self.timestep, self.input_scale])
            .chain(self.x0)
            .chain(self.noised)
            .chain(self.clamp_x0)
            .all(f64::is_finite)
    }
}
