//! `--dump`: what a run computed, as safetensors.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::observe::{Event, Observer};
use candle_core::{DType, Device, Tensor};

use super::whole_file;

/// Observer that keeps every named tensor of a run, in float32 on the host.
#[derive(Default)]
pub struct Dump(BTreeMap<String, Tensor>);

impl Dump {
    /// Writes the tensors as one safetensors file, under their names.
    pub fn write(&self, path: &Path, force: bool) -> Result<()> {
        whole_file::write_with(path, force, |file| {
            let tensors = self
                .0
                .iter()
                .map(|(name, tensor)| (name.as_str(), tensor.clone()));
            candle_core::safetensors::save(&tensors.collect(), file.path())
                .map_err(|e| Error::file(path, format!("not written: {e}")))
        })
    }
}

impl Observer for Dump {
    fn on(&mut self, event: Event<'_>) -> Result<()> {
        if let Event::Tensor { name, value } = event {
            // Cast where it lies, then a deep copy: the run may reuse the buffer.
            let value = value
                .to_dtype(DType::F32)?
                .to_device(&Device::Cpu)?
                .force_contiguous()?;
            self.0.insert(name.to_owned(), value);
        }
        Ok(())
    }
}
