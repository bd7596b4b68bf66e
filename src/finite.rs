//! The sentinel behind every stage: no NaN and no infinity goes on.

use candle_core::{CpuStorage, DType, Storage, Tensor};

use crate::error::{Error, Result};
use crate::observe::Stage;

/// What was seen of a tensor's values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// How many are NaN or infinite.
    pub bad: usize,
    /// The largest magnitude of the others.
    pub largest: f32,
}

/// An error that names the stage, if a value is NaN or infinite.
pub fn check_finite(stage: Stage, tensor: &str, value: &Tensor) -> Result<()> {
    seen(value)?.check(stage, tensor)
}

impl Seen {
    /// An error that names the stage, if a value was NaN or infinite.
    pub fn check(self, stage: Stage, tensor: &str) -> Result<()> {
        let Self { bad, largest } = self;
        if bad == 0 {
            return Ok(());
        }
        let component = match stage {
            Stage::TextEncode => "text",
            Stage::VaeEncode | Stage::VaeDecode => "vae",
            _ => "unet",
        };
        Err(Error::NotFinite {
            stage,
            tensor: tensor.to_owned(),
            bad,
            largest,
            way_out: format!(
                "half precision overflows in some models: try --dtype {component}=bf16 or \
                 {component}=f32; if it is f32 already, the checkpoint's weights are damaged or the \
                 guidance is far too high"
            ),
        })
    }
}

/// Looks through all values, where they lie.
pub fn seen(value: &Tensor) -> candle_core::Result<Seen> {
    #[cfg(feature = "cuda")]
    if value.device().is_cuda() {
        return crate::ops::seen(value);
    }
    let through = |values: &[f32]| {
        values
            .iter()
            .fold(Seen::default(), |seen, value| match value.is_finite() {
                true => Seen {
                    largest: seen.largest.max(value.abs()),
                    ..seen
                },
                false => Seen {
                    bad: seen.bad + 1,
                    ..seen
                },
            })
    };
    let value = value.to_dtype(DType::F32)?;
    let (storage, layout) = value.storage_and_layout();
    if let (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) =
        (&*storage, layout.contiguous_offsets())
    {
        return Ok(through(&values[start..end]));
    }
    drop(storage);
    Ok(through(&value.flatten_all()?.to_vec1::<f32>()?))
}
