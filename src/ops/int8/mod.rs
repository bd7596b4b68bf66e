//! Products of int8 weights, with int8 or float activations.
//!
//! A weight `w[o, ..]` is `q[o, ..] · s[o]`: integers from −127 to 127 and one float32 scale an output.
//! Under W8A8 a row of activations (a token, a pixel) is quantised likewise by its own largest value:
//! by the norm or GEGLU that computes it ([`Reads::Int8`]), else when it arrives. Products are summed
//! in int32 without rounding, and the scales are applied to the sums. A convolution sums each tap of
//! its kernel apart, since each tap reads another pixel with another scale. Under W8A16 the
//! activations stay as they are and the weights are widened block by block.

pub mod kernel;
mod rows;
mod weights;

pub(super) use rows::{Filling, result_dtype};
pub use rows::{Quantised, Reads, SCALE_BYTES};
pub use weights::{Int8Weights, Scheme};

use rayon::prelude::*;

use super::cpu::vectorised;
use kernel::{COLUMNS, Kernel, MAX_ROWS, Tile};

/// Largest magnitude of a quantised value; −128 has no positive twin and is left out.
pub const LIMIT: f32 = 127.0;

/// Integers and the scale of a row: `x ≈ q · scale`. A value that is not finite makes the scale NaN,
/// so that it is not lost.
pub fn quantise_row(x: &[f32], q: &mut [i8]) -> f32 {
    vectorised(
        #[inline(always)]
        || {
            let mut most = [0f32; 16];
            let mut poison = [0f32; 16];
            for chunk in x.chunks(16) {
                for ((most, poison), x) in most.iter_mut().zip(&mut poison).zip(chunk) {
                    *most = most.max(x.abs());
                    *poison += x * 0.0; // NaN where x is not finite
                }
            }
            let most = most.iter().fold(0f32, |most, m| most.max(*m));
            let poison: f32 = poison.iter().sum();
            let scale = most / LIMIT;
            let inverse = if scale > 0.0 { LIMIT / most } else { 0.0 };
            for (q, x) in q.iter_mut().zip(x) {
                // The sum with 1.5·2²³ rounds to the nearest integer, ties to even.
                const ROUND: f32 = 12_582_912.0;
                let rounded = (x * inverse + ROUND).to_bits() as i32 - ROUND.to_bits() as i32;
                *q = rounded.clamp(-127, 127) as i8;
            }
            scale + poison
        },
    )
}

/// An int8 weight in the order that this processor's kernel reads: by 16 outputs, tap, group of
/// inputs.
#[derive(Debug)]
pub struct Packed {
    kernel: Kernel,
    values: Vec<i8>,
    /// Sum over the inputs, for each panel of outputs and tap; empty where the kernel needs none.
    sums: Vec<i32>,
    scales: Vec<f32>,
    taps: usize,
    inputs: usize,
    outputs: usize,
}

impl Packed {
    /// Packs a checkpoint's weight: values [out, in, taps] and a scale an output.
    pub fn new(
        kernel: Kernel,
        values: &[i8],
        scales: &[f32],
        [outputs, inputs, taps]: [usize; 3],
    ) -> Self {
        assert_eq!(values.len(), outputs * inputs * taps);
        assert_eq!(scales.len(), outputs);
        let group = kernel.layout().group();
        let groups = inputs.div_ceil(group);
        let panel = taps * groups * COLUMNS * group;
        let panels = outputs.div_ceil(COLUMNS);
        let mut packed = vec![0i8; panels * panel];
        packed
            .par_chunks_mut(panel)
            .enumerate()
            .for_each(|(p, out)| {
                for column in 0..COLUMNS.min(outputs - p * COLUMNS) {
                    let of_output =
                        &values[(p * COLUMNS + column) * inputs * taps..][..inputs * taps];
                    for (i, of_input) in of_output.chunks_exact(taps).enumerate() {
                        for (tap, &value) in of_input.iter().enumerate() {
                            let at = ((tap * groups + i / group) * COLUMNS + column) * group;
                            out[at + i % group] = value;
                        }
                    }
                }
            });
        let sums = match kernel.layout().offset() {
            0 => Vec::new(),
            _ => packed
                .chunks_exact(groups * COLUMNS * group)
                .flat_map(|tap| {
                    let mut sums = [0i32; COLUMNS];
                    for (at, &value) in tap.iter().enumerate() {
                        sums[at / group % COLUMNS] += i32::from(value);
                    }
                    sums
                })
                .collect(),
        };
        Self {
            kernel,
            values: packed,
            sums,
            scales: scales.to_vec(),
            taps,
            inputs,
            outputs,
        }
    }

    /// Bytes that a weight of [out, in, taps] takes.
    pub fn bytes(kernel: Kernel, [outputs, inputs, taps]: [usize; 3]) -> usize {
        let layout = kernel.layout();
        let columns = outputs.next_multiple_of(COLUMNS);
        let values = columns * taps * inputs.next_multiple_of(layout.group());
        let sums = match layout.offset() {
            0 => 0,
            _ => columns * taps,
        };
        values + 4 * (sums + outputs)
    }
}

/// Bytes of activations that a task holds in its kernel's layout, at most (unless one tile is more):
/// they stay in the second-level cache while the weights pass.
const BLOCK_BYTES: usize = 1 << 18;

/// Bytes of an activation row at one tap in the kernel's layout.
fn tap_bytes(kernel: Kernel, inputs: usize) -> usize {
    let layout = kernel.layout();
    inputs.next_multiple_of(layout.group()) * layout.activation_bytes()
}

/// Rows of a task, in whole tiles: few enough that every thread gets several tasks.
fn block_rows(kernel: Kernel, rows: usize, row_bytes: usize, threads: usize) -> usize {
    let fair = rows.div_ceil(4 * threads);
    let block = (BLOCK_BYTES / row_bytes).min(fair).max(1);
    block.next_multiple_of(kernel.rows())
}

/// What [`product`] holds besides input and result, in bytes: the blocks that `threads` threads lay
/// out.
pub(super) fn workspace(out_rows: usize, inputs: usize, taps: usize, threads: usize) -> usize {
    let kernel = Kernel::best();
    let row_bytes = taps * tap_bytes(kernel, inputs);
    let block = block_rows(kernel, out_rows, row_bytes, threads);
    let tasks = threads.min(out_rows.div_ceil(block));
    tasks * block * (row_bytes + 4 * taps)
}

/// `out[row, o] = Σ taps (Σ inputs q · w) · scale(pixel of the tap) · scale(o) + bias(o)`. `pixel`
/// says which row of `x` a tap of an output row reads, if any.
pub fn product(
    out: &mut [f32],
    x: &Quantised,
    weight: &Packed,
    bias: Option<&[f32]>,
    pixel: impl Fn(usize, usize) -> Option<usize> + Sync,
) {
    let Packed {
        kernel,
        taps,
        inputs,
        outputs,
        ..
    } = *weight;
    assert_eq!(x.width, inputs);
    let layout = kernel.layout();
    let tile_rows = kernel.rows();
    let groups = inputs.div_ceil(layout.group());
    let tap_bytes = tap_bytes(kernel, inputs);
    let row_bytes = taps * tap_bytes;
    let rows = out.len() / outputs;
    let block = block_rows(kernel, rows, row_bytes, rayon::current_num_threads());
    out.par_chunks_mut(block * outputs)
        .enumerate()
        .for_each_init(
            || (vec![0u8; block * row_bytes], vec![0f32; block * taps]),
            |(laid_out, scales), (task, out)| {
                let first = task * block;
                let count = out.len() / outputs;
                for row in 0..count {
                    for tap in 0..taps {
                        let bytes = &mut laid_out[row * row_bytes + tap * tap_bytes..][..tap_bytes];
                        // Outside the image there are zeros.
                        let (values, scale): (&[i8], f32) = match pixel(first + row, tap) {
                            Some(at) => (&x.values[at * inputs..][..inputs], x.scales[at]),
                            None => (&[], 0.0),
                        };
                        layout.write(values, bytes);
                        scales[row * taps + tap] = scale;
                    }
                }
                for panel in 0..outputs.div_ceil(COLUMNS) {
                    for from in (0..count).step_by(tile_rows) {
                        let sums = weight.tile(
                            panel,
                            &laid_out[from * row_bytes..],
                            (row_bytes, tap_bytes, groups),
                            &scales[from * taps..],
                        );
                        let valid = tile_rows.min(count - from);
                        let column = panel * COLUMNS;
                        let width = COLUMNS.min(outputs - column);
                        for (row, sums) in sums[..valid].iter().enumerate() {
                            let out = &mut out[(from + row) * outputs + column..][..width];
                            let scales = &weight.scales[column..][..width];
                            match bias {
                                Some(bias) => {
                                    let bias = &bias[column..][..width];
                                    for (((out, sum), scale), bias) in
                                        out.iter_mut().zip(sums).zip(scales).zip(bias)
                                    {
                                        *out = sum * scale + bias;
                                    }
                                }
                                None => {
                                    for ((out, sum), scale) in out.iter_mut().zip(sums).zip(scales)
                                    {
                                        *out = sum * scale;
                                    }
                                }
                            }
                        }
                    }
                }
            },
        );
}

impl Packed {
    /// The sums of a tile, activations' scales applied: `rows` begins with the tile's first row.
    fn tile(
        &self,
        panel: usize,
        rows: &[u8],
        (row_bytes, tap_bytes, groups): (usize, usize, usize),
        scales: &[f32],
    ) -> [[f32; COLUMNS]; MAX_ROWS] {
        let (layout, taps) = (self.kernel.layout(), self.taps);
        let tap_values = groups * COLUMNS * layout.group();
        let weights = &self.values[panel * taps * tap_values..];
        let mut sums = [[0f32; COLUMNS]; MAX_ROWS];
        let mut tile: Tile = [[0; COLUMNS]; MAX_ROWS];
        for tap in 0..taps {
            self.kernel.multiply(
                &rows[tap * tap_bytes..],
                row_bytes,
                groups,
                &weights[tap * tap_values..],
                &mut tile,
            );
            let offsets = match layout.offset() {
                0 => [0; COLUMNS],
                offset => {
                    let sums = &self.sums[(panel * taps + tap) * COLUMNS..];
                    std::array::from_fn(|column| offset * sums[column])
                }
            };
            vectorised(
                #[inline(always)]
                || {
                    for (row, (sums, tile)) in sums
                        .iter_mut()
                        .zip(&tile)
                        .take(self.kernel.rows())
                        .enumerate()
                    {
                        // A row of the block's padding has no scale; its sums are not read.
                        let scale = scales.get(row * taps + tap).copied().unwrap_or(0.0);
                        for ((sum, value), offset) in sums.iter_mut().zip(tile).zip(&offsets) {
                            *sum += (value - offset) as f32 * scale;
                        }
                    }
                },
            );
        }
        sums
    }
}
