//! A look at the linear layers and convolutions of a network as they run.
//!
//! Idle, but for one load a layer, while nobody watches. A probe is the process's: it sees what all
//! threads run, so one watches at a time.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{Result, Tensor};

use super::int8::Scheme;
use super::{Conv2d, Linear};

/// A layer of either kind. Clones share its weight.
#[derive(Clone, Debug)]
pub enum Layer {
    /// Linear.
    Linear(Linear),
    /// Convolution.
    Conv2d(Conv2d),
}

impl Layer {
    /// Its scheme, if it is int8.
    pub fn int8(&self) -> Option<Scheme> {
        match self {
            Self::Linear(layer) => layer.int8(),
            Self::Conv2d(layer) => layer.int8(),
        }
    }

    /// Runs it; no probe sees this.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Linear(layer) => layer.forward_unseen(x),
            Self::Conv2d(layer) => layer.forward_unseen(x),
        }
    }

    /// The largest magnitude of its weights for each input, where they are floats.
    pub fn largest_weights(&self) -> Result<Option<Vec<f32>>> {
        match self {
            Self::Linear(layer) => layer.largest_weights(),
            Self::Conv2d(layer) => layer.largest_weights(),
        }
    }
}

/// A layer that has just run.
pub struct Call<'a> {
    /// Its name in the checkpoint.
    pub name: &'a str,
    /// The layer.
    pub layer: &'a dyn Fn() -> Layer,
    /// What it read: channels last.
    pub input: &'a Tensor,
    /// What it gave: channels last.
    pub output: &'a Tensor,
}

type Probe = Box<dyn FnMut(&Call) -> Result<()> + Send>;

static WATCHED: AtomicBool = AtomicBool::new(false);
static PROBE: Mutex<Option<Probe>> = Mutex::new(None);

fn lock() -> MutexGuard<'static, Option<Probe>> {
    PROBE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows `probe` every layer that `body` runs. The probe's error ends the layer that it saw.
pub fn watch<T>(probe: Probe, body: impl FnOnce() -> T) -> T {
    /// Takes the probe away even if the body panics.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            WATCHED.store(false, Relaxed);
            *lock() = None;
        }
    }
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let _end = End;
    *lock() = Some(probe);
    WATCHED.store(true, Relaxed);
    body()
}

/// Whether anybody watches.
#[cfg(feature = "cuda")]
pub(super) fn watched() -> bool {
    WATCHED.load(Relaxed)
}

/// Tells of a layer that has run; layers without a name are nobody's.
pub(super) fn tell(
    name: &str,
    layer: impl Fn() -> Layer,
    input: &Tensor,
    output: &Tensor,
) -> Result<()> {
    if !WATCHED.load(Relaxed) || name.is_empty() {
        return Ok(());
    }
    match lock().as_mut() {
        Some(probe) => probe(&Call {
            name,
            layer: &layer,
            input,
            output,
        }),
        None => Ok(()),
    }
}
