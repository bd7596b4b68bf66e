//! What can be wrong with a schedule that was asked for.

use super::{SchedulerKind, kind::names};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum SchedulerError {
    #[error("scheduler_config.json: {0}")]
    Json(#[from] serde_json::Error),

    #[error("there is no scheduler {0:?}: choose --scheduler from {list}", list = names())]
    UnknownName(String),

    #[error(
        "scheduler_config.json: {class} is not supported: choose --scheduler from {list}",
        class = .0.as_deref().unwrap_or("a config without _class_name"),
        list = names()
    )]
    UnknownClass(Option<String>),

    #[error("scheduler_config.json: {setting} is not supported by {kind}: {way_out}")]
    Unsupported {
        /// The setting and its value, as in the file.
        setting: String,
        kind: SchedulerKind,
        way_out: &'static str,
    },

    #[error("scheduler_config.json: {setting} cannot be {value}: {needs}")]
    BadSetting {
        setting: &'static str,
        value: String,
        needs: &'static str,
    },

    #[error("{steps} steps are out of range for {kind}: choose between 1 and {max}")]
    Steps {
        steps: usize,
        kind: SchedulerKind,
        max: usize,
    },

    #[error("eta {0} is out of range: choose between 0 and 1")]
    Eta(f64),

    #[error("strength {0} is out of range: choose above 0 and up to 1")]
    Strength(f64),

    #[error(
        "strength {strength} of {steps} steps leaves none to run: \
         raise the strength to {least:.3} or the number of steps"
    )]
    NoSteps {
        strength: f64,
        steps: usize,
        least: f64,
    },

    #[error(
        "step {step} of {kind}, at timestep {timestep}, has no finite coefficients: its settings \
         (prediction_type, betas, rescale_betas_zero_snr, timestep_spacing) do not go together; \
         choose another --scheduler or fewer steps"
    )]
    NotFinite {
        step: usize,
        kind: SchedulerKind,
        timestep: f64,
    },
}

impl SchedulerError {
    /// Whether other options would do, with the same checkpoint.
    pub fn is_of_the_request(&self) -> bool {
        matches!(
            self,
            Self::UnknownName(_)
                | Self::Steps { .. }
                | Self::Eta(_)
                | Self::Strength(_)
                | Self::NoSteps { .. }
        )
    }
}
