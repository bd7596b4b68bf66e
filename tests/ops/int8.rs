//! Int8 layers, bit for bit against plain integer arithmetic.

use candle_core::{DType, Device, Tensor};
use darkroom::ops::int8::kernel::Kernel;
use darkroom::ops::int8::{
    Int8Weights, Packed, Quantised, SCALE_BYTES, Scheme, product, quantise_row,
};
use darkroom::ops::{Activation, Conv2d, GroupNorm, LayerNorm, Linear, Padding, Reads, geglu};
use darkroom::rng::{NoiseSource, TorchCpu};

/// Rows that are awkward to quantise: zeros, one value, ties, a large one among small ones.
fn activations(rows: usize, width: usize, seed: u64) -> Vec<f32> {
    let mut x = TorchCpu::new(seed).randn(rows * width);
    for (i, row) in x.chunks_mut(width).enumerate() {
        match i % 5 {
            1 => row.fill(0.0),
            2 => row.iter_mut().for_each(|x| *x *= 1e-30),
            3 => row[i % width] = 1e4,
            4 => row.iter_mut().for_each(|x| *x = x.signum()),
            _ => {}
        }
    }
    x
}

/// Quantises by the definition, in f64.
fn plain_row(x: &[f32]) -> (Vec<i8>, f32) {
    let most = x.iter().fold(0f32, |most, x| most.max(x.abs()));
    let scale = most / 127.0;
    let inverse = if scale > 0.0 { 127.0 / most } else { 0.0 };
    let round = |x: &f32| (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
    (x.iter().map(round).collect(), scale)
}

#[test]
fn rows_are_quantised_by_their_largest_value() {
    for width in [1, 3, 16, 61, 320] {
        for row in activations(10, width, width as u64).chunks(width) {
            let mut q = vec![0; width];
            let scale = quantise_row(row, &mut q);
            assert_eq!((q.clone(), scale), plain_row(row), "{row:?}");
            let half = f64::from(scale) * 0.5000001;
            for (q, x) in q.iter().zip(row) {
                assert!((f64::from(*q) * f64::from(scale) - f64::from(*x)).abs() <= half);
            }
        }
    }
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut row = vec![1.0; 40];
        row[17] = bad;
        assert!(quantise_row(&row, &mut [0; 40]).is_nan(), "{bad} is lost");
    }
}

/// [outputs, inputs, taps] of every byte, −128 and rows of zeros among them.
fn weights(outputs: usize, inner: usize) -> (Vec<i8>, Vec<f32>) {
    let values = (0..outputs * inner).map(|i| match i / inner % 4 {
        1 => -128,
        2 => 0,
        _ => (i.wrapping_mul(2_654_435_761) >> 7) as u8 as i8,
    });
    let scales = (0..outputs).map(|o| 0.01 + o as f32 * 0.003);
    (values.collect(), scales.collect())
}

#[test]
fn every_kernel_gives_the_plain_products_bit_for_bit() {
    for (rows, inputs, outputs, taps) in [
        (1, 1, 1, 1),
        (2, 3, 17, 1),
        (7, 64, 16, 1),
        (13, 131, 33, 1),
        (50, 320, 48, 1),
        (6, 5, 3, 9),
        (25, 36, 40, 9),
        (3, 5120, 2, 1),
    ] {
        let x = activations(rows, inputs, rows as u64);
        let (values, scales) = weights(outputs, inputs * taps);
        let bias: Vec<f32> = (0..outputs).map(|o| o as f32 - 1.5).collect();
        // Taps read rows before and after, and nothing beyond the ends.
        let pixel = |row: usize, tap: usize| {
            let at = (row + tap).checked_sub(taps / 2)?;
            (at < rows).then_some(at)
        };
        let quantised: Vec<_> = x.chunks(inputs).map(plain_row).collect();
        let mut want = vec![0f32; rows * outputs];
        for (at, want) in want.iter_mut().enumerate() {
            let (row, o) = (at / outputs, at % outputs);
            let mut sum = 0f32;
            for tap in 0..taps {
                let (dot, scale) = match pixel(row, tap) {
                    None => (0, 0.0),
                    Some(source) => {
                        let (q, scale) = &quantised[source];
                        let w = |i: usize| i32::from(values[(o * inputs + i) * taps + tap]);
                        ((0..inputs).map(|i| i32::from(q[i]) * w(i)).sum(), *scale)
                    }
                };
                sum += dot as f32 * scale;
            }
            *want = sum * scales[o] + bias[o];
        }
        let x = Quantised::rows(&x, inputs);
        let mut ran = 0;
        for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.available()) {
            let packed = Packed::new(kernel, &values, &scales, [outputs, inputs, taps]);
            let mut got = vec![f32::NAN; rows * outputs];
            product(&mut got, &x, &packed, Some(&bias), pixel);
            assert_eq!(
                got,
                want,
                "{} {rows}x{inputs}x{outputs}x{taps}",
                kernel.name()
            );
            ran += 1;
        }
        assert!(ran > 0);
    }
}

fn int8(values: &[i8], shape: &[usize], scales: &[f32], scheme: Scheme) -> Int8Weights {
    let bytes: Vec<u8> = values.iter().map(|&v| v as u8).collect();
    let values = Tensor::from_vec(bytes, shape, &Device::Cpu).unwrap();
    let scales = Tensor::new(scales, &Device::Cpu).unwrap();
    Int8Weights::new(scheme, &values, &scales).unwrap()
}

fn relative(got: &Tensor, want: &Tensor) -> f64 {
    let flat = |t: &Tensor| {
        let t = t.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        t.to_vec1::<f64>().unwrap()
    };
    let (got, want) = (flat(got), flat(want));
    assert_eq!(got.len(), want.len());
    let off: f64 = got.iter().zip(&want).map(|(a, b)| (a - b).powi(2)).sum();
    (off / want.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

/// The float layers of the same (dequantised) weights differ by the activations' rounding alone.
#[test]
fn layers_agree_with_their_float_twins() {
    let randn = |shape: &[usize]| {
        let values = TorchCpu::new(5).randn(shape.iter().product());
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    let dequantised = |values: &[i8], shape: &[usize], scales: &[f32]| {
        let inner = values.len() / scales.len();
        let wide: Vec<f32> = values
            .chunks(inner)
            .zip(scales)
            .flat_map(|(row, s)| row.iter().map(move |&v| f32::from(v) * s))
            .collect();
        Tensor::from_vec(wide, shape, &Device::Cpu).unwrap()
    };
    let limit = |scheme| match scheme {
        Scheme::W8A16 => 1e-6,
        Scheme::W8A8 => 0.02,
    };
    for scheme in [Scheme::W8A16, Scheme::W8A8] {
        let (inputs, outputs) = (70, 37);
        let (values, scales) = weights(outputs, inputs);
        let bias = randn(&[outputs]);
        let weight = int8(&values, &[outputs, inputs], &scales, scheme);
        let ours = Linear::new_int8(weight, Some(bias.clone()), [inputs, outputs], DType::F32);
        let wide = dequantised(&values, &[outputs, inputs], &scales);
        let theirs = Linear::new(&wide, Some(bias.clone())).unwrap();
        let x = randn(&[2, 9, inputs]);
        let error = relative(&ours.forward(&x).unwrap(), &theirs.forward(&x).unwrap());
        assert!(error < limit(scheme), "linear {scheme:?}: {error:e}");

        for (kernel, stride, padding) in [
            (3, 1, Padding::all(1)),
            (3, 2, Padding::all(1)),
            (
                3,
                2,
                Padding {
                    bottom: 1,
                    right: 1,
                    ..Padding::default()
                },
            ),
            (1, 1, Padding::default()),
        ] {
            let shape = [outputs, inputs, kernel, kernel];
            let (values, scales) = weights(outputs, inputs * kernel * kernel);
            let weight = int8(&values, &shape, &scales, scheme);
            let sizes = [inputs, outputs, kernel];
            let ours = Conv2d::new_int8(weight, bias.clone(), sizes, stride, padding);
            let wide = dequantised(&values, &shape, &scales);
            let theirs = Conv2d::new(&wide, bias.clone(), stride, padding).unwrap();
            let image = randn(&[2, 9, 7, inputs]);
            let (got, want) = (
                ours.forward(&image).unwrap(),
                theirs.forward(&image).unwrap(),
            );
            assert_eq!(got.dims(), want.dims());
            let error = relative(&got, &want);
            assert!(
                error < limit(scheme),
                "conv {kernel} {stride} {scheme:?}: {error:e}"
            );
        }
    }
}

/// What norms and GEGLU give in int8 is what quantising their floats gives, bit for bit, and so is
/// what the layers behind them make of it.
#[test]
fn rows_are_quantised_alike_in_one_pass_and_in_two() {
    let randn = |seed, shape: &[usize]| {
        let values = TorchCpu::new(seed).randn(shape.iter().product());
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    type Run<'a> = &'a dyn Fn(Reads, &Tensor) -> candle_core::Result<Tensor>;
    // Odd widths, several images, more pixels than a block of the group norm holds.
    for (c, [b, h, w]) in [
        (4, [1, 1, 1]),
        (36, [2, 5, 3]),
        (60, [2, 19, 23]),
        (8, [1, 40, 33]),
    ] {
        let (weight, bias) = (randn(1, &[c]), randn(2, &[c]));
        let layer_norm = LayerNorm::new(weight.clone(), bias.clone(), 1e-5);
        let group_norm = GroupNorm::new(weight, bias.clone(), 4, 1e-5);
        let image = randn(3, &[b, h, w, c]);
        let gated = randn(4, &[b, h, w, 2 * c]);
        let (values, scales) = weights(c, c);
        let linear = Linear::new_int8(
            int8(&values, &[c, c], &scales, Scheme::W8A8),
            None,
            [c, c],
            DType::F32,
        );
        let (values, scales) = weights(c, c * 9);
        let weight = int8(&values, &[c, c, 3, 3], &scales, Scheme::W8A8);
        let conv = Conv2d::new_int8(weight, bias, [c, c, 3], 1, Padding::all(1));
        assert_eq!((linear.reads(), conv.reads()), (Reads::Int8, Reads::Int8));
        let runs: [(&str, &Tensor, Run); 4] = [
            ("layer_norm", &image, &|reads, x| {
                layer_norm.forward_for(reads, x)
            }),
            ("group_norm", &image, &|reads, x| {
                group_norm.forward_for(reads, x, None)
            }),
            ("group_norm_silu", &image, &|reads, x| {
                group_norm.forward_for(reads, x, Some(Activation::Silu))
            }),
            ("geglu", &gated, &|reads, x| geglu(reads, x)),
        ];
        for (name, x, run) in runs {
            let float = run(Reads::Float, x).unwrap();
            let rows = run(Reads::Int8, x).unwrap();
            assert_eq!(rows.dims(), [b, h, w, c + SCALE_BYTES], "{name}");
            let bytes = rows.flatten_all().unwrap().to_vec1::<u8>().unwrap();
            let floats = float.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let mut want = vec![0i8; floats.len()];
            let scales: Vec<u8> = floats
                .chunks(c)
                .zip(want.chunks_mut(c))
                .flat_map(|(x, q)| quantise_row(x, q).to_ne_bytes())
                .collect();
            let want: Vec<u8> = want.into_iter().map(|q| q as u8).chain(scales).collect();
            assert!(bytes == want, "{name} of {c} channels");
            let same = |a: Tensor, b: Tensor| {
                let bits = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(a.dims(), b.dims());
                assert!(bits(a) == bits(b), "behind {name} of {c} channels");
            };
            same(
                linear.forward(&rows).unwrap(),
                linear.forward(&float).unwrap(),
            );
            same(conv.forward(&rows).unwrap(), conv.forward(&float).unwrap());
        }
    }
    // A float layer does not read rows in int8.
    let rows = geglu(Reads::Int8, &randn(5, &[3, 8])).unwrap();
    let float = Linear::new(&randn(6, &[5, 8]), None).unwrap();
    assert!(float.forward(&rows).is_err());
}
