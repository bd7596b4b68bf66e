//! A model: components in diffusers' folder layout, their weights from files or made up.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use serde::Deserialize;

use super::fetch::{ModelFiles, PartFiles};
use super::fingerprint::{self, ModelFile};
use super::folder::Folder;
pub use super::manifest::Component;
use super::mapped::Mapped;
use super::micro;
use super::synthetic::{self, Synthetic};
use crate::error::{Error, Result};
use crate::quant::QuantConfig;

/// `model_index.json`: which parts a model has.
#[derive(Clone, Debug, Deserialize)]
struct ModelIndex {
    #[serde(rename = "_class_name")]
    class_name: Option<String>,
    /// No negative prompt stands for zeros, not for an empty text.
    #[serde(default = "yes")]
    force_zeros_for_empty_prompt: bool,
    #[serde(flatten)]
    rest: HashMap<String, serde_json::Value>,
}

fn yes() -> bool {
    true
}

/// Pipelines whose parts this engine runs.
const PIPELINES: [&str; 3] = [
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
];

/// One component's files.
#[derive(Clone, Debug)]
struct Part {
    /// Holds its config or vocabulary, and its weights unless they are listed.
    folder: Folder,
    /// Its weight files (folder, name), where they are known rather than found in the folder.
    weights: Vec<(Folder, String)>,
}

impl Part {
    /// In a model's folder.
    fn of(root: &Folder, component: Component) -> Self {
        Self {
            folder: root.join(component.name()),
            weights: Vec::new(),
        }
    }

    fn fetched(files: &PartFiles) -> Self {
        let split = |path: &Path| {
            let folder = path.parent().unwrap_or(Path::new("")).to_owned();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            (Folder::Disk(folder), name)
        };
        Self {
            folder: Folder::Disk(files.folder.clone()),
            weights: files.weights.iter().map(|path| split(path)).collect(),
        }
    }
}

/// A model ready to be loaded: where each component lies, and the model's own settings.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Holds `model_index.json`.
    root: Folder,
    index: ModelIndex,
    parts: HashMap<Component, Part>,
    /// Weights are made up, and files of weights not asked for.
    synthetic: bool,
}

const INDEX: &str = "model_index.json";

const COMPONENTS: [Component; 7] = [
    Component::Scheduler,
    Component::Tokenizer,
    Component::Tokenizer2,
    Component::TextEncoder,
    Component::TextEncoder2,
    Component::Unet,
    Component::Vae,
];

impl Checkpoint {
    /// A folder in diffusers' layout, on disk.
    pub fn open(folder: &Path) -> Result<Self> {
        if folder.is_file() {
            return Err(Error::checkpoint(
                folder.display(),
                "a single file, not a folder in diffusers' layout: convert it with diffusers",
            ));
        }
        if !folder.is_dir() {
            return Err(Error::checkpoint(folder.display(), "not a folder"));
        }
        Self::from_folder(&Folder::Disk(folder.to_owned()))
    }

    /// The model in the binary.
    pub fn micro() -> Result<Self> {
        Self::from_folder(&micro::folder())
    }

    /// A folder in diffusers' layout.
    pub fn from_folder(root: &Folder) -> Result<Self> {
        Self::new(root, COMPONENTS.map(|c| (c, Part::of(root, c))).into())
    }

    /// The configs of a folder in diffusers' layout, with made-up weights. A tokenizer that the folder
    /// lacks is micro's: CLIP's vocabulary, padded as SDXL pads.
    pub fn synthetic(root: &Folder) -> Result<Self> {
        let mut model = Self::from_folder(root)?;
        for tokenizer in [Component::Tokenizer, Component::Tokenizer2] {
            if root.join(tokenizer.name()).names().is_empty() {
                let part = Part::of(&micro::folder(), tokenizer);
                model.parts.insert(tokenizer, part);
            }
        }
        Ok(Self {
            synthetic: true,
            ..model
        })
    }

    /// A fetched model, whose components may come from several repositories. With `half`, the VAE
    /// that can be run in half precision takes the place of one that cannot.
    pub fn from_files(files: &ModelFiles, half: bool) -> Result<Self> {
        let Some(index) = files.part(Component::ModelIndex) else {
            return Err(Error::checkpoint(
                &files.model,
                format!("fetched without {INDEX}"),
            ));
        };
        let mut parts: HashMap<_, _> = files
            .parts
            .iter()
            .map(|(c, files)| (*c, Part::fetched(files)))
            .collect();
        if let Some(vae) = files.vae_f16.as_ref().filter(|_| half) {
            parts.insert(Component::Vae, Part::fetched(vae));
        }
        Self::new(&Folder::Disk(index.folder.clone()), parts)
    }

    fn new(root: &Folder, parts: HashMap<Component, Part>) -> Result<Self> {
        if !root.has(INDEX) {
            let names = root.names();
            let single = names
                .iter()
                .find(|n| n.ends_with(".safetensors") || is_pickle(n));
            let hint = match single {
                Some(file) => format!("; `{file}` alone is not enough: convert it with diffusers"),
                None => String::new(),
            };
            return Err(Error::checkpoint(
                root.describe(INDEX),
                format!("missing; a model folder in diffusers' layout has it{hint}"),
            ));
        }
        let index: ModelIndex = root.json(INDEX)?;
        if let Some(class) = &index.class_name
            && !PIPELINES.contains(&class.as_str())
        {
            return Err(Error::checkpoint(
                root.describe(INDEX),
                format!(
                    "`{class}` is not an SDXL pipeline; known: {}",
                    PIPELINES.join(", ")
                ),
            ));
        }
        Ok(Self {
            root: root.clone(),
            index,
            parts,
            synthetic: false,
        })
    }

    /// Whether the model has this part (the refiner has one text encoder only).
    pub fn has(&self, component: Component) -> bool {
        let absent = match self.index.rest.get(component.name()) {
            Some(serde_json::Value::Array(entry)) => entry.iter().all(serde_json::Value::is_null),
            Some(serde_json::Value::Null) => true,
            _ => false,
        };
        !absent && self.parts.contains_key(&component)
    }

    fn part(&self, component: Component) -> Result<&Part> {
        self.parts
            .get(&component)
            .ok_or_else(|| Error::checkpoint(component.name(), "this model has no such part"))
    }

    /// Where a part's config or vocabulary lies.
    pub fn folder(&self, component: Component) -> Result<&Folder> {
        self.part(component).map(|part| &part.folder)
    }

    /// Whether no negative prompt stands for zeros rather than for an empty text.
    pub fn force_zeros_for_empty_prompt(&self) -> bool {
        self.index.force_zeros_for_empty_prompt
    }

    /// Whether the weights are made up.
    pub fn is_synthetic(&self) -> bool {
        self.synthetic
    }

    /// A part's weights: mapped and converted to `dtype`, or made up in it, tensor by tensor as a
    /// network takes them.
    pub fn weights(
        &self,
        component: Component,
        dtype: DType,
        device: &Device,
    ) -> Result<VarBuilder<'static>> {
        let weights = self.backend(component)?;
        Ok(VarBuilder::from_backend(weights, dtype, device.clone()))
    }

    /// The same before a number type is chosen.
    pub fn backend(&self, component: Component) -> Result<Box<dyn SimpleBackend>> {
        Ok(match self.synthetic {
            true => Box::new(Synthetic { component }),
            false => Box::new(self.mapped(component)?),
        })
    }

    /// A part's tensors as its files hold them.
    ///
    /// # Errors
    /// Files that are missing or broken; a model whose weights are made up and in no file.
    pub fn mapped(&self, component: Component) -> Result<Mapped> {
        if self.synthetic {
            return Err(Error::checkpoint(
                component,
                "its weights are made up and in no file; --quant quantises them as they are made",
            ));
        }
        let mut weights = Mapped::default();
        for (folder, name) in self.weight_files(component)? {
            weights.add(&folder, &name)?;
        }
        Ok(weights)
    }

    /// How the UNet is quantised in its files, if it is.
    ///
    /// # Errors
    /// Another form of quantisation, or one of another part.
    pub fn quantisation(&self) -> Result<Option<QuantConfig>> {
        let others = [
            Component::TextEncoder,
            Component::TextEncoder2,
            Component::Vae,
        ];
        for part in others.into_iter().filter(|&part| self.has(part)) {
            let folder = self.folder(part)?;
            if QuantConfig::read(folder)?.is_some() {
                return Err(Error::checkpoint(
                    folder.describe(crate::config::FILE),
                    "quantised, but only the UNet's int8 weights are read",
                ));
            }
        }
        QuantConfig::read(self.folder(Component::Unet)?)
    }

    /// Folder and name of each weight file of a part.
    fn weight_files(&self, component: Component) -> Result<Vec<(Folder, String)>> {
        let part = self.part(component)?;
        if !part.weights.is_empty() {
            return Ok(part.weights.clone());
        }
        let found = weight_files(&part.folder, component)?;
        Ok(found
            .into_iter()
            .map(|name| (part.folder.clone(), name))
            .collect())
    }

    /// SHA-256, in hex, that tells this model's files from others': the same wherever they lie.
    ///
    /// It covers `model_index.json` and, of each part that the model has, the configs, vocabulary
    /// and weights that the engine reads, by name and content. A file of more than 64 MiB is told by
    /// its size, its first MiB and the first 4 KiB of each further MiB, so that 7 GB take about a
    /// second on a solid-state disk. Training, merging or another number type changes nearly every
    /// value and is noticed; an edit of a few values, or of a tensor smaller than 1 MiB, can lie
    /// between the samples and slip through.
    ///
    /// Made-up weights count by their generator's version: `synthetic-1-` and the SHA-256.
    pub fn fingerprint(&self) -> Result<String> {
        let sha256 = fingerprint::of(&self.model_files()?)?;
        Ok(match self.synthetic {
            true => format!("synthetic-{}-{sha256}", synthetic::VERSION),
            false => sha256,
        })
    }

    /// Component, folder and name of each file that the engine reads of this model.
    pub fn files(&self) -> Result<Vec<(Component, Folder, String)>> {
        let files = self.model_files()?;
        Ok(files
            .into_iter()
            .map(|file| (file.component, file.folder, file.name))
            .collect())
    }

    fn model_files(&self) -> Result<Vec<ModelFile>> {
        let mut files = Vec::new();
        let parts = COMPONENTS.into_iter().filter(|&c| self.has(c));
        for component in std::iter::once(Component::ModelIndex).chain(parts) {
            let folder = match component {
                Component::ModelIndex => &self.root,
                part => self.folder(part)?,
            };
            let mut add = |folder: &Folder, name: String| {
                let folder = folder.clone();
                files.push(ModelFile {
                    component,
                    folder,
                    name,
                });
            };
            for name in fingerprint::settings(component, folder) {
                add(folder, name.to_owned());
            }
            if fingerprint::is_network(component) && !self.synthetic {
                for (folder, name) in self.weight_files(component)? {
                    add(&folder, name);
                }
            }
        }
        Ok(files)
    }
}

fn is_pickle(name: &str) -> bool {
    [".bin", ".ckpt", ".pt", ".pth", ".pkl"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// A sharded component's `*.safetensors.index.json`.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: HashMap<String, String>,
}

/// The weight files of a component: one, or the shards that its index names.
fn weight_files(folder: &Folder, component: Component) -> Result<Vec<String>> {
    let stem = match component {
        Component::TextEncoder | Component::TextEncoder2 => "model",
        _ => "diffusion_pytorch_model",
    };
    // The plain file comes first, then the common half-precision variant.
    let infixes = ["", ".fp16"];
    for infix in infixes {
        let single = format!("{stem}{infix}.safetensors");
        if folder.has(&single) {
            return Ok(vec![single]);
        }
        for index in [
            format!("{stem}.safetensors.index{infix}.json"),
            format!("{single}.index.json"),
        ] {
            if folder.has(&index) {
                let ShardIndex { weight_map } = folder.json(&index)?;
                let mut files: Vec<String> = weight_map.into_values().collect();
                files.sort();
                files.dedup();
                if files.is_empty() {
                    return Err(Error::checkpoint(
                        folder.describe(&index),
                        "names no weight file",
                    ));
                }
                // A plain name: no separator of any system, and not `..`.
                let outside = |f: &&String| f.contains(['/', '\\']) || f.starts_with('.');
                if let Some(bad) = files.iter().find(outside) {
                    return Err(Error::checkpoint(
                        folder.describe(&index),
                        format!("names `{bad}`, which lies outside the folder"),
                    ));
                }
                return Ok(files);
            }
        }
    }
    let wanted = format!("{stem}.safetensors");
    match folder.names().into_iter().find(|name| is_pickle(name)) {
        Some(pickle) => Err(Error::checkpoint(
            folder.describe(&pickle),
            format!(
                "a pickle file: loading it would run code that it carries, so it is refused; save \
                 the model with safe serialisation, as {wanted}"
            ),
        )),
        None => Err(Error::checkpoint(
            folder.describe(&wanted),
            "missing; a checkpoint folder in diffusers' layout has it (or its shards with an index)",
        )),
    }
}
