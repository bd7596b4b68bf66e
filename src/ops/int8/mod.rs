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
use kernel::{Kernel, MAX_ROWS, NOTHING, Tile};

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

/// An int8 weight in the order that this processor's kernel reads: by a panel of outputs (the kernel's
/// columns), tap, group of inputs.
#[derive(Debug)]
pub struct Packed {
    kernel: Kernel,
    values: Vec<i8>,
    /// What the layout's offset adds to the sums of each panel and tap; empty where it adds nothing.
    offsets: Vec<i32>,
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
        let (group, columns) = (kernel.layout().group(), kernel.columns());
        let groups = inputs.div_ceil(group);
        let panel = taps * groups * columns * group;
        let panels = outputs.div_ceil(columns);
        let mut packed = vec![0i8; panels * panel];
        packed
            .par_chunks_mut(panel)
            .enumerate()
            .for_each(|(p, out)| {
                for column in 0..columns.min(outputs - p * columns) {
                    let of_output =
                        &values[(p * columns + column) * inputs * taps..][..inputs * taps];
                    for (i, of_input) in of_output.chunks_exact(taps).enumerate() {
                        for (tap, &value) in of_input.iter().enumerate() {
                            let at = ((tap * groups + i / group) * columns + column) * group;
                            out[at + i % group] = value;
                        }
                    }
                }
            });
        let offset = kernel.layout().offset();
        let offsets = match offset {
            0 => Vec::new(),
            _ => packed
                .chunks_exact(groups * columns * group)
                .flat_map(|tap| {
                    let mut sums = vec![0i32; columns];
                    for (at, &value) in tap.iter().enumerate() {
                        sums[at / group % columns] += offset * i32::from(value);
                    }
                    sums
                })
                .collect(),
        };
        Self {
            kernel,
            values: packed,
            offsets,
            scales: scales.to_vec(),
            taps,
            inputs,
            outputs,
        }
    }

    /// Bytes that a weight of [out, in, taps] takes.
    pub fn bytes(kernel: Kernel, [outputs, inputs, taps]: [usize; 3]) -> usize {
        let layout = kernel.layout();
        let columns = outputs.next_multiple_of(kernel.columns());
        let values = columns * taps * inputs.next_multiple_of(layout.group());
        let offsets = match layout.offset() {
            0 => 0,
            _ => columns * taps,
        };
        values + 4 * (offsets + outputs)
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

/// Rows of a task, in whole tiles: few enough that the threads end at nearly the same time.
fn block_rows(kernel: Kernel, rows: usize, row_bytes: usize, threads: usize) -> usize {
    let fair = rows.div_ceil(16 * threads);
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
    match weight.kernel.columns() {
        32 => by_columns::<32>(out, x, weight, bias, pixel),
        _ => by_columns::<16>(out, x, weight, bias, pixel),
    }
}

/// The same, for a kernel of `C` columns.
fn by_columns<const C: usize>(
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
    assert_eq!(kernel.columns(), C);
    let layout = kernel.layout();
    let tile_rows = kernel.rows();
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
                let (mut tile, mut sums) = (NOTHING, [[0f32; C]; MAX_ROWS]);
                for panel in 0..outputs.div_ceil(C) {
                    let column = panel * C;
                    let width = C.min(outputs - column);
                    let of_panel = |values: &[f32]| {
                        let mut panel = [0f32; C];
                        panel[..width].copy_from_slice(&values[column..][..width]);
                        panel
                    };
                    let (by_column, bias) = (of_panel(&weight.scales), bias.map(of_panel));
                    for from in (0..count).step_by(tile_rows) {
                        let valid = tile_rows.min(count - from);
                        weight.sum::<C>(
                            panel,
                            &laid_out[from * row_bytes..],
                            (row_bytes, tap_bytes),
                            &scales[from * taps..(from + valid) * taps],
                            (&mut tile, &mut sums),
                        );
                        let out = &mut out[from * outputs..][..valid * outputs];
                        vectorised(
                            #[inline(always)]
                            || {
                                for (sums, out) in sums.iter().zip(out.chunks_exact_mut(outputs)) {
                                    let out = &mut out[column..][..width];
                                    match (out.first_chunk_mut::<C>(), &bias) {
                                        (Some(out), Some(bias)) => {
                                            let columns = by_column.iter().zip(bias);
                                            for ((out, sum), (scale, bias)) in
                                                out.iter_mut().zip(sums).zip(columns)
                                            {
                                                *out = sum * scale + bias;
                                            }
                                        }
                                        _ => {
                                            for ((out, sum), scale) in
                                                out.iter_mut().zip(sums).zip(&by_column)
                                            {
                                                *out = sum * scale;
                                            }
                                            let biases = bias.iter().flatten();
                                            for (out, bias) in out.iter_mut().zip(biases) {
                                                *out += bias;
                                            }
                                        }
                                    }
                                }
                            },
                        );
                    }
                }
            },
        );
}

impl Packed {
    /// The sums of a tile, activations' scales applied: `rows` begins with the tile's first row, and
    /// `scales` has those of its rows that count.
    fn sum<const C: usize>(
        &self,
        panel: usize,
        rows: &[u8],
        (row_bytes, tap_bytes): (usize, usize),
        scales: &[f32],
        (tile, sums): (&mut Tile, &mut [[f32; C]; MAX_ROWS]),
    ) {
        let taps = self.taps;
        let groups = self.inputs.div_ceil(self.kernel.layout().group());
        let tap_values = groups * C * self.kernel.layout().group();
        let weights = &self.values[panel * taps * tap_values..];
        for tap in 0..taps {
            self.kernel.multiply(
                &rows[tap * tap_bytes..],
                row_bytes,
                groups,
                &weights[tap * tap_values..],
                tile,
            );
            let mut offsets = [0i32; C];
            if !self.offsets.is_empty() {
                offsets.copy_from_slice(&self.offsets[(panel * taps + tap) * C..][..C]);
            }
            let (tile, _) = tile.as_chunks::<C>();
            vectorised(
                #[inline(always)]
                || {
                    let scales = scales.iter().skip(tap).step_by(taps);
                    for ((sums, tile), &scale) in sums.iter_mut().zip(tile).zip(scales) {
                        if tap == 0 {
                            sums.fill(0.0);
                        }
                        for ((sum, value), offset) in sums.iter_mut().zip(tile).zip(&offsets) {
                            *sum += (value - offset) as f32 * scale;
                        }
                    }
                },
            );
        }
    }
}
