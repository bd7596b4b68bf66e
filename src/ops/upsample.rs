//! Nearest-neighbour enlargement.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// image [B, H, W, C] → [B, height, width, C], each pixel the one at floor(i · H / height), as
/// `torch.nn.functional.interpolate(mode="nearest")` takes it.
pub fn upsample_nearest(image: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    image
        .contiguous()?
        .apply_op1_no_bwd(&Upsample { height, width })
}

struct Upsample {
    height: usize,
    width: usize,
}

impl Upsample {
    fn run<T: Copy + Default + Send + Sync>(&self, data: &[T], layout: &Layout) -> Result<Vec<T>> {
        let (batch, in_height, in_width, channels) = layout.shape().dims4()?;
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("upsample needs a contiguous image")
        };
        let data = &data[start..end];
        let mut out = vec![T::default(); batch * self.height * self.width * channels];
        // torch takes the ratio in float32.
        let source = |i: usize, input: usize, output: usize| {
            ((i as f32 * (input as f32 / output as f32)) as usize).min(input - 1)
        };
        let columns: Vec<usize> = (0..self.width)
            .map(|x| source(x, in_width, self.width) * channels)
            .collect();
        out.par_chunks_mut(self.width * channels)
            .enumerate()
            .for_each(|(row, out)| {
                let (b, y) = (row / self.height, row % self.height);
                let from =
                    (b * in_height + source(y, in_height, self.height)) * in_width * channels;
                let line = &data[from..][..in_width * channels];
                for (out, &x) in out.chunks_exact_mut(channels).zip(&columns) {
                    out.copy_from_slice(&line[x..][..channels]);
                }
            });
        Ok(out)
    }
}

impl CustomOp1 for Upsample {
    fn name(&self) -> &'static str {
        "upsample_nearest"
    }

    fn cpu_fwd(&self, image: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = match image {
            CpuStorage::F32(v) => CpuStorage::F32(self.run(v, layout)?),
            CpuStorage::F16(v) => CpuStorage::F16(self.run(v, layout)?),
            CpuStorage::BF16(v) => CpuStorage::BF16(self.run(v, layout)?),
            other => candle_core::bail!(
                "upsample needs f32, f16 or bf16, got {:?}",
                BackendStorage::dtype(other)
            ),
        };
        let (batch, _, _, channels) = layout.shape().dims4()?;
        Ok((out, (batch, self.height, self.width, channels).into()))
    }
}
