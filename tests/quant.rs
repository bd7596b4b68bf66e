//! Int8 weights of the embedded model, quantised as they are loaded.

use candle_core::Device;
use darkroom::measure::memory::{Counting, live_bytes};
use darkroom::pipeline::{Pipeline, Start};
use darkroom::quant::Scheme;
use darkroom::request::{Precision, Request, Size};
use darkroom::weights::checkpoint::Checkpoint;
use image::RgbImage;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PROMPTS: [&str; 3] = [
    "a red apple on a blue background",
    "a fox in flat style",
    "a yellow star on a green background",
];

fn load(quant: Option<Scheme>) -> (Pipeline, usize) {
    let precision = Precision {
        quant,
        ..Precision::default()
    };
    let before = live_bytes();
    let checkpoint = Checkpoint::micro().unwrap();
    let pipeline = Pipeline::load(&checkpoint, precision, &Device::Cpu, &mut ()).unwrap();
    (pipeline, live_bytes() - before)
}

fn draw(pipeline: &Pipeline) -> Vec<RgbImage> {
    let size = Size {
        height_px: 128,
        width_px: 128,
    };
    let image = |prompt: &&str| {
        let request = Request::new("micro", prompt, size, 10, 4.0);
        pipeline
            .generate(&request, Start::default(), &mut ())
            .unwrap()
            .remove(0)
    };
    PROMPTS.iter().map(image).collect()
}

/// Peak signal-to-noise ratio, in dB.
fn psnr(a: &RgbImage, b: &RgbImage) -> f64 {
    let squares: f64 = a
        .iter()
        .zip(b.iter())
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
        .sum();
    10.0 * (255f64.powi(2) * a.len() as f64 / squares.max(1e-9)).log10()
}

#[test]
fn pictures_stay_and_memory_goes() {
    let (float, float_bytes) = load(None);
    let want = draw(&float);
    drop(float);
    for (scheme, least_db) in [(Scheme::W8A8, 30.0), (Scheme::W8A16, 35.0)] {
        let (int8, bytes) = load(Some(scheme));
        let got = draw(&int8);
        for ((prompt, got), want) in PROMPTS.iter().zip(&got).zip(&want) {
            let db = psnr(got, want);
            println!("{scheme:?}: {prompt}: {db:.1} dB");
            assert!(db >= least_db, "{scheme:?}: {prompt}: {db:.1} dB");
            assert!(
                db < 90.0,
                "{scheme:?}: {prompt}: the same picture, so nothing was quantised"
            );
        }
        // Of the UNet's 7 M parameters in float32, most go from four bytes to one.
        let saved = float_bytes - bytes;
        println!("{scheme:?}: {float_bytes} bytes loaded, {saved} saved");
        assert!(
            saved > 15 << 20,
            "{scheme:?} saves {saved} bytes of {float_bytes}"
        );
        // To the bit again.
        assert_eq!(draw(&load(Some(scheme)).0), got);
    }
}
