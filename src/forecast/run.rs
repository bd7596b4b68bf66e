//! [`crate::pipeline`] and [`crate::denoise`], by shape: stage by stage, the same tensors alive.

use candle_core::DType;

use super::heap::{Heap, Tensor};
use super::launches::Launches;
use super::loader::Loader;
use super::model::{Int8, Model, Tower};
use super::vae::Vae;
use super::{ComponentForecast, Forecast, Processor, StageForecast, clip, unet, vae, vocabulary};
use crate::error::Result;
use crate::observe::Stage;
use crate::pipeline::{schedule_of, vae_dtype};
use crate::request::{Dtype, Request};
use crate::scheduler::{Schedule, Step};
use crate::vae::tile_starts;
use crate::weights::checkpoint::Component;

/// Walks a whole run.
pub fn walk(model: &Model, request: &Request, processor: Processor) -> Result<Forecast> {
    request.validate()?;
    let schedule = schedule_of(&model.scheduler, request)?;
    let run = Run {
        model,
        request,
        schedule: &schedule,
        latents: {
            let [height, width] = request.latent_size(model.vae.factor())?;
            [request.count, model.vae.latent_channels, height, width]
        },
        heap: Heap::new(processor),
        vae: Vae {
            config: &model.vae,
            dtype: vae_dtype(&model.vae, request.precision, processor != Processor::Gpu),
        },
        int8: model.int8(request.precision),
    };
    let vae_type = run.vae.dtype;
    let mut stages = Vec::new();
    let mut resident = 0;
    let mut done = |stage, heap: &Heap| {
        if stage == Stage::Load {
            resident = heap.live();
        }
        let (ops, memory) = heap.take(resident);
        let launches = heap.take_launches();
        let dtype = match stage {
            Stage::Load | Stage::PostProcess => Dtype::F32,
            Stage::TextEncode => request.precision.text_encoder,
            Stage::Denoise => request.precision.unet,
            Stage::VaeEncode | Stage::VaeDecode => match vae_type {
                DType::F32 => Dtype::F32,
                DType::BF16 => Dtype::Bf16,
                _ => request.precision.vae,
            },
        };
        stages.push(StageForecast {
            stage,
            dtype,
            ops,
            memory,
            launches: launches.filter(|_| stage == Stage::Denoise),
        });
    };

    let (components, _weights) = run.load();
    done(Stage::Load, &run.heap);
    let prepared = run.encode_text()?;
    done(Stage::TextEncode, &run.heap);
    let clean = request.init_image.as_ref().map(|_| run.encode_image());
    if clean.is_some() {
        done(Stage::VaeEncode, &run.heap);
    }
    let latents = run.denoise(&prepared, clean.as_ref());
    done(Stage::Denoise, &run.heap);
    drop((prepared, clean)); // `Pipeline::latents` ends here
    let pixels = run.decode(&latents);
    done(Stage::VaeDecode, &run.heap);
    run.post_process(pixels);
    done(Stage::PostProcess, &run.heap);
    Ok(Forecast {
        components,
        stages,
        processor,
    })
}

struct Run<'a> {
    model: &'a Model,
    request: &'a Request,
    schedule: &'a Schedule,
    /// [B, L, h, w]
    latents: [usize; 4],
    heap: Heap,
    vae: Vae<'a>,
    int8: Int8,
}

/// One side of the guidance: context [1, N, C] and pooled [1, P].
struct Conditioning {
    context: Tensor,
    pooled: Tensor,
}

impl Run<'_> {
    /// `Pipeline::load`: what each component holds, and the weights to be held.
    fn load(&self) -> (Vec<ComponentForecast>, Vec<Tensor>) {
        let Model { unet, vae, .. } = self.model;
        let precision = self.request.precision;
        let vocabularies = self.model.towers.iter().map(|tower| &tower.vocabulary);
        let before = self.heap.live();
        for vocabulary in vocabularies {
            self.heap.pass_in_process(vocabulary.loading_bytes());
            self.heap.keep_in_process(vocabulary.bytes());
        }
        let bytes = self.heap.live() - before;
        let mut components = vec![ComponentForecast {
            name: "vocabulary",
            parameters: 0,
            bytes,
        }];
        let mut held = Vec::new();
        let mut add = |loader: Loader, component: Component| {
            let (component, weights) = loader.finish(component.name());
            components.push(component);
            held.extend(weights);
        };
        for tower in &self.model.towers {
            let kept = precision.text_encoder.candle();
            let mut loader = Loader::new(&self.heap, kept);
            clip::load(&tower.config, projects(tower), &mut loader);
            add(loader, tower.component);
        }
        let mut loader = Loader::new(&self.heap, precision.unet.candle());
        unet::load(unet, &self.int8, &mut loader);
        add(loader, Component::Unet);
        let mut loader = Loader::new(&self.heap, self.vae.dtype);
        vae::load(vae, &mut loader);
        add(loader, Component::Vae);
        (components, held)
    }

    /// `Pipeline::encode_text`.
    fn encode_text(&self) -> Result<unet::Prepared> {
        let (config, request) = (&self.model.unet, self.request);
        self.heap
            .keep_in_process(self.model.towers.len() * vocabulary::READING);
        let (positive, negative) = self.guided()?;
        let negative = negative.filter(|_| config.time_cond_proj_dim.is_none());
        let rows: Vec<&Conditioning> = negative.iter().chain([&positive]).collect();
        for side in &rows {
            for value in [&side.context, &side.pooled] {
                Tensor::cat(&vec![value; request.count], 0); // [B, ..], for who watches
            }
        }
        let context: Vec<&Tensor> = rows.iter().map(|row| &row.context).collect();
        let pooled: Vec<&Tensor> = rows.iter().map(|row| &row.pooled).collect();
        let dtype = request.precision.unet.candle();
        let (context, pooled) = (Tensor::cat(&context, 0), Tensor::cat(&pooled, 0));
        Ok(unet::prepare(
            config,
            (dtype, &self.int8),
            &context,
            &pooled,
        ))
    }

    /// `TextStage::encode`.
    fn guided(&self) -> Result<(Conditioning, Option<Conditioning>)> {
        let request = self.request;
        let positive = self.states(request.clip_skip)?;
        let zeros = request.negative.is_none() && self.model.force_zeros_for_empty_prompt;
        let negative = match (request.guided(), zeros) {
            (false, _) => None,
            (true, true) => Some(Conditioning {
                context: positive.context.like(),
                pooled: positive.pooled.like(),
            }),
            // The reference skips layers for the positive side only.
            (true, false) => Some(self.states(None)?),
        };
        Ok((positive, negative))
    }

    /// `TextStage::states` of one chunk.
    fn states(&self, clip_skip: Option<usize>) -> Result<Conditioning> {
        const CHUNKS: usize = 1;
        let dtype = self.request.precision.text_encoder.candle();
        let mut hidden = Vec::new();
        let mut pooled = None;
        for tower in &self.model.towers {
            let form = (projects(tower), dtype);
            let skip = clip_skip.unwrap_or(0);
            let states = clip::forward(&self.heap, &tower.config, form, CHUNKS, skip)?;
            hidden.push(states.hidden.cast(DType::F32));
            pooled = states.pooled.map(|p| p.cast(DType::F32)).or(pooled);
        }
        let hidden: Vec<&Tensor> = hidden.iter().collect();
        Ok(Conditioning {
            context: Tensor::cat(&hidden, 2), // [1, N, C₁ + C₂]
            pooled: pooled.expect("every model has the tower that projects: `text_towers`"),
        })
    }

    /// `Pipeline::encode_image`.
    fn encode_image(&self) -> Tensor {
        let [batch, latent, h, w] = self.latents;
        let factor = self.model.vae.factor();
        let (height, width) = (h * factor, w * factor);
        let bytes = self.heap.tensor([1, height, width, 3], DType::U8);
        let pixels = bytes.cast(DType::F32).view([1, 3, height, width]);
        let pixels = affine(pixels);
        let pixels = affine(pixels).like();
        let posterior = self.vae.encode(&pixels);
        let samples: Vec<Tensor> = (0..batch)
            .map(|_| {
                let _unit = self.heap.tensor([1, latent, h, w], DType::F32);
                posterior.sample()
            })
            .collect();
        let samples: Vec<&Tensor> = samples.iter().collect();
        self.scaled(&Tensor::cat(&samples, 0))
    }

    /// `Vae::scale` and `Vae::unscale`.
    fn scaled(&self, latents: &Tensor) -> Tensor {
        let config = &self.model.vae;
        match config.latents_mean.is_some() && config.latents_std.is_some() {
            true => {
                let first = latents.like();
                let second = first.like();
                second.like()
            }
            false => latents.like(),
        }
    }

    /// The stage and `denoise::denoise`.
    fn denoise(&self, prepared: &unet::Prepared, clean: Option<&Tensor>) -> Tensor {
        let steps = &self.schedule.steps;
        let _timesteps = self.heap.tensor([steps.len()], DType::F32);
        let unit = self.heap.tensor(self.latents, DType::F32); // [B, L, h, w]
        let mut latents = match clean {
            None => affine(unit),
            Some(clean) => {
                let (clean, noise) = (clean.like(), affine(unit));
                sum(clean, noise)
            }
        };
        // The first step has no step before it; all others hold what it left.
        let mut previous_x0 = None;
        for (step, times) in [(&steps[0], 1), (&steps[steps.len() - 1], steps.len() - 1)] {
            if times > 0 {
                let walk = || match self.heap.processor() {
                    Processor::Cpu { .. } => self.step(step, prepared, &latents, &mut previous_x0),
                    Processor::Gpu => self.step_on_gpu(prepared, &latents, &mut previous_x0),
                };
                latents = self.heap.repeated(times, walk);
            }
        }
        for _ in steps {
            self.heap.launch(self.sampler_launches());
        }
        latents
    }

    /// What a step launches besides the network: the model's input, and the sampler with guidance in it.
    fn sampler_launches(&self) -> Launches {
        let guided = self.request.guided() && self.model.unet.time_cond_proj_dim.is_none();
        (!guided || self.request.guidance_rescale == 0.0).then_some(2)
    }

    fn step(
        &self,
        step: &Step,
        prepared: &unet::Prepared,
        latents: &Tensor,
        previous_x0: &mut Option<Tensor>,
    ) -> Tensor {
        let _fresh = (step.next.noise != 0.0).then(|| latents.like());
        let input = latents.like();
        let output = self.predict(&input, prepared);
        let mut x0 = combine(latents);
        if step.clamp_x0.is_some() {
            let above = x0.like();
            x0 = above.like();
        }
        let next = combine(&output);
        *previous_x0 = Some(x0);
        next
    }

    /// `denoise::gpu`: one kernel makes the network's input, one the next latents and x0 of its output.
    fn step_on_gpu(
        &self,
        prepared: &unet::Prepared,
        latents: &Tensor,
        previous_x0: &mut Option<Tensor>,
    ) -> Tensor {
        let _previous_x0 = previous_x0.clone().unwrap_or_else(|| latents.like());
        let steps = &self.schedule.steps;
        let draws = steps.iter().any(|step| step.next.noise != 0.0);
        let _noise = draws.then(|| latents.like());
        let mut dims = latents.dims().to_vec();
        dims[0] *= prepared.rows();
        let input = self.heap.tensor(dims, DType::F32);
        let form = (self.request.precision.unet.candle(), &self.int8);
        let mut output = unet::forward(&self.model.unet, form, &input, prepared);
        if prepared.rows() == 2 && self.request.guidance_rescale != 0.0 {
            let guided = sum(latents.like(), affine(latents.like()));
            let rescaled = latents.like();
            output = sum(affine(rescaled), affine(guided));
        }
        let _output = output;
        let next = latents.like();
        *previous_x0 = Some(latents.like());
        next
    }

    /// `denoise::predict`.
    fn predict(&self, latents: &Tensor, prepared: &unet::Prepared) -> Tensor {
        let config = &self.model.unet;
        let form = (self.request.precision.unet.candle(), &self.int8);
        if prepared.rows() != 2 {
            return unet::forward(config, form, latents, prepared);
        }
        let doubled = Tensor::cat(&[latents, latents], 0); // [2B, L, h, w]
        let both = unet::forward(config, form, &doubled, prepared);
        let guided = sum(both.view(latents.dims()), affine(latents.like()));
        if self.request.guidance_rescale == 0.0 {
            return guided;
        }
        let rescaled = latents.like();
        sum(affine(rescaled), affine(guided))
    }

    /// `Pipeline::decode`: [B, 3, H, W].
    fn decode(&self, latents: &Tensor) -> Tensor {
        let [batch, latent, height, width] = self.latents;
        let factor = self.model.vae.factor();
        let latents = self.scaled(latents);
        let one = latents.view([1, latent, height, width]);
        let tile = self
            .request
            .vae_tile
            .filter(|&tile| tile_starts(height, tile).len() * tile_starts(width, tile).len() > 1);
        // The last image finds all others done.
        let shape = [
            1,
            self.model.vae.out_channels,
            height * factor,
            width * factor,
        ];
        let mut images: Vec<Tensor> = (1..batch)
            .map(|_| self.heap.tensor(shape, DType::F32))
            .collect();
        images.push(self.heap.repeated(batch, || match tile {
            None => self.vae.decode(&one),
            Some(tile) => self.vae.decode_tiled(&one, tile),
        }));
        let images: Vec<&Tensor> = images.iter().collect();
        Tensor::cat(&images, 0)
    }

    /// The last stage: the images in 8 bits stay.
    fn post_process(&self, pixels: Tensor) {
        let [batch, colours, height, width] = pixels.sizes();
        let pixels = {
            let shifted = affine(affine(pixels));
            let above = shifted.like();
            above.like()
        };
        for _ in 0..batch {
            let flat = pixels.heap().tensor([colours, height, width], DType::F32);
            let values = flat.like();
            drop(flat);
            values.heap().keep_in_process(colours * height * width);
        }
    }
}

/// Only the second encoder's projection is used.
fn projects(tower: &Tower) -> bool {
    tower.component == Component::TextEncoder2
}

/// x · a + b, x given away.
fn affine(x: Tensor) -> Tensor {
    x.like()
}

/// a + b, both given away.
fn sum(a: Tensor, b: Tensor) -> Tensor {
    let sum = a.like();
    drop(b);
    sum
}

/// `denoise::combine` of two terms or more.
fn combine(x: &Tensor) -> Tensor {
    let first = x.like();
    sum(first, x.like())
}
