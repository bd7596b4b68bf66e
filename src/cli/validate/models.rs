//! The two models that are compared.

use super::args::Args;
use crate::cli::model::{self, Defaults};
use crate::cli::models;
use crate::error::Error;
use crate::forecast::Model;
use crate::quant::{Scheme, Selection, SmoothingConfig};
use crate::request::{Dtype, Precision, Request};
use crate::validate::weights::check_twins;
use crate::weights::checkpoint::Checkpoint;

/// A model that can be loaded.
pub struct Opened {
    pub name: String,
    pub checkpoint: Checkpoint,
    pub forecast: Model,
}

/// A model and the same in int8.
pub struct Models {
    pub twin: Opened,
    pub int8: Opened,
    /// The twin's.
    pub defaults: Defaults,
    pub scheme: Scheme,
    /// Parts of the UNet that stay in floating point.
    pub kept: Vec<String>,
    /// How it was smoothed, if it was.
    pub smoothing: Option<SmoothingConfig>,
    /// Where the int8 weights are made as they are loaded.
    on_load: Option<Scheme>,
}

impl Models {
    /// Finds both, and fails unless the one was made from the other.
    pub fn find(args: &Args, precision: Precision) -> anyhow::Result<Self> {
        let open = |name: &str| -> anyhow::Result<_> {
            let manifest = models::manifest(args.machine.weights.as_deref())?;
            let found = model::find(manifest, name)?;
            let (name, defaults) = (found.name().to_owned(), found.defaults()?);
            let half = precision.vae == Dtype::F16;
            let checkpoint = found.checkpoint(half, args.machine.offline, args.quiet)?;
            let opened = Opened {
                name,
                forecast: Model::of(&checkpoint)?,
                checkpoint,
            };
            Ok((opened, defaults))
        };
        let (twin, defaults) = open(&args.model)?;
        if let Some(stored) = twin.checkpoint.quantisation()? {
            return Err(Error::Request(format!(
                "--model {} is quantised already, as {}: name the model that it was made from, and \
                 this one by --quantised",
                args.model,
                stored.scheme.name()
            ))
            .into());
        }
        let Some(folder) = &args.quantised else {
            let scheme = args
                .quant
                .expect("clap lets none pass without one of the two");
            return Ok(Self {
                int8: Opened {
                    name: twin.name.clone(),
                    checkpoint: twin.checkpoint.clone(),
                    forecast: twin.forecast.clone(),
                },
                twin,
                defaults,
                scheme,
                kept: Selection::default().kept().to_vec(),
                smoothing: None,
                on_load: Some(scheme),
            });
        };
        let (int8, _) = open(folder)?;
        let Some(stored) = int8.checkpoint.quantisation()? else {
            return Err(Error::Request(format!(
                "--quantised {folder} is not quantised: `darkroom quantize` makes such a folder, \
                 --quant does it on the way"
            ))
            .into());
        };
        check_twins(&twin.checkpoint, &int8.checkpoint, folder)?;
        Ok(Self {
            twin,
            int8,
            defaults,
            scheme: stored.scheme,
            kept: stored.kept,
            smoothing: stored.smoothing,
            on_load: None,
        })
    }

    /// The twin's request, of the int8 model.
    pub fn int8_request(&self, request: &Request) -> Request {
        Request {
            model: self.int8.name.clone(),
            precision: Precision {
                quant: self.on_load,
                ..request.precision
            },
            ..request.clone()
        }
    }
}
