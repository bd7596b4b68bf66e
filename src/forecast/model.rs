//! A model as far as a forecast needs it: its configs.

use super::vocabulary::Vocabulary;
use crate::config::{ClipConfig, UnetConfig, VaeConfig};
use crate::error::Result;
use crate::pipeline::{check_channels, load_scheduler, text_towers};
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
}

/// A text encoder and its tokenizer.
#[derive(Clone, Debug)]
pub(super) struct Tower {
    pub component: Component,
    pub config: ClipConfig,
    pub vocabulary: Vocabulary,
}

impl Model {
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
        })
    }

    /// The autoencoder's settings.
    pub fn vae(&self) -> &VaeConfig {
        &self.vae
    }
}
