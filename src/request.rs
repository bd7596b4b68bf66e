//! What the user asked for, complete and validated. No tensors here.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::quant::Scheme;
use crate::scheduler::{SchedulerKind, TimestepSpacing};

/// Longest edge and largest batch that are taken for meant. What memory holds is less.
const MAX_EDGE_PX: usize = 1 << 15;
pub(crate) const MAX_COUNT: usize = 10_000;

/// Smallest tile of the VAE, in latents: tests/pipeline/tiles.rs measures seams from here on.
const MIN_TILE: usize = 16;

/// Everything that decides an image's bits, besides the build and the device.
///
/// It is written into each PNG, and a run that reads it back makes the same image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Name in weights.toml, or a checkpoint folder.
    pub model: String,
    /// Text for both encoders.
    pub prompt: String,
    /// Text for the second encoder, where it differs.
    pub prompt_2: Option<String>,
    /// What the image should not be. `None` is not the same as an empty text: see
    /// [`crate::conditioning`].
    pub negative: Option<String>,
    /// The same for the second encoder, where it differs.
    pub negative_2: Option<String>,
    /// Encode prompts of any length in chunks of 75 tokens, rather than cut them.
    pub long_prompt: bool,
    /// Image width.
    pub width_px: usize,
    /// Image height.
    pub height_px: usize,
    /// Denoising steps of the whole schedule (img2img runs the last `strength` of them).
    pub steps: usize,
    /// Classifier-free guidance scale; off at 1 and below.
    pub guidance: f64,
    /// Share of the rescaled guidance (Lin et al. 2023, section 3.4); 0 is off.
    pub guidance_rescale: f64,
    /// Final layers of both text encoders to leave out, counted as diffusers does.
    pub clip_skip: Option<usize>,
    /// Seed of the first image; image i of a batch has `seed + i`.
    pub seed: u64,
    /// Images to make.
    pub count: usize,
    /// Sampler, where it is not the checkpoint's own.
    pub scheduler: Option<SchedulerKind>,
    /// Placement of the timesteps, where it is not the checkpoint's own.
    pub timestep_spacing: Option<TimestepSpacing>,
    /// Micro-conditioning: size of the imagined original; the image's size if absent.
    pub original_size: Option<Size>,
    /// Micro-conditioning: (top, left) of the imagined crop.
    pub crop: (usize, usize),
    /// Micro-conditioning: size aimed at; the image's size if absent.
    pub target_size: Option<Size>,
    /// Start from this image rather than from pure noise.
    pub init_image: Option<InitImage>,
    /// Which generator makes the noise.
    pub rng: Rng,
    /// Number types of the components.
    pub precision: Precision,
    /// Decode in overlapping tiles of this edge in latents; `None` decodes at once.
    pub vae_tile: Option<usize>,
}

/// An initial image and how far to go from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitImage {
    /// The file.
    pub path: PathBuf,
    /// Its SHA-256, so that a repeated run notices another picture.
    pub sha256: String,
    /// Share of the schedule to run, above 0 and at most 1.
    pub strength: f64,
}

/// Height × width in pixels, written `1024x768`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Rows.
    pub height_px: usize,
    /// Columns.
    pub width_px: usize,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once(['x', 'X', '×'])
            .and_then(|(h, w)| Some((h.trim().parse().ok()?, w.trim().parse().ok()?)));
        match parsed {
            Some((height_px, width_px)) => Ok(Self {
                height_px,
                width_px,
            }),
            None => Err(format!("`{text}` is not HEIGHTxWIDTH, such as 1024x768")),
        }
    }
}

/// Which of torch's generators the noise comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rng {
    /// `torch.Generator("cpu")`: mt19937.
    #[default]
    Torch,
    /// `torch.Generator("cuda")`: Philox 4×32-10.
    Philox,
}

/// A number type that weights and activations are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl Dtype {
    /// candle's name for it.
    pub fn candle(self) -> candle_core::DType {
        match self {
            Dtype::F32 => candle_core::DType::F32,
            Dtype::Bf16 => candle_core::DType::BF16,
            Dtype::F16 => candle_core::DType::F16,
        }
    }

    /// `f32`, `bf16` or `f16`.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::F16 => "f16",
        }
    }
}

impl FromStr for Dtype {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Dtype::F32),
            "bf16" => Ok(Dtype::Bf16),
            "f16" => Ok(Dtype::F16),
            other => Err(format!("`{other}` is not a number type: f32, bf16 or f16")),
        }
    }
}

/// Number types by component, written `bf16` or `text=f32,unet=bf16,vae=f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Precision {
    /// Both text encoders.
    pub text_encoder: Dtype,
    /// The UNet.
    pub unet: Dtype,
    /// The VAE.
    pub vae: Dtype,
    /// Int8 weights of the UNet, quantised as they are loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quant: Option<Scheme>,
}

impl Precision {
    /// One type for all components.
    pub fn all(dtype: Dtype) -> Self {
        Self {
            text_encoder: dtype,
            unet: dtype,
            vae: dtype,
            quant: None,
        }
    }
}

impl fmt::Display for Precision {
    /// `f32`, or `text=f32,unet=bf16,vae=f32` as it is typed; `, w8a8` where the UNet is int8.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            text_encoder: text,
            unet,
            vae,
            quant,
        } = self;
        match text == unet && unet == vae {
            true => f.write_str(unet.name())?,
            false => {
                let [text, unet, vae] = [text, unet, vae].map(|dtype| dtype.name());
                write!(f, "text={text},unet={unet},vae={vae}")?;
            }
        }
        match quant {
            Some(scheme) => write!(f, ", {}", scheme.name()),
            None => Ok(()),
        }
    }
}

impl Default for Precision {
    fn default() -> Self {
        Self::all(Dtype::F32)
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains('=') {
            return text.parse().map(Self::all);
        }
        let mut precision = Self::default();
        for part in text.split(',') {
            let (component, dtype) = part
                .split_once('=')
                .ok_or_else(|| format!("`{part}` in `{text}` is not COMPONENT=TYPE"))?;
            let slot = match component.trim() {
                "text" | "text_encoder" => &mut precision.text_encoder,
                "unet" => &mut precision.unet,
                "vae" => &mut precision.vae,
                other => return Err(format!("`{other}` is not a component: text, unet or vae")),
            };
            *slot = dtype.trim().parse()?;
        }
        Ok(precision)
    }
}

impl Request {
    /// A request for `prompt` with the given size, steps and guidance; the rest as diffusers has it.
    pub fn new(model: &str, prompt: &str, size: Size, steps: usize, guidance: f64) -> Self {
        Self {
            model: model.to_owned(),
            prompt: prompt.to_owned(),
            prompt_2: None,
            negative: None,
            negative_2: None,
            long_prompt: false,
            width_px: size.width_px,
            height_px: size.height_px,
            steps,
            guidance,
            guidance_rescale: 0.0,
            clip_skip: None,
            seed: 0,
            count: 1,
            scheduler: None,
            timestep_spacing: None,
            original_size: None,
            crop: (0, 0),
            target_size: None,
            init_image: None,
            rng: Rng::default(),
            precision: Precision::default(),
            vae_tile: None,
        }
    }

    /// Whether classifier-free guidance runs the UNet twice.
    pub fn guided(&self) -> bool {
        self.guidance > 1.0
    }

    /// Height and width of its latents under a VAE of `factor` pixels a latent; an error if a latent
    /// would not be whole.
    pub fn latent_size(&self, factor: usize) -> Result<[usize; 2]> {
        for (option, px) in [("--width", self.width_px), ("--height", self.height_px)] {
            if !px.is_multiple_of(factor) {
                let (below, above) = (px / factor * factor, px.div_ceil(factor) * factor);
                let near = match below {
                    0 => above.to_string(),
                    _ => format!("{below} or {above}"),
                };
                return Err(Error::Request(format!(
                    "{option} {px} is not a multiple of {factor}, as this model needs: take {near}"
                )));
            }
        }
        Ok([self.height_px / factor, self.width_px / factor])
    }

    /// Refuses what no model could do. What depends on the model (its size step, its clip depth) is
    /// checked when the pipeline meets it.
    pub fn validate(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::Request(text));
        if self.steps == 0 {
            return wrong("--steps 0 would leave pure noise: give at least 1".into());
        }
        if self.count == 0 {
            return wrong("--count 0 asks for no image: give at least 1".into());
        }
        if self.seed.checked_add(self.count as u64 - 1).is_none() {
            return wrong(format!(
                "--seed {} with --count {} runs past the largest seed",
                self.seed, self.count
            ));
        }
        for (name, value) in [
            ("--guidance", self.guidance),
            ("--guidance-rescale", self.guidance_rescale),
        ] {
            if !value.is_finite() || value < 0.0 {
                return wrong(format!("{name} {value} is not a number from 0 up"));
            }
        }
        if self.guidance_rescale > 1.0 {
            return wrong(format!(
                "--guidance-rescale {} is above 1",
                self.guidance_rescale
            ));
        }
        if self.count > MAX_COUNT {
            return wrong(format!(
                "--count {} is too many: at most {MAX_COUNT} at once",
                self.count
            ));
        }
        for (option, px) in [("--width", self.width_px), ("--height", self.height_px)] {
            if px > MAX_EDGE_PX {
                return wrong(format!("{option} {px} is too large: at most {MAX_EDGE_PX}"));
            }
        }
        if self.width_px == 0 || self.height_px == 0 {
            return wrong(format!(
                "an image of {}x{} has no pixels",
                self.height_px, self.width_px
            ));
        }
        for (name, size) in [
            ("--original-size", self.original_size),
            ("--target-size", self.target_size),
        ] {
            if size.is_some_and(|s| s.height_px == 0 || s.width_px == 0) {
                return wrong(format!("{name} has a zero"));
            }
        }
        if self.vae_tile.is_some_and(|tile| tile < MIN_TILE) {
            return wrong(format!(
                "--vae-tile is below {MIN_TILE} latents: seams would show"
            ));
        }
        if let Some(init) = &self.init_image
            && !(init.strength > 0.0 && init.strength <= 1.0)
        {
            return wrong(format!(
                "--strength {} is not above 0 and at most 1",
                init.strength
            ));
        }
        Ok(())
    }
}
