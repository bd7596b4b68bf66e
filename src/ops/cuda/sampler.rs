//! What a denoising step does besides the network. Its numbers are a tensor, so that a captured step serves all.

use candle_core::{DType, Result, Tensor};

use super::{dense, device, empty, int, pointer, pointer_or_null};
use crate::cuda::launch;

/// Latents in float32 → as the network takes them, for each of `rows` rows of conditioning: [B, ..] → [rows·B, ..].
pub fn model_input(latents: &Tensor, numbers: &Tensor, rows: usize) -> Result<Tensor> {
    if latents.dtype() != DType::F32 || numbers.elem_count() != launch::STEP_NUMBERS {
        candle_core::bail!("latents in {:?}, not float32", latents.dtype())
    }
    let latents = dense(latents)?;
    let mut dims = latents.dims().to_vec();
    dims[0] *= rows;
    let out = empty(dims, DType::F32, &latents)?;
    let parameters = launch::ModelInput {
        latents: pointer(&latents)?,
        numbers: pointer(numbers)?,
        out: pointer(&out)?,
        count: int(latents.elem_count())?,
        rows: int(rows)?,
    };
    let plan = launch::launch_model_input(&parameters);
    // SAFETY: `count` values in, `rows` times as many out, and a step's numbers.
    unsafe { crate::cuda::launch(device(&latents)?, &parameters, plan) }?;
    Ok(out)
}

/// What a step reads, all in float32 and alike but for `output`, which has a part for each row of conditioning.
pub struct SamplerStep<'a> {
    pub latents: &'a Tensor,
    pub output: &'a Tensor,
    pub previous_x0: &'a Tensor,
    pub noise: Option<&'a Tensor>,
    /// [`launch::STEP_NUMBERS`] of them.
    pub numbers: &'a Tensor,
}

/// Guidance and a sampler's step: the next latents, x0, and two words: the largest magnitude of the former, as bits, and
/// how many are not finite.
pub fn sampler_step(step: &SamplerStep) -> Result<[Tensor; 3]> {
    let latents = dense(step.latents)?;
    let (output, previous_x0) = (dense(step.output)?, dense(step.previous_x0)?);
    let noise = step.noise.map(dense).transpose()?;
    let count = latents.elem_count();
    let rows = output.elem_count() / count.max(1);
    let like = |x: &Tensor| x.dtype() == DType::F32 && x.elem_count() == count;
    if !like(&latents)
        || !like(&previous_x0)
        || !noise.as_ref().is_none_or(like)
        || output.elem_count() != rows * count
        || output.dtype() != DType::F32
        || step.numbers.elem_count() != launch::STEP_NUMBERS
    {
        candle_core::bail!(
            "a sampler's step of {:?} from {:?}",
            latents.dims(),
            output.dims()
        )
    }
    let next = empty(latents.shape(), DType::F32, &latents)?;
    let x0 = empty(latents.shape(), DType::F32, &latents)?;
    let sentinel = Tensor::zeros(2, DType::U32, latents.device())?;
    let parameters = launch::SamplerStep {
        latents: pointer(&latents)?,
        output: pointer(&output)?,
        previous_x0: pointer(&previous_x0)?,
        noise: pointer_or_null(noise.as_ref())?,
        numbers: pointer(step.numbers)?,
        next: pointer(&next)?,
        x0: pointer(&x0)?,
        sentinel: pointer(&sentinel)?,
        count: int(count)?,
        rows: int(rows)?,
    };
    let plan = launch::launch_sampler_step(&parameters);
    // SAFETY: checked above; a launch without noise is of steps whose coefficient of it is 0.
    unsafe { crate::cuda::launch(device(&latents)?, &parameters, plan) }?;
    Ok([next, x0, sentinel])
}
