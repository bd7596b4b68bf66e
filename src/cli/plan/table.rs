//! The plan as people read it.

use super::report::Fit;
use crate::cli::units::{NOTHING, bytes, columns, digits, grouped, or_nothing, time};
use crate::forecast::roofline::Limit;
use crate::forecast::{Forecast, MemoryForecast, StageForecast};
use crate::request::Request;

/// All of it; stages are the first device's.
pub fn text(request: &Request, fits: &[Fit]) -> String {
    let forecast = &fits[0].forecast;
    let mut parts = vec![
        heading(request),
        columns(&components(forecast)),
        columns(&stages(forecast, fits)),
    ];
    match fits {
        [fit] => parts.push(one_device(request, fit)),
        all => parts.push(columns(&devices(request, all))),
    }
    parts.join("\n")
}

/// `sdxl-base: 1 image of 1024x1024 (height x width), 30 steps, guidance 5, f32`.
fn heading(request: &Request) -> String {
    let Request {
        model,
        count,
        height_px,
        width_px,
        steps,
        guidance,
        vae_tile,
        ..
    } = request;
    let images = if *count == 1 { "image" } else { "images" };
    let guidance = match request.guided() {
        true => format!("guidance {guidance}"),
        false => "no guidance".into(),
    };
    let tile = vae_tile.map_or_else(String::new, |tile| format!(", VAE tiles of {tile}"));
    format!(
        "{model}: {count} {images} of {height_px}x{width_px} (height x width), {steps} steps, \
         {guidance}, {}{tile}\n",
        request.precision
    )
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

fn components(forecast: &Forecast) -> Vec<Vec<String>> {
    let mut rows = vec![row(["weights", "parameters", "memory"])];
    for part in &forecast.components {
        let parameters = (part.parameters > 0).then_some(part.parameters);
        rows.push(vec![
            part.name.to_owned(),
            or_nothing(parameters, grouped),
            bytes(part.bytes),
        ]);
    }
    let total = forecast.components.iter().map(|part| part.bytes).sum();
    rows.push(vec![
        "total".into(),
        grouped(forecast.parameters()),
        bytes(total),
    ]);
    rows
}

/// The stages; their times where there is one device.
fn stages(forecast: &Forecast, fits: &[Fit]) -> Vec<Vec<String>> {
    let head = row([
        "stage",
        "peak memory",
        "weights",
        "activations",
        "workspace",
        "TFLOP",
        "moved",
    ]);
    let mut rows = vec![head];
    rows.extend(forecast.stages.iter().map(stage_row));
    if let [fit] = fits {
        rows[0].extend(row(["at least", "bound by"]));
        for (cells, stage) in rows[1..].iter_mut().zip(&forecast.stages) {
            let bound = stage.bound(&fit.device);
            let limit = bound.limit();
            cells.push(or_nothing(limit, |_| time(bound.ms())));
            cells.push(or_nothing(limit, |limit| limit.name().into()));
        }
    }
    rows
}

fn stage_row(stage: &StageForecast) -> Vec<String> {
    let memory = stage.memory;
    let MemoryForecast {
        resident,
        peak,
        workspace_at_peak,
    } = memory;
    let moved = (stage.bytes() > 0).then(|| stage.bytes());
    vec![
        stage.stage.name().into(),
        bytes(peak),
        bytes(resident),
        bytes(memory.activations()),
        bytes(workspace_at_peak),
        or_nothing(moved, |_| digits(stage.flops() as f64 / 1e12)),
        or_nothing(moved, bytes),
    ]
}

fn one_device(request: &Request, fit: &Fit) -> String {
    let Fit {
        device, forecast, ..
    } = fit;
    let peak = forecast.peak();
    let (needed, there) = (bytes(forecast.needed_bytes()), bytes(device.memory_bytes));
    let mut out = format!(
        "{}: {} GFLOP/s {}, {} GB/s ({})\n",
        device.title,
        digits(device.peaks.of(request.precision.unet) / 1e9),
        request.precision.unet.name(),
        digits(device.bytes_per_s / 1e9),
        device.source,
    );
    let verdict = match fit.fits {
        true => "fits",
        false => "does not fit",
    };
    let gaps = match forecast.needed_bytes() > peak.memory.peak {
        true => ", with room for gaps",
        false => "",
    };
    out += &format!("{verdict}: {needed} in {}{gaps}, of {there}", peak.stage);
    out += &match fit.largest_batch {
        0 => "; not one image fits\n".to_owned(),
        most => format!("; at most {most} at once\n"),
    };
    for way in &fit.ways_out {
        let fits = match way.needed_bytes() <= device.memory_bytes {
            true => "fits",
            false => "does not fit",
        };
        out += &format!("  {}: {}, {fits}\n", way.options, bytes(way.needed_bytes()));
    }
    let total = forecast.bound(device);
    out += &format!(
        "at least {}, {} images a second at most; bound by {}\n",
        time(total.ms()),
        rate(fit.images_per_s(request)),
        total.limit().map_or(NOTHING, Limit::name),
    );
    out
}

/// Images a second, of which a CPU makes few.
fn rate(per_second: f64) -> String {
    match per_second < 0.1 {
        true => format!("{per_second:.5}"),
        false => digits(per_second),
    }
}

fn devices(request: &Request, fits: &[Fit]) -> Vec<Vec<String>> {
    let head = row([
        "device", "memory", "needed", "fits", "at once", "at least", "images/s", "bound by",
    ]);
    let rows = fits.iter().map(|fit| {
        let total = fit.forecast.bound(&fit.device);
        vec![
            fit.device.name.to_string(),
            bytes(fit.device.memory_bytes),
            bytes(fit.forecast.needed_bytes()),
            if fit.fits { "yes" } else { "no" }.into(),
            fit.largest_batch.to_string(),
            time(total.ms()),
            rate(fit.images_per_s(request)),
            total.limit().map_or(NOTHING, Limit::name).into(),
        ]
    });
    std::iter::once(head).chain(rows).collect()
}
