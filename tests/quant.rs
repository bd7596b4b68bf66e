//! Int8 weights of the embedded model, quantised as they are loaded or in a checkpoint of their own.

use std::sync::{Mutex, PoisonError};

use candle_core::Device;
use darkroom::measure::memory::{Counting, live_bytes, take_peak_bytes};
use darkroom::pipeline::{Pipeline, Start};
use darkroom::quant::{
    Calibration, Layers, Scheme, Selection, Smoothing, SmoothingConfig, audit, save,
};
use darkroom::request::{Precision, Request, Size};
use darkroom::weights::checkpoint::{Checkpoint, Component};
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
        None,
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

fn request(prompt: &str, steps: usize) -> Request {
    let size = Size {
        height_px: 128,
        width_px: 128,
    };
    Request::new("micro", prompt, size, steps, 4.0)
}

/// Smoothing changes no picture before anything is rounded to int8, and its factors come back.
#[test]
fn smoothing_moves_range_and_nothing_else() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let micro = Checkpoint::micro().unwrap();
    let (float, _) = load(None);
    let mut calibration = Calibration::default();
    calibration
        .add(&float, &request("a green frog", 3))
        .unwrap();
    let want = draw(&float);
    let config = SmoothingConfig {
        alpha: 0.5,
        prompts: 1,
        steps: 3,
    };
    let parent = tempfile::tempdir().unwrap();
    let save_with = |name: &str, selection: &Selection, smoothing: &Smoothing| {
        let folder = parent.path().join(name);
        let smoothing = Some((smoothing, config));
        save(
            &micro,
            Scheme::W8A8,
            selection,
            smoothing,
            &folder,
            &|_, _| Ok(()),
        )
        .unwrap();
        Checkpoint::open(&folder).unwrap()
    };
    let pipeline = |checkpoint: &Checkpoint| {
        Pipeline::load(checkpoint, Precision::default(), &Device::Cpu, &mut ()).unwrap()
    };

    // All factors, but every layer kept in floating point: the same pictures up to f16's rounding of
    // the smoothed weights.
    let smoothing = calibration.smoothing(&Selection::default(), 0.5);
    assert!(smoothing.channels() > 1000, "{}", smoothing.channels());
    let nothing = Selection::of(
        [
            "down_blocks",
            "mid_block",
            "up_blocks",
            "time_embedding",
            "add_embedding",
            "conv_in",
            "conv_out",
        ]
        .map(str::to_owned)
        .into(),
    );
    let folded = pipeline(&save_with("folded", &nothing, &smoothing));
    for (got, want) in draw(&folded).iter().zip(&want) {
        let db = psnr(got, want);
        println!("folded: {db:.1} dB");
        assert!(db > 45.0, "folded: {db:.1} dB");
    }

    // Quantised: the file holds the factors, and the audit undoes them.
    let checkpoint = save_with("smoothed", &Selection::default(), &smoothing);
    assert_eq!(
        checkpoint.quantisation().unwrap().unwrap().smoothing,
        Some(config)
    );
    let unet = checkpoint.folder(Component::Unet).unwrap();
    let read = Smoothing::read(unet).unwrap();
    assert_eq!(read.as_ref(), Some(&smoothing));
    let int8 = pipeline(&checkpoint);
    for (got, want) in draw(&int8).iter().zip(&want) {
        let db = psnr(got, want);
        println!("smoothed: {db:.1} dB");
        assert!(db > 30.0, "smoothed: {db:.1} dB");
    }
    let request = request("a blue fish", 2);
    let layers = Layers::of(&int8, &request).unwrap();
    let blind = audit(&float, &layers, &request).unwrap();
    let seen = audit(&float, &layers.smoothed(read), &request).unwrap();
    assert_eq!(seen.layers.len(), blind.layers.len());
    let (worst, layer) = (&blind.layers[0], &seen.layers[0]);
    assert!(layer.sqnr_db > 20.0 && layer.cosine > 0.99, "{layer:?}");
    assert!(
        worst.sqnr_db < 10.0,
        "without the factors it is another layer: {worst:?}"
    );
}

/// Every int8 layer is audited; rounding to 255 levels costs what it must, and a network broken on
/// purpose shows.
#[test]
fn the_audit_names_each_layer_and_finds_the_broken_one() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (float, _) = load(None);
    let request = request("a red apple", 2);
    let mut audits = Vec::new();
    for scheme in Scheme::ALL {
        let (int8, _) = load(Some(scheme));
        let layers = Layers::of(&int8, &request).unwrap();
        assert!(layers.len() > 100, "{}", layers.len());
        let audit = audit(&float, &layers, &request).unwrap();
        assert_eq!(audit.layers.len(), layers.len());
        assert!(audit.layers.is_sorted_by(|a, b| a.sqnr_db <= b.sqnr_db));
        for layer in &audit.layers {
            assert!(layer.calls == 1 || layer.calls == 2, "{layer:?}");
            assert!((20.0..80.0).contains(&layer.sqnr_db), "{layer:?}");
            assert!(layer.cosine > 0.99 && layer.largest_input >= layer.typical_input);
        }
        println!("{scheme:?}: worst {:?}", audit.layers[0]);
        audits.push(audit);
    }
    let median = |audit: &darkroom::quant::Audit| audit.layers[audit.layers.len() / 2].sqnr_db;
    assert!(
        median(&audits[0]) < median(&audits[1]),
        "w8a8 rounds more than w8a16"
    );

    // One weight's scales doubled in the file: that layer and no other is off by its own size.
    let (_parent, folder) = saved(Scheme::W8A8);
    let weights = folder.join("unet/diffusion_pytorch_model.safetensors");
    let tensors = std::fs::read(&weights).unwrap();
    let all = safetensors::SafeTensors::deserialize(&tensors).unwrap();
    let broken = "mid_block.attentions.0.proj_in";
    let scale = format!("{broken}.weight_scale");
    let doubled: Vec<u8> = all
        .tensor(&scale)
        .unwrap()
        .data()
        .as_chunks::<4>()
        .0
        .iter()
        .flat_map(|s| (2.0 * f32::from_le_bytes(*s)).to_le_bytes())
        .collect();
    let views = all
        .tensors()
        .into_iter()
        .map(|(name, view)| match name == scale {
            true => {
                let shape = view.shape().to_vec();
                (
                    name,
                    safetensors::tensor::TensorView::new(view.dtype(), shape, &doubled).unwrap(),
                )
            }
            false => (name, view),
        });
    std::fs::write(
        &weights,
        safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap(),
    )
    .unwrap();
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let int8 = Pipeline::load(&checkpoint, Precision::default(), &Device::Cpu, &mut ()).unwrap();
    let audit = audit(&float, &Layers::of(&int8, &request).unwrap(), &request).unwrap();
    assert_eq!(audit.layers[0].name, broken);
    assert!(audit.layers[0].sqnr_db < 3.0 && audit.layers[1].sqnr_db > 20.0);
}
