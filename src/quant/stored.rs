//! Checkpoints that hold int8 weights: what their config says, and how their layers are told.
//!
//! The layout is diffusers': beside an int8 `weight` [out, in, ..kernel] lies its `weight_scale`
//! `[out]` in float32, and the component's `config.json` has a `quantization_config`.

use candle_core::{DType, Device, Result as TensorResult, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;
use serde::{Deserialize, Serialize};

use super::{Scheme, SmoothingConfig};
use crate::config::FILE;
use crate::error::{Error, Result};
use crate::ops::weight::INT8_ACTIVATIONS;
use crate::weights::folder::Folder;

/// Who wrote the integers, and in what form.
const METHOD: &str = "darkroom";
const VERSION: u32 = 1;

/// The key that diffusers keeps a component's quantisation under.
pub const KEY: &str = "quantization_config";

/// `quantization_config` of a component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuantConfig {
    quant_method: String,
    version: u32,
    /// What the weights are multiplied by.
    pub scheme: Scheme,
    /// Parts of names whose layers stay in floating point.
    pub kept: Vec<String>,
    /// How it was smoothed, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smoothing: Option<SmoothingConfig>,
}

/// As much of any program's `quantization_config` as tells whose it is.
#[derive(Deserialize)]
struct Method {
    quant_method: Option<String>,
    version: Option<u32>,
}

impl QuantConfig {
    /// What this version writes.
    pub fn new(scheme: Scheme, kept: Vec<String>, smoothing: Option<SmoothingConfig>) -> Self {
        Self {
            quant_method: METHOD.into(),
            version: VERSION,
            scheme,
            kept,
            smoothing,
        }
    }

    /// That of the component in `folder`, if it is quantised.
    ///
    /// # Errors
    /// Another program's or version's form.
    pub fn read(folder: &Folder) -> Result<Option<Self>> {
        let config: serde_json::Value = folder.json(FILE)?;
        let Some(value) = config.get(KEY).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let wrong = |problem: String| Error::checkpoint(folder.describe(FILE), problem);
        let method = Method::deserialize(value).map_err(|e| wrong(format!("`{KEY}`: {e}")))?;
        let name = method.quant_method.unwrap_or_default();
        if name != METHOD {
            return Err(wrong(format!(
                "quantised by `{name}`, which is not read: take the model before quantisation and \
                 `darkroom quantize` it"
            )));
        }
        if method.version != Some(VERSION) {
            let version = method.version.map_or("none".into(), |v| v.to_string());
            return Err(wrong(format!(
                "`{KEY}` has version {version}, this darkroom reads {VERSION}: quantise the model \
                 again"
            )));
        }
        let config = Self::deserialize(value).map_err(|e| {
            let known = Scheme::ALL.map(Scheme::name).join(", ");
            wrong(format!("`{KEY}`: {e}; known schemes: {known}"))
        })?;
        Ok(Some(config))
    }
}

/// The weights of a quantised component, scheme included.
pub struct Stored {
    /// Its files.
    pub inner: Box<dyn SimpleBackend>,
    /// What its config says.
    pub scheme: Scheme,
}

impl SimpleBackend for Stored {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> TensorResult<Tensor> {
        self.inner.get(shape, name, init, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> TensorResult<Tensor> {
        self.inner.get_unchecked(name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        match name.ends_with(INT8_ACTIVATIONS) {
            true => self.scheme == Scheme::W8A8,
            false => self.inner.contains_tensor(name),
        }
    }
}
