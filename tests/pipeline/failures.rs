use candle_core::Device;
use darkroom::error::Error;
use darkroom::observe::Stage;
use darkroom::pipeline::{Pipeline, Start};
use darkroom::request::{Dtype, InitImage, Precision, Request};
use darkroom::weights::checkpoint::Checkpoint;

use crate::model::Model;
use crate::request;

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";

/// Runs the model; from an initial image with `img2img`.
fn run(model: &Model, dtype: Dtype, img2img: bool) -> Result<(), Error> {
    let checkpoint = Checkpoint::open(model.path())?;
    let precision = Precision::all(dtype);
    let pipeline = Pipeline::load(&checkpoint, precision, &Device::Cpu, &mut ())?;
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
                    way_out,
                }) => {
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

/// A VAE whose config says that it overflows is run in float32 where float16 is asked for.
#[test]
fn a_vae_that_overflows_is_run_in_float32() {
    let model = Model::base();
    model.poison(VAE, "decoder.mid_block.resnets.0.conv1.bias", 1e6);
    run(&model, Dtype::F16, false).unwrap();
    model.edit_json("vae/config.json", |config| {
        config["force_upcast"] = false.into();
    });
    match run(&model, Dtype::F16, false) {
        Err(Error::NotFinite { stage, way_out, .. }) => {
            assert_eq!(stage, Stage::VaeDecode);
            assert!(way_out.contains("vae=bf16"), "{way_out}");
        }
        other => panic!("{other:?}"),
    }
}
