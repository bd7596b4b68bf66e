//! Every stage against diffusers, tensor by tensor, on tiny checkpoints of different shapes.
//!
//! The reference data is made by tests/fixtures/make.py.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use darkroom::clip::ClipTextEncoder;
use darkroom::config::{ClipConfig, UnetConfig, VaeConfig};
use darkroom::error::Result;
use darkroom::observe::{Event, Observer};
use darkroom::pipeline::{Pipeline, Start};
use darkroom::request::{InitImage, Precision, Request, Size};
use darkroom::unet::Unet;
use darkroom::vae::Vae;
use darkroom::weights::checkpoint::{Checkpoint, Component};

const STAGE_LIMIT: f64 = 1e-4;
const FINAL_LIMIT: f64 = 1e-3;
const CASES: [&str; 5] = ["base", "vpred", "turbo", "lcm", "refiner"];

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A case's checkpoint, request and reference tensors.
struct Case {
    name: &'static str,
    checkpoint: Checkpoint,
    json: serde_json::Value,
    expected: HashMap<String, Tensor>,
}

impl Case {
    fn open(name: &'static str) -> Self {
        let expected = fixtures().join("expected");
        let json = std::fs::read(expected.join(format!("{name}.json"))).unwrap();
        let tensors = expected.join(format!("{name}.safetensors"));
        Self {
            name,
            checkpoint: Checkpoint::open(&fixtures().join("models").join(name)).unwrap(),
            json: serde_json::from_slice(&json).unwrap(),
            expected: candle_core::safetensors::load(tensors, &Device::Cpu).unwrap(),
        }
    }

    fn has(&self, tensor: &str) -> bool {
        self.expected.contains_key(tensor)
    }

    fn tensor(&self, name: &str) -> &Tensor {
        self.expected
            .get(name)
            .unwrap_or_else(|| panic!("{}: no reference {name}", self.name))
    }

    fn weights(&self, component: Component) -> VarBuilder<'static> {
        self.checkpoint
            .weights(component, DType::F32, &Device::Cpu)
            .unwrap()
    }

    /// Fails if `got` is further from the reference than `limit`, as relative L2.
    fn compare(&self, name: &str, got: &Tensor, limit: f64) {
        let want = self.tensor(name);
        assert_eq!(got.dims(), want.dims(), "{}: shape of {name}", self.name);
        let error = relative_l2(got, want);
        println!("{:8} {name:28} {error:.1e}", self.name);
        assert!(
            error < limit,
            "{}: {name} is off by {error:.2e} (limit {limit:.0e})",
            self.name
        );
    }

    fn request(&self) -> Request {
        let request = &self.json["request"];
        let number = |key: &str| request[key].as_u64().map(|n| n as usize);
        let text = |key: &str| request[key].as_str().map(str::to_owned);
        let pair = |key: &str| {
            let list = request[key].as_array()?;
            Some((list[0].as_u64()? as usize, list[1].as_u64()? as usize))
        };
        let size = |key: &str| {
            pair(key).map(|(height_px, width_px)| Size {
                height_px,
                width_px,
            })
        };
        let image = Size {
            height_px: number("height").unwrap(),
            width_px: number("width").unwrap(),
        };
        let prompt = text("prompt").unwrap();
        let guidance = request["guidance"].as_f64().unwrap();
        Request {
            prompt_2: text("prompt_2"),
            negative: text("negative"),
            negative_2: text("negative_2"),
            guidance_rescale: request["guidance_rescale"].as_f64().unwrap_or(0.0),
            clip_skip: number("clip_skip"),
            original_size: size("original_size"),
            target_size: size("target_size"),
            crop: pair("crop").unwrap_or((0, 0)),
            seed: request["seed"].as_u64().unwrap(),
            count: number("count").unwrap_or(1),
            ..Request::new(
                self.name,
                &prompt,
                image,
                number("steps").unwrap(),
                guidance,
            )
        }
    }

    fn img2img_request(&self) -> (Request, Start) {
        let image = image::open(
            fixtures()
                .join("expected")
                .join(format!("{}.init.png", self.name)),
        );
        let strength = self.json["request"]["img2img_strength"].as_f64().unwrap();
        let init = InitImage {
            path: PathBuf::new(),
            sha256: String::new(),
            strength,
        };
        let request = Request {
            init_image: Some(init),
            ..self.request()
        };
        (
            request,
            Start {
                latents: None,
                init_image: Some(image.unwrap().to_rgb8()),
            },
        )
    }

    /// Runs the pipeline and compares everything that it tells under the reference's names.
    fn run(&self, request: &Request, start: Start, prefix: &str) {
        let mut dump = Dump::default();
        let pipeline = Pipeline::load(
            &self.checkpoint,
            Precision::default(),
            &Device::Cpu,
            &mut (),
        )
        .unwrap();
        let images = pipeline.generate(request, start, &mut dump).unwrap();
        let mut compared = 0;
        for (name, got) in &dump.0 {
            let shared = ["context", "pooled", "negative_context", "negative_pooled"];
            let name = match shared.contains(&name.as_str()) {
                true => name.clone(),
                false => format!("{prefix}{name}"),
            };
            if self.has(&name) {
                let stage = shared.contains(&name.as_str()) || name.ends_with("timesteps");
                self.compare(&name, got, if stage { STAGE_LIMIT } else { FINAL_LIMIT });
                compared += 1;
            }
        }
        let steps = self
            .expected
            .keys()
            .filter(|k| k.starts_with(&format!("{prefix}latents_")))
            .count();
        assert!(
            compared > steps,
            "{}: compared {compared} tensors of {prefix}",
            self.name
        );
        assert_eq!(images.len(), request.count);
        // The picture is the reference's, up to one level of rounding.
        let pixels = self.tensor(&format!("{prefix}pixels"));
        let (batch, _, height, width) = pixels.dims4().unwrap();
        assert_eq!(batch, images.len());
        let levels = pixels.permute((0, 2, 3, 1)).unwrap().flatten_all().unwrap();
        let levels = levels.to_vec1::<f32>().unwrap();
        let bytes = images.iter().flat_map(|image| image.as_raw());
        assert_eq!(levels.len(), batch * height * width * 3);
        for (level, byte) in levels.iter().zip(bytes) {
            assert!(
                (level * 255.0 - f32::from(*byte)).abs() < 1.0,
                "{}: a pixel is off",
                self.name
            );
        }
    }
}

fn relative_l2(got: &Tensor, want: &Tensor) -> f64 {
    let flat = |t: &Tensor| {
        let t = t.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        t.to_vec1::<f64>().unwrap()
    };
    let (got, want) = (flat(got), flat(want));
    let norm: f64 = want.iter().map(|w| w * w).sum();
    let difference: f64 = got.iter().zip(&want).map(|(g, w)| (g - w).powi(2)).sum();
    if norm == 0.0 {
        difference.sqrt()
    } else {
        (difference / norm).sqrt()
    }
}

/// Keeps every named tensor of a run.
#[derive(Default)]
struct Dump(Vec<(String, Tensor)>);

impl Observer for Dump {
    fn on(&mut self, event: Event<'_>) -> Result<()> {
        if let Event::Tensor { name, value } = event {
            self.0.push((name.to_owned(), value.clone()));
        }
        Ok(())
    }
}

#[test]
fn text_encoders_give_every_hidden_state() {
    for case in CASES.map(Case::open) {
        for (component, ids, prefix) in [
            (Component::TextEncoder, "input_ids", "text_encoder"),
            (Component::TextEncoder2, "input_ids_2", "text_encoder_2"),
        ] {
            if !case.checkpoint.has(component) {
                continue;
            }
            let config = ClipConfig::load(case.checkpoint.folder(component).unwrap()).unwrap();
            let layers = config.num_hidden_layers;
            let project = component == Component::TextEncoder2;
            let encoder = ClipTextEncoder::load(config, project, case.weights(component)).unwrap();
            let ids = case
                .tensor(ids)
                .to_dtype(DType::U32)
                .unwrap()
                .to_vec2::<u32>()
                .unwrap();
            for clip_skip in 0..layers {
                let states = encoder.forward(&ids, clip_skip).unwrap();
                let name = format!("{prefix}_hidden_{:02}", layers - 1 - clip_skip);
                case.compare(&name, &states.hidden, STAGE_LIMIT);
            }
            assert!(
                encoder.forward(&ids, layers).is_err(),
                "no hidden state before the first"
            );
        }
    }
}

#[test]
fn unet_predicts_as_the_reference() {
    for case in CASES.map(Case::open) {
        let config = UnetConfig::load(case.checkpoint.folder(Component::Unet).unwrap()).unwrap();
        let unet = Unet::load(config, case.weights(Component::Unet)).unwrap();
        let ids = case.tensor("unet_time_ids").to_dtype(DType::F32).unwrap();
        let times = case.tensor("unet_timestep").to_dtype(DType::F64).unwrap();
        let times = times.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let row = |name: &str, i: usize| case.tensor(name).narrow(0, i, 1).unwrap();
        let outputs: Vec<Tensor> = times
            .iter()
            .enumerate()
            .map(|(i, time)| {
                let ids = vec![ids.get(i).unwrap().to_vec1().unwrap()];
                // As the reference data says: the embedded scale is guidance − 1.
                let guidance = case.json["request"]["guidance"].as_f64().unwrap();
                let prepared = unet
                    .prepare(
                        &row("unet_context", i),
                        &row("unet_pooled", i),
                        &ids,
                        guidance,
                    )
                    .unwrap();
                unet.forward(&row("unet_sample", i), *time, &prepared)
                    .unwrap()
            })
            .collect();
        case.compare("unet_out", &Tensor::cat(&outputs, 0).unwrap(), STAGE_LIMIT);
    }
}

#[test]
fn vae_decodes_and_encodes_as_the_reference() {
    for case in CASES.map(Case::open) {
        let config = VaeConfig::load(case.checkpoint.folder(Component::Vae).unwrap()).unwrap();
        let vae = Vae::load(config, case.weights(Component::Vae)).unwrap();
        let pixels = vae.decode(case.tensor("vae_latents")).unwrap();
        case.compare("vae_pixels", &pixels, STAGE_LIMIT);
        let posterior = vae.encode(case.tensor("vae_image")).unwrap();
        case.compare("vae_mean", &posterior.mean, STAGE_LIMIT);
        case.compare("vae_logvar", &posterior.log_variance, STAGE_LIMIT);
        let latents = case.tensor("vae_latents");
        let there_and_back = vae.scale(&vae.unscale(latents).unwrap()).unwrap();
        assert!(relative_l2(&there_and_back, latents) < 1e-6);
    }
}

#[test]
fn text_to_image_follows_the_reference_from_given_latents() {
    for case in CASES
        .map(Case::open)
        .into_iter()
        .filter(|case| case.has("latents_final"))
    {
        let start = Start {
            latents: Some(case.tensor("noise").clone()),
            init_image: None,
        };
        case.run(&case.request(), start, "");
    }
}

#[test]
fn text_to_image_draws_the_reference_noise_from_the_seed() {
    for case in CASES
        .map(Case::open)
        .into_iter()
        .filter(|case| case.has("latents_final"))
    {
        let prefix = if case.has("seeded_latents_final") {
            "seeded_"
        } else {
            ""
        };
        case.run(&case.request(), Start::default(), prefix);
    }
}

#[test]
fn image_to_image_follows_the_reference() {
    for case in CASES.map(Case::open) {
        let (request, start) = case.img2img_request();
        case.run(&request, start, "img2img_");
    }
}

/// The embedded model's pictures are diffusers' from the same seed: no pixel more than one level
/// off, and that only where a value lies on the edge between two levels.
#[test]
fn micro_draws_the_pictures_of_the_reference() {
    let expected = fixtures().join("expected");
    let cases: Vec<serde_json::Value> =
        serde_json::from_slice(&std::fs::read(expected.join("micro.json")).unwrap()).unwrap();
    let tensors =
        candle_core::safetensors::load(expected.join("micro.safetensors"), &Device::Cpu).unwrap();
    let checkpoint = Checkpoint::micro().unwrap();
    let pipeline =
        Pipeline::load(&checkpoint, Precision::default(), &Device::Cpu, &mut ()).unwrap();
    for case in &cases {
        let number = |key: &str| case[key].as_u64().unwrap();
        let text = |key: &str| case[key].as_str().map(str::to_owned);
        let key = text("key").unwrap();
        let size = Size {
            height_px: number("height") as usize,
            width_px: number("width") as usize,
        };
        let guidance = case["guidance"].as_f64().unwrap();
        let steps = number("steps") as usize;
        let request = Request {
            negative: text("negative"),
            seed: number("seed"),
            ..Request::new("micro", &text("prompt").unwrap(), size, steps, guidance)
        };
        let mut dump = Dump::default();
        let images = pipeline
            .generate(&request, Start::default(), &mut dump)
            .unwrap();
        let latents = dump.0.iter().find(|(name, _)| name == "latents_final");
        let error = relative_l2(
            &latents.unwrap().1,
            &tensors[&format!("{key}.latents_final")],
        );
        assert!(error < FINAL_LIMIT, "latents of {key} are off by {error:e}");

        let pixels = tensors[&format!("{key}.pixels_u8")].permute((0, 2, 3, 1));
        let pixels = pixels.unwrap().flatten_all().unwrap();
        let pixels = pixels.to_vec1::<u8>().unwrap();
        let ours = images[0].as_raw();
        assert_eq!(ours.len(), pixels.len());
        let off: Vec<u8> = ours
            .iter()
            .zip(&pixels)
            .map(|(a, b)| a.abs_diff(*b))
            .collect();
        let differing = off.iter().filter(|&&d| d > 0).count();
        println!(
            "micro {key}: latents off by {error:.1e}, {differing} of {} values off",
            off.len()
        );
        assert!(
            off.iter().all(|&d| d <= 1),
            "picture {key} differs by more than one level"
        );
        assert!(
            differing * 1000 < off.len(),
            "picture {key}: {differing} values differ"
        );
    }
}
