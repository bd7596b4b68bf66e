use candle_core::Tensor;
use darkroom::ops::{to_channels_first, to_channels_last, upsample_nearest};

use crate::support::{Array, Case};

fn reference(image: &Array, height: usize, width: usize) -> Array {
    let [batch, in_height, in_width, channels] = image.dims[..] else {
        panic!("an image has four dimensions")
    };
    let mut out = Vec::new();
    for b in 0..batch {
        for y in 0..height {
            for x in 0..width {
                let (y, x) = (y * in_height / height, x * in_width / width);
                let pixel = ((b * in_height + y) * in_width + x) * channels;
                out.extend(&image.data[pixel..][..channels]);
            }
        }
    }
    Array::new(&[batch, height, width, channels], out)
}

#[test]
fn to_twice_the_size_and_to_odd_sizes() {
    for (dims, height, width) in [
        ([2, 1, 1, 3], 2, 2),
        ([2, 1, 1, 3], 1, 1),
        ([2, 4, 3, 5], 8, 6),
        // The way up meets skips whose size was rounded up on the way down.
        ([2, 4, 3, 5], 7, 5),
        ([1, 13, 17, 1], 25, 33),
        ([1, 3, 3, 2], 10, 11),
        ([1, 64, 2, 4], 127, 3),
    ] {
        Case {
            name: format!("{dims:?} to {height}×{width}"),
            inputs: vec![Array::randn(1, &dims)],
            batched: 1,
            f32_limit: 0.0,
            run: &|t: &[Tensor]| upsample_nearest(&t[0], height, width),
            reference: &|operands: &[Array]| reference(&operands[0], height, width),
        }
        .check();
    }
}

/// Every size that a halving, rounded up, can have come from.
#[test]
fn every_doubling_up_to_256() {
    for size in 1..=256 {
        let column = Array::new(&[1, size, 1, 1], (0..size).map(|i| i as f64).collect());
        for wanted in [2 * size - 1, 2 * size] {
            let got = upsample_nearest(&column.tensor(candle_core::DType::F32), wanted, 1).unwrap();
            assert_eq!(Array::of(&got).data, reference(&column, wanted, 1).data);
        }
    }
}

#[test]
fn channels_go_last_and_come_back() {
    let image = Array::randn(1, &[2, 3, 4, 5]).tensor(candle_core::DType::F32);
    let last = to_channels_last(&image, image.dtype()).unwrap();
    assert_eq!(last.dims(), [2, 4, 5, 3]);
    let at = |b: usize, c: usize, y: usize, x: usize| ((b * 3 + c) * 4 + y) * 5 + x;
    assert_eq!(
        Array::of(&last).data[((4 + 2) * 5 + 3) * 3 + 2],
        Array::of(&image).data[at(1, 2, 2, 3)]
    );
    let back = to_channels_first(&last, last.dtype()).unwrap();
    assert_eq!(Array::of(&back).data, Array::of(&image).data);
}
