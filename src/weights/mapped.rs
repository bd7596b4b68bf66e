//! Weights in safetensors files, memory-mapped, given to the networks tensor by tensor.

use std::collections::HashMap;

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};

use super::folder::{Bytes, Folder};
use super::values::{self, Fill, Kept, TASK, store};
use crate::error::{Error, Result};
use crate::ops::{OUTPUTS_LAST, Turn, vectorised};

/// Where one tensor's bytes lie.
#[derive(Clone, Debug)]
struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: std::ops::Range<usize>,
}

/// The memory-mapped tensors of a component.
#[derive(Default)]
pub struct Mapped {
    files: Vec<(String, Bytes)>,
    entries: HashMap<String, Entry>,
}

impl Mapped {
    /// Adds the tensors of a file.
    pub fn add(&mut self, folder: &Folder, name: &str) -> Result<()> {
        let (place, bytes) = (folder.describe(name), folder.map(name)?);
        let data = bytes.as_ref();
        let wrong = |what: String| {
            Error::checkpoint(&place, format!("not a whole safetensors file: {what}"))
        };
        let tensors = SafeTensors::deserialize(data).map_err(|e| wrong(e.to_string()))?;
        for (name, view) in tensors.iter() {
            let start = view.data().as_ptr() as usize - data.as_ptr() as usize;
            let entry = Entry {
                file: self.files.len(),
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                range: start..start + view.data().len(),
            };
            self.entries.insert(name.to_owned(), entry);
        }
        self.files.push((place, bytes));
        Ok(())
    }

    /// Name, type, shape and bytes of each tensor, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, Dtype, &[usize], &[u8])> + Clone {
        let mut names: Vec<_> = self.entries.keys().map(String::as_str).collect();
        names.sort_unstable();
        names.into_iter().map(|name| {
            let entry = &self.entries[name];
            let bytes = &self.files[entry.file].1.as_ref()[entry.range.clone()];
            (name, entry.dtype, entry.shape.as_slice(), bytes)
        })
    }

    /// A tensor of whatever shape, on the CPU.
    pub fn whole(&self, name: &str, dtype: DType) -> Result<Tensor> {
        self.read(name, None, dtype, &Device::Cpu)
    }

    /// The first of its files, for errors.
    pub fn place(&self) -> &str {
        self.files.first().map_or("(no file)", |(place, _)| place)
    }

    fn read(
        &self,
        name: &str,
        shape: Option<&[usize]>,
        to: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let (name, outputs_last) = plain(name);
        let Some(entry) = self.entries.get(name) else {
            return Err(Error::checkpoint(
                self.place(),
                format!("tensor `{name}` is missing; the config asks for it"),
            ));
        };
        let (place, bytes) = &self.files[entry.file];
        if let Some(shape) = shape
            && shape != entry.shape
        {
            return Err(Error::checkpoint(
                place,
                format!(
                    "tensor `{name}` is {:?}, the config asks for {shape:?}",
                    entry.shape
                ),
            ));
        }
        let data = &bytes.as_ref()[entry.range.clone()];
        match (entry.dtype, to) {
            // Integers keep their bytes.
            (Dtype::I8, DType::U8) => {
                return Ok(Tensor::from_raw_buffer(data, to, &entry.shape, device)?);
            }
            (Dtype::I8, _) => {
                return Err(Error::checkpoint(
                    place,
                    format!("tensor `{name}` is int8, and its scales are missing"),
                ));
            }
            (other, DType::U8) => {
                return Err(Error::checkpoint(
                    place,
                    format!("tensor `{name}` is {other:?} and has scales, which belong to int8"),
                ));
            }
            _ => {}
        }
        let turn = outputs_last.then(|| Turn::of(&entry.shape)).transpose()?;
        let shape = match turn {
            Some(_) => Turn::shape(&entry.shape),
            None => entry.shape.clone(),
        };
        let read = match entry.dtype {
            Dtype::F32 => {
                let (stored, widen) = (data.as_chunks().0, from_f32 as _);
                values::tensor(
                    &Stored {
                        stored,
                        widen,
                        turn,
                    },
                    shape,
                    to,
                    device,
                )
            }
            Dtype::F16 => {
                let (stored, widen) = (data.as_chunks().0, from_f16 as _);
                values::tensor(
                    &Stored {
                        stored,
                        widen,
                        turn,
                    },
                    shape,
                    to,
                    device,
                )
            }
            Dtype::BF16 => {
                let (stored, widen) = (data.as_chunks().0, from_bf16 as _);
                values::tensor(
                    &Stored {
                        stored,
                        widen,
                        turn,
                    },
                    shape,
                    to,
                    device,
                )
            }
            other => {
                return Err(Error::checkpoint(
                    place,
                    format!("tensor `{name}` is {other:?}; f32, f16 and bf16 are read"),
                ));
            }
        };
        Ok(read?)
    }
}

/// A tensor's own name, and whether its outputs are to be side by side.
fn plain(name: &str) -> (&str, bool) {
    match name.strip_suffix(OUTPUTS_LAST) {
        Some(plain) => (plain, true),
        None => (name, false),
    }
}

/// A tensor's values as a file holds them, of `N` bytes each and at any address.
struct Stored<'a, const N: usize> {
    stored: &'a [[u8; N]],
    widen: fn(&[[u8; N]], &mut [f32]),
    turn: Option<Turn>,
}

impl<const N: usize> Fill for Stored<'_, N>
where
    [u8; N]: Default,
{
    fn fill<T: Kept>(&self, out: &mut [T]) {
        let convert = |stored: &[[u8; N]], out: &mut [T]| {
            vectorised(|| {
                store(out, |at, values| {
                    (self.widen)(&stored[at..][..values.len()], values);
                });
            });
        };
        match self.turn {
            Some(turn) => turn.fill(self.stored, out, convert),
            None => out
                .par_chunks_mut(TASK)
                .zip(self.stored.par_chunks(TASK))
                .for_each(|(out, stored)| convert(stored, out)),
        }
    }
}

fn from_f32(stored: &[[u8; 4]], values: &mut [f32]) {
    for (value, &bytes) in values.iter_mut().zip(stored) {
        *value = f32::from_le_bytes(bytes);
    }
}

fn from_bf16(stored: &[[u8; 2]], values: &mut [f32]) {
    for (value, &bytes) in values.iter_mut().zip(stored) {
        *value = f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
    }
}

/// By the processor's own instruction, which takes aligned values.
fn from_f16(stored: &[[u8; 2]], values: &mut [f32]) {
    let mut halves = [f16::ZERO; 256];
    for (values, stored) in values.chunks_mut(256).zip(stored.chunks(256)) {
        let halves = &mut halves[..values.len()];
        for (half, &bytes) in halves.iter_mut().zip(stored) {
            *half = f16::from_le_bytes(bytes);
        }
        halves.convert_to_f32_slice(values);
    }
}

impl SimpleBackend for Mapped {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.read(name, Some(shape.dims()), dtype, device)
            .map_err(carry)
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.read(name, None, dtype, device).map_err(carry)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.entries.contains_key(plain(name).0)
    }
}

/// Our error inside candle's; `From<candle_core::Error> for Error` takes it out again.
fn carry(error: Error) -> candle_core::Error {
    candle_core::Error::WrappedContext {
        wrapped: Box::new(error),
        context: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use candle_nn::VarBuilder;

    use super::*;

    /// A file that holds `weight`, one byte off any alignment, and the tensor itself.
    fn file(dtype: DType, shape: &[usize]) -> (Mapped, Tensor) {
        let weight = Tensor::randn(0f32, 1.0, shape, &Device::Cpu)
            .and_then(|t| t.to_dtype(dtype))
            .expect("numbers");
        let mut bytes = safetensors::serialize([("weight", &weight)], None).expect("sound");
        let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight"));
        bytes.splice(..8, (header + 1).to_le_bytes());
        bytes.insert(8 + header as usize, b' ');
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("x.safetensors"), bytes).expect("room for it");
        let mut mapped = Mapped::default();
        let folder = Folder::Disk(folder.path().to_owned());
        mapped.add(&folder, "x.safetensors").expect("a sound file");
        (mapped, weight)
    }

    fn flat(tensor: &Tensor) -> Vec<f32> {
        let tensor = tensor.flatten_all().and_then(|t| t.to_dtype(DType::F32));
        tensor.and_then(|t| t.to_vec1()).expect("of numbers")
    }

    #[test]
    fn any_type_is_read_as_any_in_either_order() {
        let shape = [37, 600, 1, 3];
        let types = [DType::F32, DType::F16, DType::BF16];
        for from in types {
            for to in types {
                let (mapped, weight) = file(from, &shape);
                let vb = VarBuilder::from_backend(Box::new(mapped), to, Device::Cpu);
                let want = weight.to_dtype(to).expect("a number type");
                let got = vb.get(&shape, "weight").expect("it is there");
                assert_eq!((got.dtype(), got.dims()), (to, &shape[..]));
                assert_eq!(flat(&got), flat(&want), "{from:?} as {to:?}");

                let turned = format!("weight{OUTPUTS_LAST}");
                assert!(vb.contains_tensor(&turned));
                let got = vb.get(&shape, &turned).expect("it is there");
                assert_eq!((got.dtype(), got.dims()), (to, &[1, 3, 600, 37][..]));
                let want = want.permute((2, 3, 1, 0)).expect("four dimensions");
                assert_eq!(flat(&got), flat(&want), "{from:?} as {to:?}, turned");
            }
        }
    }
}
