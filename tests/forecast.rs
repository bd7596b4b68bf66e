//! The forecast against what really ran: operations, counted memory, published figures.

use std::collections::BTreeMap;

use candle_core::Device;
use darkroom::forecast::{self, Forecast, Model, StageForecast};
use darkroom::measure::memory::Counting;
use darkroom::measure::op::Work;
use darkroom::measure::recorder::{Recorder, StageRecord};
use darkroom::observe::Stage;
use darkroom::pipeline::{Pipeline, Start};
use darkroom::request::{Dtype, Precision, Request, Size};
use darkroom::weights::checkpoint::Checkpoint;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn request(height_px: usize, width_px: usize) -> Request {
    let size = Size {
        height_px,
        width_px,
    };
    Request::new("micro", "a red apple on a blue background", size, 3, 5.0)
}

#[test]
fn explore() {
    let checkpoint = Checkpoint::micro().unwrap();
    let model = Model::of(&checkpoint).unwrap();
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for (h, w, count) in [(64, 64, 1), (128, 128, 1), (200, 104, 2)] {
            let request = Request {
                count,
                precision: Precision::all(dtype),
                ..request(h, w)
            };
            let threads = rayon::current_num_threads();
            let forecast = forecast::forecast(&model, &request, threads).unwrap();
            let mut recorder = Recorder::begin(&Device::Cpu, false).unwrap();
            let pipeline =
                Pipeline::load(&checkpoint, request.precision, &Device::Cpu, &mut recorder)
                    .unwrap();
            pipeline
                .generate(&request, Start::default(), &mut recorder)
                .unwrap();
            let stages = recorder.stages();
            let base = stages[0].memory.as_ref().unwrap().begin as u64;
            println!("{dtype:?} {h}x{w} x{count}; base {base}");
            for (record, stage) in stages.iter().zip(&forecast.stages) {
                let m = record.memory.as_ref().unwrap();
                assert_eq!(record.time.stage, stage.stage);
                let measured = m.peak as u64 - base;
                println!(
                    "{:12} measured {:>12} forecast {:>12} error {:>8.3} %  diff {:>10} begin {:>11} ws {:>10} {:>10} end {} after {:?}",
                    stage.stage.name(),
                    measured,
                    stage.memory.peak,
                    100.0 * (stage.memory.peak as f64 / measured as f64 - 1.0),
                    stage.memory.peak as i64 - measured as i64,
                    m.begin as u64 - base,
                    m.workspace_at_peak,
                    stage.memory.workspace_at_peak,
                    m.end as u64 - base,
                    m.after_steps
                        .iter()
                        .map(|a| *a as u64 - base)
                        .collect::<Vec<_>>(),
                );
                let recorded: BTreeMap<Work, usize> =
                    record.ops.iter().map(|(w, t)| (*w, t.calls)).collect();
                if recorded != stage.ops {
                    println!("   OPS DIFFER {} {}", recorded.len(), stage.ops.len());
                    for (w, n) in &recorded {
                        if stage.ops.get(w) != Some(n) {
                            println!("    real {w:?} {n} vs {:?}", stage.ops.get(w));
                        }
                    }
                    for (w, n) in &stage.ops {
                        if !recorded.contains_key(w) {
                            println!("    only forecast {w:?} {n}");
                        }
                    }
                }
            }
            println!(
                "resident {} components {:?}",
                forecast.stages[1].memory.resident, forecast.components
            );
        }
    }
}
