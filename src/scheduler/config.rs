//! diffusers' `scheduler_config.json`, and what a sampler makes of it.

use super::{SchedulerError, SchedulerKind};
use serde::{Deserialize, Serialize};

/// diffusers' `scheduler_config.json`: the settings that any supported class
/// knows. A missing key (or null) means that class's own default, which
/// differs between classes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct SchedulerConfig {
    #[serde(rename = "_class_name")]
    pub class_name: Option<String>,
    /// Keys that the file spells out but that were never chosen.
    #[serde(rename = "_use_default_values")]
    pub use_default_values: Vec<String>,

    pub num_train_timesteps: Option<usize>,
    pub beta_start: Option<f64>,
    pub beta_end: Option<f64>,
    pub beta_schedule: Option<BetaSchedule>,
    pub trained_betas: Option<Vec<f64>>,
    pub rescale_betas_zero_snr: Option<bool>,
    pub prediction_type: Option<PredictionType>,

    pub timestep_spacing: Option<TimestepSpacing>,
    pub timestep_type: Option<TimestepType>,
    pub steps_offset: Option<usize>,
    pub original_inference_steps: Option<usize>,
    pub timestep_scaling: Option<f64>,

    pub interpolation_type: Option<InterpolationType>,
    pub use_karras_sigmas: Option<bool>,
    pub use_exponential_sigmas: Option<bool>,
    pub use_beta_sigmas: Option<bool>,
    pub use_lu_lambdas: Option<bool>,
    pub use_flow_sigmas: Option<bool>,
    pub sigma_min: Option<f64>,
    pub sigma_max: Option<f64>,
    pub final_sigmas_type: Option<FinalSigmas>,
    pub lambda_min_clipped: Option<f64>,

    pub set_alpha_to_one: Option<bool>,
    pub clip_sample: Option<bool>,
    pub clip_sample_range: Option<f64>,
    pub thresholding: Option<bool>,

    pub algorithm_type: Option<String>,
    pub solver_order: Option<usize>,
    pub solver_type: Option<String>,
    pub lower_order_final: Option<bool>,
    pub euler_at_final: Option<bool>,
    pub variance_type: Option<String>,
}

/// How the noise added at each training timestep grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    Linear,
    ScaledLinear,
    SquaredcosCapV2,
}

/// What the UNet predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise.
    Epsilon,
    /// The velocity α·noise − σ·clean.
    VPrediction,
    /// The clean sample.
    #[serde(alias = "original_sample")]
    Sample,
    /// Flow matching: no SDXL, and not supported.
    FlowPrediction,
}

/// Which of the training timesteps are visited (Lin et al. 2023, table 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    Leading,
    Trailing,
    Linspace,
}

/// Whether the UNet is told a training timestep or a function of σ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepType {
    Discrete,
    Continuous,
}

/// How σ is read between two training timesteps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InterpolationType {
    Linear,
    LogLinear,
}

/// Where the last step ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigmas {
    Zero,
    SigmaMin,
}

impl SchedulerConfig {
    /// Reads a `scheduler_config.json`. Python writes `-Infinity` into such
    /// files (`lambda_min_clipped` of DPM-Solver's default), which is no JSON:
    /// it is read as "not set".
    pub fn from_json(text: &str) -> Result<Self, SchedulerError> {
        Ok(serde_json::from_str(&without_infinities(text))?)
    }

    /// The file's own sampler.
    pub fn kind(&self) -> Result<SchedulerKind, SchedulerError> {
        let karras = self.use_karras_sigmas.unwrap_or(false);
        self.class_name
            .as_deref()
            .and_then(|class| SchedulerKind::of_class(class, karras))
            .ok_or_else(|| SchedulerError::UnknownClass(self.class_name.clone()))
    }
}

/// Replaces `Infinity`, `-Infinity` and `NaN` outside strings by null.
fn without_infinities(text: &str) -> String {
    let parts = text.split('"').collect::<Vec<_>>();
    let mut quoted = false;
    let mut out = Vec::with_capacity(parts.len());
    for (i, part) in parts.iter().enumerate() {
        out.push(if quoted {
            (*part).to_owned()
        } else {
            part.replace("-Infinity", "null")
                .replace("Infinity", "null")
                .replace("NaN", "null")
        });
        // An escaped quote does not end a string.
        let escapes = part.bytes().rev().take_while(|&b| b == b'\\').count();
        if i + 1 < parts.len() && !(quoted && escapes % 2 == 1) {
            quoted = !quoted;
        }
    }
    out.join("\"")
}
