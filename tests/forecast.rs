//! The forecast against what really ran: operations one by one, memory as the allocator counted it,
//! and published figures of SDXL base.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use candle_core::Device;
use darkroom::forecast::{self, Forecast, Model, Processor, StageForecast, largest_batch};
use darkroom::measure::memory::{Counting, live_bytes};
use darkroom::measure::op::{Op, Work};
use darkroom::measure::recorder::{Recorder, StageRecord};
use darkroom::observe::Stage;
use darkroom::pipeline::{Pipeline, Start};
use darkroom::quant::Scheme;
use darkroom::request::{Dtype, InitImage, Precision, Request, Size};
use darkroom::scheduler::SchedulerKind;
use darkroom::weights::checkpoint::{Checkpoint, Component};
use darkroom::weights::synthetic;
use image::RgbImage;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that the process keeps from its first run on: buffers of the matrix product and of the
/// tokenizer, a thread each.
static KEPT: OnceLock<usize> = OnceLock::new();

/// One recording a process, and nobody else's allocations in it; on two threads, so that what each
/// thread keeps for itself is the same everywhere. Whichever test comes first makes the first run.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    KEPT.get_or_init(|| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2);
        pool.build_global().expect("nobody used the pool before");
        let before = live_bytes();
        let micro = Checkpoint::micro().expect("in the binary");
        run(&micro, &request(64, 64));
        live_bytes() - before
    });
    alone
}

fn request(height_px: usize, width_px: usize) -> Request {
    let size = Size {
        height_px,
        width_px,
    };
    Request::new("micro", "a red apple on a blue background", size, 2, 5.0)
}

fn from_picture(request: Request, strength: f64) -> Request {
    let init_image = Some(InitImage {
        path: PathBuf::new(),
        sha256: String::new(),
        strength,
    });
    Request {
        init_image,
        steps: 4,
        ..request
    }
}

fn fixture(name: &str) -> Checkpoint {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    Checkpoint::open(&models.join(name)).expect("a fixture")
}

fn run(checkpoint: &Checkpoint, request: &Request) -> Vec<StageRecord> {
    let mut recorder = Recorder::begin(&Device::Cpu, false).expect("none is under way");
    let pipeline =
        Pipeline::load(checkpoint, request.precision, &Device::Cpu, &mut recorder).expect("sound");
    let start = Start {
        init_image: request.init_image.as_ref().map(|_| {
            let (width, height) = (request.width_px as u32, request.height_px as u32);
            RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 128]))
        }),
        ..Start::default()
    };
    pipeline
        .generate(request, start, &mut recorder)
        .expect("it runs");
    recorder.stages()
}

fn forecast_of(checkpoint: &Checkpoint, request: &Request) -> Forecast {
    let model = Model::of(checkpoint).expect("sound configs");
    forecast::forecast(&model, request, Processor::this_cpu()).expect("a sound request")
}

/// Compares a run with its forecast: operations exactly. Gives each stage's memory, forecast over
/// measured; `kept` is what the process holds since an earlier run.
fn compare(
    what: &str,
    checkpoint: &Checkpoint,
    request: &Request,
    kept: usize,
) -> Vec<(Stage, f64)> {
    let forecast = forecast_of(checkpoint, request);
    let records = run(checkpoint, request);
    let began = |record: &StageRecord| record.memory.as_ref().expect("counted").begin;
    let before = began(&records[0]) - kept;
    assert_eq!(records.len(), forecast.stages.len(), "{what}");
    let mut ratios = Vec::new();
    for (record, stage) in records.iter().zip(&forecast.stages) {
        assert_eq!(record.time.stage, stage.stage, "{what}");
        let recorded: BTreeMap<Work, usize> =
            record.ops.iter().map(|(w, t)| (*w, t.calls)).collect();
        assert_eq!(recorded, stage.ops, "{what}, {}", stage.stage);
        // What a process keeps from its first run on is forecast from the first matrix product on.
        let before = match stage.stage {
            Stage::Load => before + kept,
            _ => before,
        };
        let measured = record.memory.as_ref().expect("counted").peak - before;
        // Beside weights that are right anyway, what the stage itself holds has to be.
        let [own, foreseen] =
            [measured as u64, stage.memory.peak].map(|b| b - stage.memory.resident);
        if stage.stage != Stage::Load && own > 16 << 20 {
            let error = foreseen as f64 / own as f64 - 1.0;
            assert!(
                error.abs() < 0.05,
                "{what}, {}: {own} and {foreseen}",
                stage.stage
            );
        }
        ratios.push((stage.stage, stage.memory.peak as f64 / measured as f64));
    }
    ratios
}

#[test]
fn operations_and_memory_are_those_of_the_run() {
    let _alone = alone();
    let kept = *KEPT.get().expect("the first run is behind us: `alone`");
    let plain = request(64, 64);
    let all = |dtype| Precision::all(dtype);
    let int8 = |dtype, scheme| Precision {
        quant: Some(scheme),
        ..all(dtype)
    };
    let grid = [
        ("64x64", plain.clone()),
        ("128x128", request(128, 128)),
        (
            "72x200, 3 images",
            Request {
                count: 3,
                ..request(72, 200)
            },
        ),
        (
            "88x40, bf16, 2 images",
            Request {
                count: 2,
                precision: all(Dtype::Bf16),
                ..request(88, 40)
            },
        ),
        (
            "128x96, f16",
            Request {
                precision: all(Dtype::F16),
                ..request(128, 96)
            },
        ),
        (
            "int8 weights and activations, 2 images",
            Request {
                count: 2,
                precision: int8(Dtype::F32, Scheme::W8A8),
                ..request(128, 96)
            },
        ),
        (
            "int8 weights and activations, bf16",
            Request {
                precision: int8(Dtype::Bf16, Scheme::W8A8),
                ..request(64, 104)
            },
        ),
        (
            "int8 weights",
            Request {
                precision: int8(Dtype::F32, Scheme::W8A16),
                ..request(96, 128)
            },
        ),
        (
            "unguided, mixed types",
            Request {
                guidance: 1.0,
                precision: Precision {
                    unet: Dtype::Bf16,
                    vae: Dtype::F16,
                    ..all(Dtype::F32)
                },
                count: 2,
                ..request(64, 96)
            },
        ),
        (
            "negative prompt, clip skip, fresh noise, rescaled guidance",
            Request {
                negative: Some("blurry".into()),
                clip_skip: Some(1),
                scheduler: Some(SchedulerKind::EulerAncestral),
                guidance_rescale: 0.7,
                ..plain.clone()
            },
        ),
        (
            "tiles",
            Request {
                vae_tile: Some(16),
                count: 2,
                ..request(168, 200)
            },
        ),
        (
            "tiles, bf16",
            Request {
                vae_tile: Some(16),
                precision: all(Dtype::Bf16),
                ..request(208, 136)
            },
        ),
        (
            "large and without guidance",
            Request {
                guidance: 1.0,
                steps: 1,
                ..request(512, 512)
            },
        ),
        (
            "large, bf16, int8 weights and activations",
            Request {
                guidance: 1.0,
                steps: 1,
                precision: int8(Dtype::Bf16, Scheme::W8A8),
                ..request(512, 384)
            },
        ),
        (
            "from a picture",
            from_picture(
                Request {
                    count: 2,
                    ..request(96, 72)
                },
                0.5,
            ),
        ),
        (
            "from a picture, bf16",
            from_picture(
                Request {
                    precision: all(Dtype::Bf16),
                    ..request(128, 128)
                },
                1.0,
            ),
        ),
    ];
    let micro = Checkpoint::micro().expect("in the binary");
    let mut worst: f64 = 0.0;
    println!("memory, forecast over measured, in %");
    for (what, request) in &grid {
        let ratios = compare(what, &micro, request, kept);
        let row: Vec<String> = ratios
            .iter()
            .map(|(stage, ratio)| format!("{stage} {:+.2}", 100.0 * (ratio - 1.0)))
            .collect();
        println!("{what:60} {}", row.join("  "));
        for (stage, ratio) in ratios {
            assert!((ratio - 1.0).abs() < 0.02, "{what}, {stage}: {ratio}");
            worst = worst.max((ratio - 1.0).abs());
        }
    }
    println!("worst: {:.2} %", 100.0 * worst);
}

/// Other architectures: no mid block's attention, one encoder, an embedded guidance scale, 1×1
/// convolutions for projections. They are too small for memory to be mostly tensors.
#[test]
fn operations_are_those_of_the_run_in_other_architectures() {
    let _alone = alone();
    for name in ["base", "lcm", "refiner", "turbo", "vpred"] {
        let checkpoint = fixture(name);
        for request in [
            request(48, 80),
            Request {
                guidance: 1.0,
                vae_tile: Some(16),
                ..request(160, 88)
            },
            from_picture(request(64, 64), 0.5),
            Request {
                precision: Precision {
                    quant: Some(Scheme::W8A8),
                    ..Precision::default()
                },
                ..request(64, 48)
            },
        ] {
            compare(name, &checkpoint, &request, 0);
        }
    }
}

/// Values of the tensors in a component's files, by their headers.
fn stored_parameters(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).expect("a component's folder");
    let names = files.map(|file| file.expect("readable").path());
    let weights = names.filter(|path| path.extension().is_some_and(|e| e == "safetensors"));
    weights
        .map(|path| {
            let bytes = std::fs::read(path).expect("readable");
            let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("sound");
            // Files of older transformers hold the positions' numbers, which are no weights.
            let weights = tensors
                .iter()
                .filter(|(name, _)| !name.ends_with("position_ids"));
            let values = weights.map(|(_, t)| t.shape().iter().product::<usize>());
            values.sum::<usize>() as u64
        })
        .sum()
}

#[test]
fn parameters_are_those_of_the_files() {
    let _alone = alone();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["base", "lcm", "refiner", "turbo", "vpred"]
        .map(|name| root.join("tests/fixtures/models").join(name));
    for folder in folders.iter().chain([&root.join("models/micro")]) {
        let checkpoint = Checkpoint::open(folder).expect("sound");
        let forecast = forecast_of(&checkpoint, &request(64, 64));
        for part in &forecast.components[1..] {
            let stored = stored_parameters(&folder.join(part.name));
            assert_eq!(
                part.parameters,
                stored,
                "{} {}",
                folder.display(),
                part.name
            );
            assert_eq!(part.bytes, 4 * stored);
        }
    }
}

fn sdxl() -> Checkpoint {
    let configs = synthetic::models::folder("sdxl-base").expect("in the binary");
    Checkpoint::synthetic(&configs).expect("sound configs")
}

fn macs(stage: &StageForecast, of: impl Fn(&Work) -> bool) -> f64 {
    let chosen = stage.ops.iter().filter(|(work, _)| of(work));
    chosen
        .map(|(work, calls)| work.macs as f64 * *calls as f64)
        .sum()
}

#[test]
fn sdxl_base_counts_as_published() {
    let _alone = alone();
    let size = Request {
        steps: 1,
        guidance: 1.0,
        ..request(1024, 1024)
    };
    let forecast = forecast_of(&sdxl(), &size);
    let parameters = |component: Component| {
        let parts = forecast.components.iter();
        parts
            .filter(|part| part.name.starts_with(component.name()))
            .map(|part| part.parameters)
            .sum::<u64>()
    };
    assert_eq!(parameters(Component::Unet), 2_567_463_684);
    assert_eq!(parameters(Component::TextEncoder), 817_720_320); // both: one name begins the other
    assert_eq!(parameters(Component::Vae), 83_653_863);

    let near = |what: &str, value: f64, published: f64, within: f64| {
        println!("{what}: {value:.4e}, published {published:.4e}");
        assert!(
            (value / published - 1.0).abs() < within,
            "{what}: {value:e}"
        );
    };
    let stage = |stage| forecast.stage(stage).expect("it runs");
    let attention = |work: &Work| work.op == Op::Attention;
    let denoise = stage(Stage::Denoise);
    // The keys and values of the text are projected once a run here; in the published counts they
    // belong to each forward.
    let text = macs(stage(Stage::TextEncode), |work| {
        work.op == Op::Linear && work.sizes[0] == 77 && work.sizes[1] == 2048
    });
    let forward = macs(denoise, |_| true) + text;
    near("UNet forward at 1024²", forward, 3.38e12, 0.005);
    let without_attention = 50.0 * (forward - macs(denoise, attention));
    near(
        "50 forwards without attention products",
        without_attention,
        149.438e12,
        0.005,
    );
    near(
        "VAE decode at 1024²",
        stage(Stage::VaeDecode).macs() as f64,
        5.24e12,
        0.005,
    );
    // One row of 77 tokens through each encoder; encoder 1 stops before its last layer.
    let encoders = macs(stage(Stage::TextEncode), |_| true) - text;
    near(
        "both text encoders",
        encoders,
        6.6e9 * 11.0 / 12.0 + 49e9,
        0.05,
    );
}

#[test]
fn the_largest_batch_fits_and_one_more_does_not() {
    let _alone = alone();
    let model = Model::of(&sdxl()).expect("sound configs");
    let request = Request {
        precision: Precision::all(Dtype::F16),
        ..request(512, 512)
    };
    let two = Processor::Cpu { threads: 2 };
    let peak = |count| {
        let request = Request {
            count,
            ..request.clone()
        };
        let forecast = forecast::forecast(&model, &request, two).expect("sound");
        forecast.peak().memory.peak
    };
    for free in [8 << 30, 16 << 30, 80 << 30u64] {
        let batch = largest_batch(&model, &request, two, free).expect("sound");
        println!("{} GiB: {batch} images", free >> 30);
        assert!(batch >= 1 && peak(batch) <= free && peak(batch + 1) > free);
    }
    let least = peak(1);
    assert_eq!(
        largest_batch(&model, &request, two, least).expect("sound"),
        1
    );
    assert_eq!(
        largest_batch(&model, &request, two, least - 1).expect("sound"),
        0
    );
}
