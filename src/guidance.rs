//! Classifier-free guidance.

use candle_core::{D, Tensor};

use crate::error::Result;

/// Moves the prediction away from the negative one: negative + scale · (positive − negative), each
/// [B, C, H, W]; with `rescale` above 0, part of the contrast that this adds is taken back (Lin et
/// al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", section 3.4).
pub fn guide(negative: &Tensor, positive: &Tensor, scale: f64, rescale: f64) -> Result<Tensor> {
    let guided = (negative + ((positive - negative)? * scale)?)?;
    if rescale == 0.0 {
        return Ok(guided);
    }
    let ratio = (deviation(positive)? / deviation(&guided)?)?; // [B, 1, 1, 1]
    let rescaled = guided.broadcast_mul(&ratio)?;
    Ok(((rescaled * rescale)? + (guided * (1.0 - rescale))?)?)
}

/// Unbiased standard deviation over all but the batch: [B, C, H, W] → [B, 1, 1, 1].
fn deviation(x: &Tensor) -> Result<Tensor> {
    let batch = x.dim(0)?;
    let flat = x.flatten_from(1)?;
    Ok(flat.var(D::Minus1)?.sqrt()?.reshape((batch, 1, 1, 1))?)
}
