//! Pictures of figures: an SVG or PNG file.

pub mod canvas;

use std::io::Cursor;
use std::path::Path;

use anyhow::anyhow;
use image::{ImageFormat, RgbImage};
use plotters::backend::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::drawing::IntoDrawingArea;
use plotters::style::{FontStyle, WHITE, register_font};

use super::whole_file;
use crate::error::{Error, Result};
use canvas::{Canvas, Drawn};

/// Pixels of a PNG to a unit of a picture; an SVG has one.
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

/// Something that can be drawn.
pub trait Picture {
    /// Width and height in units.
    fn size(&self) -> (f64, f64);

    /// Draws it on white.
    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<'_, DB>) -> Drawn<DB>;
}

/// Writes a picture.
pub fn write(picture: &impl Picture, path: &Path, force: bool) -> anyhow::Result<()> {
    // The text's measures and the PNG's letters; an SVG is shown in its viewer's own sans-serif.
    register_font(
        canvas::FONT,
        FontStyle::Normal,
        epaint_default_fonts::UBUNTU_LIGHT,
    )
    .map_err(|_| anyhow!("the font in the program cannot be read"))?;
    let format = Format::of(path)?;
    let scale = match format {
        Format::Svg => 1.0,
        Format::Png => PNG_SCALE,
    };
    let (width, height) = picture.size();
    let size = ((width * scale) as u32, (height * scale) as u32);
    let failed = |e: String| anyhow!("cannot draw {}: {e}", path.display());
    let bytes = match format {
        Format::Svg => {
            let mut text = String::new();
            let backend = SVGBackend::with_string(&mut text, size);
            draw(picture, backend, scale).map_err(|e| failed(e.to_string()))?;
            text.into_bytes()
        }
        Format::Png => {
            let mut image = RgbImage::new(size.0, size.1);
            let backend = BitMapBackend::with_buffer(&mut image, size);
            draw(picture, backend, scale).map_err(|e| failed(e.to_string()))?;
            let mut png = Cursor::new(Vec::new());
            image.write_to(&mut png, ImageFormat::Png)?;
            png.into_inner()
        }
    };
    Ok(whole_file::write(path, force, &bytes)?)
}

fn draw<DB: DrawingBackend>(picture: &impl Picture, backend: DB, scale: f64) -> Drawn<DB> {
    let area = backend.into_drawing_area();
    area.fill(&WHITE)?;
    picture.draw(&Canvas { area: &area, scale })?;
    area.present()
}
