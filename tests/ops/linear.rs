use candle_core::Tensor;
use darkroom::ops::Linear;

use crate::support::{Array, Case, Dice, sum_limit};

/// x [.., in], weight [out, in], bias [out] or absent.
fn reference(operands: &[Array]) -> Array {
    let (x, weight) = (&operands[0], &operands[1]);
    let outputs = weight.dims[0];
    let mut out = Vec::new();
    for row in x.data.chunks(x.last()) {
        for (o, weight) in weight.data.chunks(x.last()).enumerate() {
            let start = operands.get(2).map_or(0.0, |bias| bias.data[o]);
            out.push(start + row.iter().zip(weight).map(|(x, w)| x * w).sum::<f64>());
        }
    }
    let mut dims = x.dims.clone();
    *dims.last_mut().unwrap() = outputs;
    Array::new(&dims, out)
}

fn check(dims: &[usize], outputs: usize, bias: bool) {
    let inputs = *dims.last().unwrap();
    let mut operands = vec![
        Array::randn(1, dims),
        Array::randn(2, &[outputs, inputs]).map(|w| w / (inputs as f64).sqrt()),
    ];
    if bias {
        operands.push(Array::randn(3, &[outputs]));
    }
    Case {
        name: format!("linear of {dims:?} to {outputs}, bias {bias}"),
        inputs: operands,
        batched: 1,
        f32_limit: sum_limit(inputs),
        run: &|t: &[Tensor]| Linear::new(&t[1], t.get(2).cloned())?.forward(&t[0]),
        reference: &reference,
    }
    .check();
}

#[test]
fn declared_shapes() {
    // Rows are few or many, sides are 1, odd, or at the borders of the matrix product's blocks; sums
    // longer than 512 are split there.
    for (dims, outputs) in [
        (&[1, 1][..], 1),
        (&[3, 1], 7),
        (&[3, 2], 5),
        (&[2, 3], 1),
        (&[5, 7], 1),
        (&[1, 5], 300),
        (&[3, 64], 64),
        (&[3, 320], 256),
        (&[2, 1280], 320),
        (&[3, 864], 4),
        (&[3, 21, 864], 32),
        (&[3, 22, 1025], 64),
        (&[4, 17, 1100], 65),
        (&[2, 77, 160], 96),
        (&[2, 300, 40], 320),
        (&[3, 2, 3, 5, 24], 13),
    ] {
        check(dims, outputs, true);
        check(dims, outputs, false);
    }
}

#[test]
fn random_shapes() {
    let mut dice = Dice::new(7);
    for _ in 0..30 {
        let dims = [dice.roll(1, 5), dice.roll(1, 90), dice.roll(1, 700)];
        check(&dims, dice.roll(1, 90), dice.roll(0, 1) == 1);
    }
}

#[test]
fn wrong_widths_are_refused() {
    let x = Array::randn(1, &[2, 5]).tensor(candle_core::DType::F32);
    let weight = Array::randn(2, &[3, 4]).tensor(candle_core::DType::F32);
    let error = Linear::new(&weight, None).unwrap().forward(&x).unwrap_err();
    assert!(error.to_string().contains("4 inputs got [2, 5]"), "{error}");
}
