use candle_core::{DType, Device};
use darkroom::error::Error;
use darkroom::observe::{Event, Observer, Stage};
use darkroom::pipeline::{Pipeline, Start};
use darkroom::request::{Dtype, InitImage, Precision, Request};
use darkroom::weights::checkpoint::Checkpoint;

use crate::model::Model;
use crate::request;

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";

/// A run, from an initial image with `img2img`.
fn asked(img2img: bool) -> (Request, Start) {
    let init_image = img2img.then(|| InitImage {
        path: "init.png".into(),
        sha256: String::new(),
        strength: 1.0,
    });
    let start = Start {
        latents: None,
        init_image: img2img.then(|| image::RgbImage::new(64, 64)),
    };
    let request = Request {
        init_image,
        ..request()
    };
    (request, start)
}

fn run(model: &Model, dtype: Dtype, img2img: bool) -> Result<(), Error> {
    let checkpoint = Checkpoint::open(model.path())?;
    let precision = Precision::all(dtype);
    let pipeline = Pipeline::load(&checkpoint, precision, &Device::Cpu, &mut ())?;
    let (request, start) = asked(img2img);
    pipeline.generate(&request, start, &mut ()).map(drop)
}

#[test]
fn a_damaged_weight_is_reported_by_its_stage() {
    use Stage::{Denoise, TextEncode, VaeDecode, VaeEncode};
    for (file, tensor, img2img, wanted_stage, wanted_tensor, component) in [
        (
            "text_encoder/model.safetensors",
            "layers.0.layer_norm1.bias",
            false,
            TextEncode,
            "context",
            "text",
        ),
        (
            "text_encoder_2/model.safetensors",
            "layers.1.mlp.fc1.weight",
            false,
            TextEncode,
            "context",
            "text",
        ),
        (
            "text_encoder_2/model.safetensors",
            "text_projection.weight",
            false,
            TextEncode,
            "pooled",
            "text",
        ),
        (UNET, "conv_in.weight", false, Denoise, "step 1", "unet"),
        (
            UNET,
            "attentions.0.transformer_blocks.0.attn2.to_k.weight",
            false,
            Denoise,
            "step 1",
            "unet",
        ),
        (
            UNET,
            "add_embedding.linear_1.bias",
            false,
            Denoise,
            "step 1",
            "unet",
        ),
        (
            VAE,
            "decoder.conv_out.bias",
            false,
            VaeDecode,
            "pixels",
            "vae",
        ),
        (
            VAE,
            "encoder.conv_in.bias",
            true,
            VaeEncode,
            "latents",
            "vae",
        ),
    ] {
        for value in [f32::NAN, f32::INFINITY] {
            let model = Model::base();
            model.poison(file, tensor, value);
            match run(&model, Dtype::F32, img2img) {
                Err(Error::NotFinite {
                    stage,
                    tensor: named,
                    bad,
                    largest,
                    way_out,
                }) => {
                    assert!(largest.is_finite(), "{largest}");
                    assert_eq!(stage, wanted_stage, "{file} {tensor}");
                    assert!(named.contains(wanted_tensor), "{file} {tensor}: {named}");
                    assert!(bad > 0 && way_out.contains(&format!("{component}=bf16")));
                }
                other => panic!("{value} in {file} {tensor}: {other:?}"),
            }
        }
    }
}

/// 10⁶ is a number in float32 and bfloat16, and infinite in float16.
#[test]
fn an_overflow_of_half_precision_says_the_way_out() {
    let model = Model::base();
    model.poison(UNET, "down_blocks.0.resnets.0.conv1.bias", 1e6);
    run(&model, Dtype::F32, false).unwrap();
    run(&model, Dtype::Bf16, false).unwrap();
    let error = run(&model, Dtype::F16, false).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("denoise: ") && text.contains("--dtype unet=bf16"),
        "{text}"
    );
}

/// A VAE whose config says that it overflows is run in float32 where float16 is asked for; one whose
/// config does not is run once more, and then stays so.
#[test]
fn a_vae_that_overflows_is_run_in_float32() {
    let model = Model::base();
    model.poison(VAE, "decoder.mid_block.resnets.0.conv1.bias", 1e6);
    model.poison(VAE, "encoder.mid_block.resnets.0.conv1.bias", 1e6);
    run(&model, Dtype::F16, true).unwrap();
    let draw = |vae: Dtype| {
        let checkpoint = Checkpoint::open(model.path()).unwrap();
        let precision = Precision {
            vae,
            ..Precision::all(Dtype::F16)
        };
        let pipeline = Pipeline::load(&checkpoint, precision, &Device::Cpu, &mut ()).unwrap();
        let mut retries = Retries::default();
        let mut images = Vec::new();
        for img2img in [false, true] {
            let (mut request, start) = asked(img2img);
            request.count = 2;
            images.extend(pipeline.generate(&request, start, &mut retries).unwrap());
        }
        (images, retries.0)
    };
    let (want, retries) = draw(Dtype::F32);
    assert!(retries.is_empty());
    model.edit_json("vae/config.json", |config| {
        config["force_upcast"] = false.into();
    });
    let (got, retries) = draw(Dtype::F16);
    assert_eq!(retries, [(Stage::VaeDecode, DType::F32)]);
    assert!(got == want);
}

/// Where float32 does not help, the error is that of the second try.
#[test]
fn a_damaged_vae_is_tried_once_more_only() {
    let model = Model::base();
    model.poison(VAE, "decoder.conv_out.bias", f32::NAN);
    model.edit_json("vae/config.json", |config| {
        config["force_upcast"] = false.into();
    });
    match run(&model, Dtype::F16, false) {
        Err(Error::NotFinite { stage, .. }) => assert_eq!(stage, Stage::VaeDecode),
        other => panic!("{other:?}"),
    }
}

/// Stages that were run once more, and in what.
#[derive(Default)]
struct Retries(Vec<(Stage, DType)>);

impl Observer for Retries {
    fn on(&mut self, event: Event<'_>) -> Result<(), Error> {
        if let Event::Retry { stage, dtype } = event {
            self.0.push((stage, dtype));
        }
        Ok(())
    }
}
