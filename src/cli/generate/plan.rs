//! What was typed means: a request, over a receipt's or the model's defaults.

use crate::error::{Error, Result};
use crate::image_file::Receipt;
use crate::request::{InitImage, Precision, Request};

use super::args::{Args, Count, Seed};
use crate::cli::model::{DEFAULT_MODEL, Defaults};

/// Strength of diffusers' `StableDiffusionXLImg2ImgPipeline`.
const DEFAULT_STRENGTH: f64 = 0.3;

/// The model's name as typed, as in the receipt, or the one in the binary.
pub fn model_name<'a>(args: &'a Args, receipt: Option<&'a Receipt>) -> &'a str {
    let known = args
        .model
        .as_deref()
        .or(receipt.map(|r| r.request.model.as_str()));
    known.unwrap_or(DEFAULT_MODEL)
}

/// The request: typed options over the receipt's request, else over the model's `defaults`.
///
/// The picture of `--init-image` is named here, but not yet read: its hash is empty unless a
/// receipt has it.
pub fn request(
    args: &Args,
    receipt: Option<&Receipt>,
    model: &str,
    defaults: impl FnOnce() -> anyhow::Result<Defaults>,
) -> anyhow::Result<Request> {
    let mut request = match receipt {
        Some(receipt) => receipt.request.clone(),
        None => fresh(args, model, &defaults()?)?,
    };
    request.model = model.to_owned();
    overlay(args, &mut request)?;
    request.validate()?;
    Ok(request)
}

fn fresh(args: &Args, model: &str, defaults: &Defaults) -> Result<Request> {
    let prompt = args.prompt.as_deref().ok_or_else(|| {
        Error::Request("no prompt: darkroom generate \"a red apple on a blue background\"".into())
    })?;
    let Defaults {
        size,
        steps,
        guidance,
        ..
    } = *defaults;
    Ok(Request {
        scheduler: defaults.scheduler,
        timestep_spacing: defaults.timestep_spacing,
        ..Request::new(model, prompt, size, steps, guidance)
    })
}

fn overlay(args: &Args, request: &mut Request) -> Result<()> {
    set(&mut request.prompt, &args.prompt);
    set_some(&mut request.prompt_2, &args.prompt_2);
    set_some(&mut request.negative, &args.negative);
    set_some(&mut request.negative_2, &args.negative_2);
    request.long_prompt |= args.long_prompt;
    set_some(&mut request.clip_skip, &args.clip_skip);
    set(&mut request.width_px, &args.width);
    set(&mut request.height_px, &args.height);
    set(&mut request.seed, &args.seed.map(fixed));
    set(&mut request.count, &args.count.and_then(Count::number));
    set(&mut request.rng, &args.rng);
    set(&mut request.steps, &args.steps);
    set(&mut request.guidance, &args.guidance);
    set(&mut request.guidance_rescale, &args.guidance_rescale);
    set_some(&mut request.scheduler, &args.scheduler);
    set_some(&mut request.timestep_spacing, &args.timestep_spacing);
    set_some(&mut request.original_size, &args.original_size);
    set(&mut request.crop, &args.crop);
    set_some(&mut request.target_size, &args.target_size);
    if let Some(dtype) = args.dtype {
        request.precision = Precision {
            quant: request.precision.quant,
            ..dtype
        };
    }
    set_some(&mut request.precision.quant, &args.quant);
    set_some(&mut request.vae_tile, &args.vae_tile);
    if let Some(path) = &args.init_image {
        let strength = request
            .init_image
            .as_ref()
            .map_or(DEFAULT_STRENGTH, |init| init.strength);
        request.init_image = Some(InitImage {
            path: path.clone(),
            sha256: String::new(),
            strength,
        });
    }
    match (args.strength, &mut request.init_image) {
        (Some(strength), Some(init)) => init.strength = strength,
        (Some(_), None) => {
            return Err(Error::Request("--strength needs --init-image".into()));
        }
        (None, _) => {}
    }
    Ok(())
}

fn set<T: Clone>(slot: &mut T, typed: &Option<T>) {
    if let Some(value) = typed {
        slot.clone_from(value);
    }
}

fn set_some<T: Clone>(slot: &mut Option<T>, typed: &Option<T>) {
    if typed.is_some() {
        slot.clone_from(typed);
    }
}

/// A random seed stays below 2³²: short to type, and taken by every other program.
fn fixed(seed: Seed) -> u64 {
    match seed {
        Seed::Fixed(seed) => seed,
        Seed::Random => fresh_bits() & u64::from(u32::MAX),
    }
}

/// Bits that differ at each call: the standard library's hash keys come from the system.
fn fresh_bits() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::time::SystemTime::now())
}

#[cfg(test)]
mod tests {
    use crate::request::Size;
    use crate::scheduler::SchedulerKind;

    use super::*;

    fn defaults() -> anyhow::Result<Defaults> {
        Ok(Defaults {
            size: Size {
                height_px: 128,
                width_px: 96,
            },
            steps: 20,
            guidance: 4.0,
            scheduler: None,
            timestep_spacing: None,
        })
    }

    fn typed(prompt: &str) -> Args {
        Args {
            prompt: Some(prompt.into()),
            ..Args::default()
        }
    }

    fn exit_code(error: &anyhow::Error) -> Option<u8> {
        error.downcast_ref::<Error>().map(Error::exit_code)
    }

    #[test]
    fn the_model_fills_what_was_not_typed() {
        let args = Args {
            steps: Some(3),
            ..typed("an apple")
        };
        let request = request(&args, None, "micro", defaults).expect("sound");
        assert_eq!((request.height_px, request.width_px), (128, 96));
        assert_eq!((request.steps, request.guidance, request.seed), (3, 4.0, 0));
    }

    #[test]
    fn options_change_a_receipts_request_and_nothing_else() {
        let made = request(&typed("an apple"), None, "micro", defaults).expect("sound");
        let receipt =
            Receipt::of_image(&Request { seed: 9, ..made }, 1, "cpu", SchedulerKind::Euler);
        let args = Args {
            guidance: Some(2.0),
            ..Args::default()
        };
        let again =
            request(&args, Some(&receipt), "micro", || unreachable!("not asked")).expect("sound");
        assert_eq!(
            again,
            Request {
                guidance: 2.0,
                ..receipt.request
            }
        );
        assert_eq!(again.seed, 10);
    }

    #[test]
    fn what_cannot_be_meant_is_used_wrongly() {
        for args in [
            Args::default(),
            Args {
                strength: Some(0.5),
                ..typed("an apple")
            },
            Args {
                steps: Some(0),
                ..typed("an apple")
            },
            Args {
                guidance: Some(f64::NAN),
                ..typed("an apple")
            },
            Args {
                strength: Some(-1.0),
                init_image: Some("x.png".into()),
                ..typed("an apple")
            },
        ] {
            let error = request(&args, None, "micro", defaults).expect_err("refused");
            assert_eq!(exit_code(&error), Some(2), "{error}");
        }
    }

    #[test]
    fn random_seeds_differ() {
        assert_ne!(fixed(Seed::Random), fixed(Seed::Random));
    }
}
