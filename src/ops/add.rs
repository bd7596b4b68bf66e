//! Sums of tensors.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu::{Values, store, task_rows, vectorised};
use super::work;
use crate::measure::op;

/// a + b of one shape.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dims() != b.dims() {
        candle_core::bail!("sum of {:?} and {:?}", a.dims(), b.dims())
    }
    sum(a, b, a.elem_count())
}

/// x + row: a row [B, C] for every pixel of its image [B, .., C].
pub fn add_by_image(x: &Tensor, row: &Tensor) -> Result<Tensor> {
    let (images, channels) = row.dims2()?;
    if x.dims().first() != Some(&images) || x.dims().last() != Some(&channels) {
        candle_core::bail!("sum of {:?} and rows {:?}", x.dims(), row.dims())
    }
    sum(x, row, channels)
}

/// x + table: the same table [N, C] for every row of x [B, N, C].
pub fn add_to_each(x: &Tensor, table: &Tensor) -> Result<Tensor> {
    if x.dims().get(1..) != Some(table.dims()) {
        candle_core::bail!("sum of {:?} and a table {:?}", x.dims(), table.dims())
    }
    sum(x, table, table.elem_count())
}

/// `b` is rows of `width` values; a's values are split evenly among them, and each row is repeated
/// along its part.
fn sum(a: &Tensor, b: &Tensor, width: usize) -> Result<Tensor> {
    let work = || work::add(a.elem_count(), b.elem_count(), a.dtype().size_in_bytes());
    op::run(work, || {
        #[cfg(feature = "cuda")]
        if a.device().is_cuda() {
            return super::cuda::add(a, b, width);
        }
        a.contiguous()?
            .apply_op2_no_bwd(&b.contiguous()?, &AddOp { width })
    })
}

struct AddOp {
    width: usize,
}

impl CustomOp2 for AddOp {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let values = Values::of(a, a_layout)?;
        let (a, b) = (values.widen(), Values::of(b, b_layout)?.widen());
        let mut out = vec![0f32; a.len()];
        if !b.is_empty() {
            let part = a.len() / (b.len() / self.width);
            // Parts of whole repetitions, short enough to share one row among threads.
            let chunk = match part == self.width {
                true => task_rows(1).min(part),
                false => self.width * task_rows(self.width),
            };
            for ((out, a), b) in out
                .chunks_exact_mut(part)
                .zip(a.chunks_exact(part))
                .zip(b.chunks_exact(self.width))
            {
                out.par_chunks_mut(chunk)
                    .zip(a.par_chunks(chunk))
                    .enumerate()
                    .for_each(|(i, (out, a))| {
                        let from = i * chunk % self.width;
                        let rows = out.chunks_mut(self.width).zip(a.chunks(self.width));
                        vectorised(
                            #[inline(always)]
                            || {
                                for (out, a) in rows {
                                    for ((out, a), b) in out.iter_mut().zip(a).zip(&b[from..]) {
                                        *out = a + b;
                                    }
                                }
                            },
                        );
                    });
            }
        }
        Ok((store(out, values.dtype())?, a_layout.shape().clone()))
    }
}
