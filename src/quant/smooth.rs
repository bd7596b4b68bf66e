//! SmoothQuant: the range of outlying activation channels moved into weights before both are quantised.
//!
//! A channel j of a layer's input is divided by s_j and the layer's weights for it multiplied, which
//! changes nothing in exact arithmetic: s_j = max|x_j|^α / max|w_j|^(1 − α), the maxima over
//! calibration runs and over the weights of all layers that share the input. The division is folded
//! into the layer before, so a smoothed checkpoint runs like any other:
//!
//! | layer | its input comes from |
//! |---|---|
//! | `attn1.to_q`, `to_k`, `to_v` | `norm1` |
//! | `attn2.to_q` | `norm2` |
//! | `ff.net.0.proj` | `norm3` |
//! | `to_out.0` | `to_v` of the same attention: softmax mixes rows, channels stay apart |
//! | `ff.net.2` | the value half of `ff.net.0.proj`: GEGLU multiplies it by the gate |
//! | `proj_in` | the transformer's `norm` |
//!
//! Convolutions stand behind SiLU, which no factor passes; they are not smoothed.
//!
//! Source: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large
//! Language Models", arXiv 2211.10438, equation 4; what is folded into what is ours.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use serde::{Deserialize, Serialize};

use super::Selection;
use crate::error::{Error, Result};
use crate::ops::probe::watch;
use crate::pipeline::{Pipeline, Start};
use crate::request::Request;
use crate::weights::folder::Folder;

/// The factors' file, beside the UNet's weights. Nothing but an audit reads it.
const FILE: &str = "smoothing.safetensors";

/// How a checkpoint was smoothed, as its `quantization_config` tells.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SmoothingConfig {
    /// The share of the activations' range that goes into the weights, from 0 to 1.
    pub alpha: f64,
    /// Calibration runs.
    pub prompts: usize,
    /// Denoising steps of each.
    pub steps: usize,
}

/// Largest magnitudes of a layer's inputs and weights, by input channel.
#[derive(Clone, Debug, PartialEq)]
struct Peaks {
    inputs: Vec<f32>,
    weights: Vec<f32>,
}

/// What layers read in calibration runs.
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    by_layer: BTreeMap<String, Peaks>,
}

/// Factors s by the layer whose outputs are divided by them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Smoothing {
    by_source: BTreeMap<String, Vec<f32>>,
}

/// The layer that gives a layer's input, where a factor can be folded into it.
fn source(layer: &str) -> Option<String> {
    const SOURCES: [(&str, &str); 8] = [
        ("attn1.to_q", "norm1"),
        ("attn1.to_k", "norm1"),
        ("attn1.to_v", "norm1"),
        ("attn2.to_q", "norm2"),
        ("ff.net.0.proj", "norm3"),
        ("attn1.to_out.0", "attn1.to_v"),
        ("attn2.to_out.0", "attn2.to_v"),
        ("ff.net.2", "ff.net.0.proj"),
    ];
    if let Some(transformer) = layer.strip_suffix(".proj_in") {
        return Some(format!("{transformer}.norm"));
    }
    if !layer.contains(".transformer_blocks.") {
        return None; // a text encoder's layers have such names too
    }
    let folded = |(end, source): &(&str, &str)| Some(layer.strip_suffix(end)?.to_owned() + source);
    SOURCES.iter().find_map(folded)
}

impl Calibration {
    /// Adds what the layers read in the first two stages of `request` on an unquantised pipeline.
    pub fn add(&mut self, float: &Pipeline, request: &Request) -> Result<()> {
        let state = Arc::new(Mutex::new(std::mem::take(&mut self.by_layer)));
        let into = state.clone();
        let ran = watch(
            Box::new(move |call| {
                if source(call.name).is_none() {
                    return Ok(());
                }
                let width = call.input.dim(candle_core::D::Minus1)?;
                let inputs: Vec<f32> = call
                    .input
                    .reshape(((), width))?
                    .abs()?
                    .max(0)?
                    .to_dtype(DType::F32)?
                    .to_vec1()?;
                let mut into = into.lock().unwrap_or_else(PoisonError::into_inner);
                match into.get_mut(call.name) {
                    Some(peaks) => larger(&mut peaks.inputs, &inputs),
                    None => {
                        let Some(weights) = (call.layer)().largest_weights()? else {
                            candle_core::bail!("{} is int8 already", call.name)
                        };
                        into.insert(call.name.to_owned(), Peaks { inputs, weights });
                    }
                }
                Ok(())
            }),
            || float.latents(request, Start::default(), &mut ()),
        );
        self.by_layer = std::mem::take(&mut *state.lock().unwrap_or_else(PoisonError::into_inner));
        ran.map(drop)
    }

    /// The factors for the layers that `selection` quantises.
    pub fn smoothing(&self, selection: &Selection, alpha: f64) -> Smoothing {
        let mut by_source = BTreeMap::<String, Peaks>::new();
        for (layer, peaks) in &self.by_layer {
            let Some(source) = source(layer).filter(|_| selection.selects(layer)) else {
                continue;
            };
            by_source
                .entry(source)
                .and_modify(|all| {
                    larger(&mut all.inputs, &peaks.inputs);
                    larger(&mut all.weights, &peaks.weights);
                })
                .or_insert_with(|| peaks.clone());
        }
        // A layer that shares its input is multiplied whether it is int8 or not: its weights count.
        for (layer, peaks) in &self.by_layer {
            if let Some(all) = source(layer).and_then(|source| by_source.get_mut(&source)) {
                larger(&mut all.weights, &peaks.weights);
            }
        }
        let factors = |peaks: Peaks| {
            let of = |(x, w): (&f32, &f32)| factor(f64::from(*x), f64::from(*w), alpha);
            peaks.inputs.iter().zip(&peaks.weights).map(of).collect()
        };
        Smoothing {
            by_source: by_source
                .into_iter()
                .map(|(s, p)| (s, factors(p)))
                .collect(),
        }
    }
}

/// A channel that is never used, or has no weight, is left alone.
fn factor(input: f64, weight: f64, alpha: f64) -> f32 {
    const LIMIT: f64 = 1e5;
    let factor = input.powf(alpha) / weight.powf(1.0 - alpha);
    match input > 0.0 && weight > 0.0 && factor.is_finite() {
        true => factor.clamp(1.0 / LIMIT, LIMIT) as f32,
        false => 1.0,
    }
}

fn larger(values: &mut [f32], others: &[f32]) {
    for (value, other) in values.iter_mut().zip(others) {
        *value = value.max(*other);
    }
}

impl Smoothing {
    /// What the input of a layer is divided by.
    pub fn of_inputs(&self, layer: &str) -> Option<&[f32]> {
        self.of_outputs(&source(layer)?)
    }

    /// What the outputs of a layer are divided by; of GEGLU's projection, the first half.
    pub fn of_outputs(&self, layer: &str) -> Option<&[f32]> {
        Some(self.by_source.get(layer)?)
    }

    /// Channels of all inputs.
    pub fn channels(&self) -> usize {
        self.by_source.values().map(Vec::len).sum()
    }

    /// Whether [`Smoothing::fold`] changes the tensor of this name.
    pub fn changes(&self, name: &str) -> bool {
        let Some((layer, part)) = name.rsplit_once('.') else {
            return false;
        };
        self.of_outputs(layer).is_some() || part == "weight" && self.of_inputs(layer).is_some()
    }

    /// A layer's weight [out, in, ..] or `[C]`, or its bias, in float32, with the factors in it.
    pub fn fold(&self, name: &str, tensor: Tensor) -> TensorResult<Tensor> {
        let Some((layer, part)) = name.rsplit_once('.') else {
            return Ok(tensor);
        };
        let dims = tensor.dims().to_vec();
        let mut values = tensor.flatten_all()?.to_vec1::<f32>()?;
        let row = values.len() / dims[0].max(1);
        if let Some(factors) = self.of_outputs(layer) {
            for (row, factor) in values.chunks_mut(row).zip(factors) {
                row.iter_mut().for_each(|value| *value /= factor);
            }
        }
        if let (Some(factors), "weight") = (self.of_inputs(layer), part) {
            let taps = row / factors.len().max(1);
            for row in values.chunks_mut(row) {
                for (taps, factor) in row.chunks_mut(taps).zip(factors) {
                    taps.iter_mut().for_each(|value| *value *= factor);
                }
            }
        }
        Tensor::from_vec(values, dims, tensor.device())
    }

    /// Writes the factors into a component's folder.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let tensors = self.by_source.iter().map(|(name, factors)| {
            let tensor = Tensor::new(factors.as_slice(), &Device::Cpu)?;
            Ok((name.as_str(), tensor))
        });
        let tensors = tensors.collect::<TensorResult<BTreeMap<_, _>>>()?;
        safetensors::serialize_to_file(tensors, None, &path)
            .map_err(|e| Error::file(&path, format!("not written: {e}")))
    }

    /// The factors that lie in a component's folder, if it was smoothed.
    pub fn read(folder: &Folder) -> Result<Option<Self>> {
        if !folder.has(FILE) {
            return Ok(None);
        }
        let wrong = |e: &dyn std::fmt::Display| {
            Error::checkpoint(folder.describe(FILE), format!("not a factors' file: {e}"))
        };
        let bytes = folder.read(FILE)?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu);
        let by_source = tensors
            .map_err(|e| wrong(&e))?
            .into_iter()
            .map(|(name, factors)| Ok((name, factors.to_vec1::<f32>().map_err(|e| wrong(&e))?)))
            .collect::<Result<_>>()?;
        Ok(Some(Self { by_source }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_fold_into_the_layer_before() {
        let block = "down_blocks.1.attentions.0.transformer_blocks.2";
        let from = |layer: &str| source(&format!("{block}.{layer}"));
        assert_eq!(from("attn1.to_v"), Some(format!("{block}.norm1")));
        assert_eq!(from("attn2.to_out.0"), Some(format!("{block}.attn2.to_v")));
        assert_eq!(from("ff.net.2"), Some(format!("{block}.ff.net.0.proj")));
        assert_eq!(from("attn2.to_k"), None);
        assert_eq!(
            source("mid_block.attentions.0.proj_in").as_deref(),
            Some("mid_block.attentions.0.norm")
        );
        for none in [
            "conv_in",
            "mid_block.attentions.0.proj_out",
            "mid_block.resnets.0.conv1",
        ] {
            assert_eq!(source(none), None);
        }
    }

    #[test]
    fn a_factor_shares_the_range_by_alpha() {
        // √(16 / 4) = 2; α = 1 gives all of the activations' range to the weights, 0 none of it.
        assert_eq!(factor(16.0, 4.0, 0.5), 2.0);
        assert_eq!(factor(16.0, 4.0, 1.0), 16.0);
        assert_eq!(factor(16.0, 4.0, 0.0), 0.25);
        assert_eq!(factor(0.0, 4.0, 0.5), 1.0);
        assert_eq!(factor(16.0, 0.0, 0.5), 1.0);
    }

    /// value · gelu(gate) of ff.net.0.proj, then ff.net.2: the same whatever the factors.
    #[test]
    fn folding_changes_no_product() {
        let block = "up_blocks.0.attentions.0.transformer_blocks.0";
        let (proj, out) = (
            format!("{block}.ff.net.0.proj"),
            format!("{block}.ff.net.2"),
        );
        let smoothing = Smoothing {
            by_source: BTreeMap::from([
                (format!("{block}.norm3"), vec![2.0, 0.5]),
                (proj.clone(), vec![4.0, 0.25, 8.0]),
            ]),
        };
        let tensor = |values: &[f32], dims: &[usize]| {
            Tensor::from_slice(values, dims, &Device::Cpu).unwrap()
        };
        let fold = |name: String, t: &Tensor| {
            assert!(smoothing.changes(&name), "{name}");
            smoothing.fold(&name, t.clone()).unwrap()
        };
        // [6, 2]: three values, three gates.
        let w: Vec<f32> = (1..=12).map(|v| v as f32).collect();
        let folded = fold(format!("{proj}.weight"), &tensor(&w, &[6, 2]));
        let want = [
            [0.5, 0.25],
            [24.0, 8.0],
            [1.25, 0.375],
            [14.0, 4.0],
            [18.0, 5.0],
            [22.0, 6.0],
        ];
        assert_eq!(folded.to_vec2::<f32>().unwrap(), want);
        let bias = fold(format!("{proj}.bias"), &tensor(&[8.0; 6], &[6]));
        assert_eq!(
            bias.to_vec1::<f32>().unwrap(),
            [2.0, 32.0, 1.0, 8.0, 8.0, 8.0]
        );
        let next = fold(format!("{out}.weight"), &tensor(&[1.0, 2.0, 3.0], &[1, 3]));
        assert_eq!(next.to_vec2::<f32>().unwrap(), [[4.0, 0.5, 24.0]]);
        assert!(!smoothing.changes(&format!("{out}.bias")));
        let norm = fold(format!("{block}.norm3.weight"), &tensor(&[1.0, 1.0], &[2]));
        assert_eq!(norm.to_vec1::<f32>().unwrap(), [0.5, 2.0]);
    }
}
