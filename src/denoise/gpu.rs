//! A step on a GPU: two kernels and the network between them, or all of it as one CUDA graph.

use candle_core::{Device, Tensor};

use super::{Model, State};
use crate::cuda::Replay;
use crate::error::{Error, Result};
use crate::finite::Seen;
use crate::guidance::guide;
use crate::ops::{SamplerStep, model_input, sampler_step, told};
use crate::scheduler::{Schedule, Step};

pub struct Sampler<'a> {
    model: &'a Model<'a>,
    /// Whether any of the steps takes fresh noise.
    draws: bool,
    graph: Option<Replay>,
}

impl<'a> Sampler<'a> {
    pub fn new(model: &'a Model, schedule: &Schedule) -> Self {
        Self {
            model,
            draws: schedule.steps.iter().any(|step| step.next.noise != 0.0),
            graph: model.cuda_graph.then(Replay::default),
        }
    }

    /// [`Model::step`].
    pub fn step(
        &mut self,
        at: &Step,
        state: &State,
        noise: Option<Tensor>,
    ) -> Result<(State, Seen)> {
        let latents = &state.latents;
        let device = latents.device();
        // Every step has the same inputs, be it with a coefficient of 0.
        let absent = || latents.zeros_like();
        let previous_x0 = state.x0.clone().map_or_else(absent, Ok)?;
        let noise = match self.draws {
            true => Some(noise.map_or_else(absent, Ok)?),
            false => None,
        };
        let numbers = numbers(at, self.model.guidance.scale, device)?;
        let wave = self.model.unet.wave(at.timestep)?;
        let inputs: Vec<&Tensor> = [latents, &previous_x0, &numbers, &wave]
            .into_iter()
            .chain(&noise)
            .collect();
        let model = self.model;
        let work = |inputs: &[&Tensor]| work(model, inputs).map(Vec::from);
        let results = match &mut self.graph {
            // SAFETY: the network and its conditioning are borrowed for as long as the graph is there.
            Some(graph) => unsafe { graph.run(&inputs, device, work) },
            None => work(&inputs),
        }?;
        let [latents, x0, sentinel] = results.try_into().expect("work gives three");
        // The step's end, for whoever watches: all of it has run once this is here.
        let seen = told(&sentinel)?;
        let x0 = Some(x0);
        Ok((State { latents, x0 }, seen))
    }
}

/// The step's numbers, as launch.h's `StepNumber` has them.
fn numbers(at: &Step, guidance: f64, device: &Device) -> Result<Tensor> {
    let next = &at.next;
    let numbers = [
        at.input_scale,
        guidance,
        at.x0[0],
        at.x0[1],
        at.clamp_x0.unwrap_or(f64::INFINITY),
        next.latents,
        next.model_output,
        next.x0,
        next.previous_x0,
        next.noise,
    ];
    Ok(Tensor::new(&numbers.map(|n| n as f32), device)?)
}

/// [latents, previous x0, numbers, wave, noise where there is any] → [latents, x0, sentinel]. Nothing here waits for the
/// device or depends on the step.
fn work(model: &Model, inputs: &[&Tensor]) -> candle_core::Result<[Tensor; 3]> {
    let [latents, previous_x0, numbers, wave, noise @ ..] = inputs else {
        candle_core::bail!("a step without its inputs")
    };
    let tensor_error = |error| match error {
        Error::Tensor(error) => error,
        other => candle_core::Error::msg(other),
    };
    let input = model_input(latents, numbers, model.prepared.rows())?;
    let mut output = model
        .unet
        .forward_wave(&input, wave, model.prepared)
        .map_err(tensor_error)?;
    let guidance = model.guidance;
    if model.prepared.rows() == 2 && guidance.rescale != 0.0 {
        let both = output.chunk(2, 0)?;
        output =
            guide(&both[0], &both[1], guidance.scale, guidance.rescale).map_err(tensor_error)?;
    }
    sampler_step(&SamplerStep {
        latents,
        output: &output,
        previous_x0,
        noise: noise.first().copied(),
        numbers,
    })
}
