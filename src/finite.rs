//! The sentinel behind every stage: no NaN and no infinity goes on.

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};
use crate::observe::Stage;

/// An error that names the stage, if a value is NaN or infinite.
pub fn check_finite(stage: Stage, tensor: &str, value: &Tensor) -> Result<()> {
    let values = value
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    let bad = values.iter().filter(|v| !v.is_finite()).count();
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
