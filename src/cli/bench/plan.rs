//! What will be run: each size with each batch, with its forecast, refused where it cannot fit.

use super::args::{Batch, RunArgs};
use crate::cli::model::Defaults;
use crate::cli::units::bytes;
use crate::error::{Error, Result};
use crate::forecast::{Forecast, Model, forecast};
use crate::request::{Precision, Request, Size};

/// The batches that `auto` tries.
const AUTO: [usize; 6] = [1, 4, 8, 16, 32, 64];

/// One run.
pub struct Plan {
    pub request: Request,
    pub forecast: Forecast,
}

/// All runs, in the order typed; `memory_bytes` is what they may use.
pub fn plans(
    args: &RunArgs,
    name: &str,
    defaults: &Defaults,
    model: &Model,
    threads: usize,
    memory_bytes: Option<u64>,
) -> Result<Vec<Plan>> {
    let sizes = match args.size.is_empty() {
        true => vec![defaults.size],
        false => args.size.clone(),
    };
    let mut plans = Vec::new();
    for size in sizes {
        let plan = |count: usize| {
            let request = request(args, name, defaults, size, count);
            request.validate()?;
            let forecast = forecast(model, &request, threads)?;
            Ok::<_, Error>(Plan { request, forecast })
        };
        for batch in &args.batch {
            match *batch {
                Batch::Of(count) => {
                    let plan = plan(count)?;
                    fits(&plan, memory_bytes)?;
                    plans.push(plan);
                }
                Batch::Auto => {
                    let [least, more @ ..] = AUTO;
                    let least = plan(least)?;
                    fits(&least, memory_bytes)?;
                    plans.push(least);
                    for count in more {
                        let plan = plan(count)?;
                        if fits(&plan, memory_bytes).is_err() {
                            break;
                        }
                        plans.push(plan);
                    }
                }
            }
        }
    }
    Ok(plans)
}

fn request(args: &RunArgs, name: &str, defaults: &Defaults, size: Size, count: usize) -> Request {
    let steps = args.steps.unwrap_or(defaults.steps);
    let guidance = args.guidance.unwrap_or(defaults.guidance);
    Request {
        count,
        seed: args.seed,
        scheduler: args.scheduler.or(defaults.scheduler),
        timestep_spacing: defaults.timestep_spacing,
        precision: Precision {
            quant: args.quant,
            ..args.dtype
        },
        vae_tile: args.vae_tile,
        ..Request::new(name, &args.prompt, size, steps, guidance)
    }
}

/// An error with the arithmetic where a run needs more than `memory_bytes`.
fn fits(plan: &Plan, memory_bytes: Option<u64>) -> Result<()> {
    let Some(memory_bytes) = memory_bytes else {
        return Ok(());
    };
    let stage = plan.forecast.peak();
    let memory = stage.memory;
    if memory.peak <= memory_bytes {
        return Ok(());
    }
    let Request {
        height_px,
        width_px,
        count,
        ..
    } = plan.request;
    Err(Error::Request(format!(
        "batch {count} at {height_px}x{width_px} does not fit: {} needs {} (weights {}, workspace {}, \
         activations {}), and {} are available; a smaller --batch or --size, --vae-tile or another \
         --dtype needs less",
        stage.stage,
        bytes(memory.peak),
        bytes(memory.resident),
        bytes(memory.workspace_at_peak),
        bytes(
            memory
                .peak
                .saturating_sub(memory.resident + memory.workspace_at_peak)
        ),
        bytes(memory_bytes),
    )))
}
