//! What will be run: each size with each batch, with its forecast, refused where it cannot fit.

use super::args::{Batch, RunArgs};
use crate::cli::model::Defaults;
use crate::error::{Error, Result};
use crate::forecast::{Forecast, Model, Processor, fitting};
use crate::request::{Precision, Request, Size};

/// The batches that `auto` tries.
const AUTO: [usize; 6] = [1, 4, 8, 16, 32, 64];

/// One run.
pub struct Plan {
    pub request: Request,
    pub forecast: Forecast,
}

/// All runs, in the order typed, of which each must fit into `free_bytes`.
pub fn plans(
    args: &RunArgs,
    name: &str,
    defaults: &Defaults,
    precision: Precision,
    model: &Model,
    processor: Processor,
    free_bytes: u64,
) -> Result<Vec<Plan>> {
    let sizes = match args.size.is_empty() {
        true => vec![defaults.size],
        false => args.size.clone(),
    };
    let mut plans = Vec::new();
    for size in sizes {
        let plan = |count: usize| {
            let request = request(args, name, defaults, precision, size, count);
            let forecast = fitting(model, &request, processor, free_bytes)?;
            Ok(Plan { request, forecast })
        };
        for batch in &args.batch {
            match *batch {
                Batch::Of(count) => plans.push(plan(count)?),
                Batch::Auto => {
                    let fit = AUTO.into_iter().map(plan);
                    // The first is refused where it does not fit; larger ones are left out.
                    let fit = fit
                        .enumerate()
                        .take_while(|(i, plan)| *i == 0 || !matches!(plan, Err(Error::Memory(_))));
                    plans.extend(fit.map(|(_, plan)| plan).collect::<Result<Vec<_>>>()?);
                }
            }
        }
    }
    Ok(plans)
}

fn request(
    args: &RunArgs,
    name: &str,
    defaults: &Defaults,
    precision: Precision,
    size: Size,
    count: usize,
) -> Request {
    let work = &args.work;
    Request {
        count,
        ..work.request(name, &args.prompt, defaults, size, precision)
    }
}
