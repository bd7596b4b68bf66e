use candle_core::{DType, Tensor};
use darkroom::ops::{Mask, attention};

use crate::support::{Array, Case, Dice, F32_EPS, sum_limit};

/// q [B, Nq, heads·d]; k, v [K, Nk, heads·d].
fn reference(operands: &[Array], heads: usize, mask: Mask) -> Array {
    let (q, k, v) = (&operands[0], &operands[1], &operands[2]);
    let [batch, queries, width] = q.dims[..] else {
        panic!("queries have three dimensions")
    };
    let (keys, d) = (k.dims[1], width / heads);
    let share = batch / k.dims[0];
    let mut out = vec![0.0; q.data.len()];
    for b in 0..batch {
        for i in 0..queries {
            for head in 0..heads {
                let q = &q.data[(b * queries + i) * width + head * d..][..d];
                let at = |j: usize| (b / share * keys + j) * width + head * d;
                let seen = match mask {
                    Mask::None => keys,
                    Mask::Causal => i + 1,
                };
                let score = |j: usize| -> f64 {
                    let k = &k.data[at(j)..][..d];
                    q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() / (d as f64).sqrt()
                };
                let scores: Vec<f64> = (0..seen).map(score).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let out = &mut out[(b * queries + i) * width + head * d..][..d];
                for (j, weight) in weights.iter().enumerate() {
                    for (out, v) in out.iter_mut().zip(&v.data[at(j)..][..d]) {
                        *out += weight / sum * v;
                    }
                }
            }
        }
    }
    Array::new(&q.dims, out)
}

/// Batch, rows of k and v, queries, keys, heads, head dimension, mask.
type Shape = (usize, usize, usize, usize, usize, usize, Mask);

/// Scores are off by float32's relative error times their size, and weights by as much relatively.
fn check((batch, k_batch, queries, keys, heads, d, mask): Shape, score: f64) {
    let width = heads * d;
    let deviation = score.sqrt();
    Case {
        name: format!(
            "attention of {batch}×{queries} on {k_batch}×{keys}, {heads} heads of {d}, {mask:?}, \
             scores {score}"
        ),
        inputs: vec![
            Array::randn(1, &[batch, queries, width]).map(|x| x * deviation),
            Array::randn(2, &[k_batch, keys, width]).map(|x| x * deviation),
            Array::randn(3, &[k_batch, keys, width]),
        ],
        batched: 3,
        f32_limit: sum_limit(keys) + 8.0 * score.max(1.0) * sum_limit(d),
        run: &|t: &[Tensor]| attention(&t[0], &t[1], &t[2], heads, mask),
        reference: &|operands: &[Array]| reference(operands, heads, mask),
    }
    .check();
}

#[test]
fn declared_shapes() {
    use Mask::{Causal, None};
    // Tiles are of 64 queries and 256 keys: below, at, above, and not a multiple.
    for shape in [
        (1, 1, 1, 1, 1, 1, None),
        (2, 2, 1, 1, 1, 1, Causal),
        (3, 3, 5, 77, 2, 1, None),
        (3, 3, 64, 77, 1, 5, None),
        (2, 2, 65, 300, 3, 40, None),
        (2, 2, 100, 256, 2, 64, None),
        (1, 1, 130, 257, 1, 512, None),
        (2, 2, 63, 1, 2, 64, None),
        (3, 3, 77, 77, 2, 32, Causal),
        (2, 2, 1, 1, 2, 64, Causal),
        (1, 1, 64, 64, 1, 5, Causal),
        (2, 2, 300, 300, 1, 40, Causal),
        (1, 1, 257, 257, 2, 1, Causal),
        // Rows of q that share a row of k and v, as the images of a batch share their text.
        (4, 2, 9, 77, 2, 32, None),
        (6, 1, 70, 154, 3, 8, None),
        (6, 3, 16, 16, 1, 4, Causal),
    ] {
        check(shape, 1.0);
    }
}

#[test]
fn random_shapes() {
    let mut dice = Dice::new(5);
    for _ in 0..25 {
        let mask = [Mask::None, Mask::Causal][dice.roll(0, 1)];
        let keys = dice.roll(1, 280);
        let queries = match mask {
            Mask::None => dice.roll(1, 140),
            Mask::Causal => keys,
        };
        let (share, rows) = (dice.roll(1, 2), dice.roll(1, 2));
        let (heads, d) = (dice.roll(1, 3), dice.roll(1, 33));
        check((share * rows, rows, queries, keys, heads, d, mask), 1.0);
    }
}

#[test]
fn large_scores() {
    for mask in [Mask::None, Mask::Causal] {
        check((2, 2, 90, 90, 2, 40, mask), 30.0);
    }
}

/// One key wins each query outright: the output is its value, whatever e^±10000 is.
#[test]
fn huge_scores_pick_one_key() {
    let n = 300;
    // Points on a circle of radius 100·⁴√2: a query's score with itself is 10⁴, with its neighbour
    // less by 10⁴·(1 − cos 2π/300) ≈ 2, with the opposite −10⁴.
    let radius = (1e4 * 2f64.sqrt()).sqrt();
    let circle = (0..n).flat_map(|i| {
        let angle = std::f64::consts::TAU * i as f64 / n as f64;
        [radius * angle.cos(), radius * angle.sin()]
    });
    let points = Array::new(&[1, n, 2], circle.collect());
    Case {
        name: "attention on a circle".into(),
        inputs: vec![points.clone(), points, Array::randn(3, &[1, n, 2])],
        batched: 3,
        // Scores of 10⁴ are off by 10⁴ ulp.
        f32_limit: 4e4 * F32_EPS,
        run: &|t: &[Tensor]| attention(&t[0], &t[1], &t[2], 1, Mask::None),
        reference: &|operands: &[Array]| reference(operands, 1, Mask::None),
    }
    .check();
}

#[test]
fn rising_and_falling_scores_over_many_tiles() {
    // The running maximum is replaced in every tile of keys, or never again after the first.
    for sign in [1.0, -1.0] {
        let keys = 1000;
        let ramp = (0..keys).map(|j| sign * 0.1 * j as f64);
        Case {
            name: format!("attention on a ramp of {sign}"),
            inputs: vec![
                Array::new(&[1, 70, 1], vec![1.0; 70]),
                Array::new(&[1, keys, 1], ramp.collect()),
                Array::randn(3, &[1, keys, 1]),
            ],
            batched: 3,
            f32_limit: 100.0 * 4.0 * F32_EPS,
            run: &|t: &[Tensor]| attention(&t[0], &t[1], &t[2], 1, Mask::None),
            reference: &|operands: &[Array]| reference(operands, 1, Mask::None),
        }
        .check();
    }
}

#[test]
fn equal_keys_average_the_values() {
    for value in [0.0, 1.0] {
        let k = Array::randn(2, &[1, 1, 8]).map(|x| x * value);
        let k = Array::new(&[1, 300, 8], k.data.repeat(300));
        let q = Array::randn(1, &[1, 3, 8])
            .map(|x| x * value)
            .tensor(DType::F32);
        let v = Array::randn(3, &[1, 300, 8]);
        let out = attention(
            &q,
            &k.tensor(DType::F32),
            &v.tensor(DType::F32),
            1,
            Mask::None,
        );
        let out = Array::of(&out.unwrap());
        for c in 0..8 {
            let mean = (0..300).map(|j| v.data[j * 8 + c]).sum::<f64>() / 300.0;
            for i in 0..3 {
                assert!((out.data[i * 8 + c] - mean).abs() < 1e-6);
            }
        }
    }
}

#[test]
fn what_a_causal_query_may_not_see_changes_nothing() {
    let dims = [1, 200, 16];
    let run = |k: &Array, v: &Array| {
        let q = Array::randn(1, &dims).tensor(DType::F32);
        let (k, v) = (k.tensor(DType::F32), v.tensor(DType::F32));
        Array::of(&attention(&q, &k, &v, 2, Mask::Causal).unwrap())
    };
    let (k, v) = (Array::randn(2, &dims), Array::randn(3, &dims));
    let before = run(&k, &v);
    let spoil = |mut a: Array| {
        a.data[120 * 16..]
            .iter_mut()
            .for_each(|x| *x = 1e6 * x.signum());
        a
    };
    let after = run(&spoil(k), &spoil(v));
    assert_eq!(before.data[..120 * 16], after.data[..120 * 16]);
    assert_ne!(before.data[120 * 16..], after.data[120 * 16..]);
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let tensor = |dims: &[usize]| Array::randn(1, dims).tensor(DType::F32);
    for (q, k, v, heads, mask) in [
        ([2, 3, 8], [2, 4, 6], [2, 4, 6], 2, Mask::None),
        ([2, 3, 8], [2, 4, 8], [2, 5, 8], 2, Mask::None),
        ([2, 3, 8], [2, 4, 8], [2, 4, 8], 3, Mask::None),
        ([2, 3, 8], [2, 4, 8], [2, 4, 8], 0, Mask::None),
        ([3, 3, 8], [2, 4, 8], [2, 4, 8], 2, Mask::None),
        ([2, 3, 8], [2, 4, 8], [2, 4, 8], 2, Mask::Causal),
        ([2, 3, 8], [2, 0, 8], [2, 0, 8], 2, Mask::None),
    ] {
        let result = attention(&tensor(&q), &tensor(&k), &tensor(&v), heads, mask);
        assert!(result.is_err(), "q {q:?}, k {k:?}, v {v:?}, {heads} heads");
    }
}
