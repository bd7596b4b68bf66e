//! The loop: latents, step by step, from noise to image.

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::finite::check_finite;
use crate::guidance::guide;
use crate::observe::{Event, Observer, Stage, step};
use crate::rng::NoiseSource;
use crate::scheduler::{Schedule, Step};
use crate::unet::Steps;

/// How predictions are guided.
#[derive(Clone, Copy, Debug)]
pub struct Guidance {
    /// Scale; the prepared conditioning holds a negative row where it is above 1 and the network
    /// does not embed it.
    pub scale: f64,
    /// Share of the rescaled prediction.
    pub rescale: f64,
}

/// One generator per image, so that an image does not depend on its neighbours in the batch.
pub type Noise = Vec<Box<dyn NoiseSource>>;

/// Noise like `like` [B, C, h, w], a row from each generator.
pub fn draw(noise: &mut Noise, like: &[usize], device: &candle_core::Device) -> Result<Tensor> {
    let row: usize = like[1..].iter().product();
    let values: Vec<f32> = noise
        .iter_mut()
        .flat_map(|source| source.randn(row))
        .collect();
    Ok(Tensor::from_vec(values, like, device)?)
}

/// Runs all steps of `schedule`: latents [B, L, h, w] of the first step's noise level → clean ones.
///
/// The conditioning has one row (positive), or two (negative, positive) where guidance is applied here.
pub fn denoise(
    mut unet: Steps,
    schedule: &Schedule,
    guidance: Guidance,
    mut latents: Tensor,
    noise: &mut Noise,
    observer: &mut dyn Observer,
) -> Result<Tensor> {
    let mut previous_x0 = None;
    for (index, at) in schedule.steps.iter().enumerate() {
        latents = step(observer, Stage::Denoise, index, |observer| {
            let input = (&latents * at.input_scale)?;
            let output = predict(&mut unet, &input, at.timestep, guidance)?;
            let fresh = match at.next.noise {
                0.0 => None,
                _ => Some(draw(noise, latents.dims(), latents.device())?),
            };
            let next = advance(at, &latents, &output, &mut previous_x0, fresh)?;
            observer.on(Event::Tensor {
                name: &format!("latents_{index:03}"),
                value: &next,
            })?;
            let name = format!("latents of step {}", index + 1);
            check_finite(Stage::Denoise, &name, &next)?;
            Ok(next)
        })?;
    }
    Ok(latents)
}

/// The network's output for latents [B, L, h, w], guided where there are two rows to guide between.
fn predict(
    unet: &mut Steps,
    latents: &Tensor,
    timestep: f64,
    guidance: Guidance,
) -> Result<Tensor> {
    if unet.rows() != 2 {
        return unet.forward(latents, timestep);
    }
    let doubled = Tensor::cat(&[latents, latents], 0)?; // [2B, L, h, w]
    let both = unet.forward(&doubled, timestep)?.chunk(2, 0)?;
    guide(&both[0], &both[1], guidance.scale, guidance.rescale)
}

/// Applies a step's coefficients: latents and model output [B, L, h, w] → the next latents.
fn advance(
    step: &Step,
    latents: &Tensor,
    output: &Tensor,
    previous_x0: &mut Option<Tensor>,
    noise: Option<Tensor>,
) -> Result<Tensor> {
    let mut x0 = combine(&[(step.x0[0], Some(latents)), (step.x0[1], Some(output))])?;
    if let Some(limit) = step.clamp_x0 {
        x0 = x0.clamp(-limit, limit)?;
    }
    let next = combine(&[
        (step.next.latents, Some(latents)),
        (step.next.model_output, Some(output)),
        (step.next.x0, Some(&x0)),
        (step.next.previous_x0, previous_x0.as_ref()),
        (step.next.noise, noise.as_ref()),
    ])?;
    *previous_x0 = Some(x0);
    Ok(next)
}

/// The sum of the tensors that are there and whose coefficient is not 0.
fn combine(terms: &[(f64, Option<&Tensor>)]) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    let mut like = None;
    for (coefficient, tensor) in terms.iter().filter_map(|(c, t)| t.map(|t| (*c, t))) {
        like.get_or_insert(tensor);
        if coefficient != 0.0 {
            let term = (tensor * coefficient)?;
            sum = Some(match sum {
                Some(sum) => (sum + term)?,
                None => term,
            });
        }
    }
    match (sum, like) {
        (Some(sum), _) => Ok(sum),
        (None, Some(like)) => Ok(like.zeros_like()?),
        (None, None) => Err(Error::Tensor(candle_core::Error::Msg(
            "a sum of nothing".into(),
        ))),
    }
}
