//! Quantises a checkpoint's weights as a network takes them, one tensor at a time.

use std::collections::HashMap;
use std::sync::Mutex;

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;

use super::{Scheme, Selection, quantise_tensor};
use crate::ops::weight::{INT8_ACTIVATIONS, SCALE};

/// A checkpoint whose selected layers are int8.
pub struct OnLoad {
    inner: Box<dyn SimpleBackend>,
    scheme: Scheme,
    selection: Selection,
    /// Scales of the weights that were taken, until they are taken too.
    scales: Mutex<HashMap<String, Vec<f32>>>,
}

impl OnLoad {
    /// Puts int8 in place of what `inner` holds.
    pub fn new(inner: Box<dyn SimpleBackend>, scheme: Scheme) -> Self {
        Self {
            inner,
            scheme,
            selection: Selection::default(),
            scales: Mutex::default(),
        }
    }

    fn scales(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<f32>>> {
        self.scales
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The layer, if `name` is its tensor `tensor`.
fn layer<'a>(name: &'a str, tensor: &str) -> Option<&'a str> {
    name.strip_suffix(tensor)?.strip_suffix('.')
}

impl SimpleBackend for OnLoad {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        if let Some(layer) = layer(name, SCALE) {
            let Some(scales) = self.scales().remove(layer) else {
                candle_core::bail!("the scales of {layer} are taken after its weight")
            };
            return Tensor::from_vec(scales, shape, device);
        }
        match layer(name, "weight") {
            // Only int8 layers ask for bytes.
            Some(layer) if dtype == DType::U8 => {
                let outputs = shape.dims().first().copied().unwrap_or(0);
                let weight = self
                    .inner
                    .get(shape.clone(), name, init, DType::F32, &Device::Cpu)?;
                let (values, scales) = quantise_tensor(&weight, outputs)?;
                drop(weight);
                if scales.iter().any(|scale| !scale.is_finite()) {
                    candle_core::bail!("{name} holds NaN or infinity, which int8 cannot keep")
                }
                self.scales().insert(layer.to_owned(), scales);
                let bytes: Vec<u8> = values.into_iter().map(|v| v as u8).collect();
                Tensor::from_vec(bytes, shape, device)
            }
            _ => self.inner.get(shape, name, init, dtype, device),
        }
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        self.inner.get_unchecked(name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        if let Some(layer) = layer(name, SCALE) {
            return self.selection.selects(layer);
        }
        if layer(name, INT8_ACTIVATIONS).is_some() {
            return self.scheme == Scheme::W8A8;
        }
        self.inner.contains_tensor(name)
    }
}
