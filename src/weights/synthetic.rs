//! Weights made up: a network of the real shapes, at a sensible scale, without its files.
//!
//! A value depends on its component, its tensor's name and its index alone, so a tensor is made when
//! a network asks for it, on all threads, in the number type and the order that are kept: loading
//! needs no memory but the model's own. Matrices and convolutions keep the variance of what passes
//! through them, norms are near one and biases small, so that nothing overflows.

pub mod models;

use candle_core::{DType, Device, Result, Shape, Tensor, bail};
use candle_nn::var_builder::SimpleBackend;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::manifest::Component;
use super::values::{self, Fill, Kept, TASK, store};
use crate::ops::{OUTPUTS_LAST, Turn, vectorised};

/// Raised when the generator gives other values than before.
pub const VERSION: u32 = 1;

/// A component's weights.
#[derive(Clone, Copy, Debug)]
pub struct Synthetic {
    /// The component; two of them have tensors of the same names.
    pub component: Component,
}

impl SimpleBackend for Synthetic {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let dims = shape.dims();
        let (values, shape) = match name.strip_suffix(OUTPUTS_LAST) {
            Some(name) => (
                Made::new(self.component, name, dims, Some(Turn::of(dims)?)),
                Turn::shape(dims),
            ),
            None => (Made::new(self.component, name, dims, None), dims.to_vec()),
        };
        values::tensor(&values, shape, dtype, device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!("`{name}`: a made-up tensor has the shape that is asked for, and none was")
    }

    /// No file is there to have older names, so the loaders ask for the present ones.
    fn contains_tensor(&self, name: &str) -> bool {
        name.ends_with(OUTPUTS_LAST)
    }
}

/// A tensor's values.
struct Made {
    keys: [u32; 2],
    mean: f32,
    /// Standard deviation.
    scale: f32,
    turn: Option<Turn>,
}

impl Made {
    fn new(component: Component, name: &str, shape: &[usize], turn: Option<Turn>) -> Self {
        let (mean, scale) = match shape {
            [_, inputs @ ..] if !inputs.is_empty() => {
                let fan_in: usize = inputs.iter().product();
                (0.0, 0.9 / (fan_in as f32).sqrt())
            }
            _ if name.contains("norm") && name.ends_with("weight") => (1.0, 0.1),
            _ => (0.0, 0.05),
        };
        let hash = Sha256::digest(format!("{VERSION}/{component}/{name}"));
        let (keys, _) = hash.as_chunks();
        Self {
            keys: [u32::from_le_bytes(keys[0]), u32::from_le_bytes(keys[1])],
            mean,
            scale,
            turn,
        }
    }

    /// Writes every `step`-th value from the `first` on. (Values repeat after 2³² of a tensor.)
    #[inline(always)]
    fn write<T: Kept>(&self, first: usize, step: usize, out: &mut [T]) {
        let scale = self.scale / DEVIATION;
        store(out, |at, values| {
            let first = (first + at * step) as u32;
            for (i, value) in (0u32..).zip(values.iter_mut()) {
                let index = first.wrapping_add(i.wrapping_mul(step as u32));
                *value = self.mean + scale * bell(mixed(index, self.keys)) as f32;
            }
        });
    }
}

impl Fill for Made {
    fn fill<T: Kept>(&self, out: &mut [T]) {
        match self.turn {
            None => out
                .par_chunks_mut(TASK)
                .enumerate()
                .for_each(|(i, out)| vectorised(|| self.write(i * TASK, 1, out))),
            Some(turn) => out
                .par_chunks_mut(turn.outputs.max(1))
                .enumerate()
                .for_each(|(row, out)| vectorised(|| self.write(turn.offset(row), turn.rows, out))),
        }
    }
}

/// A hash of 32 bits, by the finalizer `lowbias32` of Chris Wellons ("Prospecting for Hash
/// Functions", 2018), with a key before and one within it.
#[inline(always)]
fn mixed(index: u32, [before, within]: [u32; 2]) -> u32 {
    let mut x = index.wrapping_add(before);
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x ^= within;
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// The sum of a hash's four bytes around its mean: nearly normal, within ±3.5 standard deviations.
#[inline(always)]
fn bell(hash: u32) -> i32 {
    let pairs = (hash & 0x00ff_00ff) + ((hash >> 8) & 0x00ff_00ff);
    ((pairs & 0xffff) + (pairs >> 16)) as i32 - 510
}

/// Standard deviation of [`bell`]: √(4 · (256² − 1) / 12).
const DEVIATION: f32 = 147.800_54;

#[cfg(test)]
mod tests {
    use candle_nn::VarBuilder;
    use half::bf16;

    use super::*;

    const SHAPE: [usize; 4] = [37, 21, 3, 3];

    fn builder(component: Component, dtype: DType) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(Synthetic { component }), dtype, Device::Cpu)
    }

    fn flat(tensor: &Tensor) -> Vec<f32> {
        let tensor = tensor.flatten_all().and_then(|t| t.to_dtype(DType::F32));
        tensor.and_then(|t| t.to_vec1()).expect("of numbers")
    }

    fn values(shape: &[usize], name: &str) -> Vec<f32> {
        let unet = builder(Component::Unet, DType::F32);
        flat(&unet.get(shape, name).expect("made"))
    }

    /// Mean and standard deviation.
    fn moments(values: &[f32]) -> (f64, f64) {
        let mean = |f: &dyn Fn(f64) -> f64| {
            values.iter().map(|&v| f(f64::from(v))).sum::<f64>() / values.len() as f64
        };
        let middle = mean(&|v| v);
        (middle, mean(&|v| (v - middle).powi(2)).sqrt())
    }

    #[test]
    fn a_change_of_values_is_a_new_version() {
        let [a, b, c, ..] = values(&[8, 4], "weight")[..] else {
            panic!("32 values")
        };
        assert_eq!(
            (VERSION, [a, b, c]),
            (1, [-0.255_750_1, -0.188_767_92, -0.152_232_2])
        );
    }

    #[test]
    fn scales_are_those_of_a_sound_network() {
        let near = |(mean, deviation): (f64, f64), want: (f64, f64)| {
            // Of 90,000 values; at a normal's width, this leaves 4 standard errors.
            let error = want.1 * 4.0 / 300.0;
            assert!((mean - want.0).abs() < error, "mean {mean}, not {}", want.0);
            assert!(
                (deviation - want.1).abs() < error,
                "deviation {deviation}, not {}",
                want.1
            );
        };
        near(
            moments(&values(&[300, 300], "a.weight")),
            (0.0, 0.9 / 300f64.sqrt()),
        );
        near(moments(&values(&[100, 100, 3, 3], "b.weight")), (0.0, 0.03));
        near(moments(&values(&[90_000], "norm1.weight")), (1.0, 0.1));
        near(moments(&values(&[90_000], "norm1.bias")), (0.0, 0.05));
    }

    #[test]
    fn neighbours_have_nothing_in_common() {
        let weights = values(&[300, 300], "a.weight");
        let product = |other: &[f32]| {
            let products = weights.iter().zip(other).map(|(a, b)| f64::from(a * b));
            products.sum::<f64>() / weights.len() as f64 / moments(&weights).1.powi(2)
        };
        let others = [
            values(&[300, 300], "b.weight"),
            flat(
                &builder(Component::Vae, DType::F32)
                    .get((300, 300), "a.weight")
                    .expect("made"),
            ),
            [&weights[1..], &weights[..1]].concat(),
            [&weights[300..], &weights[..300]].concat(),
        ];
        for (i, other) in others.iter().enumerate() {
            assert!(
                product(other).abs() < 4.0 / 300.0,
                "{i}: {}",
                product(other)
            );
        }
        assert!((product(&weights) - 1.0).abs() < 0.02);
    }

    #[test]
    fn order_type_and_threads_change_no_value() {
        let unet = builder(Component::Unet, DType::F32);
        let made = unet.get(&SHAPE, "conv.weight").expect("made");
        let plain = flat(&made);
        let turned = unet
            .get(&SHAPE, &format!("conv.weight{OUTPUTS_LAST}"))
            .expect("made");
        assert_eq!(turned.dims(), [3, 3, 21, 37]);
        assert_eq!(
            flat(&turned),
            flat(&made.permute((2, 3, 1, 0)).expect("four"))
        );

        let half = builder(Component::Unet, DType::BF16).get(&SHAPE, "conv.weight");
        let rounded: Vec<f32> = plain.iter().map(|&v| bf16::from_f32(v).to_f32()).collect();
        assert_eq!(flat(&half.expect("made")), rounded);

        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let alone = pool
            .expect("one thread")
            .install(|| values(&SHAPE, "conv.weight"));
        assert_eq!(alone, plain);
    }
}
