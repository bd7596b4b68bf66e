//! 8-bit weights: which layers, and how their values become integers.
//!
//! The arithmetic is in [`crate::ops::int8`]. A layer is int8 where its weight is a matrix or a
//! convolution and its name is not on the list of those [`KEPT`] in floating point.

mod audit;
mod on_load;
mod save;
mod smooth;
mod stored;

use candle_core::{CpuStorage, Storage, Tensor};
use rayon::prelude::*;

pub use crate::ops::int8::Scheme;
pub use audit::{Audit, LayerAudit, Layers, audit};
pub use on_load::OnLoad;
pub use save::{Saved, save};
pub use smooth::{Calibration, Smoothing, SmoothingConfig};
pub use stored::{QuantConfig, Stored};

use crate::error::{Error, Result};
use crate::ops::int8::quantise_row;

/// A part of the UNet that stays in floating point, and why.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// A part of a layer's name.
    pub name: &'static str,
    /// Why its layers are kept.
    pub reason: &'static str,
}

/// What of the UNet stays in floating point.
pub const KEPT: [Kept; 6] = [
    Kept {
        name: "time_embedding",
        reason: "every residual block reads its result; 2 M parameters, one row a step",
    },
    Kept {
        name: "add_embedding",
        reason: "every residual block reads its result; 5 M parameters, one row an image",
    },
    Kept {
        name: "time_emb_proj",
        reason: "shifts whole channels; one row a step",
    },
    Kept {
        name: "conv_in",
        reason: "reads the latents themselves; 0.01 M parameters",
    },
    Kept {
        name: "conv_out",
        reason: "writes the prediction itself; 0.01 M parameters",
    },
    Kept {
        name: "conv_shortcut",
        reason: "carries the skip past the block, where errors add up over the blocks",
    },
];

/// Which layers of the UNet are int8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    kept: Vec<String>,
}

impl Default for Selection {
    /// All but [`KEPT`].
    fn default() -> Self {
        Self {
            kept: KEPT.map(|kept| kept.name.to_owned()).into(),
        }
    }
}

impl Selection {
    /// All but layers with these parts.
    pub fn of(kept: Vec<String>) -> Self {
        Self { kept }
    }

    /// The default with more parts kept in floating point, and others not.
    ///
    /// # Errors
    /// A part of `int8` that the default does not keep.
    pub fn changed(keep: &[String], int8: &[String]) -> Result<Self> {
        let Self { mut kept } = Self::default();
        for part in int8 {
            let Some(at) = kept.iter().position(|known| known == part) else {
                return Err(Error::Request(format!(
                    "--int8 {part}: not among the kept parts: {}",
                    kept.join(", ")
                )));
            };
            kept.remove(at);
        }
        kept.extend(keep.iter().filter(|part| !of_default(part)).cloned());
        Ok(Self { kept })
    }

    /// Parts of names whose layers stay in floating point.
    pub fn kept(&self) -> &[String] {
        &self.kept
    }

    /// Whether a layer is int8, told by its name: neither a part of it nor a run of parts is kept.
    pub fn selects(&self, layer: &str) -> bool {
        let dotted = format!(".{layer}.");
        let kept = |part: &String| dotted.contains(&format!(".{part}."));
        !self.kept.iter().any(kept) && !layer.contains("norm")
    }

    /// Fails if a part that was asked for names no layer of a network with these tensors.
    pub fn check<'a>(&self, tensors: impl Iterator<Item = &'a str> + Clone) -> Result<()> {
        for part in self.kept.iter().filter(|part| !of_default(part)) {
            let dotted = format!(".{part}.");
            if !tensors
                .clone()
                .any(|name| format!(".{name}").contains(&dotted))
            {
                return Err(Error::Request(format!(
                    "--keep {part}: the UNet has no layer of this name"
                )));
            }
        }
        Ok(())
    }
}

fn of_default(part: &str) -> bool {
    KEPT.iter().any(|kept| kept.name == part)
}

/// Integers and scales of a weight with `outputs` rows: w ≈ q · scale, each output by its own
/// largest value.
pub fn quantise_weight(weight: &[f32], outputs: usize) -> (Vec<i8>, Vec<f32>) {
    let inner = (weight.len() / outputs.max(1)).max(1);
    let mut values = vec![0i8; weight.len()];
    let mut scales = vec![0f32; outputs];
    values
        .par_chunks_mut(inner)
        .zip(weight.par_chunks(inner))
        .zip(&mut scales)
        .for_each(|((q, w), scale)| *scale = quantise_row(w, q));
    (values, scales)
}

/// [`quantise_weight`] of a float32 tensor on the CPU, read where it lies.
fn quantise_tensor(weight: &Tensor, outputs: usize) -> candle_core::Result<(Vec<i8>, Vec<f32>)> {
    let (storage, layout) = weight.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => {
            Ok(quantise_weight(&values[start..end], outputs))
        }
        _ => candle_core::bail!("weights are quantised in float32 on the CPU"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_layers_by_whole_parts() {
        for layer in [
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
            "up_blocks.0.resnets.2.conv1",
            "down_blocks.0.downsamplers.0.conv",
            "mid_block.attentions.0.proj_in",
        ] {
            assert!(Selection::default().selects(layer), "{layer}");
        }
        for layer in [
            "time_embedding.linear_1",
            "conv_in",
            "down_blocks.1.resnets.0.conv_shortcut",
            "down_blocks.1.resnets.0.time_emb_proj",
            "conv_norm_out",
        ] {
            assert!(!Selection::default().selects(layer), "{layer}");
        }
    }

    #[test]
    fn the_list_can_be_changed() {
        let strings = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let changed = Selection::changed(&strings(&["attn2.to_k"]), &strings(&["conv_shortcut"]));
        let changed = changed.expect("both are names");
        let block = "up_blocks.0.attentions.1.transformer_blocks.0";
        assert!(!changed.selects(&format!("{block}.attn2.to_k")));
        assert!(changed.selects(&format!("{block}.attn1.to_k")));
        assert!(changed.selects("up_blocks.0.resnets.0.conv_shortcut"));
        let tensors = [format!("{block}.attn2.to_k.weight")];
        let names = tensors.iter().map(String::as_str);
        changed.check(names.clone()).expect("it is there");
        let typo = Selection::changed(&strings(&["attn3"]), &[]).expect("any name is taken");
        assert!(typo.check(names).is_err());
        assert!(Selection::changed(&[], &strings(&["attn2"])).is_err());
    }

    #[test]
    fn a_weight_comes_back_within_half_a_step() {
        let weight = [0.5f32, -1.0, 0.25, 0.0, 0.0, 0.0, 3.0, 1e-6, -2.99];
        let (values, scales) = quantise_weight(&weight, 3);
        assert_eq!(values, [64, -127, 32, 0, 0, 0, 127, 0, -127]);
        assert_eq!(scales, [1.0 / 127.0, 0.0, 3.0 / 127.0]);
    }
}
