//! What each operation's CPU path allocates for itself: the most, in bytes, that it holds besides its
//! inputs and its result.
//!
//! One function an operation, for the forecast; tests/forecast.rs compares them with counted memory.
//! Who changes what a CPU path allocates changes its line here.

use candle_core::DType;
use gemm_common::cache::{CACHE_INFO, KernelParams, kernel_params};
use gemm_common::gemm::get_rhs_packing_threshold;

use crate::ops::attention::{KEY_TILE, QUERY_TILE};
use crate::ops::conv2d::block_pixels;
use crate::ops::cpu::{steady_rows, widened_inputs};
use crate::ops::group_norm::{Moments, block_values};
use crate::ops::int8::{self, Reads, SCALE_BYTES, Scheme};

/// What all CPU paths compute in.
const F32: usize = size_of::<f32>();

/// An operation that reads `widened` values and gives `out`. In half precision both are held in f32,
/// and the result beside them at the end; `scratch` bytes are held before that.
fn widening(dtype: DType, widened: usize, out: usize, scratch: usize) -> usize {
    if dtype == DType::F32 {
        return scratch;
    }
    let result = out * dtype.size_in_bytes();
    F32 * (widened + out) + scratch.saturating_sub(result)
}

/// x [rows, inputs], of floats or as int8 rows → [rows, outputs], on `threads` threads.
pub fn linear(
    (dtype, reads): (DType, Reads),
    rows: usize,
    (inputs, outputs): (usize, usize),
    bias: bool,
    int8: Option<Scheme>,
    threads: usize,
) -> usize {
    let bias = usize::from(bias) * outputs;
    if int8 == Some(Scheme::W8A8) {
        let sizes = (rows, rows, 1);
        return integers((dtype, reads), sizes, (inputs, outputs), bias, threads);
    }
    let scratch = linear_rows(as_kept(dtype, int8), rows, inputs, outputs);
    widening(dtype, rows * inputs + bias, rows * outputs, scratch)
}

/// A product of int8 weights and activations: `in_rows` of them, quantised here unless they come so, to
/// `out_rows` over `taps` each; with `bias` biases.
fn integers(
    (dtype, reads): (DType, Reads),
    (in_rows, out_rows, taps): (usize, usize, usize),
    (inputs, outputs): (usize, usize),
    bias: usize,
    threads: usize,
) -> usize {
    let (rows, widened) = match reads {
        Reads::Float => (in_rows * (inputs + SCALE_BYTES), F32 * in_rows * inputs),
        Reads::Int8 => (in_rows * SCALE_BYTES, 0),
    };
    let blocks = int8::workspace(out_rows, inputs, taps, threads);
    if dtype == DType::F32 {
        return rows + blocks;
    }
    let out = out_rows * outputs;
    let result = out * dtype.size_in_bytes();
    let quantising = rows + widened;
    let multiplying = rows + F32 * (bias + out) + blocks;
    let storing = rows + F32 * (bias + out) + result;
    quantising.max(multiplying).max(storing) - result
}

/// The type that a weight is kept in: any narrower than f32 is widened block by block.
fn as_kept(dtype: DType, int8: Option<Scheme>) -> DType {
    match int8 {
        None => dtype,
        Some(_) => DType::U8,
    }
}

/// Of `cpu::linear_rows`.
fn linear_rows(dtype: DType, rows: usize, inputs: usize, outputs: usize) -> usize {
    let steady = steady_rows(outputs);
    let padding = match rows < steady {
        true => steady * (inputs + outputs),
        false => 0,
    };
    let (block, widened) = match dtype {
        DType::F32 => (inputs, 0),
        _ => {
            let block = widened_inputs(inputs, outputs);
            (block, block * outputs)
        }
    };
    F32 * (padding + widened) + gemm(rows.max(steady), outputs, block, false)
}

/// Images of `pixels` (of all of them, and of one once convolved) by a kernel of `taps`; `pointwise`
/// is a kernel of one, stride 1, no padding.
pub fn conv2d(
    (dtype, reads): (DType, Reads),
    (pixels, images, out_pixels): (usize, usize, usize),
    taps: usize,
    (inputs, outputs): (usize, usize),
    pointwise: bool,
    int8: Option<Scheme>,
    threads: usize,
) -> usize {
    if int8 == Some(Scheme::W8A8) {
        let sizes = (pixels, images * out_pixels, taps);
        return integers((dtype, reads), sizes, (inputs, outputs), outputs, threads);
    }
    let kept = as_kept(dtype, int8);
    let scratch = if pointwise {
        linear_rows(kept, pixels, inputs, outputs)
    } else {
        let patch = taps * inputs;
        let block = block_pixels(patch, out_pixels);
        let last = (out_pixels + block - 1) % block.max(1) + 1;
        let products = [block, last].map(|rows| linear_rows(kept, rows, patch, outputs));
        F32 * block * patch + products[0].max(products[1])
    };
    let out = images * out_pixels * outputs;
    widening(dtype, pixels * inputs + outputs, out, scratch)
}

/// Queries [.., queries, width] of `rows` images, keys and values of `key_rows`, on `threads` threads.
pub fn attention(
    dtype: DType,
    (rows, key_rows): (usize, usize),
    (queries, keys): (usize, usize),
    (width, heads): (usize, usize),
    threads: usize,
) -> usize {
    let d = width / heads.max(1);
    let tile = (QUERY_TILE.min(queries), KEY_TILE.min(keys));
    let products = gemm(tile.0, tile.1, d, true).max(gemm(tile.0, d, tile.1, false));
    let tasks = threads.min(queries.div_ceil(QUERY_TILE));
    let scratch = tasks * (F32 * QUERY_TILE * tile.1 + products);
    let out = rows * queries * width;
    widening(dtype, out + 2 * key_rows * keys * width, out, scratch)
}

/// `images` of `pixels` × `channels`, given as `reads` says; `given` statistics are not taken.
pub fn group_norm(
    (dtype, reads): (DType, Reads),
    (images, pixels): (usize, usize),
    channels: usize,
    groups: usize,
    given: bool,
    threads: usize,
) -> usize {
    let scratch = match given {
        true => Moments::bytes(groups),
        false => block_moments(pixels, channels, groups),
    };
    let values = images * pixels * channels;
    match reads {
        Reads::Float => widening(dtype, values + 2 * channels, values, scratch),
        Reads::Int8 => {
            let blocks = threads * F32 * block_values(channels);
            filling(dtype, values + 2 * channels) + scratch.max(blocks)
        }
    }
}

/// `widened` values read to give int8 rows, which nothing is left to be done to.
fn filling(dtype: DType, widened: usize) -> usize {
    match dtype {
        DType::F32 => 0,
        _ => F32 * widened,
    }
}

/// `GroupNorm::moments` of one image: no result but the statistics.
pub fn group_norm_moments(dtype: DType, pixels: usize, channels: usize, groups: usize) -> usize {
    let scratch = block_moments(pixels, channels, groups);
    match dtype {
        DType::F32 => scratch,
        _ => F32 * pixels * channels + scratch,
    }
}

/// The statistics of each block of pixels, before they are merged.
fn block_moments(pixels: usize, channels: usize, groups: usize) -> usize {
    (pixels * channels).div_ceil(block_values(channels)) * Moments::bytes(groups)
}

/// `rows` × `channels`, given as `reads` says.
pub fn layer_norm(
    (dtype, reads): (DType, Reads),
    rows: usize,
    channels: usize,
    threads: usize,
) -> usize {
    let widened = rows * channels + 2 * channels;
    match reads {
        Reads::Float => widening(dtype, widened, rows * channels, 0),
        Reads::Int8 => filling(dtype, widened) + threads * F32 * channels,
    }
}

/// [rows, 2 × channels] → [rows, channels], given as `reads` says.
pub fn geglu(
    (dtype, reads): (DType, Reads),
    rows: usize,
    channels: usize,
    threads: usize,
) -> usize {
    let widened = 2 * rows * channels;
    match reads {
        Reads::Float => widening(dtype, widened, rows * channels, 0),
        Reads::Int8 => filling(dtype, widened) + threads * F32 * channels,
    }
}

/// In place in the widened copy.
pub fn activation(dtype: DType, values: usize) -> usize {
    widening(dtype, 0, values, 0)
}

/// `values` and `other` values of the second term.
pub fn add(dtype: DType, values: usize, other: usize) -> usize {
    widening(dtype, values + other, values, 0)
}

/// An image brought into another layout: converted first where the number type changes.
pub fn relayout(from: DType, to: DType, values: usize) -> usize {
    match from == to {
        true => 0,
        false => values * to.size_in_bytes(),
    }
}

/// What `gemm` takes to pack its operands: out [m, n] = a [m, k] · b [k, n], all row by row;
/// `b_turned` is b kept as [n, k].
///
/// Source: gemm 0.19, `gemm_basic_generic` of gemm-common's src/gemm.rs, and the tile sizes of
/// gemm-f32. A row-major result is computed as its transpose, so there b is the left side.
fn gemm(m: usize, n: usize, k: usize, b_turned: bool) -> usize {
    let dot_products = b_turned && m * n <= 256;
    if m <= 1 || n <= 1 || k <= 2 || dot_products {
        return 0;
    }
    let Tile { lanes, mr, nr } = Tile::of_this_cpu();
    let (left, right) = (n, m);
    let KernelParams { kc, mc, nc } = if left <= 64 && right <= 64 {
        let kc = k.min(512);
        KernelParams {
            kc,
            mc: CACHE_INFO[1].cache_bytes / F32 / kc / mr * mr,
            nc: right.next_multiple_of(nr),
        }
    } else {
        kernel_params(left, right, k, mr, nr, F32)
    };
    let nc = if nc > 0 {
        nc
    } else {
        right.next_multiple_of(nr)
    };
    let right_packed = left > get_rhs_packing_threshold() * mr;
    let left_packed = left <= 2 * mc && (!left.is_multiple_of(lanes) || b_turned);
    let rows = usize::from(right_packed) * (nc / nr * nr)
        + usize::from(left_packed) * left.next_multiple_of(mr);
    F32 * kc * rows
}

/// What each thread that has computed a matrix product keeps from then on (gemm-common's `L2_SLAB`).
pub fn gemm_slab() -> usize {
    CACHE_INFO[1].cache_bytes
}

/// Rows and columns that gemm-f32 computes at once (its src/microkernel.rs), and values of a vector.
struct Tile {
    lanes: usize,
    mr: usize,
    nr: usize,
}

impl Tile {
    fn of_this_cpu() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if std::is_x86_feature_detected!("avx512f") {
                return Self::of(16, 4, 6);
            }
            if std::is_x86_feature_detected!("fma") {
                return Self::of(8, 2, 6);
            }
            Self::of(1, 2, 4)
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self::of(4, 4, 4)
    }

    fn of(lanes: usize, vectors: usize, nr: usize) -> Self {
        Self {
            lanes,
            mr: lanes * vectors,
            nr,
        }
    }
}
