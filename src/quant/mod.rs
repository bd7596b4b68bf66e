//! 8-bit weights: which layers, and how their values become integers.
//!
//! The arithmetic is in [`crate::ops::int8`]. A layer is int8 where its weight is a matrix or a
//! convolution and its name is not on the list of those [`KEPT`] in floating point.

mod on_load;

use rayon::prelude::*;

pub use crate::ops::int8::Scheme;
pub use on_load::OnLoad;

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

/// Whether a layer of the UNet is int8 by default, told by its name.
pub fn selects(layer: &str) -> bool {
    let kept = |part: &str| KEPT.iter().any(|kept| kept.name == part);
    !layer
        .split('.')
        .any(|part| kept(part) || part.contains("norm"))
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
            assert!(selects(layer), "{layer}");
        }
        for layer in [
            "time_embedding.linear_1",
            "conv_in",
            "down_blocks.1.resnets.0.conv_shortcut",
            "down_blocks.1.resnets.0.time_emb_proj",
            "conv_norm_out",
        ] {
            assert!(!selects(layer), "{layer}");
        }
    }

    #[test]
    fn a_weight_comes_back_within_half_a_step() {
        let weight = [0.5f32, -1.0, 0.25, 0.0, 0.0, 0.0, 3.0, 1e-6, -2.99];
        let (values, scales) = quantise_weight(&weight, 3);
        assert_eq!(values, [64, -127, 32, 0, 0, 0, 127, 0, -127]);
        assert_eq!(scales, [1.0 / 127.0, 0.0, 3.0 / 127.0]);
    }
}
