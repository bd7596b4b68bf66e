//! The sentinel behind every stage: no NaN and no infinity goes on.

use candle_core::{CpuStorage, DType, Storage, Tensor};

use crate::error::{Error, Result};
use crate::observe::Stage;

/// An error that names the stage, if a value is NaN or infinite.
pub fn check_finite(stage: Stage, tensor: &str, value: &Tensor) -> Result<()> {
    none_not_finite(stage, tensor, not_finite(value)?)
}

/// The same, once they are counted.
pub fn none_not_finite(stage: Stage, tensor: &str, bad: usize) -> Result<()> {
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
        way_out: format!(
            "half precision overflows in some models: try --dtype {component}=bf16 or \
             {component}=f32; if it is f32 already, the checkpoint's weights are damaged or the \
             guidance is far too high"
        ),
    })
}

/// How many values are NaN or infinite; looked for where they lie.
pub fn not_finite(value: &Tensor) -> candle_core::Result<usize> {
    #[cfg(feature = "cuda")]
    if value.device().is_cuda() {
        return crate::ops::not_finite(value);
    }
    let count = |values: &[f32]| values.iter().filter(|v| !v.is_finite()).count();
    let value = value.to_dtype(DType::F32)?;
    let (storage, layout) = value.storage_and_layout();
    if let (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) =
        (&*storage, layout.contiguous_offsets())
    {
        return Ok(count(&values[start..end]));
    }
    drop(storage);
    Ok(count(&value.flatten_all()?.to_vec1::<f32>()?))
}
