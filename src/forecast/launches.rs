//! Kernels that a GPU is given for each operation in half precision: what `ops::cuda` launches, counted.
//!
//! `None` is a case that no kernel of ours covers and nobody has counted. Copies and fills are not
//! kernels. scripts/cuda-emulated compares a step of the embedded model with what the stand-in counts.

use candle_core::DType;

use crate::ops::int8::Scheme;
use crate::ops::limits::{GROUP_NORM_CHANNELS, HEAD, INT8_INPUTS, VECTOR};
use crate::ops::{Activation, Reads};

/// A count, where it is known.
pub type Launches = Option<usize>;

fn in_half(dtype: DType, count: usize) -> Launches {
    matches!(dtype, DType::F16 | DType::BF16).then_some(count)
}

/// cuBLAS and the bias behind it; an int8 kernel has the bias inside, and under W8A8 another quantises
/// the rows, unless they come so.
pub fn linear(
    (dtype, reads): (DType, Reads),
    inputs: usize,
    bias: bool,
    int8: Option<Scheme>,
) -> Launches {
    match int8 {
        None => in_half(dtype, 1 + usize::from(bias)),
        Some(_) if !inputs.is_multiple_of(INT8_INPUTS) => None,
        Some(Scheme::W8A8) if reads == Reads::Float => in_half(dtype, 2),
        Some(_) => in_half(dtype, 1),
    }
}

/// With GEGLU behind it: an int8 kernel has it inside, and gives floats to quantise where another would
/// have given int8.
pub fn linear_geglu(
    read: (DType, Reads),
    [inputs, channels]: [usize; 2],
    int8: Option<Scheme>,
    gives: Reads,
) -> Launches {
    let product = linear(read, inputs, true, int8)?;
    match (int8, gives) {
        (Some(_), Reads::Float) => Some(product),
        _ => Some(product + rows(read.0, channels)?),
    }
}

/// With a sum behind it: an int8 kernel has it inside.
pub fn linear_add(
    read: (DType, Reads),
    inputs: usize,
    bias: bool,
    int8: Option<Scheme>,
) -> Launches {
    let product = linear(read, inputs, bias, int8)?;
    Some(product + usize::from(int8.is_none()))
}

/// One of more than a pixel, with the sum behind it; under W8A8 two kernels quantise the image, unless
/// it comes so.
pub fn conv2d((dtype, reads): (DType, Reads), inputs: usize, int8: Option<Scheme>) -> Launches {
    let multiplies_int8 = int8 == Some(Scheme::W8A8) && inputs.is_multiple_of(INT8_INPUTS);
    let quantises = multiplies_int8 && reads == Reads::Float;
    in_half(dtype, if quantises { 3 } else { 1 })
}

/// One kernel for heads of [`HEAD`]. Others: scaling and three changes of layout, two products, softmax in
/// float32 with a cast on either side, a change of layout.
pub fn attention(dtype: DType, head: usize) -> Launches {
    in_half(dtype, if head == HEAD { 1 } else { 10 })
}

/// One kernel for heads of 64 and rows as an int8 weight reads them; else the queries' product, and
/// attention.
pub fn cross_attention(
    read: (DType, Reads),
    inputs: usize,
    int8: Option<Scheme>,
    head: usize,
) -> Launches {
    let product = linear(read, inputs, false, int8)?;
    match (int8, read.1, head) {
        (Some(Scheme::W8A8), Reads::Int8, HEAD) | (Some(Scheme::W8A16), Reads::Float, HEAD) => {
            Some(product)
        }
        _ => Some(product + attention(read.0, head)?),
    }
}

/// Statistics, their table, the norm with SiLU.
pub fn group_norm(dtype: DType, channels: usize, activation: Option<Activation>) -> Launches {
    let fits = channels.is_multiple_of(VECTOR)
        && channels <= GROUP_NORM_CHANNELS
        && matches!(activation, None | Some(Activation::Silu));
    in_half(dtype, 3).filter(|_| fits)
}

/// Layer norm, GEGLU, or quantisation.
pub fn rows(dtype: DType, channels: usize) -> Launches {
    in_half(dtype, 1).filter(|_| channels.is_multiple_of(VECTOR))
}

/// One kernel for values by vectors.
pub fn activation(dtype: DType, count: usize) -> Launches {
    in_half(dtype, 1).filter(|_| count.is_multiple_of(VECTOR))
}

/// A sum.
pub fn add(dtype: DType) -> Launches {
    in_half(dtype, 1)
}

/// Channels first or last with the cast; without one, or between halves, candle's.
pub fn relayout(from: DType, to: DType) -> Launches {
    let one = matches!((from, to), (DType::F32, _) | (_, DType::F32)) || from == to;
    Some(if one { 1 } else { 2 })
}

/// One copy of both parts, or of each.
pub fn concat(dtype: DType, channels: [usize; 2]) -> Launches {
    let one = channels
        .iter()
        .all(|channels| channels.is_multiple_of(VECTOR));
    in_half(dtype, if one { 1 } else { 2 })
}
