//! What each operation's GPU path allocates for itself: the most, in bytes, that it holds besides its inputs and its
//! result.
//!
//! A kernel of ours holds what its launch names and no more. Where none applies (float32, sizes that no kernel takes)
//! the tensors between candle's operations are counted, generously. cuBLAS works in memory of its own. Who changes what
//! `ops/cuda` allocates changes its line here; tests/cuda/memory.rs compares them with what is taken.

use candle_core::DType;

use crate::ops::Activation;
use crate::ops::int8::{Reads, SCALE_BYTES, Scheme};
use crate::ops::limits::{
    GROUP_NORM_CHANNELS, GROUP_NORM_CHUNKS, GROUP_NORM_PIXELS, HEAD, INT8_INPUTS, PATCHES, SCORES,
    VECTOR,
};

/// Every tensor begins at a multiple of this in a GPU's memory, as the driver's own allocations do, and takes a multiple
/// of it.
pub const GRANULE_BYTES: u64 = 512;

const F32: usize = size_of::<f32>();

/// Whether the kernels know the type.
pub fn in_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

/// Whether a product of an int8 weight has a kernel, which does what stands behind the product, too.
pub fn int8_kernel(dtype: DType, inputs: usize, int8: Option<Scheme>) -> Option<Scheme> {
    int8.filter(|_| in_half(dtype) && inputs.is_multiple_of(INT8_INPUTS))
}

/// x [rows, inputs], of floats or as int8 rows → [rows, outputs].
pub fn linear(
    (dtype, reads): (DType, Reads),
    rows: usize,
    (inputs, outputs): (usize, usize),
    bias: bool,
    int8: Option<Scheme>,
) -> usize {
    match (int8_kernel(dtype, inputs, int8), reads) {
        (Some(Scheme::W8A8), Reads::Float) => return rows * (inputs + SCALE_BYTES),
        (Some(_), _) => return 0,
        (None, _) => {}
    }
    let widened = match int8 {
        Some(_) => widening(dtype, inputs * outputs),
        None => 0,
    };
    // The bias is added in place, or makes another tensor.
    let sum = match bias && !(in_half(dtype) && outputs.is_multiple_of(VECTOR)) {
        true => rows * outputs * dtype.size_in_bytes(),
        false => 0,
    };
    widened + sum
}

/// Of a weight of so many values: bytes as floats, what is taken from them, the difference, the product with the
/// scales, all in float32, and the result.
fn widening(dtype: DType, values: usize) -> usize {
    4 * F32 * values + dtype.size_in_bytes() * values
}

/// Images of `pixels` in all, each `out_height` by `out_width` once convolved, by a kernel of `taps`; `pointwise` is a
/// kernel of one, stride 1, no padding.
pub fn conv2d(
    (dtype, reads): (DType, Reads),
    (pixels, images, [out_height, out_width]): (usize, usize, [usize; 2]),
    taps: usize,
    (inputs, outputs): (usize, usize),
    pointwise: bool,
    int8: Option<Scheme>,
) -> usize {
    if pointwise && int8.is_some() {
        return linear((dtype, reads), pixels, (inputs, outputs), true, int8);
    }
    if in_half(dtype) {
        let kernel = int8_kernel(dtype, inputs, int8);
        return match (kernel, reads) {
            (Some(Scheme::W8A8), Reads::Float) => {
                pixels * (inputs + SCALE_BYTES) + images * size_of::<u32>()
            }
            _ => 0,
        };
    }
    // By candle: the image padded each way and made dense; then its patches, the weight in their order, the product
    // and its two changes of layout.
    let weight = taps * inputs * outputs;
    let widened = int8.map_or(0, |_| widening(dtype, weight));
    let (image, out) = (pixels * inputs, images * out_height * out_width * outputs);
    // Of more than one band of rows, the image's bands, those of the result, and all of that.
    let row = images * out_width * taps * inputs;
    let held = match out_height * row <= PATCHES {
        true => out_height * row,
        false => PATCHES.max(row) + image,
    };
    F32 * (3 * image).max(image + weight + held + 3 * out) + widened
}

/// Queries [.., queries, width] of `rows` images, keys and values of `key_rows`.
pub fn attention(
    dtype: DType,
    (rows, key_rows): (usize, usize),
    (queries, keys): (usize, usize),
    (width, heads): (usize, usize),
) -> usize {
    let heads = heads.max(1);
    if in_half(dtype) && width / heads == HEAD {
        return 0;
    }
    let bytes = dtype.size_in_bytes();
    let q = rows * queries * width * bytes;
    // Queries are scaled; of more than one head they and all else are brought together by heads.
    let turned = match heads {
        1 => 0,
        _ => q.max(2 * key_rows * keys * width * bytes),
    };
    let at_once = (SCORES / (rows * heads * keys).max(1)).clamp(1, queries.max(1));
    let part = q / queries.max(1) * at_once;
    // Scores and weights in float32, and the weights in half.
    let score_bytes = if in_half(dtype) {
        2 * F32 + bytes
    } else {
        2 * F32
    };
    let scores = rows * heads * at_once * keys * score_bytes;
    let cut = match at_once < queries {
        true => part + q,
        false => 0,
    };
    q + turned + scores + cut
}

/// `images` of `pixels` × `channels`; `given` statistics are not taken.
pub fn group_norm(
    dtype: DType,
    (images, pixels): (usize, usize),
    (channels, groups): (usize, usize),
    activation: Option<Activation>,
    given: bool,
) -> usize {
    let fits = in_half(dtype)
        && channels.is_multiple_of(VECTOR)
        && channels <= GROUP_NORM_CHANNELS
        && matches!(activation, None | Some(Activation::Silu));
    if !fits {
        // In float32. With given statistics: the image, the difference from the means, the product, the sum; else the
        // groups side by side, too.
        let tensors = if given { 4 } else { 5 };
        return tensors * F32 * images * pixels * channels;
    }
    let chunk = pixels.div_ceil(GROUP_NORM_CHUNKS).max(GROUP_NORM_PIXELS);
    let statistics = pixels.div_ceil(chunk) * (2 * groups + 2 * channels) + 3 * channels + 1;
    // Weight and bias in float32; with given statistics the table, and what it is made of.
    let of_channels = if given { 8 } else { 2 };
    F32 * (images * statistics + of_channels * channels)
}

/// `rows` × `channels`.
pub fn layer_norm(dtype: DType, rows: usize, channels: usize) -> usize {
    match in_half(dtype) && channels.is_multiple_of(VECTOR) {
        true => F32 * 2 * channels,
        false => F32 * 3 * rows * channels,
    }
}

/// [rows, 2 × channels] → [rows, channels].
pub fn geglu(dtype: DType, rows: usize, channels: usize) -> usize {
    match in_half(dtype) && channels.is_multiple_of(VECTOR) {
        true => 0,
        false => F32 * 4 * rows * channels,
    }
}

/// Value by value.
pub fn activation(dtype: DType, values: usize) -> usize {
    match in_half(dtype) && !values.is_multiple_of(VECTOR) {
        true => 2 * F32 * values,
        false => 0,
    }
}
