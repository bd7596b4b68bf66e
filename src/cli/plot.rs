//! Pictures as files: SVG or PNG, drawn by plotters with the font that is in the program.

pub mod canvas;

use std::io::Cursor;
use std::path::Path;

use anyhow::anyhow;
use image::{ImageFormat, RgbImage};
use plotters::backend::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::drawing::IntoDrawingArea;
use plotters::style::{FontStyle, WHITE, register_font};

use crate::error::{Error, Result};
use canvas::{Canvas, Drawn};

/// Pixels of a PNG to a unit of a picture; an SVG has one.
const PNG_SCALE: f64 = 2.0;

/// What can be drawn.
pub trait Picture {
    /// Width and height in the picture's own units.
    fn size(&self) -> (f64, f64);

    /// Draws it.
    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<'_, DB>) -> Drawn<DB>;
}

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

/// The file's content.
pub fn bytes(picture: &impl Picture, format: Format) -> anyhow::Result<Vec<u8>> {
    // The text's measures and the PNG's letters; an SVG is shown in its viewer's own sans-serif.
    register_font(
        canvas::FONT,
        FontStyle::Normal,
        epaint_default_fonts::UBUNTU_LIGHT,
    )
    .map_err(|_| anyhow!("the font in the program cannot be read"))?;
    let scale = match format {
        Format::Svg => 1.0,
        Format::Png => PNG_SCALE,
    };
    let (width, height) = picture.size();
    let size = ((width * scale) as u32, (height * scale) as u32);
    match format {
        Format::Svg => {
            let mut text = String::new();
            on(SVGBackend::with_string(&mut text, size), scale, picture)?;
            Ok(text.into_bytes())
        }
        Format::Png => {
            let mut image = RgbImage::new(size.0, size.1);
            on(BitMapBackend::with_buffer(&mut image, size), scale, picture)?;
            let mut png = Cursor::new(Vec::new());
            image.write_to(&mut png, ImageFormat::Png)?;
            Ok(png.into_inner())
        }
    }
}

fn on<DB: DrawingBackend>(backend: DB, scale: f64, picture: &impl Picture) -> anyhow::Result<()> {
    let area = backend.into_drawing_area();
    let drawn = area
        .fill(&WHITE)
        .and_then(|()| picture.draw(&Canvas { area: &area, scale }))
        .and_then(|()| area.present());
    drawn.map_err(|e| anyhow!("cannot draw: {e}"))
}
