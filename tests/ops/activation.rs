use candle_core::Tensor;
use candle_core::cpu::erf::erf_f64;
use darkroom::ops::{Activation, Reads, activation, geglu};

use crate::support::{Array, Case, F32_EPS};

/// exp and erf are good to two ulp (proved where they stand); a division and products follow.
const LIMIT: f64 = 8.0 * F32_EPS;

/// The formulas, in f64.
pub fn exact(which: Activation, x: f64) -> f64 {
    match which {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => 0.5 * x * (1.0 + erf_f64(x / 2f64.sqrt())),
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
    }
}

const ALL: [Activation; 3] = [Activation::Silu, Activation::Gelu, Activation::QuickGelu];

fn check(which: Activation, x: Array) {
    Case {
        name: format!("{which:?} of {:?}", x.dims),
        inputs: vec![x],
        batched: 1,
        f32_limit: LIMIT,
        run: &|t: &[Tensor]| activation(&t[0], which),
        reference: &|operands: &[Array]| operands[0].clone().map(|x| exact(which, x)),
    }
    .check();
}

#[test]
fn of_normal_values() {
    for which in ALL {
        for dims in [&[1][..], &[3, 5], &[2, 77, 96], &[1, 129, 128, 2]] {
            check(which, Array::randn(5, dims).map(|x| 3.0 * x));
        }
    }
}

#[test]
fn far_from_zero_they_are_zero_or_the_value() {
    let far = [-3e4, -1e3, -100.0, -20.0, -0.0, 0.0, 20.0, 100.0, 1e3, 3e4];
    for which in ALL {
        check(which, Array::new(&[2, 5], far.to_vec()));
        let alone: Vec<f64> = far.iter().copied().filter(|x| *x <= -20.0).collect();
        let tails = Array::new(&[alone.len()], alone).tensor(candle_core::DType::F32);
        let tails = Array::of(&activation(&tails, which).unwrap());
        assert!(
            tails.data.iter().all(|y| y.abs() < 1e-6),
            "{which:?}: {tails:?}"
        );
    }
}

#[test]
fn not_a_number_stays_one() {
    for which in ALL {
        let x = Array::new(&[3], vec![f64::NAN, 1.0, f64::INFINITY]);
        let y = Array::of(&activation(&x.tensor(candle_core::DType::F32), which).unwrap());
        assert!(y.data[0].is_nan() && y.data[1].is_finite() && !y.data[2].is_finite());
    }
}

#[test]
fn gated() {
    for dims in [&[1, 2][..], &[3, 10], &[2, 9, 640], &[2, 3, 5, 6]] {
        Case {
            name: format!("geglu of {dims:?}"),
            inputs: vec![Array::randn(6, dims).map(|x| 2.0 * x)],
            batched: 1,
            f32_limit: LIMIT,
            run: &|t: &[Tensor]| geglu(Reads::Float, &t[0]),
            reference: &|operands: &[Array]| {
                let (x, half) = (&operands[0], operands[0].last() / 2);
                let mut dims = x.dims.clone();
                *dims.last_mut().unwrap() = half;
                let rows = x.data.chunks(2 * half);
                let gated = rows.flat_map(|row| {
                    (0..half).map(|i| row[i] * exact(Activation::Gelu, row[half + i]))
                });
                Array::new(&dims, gated.collect())
            },
        }
        .check();
    }
    let odd = Array::randn(6, &[2, 5]).tensor(candle_core::DType::F32);
    assert!(
        geglu(Reads::Float, &odd).is_err(),
        "an odd width has no halves"
    );
}
