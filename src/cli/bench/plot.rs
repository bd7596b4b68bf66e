//! `--plot`: for each run, the stages' times and the heap over time, measured beside forecast.

mod canvas;
mod memory;
mod times;

use std::io::Cursor;
use std::path::Path;

use anyhow::anyhow;
use image::{ImageFormat, RgbImage};
use plotters::backend::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::drawing::{DrawingAreaErrorKind, IntoDrawingArea};
use plotters::style::{FontStyle, WHITE, register_font};

use super::Timeline;
use super::table::title;
use crate::cli::whole_file;
use crate::error::{Error, Result};
use crate::measure::record::Run;
use canvas::{Anchor, BLACK, Canvas, Frame};

/// Of one run, in units of the SVG; a PNG has `PNG_SCALE` pixels to each.
const WIDTH: f64 = 920.0;
const HEIGHT: f64 = 330.0;
const PNG_SCALE: f64 = 2.0;

/// The picture's format, by the file's name.
#[derive(Clone, Copy)]
pub enum Format {
    Svg,
    Png,
}

impl Format {
    /// An error for any other ending than .svg and .png.
    pub fn of(path: &Path) -> Result<Self> {
        let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
        match ending.to_str() {
            Some("svg") => Ok(Self::Svg),
            Some("png") => Ok(Self::Png),
            _ => Err(Error::Request(format!(
                "--plot {}: end the name in .svg or .png",
                path.display()
            ))),
        }
    }
}

/// Writes the picture of runs and their last repeats' timelines.
pub fn write(runs: &[(&Run, &Timeline)], path: &Path, force: bool) -> anyhow::Result<()> {
    // The text's measures and the PNG's letters; an SVG is shown in its viewer's own sans-serif.
    register_font(
        canvas::FONT,
        FontStyle::Normal,
        epaint_default_fonts::UBUNTU_LIGHT,
    )
    .map_err(|_| anyhow!("the font in the program cannot be read"))?;
    let scale = match Format::of(path)? {
        Format::Svg => 1.0,
        Format::Png => PNG_SCALE,
    };
    let (width, height) = (
        (WIDTH * scale) as u32,
        (HEIGHT * scale) as u32 * runs.len() as u32,
    );
    let failed = |e: String| anyhow!("cannot draw {}: {e}", path.display());
    let bytes = match Format::of(path)? {
        Format::Svg => {
            let mut text = String::new();
            let backend = SVGBackend::with_string(&mut text, (width, height));
            draw(backend, scale, runs).map_err(|e| failed(e.to_string()))?;
            text.into_bytes()
        }
        Format::Png => {
            let mut image = RgbImage::new(width, height);
            let backend = BitMapBackend::with_buffer(&mut image, (width, height));
            draw(backend, scale, runs).map_err(|e| failed(e.to_string()))?;
            let mut png = Cursor::new(Vec::new());
            image.write_to(&mut png, ImageFormat::Png)?;
            png.into_inner()
        }
    };
    Ok(whole_file::write(path, force, &bytes)?)
}

fn draw<DB: DrawingBackend>(
    backend: DB,
    scale: f64,
    runs: &[(&Run, &Timeline)],
) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    let area = backend.into_drawing_area();
    area.fill(&WHITE)?;
    let canvas = Canvas { area: &area, scale };
    for (i, (run, timeline)) in runs.iter().enumerate() {
        let top = i as f64 * HEIGHT;
        let heading = title(&run.request, &run.device);
        canvas.text(&heading, (16.0, top + 18.0), 14.0, BLACK, Anchor::Start)?;
        let frame = |left, right| Frame {
            left,
            right,
            top: top + 66.0,
            bottom: top + HEIGHT - 42.0,
        };
        times::draw(&canvas, frame(70.0, 400.0), run)?;
        memory::draw(&canvas, frame(486.0, WIDTH - 20.0), run, timeline)?;
    }
    area.present()
}
