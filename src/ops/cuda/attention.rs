//! Attention: a kernel of ours for heads of 64, cuBLAS and softmax for others.

use candle_core::{DType, Result, Tensor};
use candle_nn::ops::softmax_last_dim;

use super::int8::{Activations, Quantised};
use super::{dense, device, empty, half, int, pointer};
use crate::cuda::launch::{self, Dtype};
use crate::ops::Mask;
use crate::ops::int8::Scheme;
use crate::ops::limits::{HEAD, SCORES};
use crate::ops::weight::Int8OnGpu;

/// q [B, Nq, heads·d]; k, v [K, Nk, heads·d] → [B, Nq, heads·d], as `ops::attention` has it.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, mask: Mask) -> Result<Tensor> {
    let (batch, queries, width) = q.dims3()?;
    let (k_batch, keys, k_width) = k.dims3()?;
    if k.dims() != v.dims()
        || width != k_width
        || k_batch == 0
        || !batch.is_multiple_of(k_batch)
        || !width.is_multiple_of(heads)
        || keys == 0
        || (mask == Mask::Causal && queries != keys)
    {
        candle_core::bail!(
            "attention of {heads} heads got q {:?}, k {:?}, v {:?}",
            q.dims(),
            k.dims(),
            v.dims()
        )
    }
    match half(q) {
        Some(dtype) if width == heads * HEAD => in_64s(q, k, v, heads, mask, dtype),
        _ => by_candle(q, k, v, heads, mask),
    }
}

fn in_64s(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    mask: Mask,
    dtype: Dtype,
) -> Result<Tensor> {
    let (batch, queries, width) = q.dims3()?;
    let (kv_batch, keys, _) = k.dims3()?;
    let (q, k, v) = (dense(q)?, dense(k)?, dense(v)?);
    let out = empty((batch, queries, width), q.dtype(), &q)?;
    let parameters = launch::Attention {
        q: pointer(&q)?,
        k: pointer(&k)?,
        v: pointer(&v)?,
        out: pointer(&out)?,
        batch: int(batch)?,
        kv_batch: int(kv_batch)?,
        heads: int(heads)?,
        queries: int(queries)?,
        keys: int(keys)?,
        q_stride: int(width)?,
        kv_stride: int(width)?,
        causal: (mask == Mask::Causal).into(),
    };
    let plan = launch::launch_attention_d64(&parameters, dtype);
    // SAFETY: batch × queries × width values in and out, kv_batch × keys × width keys and values.
    unsafe { crate::cuda::launch(device(&q)?, &parameters, plan) }?;
    Ok(out)
}

/// Whether [`cross_attention`] takes them: x [B, Nq, in + 4] in int8 under W8A8, [B, Nq, in] as k under
/// W8A16; heads of 64, f16 or bf16.
pub fn has_cross_attention(x: &Tensor, to_q: &Int8OnGpu, k: &Tensor, heads: usize) -> bool {
    let read = match to_q.scheme {
        Scheme::W8A8 => DType::U8,
        Scheme::W8A16 => k.dtype(),
    };
    x.dtype() == read
        && to_q.has_kernel()
        && to_q.scales.elem_count() == heads * HEAD
        && half(k).is_some()
}

/// x [B, Nq, in] as [`has_cross_attention`] has it, a weight [heads·64, in]; k, v [K, Nk, heads·64] →
/// [B, Nq, heads·64].
pub fn cross_attention(
    x: &Tensor,
    to_q: &Int8OnGpu,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
) -> Result<Tensor> {
    let (batch, queries, _) = x.dims3()?;
    let (kv_batch, keys, width) = k.dims3()?;
    let Some(dtype) = half(k).filter(|_| k.dims() == v.dims() && width == heads * HEAD) else {
        candle_core::bail!(
            "cross-attention of {heads} heads got k {:?}, v {:?}",
            k.dims(),
            v.dims()
        )
    };
    let x = match x.dtype() {
        DType::U8 => Activations::Int8(Quantised::given(x, to_q.inputs())?),
        _ if x.dim(2)? == to_q.inputs() => Activations::Float(dense(x)?),
        _ => candle_core::bail!("queries of {} inputs got {:?}", to_q.inputs(), x.dims()),
    };
    let (x_scales, rows_per_scale) = x.scales()?;
    let (k, v) = (dense(k)?, dense(v)?);
    let out = empty((batch, queries, width), k.dtype(), &k)?;
    let parameters = launch::CrossAttention {
        x: x.values()?,
        x_scales,
        wq: pointer(&to_q.values)?,
        wq_scales: pointer(&to_q.scales)?,
        k: pointer(&k)?,
        v: pointer(&v)?,
        out: pointer(&out)?,
        batch: int(batch)?,
        kv_batch: int(kv_batch)?,
        heads: int(heads)?,
        queries: int(queries)?,
        keys: int(keys)?,
        channels: int(to_q.inputs())?,
        kv_stride: int(width)?,
        rows_per_scale: int(rows_per_scale)?,
    };
    let plan = launch::launch_cross_attention(&parameters, dtype);
    // SAFETY: batch × queries rows of activations, in int8 with a scale each, `width` rows of the weight
    // with theirs, kv_batch × keys × width keys and values, batch × queries × width results.
    unsafe { crate::cuda::launch(device(&k)?, &parameters, plan) }?;
    Ok(out)
}

/// Scores in the tensors' own type, their softmax in float32; as many queries at once as
/// [`SCORES`] allow.
fn by_candle(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, mask: Mask) -> Result<Tensor> {
    let (batch, queries, width) = q.dims3()?;
    let (k_batch, keys, _) = k.dims3()?;
    let d = width / heads;
    let each = batch / k_batch;
    // Rows of q that share a row of k and v lie side by side: they are more queries of it.
    let q = (q * (1.0 / (d as f64).sqrt()))?
        .reshape((k_batch, each, queries, heads, d))?
        .permute((0, 3, 1, 2, 4))?
        .contiguous()?; // [K, heads, B/K, Nq, d]
    let split = |x: &Tensor| {
        x.reshape((k_batch, keys, heads, d))?
            .transpose(1, 2)?
            .contiguous() // [K, heads, Nk, d]
    };
    let (k, v) = (split(k)?, split(v)?);
    let kt = k.t()?; // [K, heads, d, Nk]
    let chunk = (SCORES / (batch * heads * keys)).clamp(1, queries.max(1));
    let mut parts = Vec::new();
    for first in (0..queries).step_by(chunk) {
        let rows = chunk.min(queries - first);
        let part =
            q.narrow(3, first, rows)?
                .contiguous()?
                .reshape((k_batch, heads, each * rows, d))?;
        let mut scores = part.matmul(&kt)?.to_dtype(DType::F32)?; // [K, heads, B/K·rows, Nk]
        if mask == Mask::Causal {
            scores = scores
                .reshape((k_batch, heads, each, rows, keys))?
                .broadcast_add(&unseen(first, rows, keys, &scores)?)?
                .reshape((k_batch, heads, each * rows, keys))?;
        }
        let weights = softmax_last_dim(&scores)?.to_dtype(v.dtype())?;
        let part = weights.matmul(&v)?; // [K, heads, B/K·rows, d]
        parts.push(part.reshape((k_batch, heads, each, rows, d))?);
    }
    Tensor::cat(&parts, 3)?
        .permute((0, 2, 3, 1, 4))? // [K, B/K, Nq, heads, d]
        .contiguous()?
        .reshape((batch, queries, width))
}

/// −∞ where a query, from `first` on, does not see a key: [rows, keys].
fn unseen(first: usize, rows: usize, keys: usize, like: &Tensor) -> Result<Tensor> {
    let mask: Vec<f32> = (first..first + rows)
        .flat_map(|query| {
            (0..keys).map(move |key| if key > query { f32::NEG_INFINITY } else { 0.0 })
        })
        .collect();
    Tensor::from_vec(mask, (rows, keys), like.device())
}
