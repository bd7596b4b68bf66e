//! What each operation has to do at given sizes: arithmetic and traffic.
//!
//! One function an operation, used by the operation itself when it is recorded and by the forecast,
//! which knows the sizes from the configs. `bytes` is the size of a value of the run's number type.

use crate::measure::op::{Op, Work};

use super::Activation;
use super::int8::{Reads, SCALE_BYTES, Scheme};

fn work(
    op: Op,
    sizes: [usize; 4],
    macs: usize,
    other_flops: usize,
    (read, written, bytes): (usize, usize, usize),
) -> Work {
    Work {
        op,
        sizes,
        macs: macs as u64,
        other_flops: other_flops as u64,
        read_bytes: (read * bytes) as u64,
        written_bytes: (written * bytes) as u64,
    }
}

/// An operation whose weight of so many values and outputs is int8: fewer bytes of it, and integer
/// products where the activations are int8 too.
fn with_int8(work: Work, scheme: Scheme, [values, outputs, bytes]: [usize; 3]) -> Work {
    let op = match (scheme, work.op) {
        (Scheme::W8A8, Op::Linear) => Op::Int8Linear,
        (Scheme::W8A8, Op::Conv2d) => Op::Int8Conv2d,
        (_, op) => op,
    };
    let read = work.read_bytes - (values * bytes) as u64 + (values + 4 * outputs) as u64;
    Work {
        op,
        read_bytes: read,
        ..work
    }
}

impl Work {
    /// The same where the input, [rows, width] of `bytes` each, comes in int8.
    pub(crate) fn reading_int8(mut self, rows: usize, width: usize, bytes: usize) -> Self {
        self.read_bytes -= (rows * width * bytes) as u64;
        self.read_bytes += (rows * (width + SCALE_BYTES)) as u64;
        self
    }

    /// Attention that makes its queries on the way, which then are neither written nor read.
    pub(crate) fn making(mut self, queries: Work) -> Self {
        self.macs += queries.macs;
        self.other_flops += queries.other_flops;
        self.read_bytes -= queries.written_bytes;
        self.read_bytes += queries.read_bytes;
        self
    }

    /// A product whose kernel does `add` too, for which its result is not read and written again.
    pub(crate) fn adding(mut self, add: Work) -> Self {
        self.other_flops += add.other_flops;
        self.read_bytes += add.read_bytes - add.written_bytes;
        self
    }

    /// A product whose kernel does `geglu` too, for which its result is neither written nor read.
    pub(crate) fn gating(mut self, geglu: Work) -> Self {
        self.other_flops += geglu.other_flops;
        self.read_bytes += geglu.read_bytes - self.written_bytes;
        self.written_bytes = geglu.written_bytes;
        self
    }

    /// The same where the result, [rows, width] of `bytes` each, is given as `reads` says.
    pub(crate) fn writing(mut self, reads: Reads, rows: usize, width: usize, bytes: usize) -> Self {
        if reads == Reads::Int8 {
            self.written_bytes -= (rows * width * bytes) as u64;
            self.written_bytes += (rows * (width + SCALE_BYTES)) as u64;
        }
        self
    }
}

/// x [rows, in] → [rows, out], with a weight in the run's type or in int8. Sizes: rows, in, out.
pub fn linear(
    rows: usize,
    inputs: usize,
    outputs: usize,
    bias: bool,
    bytes: usize,
    int8: Option<Scheme>,
) -> Work {
    let bias = usize::from(bias);
    let float = work(
        Op::Linear,
        [rows, inputs, outputs, 0],
        rows * inputs * outputs,
        bias * rows * outputs,
        (
            rows * inputs + inputs * outputs + bias * outputs,
            rows * outputs,
            bytes,
        ),
    );
    match int8 {
        None => float,
        Some(scheme) => with_int8(float, scheme, [inputs * outputs, outputs, bytes]),
    }
}

/// An image of `pixels` (of all images) of `inputs` channels → `out_pixels` of `outputs`. Sizes:
/// output pixels, taps of the kernel, in, out.
pub fn conv2d(
    (pixels, out_pixels): (usize, usize),
    taps: usize,
    inputs: usize,
    outputs: usize,
    bytes: usize,
    int8: Option<Scheme>,
) -> Work {
    let float = work(
        Op::Conv2d,
        [out_pixels, taps, inputs, outputs],
        out_pixels * taps * inputs * outputs,
        out_pixels * outputs,
        (
            pixels * inputs + taps * inputs * outputs + outputs,
            out_pixels * outputs,
            bytes,
        ),
    );
    match int8 {
        None => float,
        Some(scheme) => with_int8(float, scheme, [taps * inputs * outputs, outputs, bytes]),
    }
}

/// `heads` heads (of all images) of width `d`; the keys of `key_rows` heads are read. With `causal`
/// a query sees the keys up to its own. Sizes: heads, queries, keys, d.
pub fn attention(
    (heads, key_heads): (usize, usize),
    queries: usize,
    keys: usize,
    d: usize,
    causal: bool,
    bytes: usize,
) -> Work {
    let scores = match causal {
        true => heads * queries * (queries + 1) / 2,
        false => heads * queries * keys,
    };
    // Softmax: scale, maximum, difference, exponential, sum; then one division a result.
    work(
        Op::Attention,
        [heads, queries, keys, d],
        2 * scores * d,
        5 * scores + heads * queries * d,
        (
            heads * queries * d + 2 * key_heads * keys * d,
            heads * queries * d,
            bytes,
        ),
    )
}

/// Operations of an activation on a value.
fn activation_flops(which: Activation) -> usize {
    match which {
        Activation::Silu => 4,
        Activation::Gelu | Activation::QuickGelu => 5,
    }
}

/// Group norm of `pixels` (of all images) × `channels`: mean 1, squared deviation 3, normalisation 3
/// operations a value, and the activation's. Sizes: pixels, channels.
pub fn group_norm(
    pixels: usize,
    channels: usize,
    activation: Option<Activation>,
    bytes: usize,
) -> Work {
    let values = pixels * channels;
    work(
        Op::GroupNorm,
        [pixels, channels, 0, 0],
        0,
        values * (7 + activation.map_or(0, activation_flops)),
        (values + 2 * channels, values, bytes),
    )
}

/// The same with given statistics: normalisation and activation only.
pub fn group_norm_given(
    pixels: usize,
    channels: usize,
    activation: Activation,
    bytes: usize,
) -> Work {
    let values = pixels * channels;
    work(
        Op::GroupNorm,
        [pixels, channels, 0, 0],
        0,
        values * (3 + activation_flops(activation)),
        (values + 2 * channels, values, bytes),
    )
}

/// Layer norm of `rows` × `channels`: mean 1, squared deviation 3, normalisation 4 operations a
/// value. Sizes: rows, channels.
pub fn layer_norm(rows: usize, channels: usize, bytes: usize) -> Work {
    let values = rows * channels;
    work(
        Op::LayerNorm,
        [rows, channels, 0, 0],
        0,
        8 * values,
        (values + 2 * channels, values, bytes),
    )
}

/// [rows, 2 × channels] → [rows, channels]. Sizes: rows, channels.
pub fn geglu(rows: usize, channels: usize, bytes: usize) -> Work {
    let values = rows * channels;
    work(
        Op::Geglu,
        [rows, channels, 0, 0],
        0,
        values * (1 + activation_flops(Activation::Gelu)),
        (2 * values, values, bytes),
    )
}

/// Sizes: values.
pub fn activation(values: usize, which: Activation, bytes: usize) -> Work {
    work(
        Op::Activation,
        [values, 0, 0, 0],
        0,
        values * activation_flops(which),
        (values, values, bytes),
    )
}

/// A sum; `other` is the number of values of the second term, which may be repeated. Sizes: values.
pub fn add(values: usize, other: usize, bytes: usize) -> Work {
    work(
        Op::Add,
        [values, 0, 0, 0],
        0,
        values,
        (values + other, values, bytes),
    )
}

/// Values of `from` bytes each, put elsewhere with `to` bytes each. Sizes: values written.
pub fn moved((read, from): (usize, usize), (written, to): (usize, usize)) -> Work {
    Work {
        read_bytes: (read * from) as u64,
        written_bytes: (written * to) as u64,
        ..work(Op::Move, [written, 0, 0, 0], 0, 0, (0, 0, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Multiply-accumulates, other operations, bytes read, bytes written; counted by hand.
    fn counts(work: &Work) -> [u64; 4] {
        [
            work.macs,
            work.other_flops,
            work.read_bytes,
            work.written_bytes,
        ]
    }

    #[test]
    fn counts_are_those_of_small_cases_by_hand() {
        // Two rows of three by five outputs: 30 products, 10 biases; 6 + 15 + 5 values in, 10 out.
        let float = linear(2, 3, 5, true, 4, None);
        assert_eq!(counts(&float), [30, 10, 104, 40]);
        // The 15 weights in a byte each, and 5 scales of four: 44 + 15 + 20 bytes.
        let int8 = linear(2, 3, 5, true, 4, Some(Scheme::W8A8));
        assert_eq!((counts(&int8), int8.op), ([30, 10, 79, 40], Op::Int8Linear));
        let wide = linear(2, 3, 5, true, 4, Some(Scheme::W8A16));
        assert_eq!((wide.read_bytes, wide.op), (79, Op::Linear));
        // Its six inputs in a byte each, with a scale of four bytes to each of two rows.
        let rows = int8.reading_int8(2, 3, 4);
        assert_eq!(counts(&rows), [30, 10, 79 - 24 + 14, 40]);
        // 4×4 pixels of 2 channels, 3×3 kernel, stride 2: 4 pixels of 3 channels.
        let conv = conv2d((16, 4), 9, 2, 3, 2, None);
        assert_eq!(counts(&conv), [4 * 9 * 6, 12, 2 * (32 + 54 + 3), 24]);
        // One head of 3 queries and keys of width 4: 9 scores, 6 of them causal.
        let whole = attention((1, 1), 3, 3, 4, false, 4);
        assert_eq!(counts(&whole), [72, 45 + 12, 4 * 36, 48]);
        let causal = attention((1, 1), 3, 3, 4, true, 4);
        assert_eq!(counts(&causal), [48, 30 + 12, 4 * 36, 48]);
        // Its queries from three rows of two values: 24 products more, and in place of the queries' 48
        // bytes those of the rows and of the weight, 4 · 6 + 4 · 8.
        let made = whole.making(linear(3, 2, 4, false, 4, None));
        assert_eq!(counts(&made), [96, 57, 4 * 24 + 56, 48]);
        // Six values: 7 operations each, and SiLU's 4.
        assert_eq!(counts(&group_norm(3, 2, None, 4)), [0, 42, 40, 24]);
        let silu = group_norm(3, 2, Some(Activation::Silu), 4);
        assert_eq!(silu.other_flops, 66);
        assert_eq!(counts(&layer_norm(3, 2, 4)), [0, 48, 40, 24]);
        assert_eq!(counts(&geglu(3, 2, 4)), [0, 36, 48, 24]);
        // Three rows of two bytes and a scale of four.
        let rows = geglu(3, 2, 4).writing(Reads::Int8, 3, 2, 4);
        assert_eq!(counts(&rows), [0, 36, 48, 18]);
        assert_eq!(counts(&activation(6, Activation::Gelu, 2)), [0, 30, 12, 12]);
        assert_eq!(counts(&add(6, 2, 4)), [0, 6, 32, 24]);
        // Two rows of three by five outputs, and one row of five added to both.
        let sum = linear(2, 3, 5, true, 4, None).adding(add(10, 5, 4));
        assert_eq!(counts(&sum), [30, 20, 104 + 20, 40]);
        // Three rows of four sums, of which two values each are written.
        let gated = linear(3, 2, 4, true, 4, None).gating(geglu(3, 2, 4));
        assert_eq!(counts(&gated), [24, 12 + 36, 72, 24]);
        assert_eq!(counts(&moved((6, 2), (6, 4))), [0, 0, 12, 24]);
    }
}
