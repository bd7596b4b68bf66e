//! The picture that img2img starts from.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage};

use super::{lanczos, read, sha256_hex};
use crate::error::{Error, Result};

/// An initial image, decoded.
#[derive(Clone, Debug)]
pub struct InitPicture {
    /// Pixels, turned upright; transparency is dropped, not blended.
    pub image: RgbImage,
    /// SHA-256 of the file.
    pub sha256: String,
}

impl InitPicture {
    /// The picture at a request's size, made with Pillow's Lanczos as in diffusers.
    pub fn resized(&self, width_px: usize, height_px: usize) -> Result<RgbImage> {
        let edge = |px: usize| {
            u32::try_from(px).map_err(|_| Error::Request(format!("{px} pixels are too many")))
        };
        Ok(lanczos(&self.image, edge(width_px)?, edge(height_px)?))
    }
}

/// Reads a PNG, JPEG or WebP file the way diffusers' `load_image` does: upright by its EXIF
/// orientation, then Pillow's `convert("RGB")`.
///
/// What differs: channels of 16 bits are scaled to 8, where Pillow clips some of them.
pub fn read_init_image(path: &Path) -> Result<InitPicture> {
    let file = read(path)?;
    let image = decode(&file).map_err(|e| {
        Error::file(
            path,
            format!("not a readable picture (PNG, JPEG or WebP): {e}"),
        )
    })?;
    Ok(InitPicture {
        image: image.into_rgb8(),
        sha256: sha256_hex(&file),
    })
}

fn decode(file: &[u8]) -> image::ImageResult<DynamicImage> {
    let reader = ImageReader::new(Cursor::new(file)).with_guessed_format()?;
    let mut decoder = reader.into_decoder()?;
    let orientation = decoder.orientation()?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(image)
}
