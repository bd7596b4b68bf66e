//! The loop: latents, step by step, from noise to image.
//!
//! A step on a GPU is in `gpu.rs`: the same sums, in two kernels beside the network.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::finite::{Seen, seen};
use crate::guidance::guide;
use crate::observe::{Event, Observer, Stage, step};
use crate::rng::NoiseSource;
use crate::scheduler::{Schedule, Step};
use crate::unet::{Prepared, Unet};

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

/// The network, and what does not change over a run's steps.
pub struct Model<'a> {
    /// The network.
    pub unet: &'a Unet,
    /// Its conditioning: one row (positive), or two (negative, positive) where guidance is applied here.
    pub prepared: &'a Prepared,
    /// How predictions are guided.
    pub guidance: Guidance,
    /// Whether a step is captured as a CUDA graph ([`crate::device::check_cuda_graph`]).
    pub cuda_graph: bool,
}

/// What a step leaves to the next.
struct State {
    /// [B, L, h, w], float32.
    latents: Tensor,
    /// The clean sample that the step predicted; the first step has none before it.
    x0: Option<Tensor>,
}

/// Runs all steps of `schedule`: latents [B, L, h, w] of the first step's noise level → clean ones.
pub fn denoise(
    model: &Model,
    schedule: &Schedule,
    latents: Tensor,
    noise: &mut Noise,
    observer: &mut dyn Observer,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    let mut on_gpu = gpu::Sampler::new(model, schedule);
    let mut state = State { latents, x0: None };
    for (index, at) in schedule.steps.iter().enumerate() {
        state = step(observer, Stage::Denoise, index, |observer| {
            let latents = &state.latents;
            let fresh = match at.next.noise {
                0.0 => None,
                _ => Some(draw(noise, latents.dims(), latents.device())?),
            };
            #[cfg(feature = "cuda")]
            let (next, seen) = match latents.device().is_cuda() {
                true => on_gpu.step(at, &state, fresh)?,
                false => model.step(at, &state, fresh)?,
            };
            #[cfg(not(feature = "cuda"))]
            let (next, seen) = model.step(at, &state, fresh)?;
            observer.on(Event::Tensor {
                name: &format!("latents_{index:03}"),
                value: &next.latents,
            })?;
            seen.check(Stage::Denoise, &format!("latents of step {}", index + 1))?;
            Ok(next)
        })?;
    }
    Ok(state.latents)
}

impl Model<'_> {
    /// The state after the step, and what was seen of its latents.
    fn step(&self, at: &Step, state: &State, noise: Option<Tensor>) -> Result<(State, Seen)> {
        let input = (&state.latents * at.input_scale)?;
        let output = self.predict(&input, at.timestep)?;
        let next = advance(at, state, &output, noise)?;
        let seen = seen(&next.latents)?;
        Ok((next, seen))
    }

    /// The network's output for latents [B, L, h, w], guided where there are two rows to guide between.
    fn predict(&self, latents: &Tensor, timestep: f64) -> Result<Tensor> {
        if self.prepared.rows() != 2 {
            return self.unet.forward(latents, timestep, self.prepared);
        }
        let doubled = Tensor::cat(&[latents, latents], 0)?; // [2B, L, h, w]
        let both = self.unet.forward(&doubled, timestep, self.prepared)?;
        let both = both.chunk(2, 0)?;
        guide(
            &both[0],
            &both[1],
            self.guidance.scale,
            self.guidance.rescale,
        )
    }
}

/// Applies a step's coefficients to the model's output [B, L, h, w].
fn advance(step: &Step, state: &State, output: &Tensor, noise: Option<Tensor>) -> Result<State> {
    let latents = &state.latents;
    let mut x0 = combine(&[(step.x0[0], Some(latents)), (step.x0[1], Some(output))])?;
    if let Some(limit) = step.clamp_x0 {
        x0 = x0.clamp(-limit, limit)?;
    }
    let next = combine(&[
        (step.next.latents, Some(latents)),
        (step.next.model_output, Some(output)),
        (step.next.x0, Some(&x0)),
        (step.next.previous_x0, state.x0.as_ref()),
        (step.next.noise, noise.as_ref()),
    ])?;
    Ok(State {
        latents: next,
        x0: Some(x0),
    })
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
