//! The models that can be made up by name: configs in the binary, in diffusers' layout.

use crate::weights::folder::{Embedded, Folder};
use crate::weights::micro;

macro_rules! config {
    ($model:literal, $path:literal) => {
        (
            $path,
            include_bytes!(concat!("../../../models/", $model, "/", $path)).as_slice(),
        )
    };
}

static SDXL_BASE: Embedded = &[
    config!("sdxl-base", "model_index.json"),
    config!("sdxl-base", "scheduler/scheduler_config.json"),
    config!("sdxl-base", "text_encoder/config.json"),
    config!("sdxl-base", "text_encoder_2/config.json"),
    config!("sdxl-base", "unet/config.json"),
    config!("sdxl-base", "vae/config.json"),
];

/// All but the UNet is as in the base model.
static SDXL_REFINER: Embedded = &[
    config!("sdxl-refiner", "model_index.json"),
    config!("sdxl-base", "scheduler/scheduler_config.json"),
    config!("sdxl-base", "text_encoder_2/config.json"),
    config!("sdxl-refiner", "unet/config.json"),
    config!("sdxl-base", "vae/config.json"),
];

/// Their names, which are those of `weights.toml`.
pub const NAMES: [&str; 3] = ["micro", "sdxl-base", "sdxl-refiner"];

/// The folder with the configs of a model.
pub fn folder(name: &str) -> Option<Folder> {
    let files = match name {
        "micro" => return Some(micro::folder()),
        "sdxl-base" => SDXL_BASE,
        "sdxl-refiner" => SDXL_REFINER,
        _ => return None,
    };
    Some(Folder::Embedded {
        files,
        prefix: String::new(),
    })
}
