//! Images on disk: PNG with its receipt, and the initial image of img2img.
//!
//! A PNG of ours carries two texts: [`RECEIPT_KEY`] holds the whole request as JSON, from which the
//! same image can be made again, and [`PARAMETERS_KEY`] holds the line that AUTOMATIC1111's web UI
//! writes (modules/processing.py, `create_infotext`), which other programs read.

mod init_image;
mod resize;

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use init_image::{InitPicture, read_init_image};
pub use resize::lanczos;

use crate::error::{Error, Result};
use crate::request::{InitImage, Request};
use crate::scheduler::SchedulerKind;

/// PNG keyword of the receipt.
pub const RECEIPT_KEY: &str = "darkroom";
/// PNG keyword of AUTOMATIC1111's line.
pub const PARAMETERS_KEY: &str = "parameters";
/// Form of the receipt; raised when an older reader could misread it.
pub const RECEIPT_SCHEMA: u32 = 1;
/// Most memory the PNG reader may take for chunks.
const MAX_PNG_BYTES: usize = 256 << 20;
/// Most text a compressed chunk may unfold to.
const MAX_TEXT_BYTES: usize = 16 << 20;

/// Where an image came from: enough to make it again on the same build and device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// [`RECEIPT_SCHEMA`].
    pub schema: u32,
    /// Version of darkroom.
    pub version: String,
    /// The request for this image alone (`count` is 1).
    pub request: Request,
    /// What it ran on: `cpu`, `cuda:0`.
    pub device: String,
    /// The sampler that ran: the request's, or the checkpoint's own.
    pub sampler: SchedulerKind,
    /// [`Checkpoint::fingerprint`](crate::weights::checkpoint::Checkpoint::fingerprint) of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_fingerprint: Option<String>,
    /// Noise from a file, where the seed did not make it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latents: Option<LatentsFile>,
}

/// A file of initial noise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentsFile {
    /// The file.
    pub path: PathBuf,
    /// Its SHA-256.
    pub sha256: String,
    /// Which of its rows is this image's.
    pub row: usize,
}

impl Receipt {
    /// The receipt of image `index` of a batch: a request of its own, with seed + index.
    pub fn of_image(request: &Request, index: usize, device: &str, sampler: SchedulerKind) -> Self {
        Self {
            schema: RECEIPT_SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            request: Request {
                seed: request.seed.wrapping_add(index as u64), // validate() excludes the overflow
                count: 1,
                ..request.clone()
            },
            device: device.to_owned(),
            sampler,
            model_fingerprint: None,
            latents: None,
        }
    }

    /// Parses the receipt's JSON; says what is wrong with it.
    pub fn parse(json: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Form {
            schema: u32,
        }
        let broken = |e: serde_json::Error| format!("its receipt is broken: {e}");
        let Form { schema } = serde_json::from_str(json).map_err(broken)?;
        if schema != RECEIPT_SCHEMA {
            return Err(format!(
                "its receipt has schema {schema}; this darkroom reads schema {RECEIPT_SCHEMA}"
            ));
        }
        serde_json::from_str(json).map_err(broken)
    }

    /// AUTOMATIC1111's text. What its form has no word for is left out.
    pub fn parameters(&self) -> String {
        let Request {
            prompt,
            negative,
            width_px,
            height_px,
            ..
        } = &self.request;
        let negative = match negative {
            Some(text) => format!("\nNegative prompt: {text}"),
            None => String::new(),
        };
        let mut fields = vec![format!("Steps: {}", self.request.steps)];
        fields.push(format!("Sampler: {}", sampler_name(self.sampler)));
        fields.push(format!("CFG scale: {}", self.request.guidance));
        fields.push(format!("Seed: {}", self.request.seed));
        fields.push(format!("Size: {width_px}x{height_px}"));
        fields.push(format!("Model: {}", quoted(&self.request.model)));
        if let Some(InitImage { strength, .. }) = self.request.init_image {
            fields.push(format!("Denoising strength: {strength}"));
        }
        if let Some(skip) = self.request.clip_skip {
            // Theirs counts from the last layer, 1; ours from the last but one, 0.
            fields.push(format!("Clip skip: {}", skip.saturating_add(2)));
        }
        fields.push(format!("Version: darkroom {}", self.version));
        format!("{prompt}{negative}\n{}", fields.join(", "))
    }
}

/// AUTOMATIC1111's name (modules/sd_samplers_kdiffusion.py, sd_samplers_timesteps.py); TCD is not
/// among them.
fn sampler_name(kind: SchedulerKind) -> &'static str {
    match kind {
        SchedulerKind::Euler => "Euler",
        SchedulerKind::EulerKarras => "Euler, Schedule type: Karras",
        SchedulerKind::EulerAncestral => "Euler a",
        SchedulerKind::Ddim => "DDIM",
        SchedulerKind::DpmSolver2M => "DPM++ 2M",
        SchedulerKind::DpmSolver2MKarras => "DPM++ 2M, Schedule type: Karras",
        SchedulerKind::Lcm => "LCM",
        SchedulerKind::Tcd => "TCD",
    }
}

/// As AUTOMATIC1111 quotes a value that would break its list.
fn quoted(value: &str) -> String {
    match value.contains([',', '\n', ':']) {
        true => serde_json::Value::from(value).to_string(),
        false => value.to_owned(),
    }
}

/// The image as a PNG file with both texts. The same image and receipt give the same bytes.
pub fn encode_png(image: &RgbImage, receipt: &Receipt) -> Result<Vec<u8>> {
    let json = serde_json::to_string(receipt).map_err(|e| Error::Request(e.to_string()))?;
    let mut file = Vec::new();
    encode(
        &mut file,
        image,
        &[(PARAMETERS_KEY, receipt.parameters()), (RECEIPT_KEY, json)],
    )
    .map_err(|e| Error::Request(format!("the image cannot be written as PNG: {e}")))?;
    Ok(file)
}

fn encode(
    file: &mut Vec<u8>,
    image: &RgbImage,
    texts: &[(&str, String)],
) -> Result<(), png::EncodingError> {
    let mut encoder = png::Encoder::new(file, image.width(), image.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for (key, text) in texts {
        // The format has no place for NUL, which would end the text.
        let (key, text) = (key.to_string(), text.replace('\0', "\u{FFFD}"));
        match text.chars().all(|c| u32::from(c) < 256) {
            true => encoder.add_text_chunk(key, text)?,
            false => encoder.add_itxt_chunk(key, text)?,
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(image.as_raw())?;
    writer.finish()
}

/// All texts of a PNG file, in the order Latin-1, compressed, UTF-8; says what is wrong with it.
pub fn png_texts(file: &[u8]) -> Result<Vec<(String, String)>, String> {
    if !file.starts_with(&[0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n']) {
        return Err("not a PNG file".into());
    }
    let limits = png::Limits {
        bytes: MAX_PNG_BYTES,
    };
    let mut reader = png::Decoder::new_with_limits(Cursor::new(file), limits)
        .read_info()
        .map_err(|e| format!("not a readable PNG file: {e}"))?;
    // Some programs write texts behind the pixels. A file cut off there still has those before.
    let _ = reader.finish();
    let info = reader.info();
    let mut texts = Vec::new();
    for chunk in &info.uncompressed_latin1_text {
        texts.push((chunk.keyword.clone(), chunk.text.clone()));
    }
    for chunk in &info.compressed_latin1_text {
        let mut chunk = chunk.clone();
        if chunk.decompress_text_with_limit(MAX_TEXT_BYTES).is_ok() {
            texts.push((chunk.keyword.clone(), chunk.get_text().unwrap_or_default()));
        }
    }
    for chunk in &info.utf8_text {
        let mut chunk = chunk.clone();
        if chunk.decompress_text_with_limit(MAX_TEXT_BYTES).is_ok() {
            texts.push((chunk.keyword.clone(), chunk.get_text().unwrap_or_default()));
        }
    }
    Ok(texts)
}

/// The text under `key`, if there is one.
pub fn text_of<'a>(texts: &'a [(String, String)], key: &str) -> Option<&'a str> {
    texts
        .iter()
        .find(|(k, _)| k == key)
        .map(|(_, text)| text.as_str())
}

/// The receipt in the PNG file at `path`.
pub fn read_receipt(path: &Path) -> Result<Receipt> {
    let texts = png_texts(&read(path)?).map_err(|problem| Error::file(path, problem))?;
    let json = text_of(&texts, RECEIPT_KEY).ok_or_else(|| {
        Error::file(
            path,
            "holds no receipt of darkroom: another program wrote it, or its texts were removed",
        )
    })?;
    Receipt::parse(json).map_err(|problem| Error::file(path, problem))
}

/// A whole file. Pipes and devices, which may never answer or end, are refused.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let kind = std::fs::metadata(path)
        .map_err(|e| Error::file(path, e))?
        .file_type();
    if !kind.is_file() {
        let what = match kind.is_dir() {
            true => "a folder",
            false => "a pipe or a device",
        };
        return Err(Error::file(path, format!("is {what}, not a file")));
    }
    std::fs::read(path).map_err(|e| Error::file(path, e))
}

/// SHA-256 in lower-case hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
