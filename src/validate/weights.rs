//! What the networks of a checkpoint keep of its weights, tensor by tensor, without reading a value.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result as TensorResult, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

use crate::clip::ClipTextEncoder;
use crate::config::{ClipConfig, UnetConfig, VaeConfig};
use crate::error::{Error, Result};
use crate::ops::int8::{Int8Weights, Scheme};
use crate::ops::weight::{INT8_ACTIVATIONS, SCALE};
use crate::ops::{OUTPUTS_LAST, Turn};
use crate::pipeline::{text_towers, unet_weights, vae_dtype};
use crate::request::Precision;
use crate::unet::Unet;
use crate::vae::Vae;
use crate::weights::checkpoint::{Checkpoint, Component};

/// Bytes of a component's weights in memory. Their sum is the forecast's figure, and what loading adds
/// to the heap beyond it is candle's and ours for the tensors themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Items {
    /// Matrices and convolutions in floating point.
    pub float_bytes: u64,
    /// Biases, and weights of norms.
    pub vector_bytes: u64,
    /// Int8 values.
    pub int8_bytes: u64,
    /// Their scales.
    pub scale_bytes: u64,
    /// What the int8 kernels' layout adds: rows padded to whole tiles, and sums of them.
    pub layout_bytes: u64,
}

impl Items {
    /// Their sum.
    pub fn total_bytes(&self) -> u64 {
        self.float_bytes
            + self.vector_bytes
            + self.int8_bytes
            + self.scale_bytes
            + self.layout_bytes
    }
}

/// A tensor that a network reads.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Read {
    name: String,
    shape: Vec<usize>,
    dtype: DType,
    int8: Option<Scheme>,
}

impl Read {
    fn add_to(&self, items: &mut Items) {
        let values: usize = self.shape.iter().product();
        match (self.int8, &self.shape[..]) {
            (Some(scheme), [outputs, inputs, kernel @ ..]) => {
                let sizes = [*outputs, *inputs, kernel.iter().product()];
                let scales = outputs * size_of::<f32>();
                items.int8_bytes += values as u64;
                items.scale_bytes += scales as u64;
                items.layout_bytes += (Int8Weights::bytes(scheme, sizes) - values - scales) as u64;
            }
            (_, [_]) => items.vector_bytes += (values * self.dtype.size_in_bytes()) as u64,
            _ => items.float_bytes += (values * self.dtype.size_in_bytes()) as u64,
        }
    }
}

/// Asks the networks what they read: each is loaded from weights that are noted and take no memory.
fn reads(checkpoint: &Checkpoint, precision: Precision) -> Result<Vec<(Component, Vec<Read>)>> {
    let mut all = Vec::new();
    let mut network = |component, weights, dtype, load: &dyn Fn(VarBuilder) -> Result<()>| {
        let notes = Notes::default();
        let backend = Noting {
            inner: weights,
            notes: notes.clone(),
        };
        let vb = VarBuilder::from_backend(Box::new(backend), dtype, Device::Cpu);
        load(vb)?;
        let mut reads = notes.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((component, std::mem::take(&mut *reads)));
        Ok::<_, Error>(())
    };
    for (_, tower) in text_towers(checkpoint)? {
        let config = ClipConfig::load(checkpoint.folder(tower)?)?;
        let project = tower == Component::TextEncoder2;
        let dtype = precision.text_encoder.candle();
        network(tower, checkpoint.backend(tower)?, dtype, &|vb| {
            ClipTextEncoder::load(config.clone(), project, vb).map(drop)
        })?;
    }
    let config = UnetConfig::load(checkpoint.folder(Component::Unet)?)?;
    let weights = unet_weights(checkpoint, precision.quant)?;
    network(Component::Unet, weights, precision.unet.candle(), &|vb| {
        Unet::load(config.clone(), vb).map(drop)
    })?;
    let config = VaeConfig::load(checkpoint.folder(Component::Vae)?)?;
    let weights = checkpoint.backend(Component::Vae)?;
    let dtype = vae_dtype(&config, precision, true);
    network(Component::Vae, weights, dtype, &|vb| {
        Vae::load(config.clone(), vb).map(drop)
    })?;
    Ok(all)
}

/// What each network keeps in memory on this machine, in the order of loading.
///
/// # Errors
/// Those of [`crate::pipeline::Pipeline::load`] that are known before values are read.
pub fn items(checkpoint: &Checkpoint, precision: Precision) -> Result<Vec<(Component, Items)>> {
    let sum = |reads: Vec<Read>| {
        let mut items = Items::default();
        reads.iter().for_each(|read| read.add_to(&mut items));
        items
    };
    let networks = reads(checkpoint, precision)?.into_iter();
    Ok(networks
        .map(|(component, reads)| (component, sum(reads)))
        .collect())
}

/// Fails unless `quantised`, called `name`, was made from `twin`: the same tensors in the UNet, and
/// all other files the same.
pub fn check_twins(twin: &Checkpoint, quantised: &Checkpoint, name: &str) -> Result<()> {
    let other = |what: String| {
        let problem = format!("{what}; --quantised takes what `darkroom quantize` made of --model");
        Err(Error::checkpoint(name, problem))
    };
    let tensors = |checkpoint| -> Result<Vec<_>> {
        let networks = reads(checkpoint, Precision::default())?;
        let all = networks.into_iter().flat_map(|(component, reads)| {
            let tensor = move |read: Read| (component, read.name, read.shape);
            reads.into_iter().map(tensor)
        });
        Ok(all.collect())
    };
    let (of_twin, of_quantised) = (tensors(twin)?, tensors(quantised)?);
    let differing = of_twin.iter().zip(&of_quantised).find(|(a, b)| a != b);
    if let Some(((component, name, shape), (_, found, found_shape))) = differing {
        return other(format!(
            "{component} has `{found}` {found_shape:?} where the model has `{name}` {shape:?}"
        ));
    }
    if of_twin.len() != of_quantised.len() {
        let (found, wanted) = (of_quantised.len(), of_twin.len());
        return other(format!("it has {found} tensors, the model {wanted}"));
    }
    let files = |checkpoint: &Checkpoint| -> Result<Vec<_>> {
        let files = checkpoint.files()?.into_iter();
        Ok(files.filter(|(c, ..)| *c != Component::Unet).collect())
    };
    let (of_twin, of_quantised) = (files(twin)?, files(quantised)?);
    for (component, folder, file) in &of_quantised {
        let same = of_twin
            .iter()
            .find(|(c, _, name)| c == component && name == file);
        let equal = match same {
            Some((_, twin, _)) => twin.map(file)?.as_ref() == folder.map(file)?.as_ref(),
            None => false,
        };
        if !equal {
            let place = folder.describe(file);
            return other(format!("{place} is not the model's"));
        }
    }
    Ok(())
}

type Notes = Arc<Mutex<Vec<Read>>>;

/// Notes what is asked of a checkpoint, and gives tensors that are all one zero.
struct Noting {
    inner: Box<dyn SimpleBackend>,
    notes: Notes,
}

impl Noting {
    fn int8(&self, name: &str, shape: &[usize]) -> Option<Scheme> {
        let layer = name.strip_suffix(".weight").filter(|_| shape.len() > 1)?;
        let has = |part: &str| self.inner.contains_tensor(&format!("{layer}.{part}"));
        match (has(SCALE), has(INT8_ACTIVATIONS)) {
            (false, _) => None,
            (true, true) => Some(Scheme::W8A8),
            (true, false) => Some(Scheme::W8A16),
        }
    }
}

impl SimpleBackend for Noting {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> TensorResult<Tensor> {
        let (name, given) = match name.strip_suffix(OUTPUTS_LAST) {
            Some(name) => (name, Turn::shape(shape.dims())),
            None => (name, shape.dims().to_vec()),
        };
        let read = Read {
            name: name.to_owned(),
            shape: shape.dims().to_vec(),
            dtype,
            int8: self.int8(name, shape.dims()),
        };
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.push(read);
        Tensor::zeros((), dtype, device)?.broadcast_as(given)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> TensorResult<Tensor> {
        candle_core::bail!("`{name}`: no network asks for a tensor of any shape")
    }

    /// Weights are asked for as in floating point, and as the operations keep them.
    fn contains_tensor(&self, name: &str) -> bool {
        match name {
            _ if name.ends_with(OUTPUTS_LAST) => true,
            _ if name.ends_with(SCALE) => false,
            _ => self.inner.contains_tensor(name),
        }
    }
}
