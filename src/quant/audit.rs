//! How far each int8 layer is from the layer that it was made of.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Result as TensorResult, Tensor};
use serde::{Deserialize, Serialize};

use super::Smoothing;
use crate::error::Result;
use crate::ops::probe::{Layer, watch};
use crate::pipeline::{Pipeline, Start};
use crate::request::Request;

/// An int8 layer beside its twin, on the twin's inputs: what quantising this layer alone costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerAudit {
    /// Its name in the checkpoint.
    pub name: String,
    /// Times that it ran.
    pub calls: usize,
    /// Σ y² / Σ (ŷ − y)² over all values of all calls, in dB.
    pub sqnr_db: f64,
    /// Cosine of the angle between all y and all ŷ.
    pub cosine: f64,
    /// The largest magnitude that it read.
    pub largest_input: f64,
    /// Root mean square of what it read. Far below the largest: outliers, which take the int8 range
    /// from the rest.
    pub typical_input: f64,
}

/// All int8 layers, the worst first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    /// By signal to quantisation noise.
    pub layers: Vec<LayerAudit>,
}

/// The int8 layers of a pipeline, kept when it is dropped.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    by_name: HashMap<String, Layer>,
    smoothing: Option<Smoothing>,
}

impl Layers {
    /// Those of the layers that `request` runs in the first two stages.
    pub fn of(quantised: &Pipeline, request: &Request) -> Result<Self> {
        let found = Arc::new(Mutex::new(HashMap::new()));
        let into = found.clone();
        watch(
            Box::new(move |call| {
                let layer = (call.layer)();
                if layer.int8().is_some() {
                    let mut into = into.lock().unwrap_or_else(PoisonError::into_inner);
                    into.entry(call.name.to_owned()).or_insert(layer);
                }
                Ok(())
            }),
            || quantised.latents(request, Start::default(), &mut ()),
        )?;
        Ok(Self {
            by_name: std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner)),
            smoothing: None,
        })
    }

    /// Layers that were smoothed before they were quantised.
    pub fn smoothed(self, smoothing: Option<Smoothing>) -> Self {
        Self { smoothing, ..self }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// What the int8 layer gives for its twin's input, in its twin's scale.
    fn twin(&self, name: &str, input: &Tensor) -> TensorResult<Option<Tensor>> {
        let Some(layer) = self.by_name.get(name) else {
            return Ok(None);
        };
        let input = input.to_dtype(DType::F32)?;
        let Some(smoothing) = &self.smoothing else {
            return layer.forward(&input).map(Some);
        };
        let by = |factors: &[f32], like: &Tensor| Tensor::new(factors, like.device());
        let output = match smoothing.of_inputs(name) {
            Some(factors) => layer.forward(&input.broadcast_div(&by(factors, &input)?)?)?,
            None => layer.forward(&input)?,
        };
        Ok(Some(match smoothing.of_outputs(name) {
            Some(factors) => {
                // GEGLU's gates, the second half of its outputs, are not smoothed.
                let rest = output.dim(candle_core::D::Minus1)? - factors.len();
                let factors = [factors, &vec![1.0; rest]].concat();
                output.broadcast_mul(&by(&factors, &output)?)?
            }
            None => output,
        }))
    }
}

/// Sums over a layer's calls.
#[derive(Default)]
struct Sums {
    calls: usize,
    signal: f64,
    noise: f64,
    twin: f64,
    both: f64,
    largest_input: f64,
    input_squares: f64,
    inputs: f64,
}

impl Sums {
    fn add(&mut self, input: &Tensor, output: &Tensor, twin: &Tensor) -> TensorResult<()> {
        let values = |t: &Tensor| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        for (y, twin) in values(output)?.into_iter().zip(values(twin)?) {
            let (y, twin) = (f64::from(y), f64::from(twin));
            self.signal += y * y;
            self.twin += twin * twin;
            self.both += y * twin;
            self.noise += (twin - y).powi(2);
        }
        for x in values(input)? {
            let x = f64::from(x);
            self.largest_input = self.largest_input.max(x.abs());
            self.input_squares += x * x;
            self.inputs += 1.0;
        }
        self.calls += 1;
        Ok(())
    }

    fn audit(&self, name: &str) -> LayerAudit {
        LayerAudit {
            name: name.to_owned(),
            calls: self.calls,
            sqnr_db: 10.0 * (self.signal / self.noise.max(f64::MIN_POSITIVE)).log10(),
            cosine: self.both / (self.signal * self.twin).sqrt().max(f64::MIN_POSITIVE),
            largest_input: self.largest_input,
            typical_input: (self.input_squares / self.inputs.max(1.0)).sqrt(),
        }
    }
}

/// Runs the first two stages of `request` on the unquantised pipeline, and each int8 layer on its
/// twin's inputs.
pub fn audit(float: &Pipeline, quantised: &Layers, request: &Request) -> Result<Audit> {
    let sums = Arc::new(Mutex::new(BTreeMap::<String, Sums>::new()));
    let (into, layers) = (sums.clone(), quantised.clone());
    watch(
        Box::new(move |call| {
            let Some(twin) = layers.twin(call.name, call.input)? else {
                return Ok(());
            };
            let mut into = into.lock().unwrap_or_else(PoisonError::into_inner);
            let sums = into.entry(call.name.to_owned()).or_default();
            sums.add(call.input, call.output, &twin)
        }),
        || float.latents(request, Start::default(), &mut ()),
    )?;
    let sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
    let mut layers: Vec<LayerAudit> = sums.iter().map(|(name, sums)| sums.audit(name)).collect();
    layers.sort_by(|a, b| a.sqnr_db.total_cmp(&b.sqnr_db));
    Ok(Audit { layers })
}
