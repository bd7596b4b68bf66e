//! Scaled dot-product attention that never holds the score matrix.
//!
//! A tile of queries meets the keys tile by tile; maxima, sums and the output are rescaled as larger
//! scores appear (online softmax: Milakov and Gimelshein 2018; Dao et al. 2022, FlashAttention). Per
//! task the scores take `QUERY_TILE` × `KEY_TILE` values, whatever the sequence's length.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu::{Rows, Threads, Values, exp, gemm_nn, gemm_nt, store, vectorised};
use super::{Linear, work};
use crate::measure::op::{self, Work};

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All of them.
    None,
    /// Those up to its own position.
    Causal,
}

/// softmax(q·kᵀ/√d)·v for each head: q [B, Nq, heads·d]; k, v [K, Nk, heads·d] → [B, Nq, heads·d].
/// K divides B: where it is smaller, B/K rows of q in succession share one row of k and v.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, mask: Mask) -> Result<Tensor> {
    let (q_dims, k_dims) = (q.dims3()?, k.dims3()?);
    let work = || work_of(q_dims, k_dims, heads, mask, q.dtype());
    op::run(work, || {
        #[cfg(feature = "cuda")]
        if q.device().is_cuda() {
            return super::cuda::attention(q, k, v, heads, mask);
        }
        q.contiguous()?.apply_op3_no_bwd(
            &k.contiguous()?,
            &v.contiguous()?,
            &AttentionOp { heads, mask },
        )
    })
}

/// Of q [B, Nq, width] and k [K, Nk, width].
fn work_of(
    (batch, queries, width): (usize, usize, usize),
    (key_batch, keys, _): (usize, usize, usize),
    heads: usize,
    mask: Mask,
    dtype: DType,
) -> Work {
    work::attention(
        (batch * heads, key_batch * heads),
        queries,
        keys,
        width / heads,
        mask == Mask::Causal,
        dtype.size_in_bytes(),
    )
}

/// The same where `to_q` makes the queries of x [B, Nq, in], or of its rows in int8
/// ([`super::Reads::Int8`]); by one kernel where a GPU has one for it.
pub fn cross_attention(
    x: &Tensor,
    to_q: &Linear,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(weight) = to_q.bare_on_gpu() {
        use super::cuda;
        if cuda::has_cross_attention(x, weight, k, heads) {
            let ((batch, queries, _), k_dims) = (x.dims3()?, k.dims3()?);
            let work = || {
                let q_dims = (batch, queries, k_dims.2);
                work_of(q_dims, k_dims, heads, Mask::None, k.dtype()).making(to_q.work(x))
            };
            return op::run(work, || cuda::cross_attention(x, weight, k, v, heads));
        }
    }
    attention(&to_q.forward(x)?, k, v, heads, Mask::None)
}

pub(super) const QUERY_TILE: usize = 64;
pub(super) const KEY_TILE: usize = 256;

struct AttentionOp {
    heads: usize,
    mask: Mask,
}

/// The running softmax of a tile of queries.
struct Running {
    /// Largest score so far, by query.
    max: [f32; QUERY_TILE],
    /// Sum of exp(score − max) so far, by query.
    sum: [f32; QUERY_TILE],
}

impl Running {
    /// Turns a tile of raw scores into weights relative to the new maxima, and rescales the output
    /// gathered so far: scores [queries, keys], out [queries, d] with rows `stride` apart. Query `i`
    /// sees its first `visible(i)` keys.
    fn absorb(
        &mut self,
        scores: &mut [f32],
        keys: usize,
        scale: f32,
        visible: impl Fn(usize) -> usize,
        out: &mut [f32],
        (d, stride): (usize, usize),
    ) {
        for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
            let (seen, unseen) = row.split_at_mut(visible(i).min(keys));
            unseen.fill(0.0);
            if seen.is_empty() {
                continue;
            }
            let (old_max, out) = (self.max[i], &mut out[i * stride..][..d]);
            let (max, sum) = vectorised(
                #[inline(always)]
                || {
                    let max = seen.iter().fold(f32::NEG_INFINITY, |max, s| max.max(*s)) * scale;
                    let max = max.max(old_max);
                    let mut sums = [0f32; 16];
                    for chunk in seen.chunks_mut(16) {
                        for (score, sum) in chunk.iter_mut().zip(&mut sums) {
                            *score = exp(*score * scale - max);
                            *sum += *score;
                        }
                    }
                    (max, sums.iter().sum::<f32>())
                },
            );
            let rescale = if old_max == max {
                1.0
            } else {
                exp(old_max - max)
            };
            if rescale != 1.0 {
                out.iter_mut().for_each(|o| *o *= rescale);
            }
            self.sum[i] = self.sum[i] * rescale + sum;
            self.max[i] = max;
        }
    }
}

impl AttentionOp {
    /// One head over one tile of queries, from position `first` on: out [queries, d] inside rows of
    /// all heads.
    fn head(&self, out: &mut [f32], q: Rows, k: Rows, v: Rows, first: usize, scores: &mut [f32]) {
        let (d, stride) = (q.cols, q.stride);
        let mut running = Running {
            max: [f32::NEG_INFINITY; QUERY_TILE],
            sum: [0.0; QUERY_TILE],
        };
        let scale = 1.0 / (d as f32).sqrt();
        let last_key = match self.mask {
            Mask::None => k.rows,
            Mask::Causal => (first + q.rows).min(k.rows),
        };
        for from in (0..last_key).step_by(KEY_TILE) {
            let keys = KEY_TILE.min(last_key - from);
            let tile = |m: Rows<'_>| (from * m.stride, keys);
            let (offset, rows) = tile(k);
            let k_tile = Rows {
                data: &k.data[offset..],
                rows,
                ..k
            };
            let v_tile = Rows {
                data: &v.data[offset..],
                rows,
                ..v
            };
            let scores = &mut scores[..q.rows * keys];
            gemm_nt(scores, keys, 0.0, q, k_tile, Threads::One);
            let visible = |i: usize| match self.mask {
                Mask::None => keys,
                Mask::Causal => (first + i + 1).saturating_sub(from),
            };
            running.absorb(scores, keys, scale, visible, out, (d, stride));
            let keep = if from == 0 { 0.0 } else { 1.0 };
            gemm_nn(
                out,
                stride,
                keep,
                Rows::dense(scores, keys),
                v_tile,
                Threads::One,
            );
        }
        for (i, sum) in running.sum[..q.rows].iter().enumerate() {
            out[i * stride..][..d].iter_mut().for_each(|o| *o /= sum);
        }
    }
}

impl CustomOp3 for AttentionOp {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, queries, width) = q_layout.shape().dims3()?;
        let (k_batch, keys, k_width) = k_layout.shape().dims3()?;
        if k_layout.dims() != v_layout.dims()
            || width != k_width
            || k_batch == 0
            || !batch.is_multiple_of(k_batch)
            || !width.is_multiple_of(self.heads)
            || keys == 0
            || (self.mask == Mask::Causal && queries != keys)
        {
            candle_core::bail!(
                "attention of {} heads got q {:?}, k {:?}, v {:?}",
                self.heads,
                q_layout.dims(),
                k_layout.dims(),
                v_layout.dims()
            )
        }
        let d = width / self.heads;
        let values = Values::of(q, q_layout)?;
        let q = values.widen();
        let k = Values::of(k, k_layout)?.widen();
        let v = Values::of(v, v_layout)?.widen();
        let mut out = vec![0f32; q.len()];
        for b in 0..batch {
            let shared = b / (batch / k_batch);
            let k = &k[shared * keys * width..][..keys * width];
            let v = &v[shared * keys * width..][..keys * width];
            let q = &q[b * queries * width..][..queries * width];
            let out = &mut out[b * queries * width..][..queries * width];
            out.par_chunks_mut(QUERY_TILE * width)
                .enumerate()
                .for_each_init(
                    || vec![0f32; QUERY_TILE * KEY_TILE.min(keys)],
                    |scores, (tile, out)| {
                        let first = tile * QUERY_TILE;
                        let rows = out.len() / width;
                        for head in 0..self.heads {
                            let view = |data, rows| Rows {
                                data,
                                rows,
                                cols: d,
                                stride: width,
                            };
                            self.head(
                                &mut out[head * d..],
                                view(&q[first * width + head * d..], rows),
                                view(&k[head * d..], keys),
                                view(&v[head * d..], keys),
                                first,
                                scores,
                            );
                        }
                    },
                );
        }
        Ok((store(out, values.dtype())?, q_layout.shape().clone()))
    }
}
