//! The clean sample and the noise, read from latents and what the UNet says.

use super::PredictionType;

/// A tensor as `c[0]·latents + c[1]·model_output`.
pub(super) type Mix = [f64; 2];

impl PredictionType {
    /// The predicted clean sample, for latents α·clean + σ·noise, α² + σ² = 1.
    pub(super) fn clean(self, alpha: f64, sigma: f64) -> Mix {
        match self {
            Self::Epsilon => [1.0 / alpha, -sigma / alpha],
            Self::VPrediction => [alpha, -sigma],
            Self::Sample => [0.0, 1.0],
            Self::FlowPrediction => [f64::NAN; 2], // refused when the settings are read
        }
    }

    /// The predicted noise, for the same latents.
    pub(super) fn noise(self, alpha: f64, sigma: f64) -> Mix {
        match self {
            Self::Epsilon => [0.0, 1.0],
            Self::VPrediction => [sigma, alpha],
            Self::Sample => [1.0 / sigma, -alpha / sigma],
            Self::FlowPrediction => [f64::NAN; 2],
        }
    }

    /// The predicted clean sample, for latents clean + σ·noise (whose model
    /// input is divided by √(σ² + 1)).
    pub(super) fn clean_from_exploding(self, sigma: f64) -> Mix {
        let [alpha, sigma] = unit_variance(sigma);
        let [latents, output] = self.clean(alpha, sigma);
        [latents * alpha, output]
    }
}

/// α and σ of unit variance for the ratio σ/α that is σ elsewhere.
pub(super) fn unit_variance(sigma: f64) -> [f64; 2] {
    let alpha = 1.0 / sigma.hypot(1.0);
    [alpha, sigma * alpha]
}
