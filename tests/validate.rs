//! `darkroom validate`: sums that close to the byte, figures that agree with each other, thresholds
//! that bite.

#[path = "support/room.rs"]
mod room;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use darkroom::forecast::{self, Model, Processor};
use darkroom::quant::{Scheme, Selection, save};
use darkroom::request::{Dtype, Precision, Request, Size};
use darkroom::validate::weights::{Items, items};
use darkroom::weights::checkpoint::{Checkpoint, Component};
use darkroom::weights::synthetic;
use serde_json::Value;

use room::{Room, stderr};

fn int8(dtype: Dtype, scheme: Scheme) -> Precision {
    Precision {
        quant: Some(scheme),
        ..Precision::all(dtype)
    }
}

fn precisions() -> Vec<Precision> {
    let mut all = Vec::new();
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        all.push(Precision::all(dtype));
        all.extend(Scheme::ALL.map(|scheme| int8(dtype, scheme)));
    }
    all
}

fn sdxl() -> Checkpoint {
    let configs = synthetic::models::folder("sdxl-base").expect("in the binary");
    Checkpoint::synthetic(&configs).expect("sound configs")
}

/// The forecast's bytes of each network.
fn forecast_bytes(checkpoint: &Checkpoint, precision: Precision) -> Vec<(&'static str, u64)> {
    let size = Size {
        height_px: 64,
        width_px: 64,
    };
    let request = Request {
        precision,
        ..Request::new("any", "", size, 1, 5.0)
    };
    let model = Model::of(checkpoint).expect("sound configs");
    let forecast = forecast::forecast(&model, &request, Processor::Cpu { threads: 1 })
        .expect("a sound request");
    let networks = forecast.components.iter().filter(|c| c.parameters > 0);
    networks.map(|c| (c.name, c.bytes)).collect()
}

#[test]
fn weights_close_to_the_byte_with_the_forecast() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    let mut models = vec![("micro", Checkpoint::micro().expect("in the binary"))];
    for name in ["base", "lcm", "refiner", "turbo", "vpred"] {
        let fixture = Checkpoint::open(&fixtures.join(name)).expect("a fixture");
        models.push((name, fixture));
    }
    models.push(("sdxl-base", sdxl()));
    for (name, checkpoint) in models {
        for precision in precisions() {
            let items = items(&checkpoint, precision).expect("sound");
            let sums = items.iter().map(|(c, i)| (c.name(), i.total_bytes()));
            let sums: Vec<_> = sums.collect();
            assert_eq!(
                sums,
                forecast_bytes(&checkpoint, precision),
                "{name}, {precision}"
            );
        }
    }
}

/// The networks read every tensor of the embedded model's files, so its headers give the same sums.
#[test]
fn weights_are_those_of_the_files_headers() {
    let micro = Checkpoint::micro().expect("in the binary");
    let selection = Selection::default();
    for (precision, scheme) in [
        (Precision::default(), None),
        (int8(Dtype::F32, Scheme::W8A16), Some(Scheme::W8A16)),
    ] {
        for (component, found) in items(&micro, precision).expect("sound") {
            let mut expected = Items::default();
            let tensors = micro.mapped(component).expect("it has files");
            for (name, _, shape, _) in tensors.tensors() {
                let values: usize = shape.iter().product();
                let layer = name.strip_suffix(".weight").filter(|_| shape.len() > 1);
                let unet = component == Component::Unet && scheme.is_some();
                match layer {
                    Some(layer) if unet && selection.selects(layer) => {
                        expected.int8_bytes += values as u64;
                        expected.scale_bytes += 4 * shape[0] as u64;
                    }
                    _ if shape.len() == 1 => expected.vector_bytes += 4 * values as u64,
                    _ => expected.float_bytes += 4 * values as u64,
                }
            }
            assert_eq!(found, expected, "{component}, {precision}");
        }
    }
}

#[test]
fn a_quantised_folder_keeps_what_its_list_says() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let micro = Checkpoint::micro().expect("in the binary");
    let keep = ["attn2.to_k".to_owned()];
    for (name, keep) in [("default", &[][..]), ("more", &keep)] {
        let out = folder.path().join(name);
        let selection = Selection::changed(keep, &[]).expect("sound");
        save(&micro, Scheme::W8A8, &selection, None, &out, &|_, _| Ok(())).expect("room for it");
        let saved = Checkpoint::open(&out).expect("just written");
        let unet = |checkpoint, precision| {
            let items = items(checkpoint, precision).expect("sound");
            let unet = items.into_iter().find(|(c, _)| *c == Component::Unet);
            unet.expect("it has one").1
        };
        let stored = unet(&saved, Precision::default());
        let on_load = unet(&micro, int8(Dtype::F32, Scheme::W8A8));
        match keep.is_empty() {
            true => assert_eq!(stored, on_load),
            false => assert!(stored.int8_bytes < on_load.int8_bytes),
        }
        let sums = items(&saved, Precision::default()).expect("sound");
        let sums: Vec<_> = sums
            .iter()
            .map(|(c, i)| (c.name(), i.total_bytes()))
            .collect();
        assert_eq!(sums, forecast_bytes(&saved, Precision::default()), "{name}");
    }
}

/// SDXL's UNet: 9.57 GiB in float32, 10.27 GB; with int8 weights and bfloat16 for the rest, 2.65 GB.
#[test]
fn the_real_unet_takes_a_quarter() {
    let unet = |precision| {
        let items = items(&sdxl(), precision).expect("sound");
        let unet = items.into_iter().find(|(c, _)| *c == Component::Unet);
        unet.expect("it has one").1
    };
    let float = unet(Precision::default());
    assert_eq!(float.total_bytes(), 4 * 2_567_463_684);
    let int8 = unet(int8(Dtype::Bf16, Scheme::W8A8));
    assert!(int8.total_bytes() <= 2_650_000_000, "{int8:?}");
    assert!(int8.int8_bytes > 2_450_000_000, "{int8:?}");
}

/// Runs of two steps at 64×64.
const QUICK: [&str; 6] = ["validate", "--size", "64", "--steps", "2", "--quiet"];
const THREE: [&str; 2] = ["--count", "3"];

impl Room {
    fn json(&self, name: &str) -> Value {
        let text = fs::read_to_string(self.path(name)).expect("it was written");
        assert_eq!(text.lines().count(), 1);
        serde_json::from_str(&text).expect("JSON")
    }
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("an array")
}

#[test]
fn a_ledger_has_memory_quality_speed_and_a_verdict_that_agree() {
    let room = Room::new();
    let thresholds = [
        "--min-psnr",
        "20",
        "--max-drift",
        "0.5",
        "--min-saving",
        "0.6",
    ];
    let files = [
        "--json",
        "l.jsonl",
        "--markdown",
        "l.md",
        "--plot",
        "l.png",
        "--quant",
        "w8a8",
    ];
    let text = room.prints(&[&QUICK[..], &THREE, &thresholds, &files].concat());
    let ledger = room.json("l.jsonl");
    assert_eq!(ledger["schema"], 1);
    assert_eq!(
        (&ledger["scheme"], &ledger["prompts"]),
        (&"w8a8".into(), &3.into())
    );
    for known in [
        "version",
        "build",
        "machine",
        "request",
        "timestamp",
        "kept",
        "models",
    ] {
        assert!(!ledger[known].is_null(), "{known}");
    }
    assert_memory(&ledger["memory"]);
    assert_quality(&ledger["quality"]);

    let speed = list(&ledger["speed"]);
    let stages: Vec<_> = speed
        .iter()
        .map(|s| s["stage"].as_str().expect("a name"))
        .collect();
    let all = [
        "load",
        "text_encode",
        "denoise",
        "vae_decode",
        "post_process",
        "total",
    ];
    assert_eq!(stages, all);
    for stage in &speed[1..] {
        let p50 = |side: &str| number(&stage["times"][side]["p50_ms"]);
        let ratio = p50("int8") / p50("twin");
        assert!((number(&stage["ratio"]) - ratio).abs() < 1e-9 * ratio);
        assert_eq!(list(&stage["times"]["int8"]["samples_ms"]).len(), 3);
        let interval = &stage["interval"];
        assert!(number(&interval["low"]) <= number(&interval["high"]));
    }

    let verdict = list(&ledger["verdict"]);
    assert!(verdict.len() == 3 && verdict.iter().all(|j| j["passed"] == true));
    let found = |i: usize| number(&verdict[i]["found"]);
    assert_eq!(found(0), number(&ledger["quality"]["psnr_db"]["median"]));
    let last = list(&ledger["quality"]["drift"]).last().expect("two steps");
    assert_eq!(found(1), number(&last["worst"]));

    // What is printed and what is written say the same.
    let markdown = fs::read_to_string(room.path("l.md")).expect("it was written");
    let psnr = format!("{:.2}", number(&ledger["quality"]["psnr_db"]["median"]));
    for words in [
        "PSNR, dB",
        &psnr,
        "drift after step 2",
        "text_encoder_2",
        "passed",
        "denoise",
    ] {
        assert!(
            text.contains(words) && markdown.contains(words),
            "`{words}`: {text}"
        );
    }
    assert!(markdown.starts_with("# micro in w8a8") && markdown.contains("\n| unet | "));
    assert!(!text.contains("failed"), "{text}");
    let picture = image::open(room.path("l.png"))
        .expect("a PNG file")
        .into_rgb8();
    for color in [[0, 114, 178], [230, 159, 0]] {
        let ink = picture.pixels().filter(|pixel| pixel.0 == color).count();
        assert!(ink > 300, "{color:?}: {ink}");
    }
    assert_eq!(room.files(), ["l.jsonl", "l.md", "l.png"]);
}

/// Weights close to the byte, stages lie near their forecast, and int8 takes less.
fn assert_memory(memory: &Value) {
    let components = list(&memory["components"]);
    let names: Vec<_> = components
        .iter()
        .map(|c| c["name"].as_str().expect("a name"))
        .collect();
    assert_eq!(
        names,
        [
            "vocabulary",
            "text_encoder",
            "text_encoder_2",
            "unet",
            "vae"
        ]
    );
    for part in &components[1..] {
        for side in ["twin", "int8"] {
            let items = part["items"][side].as_object().expect("itemised");
            let sum: u64 = items.values().map(|v| v.as_u64().expect("bytes")).sum();
            let taken = |which: &str| part["memory"][side][which].as_u64().expect("bytes");
            assert_eq!(sum, taken("forecast_bytes"), "{part}");
            // Beyond the weights: 320 bytes a tensor, 800 tensors, and little else.
            let beyond = taken("measured_bytes").abs_diff(sum);
            assert!(beyond < 400 * 1024, "{beyond}: {part}");
            assert!(number(&part["file_bytes"][side]) > 0.0);
        }
    }
    let bytes = |part: &Value, side: &str| number(&part["memory"][side]["measured_bytes"]);
    assert!(bytes(&components[3], "int8") < 0.4 * bytes(&components[3], "twin"));
    assert_eq!(
        components[1]["items"]["twin"],
        components[1]["items"]["int8"]
    );
    for stage in list(&memory["stages"]) {
        for side in ["twin", "int8"] {
            let peak = |which: &str| number(&stage["peak"][side][which]);
            let off = peak("forecast_bytes") / peak("measured_bytes") - 1.0;
            assert!(off.abs() < 0.02, "{side}, {stage}: {off}");
        }
    }
}

/// Each figure's median and worst are those of its runs.
fn assert_quality(quality: &Value) {
    let runs = list(&quality["runs"]);
    assert_eq!(runs.len(), 3);
    assert_ne!(runs[0]["prompt"], runs[1]["prompt"]);
    let agree = |summary: &Value, mut values: Vec<f64>, rising: bool| {
        values.sort_by(f64::total_cmp);
        assert_eq!(number(&summary["median"]), values[1]);
        let worst = if rising { values[2] } else { values[0] };
        assert_eq!(number(&summary["worst"]), worst);
        let interval = &summary["median_interval"];
        assert_eq!(number(&interval["low"]), values[0]);
        assert_eq!(number(&interval["confidence"]), 0.75);
    };
    for figure in ["psnr_db", "ssim", "ssimulacra2"] {
        let values: Vec<f64> = runs.iter().map(|run| number(&run[figure])).collect();
        assert!(values.iter().all(|v| *v > 0.0), "{figure}: {values:?}");
        agree(&quality[figure], values, false);
    }
    let steps = list(&quality["drift"]);
    assert_eq!(steps.len(), 2);
    for (i, step) in steps.iter().enumerate() {
        let values: Vec<f64> = runs.iter().map(|run| number(&run["drift"][i])).collect();
        assert!(values.iter().all(|v| (1e-4..0.5).contains(v)), "{values:?}");
        agree(step, values, true);
    }
}

#[test]
fn a_threshold_that_is_missed_is_exit_code_1_and_the_ledger_is_there() {
    let room = Room::new();
    let args = [
        "--quant",
        "w8a16",
        "--min-psnr",
        "90",
        "--min-saving",
        "0.5",
    ];
    let output = room.run(&[&QUICK[..], &THREE, &args, &["--json", "l.jsonl"]].concat());
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("not met: median PSNR") && said.contains("--min-psnr 90"),
        "{said}"
    );
    assert!(!said.contains("--min-saving"), "{said}");
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(
        table.contains("failed") && table.contains("passed"),
        "{table}"
    );
    let verdict = &room.json("l.jsonl")["verdict"];
    assert_eq!(
        (&verdict[0]["passed"], &verdict[1]["passed"]),
        (&false.into(), &true.into())
    );
    assert!(number(&verdict[0]["margin"]) < 0.0);
}

#[test]
fn a_quantised_folder_gives_the_figures_of_quantising_on_load() {
    let room = Room::new();
    room.prints(&["quantize", "--model", "micro", "-o", "int8", "--quiet"]);
    let ledger = |args: &[&str]| {
        let text = room.prints(&[&QUICK[..], args, &["--json", "-", "--count", "1"]].concat());
        serde_json::from_str::<Value>(&text).expect("one line of JSON")
    };
    let quick = ["--seeds", "2", "--seed", "7"];
    let stored = ledger(&[&["--quantised", "int8"], &quick[..]].concat());
    let on_load = ledger(&[&["--quant", "w8a8"], &quick[..]].concat());
    assert_eq!(stored["quality"], on_load["quality"]);
    let seeds = list(&stored["quality"]["runs"])
        .iter()
        .map(|run| &run["seed"]);
    assert_eq!(seeds.collect::<Vec<_>>(), [7, 8]);
    assert_layers(&stored["layers"]);
    let unet = &stored["memory"]["components"][3];
    assert!(number(&unet["file_bytes"]["int8"]) < 0.6 * number(&unet["file_bytes"]["twin"]));
    assert_ne!(stored["models"]["twin"], stored["models"]["int8"]);

    // Neither the one nor the other may be taken for what it is not.
    let with = |args: &[&'static str]| [&QUICK[..], args].concat();
    let wrong = [
        (
            2,
            "quantised already",
            &["--model", "./int8", "--quant", "w8a8"][..],
        ),
        (2, "is not quantised", &["--quantised", "micro"]),
        (
            1,
            "where the model has",
            &["--model", "synthetic:sdxl-base", "--quantised", "./int8"],
        ),
    ];
    for (code, says, args) in wrong {
        room.refuses(code, &[says], &with(args));
    }
    let config = room.path("int8/unet/config.json");
    let sound = fs::read_to_string(&config).expect("readable");
    fs::write(&config, sound.replace("\"version\": 1", "\"version\": 9")).expect("room");
    room.refuses(1, &["version 9"], &with(&["--quantised", "./int8"]));
    fs::write(&config, sound).expect("room");
    let vae = room.path("int8/vae/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&vae).expect("readable");
    *bytes.last_mut().expect("not empty") ^= 1;
    fs::write(&vae, bytes).expect("room");
    room.refuses(
        1,
        &["is not the model's", "vae"],
        &with(&["--quantised", "./int8"]),
    );
}

/// The worst first, each with its figures.
fn assert_layers(layers: &Value) {
    let layers = list(layers);
    assert!(layers.len() > 100, "{}", layers.len());
    let sqnr: Vec<f64> = layers.iter().map(|l| number(&l["sqnr_db"])).collect();
    assert!(
        sqnr.is_sorted() && sqnr.iter().all(|db| (10.0..80.0).contains(db)),
        "{sqnr:?}"
    );
    assert!(layers.iter().all(|l| number(&l["cosine"]) > 0.9));
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let room = Room::new();
    fs::write(room.path("empty.txt"), "\n  \n").expect("room for it");
    fs::write(room.path("two.txt"), "a fox\n\na bear\n").expect("room for it");
    let int8 = ["--quant", "w8a8"];
    let both = ["--quant", "w8a8", "--quantised", "x"];
    for (code, says, args) in [
        (2, "--quant", &[][..]),
        (2, "cannot be used with", &both),
        (2, "w4a4", &["--quant", "w4a4"]),
        (
            2,
            "holds no prompt",
            &["--prompts", "empty.txt", "--count", "1"],
        ),
        (
            2,
            "two.txt holds 2 prompts",
            &["--prompts", "two.txt", "--count", "3"],
        ),
        (1, "none.txt", &["--prompts", "none.txt"]),
        (2, "--count 1000", &["--count", "1000"]),
        (2, "--seeds", &["--seeds", "0"]),
        (
            2,
            "largest seed",
            &["--seed", "18446744073709551615", "--seeds", "2"],
        ),
        (2, "64 or 72", &["--size", "65"]),
        (2, "11x11", &["--size", "8"]),
        (2, "--steps 0", &["--steps", "0"]),
        (2, "--min-saving 2", &["--min-saving", "2"]),
        (2, "--min-psnr -1", &["--min-psnr", "-1"]),
        (2, "--max-drift NaN", &["--max-drift", "nan"]),
        (2, ".svg or .png", &["--plot", "x.jpg"]),
        (1, "two files", &["--json", "x", "--markdown", "./x"]),
        (1, "two.txt", &["--markdown", "two.txt"]),
        (1, "no-such", &["--model", "no-such"]),
    ] {
        let int8 = match args {
            [] | ["--quant", ..] => &[][..],
            _ => &int8,
        };
        room.refuses(
            code,
            &[says],
            &[&["validate", "--quiet"], int8, args].concat(),
        );
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_it_and_leaves_nothing() {
    use std::io::{BufRead, BufReader};

    let room = Room::new();
    let args = [
        "validate", "--quant", "w8a8", "--steps", "2", "--json", "l.jsonl",
    ];
    let mut child = room
        .command(&args)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary is built");
    let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let first = lines.next().expect("it tells of runs").expect("UTF-8");
    assert!(first.starts_with("twin 1 of"), "{first}");
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(sent.expect("kill is there").success());
    lines.for_each(drop);
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert!(room.files().is_empty());
}
