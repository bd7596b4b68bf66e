//! `darkroom plan`, and runs that `generate` refuses because they cannot fit.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn darkroom(args: &[&str]) -> Output {
    let home = tempfile::tempdir().expect("a temporary folder");
    Command::new(env!("CARGO_BIN_EXE_darkroom"))
        .args(args)
        .current_dir(home.path())
        .env("HF_HOME", home.path())
        .stdin(Stdio::null())
        .output()
        .expect("the binary is built")
}

fn plan(args: &[&str]) -> String {
    let output = darkroom(&[&["plan"], args].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    assert_eq!(stderr, "", "{args:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&plan(&[args, &["--json"]].concat())).expect("one JSON value")
}

fn refuses(code: i32, says: &[&str], args: &[&str]) -> String {
    let output = darkroom(args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    for words in says {
        assert!(
            stderr.contains(words),
            "{args:?}: `{words}` is not in: {stderr}"
        );
    }
    assert!(
        output.stdout.is_empty() && !stderr.contains("defect"),
        "{stderr}"
    );
    stderr
}

const SDXL: [&str; 4] = ["--model", "synthetic:sdxl-base", "--device", "h100"];

#[test]
fn the_table_tells_weights_stages_and_whether_it_fits() {
    let text = plan(&[&SDXL[..], &["--dtype", "bf16"]].concat());
    for words in [
        "synthetic:sdxl-base: 1 image of 1024x1024 (height x width), 30 steps, guidance 5, bf16",
        "2,567,463,684",
        "vae_decode",
        "NVIDIA H100 SXM: 989400 GFLOP/s bf16, 3350 GB/s (NVIDIA H100",
        "\nfits: ",
        "bound by arithmetic",
    ] {
        assert!(text.contains(words), "`{words}` is not in:\n{text}");
    }
    let table: Vec<&str> = text
        .lines()
        .skip_while(|l| !l.starts_with("stage"))
        .collect();
    let widths: Vec<usize> = table[..6].iter().map(|l| l.chars().count()).collect();
    assert!(
        widths.iter().all(|w| *w == widths[0]),
        "columns end together:\n{text}"
    );
}

#[test]
fn the_record_has_every_figure() {
    let record = json(&[&SDXL[..], &["--steps", "20", "--dtype", "f32"]].concat());
    assert_eq!(record["schema"], 1);
    assert_eq!(
        (&record["batch"], &record["steps"]),
        (&1.into(), &20.into())
    );
    let unet = &record["components"][3];
    assert_eq!(
        (&unet["name"], &unet["bytes"]),
        (&"unet".into(), &(4 * 2_567_463_684u64).into())
    );
    let device = &record["devices"][0];
    assert_eq!(
        (&device["name"], &device["fits"]),
        (&"h100".into(), &true.into())
    );
    // A stage's operations are its sums.
    let stage = &record["stages"][2];
    let operations = stage["operations"].as_array().expect("a list");
    let whole = |value: &Value| value.as_u64().expect("a whole number");
    let macs = operations
        .iter()
        .map(|op| whole(&op["calls"]) * whole(&op["macs"]));
    assert_eq!(macs.sum::<u64>(), whole(&stage["macs"]));
    // Twenty guided steps, two forwards of 3.38 TMAC each at 66.9 TFLOP/s, and 4 % of norms and
    // activations.
    let denoise = &device["stages"][2];
    let ms = denoise["forecast_ms"].as_f64().expect("a number");
    let arithmetic = 20.0 * 2.0 * 2.0 * 3.38e12 / 66.9e12 * 1e3;
    assert!(
        (arithmetic..1.05 * arithmetic).contains(&ms),
        "{ms}, not {arithmetic}"
    );
    let images = device["images_per_s"].as_f64().expect("a number");
    let total = device["total_ms"].as_f64().expect("a number");
    assert!((images * total / 1e3 - 1.0).abs() < 1e-9);
}

#[test]
fn what_does_not_fit_says_what_would() {
    let small = [&SDXL[..], &["--dtype", "f32", "--memory", "12GiB"]].concat();
    let text = plan(&small);
    assert!(
        text.contains("does not fit: ") && text.contains("not one image fits"),
        "{text}"
    );
    let record = json(&small);
    let device = &record["devices"][0];
    assert_eq!(
        (&device["fits"], &device["largest_batch"]),
        (&false.into(), &0.into())
    );
    let ways = device["ways_out"].as_array().expect("a list");
    let way = ways
        .iter()
        .find(|way| way["options"] == "--dtype bf16")
        .expect("it is tried");
    assert_eq!(way["fits"], true);
    let peak = |args: &[&str]| {
        json(&[&SDXL[..], args].concat())["devices"][0]["needed_bytes"]
            .as_u64()
            .expect("a number")
    };
    assert_eq!(way["needed_bytes"], peak(&["--dtype", "bf16"]));
    assert!(text.contains("  --dtype bf16: "), "{text}");
    assert!(peak(&["--vae-tile", "64"]) < peak(&[]));
    // A GPU computes in half precision where nothing else is asked for.
    assert_eq!(peak(&[]), peak(&["--dtype", "f16"]));
}

#[test]
fn the_largest_batch_is_taken_where_it_is_asked_for() {
    let memory = ["--memory", "24GiB", "--dtype", "bf16"];
    let auto = json(&[&SDXL[..], &memory, &["--batch", "auto"]].concat());
    let batch = auto["batch"].as_u64().expect("a number");
    assert!(batch > 1 && auto["devices"][0]["fits"] == true, "{batch}");
    let more = (batch + 1).to_string();
    let more = json(&[&SDXL[..], &memory, &["--batch", &more]].concat());
    assert_eq!(more["devices"][0]["fits"], false);
}

#[test]
fn all_devices_stand_side_by_side() {
    let text = plan(&["--device", "all", "--threads", "2"]);
    for name in [
        "cpu", "h100", "h800", "h200", "a100", "l40s", "l4 ", "rtx-4090", "rtx-3090", "b200",
    ] {
        let line = text.lines().find(|line| line.starts_with(name));
        assert!(
            line.is_some_and(|line| line.contains("yes")),
            "{name}:\n{text}"
        );
    }
    let record = json(&["--device", "cpu"]);
    assert!(record["devices"][0]["total_ms"].as_f64().expect("a number") > 1.0);
}

#[test]
fn wrong_plans_are_refused_with_the_way_out() {
    refuses(
        1,
        &[
            "sdxl-base",
            "not in the cache",
            "models fetch sdxl-base",
            "synthetic:sdxl-base",
        ],
        &["plan", "--model", "sdxl-base"],
    );
    refuses(2, &["abacus", "h100"], &["plan", "--device", "abacus"]);
    refuses(2, &["--memory", "GiB"], &["plan", "--memory", "much"]);
    refuses(2, &["--width 65", "64 or 72"], &["plan", "--width", "65"]);
    refuses(2, &["--count 0"], &["plan", "--batch", "0"]);
    refuses(
        2,
        &["one device"],
        &["plan", "--batch", "auto", "--device", "all"],
    );
    refuses(1, &["model_index.json"], &["plan", "--model", "./"]);
}

#[test]
fn generate_refuses_what_cannot_fit_before_it_begins() {
    let huge = ["--width", "32768", "--height", "32768", "--count", "100"];
    let stderr = refuses(
        1,
        &[
            "100 images of 32768x32768",
            "denoise",
            "weights",
            "workspace",
            "are free",
            "needs",
        ],
        &[&["generate", "an apple"], &huge[..]].concat(),
    );
    assert!(!stderr.contains("load"), "nothing was loaded: {stderr}");
}

#[test]
fn generate_takes_its_count_from_memory() {
    let auto = [
        "generate", "an apple", "--steps", "1", "--count", "auto", "--width", "64",
    ];
    let args = [&auto[..], &["--height", "64", "--json", "--quiet"]].concat();
    let output = darkroom(&args);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let record: Value = serde_json::from_slice(&output.stdout).expect("one JSON value");
    assert_eq!(record["files"].as_array().expect("a list").len(), 64);
}
