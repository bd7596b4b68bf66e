//! The embedded model: a small SDXL of our own, in diffusers' layout (see models/micro).

use super::folder::{Embedded, Folder};

macro_rules! embed {
    ($($path:literal)*) => {
        &[$(($path, include_bytes!(concat!("../../models/micro/", $path)))),*]
    };
}

static FILES: Embedded = embed! {
    "model_index.json"
    "scheduler/scheduler_config.json"
    "text_encoder/config.json"
    "text_encoder/model.safetensors"
    "text_encoder_2/config.json"
    "text_encoder_2/model.safetensors"
    "tokenizer/merges.txt"
    "tokenizer/special_tokens_map.json"
    "tokenizer/tokenizer_config.json"
    "tokenizer/vocab.json"
    "tokenizer_2/merges.txt"
    "tokenizer_2/special_tokens_map.json"
    "tokenizer_2/tokenizer_config.json"
    "tokenizer_2/vocab.json"
    "unet/config.json"
    "unet/diffusion_pytorch_model.safetensors"
    "vae/config.json"
    "vae/diffusion_pytorch_model.safetensors"
};

/// The model's folder.
pub fn folder() -> Folder {
    Folder::Embedded {
        files: FILES,
        prefix: String::new(),
    }
}
