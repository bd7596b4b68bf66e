//! The models that darkroom knows by name: `weights.toml`, read and checked.
//!
//! A [`Manifest`] that exists is sound: every alias leads to one model, every `base` and `vae_f16`
//! names a model that can stand in for it, and every file stays inside its repository's folder.

mod check;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub(crate) use check::is_sha256;

/// The manifest compiled into the binary.
const BUILTIN: &str = include_str!("../../weights.toml");
/// How errors call it.
const BUILTIN_PLACE: &str = "weights.toml";
/// The form of the file; raised when a reader of today could misread the file of tomorrow.
const SCHEMA: u32 = 1;

/// Why a manifest cannot be used, or does not know a model.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// Not TOML, a key that does not exist, or a value of the wrong type; names line and column.
    #[error("{place}: {error}")]
    Syntax {
        /// The file.
        place: String,
        /// The parser's answer.
        error: Box<toml::de::Error>,
    },
    /// Well-formed, but it cannot be meant.
    #[error("{place}: model `{model}`: {problem}")]
    Invalid {
        /// The file.
        place: String,
        /// The entry.
        model: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Written for another version of darkroom.
    #[error("{place}: schema {found} is not known; this darkroom reads schema {SCHEMA}")]
    Schema {
        /// The file.
        place: String,
        /// Its schema.
        found: u32,
    },
    /// No model has this name.
    #[error("{}", unknown_model(name, near))]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// Names and aliases that look like it, nearest first.
        near: Vec<String>,
    },
    /// The model does not come in this variant.
    #[error(
        "model `{model}` has no variant `{asked}`; it comes in {}",
        list(known)
    )]
    UnknownVariant {
        /// The model.
        model: String,
        /// What was asked for.
        asked: String,
        /// What there is.
        known: Vec<String>,
    },
}

fn unknown_model(name: &str, near: &[String]) -> String {
    let hint = match near {
        [] => ":".into(),
        near => format!("; did you mean {}?", list(near)),
    };
    format!(
        "no model is called `{name}`{hint} `darkroom models` lists the names; \
         a folder in diffusers' layout can be given too"
    )
}

fn list(names: &[String]) -> String {
    match names {
        [] => "one form only".into(),
        [one] => format!("`{one}`"),
        [head @ .., last] => format!("`{}` or `{last}`", head.join("`, `")),
    }
}

/// A part of a pipeline, named as the folder that holds it in diffusers' layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Component {
    ModelIndex,
    Scheduler,
    Tokenizer,
    #[serde(rename = "tokenizer_2")]
    Tokenizer2,
    TextEncoder,
    #[serde(rename = "text_encoder_2")]
    TextEncoder2,
    Unet,
    Vae,
}

impl Component {
    /// The name in diffusers' layout.
    pub fn name(self) -> &'static str {
        match self {
            Self::ModelIndex => "model_index",
            Self::Scheduler => "scheduler",
            Self::Tokenizer => "tokenizer",
            Self::Tokenizer2 => "tokenizer_2",
            Self::TextEncoder => "text_encoder",
            Self::TextEncoder2 => "text_encoder_2",
            Self::Unet => "unet",
            Self::Vae => "vae",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The terms a model comes under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Licence {
    /// Its name.
    pub name: String,
    /// Where its text is.
    pub url: String,
}

/// What a request gets where it does not say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Denoising steps.
    pub steps: u32,
    /// Guidance scale; 1 or less runs without guidance.
    pub guidance: f64,
    /// As `--scheduler` takes it.
    pub scheduler: String,
    /// `leading`, `linspace` or `trailing`; the checkpoint's own where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestep_spacing: Option<String>,
}

/// One file of a hub repository.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// The part it belongs to.
    pub component: Component,
    /// Its path in the repository, with `/`.
    pub path: String,
    /// The precision it holds, where the repository holds the same weights more than once.
    pub variant: Option<String>,
    /// Its size, where known.
    pub bytes: Option<u64>,
    /// Its SHA-256 in lower-case hex, where known.
    pub sha256: Option<String>,
}

impl ModelFile {
    /// Tensors, as against a configuration or a vocabulary.
    pub fn is_weights(&self) -> bool {
        self.path.ends_with(".safetensors")
    }

    /// The folder in the repository, empty for its root.
    pub fn folder(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }
}

/// A hub repository at one revision, and the files wanted from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSource {
    /// `owner/name`.
    pub repo: String,
    /// A commit, or the name of a branch or tag.
    pub revision: String,
    /// The variant taken where none is asked for.
    pub variant: Option<String>,
    /// What to take.
    pub files: Vec<ModelFile>,
}

impl HubSource {
    /// The variants that its files come in, sorted.
    pub fn variants(&self) -> Vec<String> {
        let mut variants: Vec<_> = self
            .files
            .iter()
            .filter_map(|f| f.variant.clone())
            .collect();
        variants.sort();
        variants.dedup();
        variants
    }
}

/// Where a model's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In the binary.
    Embedded,
    /// On the hub.
    Hub(HubSource),
}

/// One entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// Other names.
    pub aliases: Vec<String>,
    /// Where its files are.
    pub source: Source,
    /// Its terms.
    pub licence: Licence,
    /// For a request; absent for an entry that is only a part.
    pub defaults: Option<Defaults>,
    /// The model that supplies every part which this one lacks.
    pub base: Option<String>,
    /// The model whose VAE decodes in half precision.
    pub vae_f16: Option<String>,
}

impl Model {
    /// The hub repository, unless the model is embedded.
    pub fn hub(&self) -> Option<&HubSource> {
        match &self.source {
            Source::Embedded => None,
            Source::Hub(hub) => Some(hub),
        }
    }

    /// Whether it can draw by itself (or with its base), and is not just a part of others.
    pub fn is_pipeline(&self) -> bool {
        self.defaults.is_some()
    }
}

/// Which place of a pipeline a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// The part of that name.
    Part(Component),
    /// The VAE that stands in for the model's own in half precision.
    VaeF16,
}

/// One file that a model needs, and whose it is.
#[derive(Debug, Clone, Copy)]
pub struct PlannedFile<'a> {
    /// The place it is for.
    pub slot: Slot,
    /// The entry that lists it: the model itself, its base, or its half-precision VAE.
    pub owner: &'a Model,
    /// That entry's repository.
    pub hub: &'a HubSource,
    /// The file.
    pub file: &'a ModelFile,
}

/// The models known by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    models: BTreeMap<String, Model>,
}

impl Manifest {
    /// The manifest in the binary.
    pub fn builtin() -> Self {
        Self::parse(BUILTIN, BUILTIN_PLACE)
            .expect("tests/manifest.rs parses the weights.toml that is compiled in")
    }

    /// The manifest in the binary, with the entries of a file added, or put in their place by name.
    pub fn load(path: &Path) -> Result<Self, ManifestError> {
        let text = std::fs::read_to_string(path).map_err(|error| ManifestError::Read {
            path: path.to_owned(),
            error,
        })?;
        Self::builtin().with(&text, &path.display().to_string())
    }

    /// A manifest of its own from text; `place` names it in errors.
    pub fn parse(text: &str, place: &str) -> Result<Self, ManifestError> {
        let models = BTreeMap::new();
        Self { models }.with(text, place)
    }

    /// These entries with those of `text` added, or put in their place by name.
    pub fn with(mut self, text: &str, place: &str) -> Result<Self, ManifestError> {
        let document: Document = toml::from_str(text).map_err(|error| ManifestError::Syntax {
            place: place.to_owned(),
            error: Box::new(error),
        })?;
        if document.schema != SCHEMA {
            return Err(ManifestError::Schema {
                place: place.to_owned(),
                found: document.schema,
            });
        }
        let invalid = |(model, problem): (String, String)| ManifestError::Invalid {
            place: place.to_owned(),
            model,
            problem,
        };
        for (name, entry) in document.model {
            let model = check::model(&name, entry).map_err(|p| invalid((name.clone(), p)))?;
            self.models.insert(name, model);
        }
        check::references(&self.models).map_err(invalid)?;
        Ok(self)
    }

    /// Every model, by name.
    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.models.values()
    }

    /// The model of that name or alias.
    pub fn model(&self, name: &str) -> Result<&Model, ManifestError> {
        self.models
            .get(name)
            .or_else(|| self.models().find(|m| m.aliases.iter().any(|a| a == name)))
            .ok_or_else(|| ManifestError::UnknownModel {
                name: name.to_owned(),
                near: self.near(name),
            })
    }

    /// The files that a model needs: its own, its base's for what it lacks, and the VAE for half
    /// precision. Empty for an embedded model.
    ///
    /// A model that lists weights for a part takes only the configuration from its base, and the
    /// other way round. Of entries that come in variants, the one asked for, or their default.
    pub fn plan<'a>(
        &'a self,
        model: &'a Model,
        variant: Option<&str>,
    ) -> Result<Vec<PlannedFile<'a>>, ManifestError> {
        let base = model.base.as_ref().map(|name| &self.models[name]);
        let owners: Vec<&Model> = std::iter::once(model).chain(base).collect();
        if let Some(asked) = variant {
            let known: Vec<_> = owners
                .iter()
                .filter_map(|o| o.hub())
                .flat_map(HubSource::variants)
                .collect();
            if !known.iter().any(|k| k == asked) {
                return Err(ManifestError::UnknownVariant {
                    model: model.name.clone(),
                    asked: asked.to_owned(),
                    known,
                });
            }
        }
        let mut plan: Vec<PlannedFile<'a>> = Vec::new();
        for owner in owners {
            let earlier = plan.len();
            for file in files_of(owner, variant) {
                let kind = |f: &ModelFile| (f.component, f.is_weights());
                if plan[..earlier]
                    .iter()
                    .all(|p| kind(p.file) != kind(file.file))
                {
                    plan.push(file);
                }
            }
        }
        let vae_f16 = model
            .vae_f16
            .as_ref()
            .or(base.and_then(|b| b.vae_f16.as_ref()));
        if let Some(owner) = vae_f16.map(|name| &self.models[name]) {
            let vae = files_of(owner, variant).into_iter();
            let vae = vae.filter(|p| p.file.component == Component::Vae);
            plan.extend(vae.map(|p| PlannedFile {
                slot: Slot::VaeF16,
                ..p
            }));
        }
        Ok(plan)
    }

    /// Names and aliases like `name`, nearest first.
    fn near(&self, name: &str) -> Vec<String> {
        let wanted = name.to_lowercase();
        let limit = (wanted.chars().count() / 3).max(2);
        let mut scored: Vec<(usize, &str)> = self
            .models()
            .flat_map(|m| std::iter::once(&m.name).chain(&m.aliases))
            .map(|known| (edit_distance(&wanted, known), known.as_str()))
            .filter(|&(d, known)| d <= limit || (wanted.len() > 3 && known.contains(&wanted)))
            .collect();
        scored.sort();
        scored
            .into_iter()
            .take(4)
            .map(|(_, n)| n.to_owned())
            .collect()
    }
}

/// A model's own files: those that all variants share, and those of the variant asked for, or of its
/// default where it does not come in that one.
fn files_of<'a>(owner: &'a Model, asked: Option<&str>) -> Vec<PlannedFile<'a>> {
    let Some(hub) = owner.hub() else {
        return Vec::new();
    };
    let comes_in = |variant: &&str| hub.variants().iter().any(|v| v == variant);
    let variant = asked.filter(comes_in).or(hub.variant.as_deref());
    hub.files
        .iter()
        .filter(|f| f.variant.is_none() || f.variant.as_deref() == variant)
        .map(|file| PlannedFile {
            slot: Slot::Part(file.component),
            owner,
            hub,
            file,
        })
        .collect()
}

/// Levenshtein's distance, in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The file as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    schema: u32,
    #[serde(default)]
    model: BTreeMap<String, Entry>,
}

/// An entry as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    title: String,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    embedded: bool,
    repo: Option<String>,
    revision: Option<String>,
    licence: Licence,
    variant: Option<String>,
    base: Option<String>,
    vae_f16: Option<String>,
    defaults: Option<Defaults>,
    #[serde(default)]
    files: Vec<ModelFile>,
}
