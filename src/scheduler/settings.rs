//! The settings in force: a config's own keys over a class's defaults.

use super::{
    BetaSchedule, FinalSigmas, InterpolationType, PredictionType, SchedulerConfig, SchedulerError,
    SchedulerKind, TimestepSpacing, TimestepType,
};

/// Far above any model's, and far below what would fill the memory.
const MAX_TRAIN_TIMESTEPS: usize = 1_000_000;

/// Every setting of a sampler, defaults filled in.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub kind: SchedulerKind,
    pub num_train_timesteps: usize,
    pub betas: Betas,
    pub rescale_betas_zero_snr: bool,
    pub prediction_type: PredictionType,
    pub timestep_spacing: TimestepSpacing,
    pub continuous_timesteps: bool,
    pub steps_offset: usize,
    pub original_inference_steps: usize,
    pub timestep_scaling: f64,
    pub interpolation_type: InterpolationType,
    pub sigma_min: Option<f64>,
    pub sigma_max: Option<f64>,
    pub final_sigmas_type: FinalSigmas,
    pub lambda_min_clipped: f64,
    pub set_alpha_to_one: bool,
    pub clip_x0: Option<f64>,
    pub solver_order: usize,
    pub heun: bool,
    pub lower_order_final: bool,
    pub euler_at_final: bool,
}

/// The noise added at each training timestep.
#[derive(Clone, Debug)]
pub(super) enum Betas {
    Trained(Vec<f64>),
    Schedule(BetaSchedule, f64, f64),
}

impl Betas {
    pub fn is_schedule(&self, schedule: BetaSchedule) -> bool {
        matches!(self, Self::Schedule(this, ..) if *this == schedule)
    }
}

impl Settings {
    /// What diffusers' `X.from_config(config)` arrives at, X being `chosen`'s
    /// class or else the config's own: keys that X knows are kept, others are
    /// dropped, and what is missing takes X's default.
    ///
    /// What differs: a chosen name means what it says. `euler` has no Karras
    /// levels and `euler-karras` has, `dpm++2m` is DPM-Solver++ of order 2,
    /// whatever the config was saved with.
    pub fn resolve(
        config: &SchedulerConfig,
        chosen: Option<SchedulerKind>,
    ) -> Result<Self, SchedulerError> {
        let config = &chosen_keys(config)?;
        let kind = chosen.map_or_else(|| config.kind(), Ok)?;
        let class = Class::of(kind);
        let defaults = class.defaults();
        if chosen.is_none() {
            refuse_noise_levels(config, kind)?;
        }
        refuse_rest(config, kind)?;

        let sigmas = matches!(class, Class::Euler | Class::DpmSolver);
        let knows_clip = matches!(class, Class::Ddim | Class::Lcm);
        let clip = knows_clip && config.clip_sample.unwrap_or(defaults.clip_sample);
        let solver = matches!(class, Class::DpmSolver);
        let prediction_type = config.prediction_type.unwrap_or(PredictionType::Epsilon);
        let settings = Self {
            kind,
            num_train_timesteps: config.num_train_timesteps.unwrap_or(1000),
            betas: match &config.trained_betas {
                Some(betas) => Betas::Trained(betas.clone()),
                None => Betas::Schedule(
                    config.beta_schedule.unwrap_or(defaults.beta_schedule),
                    config.beta_start.unwrap_or(defaults.beta_start),
                    config.beta_end.unwrap_or(defaults.beta_end),
                ),
            },
            rescale_betas_zero_snr: config.rescale_betas_zero_snr.unwrap_or(false),
            prediction_type,
            timestep_spacing: config.timestep_spacing.unwrap_or(defaults.spacing),
            continuous_timesteps: matches!(class, Class::Euler)
                && config.timestep_type == Some(TimestepType::Continuous)
                && prediction_type == PredictionType::VPrediction,
            steps_offset: config.steps_offset.unwrap_or(0),
            original_inference_steps: config.original_inference_steps.unwrap_or(50),
            timestep_scaling: config.timestep_scaling.unwrap_or(10.0),
            interpolation_type: match class {
                Class::Euler => config.interpolation_type,
                _ => None,
            }
            .unwrap_or(InterpolationType::Linear),
            // DPM-Solver has no such setting, but diffusers lets it find
            // these two keys in the config all the same.
            sigma_min: config.sigma_min,
            sigma_max: config.sigma_max,
            final_sigmas_type: config
                .final_sigmas_type
                .filter(|_| sigmas)
                .unwrap_or(FinalSigmas::Zero),
            lambda_min_clipped: config.lambda_min_clipped.unwrap_or(f64::NEG_INFINITY),
            set_alpha_to_one: config.set_alpha_to_one.unwrap_or(true),
            clip_x0: clip.then_some(config.clip_sample_range.unwrap_or(1.0)),
            solver_order: match (solver, chosen) {
                (true, None) => config.solver_order.unwrap_or(2),
                _ => 2,
            },
            heun: config.solver_type.as_deref() == Some("heun"),
            lower_order_final: config.lower_order_final.unwrap_or(true),
            euler_at_final: config.euler_at_final.unwrap_or(false),
        };
        settings.check()?;
        Ok(settings)
    }

    /// Settings that no sampler can work with.
    fn check(&self) -> Result<(), SchedulerError> {
        let trained = self.num_train_timesteps;
        if !(1..=MAX_TRAIN_TIMESTEPS).contains(&trained) {
            let needs = "it must be between 1 and 1000000";
            return Err(bad("num_train_timesteps", trained, needs));
        }
        if self.steps_offset > trained {
            let needs = "it must be within num_train_timesteps";
            return Err(bad("steps_offset", self.steps_offset, needs));
        }
        if let Some(range) = self.clip_x0.filter(|range| *range < 0.0) {
            return Err(bad("clip_sample_range", range, "it must be 0 or more"));
        }
        if let Betas::Trained(betas) = &self.betas
            && betas.len() != trained
        {
            let value = format!("{} values", betas.len());
            let needs = "it needs one value for each of num_train_timesteps";
            return Err(bad("trained_betas", value, needs));
        }
        Ok(())
    }
}

/// The class behind a kind: Karras levels make no class of their own.
#[derive(Clone, Copy)]
enum Class {
    Euler,
    EulerAncestral,
    Ddim,
    DpmSolver,
    Lcm,
    Tcd,
}

/// Defaults of `__init__` that differ between diffusers' classes.
struct Defaults {
    beta_schedule: BetaSchedule,
    beta_start: f64,
    beta_end: f64,
    spacing: TimestepSpacing,
    clip_sample: bool,
}

impl Class {
    fn of(kind: SchedulerKind) -> Self {
        match kind {
            SchedulerKind::Euler | SchedulerKind::EulerKarras => Self::Euler,
            SchedulerKind::EulerAncestral => Self::EulerAncestral,
            SchedulerKind::Ddim => Self::Ddim,
            SchedulerKind::DpmSolver2M | SchedulerKind::DpmSolver2MKarras => Self::DpmSolver,
            SchedulerKind::Lcm => Self::Lcm,
            SchedulerKind::Tcd => Self::Tcd,
        }
    }

    fn defaults(self) -> Defaults {
        let distilled = matches!(self, Self::Lcm | Self::Tcd);
        let (beta_schedule, beta_start, beta_end) = if distilled {
            (BetaSchedule::ScaledLinear, 0.00085, 0.012)
        } else {
            (BetaSchedule::Linear, 0.0001, 0.02)
        };
        Defaults {
            beta_schedule,
            beta_start,
            beta_end,
            spacing: match self {
                Self::Ddim | Self::Lcm | Self::Tcd => TimestepSpacing::Leading,
                _ => TimestepSpacing::Linspace,
            },
            clip_sample: matches!(self, Self::Ddim),
        }
    }
}

/// The config without the keys it lists as never chosen (`_use_default_values`).
fn chosen_keys(config: &SchedulerConfig) -> Result<SchedulerConfig, SchedulerError> {
    let mut keys = serde_json::to_value(config)?;
    if let Some(keys) = keys.as_object_mut() {
        keys.retain(|key, _| !config.use_default_values.contains(key));
    }
    Ok(serde_json::from_value(keys)?)
}

/// Noise levels and solvers that exist in diffusers but not here.
fn refuse_noise_levels(
    config: &SchedulerConfig,
    kind: SchedulerKind,
) -> Result<(), SchedulerError> {
    let way_out = "choose a sampler by --scheduler, which sets its own";
    let refuse = |setting: &str| Err(unsupported(setting, kind, way_out));
    let class = Class::of(kind);
    if matches!(class, Class::Euler | Class::DpmSolver) {
        if config.use_exponential_sigmas == Some(true) {
            return refuse("use_exponential_sigmas");
        }
        if config.use_beta_sigmas == Some(true) {
            return refuse("use_beta_sigmas");
        }
    }
    if !matches!(class, Class::DpmSolver) {
        return Ok(());
    }
    if config.use_lu_lambdas == Some(true) {
        return refuse("use_lu_lambdas");
    }
    if config.use_flow_sigmas == Some(true) {
        return refuse("use_flow_sigmas");
    }
    match config.algorithm_type.as_deref() {
        // diffusers reads DEIS' configs as DPM-Solver++.
        None | Some("dpmsolver++" | "deis") => {}
        Some(other) => return refuse(&format!("algorithm_type {other:?}")),
    }
    match config.solver_order {
        None | Some(1 | 2) => Ok(()),
        Some(order) => refuse(&format!("solver_order {order}")),
    }
}

/// Settings that stay in force whichever way the sampler was chosen.
fn refuse_rest(config: &SchedulerConfig, kind: SchedulerKind) -> Result<(), SchedulerError> {
    let class = Class::of(kind);
    let refuse = |setting: &str, way_out| Err(unsupported(setting, kind, way_out));
    match config.prediction_type {
        Some(PredictionType::FlowPrediction) => {
            let way_out = "use a checkpoint trained for epsilon, v_prediction or sample";
            return refuse("prediction_type \"flow_prediction\"", way_out);
        }
        Some(PredictionType::Sample) if matches!(class, Class::EulerAncestral) => {
            let way_out = "choose --scheduler euler";
            return refuse("prediction_type \"sample\"", way_out);
        }
        _ => {}
    }
    // TCD has the key and never looks at it.
    let thresholds = matches!(class, Class::Ddim | Class::DpmSolver | Class::Lcm);
    if thresholds && config.thresholding == Some(true) {
        let way_out = "set it to false, or choose --scheduler euler";
        return refuse("thresholding", way_out);
    }
    if matches!(class, Class::DpmSolver) {
        if let Some(variance) = &config.variance_type {
            let way_out = "use a UNet that predicts no variance";
            return refuse(&format!("variance_type {variance:?}"), way_out);
        }
        match config.solver_type.as_deref() {
            // diffusers reads the names of other solvers as midpoint.
            None | Some("midpoint" | "heun" | "logrho" | "bh1" | "bh2") => {}
            Some(other) => {
                let way_out = "set it to midpoint or heun";
                return refuse(&format!("solver_type {other:?}"), way_out);
            }
        }
    }
    Ok(())
}

fn unsupported(setting: &str, kind: SchedulerKind, way_out: &'static str) -> SchedulerError {
    SchedulerError::Unsupported {
        setting: setting.to_owned(),
        kind,
        way_out,
    }
}

pub(super) fn bad(
    setting: &'static str,
    value: impl std::fmt::Display,
    needs: &'static str,
) -> SchedulerError {
    SchedulerError::BadSetting {
        setting,
        value: value.to_string(),
        needs,
    }
}
