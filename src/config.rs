//! Component configs, read from the checkpoint's own JSON.
//!
//! Each config parses everything that changes what the network computes, and refuses a setting this
//! engine does not run, by name. Keys that change nothing at inference (dropout, initialisers) are
//! ignored. Defaults for absent keys are the reference classes' own.

mod clip;
mod unet;
mod vae;

pub use clip::ClipConfig;
pub use unet::{LevelConfig, TransformerConfig, UnetConfig};
pub use vae::VaeConfig;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::weights::folder::Folder;

/// The file that every component keeps its settings in.
pub const FILE: &str = "config.json";

/// One value for all levels, or one for each.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum PerLevel<T> {
    /// By level, from the finest. (Tried first: where T may itself be a list, a list is one by level.)
    Each(Vec<T>),
    /// The same everywhere.
    One(T),
}

impl<T: Clone> PerLevel<T> {
    fn expand(&self, levels: usize, key: &str) -> Result<Vec<T>, String> {
        match self {
            PerLevel::One(value) => Ok(vec![value.clone(); levels]),
            PerLevel::Each(values) if values.len() == levels => Ok(values.clone()),
            PerLevel::Each(values) => Err(format!(
                "`{key}` has {} entries for {levels} levels",
                values.len()
            )),
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(
    folder: &Folder,
    check: impl FnOnce(&T) -> Result<(), String>,
) -> Result<T> {
    let config: T = folder.json(FILE)?;
    check(&config).map_err(|problem| Error::checkpoint(folder.describe(FILE), problem))?;
    Ok(config)
}

/// `key` must be one of `known`.
fn one_of(key: &str, value: &str, known: &[&str]) -> Result<(), String> {
    if known.contains(&value) {
        return Ok(());
    }
    Err(format!(
        "`{key}` is `{value}`; supported: {}",
        known.join(", ")
    ))
}

/// Far above any size of these networks, far below where a product of a few would overflow.
const MAX_SIZE: usize = 1 << 20;

/// More would make a pixel's worth of latents wider than any image.
const MAX_LEVELS: usize = 16;

/// Sizes must be from 1 to [`MAX_SIZE`].
fn sizes(values: &[(&str, usize)]) -> Result<(), String> {
    match values.iter().find(|(_, v)| !(1..=MAX_SIZE).contains(v)) {
        Some((key, value)) => Err(format!("`{key}` is {value}, not from 1 to {MAX_SIZE}")),
        None => Ok(()),
    }
}

/// The channels of each level, from 1 to [`MAX_LEVELS`] levels.
fn levels(channels: &[usize]) -> Result<(), String> {
    if !(1..=MAX_LEVELS).contains(&channels.len()) {
        return Err(format!(
            "`block_out_channels` has {} levels, not from 1 to {MAX_LEVELS}",
            channels.len()
        ));
    }
    channels
        .iter()
        .try_for_each(|&width| sizes(&[("block_out_channels", width)]))
}

fn above_zero(key: &str, value: f64) -> Result<(), String> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(format!("`{key}` is {value}, not above 0"))
}

fn divides(key: &str, divisor: usize, of: &str, value: usize) -> Result<(), String> {
    if divisor > 0 && value.is_multiple_of(divisor) {
        return Ok(());
    }
    Err(format!("`{key}` {divisor} does not divide {of} {value}"))
}

// Defaults that several configs share.

fn four() -> usize {
    4
}
fn yes() -> bool {
    true
}
fn silu() -> String {
    "silu".into()
}
