use candle_core::Tensor;
use darkroom::ops::{Activation, GroupNorm, LayerNorm};

use crate::activation::exact;
use crate::support::{Array, Case, Dice, F32_EPS};

/// After the statistics come four operations of half an ulp each (and float32's exp, good to two ulp,
/// in SiLU); the statistics themselves are float32 sums over blocks of up to some thousand values,
/// good to ten ulp. Neither depends on the mean.
const LIMIT: f64 = 20.0 * F32_EPS;

/// Mean and variance; two passes.
fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
    (mean, squares / count)
}

/// x [B, .., C], weight [C], bias [C].
fn group_norm(operands: &[Array], groups: usize, eps: f64, silu: bool) -> Array {
    let (x, weight, bias) = (&operands[0], &operands[1].data, &operands[2].data);
    let (batch, channels) = (x.dims[0], x.last());
    let width = channels / groups;
    let mut out = x.clone();
    let image = x.data.len() / batch;
    for (x, out) in x.data.chunks(image).zip(out.data.chunks_mut(image)) {
        for group in 0..groups {
            let of_group = |i: &usize| i % channels / width == group;
            let values: Vec<f64> = (0..image).filter(of_group).map(|i| x[i]).collect();
            let (mean, variance) = moments(&values);
            for i in (0..image).filter(of_group) {
                let c = i % channels;
                let y = (x[i] - mean) / (variance + eps).sqrt() * weight[c] + bias[c];
                out[i] = if silu { exact(Activation::Silu, y) } else { y };
            }
        }
    }
    out
}

/// x [.., C], weight [C], bias [C].
fn layer_norm(operands: &[Array], eps: f64) -> Array {
    let (mut x, weight, bias) = (operands[0].clone(), &operands[1].data, &operands[2].data);
    let channels = x.last();
    for row in x.data.chunks_mut(channels) {
        let (mean, variance) = moments(row);
        for (c, x) in row.iter_mut().enumerate() {
            *x = (*x - mean) / (variance + eps).sqrt() * weight[c] + bias[c];
        }
    }
    x
}

/// `mean` and `deviation` are those of x.
fn operands(dims: &[usize], mean: f64, deviation: f64) -> Vec<Array> {
    let channels = *dims.last().unwrap();
    vec![
        Array::randn(1, dims).map(|x| mean + x * deviation),
        Array::randn(2, &[channels]),
        Array::randn(3, &[channels]),
    ]
}

fn check_group(dims: &[usize], groups: usize, eps: f64, (mean, deviation): (f64, f64)) {
    for silu in [false, true] {
        Case {
            name: format!("group norm of {dims:?} in {groups}, mean {mean}, silu {silu}"),
            inputs: operands(dims, mean, deviation),
            batched: 1,
            f32_limit: LIMIT,
            run: &|t: &[Tensor]| {
                let norm = GroupNorm::new(t[1].clone(), t[2].clone(), groups, eps);
                if silu {
                    norm.forward_activated(&t[0], Activation::Silu)
                } else {
                    norm.forward(&t[0])
                }
            },
            reference: &|operands: &[Array]| group_norm(operands, groups, eps, silu),
        }
        .check();
    }
}

fn check_layer(dims: &[usize], eps: f64, (mean, deviation): (f64, f64)) {
    Case {
        name: format!("layer norm of {dims:?}, mean {mean}"),
        inputs: operands(dims, mean, deviation),
        batched: 1,
        f32_limit: LIMIT,
        run: &|t: &[Tensor]| LayerNorm::new(t[1].clone(), t[2].clone(), eps).forward(&t[0]),
        reference: &|operands: &[Array]| layer_norm(operands, eps),
    }
    .check();
}

const STANDARD: (f64, f64) = (0.3, 1.5);

#[test]
fn group_norm_of_many_shapes() {
    for (dims, groups) in [
        (&[3, 8, 8, 64][..], 32),
        (&[2, 5, 7, 12], 4),
        (&[2, 1, 1, 32], 32), // one value in a group: only the bias is left
        (&[2, 1, 1, 32], 4),
        (&[2, 9, 6], 1),
        (&[3, 4], 2),
        (&[1, 70, 60, 3], 3),   // several blocks of pixels
        (&[1, 3, 3, 9000], 30), // a pixel larger than a block
        (&[1, 33, 33, 320], 32),
    ] {
        check_group(dims, groups, 1e-5, STANDARD);
    }
    let mut dice = Dice::new(3);
    for _ in 0..15 {
        let groups = dice.roll(1, 8);
        let channels = groups * dice.roll(1, 9);
        let dims = [
            dice.roll(1, 3),
            dice.roll(1, 20),
            dice.roll(1, 20),
            channels,
        ];
        check_group(&dims, groups, 1e-6, STANDARD);
    }
}

#[test]
fn layer_norm_of_many_shapes() {
    for dims in [
        &[3, 77, 160][..],
        &[1, 1280],
        &[2, 9, 1],
        &[5, 17],
        &[2, 3, 4, 33],
        &[2, 40, 640],
    ] {
        check_layer(dims, 1e-5, STANDARD);
    }
}

/// The plain difference of squares loses everything here, and float32 means lose much.
#[test]
fn a_mean_that_dwarfs_the_deviation() {
    for spread in [(1e4, 1.0), (-1e2, 1e-2), (3e4, 3.0)] {
        check_group(&[2, 16, 16, 32], 8, 1e-6, spread);
        check_group(&[1, 90, 91, 4], 2, 1e-6, spread);
        check_layer(&[2, 9, 320], 1e-5, spread);
        check_layer(&[2, 1, 1280], 1e-5, spread);
    }
}

#[test]
fn equal_values_leave_the_bias() {
    for value in [0.0, 1.0, 1e4, -3.3e3] {
        check_group(&[2, 5, 5, 12], 4, 1e-6, (value, 0.0));
        check_layer(&[2, 5, 24], 1e-5, (value, 0.0));
    }
}

#[test]
fn an_outlier_does_not_spill_into_other_groups() {
    let dims = [1, 16, 16, 8];
    let mut operands = operands(&dims, 0.0, 1.0);
    operands[0].data[8 * 5] = 6e4;
    Case {
        name: "group norm with an outlier".into(),
        inputs: operands,
        batched: 1,
        f32_limit: LIMIT,
        run: &|t: &[Tensor]| GroupNorm::new(t[1].clone(), t[2].clone(), 4, 1e-5).forward(&t[0]),
        reference: &|operands: &[Array]| group_norm(operands, 4, 1e-5, false),
    }
    .check();
}
