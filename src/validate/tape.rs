//! The twin's latents and pictures, kept on disk: on the heap they would be counted as the model's.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use candle_core::{DType, Tensor};
use image::RgbImage;

use crate::error::{Error, Result};
use crate::observe::{Event, Observer};

/// A temporary file without a name: written by the twin's runs, read by the int8 ones in the same
/// order.
#[derive(Debug)]
pub struct Tape {
    file: File,
}

fn failed(error: std::io::Error) -> Error {
    let place = std::env::temp_dir();
    Error::file(&place, format!("the twin's latents are kept here: {error}"))
}

impl Tape {
    /// An empty one.
    ///
    /// # Errors
    /// The system's folder for temporary files takes none.
    pub fn new() -> Result<Self> {
        let file = tempfile::tempfile().map_err(failed)?;
        Ok(Self { file })
    }

    /// Back to its beginning.
    pub fn rewind(&mut self) -> Result<()> {
        self.file.seek(SeekFrom::Start(0)).map(drop).map_err(failed)
    }

    /// Keeps a picture.
    pub fn keep(&mut self, picture: &RgbImage) -> Result<()> {
        self.file.write_all(picture.as_raw()).map_err(failed)
    }

    /// The twin's picture for one of the same size.
    pub fn picture_like(&mut self, picture: &RgbImage) -> Result<RgbImage> {
        let mut twin = RgbImage::new(picture.width(), picture.height());
        self.file.read_exact(&mut twin).map_err(failed)?;
        Ok(twin)
    }
}

/// The latents that a step left, if the event tells them.
fn latents(event: Event<'_>) -> Result<Option<Vec<f32>>> {
    let Event::Tensor { name, value } = event else {
        return Ok(None);
    };
    let step = name.strip_prefix("latents_").map(str::parse::<usize>);
    match step {
        Some(Ok(_)) => Ok(Some(flat(value)?)),
        _ => Ok(None),
    }
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// Observer that keeps each step's latents.
#[derive(Debug)]
pub struct Keep<'a>(pub &'a mut Tape);

impl Observer for Keep<'_> {
    fn on(&mut self, event: Event<'_>) -> Result<()> {
        let Some(latents) = latents(event)? else {
            return Ok(());
        };
        let bytes: Vec<u8> = latents.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.0.file.write_all(&bytes).map_err(failed)
    }
}

/// Observer that compares each step's latents with the twin's.
#[derive(Debug)]
pub struct Compare<'a> {
    tape: &'a mut Tape,
    /// Of each step so far: ‖latents − twin's‖₂ / ‖twin's‖₂.
    pub drift: Vec<f64>,
}

impl<'a> Compare<'a> {
    /// With the tape's next run.
    pub fn new(tape: &'a mut Tape) -> Self {
        Self {
            tape,
            drift: Vec::new(),
        }
    }
}

impl Observer for Compare<'_> {
    fn on(&mut self, event: Event<'_>) -> Result<()> {
        let Some(latents) = latents(event)? else {
            return Ok(());
        };
        let mut bytes = vec![0; 4 * latents.len()];
        self.tape.file.read_exact(&mut bytes).map_err(failed)?;
        let (chunks, _) = bytes.as_chunks();
        let twin = chunks.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let [off, whole] = latents
            .iter()
            .zip(twin)
            .fold([0.0; 2], |[off, whole], (v, twin)| {
                let (v, twin) = (f64::from(*v), f64::from(twin));
                [off + (v - twin).powi(2), whole + twin.powi(2)]
            });
        self.drift.push((off / whole).sqrt());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn drift_is_measured_against_what_was_kept() -> Result<()> {
        let mut tape = Tape::new()?;
        let tell = |observer: &mut dyn Observer, values: [f32; 4]| {
            let value = Tensor::new(&values, &Device::Cpu)?;
            // Other tensors, the last step's second name among them, are passed over.
            for name in ["context", "latents_000", "latents_final", "pixels"] {
                observer.on(Event::Tensor {
                    name,
                    value: &value,
                })?;
            }
            Ok::<_, Error>(())
        };
        let picture = RgbImage::from_fn(3, 2, |x, y| image::Rgb([x as u8, y as u8, 7]));
        tell(&mut Keep(&mut tape), [3.0, 0.0, 0.0, 4.0])?;
        tape.keep(&picture)?;
        tell(&mut Keep(&mut tape), [1.0; 4])?;
        tape.rewind()?;
        let mut compare = Compare::new(&mut tape);
        tell(&mut compare, [3.0, 1.0, 0.0, 4.0])?;
        assert_eq!(compare.drift, [0.2]);
        assert_eq!(tape.picture_like(&picture)?, picture);
        let mut compare = Compare::new(&mut tape);
        tell(&mut compare, [1.0; 4])?;
        assert_eq!(compare.drift, [0.0]);
        let past = tell(&mut Compare::new(&mut tape), [1.0; 4]);
        assert!(past.is_err(), "the tape is over");
        Ok(())
    }
}
