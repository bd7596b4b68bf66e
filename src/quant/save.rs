//! Writes a checkpoint anew with the UNet's weights in int8, one tensor at a time.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;

use candle_core::{DType, Tensor};
use safetensors::Dtype;
use safetensors::tensor::View;

use super::stored::{KEY, QuantConfig};
use super::{Scheme, Selection, Smoothing, SmoothingConfig, quantise_tensor};
use crate::config::FILE;
use crate::error::{Error, Result};
use crate::ops::weight::SCALE;
use crate::weights::checkpoint::{Checkpoint, Component};
use crate::weights::mapped::Mapped;

/// The UNet's file in diffusers' layout.
const UNET_FILE: &str = "diffusion_pytorch_model.safetensors";

/// What was written.
#[derive(Clone, Debug, Default)]
pub struct Saved {
    /// Layers in int8.
    pub int8_layers: usize,
    /// Layers with a matrix or convolution that stay in floating point.
    pub float_layers: usize,
    /// Bytes of the UNet's tensors before and after.
    pub unet_bytes: [u64; 2],
}

/// Writes `checkpoint` into the new folder `out`, its UNet in int8. `on_tensor` is told how many of
/// the UNet's tensors are done; its error ends the work. Nothing is left of a run that fails.
///
/// # Errors
/// A checkpoint without files or already quantised, a name to be kept that no layer has, a weight
/// that is not finite, a disk that takes no more.
pub fn save(
    checkpoint: &Checkpoint,
    scheme: Scheme,
    selection: &Selection,
    smoothing: Option<(&Smoothing, SmoothingConfig)>,
    out: &Path,
    on_tensor: &(dyn Fn(usize, usize) -> Result<()> + Sync),
) -> Result<Saved> {
    let source = checkpoint.folder(Component::Unet)?;
    if QuantConfig::read(source)?.is_some() {
        return Err(Error::checkpoint(
            source.describe(FILE),
            "is quantised already: take the model that it was made from",
        ));
    }
    let mapped = checkpoint.mapped(Component::Unet)?;
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let unwritten = |e: std::io::Error| Error::file(out, format!("not written: {e}"));
    std::fs::create_dir_all(parent).map_err(unwritten)?;
    let folder = tempfile::Builder::new()
        .prefix(".darkroom-")
        .tempdir_in(parent)
        .map_err(unwritten)?;
    for (component, from, name) in checkpoint.files()? {
        let into = match component {
            Component::ModelIndex => folder.path().to_owned(),
            other => folder.path().join(other.name()),
        };
        std::fs::create_dir_all(&into).map_err(unwritten)?;
        if component == Component::Unet {
            continue; // written below
        }
        std::fs::write(into.join(&name), from.map(&name)?.as_ref()).map_err(unwritten)?;
    }
    let unet = folder.path().join(Component::Unet.name());
    let factors = smoothing.map(|(factors, _)| factors);
    let path = unet.join(UNET_FILE);
    let saved = write_unet(&mapped, selection, factors, &path, on_tensor)?;
    if let Some(factors) = factors {
        factors.write(&unet)?;
    }
    let mut config: serde_json::Value = source.json(FILE)?;
    let smoothing = smoothing.map(|(_, config)| config);
    let quant = QuantConfig::new(scheme, selection.kept().to_vec(), smoothing);
    config[KEY] = serde_json::to_value(quant).expect("names and numbers only");
    let text = serde_json::to_string_pretty(&config).expect("it was JSON before");
    std::fs::write(unet.join(FILE), text + "\n").map_err(unwritten)?;
    // Whoever may read the config may read the weights, which are written for their owner alone.
    let mode = std::fs::metadata(unet.join(FILE))
        .map_err(unwritten)?
        .permissions();
    for file in std::fs::read_dir(&unet).map_err(unwritten)? {
        let path = file.map_err(unwritten)?.path();
        std::fs::set_permissions(path, mode.clone()).map_err(unwritten)?;
    }
    // An empty folder of this name may be there.
    std::fs::rename(folder.path(), out).map_err(|e| match out.exists() {
        true => Error::file(
            out,
            "exists already and is not empty: -o names another folder",
        ),
        false => unwritten(e),
    })?;
    std::mem::forget(folder); // it has another name now; nothing is to be removed
    Ok(saved)
}

fn write_unet(
    mapped: &Mapped,
    selection: &Selection,
    smoothing: Option<&Smoothing>,
    path: &Path,
    on_tensor: &(dyn Fn(usize, usize) -> Result<()> + Sync),
) -> Result<Saved> {
    let mut saved = Saved::default();
    let state = State {
        mapped,
        smoothing,
        scales: Mutex::default(),
        done: Mutex::new((0, None)),
        total: mapped.tensors().count(),
        on_tensor,
    };
    let mut views = Vec::new();
    for (name, dtype, shape, bytes) in mapped.tensors() {
        saved.unet_bytes[0] += bytes.len() as u64;
        let layer = name.strip_suffix(".weight").filter(|_| shape.len() >= 2);
        let view = |name: String, dtype, shape: &[usize], kind| {
            let view = Lazy {
                state: &state,
                dtype,
                shape: shape.to_vec(),
                kind,
            };
            (name, view)
        };
        match layer {
            Some(layer) if selection.selects(layer) => {
                saved.int8_layers += 1;
                let kind = Kind::Int8(name.to_owned());
                views.push(view(name.to_owned(), Dtype::I8, shape, kind));
                let kind = Kind::Scales(name.to_owned());
                let name = format!("{layer}.{SCALE}");
                views.push(view(name, Dtype::F32, &shape[..1], kind));
            }
            _ => {
                saved.float_layers += usize::from(layer.is_some());
                let changed = smoothing.is_some_and(|s| s.changes(name));
                let kind = match changed {
                    true => Kind::Folded(name.to_owned()),
                    false => Kind::Same(bytes),
                };
                views.push(view(name.to_owned(), dtype, shape, kind));
            }
        }
    }
    selection.check(mapped.tensors().map(|(name, ..)| name))?;
    saved.unet_bytes[1] = views.iter().map(|(_, view)| view.data_len() as u64).sum();
    let written = safetensors::serialize_to_file(views, None, path);
    let (_, failure) = state
        .done
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    match (failure, written) {
        (Some(error), _) => Err(error),
        (None, written) => written
            .map(|()| saved)
            .map_err(|e| Error::file(path, format!("not written: {e}"))),
    }
}

/// What the tensors being written share.
struct State<'a> {
    mapped: &'a Mapped,
    smoothing: Option<&'a Smoothing>,
    /// Scales of weights by name: computed with the integers or before them.
    scales: Mutex<HashMap<String, Vec<f32>>>,
    /// Tensors written, and the first failure: a [`View`] has no way to report one.
    done: Mutex<(usize, Option<Error>)>,
    total: usize,
    on_tensor: &'a (dyn Fn(usize, usize) -> Result<()> + Sync),
}

/// A tensor that is computed when it is written.
struct Lazy<'a> {
    state: &'a State<'a>,
    dtype: Dtype,
    shape: Vec<usize>,
    kind: Kind<'a>,
}

enum Kind<'a> {
    /// As in the source.
    Same(&'a [u8]),
    /// Smoothed, in the source's type.
    Folded(String),
    /// The integers of the weight of this name.
    Int8(String),
    /// Its scales.
    Scales(String),
}

impl State<'_> {
    /// A tensor in float32, smoothed where that is asked for.
    fn whole(&self, name: &str) -> Result<Tensor> {
        let tensor = self.mapped.whole(name, DType::F32)?;
        Ok(match self.smoothing.filter(|s| s.changes(name)) {
            Some(smoothing) => smoothing.fold(name, tensor)?,
            None => tensor,
        })
    }

    /// Quantises a weight, keeps its scales.
    fn quantise(&self, name: &str, outputs: usize) -> Result<Vec<i8>> {
        let weight = self.whole(name)?;
        let (values, scales) = quantise_tensor(&weight, outputs)?;
        if scales.iter().any(|scale| !scale.is_finite()) {
            let problem = format!("tensor `{name}` holds NaN or infinity, which int8 cannot keep");
            return Err(Error::checkpoint(self.mapped.place(), problem));
        }
        lock(&self.scales).insert(name.to_owned(), scales);
        Ok(values)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Lazy<'_> {
    fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        let outputs = self.shape[0];
        Ok(match &self.kind {
            Kind::Same(bytes) => Cow::Borrowed(bytes),
            Kind::Folded(name) => {
                let dtype = candle_core::DType::try_from(self.dtype)?;
                let tensor = self.state.whole(name)?.to_dtype(dtype)?;
                Cow::Owned(safetensors::View::data(&tensor).into_owned())
            }
            Kind::Int8(name) => {
                let values = self.state.quantise(name, outputs)?;
                Cow::Owned(values.into_iter().map(|v| v as u8).collect())
            }
            Kind::Scales(name) => {
                if !lock(&self.state.scales).contains_key(name) {
                    self.state.quantise(name, outputs)?;
                }
                let scales = lock(&self.state.scales).get(name).cloned();
                let bytes = scales.unwrap_or_default();
                Cow::Owned(bytes.iter().flat_map(|s| s.to_le_bytes()).collect())
            }
        })
    }
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if lock(&self.state.done).1.is_some() {
            return Cow::Owned(vec![0; self.data_len()]); // the file is thrown away
        }
        let bytes = self.bytes().and_then(|bytes| {
            let done = {
                let mut done = lock(&self.state.done);
                done.0 += usize::from(!matches!(self.kind, Kind::Scales(_)));
                done.0
            };
            (self.state.on_tensor)(done, self.state.total)?;
            Ok(bytes)
        });
        bytes.unwrap_or_else(|error| {
            lock(&self.state.done).1 = Some(error);
            Cow::Owned(vec![0; self.data_len()])
        })
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}
