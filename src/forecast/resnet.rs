//! [`crate::resnet`], by shape.

use super::heap::Tensor;
use super::loader::Loader;
use super::ops::{Conv, add, linear};

/// `ResnetBlock::load`.
pub fn load(inputs: usize, outputs: usize, embedding: Option<usize>, weights: &mut Loader) {
    weights.norm(inputs);
    weights.conv(inputs, outputs, 3);
    if let Some(width) = embedding {
        weights.linear(width, outputs, true);
    }
    weights.norm(outputs);
    weights.conv(outputs, outputs, 3);
    if inputs != outputs {
        weights.conv(inputs, outputs, 1);
    }
}

/// `ResnetBlock::forward_normed`: x [B, H, W, C_in] → [B, H, W, outputs].
pub fn forward(
    x: &Tensor,
    outputs: usize,
    embedding: Option<&Tensor>,
    scale: f64,
    norm: &dyn Fn(&Tensor) -> Tensor,
) -> Tensor {
    let mut h = Conv::same(outputs, 3).forward(&norm(x));
    if let Some(embedding) = embedding {
        let shift = linear(embedding, outputs, true); // [B, C_out]
        h = add(&h, &shift);
    }
    h = norm(&h);
    h = Conv::same(outputs, 3).forward(&h);
    let sum = if x.width() == outputs {
        add(x, &h)
    } else {
        add(&Conv::same(outputs, 1).forward(x), &h)
    };
    if scale == 1.0 { sum } else { sum.like() }
}
