//! A model's files: components in diffusers' folder layout, tensors memory-mapped.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::SafeTensors;
use serde::Deserialize;

use super::fetch::{ModelFiles, PartFiles};
use super::fingerprint::{self, ModelFile};
use super::folder::{Bytes, Folder};
pub use super::manifest::Component;
use super::micro;
use crate::error::{Error, Result};

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
        let part = |c: Component| Part {
            folder: root.join(c.name()),
            weights: Vec::new(),
        };
        Self::new(root, COMPONENTS.map(|c| (c, part(c))).into())
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

    /// Maps a part's weights. Tensors are converted to `dtype` one by one, as a network takes them.
    pub fn weights(
        &self,
        component: Component,
        dtype: DType,
        device: &Device,
    ) -> Result<VarBuilder<'static>> {
        let mut weights = Weights::default();
        for (folder, name) in self.weight_files(component)? {
            weights.map(&folder, &name)?;
        }
        Ok(VarBuilder::from_backend(
            Box::new(weights),
            dtype,
            device.clone(),
        ))
    }

    /// The type that a part's weights are stored in (that of its largest tensor), or `None` where no
    /// weight file is there.
    pub fn stored_dtype(&self, component: Component) -> Result<Option<DType>> {
        let files = self.weight_files(component).unwrap_or_default();
        let Some((folder, name)) = files.first().filter(|(folder, name)| folder.has(name)) else {
            return Ok(None);
        };
        let wrong = |problem: String| Error::checkpoint(folder.describe(name), problem);
        let (_, header) = SafeTensors::read_metadata(folder.map(name)?.as_ref())
            .map_err(|e| wrong(format!("not a whole safetensors file: {e}")))?;
        let tensors = header.tensors();
        let largest = tensors
            .values()
            .max_by_key(|info| info.shape.iter().product::<usize>());
        largest
            .map(|info| number_type(info.dtype).map_err(wrong))
            .transpose()
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
    pub fn fingerprint(&self) -> Result<String> {
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
            if fingerprint::is_network(component) {
                for (folder, name) in self.weight_files(component)? {
                    add(&folder, name);
                }
            }
        }
        fingerprint::of(&files)
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

/// Where one tensor's bytes lie.
#[derive(Clone, Debug)]
struct Entry {
    file: usize,
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    range: std::ops::Range<usize>,
}

/// The memory-mapped tensors of a component.
#[derive(Default)]
struct Weights {
    files: Vec<(String, Bytes)>,
    entries: HashMap<String, Entry>,
}

impl Weights {
    fn map(&mut self, folder: &Folder, name: &str) -> Result<()> {
        self.add(&folder.describe(name), folder.map(name)?)
    }

    fn add(&mut self, place: &str, bytes: Bytes) -> Result<()> {
        let data = bytes.as_ref();
        let wrong = |what: String| {
            Error::checkpoint(place, format!("not a whole safetensors file: {what}"))
        };
        let tensors = SafeTensors::deserialize(data).map_err(|e| wrong(e.to_string()))?;
        for (name, view) in tensors.iter() {
            let start = view.data().as_ptr() as usize - data.as_ptr() as usize;
            let entry = Entry {
                file: self.files.len(),
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                range: start..start + view.data().len(),
            };
            self.entries.insert(name.to_owned(), entry);
        }
        self.files.push((place.to_owned(), bytes));
        Ok(())
    }

    fn place(&self) -> &str {
        self.files.first().map_or("(no file)", |(place, _)| place)
    }

    fn read(
        &self,
        name: &str,
        shape: Option<&[usize]>,
        to: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let Some(entry) = self.entries.get(name) else {
            return Err(Error::checkpoint(
                self.place(),
                format!("tensor `{name}` is missing; the config asks for it"),
            ));
        };
        let (place, bytes) = &self.files[entry.file];
        if let Some(shape) = shape
            && shape != entry.shape
        {
            return Err(Error::checkpoint(
                place,
                format!(
                    "tensor `{name}` is {:?}, the config asks for {shape:?}",
                    entry.shape
                ),
            ));
        }
        let dtype = number_type(entry.dtype)
            .map_err(|problem| Error::checkpoint(place, format!("tensor `{name}` {problem}")))?;
        let data = &bytes.as_ref()[entry.range.clone()];
        if to == DType::F32 && device.is_cpu() {
            // On all threads and by the processor's own instruction: candle has neither here.
            let widened = match dtype {
                DType::F16 => Some(widened(data, f16::from_le_bytes)),
                DType::BF16 => Some(widened(data, bf16::from_le_bytes)),
                _ => None,
            };
            if let Some(values) = widened {
                return Ok(Tensor::from_vec(values, entry.shape.as_slice(), device)?);
            }
        }
        let tensor = Tensor::from_raw_buffer(data, dtype, &entry.shape, device)?;
        Ok(tensor.to_dtype(to)?)
    }
}

/// candle's name for a type of a file's tensors.
fn number_type(dtype: safetensors::Dtype) -> Result<DType, String> {
    match dtype {
        safetensors::Dtype::F32 => Ok(DType::F32),
        safetensors::Dtype::F16 => Ok(DType::F16),
        safetensors::Dtype::BF16 => Ok(DType::BF16),
        other => Err(format!("is {other:?}; f32, f16 and bf16 are read")),
    }
}

/// Half-precision values in a file's bytes, in float32.
fn widened<H: Copy + Default>(data: &[u8], read: fn([u8; 2]) -> H) -> Vec<f32>
where
    [H]: HalfFloatSliceExt,
{
    const CHUNK: usize = 1 << 12;
    let mut out = vec![0f32; data.len() / 2];
    out.par_chunks_mut(CHUNK)
        .zip(data.par_chunks(2 * CHUNK))
        .for_each(|(out, data)| {
            let mut halves = [H::default(); CHUNK]; // a file's bytes need not be aligned
            let halves = &mut halves[..out.len()];
            for (half, bytes) in halves.iter_mut().zip(data.chunks_exact(2)) {
                *half = read([bytes[0], bytes[1]]);
            }
            halves.convert_to_f32_slice(out);
        });
    out
}

impl SimpleBackend for Weights {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.read(name, Some(shape.dims()), dtype, device)
            .map_err(carry)
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.read(name, None, dtype, device).map_err(carry)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }
}

/// Our error inside candle's; `From<candle_core::Error> for Error` takes it out again.
fn carry(error: Error) -> candle_core::Error {
    candle_core::Error::WrappedContext {
        wrapped: Box::new(error),
        context: String::new(),
    }
}
