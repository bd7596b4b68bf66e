//! How alike two pictures of one size are.

use image::RgbImage;
use ssimulacra2::{ColorPrimaries, Rgb, TransferCharacteristic, compute_frame_ssimulacra2};

use crate::error::{Error, Result};

/// Peak signal-to-noise ratio of all values, in dB. Equal pictures count as if one value were half a
/// level off, so that the figure stays finite and above that of any other pair.
pub fn psnr_db(a: &RgbImage, b: &RgbImage) -> f64 {
    let squares: f64 = values(a).zip(values(b)).map(|(a, b)| (a - b).powi(2)).sum();
    10.0 * (255f64.powi(2) * a.len() as f64 / squares.max(0.25)).log10()
}

fn values(image: &RgbImage) -> impl Iterator<Item = f64> {
    image.iter().map(|&value| f64::from(value))
}

/// Pixels from the middle of SSIM's window to its edge.
const RADIUS: usize = 5;

/// The least edge of a picture that [`ssim`] takes: one window.
pub const MIN_EDGE_PX: usize = 2 * RADIUS + 1;

/// Structural similarity: 1 of equal pictures, the mean of the three colours over all whole windows.
/// Both edges are [`MIN_EDGE_PX`] at least.
///
/// Source: Wang, Bovik, Sheikh, Simoncelli, "Image Quality Assessment: From Error Visibility to
/// Structural Similarity", 2004: a Gaussian window of 11×11 and σ = 1.5, K = (0.01, 0.03).
pub fn ssim(a: &RgbImage, b: &RgbImage) -> f64 {
    const C1: f64 = (0.01 * 255.0) * (0.01 * 255.0);
    const C2: f64 = (0.03 * 255.0) * (0.03 * 255.0);
    let size = (a.width() as usize, a.height() as usize);
    let colour = |colour: usize| {
        let [a, b] = [a, b].map(|image| values(image).skip(colour).step_by(3).collect::<Vec<_>>());
        let product =
            |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<_>>();
        let maps = [product(&a, &a), product(&b, &b), product(&a, &b), a, b];
        let [aa, bb, ab, a, b] = maps.map(|map| windows(&map, size));
        let count = a.len() as f64;
        let similarity = (0..a.len()).map(|i| {
            let (a, b) = (a[i], b[i]);
            let (var_a, var_b, covariance) = (aa[i] - a * a, bb[i] - b * b, ab[i] - a * b);
            (2.0 * a * b + C1) * (2.0 * covariance + C2)
                / ((a * a + b * b + C1) * (var_a + var_b + C2))
        });
        similarity.sum::<f64>() / count
    };
    (0..3).map(colour).sum::<f64>() / 3.0
}

/// The Gaussian mean of each whole window of a plane.
fn windows(plane: &[f64], (width, height): (usize, usize)) -> Vec<f64> {
    const SIGMA: f64 = 1.5;
    let weight = |i: usize| (-0.5 * ((i as f64 - RADIUS as f64) / SIGMA).powi(2)).exp();
    let weights: [f64; MIN_EDGE_PX] = std::array::from_fn(weight);
    let sum: f64 = weights.iter().sum();
    let (out_width, out_height) = (width + 1 - MIN_EDGE_PX, height + 1 - MIN_EDGE_PX);
    let mean = |values: &[f64], stride: usize| {
        let values = values.iter().step_by(stride);
        values.zip(&weights).map(|(v, w)| v * w).sum::<f64>() / sum
    };
    let rows: Vec<f64> = (0..height * out_width)
        .map(|i| mean(&plane[i / out_width * width + i % out_width..], 1))
        .collect(); // height × out_width
    (0..out_height * out_width)
        .map(|i| mean(&rows[i..], out_width))
        .collect()
}

/// SSIMULACRA 2, how alike they look to a person: 100 of equal pictures, 90 where no difference is
/// seen at a normal distance, 70 high quality, 50 medium, 10 very low, below 0 anything (the scale of
/// its author, Jon Sneyers, 2023).
///
/// # Errors
/// An edge below 8 pixels, or two sizes.
pub fn ssimulacra2(a: &RgbImage, b: &RgbImage) -> Result<f64> {
    let linear = |image: &RgbImage| {
        let pixels = image.pixels().map(|p| p.0.map(|v| f32::from(v) / 255.0));
        Rgb::new(
            pixels.collect(),
            image.width() as usize,
            image.height() as usize,
            TransferCharacteristic::SRGB,
            ColorPrimaries::BT709,
        )
        .expect("as many pixels as the picture has")
    };
    compute_frame_ssimulacra2(linear(a), linear(b))
        .map_err(|e| Error::Request(format!("SSIMULACRA 2: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: (u32, u32) = (64, 48);

    fn picture() -> RgbImage {
        RgbImage::from_fn(SIZE.0, SIZE.1, |x, y| {
            image::Rgb([1, 2, 3].map(|c| ((x * 5 + y * 3 * c + x * y / 7) % 256) as u8))
        })
    }

    /// Each value up to `step` levels off.
    fn noisy(step: u32) -> RgbImage {
        let mut picture = picture();
        for (x, y, pixel) in picture.enumerate_pixels_mut() {
            for (c, value) in (0u32..).zip(&mut pixel.0) {
                let off = ((x * 31 + y * 17 + c * 11) * step % (2 * step + 1)) as i32 - step as i32;
                *value = (i32::from(*value) + off).clamp(0, 255) as u8;
            }
        }
        picture
    }

    /// scikit-image 0.26.0 on the same pictures: `peak_signal_noise_ratio(a, b, data_range=255)` and
    /// `structural_similarity(a, b, data_range=255, gaussian_weights=True, sigma=1.5,
    /// use_sample_covariance=False, channel_axis=2)`.
    #[test]
    fn figures_are_those_of_scikit_image() {
        for (step, psnr, similarity) in [
            (1, 49.90445834476493, 0.9994227076265604),
            (4, 39.92036762597363, 0.994280923065896),
            (16, 28.694381648825548, 0.9309377377860818),
            (64, 17.264579128072363, 0.5568269381756447),
        ] {
            let (a, b) = (picture(), noisy(step));
            assert!((psnr_db(&a, &b) - psnr).abs() < 1e-9, "{step}");
            assert!(
                (ssim(&a, &b) - similarity).abs() < 1e-9,
                "{step}: {}",
                ssim(&a, &b)
            );
        }
    }

    #[test]
    fn equal_pictures_get_the_best_and_worse_ones_ever_less() {
        let a = picture();
        let all = |b: &RgbImage| {
            [
                psnr_db(&a, b),
                ssim(&a, b),
                ssimulacra2(&a, b).expect("large"),
            ]
        };
        let [psnr, similarity, perceived] = all(&a);
        // 10 · log₁₀(255² · 48 · 64 · 3 / ¼)
        assert!((psnr - 93.796).abs() < 1e-3, "{psnr}");
        assert!((similarity - 1.0).abs() < 1e-12 && (perceived - 100.0).abs() < 1e-6);
        let mut blurred = vec![a.clone()];
        blurred.extend([0.5, 1.0, 2.0, 4.0].map(|sigma| image::imageops::blur(&a, sigma)));
        let mut darker = vec![a.clone()];
        darker.extend([8, 32, 96].map(|by| image::imageops::brighten(&a, -by)));
        let noisy = [0, 1, 4, 16, 64].map(noisy).to_vec();
        for (what, ladder) in [("noise", noisy), ("blur", blurred), ("darkness", darker)] {
            let figures: Vec<_> = ladder.iter().map(all).collect();
            for pair in figures.windows(2) {
                let worse = pair[0]
                    .iter()
                    .zip(&pair[1])
                    .all(|(before, after)| before > after);
                assert!(worse, "{what}: {figures:?}");
            }
        }
    }

    #[test]
    fn one_level_in_one_value_is_seen() {
        let a = picture();
        let mut b = a.clone();
        b.get_pixel_mut(31, 17).0[1] ^= 1;
        assert!(psnr_db(&a, &b) < psnr_db(&a, &a) - 6.0);
        assert!(ssim(&a, &b) < 1.0);
        assert!(ssimulacra2(&a, &b).expect("large") < 100.0);
    }
}
