//! [`crate::resnet`], by shape.

use super::heap::Tensor;
use super::loader::Loader;
use super::model::Int8;
use super::ops::{Conv, add, linear_in};
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
    let mut h = conv(3, "conv1").forward(&norm(int8.reads("conv1"), x));
    if let Some(embedding) = embedding {
        let shift = linear_in(int8.of("time_emb_proj"), embedding, outputs, true); // [B, C_out]
        h = add(&h, &shift);
    }
    h = norm(int8.reads("conv2"), &h);
    h = conv(3, "conv2").forward(&h);
    let sum = if x.width() == outputs {
        add(x, &h)
    } else {
        add(&conv(1, "conv_shortcut").forward(x), &h)
    };
    if scale == 1.0 {
        return sum;
    }
    sum.heap().launch(Some(1));
    sum.like()
}
