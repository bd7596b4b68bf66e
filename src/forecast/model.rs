//! A model as far as a forecast needs it: its configs.

use super::vocabulary::Vocabulary;
use crate::config::{ClipConfig, UnetConfig, VaeConfig};
use crate::error::Result;
use crate::ops::Reads;
use crate::pipeline::{check_channels, load_scheduler, text_towers};
use crate::quant::{QuantConfig, Scheme, Selection};
use crate::request::Precision;
use crate::scheduler::SchedulerConfig;
use crate::weights::checkpoint::{Checkpoint, Component};

/// A checkpoint's configs and the sizes of its vocabularies. No weight is looked at.
#[derive(Clone, Debug)]
pub struct Model {
    pub(super) towers: Vec<Tower>,
    pub(super) unet: UnetConfig,
    pub(super) vae: VaeConfig,
    pub(super) scheduler: SchedulerConfig,
    pub(super) force_zeros_for_empty_prompt: bool,
    stored: Option<QuantConfig>,
}

/// A text encoder and its tokenizer.
#[derive(Clone, Debug)]
pub(super) struct Tower {
    pub component: Component,
    pub config: ClipConfig,
    pub vocabulary: Vocabulary,
}

/// Which layers of the UNet are int8, told by the end of their names (`attn1.to_q`, `conv1`): a list
/// of kept names that tells one block from another is beyond the forecast.
#[derive(Clone, Debug, Default)]
pub(super) struct Int8 {
    layers: Option<(Scheme, Selection)>,
    on_load: bool,
}

impl Int8 {
    /// Of a layer.
    pub fn of(&self, part: &str) -> Option<Scheme> {
        let (scheme, selection) = self.layers.as_ref()?;
        selection.selects(part).then_some(*scheme)
    }

    /// What a layer would rather read.
    pub fn reads(&self, part: &str) -> Reads {
        match self.of(part) {
            Some(Scheme::W8A8) => Reads::Int8,
            _ => Reads::Float,
        }
    }

    /// Whether the weights become int8 as they are loaded.
    pub fn on_load(&self) -> bool {
        self.on_load
    }
}

impl Model {
    /// What is int8 under a request.
    pub(super) fn int8(&self, precision: Precision) -> Int8 {
        let stored = self.stored.as_ref();
        let stored = stored.map(|s| (s.scheme, Selection::of(s.kept.clone())));
        let asked = precision.quant.map(|scheme| (scheme, Selection::default()));
        Int8 {
            on_load: stored.is_none(),
            layers: stored.or(asked),
        }
    }

    /// Reads the configs.
    ///
    /// # Errors
    /// Those of [`crate::pipeline::Pipeline::load`] that are known before weights are read.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let towers = text_towers(checkpoint)?
            .into_iter()
            .map(|(tokenizer, component)| {
                Ok(Tower {
                    component,
                    config: ClipConfig::load(checkpoint.folder(component)?)?,
                    vocabulary: Vocabulary::of(checkpoint.folder(tokenizer)?)?,
                })
            })
            .collect::<Result<_>>()?;
        let unet = UnetConfig::load(checkpoint.folder(Component::Unet)?)?;
        let vae = VaeConfig::load(checkpoint.folder(Component::Vae)?)?;
        check_channels(&unet, &vae)?;
        Ok(Self {
            towers,
            unet,
            vae,
            scheduler: load_scheduler(checkpoint)?,
            force_zeros_for_empty_prompt: checkpoint.force_zeros_for_empty_prompt(),
            stored: checkpoint.quantisation()?,
        })
    }

    /// Whether its files hold int8 weights.
    pub fn is_quantised(&self) -> bool {
        self.stored.is_some()
    }

    /// The autoencoder's settings.
    pub fn vae(&self) -> &VaeConfig {
        &self.vae
    }
}
