//! Values put elsewhere, by candle's copies.

use candle_core::{D, Result, Tensor};

/// a [.., C₁], b [.., C₂] → [.., C₁ + C₂].
pub fn concat_channels(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Tensor::cat(&[a, b], D::Minus1)
}

/// image [B, H, W, C] → [B, height, width, C], each pixel the one at floor(i · H / height).
pub fn upsample_nearest(image: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (batch, in_height, in_width, channels) = image.dims4()?;
    if height.is_multiple_of(in_height) && width.is_multiple_of(in_width) {
        let (down, across) = (height / in_height, width / in_width);
        return image
            .reshape((batch, in_height, 1, in_width, 1, channels))?
            .broadcast_as((batch, in_height, down, in_width, across, channels))?
            .contiguous()?
            .reshape((batch, height, width, channels));
    }
    // torch takes the ratio in float32.
    let sources = |input: usize, output: usize| {
        let ratio = input as f32 / output as f32;
        let at = (0..output).map(|i| ((i as f32 * ratio) as usize).min(input - 1) as u32);
        Tensor::from_iter(at, image.device())
    };
    image
        .index_select(&sources(in_height, height)?, 1)?
        .index_select(&sources(in_width, width)?, 2)
}

/// A checkpoint's weight [out, in, ..kernel] with its inputs side by side: [out, ..kernel, in].
pub fn inputs_last(weight: &Tensor) -> Result<Tensor> {
    let mut order: Vec<usize> = (0..weight.rank()).collect();
    order[1..].rotate_left(1);
    weight.permute(order)?.contiguous()
}
