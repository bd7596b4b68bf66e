//! darkroom: a native SDXL inference engine.

pub mod cli;
pub mod clip;
pub mod conditioning;
pub mod config;
pub mod denoise;
pub mod device;
pub mod error;
pub mod guidance;
pub mod image_file;
pub mod measure;
pub mod observe;
pub mod ops;
pub mod pipeline;
pub mod request;
pub mod rng;
pub mod scheduler;
pub mod tokenizer;
pub mod unet;
pub mod vae;
pub mod weights;
