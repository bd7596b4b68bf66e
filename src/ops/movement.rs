//! Values put elsewhere, unchanged: layouts, number types, concatenation, enlargement.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu::task_rows;
use super::work;
use crate::measure::op;

/// Channels-first image to channels-last, in the given type: `[B, C, H, W]` → `[B, H, W, C]`.
pub fn to_channels_last(image: &Tensor, dtype: DType) -> Result<Tensor> {
    moved(image, dtype, || {
        #[cfg(feature = "cuda")]
        if image.device().is_cuda() {
            return super::cuda::to_channels_last(image, dtype);
        }
        image.to_dtype(dtype)?.permute((0, 2, 3, 1))?.contiguous()
    })
}

/// Channels-last image to channels-first, in the given type: `[B, H, W, C]` → `[B, C, H, W]`.
pub fn to_channels_first(image: &Tensor, dtype: DType) -> Result<Tensor> {
    moved(image, dtype, || {
        #[cfg(feature = "cuda")]
        if image.device().is_cuda() {
            return super::cuda::to_channels_first(image, dtype);
        }
        image.to_dtype(dtype)?.permute((0, 3, 1, 2))?.contiguous()
    })
}

fn moved(image: &Tensor, dtype: DType, run: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
    let count = image.elem_count();
    let (from, to) = (image.dtype().size_in_bytes(), dtype.size_in_bytes());
    op::run(|| work::moved((count, from), (count, to)), run)
}

/// a [.., C₁], b [.., C₂] → [.., C₁ + C₂].
pub fn concat_channels(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (rank, count) = (a.rank(), a.elem_count() + b.elem_count());
    if rank == 0 || rank != b.rank() || a.dims()[..rank - 1] != b.dims()[..rank - 1] {
        candle_core::bail!("concatenation of {:?} and {:?}", a.dims(), b.dims())
    }
    let bytes = a.dtype().size_in_bytes();
    op::run(
        || work::moved((count, bytes), (count, bytes)),
        || {
            #[cfg(feature = "cuda")]
            if a.device().is_cuda() {
                return super::cuda::concat_channels(a, b);
            }
            a.contiguous()?
                .apply_op2_no_bwd(&b.contiguous()?, &ConcatOp)
        },
    )
}

struct ConcatOp;

fn concatenated<T: Copy + Default + Send + Sync>(
    (a, a_width): (&[T], usize),
    (b, b_width): (&[T], usize),
) -> Vec<T> {
    let width = a_width + b_width;
    let mut out = vec![T::default(); a.len() + b.len()];
    if a_width > 0 && b_width > 0 {
        out.par_chunks_mut(width)
            .zip(a.par_chunks(a_width))
            .zip(b.par_chunks(b_width))
            .with_min_len(task_rows(width))
            .for_each(|((out, a), b)| {
                let (left, right) = out.split_at_mut(a_width);
                left.copy_from_slice(a);
                right.copy_from_slice(b);
            });
    } else {
        out.copy_from_slice(if a_width > 0 { a } else { b });
    }
    out
}

impl CustomOp2 for ConcatOp {
    fn name(&self) -> &'static str {
        "concat_channels"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let width = |layout: &Layout| layout.dims().last().copied().unwrap_or(0);
        let (a_width, b_width) = (width(a_layout), width(b_layout));
        let (a_range, b_range) = (range(a_layout)?, range(b_layout)?);
        macro_rules! join {
            ($($kind:ident),*) => {
                match (a, b) {
                    $((CpuStorage::$kind(a), CpuStorage::$kind(b)) => CpuStorage::$kind(concatenated(
                        (&a[a_range], a_width),
                        (&b[b_range], b_width),
                    )),)*
                    _ => candle_core::bail!(
                        "concatenation of {:?} and {:?}",
                        BackendStorage::dtype(a),
                        BackendStorage::dtype(b)
                    ),
                }
            };
        }
        let out = join!(F32, F16, BF16);
        let mut dims = a_layout.dims().to_vec();
        *dims
            .last_mut()
            .expect("has a last dimension: `concat_channels` checked") = a_width + b_width;
        Ok((out, dims.into()))
    }
}

fn range(layout: &Layout) -> Result<std::ops::Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => candle_core::bail!(
            "operation needs a contiguous tensor, got strides {:?}",
            layout.stride()
        ),
    }
}

/// image [B, H, W, C] → [B, height, width, C], each pixel the one at floor(i · H / height), as
/// `torch.nn.functional.interpolate(mode="nearest")` takes it.
pub fn upsample_nearest(image: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (batch, in_height, in_width, channels) = image.dims4()?;
    let bytes = image.dtype().size_in_bytes();
    let (read, written) = (
        batch * in_height * in_width * channels,
        batch * height * width * channels,
    );
    op::run(
        || work::moved((read, bytes), (written, bytes)),
        || {
            #[cfg(feature = "cuda")]
            if image.device().is_cuda() {
                return super::cuda::upsample_nearest(image, height, width);
            }
            image
                .contiguous()?
                .apply_op1_no_bwd(&Upsample { height, width })
        },
    )
}

/// The pixel of `input` that pixel i of `output` is; torch takes the ratio in float32.
pub(super) fn source(i: usize, input: usize, output: usize) -> usize {
    ((i as f32 * (input as f32 / output as f32)) as usize).min(input - 1)
}

/// Up to this edge, [`source`] makes an image's double, less perhaps its last row, what it should be: pixel i is pixel
/// ⌊i/2⌋. Beyond it float32 rounds some ratio too far.
const DOUBLED_EDGE: usize = 4188;

/// Whether an edge enlarged from one length to another has each pixel twice, the last perhaps once.
pub(crate) fn doubles(from: usize, to: usize) -> bool {
    from == to.div_ceil(2) && to <= DOUBLED_EDGE
}

struct Upsample {
    height: usize,
    width: usize,
}

impl Upsample {
    fn run<T: Copy + Default + Send + Sync>(&self, data: &[T], layout: &Layout) -> Result<Vec<T>> {
        let (batch, in_height, in_width, channels) = layout.shape().dims4()?;
        let data = &data[range(layout)?];
        let mut out = vec![T::default(); batch * self.height * self.width * channels];
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_what_a_kernel_that_halves_reads() {
        let halved = |to: usize| (0..to).all(|i| source(i, to.div_ceil(2), to) == i / 2);
        for to in 1..=DOUBLED_EDGE {
            assert!(doubles(to.div_ceil(2), to) && halved(to), "{to}");
        }
        assert!(!halved(DOUBLED_EDGE + 1), "the limit could be higher");
        assert!(!doubles(3, 4) && !doubles(2, 5));
    }
}
