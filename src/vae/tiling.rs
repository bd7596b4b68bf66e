//! Decoding in tiles whose seams cannot be seen, in memory that the tile bounds.

use candle_core::{DType, Tensor};

use super::Vae;
use crate::error::Result;
use crate::ops::{to_channels_first, to_channels_last, upsample_nearest};

/// Share of a tile's edge that it has in common with its neighbour. Diffusers blends a quarter too;
/// our ramp is smooth at both ends.
const OVERLAP: f64 = 0.25;

/// Where tiles of edge `tile` begin along an edge of `length`, so that neighbours share at least
/// [`OVERLAP`] of a tile and none reaches beyond the end.
pub(crate) fn tile_starts(length: usize, tile: usize) -> Vec<usize> {
    if tile >= length {
        return vec![0];
    }
    let stride = (tile as f64 * (1.0 - OVERLAP)).floor().max(1.0) as usize;
    let count = (length - tile).div_ceil(stride) + 1;
    // Spread evenly: the last tile ends where the image does.
    (0..count)
        .map(|i| i * (length - tile) / (count - 1))
        .collect()
}

/// A tile's weight by pixel along an edge: 1 where it is alone, a raised cosine where it meets the
/// tile before (`before` pixels in common) and after.
fn blend_weights(length: usize, before: usize, after: usize) -> Vec<f32> {
    let ramp = |i: usize, over: usize| {
        if i >= over {
            return 1.0;
        }
        let phase = (i as f64 + 0.5) / over as f64;
        0.5 - 0.5 * (std::f64::consts::PI * phase).cos()
    };
    (0..length)
        .map(|i| (ramp(i, before) * ramp(length - 1 - i, after)) as f32)
        .collect()
}

/// The tiles along one edge: where each begins, its size, and its weights once enlarged. The weights
/// of all tiles over a pixel sum to 1.
fn tiles(length: usize, tile: usize, factor: usize) -> Vec<(usize, usize, Vec<f32>)> {
    let starts = tile_starts(length, tile);
    let size = tile.min(length);
    let mut tiles: Vec<_> = (0..starts.len())
        .map(|i| {
            let start = starts[i];
            let before = if i > 0 {
                starts[i - 1] + size - start
            } else {
                0
            };
            let after = starts.get(i + 1).map_or(0, |next| start + size - next);
            (
                start,
                size,
                blend_weights(size * factor, before * factor, after * factor),
            )
        })
        .collect();
    // Complementary ramps sum to 1 already, but where the last tiles are pushed together three may
    // overlap.
    let mut total = vec![0f32; length * factor];
    for (start, _, weights) in &tiles {
        total[start * factor..]
            .iter_mut()
            .zip(weights)
            .for_each(|(total, w)| *total += w);
    }
    for (start, _, weights) in &mut tiles {
        weights
            .iter_mut()
            .zip(&total[*start * factor..])
            .for_each(|(w, total)| *w /= total);
    }
    tiles
}

impl Vae {
    /// How many tiles [`Vae::decode_tiled`] decodes latents of `height` × `width` in.
    pub fn tile_count(&self, (height, width): (usize, usize), tile: usize) -> usize {
        tile_starts(height, tile).len() * tile_starts(width, tile).len()
    }

    /// Like [`Vae::decode`], in tiles of `tile` × `tile` latents, so that memory is bounded by the
    /// tile. The coarsest level, whose attention sees the whole image, is decoded at once (it takes
    /// little memory); only the enlarging levels are cut up. Their group norms need the statistics of
    /// the whole image, else each tile has a contrast of its own: they are taken from the coarsest
    /// level shrunk to one tile. (pkuliyi2015/multidiffusion-upscaler-for-automatic1111,
    /// scripts/tilevae.py, has the idea as its fast mode; it shrinks the latents, so its attention is
    /// a tile's own.) `around` runs each tile's work, given its index.
    pub fn decode_tiled(
        &self,
        latents: &Tensor,
        tile: usize,
        mut around: impl FnMut(usize, &dyn Fn() -> Result<Tensor>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (_, _, height, width) = latents.dims4()?;
        let factor = self.config.factor();
        let mut x = to_channels_last(latents, self.dtype)?; // [B, h, w, L]
        if let Some(conv) = &self.post_quant_conv {
            x = conv.forward(&x)?;
        }
        let x = self.decoder.head(&x)?; // [B, h, w, C]
        // The whole image's statistics, nearly: those of every n-th pixel.
        let sample = upsample_nearest(&x, tile.min(height), tile.min(width))?;
        let moments = self.decoder.tail_moments(sample)?;
        let columns = tiles(width, tile, factor);
        let mut image = None;
        let mut done = 0;
        let device = latents.device();
        for (top, tile_height, row_weights) in tiles(height, tile, factor) {
            let down = Tensor::from_vec(row_weights, (1, tile_height * factor, 1, 1), device)?;
            let mut row = None;
            for (left, tile_width, weights) in &columns {
                let part = x
                    .narrow(1, top, tile_height)?
                    .narrow(2, *left, *tile_width)?;
                let part = around(done, &|| {
                    self.decoder.tail_given(part.contiguous()?, &moments)
                })?;
                let part = part.to_dtype(DType::F32)?;
                done += 1;
                let across =
                    Tensor::from_vec(weights.clone(), (1, 1, tile_width * factor, 1), device)?;
                let part = part.broadcast_mul(&across)?.broadcast_mul(&down)?;
                let right = (width - left - tile_width) * factor;
                row = plus(row, part.pad_with_zeros(2, left * factor, right)?)?;
            }
            let row: Tensor = row.expect("a row has at least one tile");
            let below = (height - top - tile_height) * factor;
            image = plus(image, row.pad_with_zeros(1, top * factor, below)?)?;
        }
        let image: Tensor = image.expect("an image has at least one row of tiles");
        to_channels_first(&image, DType::F32).map_err(Into::into) // [B, 3, H, W]
    }
}

/// The sum so far with one more part.
fn plus(sum: Option<Tensor>, part: Tensor) -> Result<Option<Tensor>> {
    Ok(Some(match sum {
        None => part,
        Some(sum) => (sum + part)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_the_image_with_weights_that_sum_to_one() {
        for length in 1..80 {
            for tile in 8..40 {
                let mut total = vec![0f32; length * 4];
                let mut end = 0;
                for (start, size, weights) in tiles(length, tile, 4) {
                    assert!(
                        start <= end,
                        "a gap at {start} of {length} in tiles of {tile}"
                    );
                    end = start + size;
                    for (i, weight) in weights.iter().enumerate() {
                        total[start * 4 + i] += weight;
                    }
                }
                assert_eq!(end, length);
                assert!(
                    total.iter().all(|t| (t - 1.0).abs() < 1e-5),
                    "{length} in {tile}: {total:?}"
                );
            }
        }
    }
}
