//! Int8 weights of the embedded model, quantised as they are loaded or in a checkpoint of their own.

use std::sync::{Mutex, PoisonError};

use candle_core::Device;
use darkroom::measure::memory::{Counting, live_bytes, take_peak_bytes};
use darkroom::pipeline::{Pipeline, Start};
use darkroom::quant::{Scheme, Selection, save};
use darkroom::request::{Precision, Request, Size};
use darkroom::weights::checkpoint::Checkpoint;
use image::RgbImage;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Tests that count the process's heap run one at a time.
static ALONE: Mutex<()> = Mutex::new(());

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
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
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

/// A quantised copy of the embedded model in a new folder.
fn saved(scheme: Scheme) -> (tempfile::TempDir, std::path::PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("int8");
    let saved = save(
        &Checkpoint::micro().unwrap(),
        scheme,
        &Selection::default(),
        &folder,
        &|_, _| Ok(()),
    )
    .unwrap();
    assert!(
        saved.int8_layers > 100 && saved.float_layers > 10,
        "{saved:?}"
    );
    (parent, folder)
}

#[test]
fn a_saved_checkpoint_gives_the_same_bits_and_never_holds_a_second_copy() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for scheme in Scheme::ALL {
        let (_parent, folder) = saved(scheme);
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let (before, precision) = (live_bytes(), Precision::default());
        take_peak_bytes();
        let stored = Pipeline::load(&checkpoint, precision, &Device::Cpu, &mut ()).unwrap();
        let (peak, after) = (take_peak_bytes() - before, live_bytes() - before);
        // Beyond what stays: one tensor's bytes, and what parsing the vocabulary takes.
        println!("{scheme:?}: peak {peak}, after {after}");
        assert!(
            peak < after + (4 << 20),
            "{scheme:?}: peak {peak}, after {after}"
        );
        let (on_load, bytes) = load(Some(scheme));
        assert!(after.abs_diff(bytes) < 1 << 16, "{after} and {bytes}");
        assert_eq!(draw(&stored), draw(&on_load), "{scheme:?}");
    }
}

#[test]
fn checkpoints_that_cannot_be_meant_are_named() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (_parent, folder) = saved(Scheme::W8A8);
    let config = folder.join("unet/config.json");
    let weights = folder.join("unet/diffusion_pytorch_model.safetensors");
    let (sound, tensors) = (
        std::fs::read_to_string(&config).unwrap(),
        std::fs::read(&weights).unwrap(),
    );
    let problem = |precision| {
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let loaded = Pipeline::load(&checkpoint, precision, &Device::Cpu, &mut ());
        loaded.expect_err("refused").to_string()
    };
    let plain = Precision::default();
    for (from, to, words) in [
        ("\"darkroom\"", "\"bitsandbytes\"", "bitsandbytes"),
        ("\"version\": 1", "\"version\": 2", "version 2"),
        ("\"w8a8\"", "\"w4a4\"", "w8a8, w8a16"),
    ] {
        std::fs::write(&config, sound.replace(from, to)).unwrap();
        let text = problem(plain);
        assert!(
            text.contains(words) && text.contains("config.json"),
            "{text}"
        );
    }
    std::fs::write(&config, &sound).unwrap();
    let twice = Precision {
        quant: Some(Scheme::W8A16),
        ..plain
    };
    assert!(problem(twice).contains("quantised already"));

    // One layer's scales: gone, then not finite.
    let all = safetensors::SafeTensors::deserialize(&tensors).unwrap();
    let scale = "mid_block.attentions.0.proj_in.weight_scale";
    let write = |data: Option<Vec<u8>>| {
        let kept = all.tensors().into_iter().filter(|(name, _)| name != scale);
        let mut views: Vec<_> = kept.collect();
        let old = all.tensor(scale).unwrap();
        let new = data.as_ref().map(|data| {
            safetensors::tensor::TensorView::new(old.dtype(), old.shape().to_vec(), data).unwrap()
        });
        views.extend(new.map(|view| (scale.to_owned(), view)));
        std::fs::write(&weights, safetensors::serialize(views, None).unwrap()).unwrap();
    };
    write(None);
    let text = problem(plain);
    assert!(
        text.contains("proj_in.weight") && text.contains("scales are missing"),
        "{text}"
    );
    let nan = f32::NAN
        .to_le_bytes()
        .repeat(all.tensor(scale).unwrap().data().len() / 4);
    write(Some(nan));
    let text = problem(plain);
    assert!(
        text.contains("proj_in") && text.contains("finite"),
        "{text}"
    );
}
