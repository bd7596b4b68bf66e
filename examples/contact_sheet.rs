//! Draws several prompts with the embedded model and lays them out on one sheet.
//!
//!     cargo run --release --example contact_sheet -- sheet.png
//!
//! It shows the library's three steps: open a checkpoint, load a pipeline, generate.

use anyhow::Context;
use candle_core::Device;
use darkroom::observe::{Event, Observer};
use darkroom::pipeline::{Pipeline, Start};
use darkroom::request::{Precision, Request, Size};
use darkroom::weights::checkpoint::Checkpoint;
use image::{RgbImage, imageops};

const PROMPTS: [&str; 12] = [
    "a red apple on a blue background",
    "a rocket on a black background",
    "a penguin in flat style on a pink background",
    "a green apple on a yellow background",
    "a sunflower on a purple background",
    "a blue heart on a white background",
    "a mushroom on a green background",
    "a soccer ball on an orange background",
    "a pizza on a gray background",
    "a tractor on a red background",
    "a snowman on a blue background",
    "a cactus on a yellow background",
];
const COLUMNS: usize = 6;
const SIZE: Size = Size {
    height_px: 128,
    width_px: 128,
};

/// An observer: says when a picture's steps are done.
struct Ticker;

impl Observer for Ticker {
    fn on(&mut self, event: Event<'_>) -> darkroom::error::Result<()> {
        if let Event::StageEnd { stage } = event {
            eprintln!("  {stage} done");
        }
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let path = std::env::args()
        .nth(1)
        .context("give the sheet's file name")?;
    let device = Device::Cpu;
    let pipeline = Pipeline::load(
        &Checkpoint::micro()?,
        Precision::default(),
        &device,
        &mut Ticker,
    )?;
    let edge = SIZE.width_px as u32;
    let rows = PROMPTS.len().div_ceil(COLUMNS) as u32;
    let mut sheet = RgbImage::new(edge * COLUMNS as u32, edge * rows);
    for (i, prompt) in PROMPTS.iter().enumerate() {
        eprintln!("{prompt}");
        let request = Request {
            seed: 1,
            ..Request::new("micro", prompt, SIZE, 20, 4.0)
        };
        let images = pipeline.generate(&request, Start::default(), &mut Ticker)?;
        let (x, y) = ((i % COLUMNS) as i64, (i / COLUMNS) as i64);
        imageops::replace(
            &mut sheet,
            &images[0],
            x * i64::from(edge),
            y * i64::from(edge),
        );
    }
    sheet
        .save(&path)
        .with_context(|| format!("cannot write {path}"))
}
