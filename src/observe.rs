//! What a run tells whoever watches it.
//!
//! The pipeline announces stages, steps and named tensors; progress bars, timers, dumps, traces and
//! cancellation are [`Observer`]s. The pipeline knows none of them.

use std::fmt;

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// A part of a run. The white paper's four stages, with loading and the image encoder of img2img apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Checkpoint files to weights in memory.
    Load,
    /// Prompts to context and pooled embedding.
    TextEncode,
    /// Initial image to latents (img2img only).
    VaeEncode,
    /// Noise to latents, step by step.
    Denoise,
    /// Latents to pixels.
    VaeDecode,
    /// Pixels to 8-bit RGB.
    PostProcess,
}

impl Stage {
    /// All stages in the order of a run.
    pub const ALL: [Stage; 6] = [
        Stage::Load,
        Stage::TextEncode,
        Stage::VaeEncode,
        Stage::Denoise,
        Stage::VaeDecode,
        Stage::PostProcess,
    ];

    /// The stage's name in reports: `text_encode`, `denoise`, …
    pub fn name(self) -> &'static str {
        match self {
            Stage::Load => "load",
            Stage::TextEncode => "text_encode",
            Stage::VaeEncode => "vae_encode",
            Stage::Denoise => "denoise",
            Stage::VaeDecode => "vae_decode",
            Stage::PostProcess => "post_process",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Something that happened in a run.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A stage begins and will take `steps` steps (components to load, denoising steps, tiles; at least 1).
    StageBegin {
        /// Which.
        stage: Stage,
        /// How many steps it has.
        steps: usize,
    },
    /// Step `step` (from 0) of a stage begins.
    StepBegin {
        /// Which stage.
        stage: Stage,
        /// Counted from 0.
        step: usize,
    },
    /// Step `step` of a stage ended.
    StepEnd {
        /// Which stage.
        stage: Stage,
        /// Counted from 0.
        step: usize,
    },
    /// A stage ended.
    StageEnd {
        /// Which.
        stage: Stage,
    },
    /// A stage's result overflowed in half precision: it is made once more, without steps, in `dtype`,
    /// and whatever follows in that stage too.
    Retry {
        /// Which stage.
        stage: Stage,
        /// A type with float32's range.
        dtype: DType,
    },
    /// A result worth a look, under the name it has in a dump (`context`, `latents_000`, `pixels` …).
    Tensor {
        /// Its name.
        name: &'a str,
        /// Its value, on the run's device and in the run's type.
        value: &'a Tensor,
    },
}

/// Watches a run, from whatever thread runs it. An error ends it; that is how a run is cancelled.
pub trait Observer: Send {
    /// Called synchronously at each event.
    fn on(&mut self, event: Event<'_>) -> Result<()>;
}

/// Watches nothing.
impl Observer for () {
    fn on(&mut self, _: Event<'_>) -> Result<()> {
        Ok(())
    }
}

/// Several observers, told in order.
impl Observer for Vec<Box<dyn Observer + '_>> {
    fn on(&mut self, event: Event<'_>) -> Result<()> {
        self.iter_mut().try_for_each(|observer| observer.on(event))
    }
}

impl<O: Observer + ?Sized> Observer for &mut O {
    fn on(&mut self, event: Event<'_>) -> Result<()> {
        (**self).on(event)
    }
}

/// Runs `body` as one stage of `steps` steps, announced before and after.
pub fn stage<T>(
    observer: &mut dyn Observer,
    stage: Stage,
    steps: usize,
    body: impl FnOnce(&mut dyn Observer) -> Result<T>,
) -> Result<T> {
    observer.on(Event::StageBegin { stage, steps })?;
    let value = body(observer)?;
    observer.on(Event::StageEnd { stage })?;
    Ok(value)
}

/// Runs `body` as one step of a stage, announced before and after.
pub fn step<T>(
    observer: &mut dyn Observer,
    stage: Stage,
    step: usize,
    body: impl FnOnce(&mut dyn Observer) -> Result<T>,
) -> Result<T> {
    observer.on(Event::StepBegin { stage, step })?;
    let value = body(observer)?;
    observer.on(Event::StepEnd { stage, step })?;
    Ok(value)
}
