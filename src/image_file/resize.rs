//! Lanczos as Pillow computes it: diffusers' image processor resizes the initial image with Pillow,
//! and what the VAE encoder is given should be equal to the last bit.

use image::RgbImage;

/// Pillow's `LANCZOS` reaches three source pixels to each side.
const SUPPORT: f64 = 3.0;
/// Fraction bits of Pillow's integer weights for 8-bit channels.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// The image at `width` × `height`, as `PIL.Image.resize((width, height), LANCZOS)` returns it.
///
/// Follows Pillow 13's src/libImaging/Resample.c: columns first, then rows, 8-bit values in between,
/// weights in 22-bit fixed point. What differs: one generic pass serves both directions.
pub fn lanczos(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let (from_width, from_height) = image.dimensions();
    let mut image = image.clone();
    if width != from_width {
        let taps = weights(from_width, width);
        image = RgbImage::from_fn(width, from_height, |x, y| {
            taps[x as usize].apply(|i| image.get_pixel(i, y).0)
        });
    }
    if height != from_height {
        let taps = weights(from_height, height);
        image = RgbImage::from_fn(width, height, |x, y| {
            taps[y as usize].apply(|i| image.get_pixel(x, i).0)
        });
    }
    image
}

/// The source pixels that one target pixel is made of.
struct Taps {
    first: u32,
    weights: Vec<i32>,
}

impl Taps {
    fn apply(&self, pixel: impl Fn(u32) -> [u8; 3]) -> image::Rgb<u8> {
        let mut sums = [1_i64 << (PRECISION_BITS - 1); 3]; // one half, to round
        for (i, &weight) in (self.first..).zip(&self.weights) {
            for (sum, value) in sums.iter_mut().zip(pixel(i)) {
                *sum += i64::from(value) * i64::from(weight);
            }
        }
        image::Rgb(sums.map(|sum| (sum >> PRECISION_BITS).clamp(0, 255) as u8))
    }
}

fn weights(from: u32, to: u32) -> Vec<Taps> {
    let scale = f64::from(from) / f64::from(to);
    let filter_scale = scale.max(1.0);
    let support = SUPPORT * filter_scale;
    (0..to)
        .map(|target| {
            let center = (f64::from(target) + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as u32;
            let end = ((center + support + 0.5) as u32).min(from);
            let raw: Vec<f64> = (first..end)
                .map(|i| lanczos3((f64::from(i) - center + 0.5) / filter_scale))
                .collect();
            let sum: f64 = raw.iter().sum();
            let weights = raw
                .iter()
                .map(|w| fixed(if sum == 0.0 { *w } else { w / sum }))
                .collect();
            Taps { first, weights }
        })
        .collect()
}

fn lanczos3(x: f64) -> f64 {
    match (-SUPPORT..SUPPORT).contains(&x) {
        true => sinc(x) * sinc(x / SUPPORT),
        false => 0.0,
    }
}

fn sinc(x: f64) -> f64 {
    match x * std::f64::consts::PI {
        0.0 => 1.0,
        x => x.sin() / x,
    }
}

fn fixed(weight: f64) -> i32 {
    let half = if weight < 0.0 { -0.5 } else { 0.5 };
    (half + weight * f64::from(1 << PRECISION_BITS)) as i32
}
