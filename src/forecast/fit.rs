//! What fits in memory: the largest batch, and the ways out where a run does not fit.

use indicatif::BinaryBytes;

use super::{Forecast, Model, Processor, forecast};
use crate::error::{Error, Result};
use crate::quant::Scheme;
use crate::request::{Dtype, MAX_COUNT, Precision, Request};

/// Images of the request that can be made at once in `free_bytes`, 0 if not even one can.
///
/// # Errors
/// Those of [`forecast`].
pub fn largest_batch(
    model: &Model,
    request: &Request,
    processor: Processor,
    free_bytes: u64,
) -> Result<usize> {
    let fits = |count: usize| -> Result<bool> {
        let request = Request {
            count,
            seed: 0,
            ..request.clone()
        };
        Ok(forecast(model, &request, processor)?.needed_bytes() <= free_bytes)
    };
    // The peak grows with the batch: doubled until it does not fit, then halved in between.
    let (mut most, mut too_many) = (0, 1);
    while too_many <= MAX_COUNT && fits(too_many)? {
        (most, too_many) = (too_many, 2 * too_many);
    }
    too_many = too_many.min(MAX_COUNT + 1);
    while too_many - most > 1 {
        let middle = most + (too_many - most) / 2;
        match fits(middle)? {
            true => most = middle,
            false => too_many = middle,
        }
    }
    Ok(most)
}

/// The forecast of a run that fits in `free_bytes`.
///
/// # Errors
/// [`Error::Memory`] with the arithmetic and the ways out where it does not fit; else those of
/// [`forecast`].
pub fn fitting(
    model: &Model,
    request: &Request,
    processor: Processor,
    free_bytes: u64,
) -> Result<Forecast> {
    let whole = forecast(model, request, processor)?;
    let stage = whole.peak();
    let memory = stage.memory;
    if whole.needed_bytes() <= free_bytes {
        return Ok(whole);
    }
    let Request {
        count,
        height_px,
        width_px,
        ..
    } = *request;
    let images = if count == 1 { "image" } else { "images" };
    let gaps = match whole.needed_bytes() - memory.peak {
        0 => String::new(),
        gaps => format!(", room for gaps {}", BinaryBytes(gaps)),
    };
    let mut text = format!(
        "{count} {images} of {height_px}x{width_px} (height x width): {} are needed in {}, {} {}, images and activations {}, workspace {}{gaps}; {} are free",
        BinaryBytes(whole.needed_bytes()),
        stage.stage,
        match processor {
            Processor::Cpu { .. } => "weights and vocabularies",
            Processor::Gpu => "weights",
        },
        BinaryBytes(memory.resident),
        BinaryBytes(memory.activations()),
        BinaryBytes(memory.workspace_at_peak),
        BinaryBytes(free_bytes),
    );
    let ways = ways_out(model, request, processor)?;
    let mut fitting = ways
        .iter()
        .filter(|way| way.needed_bytes() <= free_bytes)
        .peekable();
    if fitting.peek().is_none() {
        text += "\n  no tiling, precision or smaller batch makes it fit";
        if let Some(least) = ways.iter().min_by_key(|way| way.needed_bytes()) {
            let needed = BinaryBytes(least.needed_bytes());
            text += &format!(": {} still needs {needed}", least.options);
        }
    }
    for way in fitting.take(3) {
        text += &format!(
            "\n  {} needs {}",
            way.options,
            BinaryBytes(way.needed_bytes())
        );
    }
    Err(Error::Memory(text))
}

/// A change of a request that takes less memory.
#[derive(Clone, Debug)]
pub struct WayOut {
    /// As it is typed: `--vae-tile 64`, `--dtype bf16 --vae-tile 64`.
    pub options: String,
    /// The run with it.
    pub forecast: Forecast,
}

impl WayOut {
    /// What has to be free for it.
    pub fn needed_bytes(&self) -> u64 {
        self.forecast.needed_bytes()
    }
}

/// Tiles of the VAE that are tried, in latents.
const TILES: [usize; 2] = [64, 32];

/// Changes that keep the picture's size, from the gentlest on, that lower the run's peak: decoding in
/// tiles, half precision, int8, these together, one image at a time. A smaller tile stands there only if it helps.
pub fn ways_out(model: &Model, request: &Request, processor: Processor) -> Result<Vec<WayOut>> {
    let needed = forecast(model, request, processor)?.needed_bytes();
    let mut tiles = vec![None];
    tiles.extend(TILES.map(Some).into_iter().filter(|tile| {
        let edge = request.height_px.max(request.width_px) / model.vae().factor();
        tile.is_some_and(|tile| tile < edge && request.vae_tile.is_none_or(|now| tile < now))
    }));
    let now = request.precision;
    let half = Precision {
        quant: now.quant,
        ..Precision::all(Dtype::Bf16)
    };
    let wide = [now.text_encoder, now.unet, now.vae].contains(&Dtype::F32);
    let mut types = vec![(None, now)];
    types.extend(wide.then(|| (Some("--dtype bf16".to_owned()), half)));
    if now.quant.is_none() && !model.is_quantised() {
        let quant = Some(Scheme::W8A8);
        for (options, precision) in types.clone() {
            let options = [options, Some("--quant w8a8".into())];
            let options: Vec<String> = options.into_iter().flatten().collect();
            types.push((Some(options.join(" ")), Precision { quant, ..precision }));
        }
    }
    let mut counts = vec![None];
    counts.extend((request.count > 1).then_some(Some(1)));

    let mut ways = Vec::new();
    for &count in &counts {
        for (of_type, precision) in &types {
            let mut least = needed;
            for &tile in &tiles {
                let options = [
                    of_type.clone(),
                    tile.map(|tile| format!("--vae-tile {tile}")),
                    count.map(|count| format!("--batch {count}")),
                ];
                let options: Vec<String> = options.into_iter().flatten().collect();
                let changed = Request {
                    count: count.unwrap_or(request.count),
                    precision: *precision,
                    vae_tile: tile.or(request.vae_tile),
                    ..request.clone()
                };
                let forecast = forecast(model, &changed, processor)?;
                let way = WayOut {
                    options: options.join(" "),
                    forecast,
                };
                if way.needed_bytes() < least {
                    least = way.needed_bytes();
                    ways.push(way);
                }
            }
        }
    }
    Ok(ways)
}
