//! Damaged, foreign and hostile checkpoints: each is refused with an error that names the thing, and
//! no bytes make the loader panic or allocate beyond reason.

#[allow(dead_code)] // shared with tests/pipeline, which uses other parts of it
#[path = "support/model.rs"]
mod model;

use std::collections::HashSet;

use candle_core::{DType, Device};
use darkroom::clip::ClipTextEncoder;
use darkroom::config::{ClipConfig, UnetConfig, VaeConfig};
use darkroom::error::{Error, Result};
use darkroom::pipeline::Pipeline;
use darkroom::request::Precision;
use darkroom::unet::Unet;
use darkroom::vae::Vae;
use darkroom::weights::checkpoint::{Checkpoint, Component};
use model::{Model, safetensors};
use proptest::prelude::*;
use serde_json::{Value, json};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const INDEX: &str = "unet/diffusion_pytorch_model.safetensors.index.json";

fn load(model: &Model) -> Result<Pipeline> {
    let checkpoint = Checkpoint::open(model.path())?;
    Pipeline::load(&checkpoint, Precision::default(), &Device::Cpu, &mut ())
}

/// The model must be refused as a bad checkpoint, in words that hold all of `needles`.
fn refused(model: &Model, needles: &[&str]) {
    match load(model) {
        Err(error @ Error::Checkpoint { .. }) => {
            let text = error.to_string();
            for needle in needles {
                assert!(text.contains(needle), "no `{needle}` in: {text}");
            }
        }
        Err(other) => panic!("wanted {needles:?}, got another kind of error: {other:?}"),
        Ok(_) => panic!("wanted {needles:?}, but it loads"),
    }
}

#[test]
fn the_untouched_copy_loads() {
    load(&Model::base()).unwrap();
}

#[test]
fn a_missing_file_is_named() {
    for file in [
        "model_index.json",
        "unet/config.json",
        UNET,
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "text_encoder_2/model.safetensors",
        "scheduler/scheduler_config.json",
    ] {
        let model = Model::base();
        model.remove(file);
        refused(&model, &[file, "missing"]);
    }
}

#[test]
fn folders_that_are_no_models() {
    let model = Model::base();
    let open = |path: &std::path::Path| Checkpoint::open(path).unwrap_err().to_string();
    assert!(open(&model.file("nowhere")).contains("not a folder"));
    assert!(open(&model.file(UNET)).contains("single file"));
    std::fs::create_dir(model.file("empty")).unwrap();
    assert!(open(&model.file("empty")).contains("model_index.json: missing"));
    for name in ["sd_xl_base_1.0.safetensors", "model.ckpt"] {
        std::fs::create_dir(model.file(&format!("with {name}"))).unwrap();
        model.write(&format!("with {name}/{name}"), b"");
        let text = open(&model.file(&format!("with {name}")));
        assert!(text.contains(name) && text.contains("convert it"), "{text}");
    }
    // A component's folder is not a model.
    assert!(open(&model.file("unet")).contains("model_index.json: missing"));

    for class in ["StableDiffusionPipeline", "FluxPipeline"] {
        let model = Model::base();
        model.edit_json("model_index.json", |index| {
            index["_class_name"] = class.into()
        });
        refused(&model, &["model_index.json", class, "not an SDXL pipeline"]);
    }
    let model = Model::base();
    model.edit_json("model_index.json", |index| {
        index["text_encoder_2"] = json!([null, null]);
    });
    refused(&model, &["text_encoder_2", "not an SDXL model"]);
}

#[test]
fn a_tensor_that_is_not_there_or_not_as_the_config_says() {
    const NAME: &str = "down_blocks.0.resnets.0.conv1.weight";
    let model = Model::base();
    model.edit_tensors(UNET, |header, _| {
        let entry = header.as_object_mut().unwrap().remove(NAME).unwrap();
        header["another"] = entry;
    });
    refused(&model, &[UNET, NAME, "missing"]);

    let model = Model::base();
    model.edit_tensors(UNET, |header, _| {
        assert_eq!(header[NAME]["shape"], json!([8, 8, 3, 3]));
        header[NAME]["shape"] = json!([8, 72]);
    });
    refused(&model, &[UNET, NAME, "[8, 72]", "[8, 8, 3, 3]"]);

    for dtype in ["I32", "U32"] {
        let model = Model::base();
        model.edit_tensors(UNET, |header, _| header[NAME]["dtype"] = dtype.into());
        refused(&model, &[UNET, NAME, dtype, "f32, f16 and bf16 are read"]);
    }
}

#[test]
fn files_that_are_not_whole() {
    let whole = Model::base().read(UNET);
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for length in [
        0,
        1,
        7,
        8,
        9,
        8 + header - 1,
        8 + header,
        whole.len() / 2,
        whole.len() - 1,
    ] {
        let model = Model::base();
        model.write(UNET, &whole[..length]);
        refused(&model, &[UNET, "not a whole safetensors file"]);
    }
    let model = Model::base();
    model.write(UNET, [&whole[..], b"more"].concat());
    refused(&model, &[UNET, "not a whole safetensors file"]);
}

#[test]
fn headers_that_lie() {
    let tensor = |dtype: &str, shape: Value, from: u64, to: u64| json!({"dtype": dtype, "shape": shape, "data_offsets": [from, to]});
    let huge = u64::MAX;
    let good = tensor("F32", json!([2]), 0, 8);
    for header in [
        json!({"a": tensor("F32", json!([2]), 0, 1 << 40)}),
        json!({"a": tensor("F32", json!([2]), huge - 8, huge)}),
        json!({"a": tensor("F32", json!([2]), 8, 0)}),
        json!({"a": tensor("F32", json!([3]), 0, 8)}),
        json!({"a": tensor("F32", json!([huge, huge, 4]), 0, 8)}),
        json!({"a": tensor("F32", json!([-1]), 0, 8)}),
        json!({"a": good, "b": good}),
        json!({"a": good, "b": tensor("F32", json!([2]), 4, 12)}),
        json!({"a": tensor("F32", json!([2]), 4, 12)}),
        json!({"a": tensor("F99", json!([2]), 0, 8)}),
        json!({"a": {"dtype": "F32", "shape": [2]}}),
        json!([1, 2, 3]),
        json!("text"),
    ] {
        let model = Model::base();
        model.write(UNET, safetensors(&header, &[0; 12]));
        refused(&model, &[UNET, "not a whole safetensors file"]);
    }
    for (length, header) in [
        (u64::MAX, "{}"),
        (1 << 62, "{}"),
        (90_000_000, "{}"),
        (3, "{]}"),
        (2, "\u{ff}"),
    ] {
        let model = Model::base();
        model.write(UNET, [&length.to_le_bytes(), header.as_bytes()].concat());
        refused(&model, &[UNET, "not a whole safetensors file"]);
    }
}

#[test]
fn data_may_lie_at_any_address() {
    let model = Model::base();
    model.edit_tensors(UNET, |header, _| {
        // Spaces cannot be added through JSON: a metadata entry shifts the data.
        header["__metadata__"] = json!({"pad": "x"});
    });
    for pad in ["", "x", "xx", "xxx"] {
        model.edit_tensors(UNET, |header, _| {
            header["__metadata__"] = json!({"pad": pad})
        });
        load(&model).unwrap();
    }
}

#[test]
fn a_pickle_is_refused() {
    for name in ["diffusion_pytorch_model.bin", "weights.ckpt"] {
        let model = Model::base();
        model.remove(UNET);
        model.write(&format!("unet/{name}"), b"\x80\x02}q\x00.");
        refused(&model, &[name, "pickle", "safe serialisation"]);
    }
}

#[test]
fn indices_that_name_what_is_not_there() {
    for (map, needles) in [
        (
            json!({"a": "gone.safetensors"}),
            &["gone.safetensors", "missing"][..],
        ),
        (
            json!({"a": "../vae/diffusion_pytorch_model.safetensors"}),
            &["outside"],
        ),
        (json!({"a": "/etc/hostname"}), &["outside"]),
        (json!({"a": "c:\\x.safetensors"}), &["outside"]),
        (json!({"a": ".."}), &["outside"]),
        (json!({}), &["names no weight file"]),
        (json!({"a": 7}), &["not as expected"]),
    ] {
        let model = Model::base();
        model.remove(UNET);
        model.write(
            INDEX,
            serde_json::to_vec(&json!({"weight_map": map})).unwrap(),
        );
        refused(&model, needles);
    }
}

/// A setting of a config, a value that cannot be, and words that the error must hold.
fn refused_setting(file: &str, key: &str, value: &Value, needle: &str) {
    let model = Model::base();
    model.edit_json(file, |config| config[key] = value.clone());
    refused(&model, &[file, needle]);
}

#[test]
fn unet_settings_that_are_not_supported_are_named() {
    for (key, value) in [
        ("act_fn", json!("gelu")),
        ("resnet_time_scale_shift", json!("scale_shift")),
        ("time_embedding_type", json!("fourier")),
        ("attention_type", json!("gated")),
        ("addition_embed_type", json!("text_image")),
        ("addition_embed_type", json!(null)),
        ("center_input_sample", json!(true)),
        ("encoder_hid_dim_type", json!("text_proj")),
        ("num_attention_heads", json!(8)),
        ("dual_cross_attention", json!(true)),
        ("class_embed_type", json!("timestep")),
        ("num_class_embeds", json!(10)),
        ("resnet_skip_time_act", json!(true)),
        ("time_embedding_act_fn", json!("silu")),
        ("timestep_post_act", json!("silu")),
        ("cross_attention_norm", json!("group_norm")),
        ("mid_block_only_cross_attention", json!(true)),
        ("only_cross_attention", json!(true)),
        ("only_cross_attention", json!([false, true, false])),
        ("mid_block_type", json!("UNetMidBlock2DSimpleCrossAttn")),
        (
            "down_block_types",
            json!(["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"]),
        ),
        (
            "up_block_types",
            json!(["UpBlock2D", "UpBlock2D", "ResnetUpsampleBlock2D"]),
        ),
        ("downsample_padding", json!(2)),
        ("addition_time_embed_dim", json!(null)),
        ("projection_class_embeddings_input_dim", json!(null)),
        ("norm_num_groups", json!(null)),
    ] {
        refused_setting("unet/config.json", key, &value, key);
    }
}

#[test]
fn unet_numbers_that_cannot_be_are_named() {
    for (key, value) in [
        ("attention_head_dim", json!(0)),
        ("attention_head_dim", json!([1, 0, 2])),
        ("attention_head_dim", json!([1, 5, 2])),
        ("attention_head_dim", json!([1, 3])),
        ("norm_num_groups", json!(0)),
        ("norm_num_groups", json!(5)),
        ("norm_eps", json!(0.0)),
        ("norm_eps", json!(-1e-5)),
        ("mid_block_scale_factor", json!(0.0)),
        ("block_out_channels", json!([])),
        ("block_out_channels", json!([8, 0, 16])),
        ("block_out_channels", json!(vec![8; 70])),
        ("block_out_channels", json!([u64::MAX, 12, 16])),
        ("down_block_types", json!(["DownBlock2D"])),
        ("up_block_types", json!([])),
        ("layers_per_block", json!(0)),
        ("layers_per_block", json!(u64::MAX)),
        ("layers_per_block", json!([1, 2])),
        ("transformer_layers_per_block", json!([1, 1])),
        ("transformer_layers_per_block", json!([1, [1], [2, 2]])),
        ("reverse_transformer_layers_per_block", json!([1, 1])),
        ("cross_attention_dim", json!(0)),
        ("cross_attention_dim", json!([52, 52])),
        ("in_channels", json!(0)),
        ("in_channels", json!(9)), // inpainting
        ("conv_in_kernel", json!(0)),
        ("conv_in_kernel", json!(4)),
        ("conv_out_kernel", json!(u64::MAX)),
        ("time_embedding_dim", json!(0)),
        ("addition_time_embed_dim", json!(u64::MAX)),
        ("sample_size", json!(0)),
        ("sample_size", json!([u64::MAX, 8])),
    ] {
        refused_setting("unet/config.json", key, &value, key);
    }
    for (key, value) in [
        ("in_channels", json!(-4)),
        ("in_channels", json!("4")),
        ("norm_eps", json!("small")),
    ] {
        refused_setting("unet/config.json", key, &value, "not as expected");
    }
}

#[test]
fn vae_and_text_settings_are_named() {
    for (key, value) in [
        ("act_fn", json!("relu")),
        ("down_block_types", json!(["DownEncoderBlock2D"])),
        (
            "up_block_types",
            json!([
                "UpDecoderBlock2D",
                "UpDecoderBlock2D",
                "UpDecoderBlock2D",
                "Other"
            ]),
        ),
        ("block_out_channels", json!([])),
        ("block_out_channels", json!([8, 8, 0, 16])),
        ("layers_per_block", json!(0)),
        ("layers_per_block", json!(u64::MAX)),
        ("latent_channels", json!(0)),
        ("latent_channels", json!(u64::MAX)),
        ("norm_num_groups", json!(0)),
        ("norm_num_groups", json!(3)),
        ("in_channels", json!(4)),
        ("shift_factor", json!(0.1)),
        ("scaling_factor", json!(0)),
        ("latents_mean", json!([0.0, 0.0])),
        ("latents_std", json!([1.0, 1.0, 1.0, 0.0])),
    ] {
        refused_setting("vae/config.json", key, &value, key);
    }
    for (key, value) in [
        ("hidden_act", json!("relu")),
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(5)),
        ("hidden_size", json!(0)),
        ("hidden_size", json!(u64::MAX)),
        ("num_hidden_layers", json!(0)),
        ("vocab_size", json!(0)),
        ("max_position_embeddings", json!(0)),
        ("layer_norm_eps", json!(-1.0)),
    ] {
        refused_setting("text_encoder/config.json", key, &value, key);
    }
}

/// Loads one component as a pipeline would.
fn load_component(checkpoint: &Checkpoint, component: Component) -> Result<()> {
    let folder = checkpoint.folder(component)?;
    let weights = || checkpoint.weights(component, DType::F32, &Device::Cpu);
    match component {
        Component::Unet => Unet::load(UnetConfig::load(folder)?, weights()?).map(drop),
        Component::Vae => {
            let config = VaeConfig::load(folder)?;
            let _ = config.factor();
            Vae::load(config, weights()?).map(drop)
        }
        _ => ClipTextEncoder::load(ClipConfig::load(folder)?, true, weights()?).map(drop),
    }
}

const COMPONENTS: [Component; 3] = [Component::Unet, Component::Vae, Component::TextEncoder2];

/// Numbers at the borders of their types, other kinds, and lists and objects of them.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![
            Just(0u64),
            Just(1),
            Just(u64::MAX),
            Just(u64::MAX / 2 + 1),
            Just(1 << 32),
            0..70u64,
            any::<u64>()
        ]
        .prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop_oneof![
            Just(0.0),
            Just(-1.0),
            Just(f64::MAX),
            Just(1e-320),
            any::<f64>()
        ]
        .prop_map(Value::from),
        prop_oneof![
            Just("silu".to_owned()),
            Just("DownBlock2D".to_owned()),
            ".{0,12}"
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::hash_map(".{0,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// One model for all cases of a fuzz test; each case rewrites the file that it spoils.
fn fuzz<S: Strategy>(cases: u32, strategy: S, run: impl Fn(&Model, S::Value)) {
    let model = Model::base();
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let result = runner.run(&strategy, |value| {
        run(&model, value);
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

/// Real configs with some settings replaced: never a panic, and what still loads is loaded whole.
#[test]
fn mutated_configs_never_panic() {
    for component in COMPONENTS {
        let file = format!("{}/config.json", component.name());
        let real: Value = serde_json::from_slice(&Model::base().read(&file)).unwrap();
        let keys: Vec<String> = real.as_object().unwrap().keys().cloned().collect();
        let mutations = prop::collection::vec((prop::sample::select(keys), any_json()), 1..4);
        let outcomes = std::cell::RefCell::new(HashSet::new());
        fuzz(400, mutations, |model, mutations| {
            let mut config = real.clone();
            for (key, value) in mutations {
                config[key] = value;
            }
            model.write(&file, serde_json::to_vec(&config).unwrap());
            let checkpoint = Checkpoint::open(model.path()).unwrap();
            let outcome = load_component(&checkpoint, component);
            outcomes.borrow_mut().insert(outcome.is_ok());
        });
        // Both happened, so the fuzzing reaches behind the parser.
        assert_eq!(outcomes.borrow().len(), 2, "{file}");
    }
}

/// Numbers inside the lists, where settings depend on one another.
#[test]
fn mutated_numbers_never_panic() {
    let numbers = prop_oneof![
        Just(0u64),
        Just(u64::MAX),
        Just(1 << 20),
        Just(1 << 21),
        0..40u64
    ];
    for component in COMPONENTS {
        let file = format!("{}/config.json", component.name());
        let real: Value = serde_json::from_slice(&Model::base().read(&file)).unwrap();
        let mut places = Vec::new();
        for (key, value) in real.as_object().unwrap() {
            let key = key.replace('~', "~0");
            match value {
                Value::Number(_) => places.push(format!("/{key}")),
                Value::Array(list) => places.extend((0..list.len()).map(|i| format!("/{key}/{i}"))),
                _ => {}
            }
        }
        let mutations =
            prop::collection::vec((prop::sample::select(places), numbers.clone()), 1..5);
        fuzz(400, mutations, |model, mutations| {
            let mut config = real.clone();
            for (place, number) in mutations {
                *config.pointer_mut(&place).unwrap() = number.into();
            }
            model.write(&file, serde_json::to_vec(&config).unwrap());
            let checkpoint = Checkpoint::open(model.path()).unwrap();
            let _ = load_component(&checkpoint, component);
        });
    }
}

#[test]
fn any_json_as_a_config_never_panics() {
    for file in [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder_2/config.json",
        "scheduler/scheduler_config.json",
    ] {
        fuzz(100, any_json(), |model, json| {
            model.write(file, serde_json::to_vec(&json).unwrap());
            let _ = load(model);
        });
    }
}

#[test]
fn any_bytes_as_a_config_never_panic() {
    fuzz(
        100,
        prop::collection::vec(any::<u8>(), 0..200),
        |model, bytes| {
            for file in ["model_index.json", "unet/config.json"] {
                let before = model.read(file);
                model.write(file, &bytes);
                assert!(load(model).is_err());
                model.write(file, before);
            }
        },
    );
}

#[test]
fn any_bytes_as_weights_never_panic() {
    fuzz(
        200,
        prop::collection::vec(any::<u8>(), 0..300),
        |model, bytes| {
            model.write(UNET, &bytes);
            refused(model, &[UNET]);
            // The same behind a header length that fits.
            let framed = [&(bytes.len() as u64 / 2).to_le_bytes()[..], &bytes].concat();
            model.write(UNET, framed);
            refused(model, &[UNET]);
        },
    );
}

/// A real file with some bytes changed: refused, or loaded with other weights.
#[test]
fn flipped_bytes_never_panic() {
    let whole = Model::base().read(UNET);
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let flips = prop::collection::vec((0..8 + header, any::<u8>()), 1..6);
    fuzz(150, flips, |model, flips| {
        let mut bytes = whole.clone();
        for (at, byte) in flips {
            bytes[at] = byte;
        }
        model.write(UNET, bytes);
        let checkpoint = Checkpoint::open(model.path()).unwrap();
        let _ = load_component(&checkpoint, Component::Unet);
    });
}
