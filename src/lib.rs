//! darkroom: a native SDXL inference engine.
//!
//! A prompt becomes an image in four stages. In the pipeline ([`pipeline::Pipeline::generate`]) they
//! read like this:
//!
//! ```text
//! ids      = tokenizer(prompt), twice                        [B, 77]
//! hidden   = clip(ids), both encoders side by side           [B, N, C]       text_encode
//! latents  = noise(seed) · σ                                 [B, L, h, w]    denoise
//! for each step:
//!     noise_pred = unet(latents · scale, timestep, hidden, pooled, sizes)
//!     noise_pred = guide(noise_pred without the text, noise_pred with it)
//!     latents    = scheduler's step
//! pixels   = vae(latents / scaling factor)                   [B, 3, H, W]    vae_decode
//! image    = round(255 · (pixels / 2 + ½))                   H × W × 3       post_process
//! ```
//!
//! Letters in shapes: B batch, N text positions (77 a chunk), C channels or width, L latent channels,
//! h, w latent edges, H, W pixel edges, P pooled width, T width of the time embedding, R rows of
//! conditioning (1, or 2 under guidance).
//!
//! Dependencies point one way: `cli` → [`pipeline`] → stages ([`conditioning`], [`denoise`], [`vae`])
//! → networks ([`clip`], [`unet`]) → [`ops`]. [`request`], [`error`], [`config`], [`observe`] and
//! [`measure`] stand beside them; [`weights`] and [`quant`] give the networks their tensors. [`forecast`]
//! walks the same stages by shape alone, [`validate`] compares an int8 run with its twin, and
//! [`claims`] puts a white paper's numbers beside it all. Numbers are diffusers' own: `tests/exact.rs`
//! compares every stage with it.

pub mod claims;
pub mod cli;
pub mod clip;
pub mod conditioning;
pub mod config;
#[cfg(feature = "cuda")]
mod cuda;
pub mod denoise;
pub mod device;
pub mod error;
pub mod finite;
pub mod forecast;
pub mod guidance;
pub mod image_file;
pub mod measure;
pub mod observe;
pub mod ops;
pub mod pipeline;
pub mod quant;
pub mod request;
pub mod resnet;
pub mod rng;
pub mod scheduler;
pub mod tokenizer;
pub mod unet;
pub mod vae;
pub mod validate;
pub mod weights;
