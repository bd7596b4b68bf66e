//! What a run promises besides the reference's numbers: batches, precision, observers, cancellation,
//! errors that name the stage, long prompts, tiles without seams.

#[allow(dead_code)] // shared with tests/checkpoint.rs, which uses other parts of it
#[path = "../support/model.rs"]
mod model;

mod failures;
mod observing;
mod runs;
mod tiles;

use std::sync::LazyLock;

use candle_core::{Device, Tensor};
use darkroom::error::Result;
use darkroom::observe::{Event, Observer};
use darkroom::pipeline::{Pipeline, Start};
use darkroom::request::{Dtype, Precision, Request, Size};
use darkroom::weights::checkpoint::Checkpoint;
use image::RgbImage;

/// The embedded model, in float32.
static MICRO: LazyLock<Pipeline> = LazyLock::new(|| micro(Dtype::F32));

fn micro(dtype: Dtype) -> Pipeline {
    let checkpoint = Checkpoint::micro().unwrap();
    Pipeline::load(&checkpoint, Precision::all(dtype), &Device::Cpu, &mut ()).unwrap()
}

/// Two guided steps at 64×64.
fn request() -> Request {
    let size = Size {
        height_px: 64,
        width_px: 64,
    };
    Request::new("micro", "a red apple on a blue background", size, 2, 5.0)
}

fn generate(pipeline: &Pipeline, request: &Request) -> Vec<RgbImage> {
    pipeline
        .generate(request, Start::default(), &mut ())
        .unwrap()
}

/// Keeps every named tensor of a run.
#[derive(Default)]
struct Dump(Vec<(String, Tensor)>);

impl Dump {
    fn find(&self, name: &str) -> Option<&Tensor> {
        let mut found = self.0.iter().filter(|(n, _)| n == name);
        found.next().map(|(_, tensor)| tensor)
    }
}

impl Observer for Dump {
    fn on(&mut self, event: Event<'_>) -> Result<()> {
        if let Event::Tensor { name, value } = event {
            self.0.push((name.to_owned(), value.clone()));
        }
        Ok(())
    }
}

/// Peak signal-to-noise ratio in dB of values whose range is `peak`.
fn psnr(a: impl Iterator<Item = f64>, b: impl Iterator<Item = f64>, peak: f64) -> f64 {
    let (mut square, mut count) = (0.0, 0);
    for (a, b) in a.zip(b) {
        square += (a - b).powi(2);
        count += 1;
    }
    10.0 * (peak * peak * f64::from(count) / square).log10()
}
