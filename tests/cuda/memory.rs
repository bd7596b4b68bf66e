//! Runs beside their forecasts: operations one by one, and the workspace's figures, which are the same on every GPU.

use std::collections::BTreeMap;
use std::process::Command;

use candle_core::Device;
use cudarc::driver::{DevicePtr, result};
use darkroom::device::set_aside;
use darkroom::forecast::{Forecast, Model, Processor, forecast};
use darkroom::measure::gpu::{Usage, usage};
use darkroom::measure::op::Work;
use darkroom::measure::recorder::{Recorder, StageRecord};
use darkroom::ops::int8::Scheme;
use darkroom::pipeline::{Pipeline, Start};
use darkroom::request::{Dtype, InitImage, Precision, Request, Size};
use darkroom::scheduler::SchedulerKind;
use darkroom::weights::checkpoint::Checkpoint;
use image::RgbImage;

use super::{RECORDED, WATCHED, gpu, open_gpu};

fn request(height_px: usize, width_px: usize, precision: Precision) -> Request {
    let size = Size {
        height_px,
        width_px,
    };
    Request {
        precision,
        ..Request::new("micro", "a red apple", size, 2, 5.0)
    }
}

fn micro() -> Checkpoint {
    Checkpoint::micro().expect("it is in the program")
}

fn forecast_of(checkpoint: &Checkpoint, request: &Request) -> Forecast {
    let model = Model::of(checkpoint).expect("a sound model");
    forecast(&model, request, Processor::Gpu).expect("a sound request")
}

fn in_use(gpu: &Device) -> Usage {
    let usage = usage(gpu).expect("a sound GPU");
    usage.expect("a GPU that allocates in the order of its stream")
}

fn run(checkpoint: &Checkpoint, request: &Request, gpu: &Device) -> Vec<StageRecord> {
    let mut recorder = Recorder::begin(gpu, false).expect("none is under way");
    let pipeline =
        Pipeline::load(checkpoint, request.precision, gpu, &mut recorder).expect("a sound model");
    let init_image = request.init_image.as_ref().map(|_| {
        let (width, height) = (request.width_px as u32, request.height_px as u32);
        RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 128]))
    });
    let start = Start {
        init_image,
        ..Start::default()
    };
    pipeline
        .generate(request, start, &mut recorder)
        .expect("a sound request");
    recorder.stages()
}

/// In half precision the operations are the forecast's, and each stage's peak is at most what it says, and within a
/// twentieth and 8 KiB of it; float32, by candle's operations, within a quarter.
#[test]
fn a_run_is_what_its_forecast_says() {
    let _alone = RECORDED.write();
    let _unwatched = WATCHED.read();
    let all = Precision::all;
    let int8 = |scheme| Precision {
        quant: Some(scheme),
        ..all(Dtype::F16)
    };
    let from_picture = Request {
        init_image: Some(InitImage {
            path: Default::default(),
            sha256: String::new(),
            strength: 0.5,
        }),
        steps: 4,
        ..request(64, 96, all(Dtype::Bf16))
    };
    let grid = [
        ("f16", request(64, 96, all(Dtype::F16))),
        (
            "bf16, 2 images, ancestral",
            Request {
                count: 2,
                scheduler: Some(SchedulerKind::EulerAncestral),
                ..request(72, 104, all(Dtype::Bf16))
            },
        ),
        ("W8A8", request(64, 96, int8(Scheme::W8A8))),
        (
            "W8A8, 2 images, unguided",
            Request {
                count: 2,
                guidance: 1.0,
                ..request(64, 64, int8(Scheme::W8A8))
            },
        ),
        ("W8A16", request(96, 64, int8(Scheme::W8A16))),
        (
            "tiles",
            Request {
                vae_tile: Some(16),
                ..request(64, 256, all(Dtype::F16))
            },
        ),
        ("picture", from_picture),
        ("f32", request(64, 64, all(Dtype::F32))),
    ];
    let mut wrong = Vec::new();
    for (what, request) in grid {
        let forecast = forecast_of(&micro(), &request);
        let gpu = open_gpu();
        let before = in_use(&gpu).used_bytes;
        let records = run(&micro(), &request, &gpu);
        assert_eq!(records.len(), forecast.stages.len(), "{what}");
        let bytes = |record: &StageRecord| {
            let gpu = record.gpu.as_ref().expect("it ran on one");
            [gpu.pool_peak_bytes, gpu.pool_end_bytes].map(|bytes| bytes.expect("it has a pool"))
        };
        let [load, resident] = bytes(&records[0]);
        let foreseen = forecast.stages[0].memory;
        let far = |what: String, measured: u64, foreseen: u64, slack: f64| {
            println!("{what}: {measured} B, forecast {foreseen} B");
            let most = measured as f64 * (1.0 + slack) + 8.0 * 1024.0;
            // Scalars are not forecast.
            let wrong = measured > foreseen + 4096 || foreseen as f64 > most;
            wrong.then(|| format!("{what}: {measured} B, forecast {foreseen} B"))
        };
        let what_of = |part| format!("{what}, {part}");
        wrong.extend(far(what_of("loading"), load - before, foreseen.peak, 0.02));
        wrong.extend(far(
            what_of("weights"),
            resident - before,
            foreseen.resident,
            0.01,
        ));
        let wide = request.precision.unet == Dtype::F32;
        for (record, stage) in records.iter().zip(&forecast.stages).skip(1) {
            let what = format!("{what}, {}", stage.stage);
            assert_eq!(record.time.stage, stage.stage);
            let recorded: BTreeMap<Work, usize> =
                record.ops.iter().map(|(w, t)| (*w, t.calls)).collect();
            if !wide && recorded != stage.ops {
                println!("{what}: {recorded:#?}\n{:#?}", stage.ops);
                wrong.push(format!("{what}: other operations"));
            }
            let own = bytes(record)[0] - resident;
            let slack = if wide { 0.25 } else { 0.05 };
            let foreseen = stage.memory.peak - stage.memory.resident;
            wrong.extend(far(what, own, foreseen, slack));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What a run needs by its forecast, weights and gaps and all, is taken from the driver in one piece, which nothing grows
/// out of: neither loading nor a run, nor a run as a CUDA graph.
#[test]
fn a_run_stays_in_its_workspace() {
    // Another test's probe would make other work of a step while it is captured.
    let _unwatched = WATCHED.read();
    let checkpoint = micro();
    for quant in [None, Some(Scheme::W8A8), Some(Scheme::W8A16)] {
        for cuda_graph in [false, true] {
            let precision = Precision {
                quant,
                ..Precision::all(Dtype::F16)
            };
            let request = Request {
                steps: 3,
                ..request(64, 64, precision)
            };
            let fences = match std::env::var_os("DARKROOM_CHECK_MEMORY") {
                Some(_) => 1 << 20,
                None => 0,
            };
            let needed = forecast_of(&checkpoint, &request).needed_bytes() + fences;
            let gpu = gpu();
            set_aside(&gpu, needed).expect("a sound GPU");
            let set_aside = in_use(&gpu);
            let pipeline = Pipeline::load(&checkpoint, request.precision, &gpu, &mut ())
                .and_then(|pipeline| pipeline.with_cuda_graph(cuda_graph))
                .expect("a sound model");
            let images = pipeline.generate(&request, Start::default(), &mut ());
            images.expect("a sound request");
            let end = in_use(&gpu);
            println!("{quant:?}, graph {cuda_graph}: {needed} B needed, {end:?}");
            assert!((needed..needed + (4 << 20)).contains(&set_aside.reserved_bytes));
            assert_eq!(end.reserved_bytes, set_aside.reserved_bytes);
        }
    }
}

/// Writes past a block's end, in a process of its own that `DARKROOM_CHECK_MEMORY` is set for.
#[test]
fn what_is_written_behind_a_block_is_found() {
    const CHILD: &str = "DARKROOM_TEST_WRITES_BEHIND";
    if std::env::var_os(CHILD).is_some() {
        let gpu = open_gpu();
        let cuda = gpu.as_cuda_device().expect("a GPU").cuda_stream();
        let block = cuda.alloc_zeros::<u8>(100).expect("memory");
        let (at, _synced) = block.device_ptr(&cuda);
        // SAFETY: it is not safe, but stays inside of the piece.
        let written = unsafe { result::memset_d8_async(at + 103, 0, 1, cuda.cu_stream()) };
        written.expect("a sound GPU");
        return;
    }
    let run = |check: bool| {
        let mut child = Command::new(std::env::current_exe().expect("this test"));
        child.args(["--exact", "--nocapture"]);
        child.arg("memory::what_is_written_behind_a_block_is_found");
        child.env(CHILD, "1").env_remove("DARKROOM_CHECK_MEMORY");
        if check {
            child.env("DARKROOM_CHECK_MEMORY", "1");
        }
        child.output().expect("this test")
    };
    assert!(run(false).status.success());
    let checked = run(true);
    let told = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(!checked.status.success());
    assert!(
        told.contains("byte 3 behind a block of 100 bytes was written"),
        "{told}"
    );
}
