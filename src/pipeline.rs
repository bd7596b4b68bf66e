//! A prompt becomes an image. The file to read first.
//!
//! Four stages: text encode → denoise → VAE decode → post-process. Each owns its weights; the
//! pipeline composes them and tells an [`Observer`] what happens.
//!
//! Source: huggingface/diffusers, `pipelines/stable_diffusion_xl/` (text-to-image and image-to-image).

use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use image::RgbImage;

use crate::conditioning::{Conditioning, TextStage, TextTowerLoader, time_ids};
use crate::config::{UnetConfig, VaeConfig};
use crate::denoise::{Guidance, Model, Noise, denoise, draw};
use crate::device::check_cuda_graph;
use crate::error::{Error, Result};
use crate::finite::check_finite;
use crate::observe::{Event, Observer, Stage, stage, step};
use crate::quant::{OnLoad, Scheme, Stored};
use crate::request::{Dtype, Precision, Request, Rng};
use crate::rng::{Philox, TorchCpu};
use crate::scheduler::{Schedule, ScheduleOptions, SchedulerConfig};
use crate::unet::{Prepared, Unet};
use crate::vae::Vae;
use crate::weights::checkpoint::{Checkpoint, Component};

/// A model in memory, ready to make images.
#[derive(Debug)]
pub struct Pipeline {
    text: TextStage,
    unet: Unet,
    vae: Vae,
    /// The VAE in a type of float32's range, once it has overflowed in float16.
    wide_vae: OnceLock<Vae>,
    scheduler: SchedulerConfig,
    checkpoint: Checkpoint,
    device: Device,
    cuda_graph: bool,
}

/// What a run starts from, besides the request's seed.
#[derive(Debug, Default)]
pub struct Start {
    /// Noise of unit variance to start from, [B, L, H / factor, W / factor].
    pub latents: Option<Tensor>,
    /// The picture to start from, of the request's size.
    pub init_image: Option<RgbImage>,
}

impl Pipeline {
    /// Reads a checkpoint: each component in its number type, on `device`.
    pub fn load(
        checkpoint: &Checkpoint,
        precision: Precision,
        device: &Device,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let towers = text_towers(checkpoint)?;
        let steps = load_steps(checkpoint)?.len();
        stage(observer, Stage::Load, steps, |observer| {
            let scheduler = load_scheduler(checkpoint)?;
            let unet_config = UnetConfig::load(checkpoint.folder(Component::Unet)?)?;
            let vae_config = VaeConfig::load(checkpoint.folder(Component::Vae)?)?;
            check_channels(&unet_config, &vae_config)?;
            let loaders = step(observer, Stage::Load, 0, |_| {
                let read = |tower: &_| TextTowerLoader::new(checkpoint, *tower);
                towers.iter().map(read).collect::<Result<Vec<_>>>()
            })?;
            let mut parts = Vec::new();
            for (i, loader) in loaders.into_iter().enumerate() {
                parts.push(step(observer, Stage::Load, 1 + i, |_| {
                    loader.load(checkpoint, precision.text_encoder.candle(), device)
                })?);
            }
            let unet = step(observer, Stage::Load, steps - 2, |_| {
                let dtype = precision.unet.candle();
                let weights = unet_weights(checkpoint, precision.quant)?;
                let vb = VarBuilder::from_backend(weights, dtype, device.clone());
                Unet::load(unet_config, vb)
            })?;
            let vae = step(observer, Stage::Load, steps - 1, |_| {
                let dtype = vae_dtype(&vae_config, precision, device.is_cpu());
                Vae::load(
                    vae_config,
                    checkpoint.weights(Component::Vae, dtype, device)?,
                )
            })?;
            Ok(Self {
                text: TextStage::new(parts, checkpoint.force_zeros_for_empty_prompt()),
                unet,
                vae,
                wide_vae: OnceLock::new(),
                scheduler,
                checkpoint: checkpoint.clone(),
                device: device.clone(),
                cuda_graph: false,
            })
        })
    }

    /// Lets the denoising step be captured as a CUDA graph from a run's second step on: the same bits, in one launch a
    /// step.
    ///
    /// # Errors
    /// The model is not on a GPU.
    pub fn with_cuda_graph(mut self, wanted: bool) -> Result<Self> {
        check_cuda_graph(&self.device, wanted)?;
        self.cuda_graph = wanted;
        Ok(self)
    }

    /// Makes the request's images.
    pub fn generate(
        &self,
        request: &Request,
        start: Start,
        observer: &mut dyn Observer,
    ) -> Result<Vec<RgbImage>> {
        // On a worker of the pool, from where an operation hands its parts to other workers without
        // putting a thread to sleep: a sixth of a small model's time otherwise.
        rayon::scope(|_| self.run(request, start, observer))
    }

    fn run(
        &self,
        request: &Request,
        start: Start,
        observer: &mut dyn Observer,
    ) -> Result<Vec<RgbImage>> {
        let latents = self.latents(request, start, observer)?; // [B, L, h, w]
        let pixels = self.decode(&latents, request.vae_tile, observer)?; // [B, 3, H, W]
        stage(observer, Stage::PostProcess, 1, |observer| {
            let pixels = ((pixels / 2.0)? + 0.5)?.clamp(0f32, 1f32)?;
            observer.on(Event::Tensor {
                name: "pixels",
                value: &pixels,
            })?;
            (0..request.count)
                .map(|i| to_image(&pixels.get(i)?))
                .collect()
        })
    }

    /// The first two stages: the request's latents [B, L, h, w], clean.
    pub fn latents(
        &self,
        request: &Request,
        start: Start,
        observer: &mut dyn Observer,
    ) -> Result<Tensor> {
        request.validate()?;
        let schedule = self.schedule(request)?;
        let shape = self.latent_shape(request)?;
        let mut noise = self.noise_sources(request);

        let prepared = stage(observer, Stage::TextEncode, 1, |observer| {
            self.encode_text(request, observer)
        })?;
        let clean = match &start.init_image {
            None => None,
            Some(image) => Some(stage(observer, Stage::VaeEncode, 1, |observer| {
                self.encode_image(image, &shape, &mut noise, observer)
            })?),
        };
        let steps = schedule.steps.len();
        let latents = stage(observer, Stage::Denoise, steps, |observer| {
            let timesteps: Vec<f32> = schedule.steps.iter().map(|s| s.timestep as f32).collect();
            let timesteps = Tensor::from_vec(timesteps, steps, &self.device)?;
            observer.on(Event::Tensor {
                name: "timesteps",
                value: &timesteps,
            })?;

            let unit = match start.latents {
                Some(latents) => self.given_latents(latents, &shape)?,
                None => draw(&mut noise, &shape, &self.device)?, // [B, L, h, w]
            };
            let latents = match &clean {
                None => (unit * schedule.init_noise_sigma)?,
                Some(clean) => {
                    let [signal, sigma] = schedule.steps[0].noised;
                    ((clean * signal)? + (unit * sigma)?)?
                }
            };
            let model = Model {
                unet: &self.unet,
                prepared: &prepared,
                guidance: Guidance {
                    scale: request.guidance,
                    rescale: request.guidance_rescale,
                },
                cuda_graph: self.cuda_graph,
            };
            denoise(&model, &schedule, latents, &mut noise, observer)
        })?;
        observer.on(Event::Tensor {
            name: "latents_final",
            value: &latents,
        })?;
        Ok(latents)
    }

    /// What the text encoders will not read of over-long prompts, one line each.
    pub fn prompt_cut(&self, request: &Request) -> Result<Vec<String>> {
        self.text.cut(request)
    }

    /// The steps that the request asks for.
    pub fn schedule(&self, request: &Request) -> Result<Schedule> {
        schedule_of(&self.scheduler, request)
    }

    /// [B, L, h, w] of the request's latents.
    fn latent_shape(&self, request: &Request) -> Result<[usize; 4]> {
        let config = self.vae.config();
        let [height, width] = request.latent_size(config.factor())?;
        Ok([request.count, config.latent_channels, height, width])
    }

    fn noise_sources(&self, request: &Request) -> Noise {
        (0..request.count as u64)
            .map(|i| request.seed + i)
            .map(|seed| match request.rng {
                Rng::Torch => Box::new(TorchCpu::new(seed)) as _,
                Rng::Philox => Box::new(Philox::new(seed)) as _,
            })
            .collect()
    }

    /// Stage 1: prompts → what the UNet needs of them at every step.
    fn encode_text(&self, request: &Request, observer: &mut dyn Observer) -> Result<Prepared> {
        let guided = self.text.encode(request)?;
        // A network that embeds the guidance scale was distilled to need no negative side.
        let embeds_guidance = self.unet.config().time_cond_proj_dim.is_some();
        let negative = guided.negative.as_ref().filter(|_| !embeds_guidance);
        let named = [("", Some(&guided.positive)), ("negative_", negative)];
        for (prefix, side) in named {
            let Some(Conditioning { context, pooled }) = side else {
                continue;
            };
            for (name, value) in [("context", context), ("pooled", pooled)] {
                let name = format!("{prefix}{name}");
                check_finite(Stage::TextEncode, &name, value)?;
                let value = repeat_rows(value, request.count)?; // [B, ..]
                observer.on(Event::Tensor {
                    name: &name,
                    value: &value,
                })?;
            }
        }
        let config = self.unet.config();
        let sizes = config
            .projection_class_embeddings_input_dim
            .saturating_sub(self.text.pooled_width())
            / config.addition_time_embed_dim.max(1);
        let [ids, negative_ids] = time_ids(request, sizes)?;
        // Guidance order: negative, positive.
        let (rows, ids): (Vec<&Conditioning>, Vec<Vec<f32>>) = match negative {
            Some(negative) => (vec![negative, &guided.positive], vec![negative_ids, ids]),
            None => (vec![&guided.positive], vec![ids]),
        };
        let context: Vec<&Tensor> = rows.iter().map(|row| &row.context).collect();
        let pooled: Vec<&Tensor> = rows.iter().map(|row| &row.pooled).collect();
        self.unet.prepare(
            &Tensor::cat(&context, 0)?, // [R, N, C]
            &Tensor::cat(&pooled, 0)?,  // [R, P]
            &ids,
            request.guidance,
        )
    }

    /// Image-to-image: picture → scaled latents, one sample of its distribution for each image.
    fn encode_image(
        &self,
        image: &RgbImage,
        shape: &[usize; 4],
        noise: &mut Noise,
        observer: &mut dyn Observer,
    ) -> Result<Tensor> {
        let [batch, latent, h, w] = *shape;
        let (width, height) = (image.width() as usize, image.height() as usize);
        let factor = self.vae.config().factor();
        if (height, width) != (h * factor, w * factor) {
            return Err(Error::Request(format!(
                "the initial image is {height}x{width}, the request {}x{}",
                h * factor,
                w * factor
            )));
        }
        let bytes = Tensor::from_slice(image.as_raw(), (1, height, width, 3), &self.device)?;
        let pixels = bytes.to_dtype(DType::F32)?.permute((0, 3, 1, 2))?; // [1, 3, H, W]
        // The reference goes through 0…1, which rounds differently from one multiplication.
        let pixels = ((pixels / 255.0)? * 2.0)?.affine(1.0, -1.0)?;
        let posterior = self.by_vae(observer, |vae, _| {
            let posterior = vae.encode(&pixels)?;
            check_finite(Stage::VaeEncode, "latents", &posterior.mean)?;
            Ok(posterior)
        })?;
        let samples = (0..batch)
            .map(|i| {
                let own = &mut noise[i..i + 1];
                let values = own[0].randn(latent * h * w);
                let unit = Tensor::from_vec(values, (1, latent, h, w), &self.device)?;
                posterior.sample(&unit)
            })
            .collect::<Result<Vec<_>>>()?;
        self.vae.scale(&Tensor::cat(&samples, 0)?)
    }

    fn given_latents(&self, latents: Tensor, shape: &[usize; 4]) -> Result<Tensor> {
        if latents.dims() != shape {
            return Err(Error::Request(format!(
                "the latents given are {:?}, the request needs {shape:?}",
                latents.dims()
            )));
        }
        let latents = latents.to_dtype(DType::F32)?;
        if latents.device().same_device(&self.device) {
            return Ok(latents);
        }
        // Two devices, be it of one GPU, do not wait for each other.
        latents.device().synchronize()?;
        let own = latents.to_device(&self.device)?;
        self.device.synchronize()?;
        Ok(own)
    }

    /// Stage 3: latents [B, L, h, w] → pixels [B, 3, H, W] around −1…1. One image at a time, since
    /// this stage's memory grows with every pixel.
    fn decode(
        &self,
        latents: &Tensor,
        tile: Option<usize>,
        observer: &mut dyn Observer,
    ) -> Result<Tensor> {
        let (batch, _, height, width) = latents.dims4()?;
        let tiles = tile.map_or(1, |tile| self.vae.tile_count((height, width), tile));
        stage(observer, Stage::VaeDecode, batch * tiles, |observer| {
            let latents = self.vae.unscale(latents)?;
            let mut images = Vec::with_capacity(batch);
            for i in 0..batch {
                let one = latents.narrow(0, i, 1)?;
                images.push(self.by_vae(observer, |vae, observer| {
                    let image = match tile.filter(|_| tiles > 1) {
                        None => step(observer, Stage::VaeDecode, i, |_| vae.decode(&one))?,
                        Some(tile) => vae.decode_tiled(&one, tile, |at, decode| {
                            step(observer, Stage::VaeDecode, i * tiles + at, |_| decode())
                        })?,
                    };
                    check_finite(Stage::VaeDecode, "pixels", &image)?;
                    Ok(image)
                })?);
            }
            Ok(Tensor::cat(&images, 0)?)
        })
    }

    /// What `run` makes by the VAE. Where it overflows in float16, that is done once more with the weights
    /// in a type of float32's range, which stay for all that follows.
    fn by_vae<T>(
        &self,
        observer: &mut dyn Observer,
        run: impl Fn(&Vae, &mut dyn Observer) -> Result<T>,
    ) -> Result<T> {
        let vae = self.wide_vae.get().unwrap_or(&self.vae);
        match run(vae, observer) {
            Err(Error::NotFinite { stage, .. }) if vae.dtype() == DType::F16 => {
                let dtype = wide_dtype(self.device.is_cpu());
                observer.on(Event::Retry { stage, dtype })?;
                let weights = self
                    .checkpoint
                    .weights(Component::Vae, dtype, &self.device)?;
                let wide = Vae::load(vae.config().clone(), weights)?;
                run(self.wide_vae.get_or_init(|| wide), &mut ())
            }
            result => result,
        }
    }
}

/// The UNet's weights as a network takes them: those of the files, or int8 made of them.
pub(crate) fn unet_weights(
    checkpoint: &Checkpoint,
    quant: Option<Scheme>,
) -> Result<Box<dyn SimpleBackend>> {
    let inner = checkpoint.backend(Component::Unet)?;
    Ok(match (checkpoint.quantisation()?, quant) {
        (None, None) => inner,
        (None, Some(scheme)) => Box::new(OnLoad::new(inner, scheme)),
        (Some(stored), None) => Box::new(Stored {
            inner,
            scheme: stored.scheme,
        }),
        (Some(stored), Some(_)) => {
            return Err(Error::Request(format!(
                "this model is quantised already, as {}: leave --quant out",
                stored.scheme.name()
            )));
        }
    })
}

/// The type that the VAE is run in. SDXL's own overflows in f16; its config says so, and the
/// reference decodes it in f32 too.
pub(crate) fn vae_dtype(config: &VaeConfig, precision: Precision, on_cpu: bool) -> DType {
    match precision.vae {
        Dtype::F16 if config.force_upcast => wide_dtype(on_cpu),
        dtype => dtype.candle(),
    }
}

/// A type that has float32's range: itself, or on a GPU bf16, for which there are kernels.
fn wide_dtype(on_cpu: bool) -> DType {
    match on_cpu {
        true => DType::F32,
        false => DType::BF16,
    }
}

/// Tokenizer and encoder of each text tower that the model has.
pub(crate) fn text_towers(checkpoint: &Checkpoint) -> Result<Vec<(Component, Component)>> {
    let towers = [
        (Component::Tokenizer, Component::TextEncoder),
        (Component::Tokenizer2, Component::TextEncoder2),
    ];
    if !checkpoint.has(Component::TextEncoder2) {
        return Err(Error::checkpoint(
            "model_index.json",
            "no `text_encoder_2`: not an SDXL model",
        ));
    }
    let present = towers
        .into_iter()
        .filter(|(_, encoder)| checkpoint.has(*encoder));
    Ok(present.collect())
}

/// What [`Pipeline::load`] loads in each of its steps.
pub fn load_steps(checkpoint: &Checkpoint) -> Result<Vec<&'static str>> {
    let mut names = vec!["vocabulary"];
    names.extend(
        text_towers(checkpoint)?
            .iter()
            .map(|(_, encoder)| encoder.name()),
    );
    names.extend([Component::Unet.name(), Component::Vae.name()]);
    Ok(names)
}

/// The steps that the request asks for, before anything but the scheduler's config is read.
pub fn schedule(checkpoint: &Checkpoint, request: &Request) -> Result<Schedule> {
    schedule_of(&load_scheduler(checkpoint)?, request)
}

pub(crate) fn schedule_of(config: &SchedulerConfig, request: &Request) -> Result<Schedule> {
    let options = ScheduleOptions {
        steps: request.steps,
        scheduler: request.scheduler,
        timestep_spacing: request.timestep_spacing,
        ..ScheduleOptions::default()
    };
    let schedule = Schedule::new(config, &options)?;
    Ok(match &request.init_image {
        Some(init) => schedule.from_strength(init.strength)?,
        None => schedule,
    })
}

/// The UNet must take and give the VAE's latents.
pub(crate) fn check_channels(unet: &UnetConfig, vae: &VaeConfig) -> Result<()> {
    let latent = vae.latent_channels;
    if (unet.in_channels, unet.out_channels) == (latent, latent) {
        return Ok(());
    }
    Err(Error::checkpoint(
        "unet/config.json",
        format!(
            "`in_channels` is {} and `out_channels` {}, but the VAE's latents have {latent}; UNets \
             that take more than latents (inpainting) are not supported",
            unet.in_channels, unet.out_channels
        ),
    ))
}

pub(crate) fn load_scheduler(checkpoint: &Checkpoint) -> Result<SchedulerConfig> {
    const FILE: &str = "scheduler_config.json";
    let folder = checkpoint.folder(Component::Scheduler)?;
    let wrong = |problem: String| Error::checkpoint(folder.describe(FILE), problem);
    let bytes = folder.read(FILE)?;
    let text = std::str::from_utf8(&bytes).map_err(|e| wrong(e.to_string()))?;
    SchedulerConfig::from_json(text).map_err(|e| wrong(e.to_string()))
}

/// [1, ..] → [count, ..].
fn repeat_rows(row: &Tensor, count: usize) -> Result<Tensor> {
    Ok(Tensor::cat(&vec![row; count], 0)?)
}

/// Stage 4: pixels [3, H, W] in 0…1 → 8-bit RGB, rounded to even as the reference rounds.
fn to_image(pixels: &Tensor) -> Result<RgbImage> {
    let (_, height, width) = pixels.dims3()?;
    let values = pixels.permute((1, 2, 0))?.flatten_all()?.to_vec1::<f32>()?; // H·W·3
    let bytes = values
        .into_iter()
        .map(|v| (v * 255.0).round_ties_even() as u8)
        .collect();
    Ok(RgbImage::from_raw(width as u32, height as u32, bytes).expect("3 bytes for each pixel"))
}
