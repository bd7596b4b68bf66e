use candle_core::Tensor;
use darkroom::ops::{Conv2d, Padding};

use crate::support::{Array, Case, Dice, sum_limit};

/// image [B, H, W, in], weight [out, in, k, k], bias [out].
fn reference(operands: &[Array], stride: usize, padding: Padding) -> Array {
    let (image, weight, bias) = (&operands[0], &operands[1], &operands[2]);
    let [batch, height, width, inputs] = image.dims[..] else {
        panic!("an image has four dimensions")
    };
    let (outputs, kernel) = (weight.dims[0], weight.dims[2]);
    let out_height = (height + padding.top + padding.bottom - kernel) / stride + 1;
    let out_width = (width + padding.left + padding.right - kernel) / stride + 1;
    let mut out = Vec::new();
    for b in 0..batch {
        for y in 0..out_height {
            for x in 0..out_width {
                for o in 0..outputs {
                    let mut sum = bias.data[o];
                    for ky in 0..kernel {
                        for kx in 0..kernel {
                            let (Some(y), Some(x)) = (
                                (y * stride + ky).checked_sub(padding.top),
                                (x * stride + kx).checked_sub(padding.left),
                            ) else {
                                continue;
                            };
                            if y >= height || x >= width {
                                continue;
                            }
                            for c in 0..inputs {
                                let pixel = image.data[((b * height + y) * width + x) * inputs + c];
                                sum += pixel
                                    * weight.data[((o * inputs + c) * kernel + ky) * kernel + kx];
                            }
                        }
                    }
                    out.push(sum);
                }
            }
        }
    }
    Array::new(&[batch, out_height, out_width, outputs], out)
}

/// `[batch, height, width, in]` → `out`.
fn check(dims: [usize; 4], outputs: usize, kernel: usize, stride: usize, padding: Padding) {
    let terms = kernel * kernel * dims[3];
    Case {
        name: format!("conv2d {kernel}×{kernel} of {dims:?} to {outputs}, /{stride}, {padding:?}"),
        inputs: vec![
            Array::randn(1, &dims),
            Array::randn(2, &[outputs, dims[3], kernel, kernel]).map(|w| w / (terms as f64).sqrt()),
            Array::randn(3, &[outputs]),
        ],
        batched: 1,
        f32_limit: sum_limit(terms),
        run: &|t: &[Tensor]| Conv2d::new(&t[1], t[2].clone(), stride, padding)?.forward(&t[0]),
        reference: &|operands: &[Array]| reference(operands, stride, padding),
    }
    .check();
}

fn sides(top: usize, left: usize, bottom: usize, right: usize) -> Padding {
    Padding {
        top,
        left,
        bottom,
        right,
    }
}

#[test]
fn as_the_networks_use_it() {
    let same = Padding::all(1);
    for (dims, outputs, kernel, stride, padding) in [
        ([3, 8, 8, 4], 64, 3, 1, same),
        ([3, 8, 8, 96], 4, 3, 1, same),
        ([2, 5, 7, 32], 32, 1, 1, Padding::all(0)),
        ([2, 9, 9, 32], 32, 3, 2, same),
        // The VAE's encoder halves with zeros below and to the right.
        ([2, 8, 6, 32], 32, 3, 2, sides(0, 0, 1, 1)),
        // Latents of one pixel.
        ([3, 1, 1, 4], 64, 3, 1, same),
        ([3, 1, 1, 64], 64, 3, 2, same),
        ([3, 1, 1, 8], 3, 1, 1, Padding::all(0)),
        // More output pixels than a block gathers at once.
        ([1, 20, 20, 640], 8, 3, 1, same),
        ([1, 91, 91, 30], 3, 3, 1, same),
    ] {
        check(dims, outputs, kernel, stride, padding);
    }
}

#[test]
fn hostile_shapes() {
    for (dims, outputs, kernel, stride, padding) in [
        // Padding wider than the kernel: output pixels that see no image.
        ([2, 3, 2, 3], 2, 3, 1, Padding::all(5)),
        ([1, 1, 1, 1], 1, 1, 3, Padding::all(4)),
        ([2, 4, 4, 2], 3, 2, 1, sides(0, 3, 1, 0)),
        ([2, 4, 4, 2], 3, 4, 1, Padding::all(0)),
        ([2, 7, 5, 3], 2, 5, 3, sides(2, 0, 0, 4)),
        ([2, 6, 6, 5], 3, 1, 2, Padding::all(0)),
        ([2, 6, 6, 5], 3, 1, 1, Padding::all(1)),
        ([1, 3, 40, 2], 2, 3, 7, sides(1, 0, 0, 1)),
    ] {
        check(dims, outputs, kernel, stride, padding);
    }
}

#[test]
fn random_shapes() {
    let mut dice = Dice::new(11);
    for _ in 0..40 {
        let kernel = dice.roll(1, 5);
        let pad = |dice: &mut Dice| dice.roll(0, 4);
        let padding = sides(
            pad(&mut dice),
            pad(&mut dice),
            pad(&mut dice),
            pad(&mut dice),
        );
        let edge = |dice: &mut Dice, around: usize| {
            let least = kernel.saturating_sub(around).max(1);
            dice.roll(least, least + 9)
        };
        let height = edge(&mut dice, padding.top + padding.bottom);
        let width = edge(&mut dice, padding.left + padding.right);
        let dims = [dice.roll(1, 3), height, width, dice.roll(1, 40)];
        check(dims, dice.roll(1, 40), kernel, dice.roll(1, 3), padding);
    }
}

#[test]
fn an_image_smaller_than_the_kernel_is_refused() {
    let f32 = candle_core::DType::F32;
    let weight = Array::randn(1, &[2, 3, 3, 3]).tensor(f32);
    let bias = Array::randn(2, &[2]).tensor(f32);
    let conv = Conv2d::new(&weight, bias, 1, Padding::default()).unwrap();
    for dims in [[1, 2, 9, 3], [1, 9, 2, 3], [1, 9, 9, 4]] {
        assert!(conv.forward(&Array::randn(3, &dims).tensor(f32)).is_err());
    }
}
