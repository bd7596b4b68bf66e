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

/// Relative L2 distance allowed between a trajectory and diffusers', mostly.
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
        let config = SchedulerConfig {
            class_name: Some(self.class.clone()),
            ..self.config.clone()
        };
        Schedule::new(&config, &options).unwrap_or_else(|e| panic!("run {}: {e}", self.key))
    }

    /// Relative L2 distance allowed after `steps`. Euler's samplers in diffusers
    /// add the whole way down to the latents in float32: what is left of them
    /// carries the rounding of what they were, which shows where σ falls by
    /// hundreds (betas rescaled to zero signal).
    fn tolerance(&self, steps: &[Step]) -> f64 {
        let fall = |pair: &[Step]| pair[0].sigma / pair[1].sigma;
        let steepest = steps.windows(2).map(fall).fold(1.0, f64::max);
        match self.class.starts_with("Euler") {
            true => TOLERANCE.max(steepest * f64::from(f32::EPSILON)),
            false => TOLERANCE,
        }
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
        let tolerance = reference_run.tolerance(&schedule.steps);
        for (i, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let error = distance(ours, theirs);
            assert!(error < tolerance, "{name}: step {i} is off by {error:e}");
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
        let tolerance = reference_run.tolerance(&schedule.steps);
        for (i, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let error = distance(ours, theirs);
            assert!(error < tolerance, "{name}: step {i} is off by {error:e}");
        }
    }
}

fn config(json: &str) -> SchedulerConfig {
    SchedulerConfig::from_json(json).unwrap()
}

/// SDXL's own scheduler_config.json, as far as it matters.
fn sdxl() -> SchedulerConfig {
    config(
        r#"{"_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012,
            "beta_schedule": "scaled_linear", "clip_sample": false, "interpolation_type": "linear",
            "num_train_timesteps": 1000, "prediction_type": "epsilon", "sample_max_value": 1.0,
            "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
            "timestep_spacing": "leading", "trained_betas": null, "use_karras_sigmas": false}"#,
    )
}

fn options(scheduler: SchedulerKind, steps: usize) -> ScheduleOptions {
    ScheduleOptions {
        steps,
        scheduler: Some(scheduler),
        ..Default::default()
    }
}

fn any_kind() -> impl Strategy<Value = SchedulerKind> {
    proptest::sample::select(SchedulerKind::ALL.to_vec())
}

fn any_spacing() -> impl Strategy<Value = Option<TimestepSpacing>> {
    use TimestepSpacing::{Leading, Linspace, Trailing};
    proptest::sample::select(vec![None, Some(Leading), Some(Trailing), Some(Linspace)])
}

proptest! {
    #[test]
    fn noise_only_goes_down(
        kind in any_kind(),
        timestep_spacing in any_spacing(),
        steps in 1..=50usize,
    ) {
        let options = ScheduleOptions { timestep_spacing, ..options(kind, steps) };
        let schedule = Schedule::new(&sdxl(), &options).unwrap();
        prop_assert_eq!(schedule.steps.len(), steps);
        for pair in schedule.steps.windows(2) {
            prop_assert!(pair[1].sigma < pair[0].sigma);
            // DPM-Solver rounds Karras' timesteps, so that two may meet.
            let meets = kind == SchedulerKind::DpmSolver2MKarras;
            prop_assert!(pair[1].timestep < pair[0].timestep || meets);
        }
        prop_assert_eq!(schedule.steps[0].next.previous_x0, 0.0);
    }

    /// Whatever the model predicts, if it knows the clean value the steps end
    /// there (DDIM and TCD as near as the first ᾱ, their last, allows).
    #[test]
    fn a_perfect_model_recovers_the_clean_value(
        kind in any_kind(),
        timestep_spacing in any_spacing(),
        steps in 1..=40usize,
        clean in -1.0..1f32,
        noise in -3.0..3f32,
        prediction in 0..3usize,
        strength in 0.1..=1f64,
    ) {
        prop_assume!(!matches!(kind, SchedulerKind::EulerAncestral | SchedulerKind::Lcm));
        // DDIM steps a stride down even where linspace visits other timesteps.
        let linspace = timestep_spacing == Some(TimestepSpacing::Linspace);
        prop_assume!(!(kind == SchedulerKind::Ddim && linspace));
        let json = ["epsilon", "v_prediction", "sample"][prediction];
        let config = SchedulerConfig {
            prediction_type: serde_json::from_value(json.into()).unwrap(),
            ..sdxl()
        };
        let options = ScheduleOptions { timestep_spacing, ..options(kind, steps) };
        let schedule = Schedule::new(&config, &options).unwrap();
        prop_assume!((steps as f64 * strength) as usize > 0);
        let steps = schedule.from_strength(strength).unwrap().steps;
        let [signal, spread] = steps[0].noised.map(|c| c as f32);
        // All samplers show the model latents of unit variance.
        let model = |x: f32, step: &Step| {
            let alpha = 1.0 / step.sigma.hypot(1.0) as f32;
            let sigma = step.sigma as f32 * alpha;
            let noise = (x - alpha * clean) / sigma;
            [noise, alpha * noise - sigma * clean, clean][prediction]
        };
        let ends = run(&steps, vec![signal * clean + spread * noise], &[], model);
        let end = ends.last().unwrap()[0];
        let left = match kind {
            SchedulerKind::Ddim | SchedulerKind::Tcd => 0.05 * (noise.abs() + clean.abs()),
            _ => 0.0,
        };
        prop_assert!((end - clean).abs() <= left + 1e-4, "{end} for {clean}");
    }

    #[test]
    fn names_survive_the_command_line(kind in any_kind()) {
        prop_assert_eq!(kind.to_string().parse::<SchedulerKind>().unwrap(), kind);
    }
}

#[test]
fn sdxl_starts_where_its_users_expect() {
    let options = ScheduleOptions {
        steps: 30,
        ..Default::default()
    };
    let schedule = Schedule::new(&sdxl(), &options).unwrap();
    assert_eq!(schedule.kind, SchedulerKind::Euler);
    assert_eq!(schedule.steps[0].timestep, 958.0);
    assert!((schedule.steps[0].sigma - 11.477).abs() < 1e-3);
    assert!((schedule.init_noise_sigma - 11.520).abs() < 1e-3);
}

#[test]
fn another_class_keeps_what_it_knows_and_defaults_the_rest() {
    let with = |kind| Schedule::new(&sdxl(), &options(kind, 20)).unwrap();
    // The file says leading and offset 1, and DDIM knows both; clip_sample
    // and set_alpha_to_one are in the file too, though Euler has neither.
    let ddim = with(SchedulerKind::Ddim);
    assert_eq!(ddim.steps[0].timestep, 951.0);
    assert_eq!(ddim.steps[0].clamp_x0, None);
    let last = ddim.steps[19].next;
    assert!(last.x0 < 1.0 && last.model_output > 0.0, "{last:?}");
    // Without those keys DDIM's own defaults hold: clip, end clean.
    let bare = SchedulerConfig {
        clip_sample: None,
        set_alpha_to_one: None,
        ..sdxl()
    };
    let ddim = Schedule::new(&bare, &options(SchedulerKind::Ddim, 20)).unwrap();
    assert_eq!(ddim.steps[0].clamp_x0, Some(1.0));
    assert_eq!(ddim.steps[19].next.x0, 1.0);
    // Keys that the file calls defaults count as missing.
    let saved = SchedulerConfig {
        use_default_values: vec!["clip_sample".into(), "steps_offset".into()],
        ..sdxl()
    };
    let ddim = Schedule::new(&saved, &options(SchedulerKind::Ddim, 20)).unwrap();
    assert_eq!(ddim.steps[0].timestep, 950.0);
    assert_eq!(ddim.steps[0].clamp_x0, Some(1.0));
}

#[test]
fn a_chosen_name_decides_the_noise_levels() {
    let karras = SchedulerConfig {
        use_karras_sigmas: Some(true),
        ..sdxl()
    };
    let own = ScheduleOptions {
        steps: 10,
        ..Default::default()
    };
    let schedule = |config: &SchedulerConfig, options: &ScheduleOptions| {
        Schedule::new(config, options).unwrap()
    };
    let plain = options(SchedulerKind::Euler, 10);
    assert_eq!(karras.kind().unwrap(), SchedulerKind::EulerKarras);
    assert_eq!(schedule(&karras, &plain), schedule(&sdxl(), &own));
    let chosen = options(SchedulerKind::EulerKarras, 10);
    assert_eq!(schedule(&sdxl(), &chosen), schedule(&karras, &own));
    assert_ne!(schedule(&sdxl(), &chosen), schedule(&sdxl(), &own));
}

#[test]
fn python_infinities_are_read() {
    let json = r#"{"_class_name": "DPMSolverMultistepScheduler", "note": "-Infinity \"NaN\"",
        "lambda_min_clipped": -Infinity, "sigma_max": Infinity}"#;
    let config = config(json);
    assert_eq!(config.kind().unwrap(), SchedulerKind::DpmSolver2M);
    assert_eq!((config.lambda_min_clipped, config.sigma_max), (None, None));
    let name = r#"{"_class_name": "-Infinity \" NaN"}"#;
    let kept = SchedulerConfig::from_json(name).unwrap().class_name;
    assert_eq!(kept.as_deref(), Some("-Infinity \" NaN"));
}

#[test]
fn what_is_not_supported_is_named() {
    let refused = |json: &str, says: &[&str]| {
        let options = ScheduleOptions {
            steps: 10,
            ..Default::default()
        };
        let error = Schedule::new(&config(json), &options).unwrap_err();
        let text = error.to_string();
        for word in says {
            assert!(text.contains(word), "{text:?} does not say {word:?}");
        }
    };
    let euler = |rest: &str| format!(r#"{{"_class_name": "EulerDiscreteScheduler", {rest}}}"#);
    let dpm = |rest: &str| format!(r#"{{"_class_name": "DPMSolverMultistepScheduler", {rest}}}"#);
    refused(
        r#"{"_class_name": "PNDMScheduler"}"#,
        &["PNDMScheduler", "--scheduler", "dpm++2m"],
    );
    refused("{}", &["_class_name"]);
    refused(
        &euler(r#""use_beta_sigmas": true"#),
        &["use_beta_sigmas", "--scheduler"],
    );
    refused(
        &euler(r#""use_exponential_sigmas": true"#),
        &["use_exponential_sigmas"],
    );
    refused(&dpm(r#""use_lu_lambdas": true"#), &["use_lu_lambdas"]);
    refused(&dpm(r#""use_flow_sigmas": true"#), &["use_flow_sigmas"]);
    refused(
        &dpm(r#""algorithm_type": "sde-dpmsolver++""#),
        &["sde-dpmsolver++", "--scheduler"],
    );
    refused(&dpm(r#""solver_order": 3"#), &["solver_order 3"]);
    refused(&dpm(r#""solver_type": "newton""#), &["newton", "heun"]);
    refused(&dpm(r#""thresholding": true"#), &["thresholding", "euler"]);
    refused(
        &dpm(r#""prediction_type": "flow_prediction""#),
        &["flow_prediction"],
    );
    refused(&dpm(r#""variance_type": "learned""#), &["variance_type"]);
    refused(
        &euler(r#""num_train_timesteps": 0"#),
        &["num_train_timesteps"],
    );
    let huge = r#""num_train_timesteps": 1000000000000"#;
    refused(&euler(huge), &["num_train_timesteps"]);
    refused(&euler(r#""steps_offset": 5000"#), &["steps_offset", "5000"]);
    refused(
        r#"{"_class_name": "DDIMScheduler", "clip_sample_range": -1.0}"#,
        &["clip_sample_range", "-1"],
    );
    refused(
        &euler(r#""sigma_min": -1.0, "use_karras_sigmas": true"#),
        &["euler-karras"],
    );
    refused(
        &euler(r#""trained_betas": [0.1, 0.2]"#),
        &["trained_betas", "2 values"],
    );
    refused(&euler(r#""beta_end": 2.0"#), &["beta"]);
    refused(
        r#"{"_class_name": "EulerAncestralDiscreteScheduler", "prediction_type": "sample"}"#,
        &["prediction_type", "euler"],
    );
    refused(
        r#"{"_class_name": "LCMScheduler", "original_inference_steps": 2000}"#,
        &["original_inference_steps", "2000"],
    );
    // Zero signal and epsilon: the clean value is noise divided by nothing.
    refused(
        r#"{"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": true,
            "timestep_spacing": "trailing"}"#,
        &["step 1", "ddim", "rescale_betas_zero_snr"],
    );
    // A name on the command line is the way out it promises to be.
    let sde = config(&dpm(
        r#""algorithm_type": "sde-dpmsolver++", "use_beta_sigmas": true"#,
    ));
    assert!(Schedule::new(&sde, &options(SchedulerKind::DpmSolver2M, 10)).is_ok());
}

#[test]
fn requests_out_of_range_are_errors() {
    let all = SchedulerKind::ALL;
    for kind in all {
        for steps in [0, 1001, usize::MAX] {
            let error = Schedule::new(&sdxl(), &options(kind, steps)).unwrap_err();
            assert!(
                matches!(error, SchedulerError::Steps { .. }),
                "{kind}: {error}"
            );
        }
        for eta in [-0.1, 1.1, f64::NAN] {
            let options = ScheduleOptions {
                eta,
                ..options(kind, 10)
            };
            let error = Schedule::new(&sdxl(), &options).unwrap_err();
            assert!(matches!(error, SchedulerError::Eta(_)), "{kind}: {error}");
        }
    }
    assert!("heun".parse::<SchedulerKind>().is_err());
    let schedule = Schedule::new(&sdxl(), &options(SchedulerKind::Euler, 30)).unwrap();
    for strength in [-0.1, 1.5, f64::NAN, f64::INFINITY] {
        let error = schedule.clone().from_strength(strength).unwrap_err();
        assert!(matches!(error, SchedulerError::Strength(_)), "{error}");
    }
    for strength in [0.0, 0.03] {
        let error = schedule.clone().from_strength(strength).unwrap_err();
        let SchedulerError::NoSteps { least, .. } = error else {
            panic!("{error}");
        };
        let kept = schedule.clone().from_strength(least).unwrap();
        assert_eq!(kept.steps.len(), 1, "the strength that the error advises");
    }
}

#[test]
fn ddim_with_eta_one_keeps_the_variance() {
    // η = 1 is DDPM: latents of unit variance stay so, when the clean value
    // and the noise are independent and of unit variance.
    let config = SchedulerConfig {
        set_alpha_to_one: Some(true),
        ..sdxl()
    };
    let options = ScheduleOptions {
        eta: 1.0,
        ..options(SchedulerKind::Ddim, 25)
    };
    for step in Schedule::new(&config, &options).unwrap().steps {
        let next = step.next;
        let variance = next.x0.powi(2) + next.model_output.powi(2) + next.noise.powi(2);
        assert!((variance - 1.0).abs() < 1e-12, "{variance}");
    }
}
