//! [`crate::resnet`], by shape.

use super::heap::Tensor;
use super::loader::Loader;
use super::model::Int8;
use super::ops::{Conv, linear_in};
use crate::ops::Reads;

/// `ResnetBlock::load`.
pub fn load(
    inputs: usize,
    outputs: usize,
    embedding: Option<usize>,
    int8: &Int8,
    weights: &mut Loader,
) {
    weights.norm(inputs);
    weights.layer([outputs, inputs, 9], true, int8, "conv1");
    if let Some(width) = embedding {
        weights.layer([outputs, width, 1], true, int8, "time_emb_proj");
    }
    weights.norm(outputs);
    weights.layer([outputs, outputs, 9], true, int8, "conv2");
    if inputs != outputs {
        weights.layer([outputs, inputs, 1], true, int8, "conv_shortcut");
    }
}

/// `ResnetBlock::forward_normed`: x [B, H, W, C_in] → [B, H, W, outputs].
pub fn forward(
    x: &Tensor,
    outputs: usize,
    embedding: Option<&Tensor>,
    scale: f64,
    int8: &Int8,
    norm: &dyn Fn(Reads, &Tensor) -> Tensor,
) -> Tensor {
    let conv = |kernel, part| Conv::same(outputs, kernel).kept_in(int8.of(part));
    let normed = norm(int8.reads("conv1"), x);
    let mut h = match embedding {
        Some(embedding) => conv(3, "conv1").forward_add(normed, || {
            linear_in(int8.of("time_emb_proj"), embedding, outputs, true) // [B, C_out]
        }),
        None => {
            let h = conv(3, "conv1").forward(&normed);
            drop(normed);
            h
        }
    };
    h = norm(int8.reads("conv2"), &h);
    let sum = conv(3, "conv2").forward_add(h, || match x.width() == outputs {
        true => x.clone(),
        false => conv(1, "conv_shortcut").forward(x),
    });
    if scale == 1.0 {
        return sum;
    }
    sum.heap().launch(Some(1));
    sum.like()
}
