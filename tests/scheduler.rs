//! The coefficients against diffusers' own schedulers: each run of
//! `fixtures/trajectories.py` again, with the same pseudo-model, in float32.

use candle_core::{Device, Tensor, safetensors};
use darkroom::scheduler::{
    Schedule, ScheduleOptions, SchedulerConfig, SchedulerError, SchedulerKind, Step,
    TimestepSpacing,
};
use proptest::prelude::*;
use serde::Deserialize;
use std::collections::HashMap;

/// Relative L2 distance allowed between a trajectory and diffusers'.
const TOLERANCE: f64 = 1e-5;

#[derive(Deserialize)]
struct Reference {
    tcd_eta: f64,
    strength: f64,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    key: String,
    class: String,
    config: SchedulerConfig,
    steps: usize,
    timesteps: Vec<f64>,
    init_noise_sigma: f64,
    sigmas: Option<Vec<f64>>,
    img2img_begin: Option<usize>,
}

impl Run {
    fn schedule(&self, eta: f64) -> Schedule {
        let options = ScheduleOptions {
            steps: self.steps,
            eta: if self.class == "TCDScheduler" {
                eta
            } else {
                0.0
            },
            ..Default::default()
        };
        Schedule::new(&self.config, &options).unwrap_or_else(|e| panic!("run {}: {e}", self.key))
    }

    /// For messages: which of the runs this is.
    fn name(&self) -> String {
        let (config, steps) = (&self.config, self.steps);
        let (spacing, predicts) = (config.timestep_spacing, config.prediction_type);
        let (key, class) = (&self.key, &self.class);
        format!("{key} {class} × {steps} {spacing:?} {predicts:?}")
    }
}

fn expected(name: &str) -> String {
    format!(
        "{}/tests/fixtures/expected/{name}",
        env!("CARGO_MANIFEST_DIR")
    )
}

fn reference() -> (Reference, HashMap<String, Tensor>) {
    let text = std::fs::read_to_string(expected("schedulers.json")).unwrap();
    // Python writes infinities into JSON; see `SchedulerConfig::from_json`.
    let reference = serde_json::from_str(&text.replace("-Infinity", "null")).unwrap();
    let tensors = safetensors::load(expected("schedulers.safetensors"), &Device::Cpu).unwrap();
    (reference, tensors)
}

fn rows(tensor: &Tensor) -> Vec<Vec<f32>> {
    tensor.flatten_from(1).unwrap().to_vec2().unwrap()
}

fn distance(ours: &[f32], theirs: &[f32]) -> f64 {
    let norm = |it: &mut dyn Iterator<Item = f64>| it.map(|x| x * x).sum::<f64>().sqrt();
    let pairs = ours.iter().zip(theirs);
    let error = norm(&mut pairs.map(|(&a, &b)| f64::from(a) - f64::from(b)));
    error / norm(&mut theirs.iter().map(|&b| f64::from(b)))
}

/// Runs the steps in float32, as an engine would; the latents after each.
fn run(
    steps: &[Step],
    start: Vec<f32>,
    noise: &[Vec<f32>],
    model: impl Fn(f32, &Step) -> f32,
) -> Vec<Vec<f32>> {
    let mut noise = noise.iter();
    let mut before = vec![0.0; start.len()];
    let mut latents = start;
    let mut visited = Vec::new();
    for step in steps {
        let next = &step.next;
        let fresh = (next.noise != 0.0).then(|| noise.next().expect("noise for each step"));
        for (i, value) in latents.iter_mut().enumerate() {
            let output = model(*value * step.input_scale as f32, step);
            let mut x0 = step.x0[0] as f32 * *value + step.x0[1] as f32 * output;
            if let Some(range) = step.clamp_x0 {
                x0 = x0.clamp(-range as f32, range as f32);
            }
            *value = next.latents as f32 * *value
                + next.model_output as f32 * output
                + next.x0 as f32 * x0
                + next.previous_x0 as f32 * before[i]
                + next.noise as f32 * fresh.map_or(0.0, |noise| noise[i]);
            before[i] = x0;
        }
        visited.push(latents.clone());
    }
    visited
}

fn pseudo_model(x: f32, step: &Step) -> f32 {
    0.5 * x * (0.001 * step.timestep as f32).cos() + 0.1 * x.sin()
}

#[test]
fn timesteps_and_sigmas_are_diffusers() {
    let (reference, _) = reference();
    assert!(reference.runs.len() > 100);
    for run in &reference.runs {
        let (schedule, name) = (run.schedule(reference.tcd_eta), run.name());
        assert_eq!(schedule.steps.len(), run.timesteps.len(), "{name}");
        for (step, &t) in schedule.steps.iter().zip(&run.timesteps) {
            // Karras' timesteps are read off a logarithm that is float32 in numpy.
            let (ours, slack) = (step.timestep, if t.fract() == 0.0 { 0.0 } else { 1e-3 });
            assert!((ours - t).abs() <= slack, "{name}: timestep {ours} for {t}");
        }
        let (ours, theirs) = (schedule.init_noise_sigma, run.init_noise_sigma);
        assert!(
            (ours / theirs - 1.0).abs() < 1e-6,
            "{name}: {ours} {theirs}"
        );
        let sigmas = run.sigmas.iter().flatten();
        for (step, &sigma) in schedule.steps.iter().zip(sigmas) {
            let ours = step.sigma;
            assert!(
                (ours / sigma - 1.0).abs() < 2e-7,
                "{name}: σ {ours} for {sigma}"
            );
        }
    }
}

#[test]
fn trajectories_are_diffusers() {
    let (reference, tensors) = reference();
    let start = &rows(&tensors["start"])[0];
    for reference_run in &reference.runs {
        let (schedule, name) = (
            reference_run.schedule(reference.tcd_eta),
            reference_run.name(),
        );
        let key = |what: &str| format!("{}.{what}", reference_run.key);
        let noise = tensors.get(&key("noise")).map(rows).unwrap_or_default();
        let scaled = start.iter().map(|x| x * schedule.init_noise_sigma as f32);
        let ours = run(&schedule.steps, scaled.collect(), &noise, pseudo_model);
        let theirs = rows(&tensors[&key("samples")]);
        assert_eq!(ours.len(), theirs.len(), "{name}");
        for (i, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let error = distance(ours, theirs);
            assert!(error < TOLERANCE, "{name}: step {i} is off by {error:e}");
        }
    }
}

#[test]
fn image_to_image_trajectories_are_diffusers() {
    let (reference, tensors) = reference();
    let (clean, noise) = (&rows(&tensors["start"])[0], &rows(&tensors["add_noise"])[0]);
    for reference_run in &reference.runs {
        let Some(begin) = reference_run.img2img_begin else {
            continue;
        };
        let name = reference_run.name();
        let schedule = reference_run.schedule(reference.tcd_eta);
        let schedule = schedule.from_strength(reference.strength).unwrap();
        assert_eq!(schedule.steps.len(), reference_run.steps - begin, "{name}");
        let key = |what: &str| format!("{}.{what}", reference_run.key);
        let [signal, sigma] = schedule.steps[0].noised.map(|c| c as f32);
        let pairs = clean.iter().zip(noise);
        let start: Vec<f32> = pairs.map(|(x, n)| signal * x + sigma * n).collect();
        let theirs = rows(&tensors[&key("img2img_start")]);
        let error = distance(&start, &theirs[0]);
        assert!(error < 1e-6, "{name}: the start is off by {error:e}");
        let fresh = tensors.get(&key("noise")).map(rows).unwrap_or_default();
        let ours = run(&schedule.steps, start, &fresh, pseudo_model);
        let theirs = rows(&tensors[&key("img2img_samples")]);
        for (i, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let error = distance(ours, theirs);
            assert!(error < TOLERANCE, "{name}: step {i} is off by {error:e}");
        }
    }
}
