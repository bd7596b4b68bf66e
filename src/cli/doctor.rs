//! `darkroom doctor`: what this build and this machine can do.

use std::fmt::Write;

use serde::Serialize;

use super::{models, stdout};
use crate::device::{self, DeviceChoice};
use crate::error::Error;
use crate::measure::machine::{Build, Machine};
use crate::observe::Stage;
use crate::request::Precision;
use crate::weights::fetch::{FetchOptions, cached};

/// Form of the report; raised when a reader could misread it.
const SCHEMA: u32 = 1;

/// What was typed.
#[derive(clap::Args)]
pub struct Args {
    /// Print one JSON record
    #[arg(long)]
    json: bool,

    /// More models, in the form of darkroom's weights.toml
    #[arg(long, value_name = "FILE")]
    weights: Option<std::path::PathBuf>,
}

#[derive(Serialize)]
struct Report {
    schema: u32,
    version: &'static str,
    build: Build,
    machine: Machine,
    devices: Vec<DeviceState>,
    /// What `--device auto` takes for each stage, in the default precision.
    auto: Vec<StagePlace>,
    /// The hub's cache; its problem where the environment describes none.
    cache: Result<String, String>,
    models: Vec<ModelState>,
}

#[derive(Serialize)]
struct DeviceState {
    device: String,
    /// A GPU's, with its driver.
    name: Option<String>,
    usable: bool,
    /// Why not.
    problem: Option<String>,
}

#[derive(Serialize)]
struct StagePlace {
    stage: &'static str,
    device: String,
    dtype: Option<&'static str>,
}

#[derive(Serialize)]
struct ModelState {
    name: String,
    /// `embedded`, `cached`, `partly cached` or `not here`.
    state: &'static str,
    bytes_present: u64,
}

/// Prints the report.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let report = report(args)?;
    match args.json {
        true => stdout::json(&report),
        false => stdout::bytes(text(&report)?.as_bytes()),
    }
}

fn report(args: &Args) -> anyhow::Result<Report> {
    let options = FetchOptions::from_env();
    let manifest = models::manifest(args.weights.as_deref())?;
    let mut states = Vec::new();
    for model in manifest.models() {
        let (state, bytes_present) = match (&options, model.hub()) {
            (_, None) => ("embedded", 0),
            (Err(_), _) => ("not here", 0),
            (Ok(options), Some(_)) => {
                let cache = cached(&manifest, model, options)?;
                let state = match cache.missing.len() {
                    0 => "cached",
                    n if n == cache.files => "not here",
                    _ => "partly cached",
                };
                (state, cache.bytes_present)
            }
        };
        states.push(ModelState {
            name: model.name.clone(),
            state,
            bytes_present,
        });
    }
    Ok(Report {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        build: Build::this(),
        machine: Machine::look(),
        devices: vec![state(DeviceChoice::Cpu), state(DeviceChoice::Cuda(0))],
        auto: places(),
        cache: options
            .map(|o| o.cache_dir.display().to_string())
            .map_err(|e| e.to_string()),
        models: states,
    })
}

fn state(choice: DeviceChoice) -> DeviceState {
    let opened = choice
        .open(|_| ())
        .and_then(|device| device::driver(&device));
    let (name, problem) = match opened {
        Ok(name) => (name, None),
        // The table names the device.
        Err(Error::Device { problem, .. }) => (None, Some(problem)),
        Err(other) => (None, Some(other.to_string())),
    };
    DeviceState {
        device: choice.to_string(),
        name,
        usable: problem.is_none(),
        problem,
    }
}

fn places() -> Vec<StagePlace> {
    let (auto, precision) = match DeviceChoice::Auto.open(|_| ()) {
        Ok(device) => (device::name(&device), device::precision(&device)),
        Err(error) => (error.to_string(), Precision::default()),
    };
    let place = |stage: Stage| {
        let dtype = match stage {
            Stage::TextEncode => Some(precision.text_encoder),
            Stage::Denoise => Some(precision.unet),
            Stage::VaeEncode | Stage::VaeDecode => Some(precision.vae),
            Stage::Load | Stage::PostProcess => None,
        };
        let device = if stage == Stage::PostProcess {
            "cpu".to_owned()
        } else {
            auto.clone()
        };
        StagePlace {
            stage: stage.name(),
            device,
            dtype: dtype.map(|d| d.name()),
        }
    };
    Stage::ALL.map(place).into()
}

fn text(report: &Report) -> Result<String, std::fmt::Error> {
    let Report { build, machine, .. } = report;
    let mut out = String::new();
    writeln!(
        out,
        "darkroom   {} ({}, {} build)",
        report.version, build.target, build.profile
    )?;
    writeln!(
        out,
        "processor  {}",
        machine.cpu.as_deref().unwrap_or("unknown")
    )?;
    writeln!(
        out,
        "           {} threads; {}",
        machine.threads,
        machine.simd.join(" ")
    )?;
    let gib = |bytes: Option<u64>| match bytes {
        Some(bytes) => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
        None => "unknown".into(),
    };
    let (total, free) = (
        gib(machine.memory_bytes),
        gib(machine.memory_available_bytes),
    );
    writeln!(out, "memory     {total}, {free} available")?;
    writeln!(out, "\ndevices")?;
    for DeviceState {
        device,
        name,
        problem,
        ..
    } in &report.devices
    {
        let state = match (problem, name) {
            (Some(problem), _) => problem.clone(),
            (None, Some(name)) => format!("usable: {name}"),
            (None, None) => "usable".into(),
        };
        writeln!(out, "  {device:14} {state}")?;
    }
    writeln!(out, "\n--device auto runs")?;
    for StagePlace {
        stage,
        device,
        dtype,
    } in &report.auto
    {
        writeln!(out, "  {stage:14} {device} {}", dtype.unwrap_or_default())?;
    }
    let (Ok(cache) | Err(cache)) = &report.cache;
    writeln!(out, "\nmodels in {cache}")?;
    for ModelState { name, state, .. } in &report.models {
        writeln!(out, "  {name:24} {state}")?;
    }
    Ok(out)
}
