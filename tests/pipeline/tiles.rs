//! Decoding in tiles shows no seam.
//!
//! The difference of the tiled picture to the whole one is smooth where tiles are blended well. A
//! seam is a line across which it jumps, on average along the line, by at least a tenth of what it does where tiles are
//! not blended (how much that is, is the decoder's own), and at least three times as much as across the median line (else
//! the picture's own texture hides it).

use candle_core::{DType, Device, Tensor};
use darkroom::config::VaeConfig;
use darkroom::rng::{NoiseSource, TorchCpu};
use darkroom::vae::Vae;
use darkroom::weights::checkpoint::{Checkpoint, Component};

use crate::psnr;

fn vae() -> Vae {
    let checkpoint = Checkpoint::micro().unwrap();
    let config = VaeConfig::load(checkpoint.folder(Component::Vae).unwrap()).unwrap();
    let weights = checkpoint.weights(Component::Vae, DType::F32, &Device::Cpu);
    Vae::load(config, weights.unwrap()).unwrap()
}

/// Latents [1, 4, h, w] of a picture that the VAE was made for, discs on a plain background, with `texture` of noise.
fn latents(vae: &Vae, height: usize, width: usize, texture: f32) -> Tensor {
    let factor = vae.config().factor();
    let [rows, columns] = [height, width].map(|edge| (edge * factor) as f32);
    let discs = [
        ([0.3, 0.25], 0.2, [0.8, -0.6, -0.6]),
        ([0.6, 0.6], 0.3, [0.9, 0.7, -0.4]),
        ([0.8, 0.2], 0.15, [-0.7, 0.4, -0.2]),
        ([0.2, 0.8], 0.18, [0.9, 0.9, 0.9]),
    ];
    let pixel = |c: usize, y: f32, x: f32| {
        let inside = discs.iter().rev().find(|([top, left], radius, _)| {
            (y - top * rows).hypot(x - left * columns) < radius * rows.min(columns)
        });
        inside.map_or([-0.6, -0.1, 0.7][c], |(_, _, colour)| colour[c])
    };
    let size = (rows as usize, columns as usize);
    let values: Vec<f32> = (0..3 * size.0 * size.1)
        .map(|i| (i / (size.0 * size.1), i / size.1 % size.0, i % size.1))
        .map(|(c, y, x)| pixel(c, y as f32, x as f32))
        .collect();
    let picture = Tensor::from_vec(values, (1, 3, size.0, size.1), &Device::Cpu).unwrap();
    let clean = vae.scale(&vae.encode(&picture).unwrap().mean).unwrap();
    let noise = TorchCpu::new(3).randn(4 * height * width);
    let noise = Tensor::from_vec(noise, (1, 4, height, width), &Device::Cpu).unwrap();
    (clean + (noise * f64::from(texture)).unwrap()).unwrap()
}

/// Tiles side by side, each decoded as a picture of its own: what blending is there to mend.
fn naive(vae: &Vae, latents: &Tensor, tile: usize) -> Tensor {
    let (_, _, height, width) = latents.dims4().unwrap();
    let rows: Vec<Tensor> = (0..height)
        .step_by(tile)
        .map(|y| {
            let row = latents.narrow(2, y, tile).unwrap();
            let parts: Vec<Tensor> = (0..width)
                .step_by(tile)
                .map(|x| vae.decode(&row.narrow(3, x, tile).unwrap()).unwrap())
                .collect();
            Tensor::cat(&parts, 3).unwrap()
        })
        .collect();
    Tensor::cat(&rows, 2).unwrap()
}

/// Mean jump across each line of pixels, over columns then rows.
fn jumps(difference: &Tensor) -> Vec<f64> {
    let mut all = Vec::new();
    for axis in [3, 2] {
        let length = difference.dim(axis).unwrap();
        let after = difference.narrow(axis, 1, length - 1).unwrap();
        let before = difference.narrow(axis, 0, length - 1).unwrap();
        let jump = (after - before).unwrap().abs().unwrap();
        let others = [0, 1, 5 - axis];
        let lines = jump.mean(others.as_slice()).unwrap();
        let lines = lines
            .to_dtype(DType::F64)
            .unwrap()
            .to_vec1::<f64>()
            .unwrap();
        all.extend(lines);
    }
    all
}

struct Seam {
    /// Largest mean jump across a line, in 8-bit levels.
    worst_levels: f64,
    /// The same, by the median line's jump.
    stands_out: f64,
    psnr_db: f64,
}

impl Seam {
    fn shows(&self, levels: f64) -> bool {
        self.worst_levels >= levels && self.stands_out >= 3.0
    }
}

fn seam(got: &Tensor, whole: &Tensor) -> Seam {
    let values = |t: &Tensor| {
        let flat = t.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        flat.to_vec1::<f64>().unwrap().into_iter()
    };
    let mut jumps = jumps(&(got - whole).unwrap());
    jumps.sort_by(f64::total_cmp);
    let (worst, median) = (jumps[jumps.len() - 1], jumps[jumps.len() / 2]);
    Seam {
        worst_levels: worst * 127.5, // pixels span −1…1
        stands_out: worst / median,
        psnr_db: psnr(values(got), values(whole), 2.0),
    }
}

/// The picture in tiles, and in tiles that are not blended, each against the whole.
fn seams((height, width): (usize, usize), tile: usize, texture: f32) -> (Seam, Seam) {
    let vae = vae();
    let latents = vae.unscale(&latents(&vae, height, width, texture)).unwrap();
    let whole = vae.decode(&latents).unwrap();
    let tiled = vae.decode_tiled(&latents, tile, |_, decode| decode());
    let blended = seam(&tiled.unwrap(), &whole);
    let cut = seam(&naive(&vae, &latents, tile), &whole);
    for (name, seam) in [("blended", &blended), ("cut", &cut)] {
        println!(
            "{height}×{width} in {tile}, texture {texture}: {name:8} {:.1} dB, worst line {:.2} \
             levels, {:.1} medians",
            seam.psnr_db, seam.worst_levels, seam.stands_out
        );
    }
    (blended, cut)
}

#[test]
fn no_seam_shows() {
    // Noise in the latents is no picture's: the statistics of the shrunk image fit it less well.
    for (size, texture, psnr_limit_db) in [
        ((32, 48), 0.0, 38.0),
        ((64, 64), 0.0, 38.0),
        ((32, 48), 0.1, 30.0),
        ((32, 48), 0.3, 24.0),
    ] {
        let (blended, cut) = seams(size, 16, texture);
        assert!(
            !blended.shows(cut.worst_levels / 10.0),
            "{size:?}, texture {texture}"
        );
        assert!(blended.psnr_db > psnr_limit_db, "{size:?}, {texture}");
        assert!(cut.shows(10.0), "the measure is blind, {size:?}, {texture}");
    }
}

/// Two latents in common are little to blend over, and 8×8 are few to take statistics from: tiles
/// below what a request may ask for are not seamless, only far better than cut ones.
#[test]
fn smaller_tiles_are_still_blended() {
    for texture in [0.0, 0.1] {
        let (blended, cut) = seams((32, 32), 8, texture);
        assert!(blended.worst_levels < cut.worst_levels / 6.0);
        assert!(blended.psnr_db > cut.psnr_db + 6.0);
    }
}

#[test]
fn one_tile_is_the_whole() {
    let vae = vae();
    let latents = vae.unscale(&latents(&vae, 12, 9, 0.3)).unwrap();
    let whole = vae.decode(&latents).unwrap();
    let tiled = vae.decode_tiled(&latents, 16, |_, decode| decode());
    assert!(seam(&tiled.unwrap(), &whole).psnr_db > 120.0);
}
