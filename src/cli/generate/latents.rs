//! `--latents`: initial noise from a file.

use std::path::Path;

use crate::config::VaeConfig;
use crate::error::{Error, Result};
use crate::image_file::{read, sha256_hex};
use crate::request::Request;
use candle_core::safetensors::SliceSafetensors;
use candle_core::{DType, Device, Tensor};

/// The tensor that the file must hold.
const NAME: &str = "latents";

/// Noise read from a file.
pub struct Noise {
    /// [B, C, h, w], float32, on the CPU.
    pub latents: Tensor,
    /// SHA-256 of the file.
    pub sha256: String,
}

impl Noise {
    /// Reads the tensor `latents` (f32, f16 or bf16, rank 4, finite).
    pub fn read(path: &Path) -> Result<Self> {
        let wrong = |problem: String| Error::file(path, problem);
        let file = read(path)?;
        let tensors = SliceSafetensors::new(&file)
            .map_err(|e| wrong(format!("not a whole safetensors file: {e}")))?;
        let Ok(view) = tensors.get(NAME) else {
            let mut names: Vec<_> = tensors
                .tensors()
                .into_iter()
                .map(|(name, _)| name)
                .collect();
            names.sort();
            return Err(wrong(match names.is_empty() {
                true => format!("holds no tensor `{NAME}`, nor any other"),
                false => format!("holds no tensor `{NAME}`, but {}", names.join(", ")),
            }));
        };
        let (dtype, shape) = (format!("{:?}", view.dtype()), view.shape().to_vec());
        if !["F32", "F16", "BF16"].contains(&dtype.as_str()) {
            return Err(wrong(format!(
                "`{NAME}` is {dtype}; F32, F16 and BF16 are read"
            )));
        }
        if shape.len() != 4 || shape.contains(&0) {
            return Err(wrong(format!(
                "`{NAME}` is {shape:?}; [B, 4, H/8, W/8] is needed"
            )));
        }
        let latents = tensors.load(NAME, &Device::Cpu)?.to_dtype(DType::F32)?;
        let bad = latents
            .flatten_all()?
            .to_vec1::<f32>()?
            .iter()
            .filter(|v| !v.is_finite())
            .count();
        if bad > 0 {
            return Err(wrong(format!("{bad} values of `{NAME}` are not finite")));
        }
        Ok(Self {
            latents,
            sha256: sha256_hex(&file),
        })
    }

    /// Rows, one an image.
    pub fn rows(&self) -> usize {
        self.latents.dims()[0]
    }

    /// Row `row` alone.
    pub fn only(self, path: &Path, row: usize) -> Result<Self> {
        if row >= self.rows() {
            return Err(Error::file(
                path,
                format!("`{NAME}` has {} rows; row {row} is asked for", self.rows()),
            ));
        }
        Ok(Self {
            latents: self.latents.narrow(0, row, 1)?,
            ..self
        })
    }

    /// The shape must be what the request and the model's VAE make of it.
    pub fn fits(&self, path: &Path, request: &Request, vae: &VaeConfig) -> Result<()> {
        let Request {
            count,
            height_px,
            width_px,
            ..
        } = *request;
        let [h, w] = request.latent_size(vae.factor())?;
        let needed = [count, vae.latent_channels, h, w];
        match self.latents.dims() == needed {
            true => Ok(()),
            false => Err(Error::file(
                path,
                format!(
                    "`{NAME}` is {:?}; {count} image(s) of {height_px}x{width_px} (height x width) \
                     need {needed:?}",
                    self.latents.dims()
                ),
            )),
        }
    }
}
