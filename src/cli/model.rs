//! From `--model` to a checkpoint and the defaults that a request takes from it.

use std::path::Path;

use super::models::FetchProgress;
use crate::config::{UnetConfig, VaeConfig};
use crate::error::{Error, Result};
use crate::request::Size;
use crate::scheduler::{SchedulerKind, TimestepSpacing};
use crate::weights::checkpoint::{Checkpoint, Component};
use crate::weights::fetch::{self, FetchEvent, FetchOptions};
use crate::weights::folder::Folder;
use crate::weights::manifest::{Manifest, ManifestError, Model, Source};
use crate::weights::synthetic;
use anyhow::Context;

/// The model where none is named: it is in the binary.
pub const DEFAULT_MODEL: &str = "micro";
/// Steps and guidance of diffusers' pipeline, for a folder that names none.
const DIFFUSERS_STEPS: usize = 50;
const DIFFUSERS_GUIDANCE: f64 = 5.0;

/// What a request gets where nothing was said.
#[derive(Clone, Debug)]
pub struct Defaults {
    pub size: Size,
    pub steps: usize,
    pub guidance: f64,
    pub scheduler: Option<SchedulerKind>,
    pub timestep_spacing: Option<TimestepSpacing>,
}

/// A model that was found, not yet fetched.
pub enum Found {
    /// An entry of the manifest.
    Named(Box<Manifest>, Model),
    /// A folder, opened.
    Folder(String, Checkpoint),
    /// Made up, with the defaults of the manifest's entry if it is named like one.
    Synthetic(String, Option<Model>, Checkpoint),
}

/// Before a model's name or folder, asks for its shapes with made-up weights.
const SYNTHETIC: &str = "synthetic:";

/// Finds a model by name, else as a folder.
pub fn find(manifest: Manifest, name: &str) -> Result<Found> {
    if let Some(shapes) = name.strip_prefix(SYNTHETIC) {
        return find_synthetic(&manifest, shapes);
    }
    let unknown = match manifest.model(name) {
        Ok(model) => {
            let model = model.clone();
            return Ok(Found::Named(Box::new(manifest), model));
        }
        Err(unknown @ ManifestError::UnknownModel { .. }) => unknown,
        Err(other) => return Err(other.into()),
    };
    let path = Path::new(name);
    match path.is_dir() || name.contains(std::path::is_separator) {
        true => Ok(Found::Folder(name.to_owned(), Checkpoint::open(path)?)),
        false => Err(unknown.into()),
    }
}

fn find_synthetic(manifest: &Manifest, name: &str) -> Result<Found> {
    let model = manifest.model(name).ok();
    if let Some(model) = model
        && let Some(configs) = synthetic::models::folder(&model.name)
    {
        let name = format!("{SYNTHETIC}{}", model.name);
        let checkpoint = Checkpoint::synthetic(&configs)?;
        return Ok(Found::Synthetic(name, Some(model.clone()), checkpoint));
    }
    let path = Path::new(name);
    if !path.is_dir() {
        let known = synthetic::models::NAMES.join(", ");
        return Err(Error::checkpoint(
            format!("{SYNTHETIC}{name}"),
            format!("`{name}` is neither one of {known} nor a folder in diffusers' layout"),
        ));
    }
    let checkpoint = Checkpoint::synthetic(&Folder::Disk(path.to_owned()))?;
    let name = format!("{SYNTHETIC}{name}");
    Ok(Found::Synthetic(name, None, checkpoint))
}

impl Found {
    /// What a request calls it.
    pub fn name(&self) -> &str {
        match self {
            Found::Named(_, model) => &model.name,
            Found::Folder(name, _) | Found::Synthetic(name, ..) => name,
        }
    }

    /// Its defaults, before anything is fetched.
    pub fn defaults(&self) -> anyhow::Result<Defaults> {
        match self {
            Found::Named(_, model) | Found::Synthetic(_, Some(model), _) => {
                let known = model.defaults.as_ref().ok_or_else(|| {
                    Error::Request(format!(
                        "`{}` is a part of other models and draws nothing by itself",
                        model.name
                    ))
                })?;
                let spacing = known.timestep_spacing.as_deref().map(spacing).transpose()?;
                Ok(Defaults {
                    size: Size {
                        height_px: known.height as usize,
                        width_px: known.width as usize,
                    },
                    steps: known.steps as usize,
                    guidance: known.guidance,
                    scheduler: Some(known.scheduler.parse().map_err(Error::from)?),
                    timestep_spacing: spacing,
                })
            }
            Found::Folder(_, checkpoint) | Found::Synthetic(_, None, checkpoint) => Ok(Defaults {
                size: default_size(checkpoint)?,
                steps: DIFFUSERS_STEPS,
                guidance: DIFFUSERS_GUIDANCE,
                scheduler: None,
                timestep_spacing: None,
            }),
        }
    }

    /// Its configs, fetched never; its weights may be absent.
    pub fn configs(self, half: bool) -> anyhow::Result<Checkpoint> {
        let (manifest, model) = match &self {
            Found::Named(manifest, model) if model.source != Source::Embedded => (manifest, model),
            _ => return self.checkpoint(half, true, true),
        };
        let options = FetchOptions::from_env().map_err(Error::from)?;
        let files = fetch::cached_settings(manifest, model, &options).map_err(Error::from)?;
        let Some(files) = files else {
            let name = &model.name;
            let mut problem = format!(
                "its configs are not in the cache; `darkroom models fetch {name}` brings it"
            );
            if synthetic::models::folder(name).is_some() {
                problem += &format!(
                    ", and `--model {SYNTHETIC}{name}` has the same shapes and is in this binary"
                );
            }
            return Err(Error::checkpoint(name, problem).into());
        };
        Checkpoint::from_files(&files, half).with_context(|| format!("model `{}`", model.name))
    }

    /// Its files, fetched if they are not here.
    pub fn checkpoint(self, half: bool, offline: bool, quiet: bool) -> anyhow::Result<Checkpoint> {
        let (manifest, model) = match self {
            Found::Folder(_, checkpoint) | Found::Synthetic(_, _, checkpoint) => {
                return Ok(checkpoint);
            }
            Found::Named(manifest, model) => (manifest, model),
        };
        if model.source == Source::Embedded {
            return Ok(Checkpoint::micro()?);
        }
        let mut options = FetchOptions::from_env().map_err(Error::from)?;
        options.offline |= offline;
        let mut progress = FetchProgress::new();
        let mut show = |event: FetchEvent<'_>| {
            // The licence and warnings are not progress.
            if !quiet || matches!(event, FetchEvent::Licence { .. } | FetchEvent::Warning(_)) {
                progress.on(&event);
            }
        };
        let files = fetch::fetch(&manifest, &model, &options, &mut show).map_err(Error::from)?;
        progress.finish();
        Checkpoint::from_files(&files, half).with_context(|| format!("model `{}`", model.name))
    }
}

fn spacing(name: &str) -> anyhow::Result<TimestepSpacing> {
    serde_json::from_value(name.into())
        .with_context(|| format!("weights.toml: `{name}` is not a timestep spacing"))
}

/// The size that the model was made for, where its config names one.
fn default_size(checkpoint: &Checkpoint) -> Result<Size> {
    let unet = UnetConfig::load(checkpoint.folder(Component::Unet)?)?;
    let factor = VaeConfig::load(checkpoint.folder(Component::Vae)?)?.factor();
    let [height, width] = unet.sample_size.ok_or_else(|| {
        Error::Request("this model's config names no size: give --width and --height".into())
    })?;
    Ok(Size {
        height_px: height * factor,
        width_px: width * factor,
    })
}
