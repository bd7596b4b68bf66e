//! `darkroom claims` and `darkroom advise`: the ledger is whole, the report is the committed one, and
//! what is wrong is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use darkroom::claims::LEDGER;
use darkroom::claims::grounds::Grounds;
use darkroom::forecast::device::Device;
use darkroom::measure::record::Run;
use darkroom::request::{Dtype, Precision};
use serde_json::{Value, json};

/// The committed report. `DARKROOM_BLESS=1 cargo test --test claims` writes it anew.
const REPORT: &str = "benches/runs/2026-11-25-claims";
const VALIDATION: &str = "benches/runs/2026-11-25-validate/sdxl-base-256-w8a8.jsonl";
const RUN: &str = "benches/runs/2026-11-25-epyc-2-cores/sdxl-base-512-f32.jsonl";

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs a command in a folder.
fn darkroom(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_darkroom"))
        .args(args)
        .current_dir(folder)
        .env("HF_HOME", folder)
        .stdin(Stdio::null())
        .output()
        .expect("the binary is built")
}

/// The output of a command that must succeed, without a word on stderr.
fn prints(args: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = darkroom(folder.path(), args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && stderr.is_empty(),
        "{args:?}: {stderr}"
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn record(args: &[&str]) -> Value {
    serde_json::from_str(&prints(args)).expect("one JSON value")
}

/// A command that must fail with this exit code and these words, and write nothing.
fn refuses(code: i32, says: &[&str], args: &[&str]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = darkroom(folder.path(), args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    for words in says {
        assert!(
            stderr.contains(words),
            "{args:?}: no `{words}` in: {stderr}"
        );
    }
    assert!(
        output.stdout.is_empty() && !stderr.contains("defect"),
        "{stderr}"
    );
    let left = fs::read_dir(folder.path()).expect("readable").count();
    assert_eq!(left, 0, "{args:?}");
}

#[test]
fn every_claim_stands_once_with_numbers_and_a_verdict() {
    let ids: Vec<&str> = LEDGER.iter().map(|claim| claim.id).collect();
    let all: Vec<String> = (1..=15).map(|number| format!("W{number}")).collect();
    assert_eq!(ids, all);
    let grounds = Grounds::new(Vec::new(), Vec::new()).expect("the program's own configs");
    for claim in &LEDGER {
        let points = (claim.check)(&grounds).expect("a check");
        assert!(
            !points.is_empty() && !claim.statement.is_empty(),
            "{}",
            claim.id
        );
        for point in points {
            // No number is stated of the ninth alone: it is a table.
            assert_eq!(point.stated.is_none(), claim.id == "W9", "{}", claim.id);
            assert!(point.stated.is_none_or(|stated| stated.value() > 0.0));
            assert!(
                !point.is_measured() && !point.measure.is_empty(),
                "{}",
                claim.id
            );
            let (name, by) = (point.verdict.name(), point.verdict.figure());
            let decided = name != "not testable here";
            assert!(!decided || by.is_some(), "{}", claim.id);
            let own = by.is_some_and(|by| by.basis.is_own());
            assert!(name != "reproduced" || own, "{}", claim.id);
            assert!(
                point.figures.iter().all(|f| f.value.is_finite()),
                "{}",
                claim.id
            );
        }
    }
}

#[test]
fn the_report_is_the_committed_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = darkroom(folder.path(), &["claims", "--report", "new/report"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let told = String::from_utf8(output.stdout).expect("UTF-8");
    let bless = std::env::var_os("DARKROOM_BLESS").is_some();
    let mut names = Vec::new();
    for entry in fs::read_dir(folder.path().join("new/report")).expect("it was made") {
        let path = entry.expect("readable").path();
        let name = path
            .file_name()
            .expect("a file")
            .to_string_lossy()
            .into_owned();
        let made = fs::read_to_string(&path).expect("text");
        let committed = here(REPORT).join(&name);
        if bless {
            fs::create_dir_all(here(REPORT)).expect("a folder");
            fs::write(&committed, &made).expect("room for it");
        }
        let expected = fs::read_to_string(&committed).unwrap_or_default();
        let mut lines = made.lines().zip(expected.lines());
        let differs = lines.find(|(a, b)| a != b);
        assert!(
            differs.is_none() && made.lines().count() == expected.lines().count(),
            "{name} is not the committed one (DARKROOM_BLESS=1 writes it anew): {differs:?}"
        );
        assert!(told.contains(&name), "{told}");
        names.push(name);
    }
    names.sort();
    let whole = [
        "REPORT.md",
        "batch-memory.svg",
        "cost-latency.svg",
        "differences.svg",
    ];
    assert_eq!(names, whole);
    // Only what the claims asked for have to show is drawn.
    for (id, plots) in [
        ("W4", &["differences.svg"][..]),
        ("W7", &["batch-memory.svg", "differences.svg"]),
        ("W9", &["cost-latency.svg"]),
    ] {
        let args = ["claims", id, "--report", id];
        assert!(darkroom(folder.path(), &args).status.success(), "{id}");
        let entries = fs::read_dir(folder.path().join(id)).expect("it was made");
        let names = entries.map(|e| e.expect("readable").file_name().into_string());
        let mut names: Vec<String> = names.map(|name| name.expect("UTF-8")).collect();
        names.sort();
        assert_eq!(
            (names[0].as_str(), &names[1..]),
            (
                "REPORT.md",
                &plots.iter().map(|p| p.to_string()).collect::<Vec<_>>()[..]
            ),
            "{id}"
        );
        let report = fs::read_to_string(folder.path().join(id).join("REPORT.md")).expect("text");
        assert_eq!(report.matches(".svg)").count(), plots.len(), "{id}");
    }
    // A second time, nothing is replaced unless asked.
    let again = darkroom(folder.path(), &["claims", "W4", "--report", "new/report"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("exists already"));
    let forced = ["claims", "W4", "--report", "new/report", "--force"];
    assert!(darkroom(folder.path(), &forced).status.success());
    let markdown = fs::read_to_string(folder.path().join("new/report/REPORT.md")).expect("text");
    assert_eq!(markdown, prints(&["claims", "W4", "--markdown"]));
}

#[test]
fn the_table_and_the_record_agree() {
    let text = prints(&["claims", "w4", "W15"]);
    for words in [
        "4.9 ×",
        "5.00 ×",
        "arithmetic error: the formula, 34 B over 6.8 B",
        "to measure it: no command: darkroom does not train",
        "2 claims: arithmetic error 1, not testable here 1",
        "measured (runs in the program): AMD EPYC, 2 threads",
    ] {
        assert!(text.contains(words), "`{words}` is not in:\n{text}");
    }
    // It is read on a terminal, and in a pipe within a hundred columns.
    for line in prints(&["claims"]).lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    let given = prints(&["claims", "W1", "--run", &here(RUN).to_string_lossy()]);
    assert!(given.contains("measured (runs given): AMD EPYC"), "{given}");
    let record = record(&["claims", "--json"]);
    assert_eq!(record["schema"], 2);
    let claims = record["claims"].as_array().expect("a list");
    assert_eq!((claims.len(), &claims[3]["id"]), (15, &json!("W4")));
    let ratio = &claims[3]["points"][0];
    assert_eq!(ratio["stated_value"], 4.9);
    assert_eq!(ratio["verdict"]["kind"], "arithmetic_error");
    assert!((ratio["verdict"]["by"]["value"].as_f64().expect("a number") - 5.0).abs() < 1e-9);
    assert_eq!(ratio["difference"], "+2.0 %");
}

#[test]
fn a_figure_is_its_devices_and_judges_only_under_the_papers_conditions() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let line = fs::read_to_string(here(RUN)).expect("a committed run");
    let on_cpu: Run = serde_json::from_str(&line).expect("one record");
    let w1 = |run: &Run| {
        let line = serde_json::to_string(run).expect("JSON");
        fs::write(folder.path().join("run.jsonl"), line).expect("room for it");
        let output = darkroom(
            folder.path(),
            &["claims", "W1", "--run", "run.jsonl", "--json"],
        );
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let record: Value = serde_json::from_slice(&output.stdout).expect("one JSON value");
        let point = record["claims"][0]["points"][0].clone();
        let figures = point["figures"].as_array().expect("a list").clone();
        let measured = figures
            .into_iter()
            .find(|f| f["basis"]["kind"] == "measured");
        let measured = measured.expect("a measured figure");
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        (
            text(&measured["basis"]["device"]),
            text(&measured["bearing"]),
            text(&point["verdict"]["kind"]),
        )
    };
    let is = |device: &str, bearing: &str, verdict: &str| {
        (device.to_owned(), bearing.to_owned(), verdict.to_owned())
    };
    let found = w1(&on_cpu);
    assert_eq!(found, is("AMD EPYC, 2 threads", "context", "not_testable"));

    // As `bench --device cuda` writes it: the GPU's name, and limits of the device table.
    let on_gpu = |name: &str, seconds: f64| {
        let mut run = on_cpu.clone();
        run.device = "cuda:0".into();
        run.gpu = Some(name.into());
        run.driver = Some(format!("{name}, CUDA 12.8, driver 570.1"));
        if let Some(device) = Device::called(name) {
            run.limits = device.limits();
        }
        let request = &mut run.request;
        (request.height_px, request.width_px, request.steps) = (1024, 1024, 30);
        request.precision = Precision::all(Dtype::F16);
        run.images_per_s = Some(1.0 / seconds);
        run
    };
    for (name, seconds, bearing, verdict) in [
        ("NVIDIA H800", 2.7, "same", "reproduced"),
        ("NVIDIA H100 80GB HBM3", 1.4, "same", "contradicted"),
        // Another GPU, and one that the table does not have.
        ("NVIDIA A100-SXM4-80GB", 2.7, "comparable", "not_testable"),
        ("NVIDIA H100 PCIe", 2.7, "comparable", "not_testable"),
    ] {
        let found = w1(&on_gpu(name, seconds));
        assert_eq!(found, is(name, bearing, verdict));
    }
    // Two steps are not the paper's image.
    let mut run = on_gpu("NVIDIA H800", 1.4);
    run.request.steps = 2;
    assert_eq!(w1(&run), is("NVIDIA H800", "context", "not_testable"));
    // The CPU beside a GPU of which no name is on record is not what ran.
    let mut run = on_gpu("NVIDIA H800", 2.7);
    (run.gpu, run.limits) = (None, on_cpu.limits.clone());
    let nameless = "cuda:0, a GPU whose name is not on record";
    assert_eq!(w1(&run), is(nameless, "comparable", "not_testable"));
}

#[test]
fn a_validation_is_read_beside_a_benchmark_and_only_what_it_counted_is_measured() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("both.jsonl");
    let bench = fs::read_to_string(here(RUN)).expect("a committed run");
    let line = fs::read_to_string(here(VALIDATION)).expect("a committed validation");
    let mut validation: Value = serde_json::from_str(&line).expect("one record");
    let w5 = |validation: &Value| {
        fs::write(&file, format!("{bench}{validation}\n")).expect("room for it");
        let record = record(&["claims", "W5", "--json", "--run", &file.to_string_lossy()]);
        assert_eq!(record["runs"].as_array().map(Vec::len), Some(2));
        let point = record["claims"][0]["points"][0].clone();
        let figures = point["figures"].as_array().expect("a list").clone();
        let measured = figures
            .into_iter()
            .filter(|f| f["basis"]["kind"] == "measured");
        (measured.collect::<Vec<_>>(), point["measured"].clone())
    };
    // The benchmark is of float32; the peak, the UNet and the saving are the validation's.
    let (figures, measured) = w5(&validation);
    assert_eq!((figures.len(), &measured), (3, &json!(false)));
    let device = "AMD EPYC, 2 threads";
    assert!(
        figures
            .iter()
            .all(|f| f["basis"]["device"] == device && f["bearing"] == "context")
    );

    // At the white paper's size the peak judges.
    for edge in ["height_px", "width_px"] {
        validation["request"][edge] = 1024.into();
    }
    let (figures, measured) = w5(&validation);
    assert_eq!(
        (&figures[0]["bearing"], &measured),
        (&json!("same"), &json!(true))
    );

    // On a GPU the pool is counted, and no part of the model.
    let mut on_gpu = validation.clone();
    (on_gpu["device"], on_gpu["gpu"]) = (json!("cuda:0"), json!("NVIDIA H100 80GB HBM3"));
    for part in on_gpu["memory"]["components"]
        .as_array_mut()
        .expect("a list")
    {
        for side in ["twin", "int8"] {
            part["memory"][side]["measured_bytes"] = Value::Null;
        }
    }
    let (figures, measured) = w5(&on_gpu);
    assert_eq!((figures.len(), &measured), (1, &json!(true)));
    assert_eq!(figures[0]["basis"]["device"], "NVIDIA H100 80GB HBM3");

    // What was forecast alone is not measured.
    for stage in validation["memory"]["stages"]
        .as_array_mut()
        .expect("a list")
    {
        stage["peak"]["int8"]["measured_bytes"] = Value::Null;
    }
    let (figures, measured) = w5(&validation);
    assert_eq!((figures.len(), &measured), (2, &json!(false)));

    let path = file.to_string_lossy();
    let refused = |says: &str, change: &dyn Fn(&mut Value)| {
        let mut wrong: Value = serde_json::from_str(&line).expect("one record");
        change(&mut wrong);
        fs::write(&file, format!("{bench}{wrong}\n")).expect("room for it");
        refuses(
            1,
            &["both.jsonl", "line 2", says],
            &["claims", "--run", &path],
        );
    };
    refused("schema 99", &|record| record["schema"] = 99.into());
    refused("not a validation's record", &|record| {
        record["memory"] = json!({})
    });
    refused("`ratio`", &|record| record["speed"][0]["ratio"] = 0.into());
}

#[test]
fn wrong_claims_and_runs_are_refused() {
    refuses(
        2,
        &["unknown claim `W16`: there are W1 to W15"],
        &["claims", "W16"],
    );
    refuses(2, &["--json"], &["claims", "--json", "--markdown"]);
    refuses(1, &["gone.jsonl"], &["claims", "--run", "gone.jsonl"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bad.jsonl");
    let name = path.to_string_lossy();
    for (text, says) in [
        ("{\"schema\": 99}\n", "schema 99"),
        (
            "{\"schema\": 99, \"limits\": null}\n",
            "bad.jsonl: line 1 has schema 99",
        ),
        (
            "{\"schema\": \"1\", \"limits\": null}\n",
            "its `schema` is no whole number",
        ),
        (
            "{\n  \"schema\": 1,\n  \"stages\": []\n}\n",
            "schema 1, but of another kind",
        ),
        ("{\"schema\": 1}\n", "schema 1, but of another kind"),
        ("nonsense\n", "line 1"),
        ("{}\n", "no `schema`"),
        ("", "holds no record"),
    ] {
        fs::write(&path, text).expect("room for it");
        refuses(1, &["bad.jsonl", says], &["claims", "--run", &name]);
    }
    fs::write(&path, [0xff, 0xfe]).expect("room for it");
    refuses(1, &["bad.jsonl: is no text"], &["claims", "--run", &name]);
    let folder_name = folder.path().to_string_lossy();
    refuses(1, &["is a folder"], &["claims", "--run", &folder_name]);
    // A report is not begun where a run is unreadable, or its place is taken.
    refuses(
        1,
        &["bad.jsonl"],
        &["claims", "--run", &name, "--report", "out"],
    );
    refuses(1, &["bad.jsonl"], &["claims", "--report", &name]);
}

#[test]
fn advice_is_arithmetic_on_its_forecasts() {
    let workload = [
        "--images-per-day",
        "864000",
        "--steps",
        "20",
        "--price",
        "H100=3.6",
    ];
    let record = record(&[&["advise", "--json"], &workload[..]].concat());
    assert_eq!(
        (&record["schema"], &record["steps"]),
        (&json!(2), &json!(20))
    );
    let offers = record["offers"].as_array().expect("a list");
    assert_eq!(offers.len(), 18);
    let number = |value: &Value| value.as_f64().expect("a number");
    let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
    for offer in offers {
        let precision = &offer["precision"];
        let calibrations = record["calibrations"].as_array().expect("a list");
        let calibration = calibrations.iter().find(|c| c["precision"] == *precision);
        let factor = number(&calibration.expect("one a precision")["factor"]);
        assert!(close(
            number(&offer["latency_s"]),
            factor * number(&offer["bound_s"])
        ));
        let rate = number(&offer["images_per_s"]);
        assert!(close(
            number(&offer["useful_batch"]) / rate,
            number(&offer["useful_batch_s"])
        ));
        let cost = number(&offer["dollars_per_hour"]) / 3600.0 / rate;
        assert!(close(number(&offer["dollars_per_image"]), cost));
        // Ten images a second.
        assert_eq!(number(&offer["gpus"]), (10.0 / rate).ceil());
        assert!(number(&offer["useful_batch"]) <= number(&offer["largest_batch"]));
    }
    let h100 = &offers[0];
    assert_eq!(
        (&h100["device"], &h100["price_source"]),
        (&json!("h100"), &json!("--price"))
    );
    let of = |choice: &str, field: &str| {
        let chosen = &record[choice];
        let is = |offer: &&Value| {
            offer["device"] == chosen["device"] && offer["precision"] == chosen["precision"]
        };
        number(&offers.iter().find(is).expect("an offer")[field])
    };
    let least = |field: &str| {
        offers
            .iter()
            .map(|o| number(&o[field]))
            .fold(f64::MAX, f64::min)
    };
    assert_eq!(of("cheapest", "dollars_per_day"), least("dollars_per_day"));
    assert_eq!(of("fastest", "latency_s"), least("latency_s"));
    // One figure's errors are printed as they are: published 1.471 s.
    let text = prints(&["advise"]);
    for words in [
        "cheapest: ",
        "fastest: ",
        "1.47 s",
        "by the others",
        "RunPod",
        "TDP",
        "fp8",
    ] {
        assert!(text.contains(words), "`{words}` is not in:\n{text}");
    }
    assert!(!prints(&["advise", "--quality", "reference"]).contains(" w8a8  "));
    // A hundred images a day never wait for each other.
    let few: Value =
        serde_json::from_str(&prints(&["advise", "--images-per-day", "100", "--json"]))
            .expect("JSON");
    let offers = few["offers"].as_array().expect("a list");
    assert!(offers.iter().all(|offer| offer["useful_batch"] == 1));
}

#[test]
fn advice_is_drawn_and_bounded_and_wrong_workloads_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let drawn = darkroom(
        folder.path(),
        &["advise", "--plot", "cost.svg", "--latency", "2"],
    );
    assert!(
        drawn.status.success(),
        "{}",
        String::from_utf8_lossy(&drawn.stderr)
    );
    let svg = fs::read_to_string(folder.path().join("cost.svg")).expect("text");
    assert!(svg.contains("b200") && svg.ends_with("</svg>\n"));
    let text = String::from_utf8(drawn.stdout).expect("UTF-8");
    let l4 = text.lines().find(|line| line.starts_with("l4 "));
    assert!(l4.is_some_and(|line| line.ends_with("no")), "{text}");

    refuses(
        1,
        &["in 0.001 s", "b200", "--steps"],
        &["advise", "--latency", "0.001"],
    );
    refuses(1, &["fits on no device"], &["advise", "--size", "32768"]);
    refuses(2, &["--price", "NAME=USD"], &["advise", "--price", "h100"]);
    refuses(
        2,
        &["abacus", "rtx-4090"],
        &["advise", "--price", "abacus=1"],
    );
    refuses(2, &["above 0"], &["advise", "--price", "h100=-2"]);
    refuses(2, &["above 0"], &["advise", "--images-per-day", "nan"]);
    refuses(2, &[".svg or .png"], &["advise", "--plot", "cost.pdf"]);
    refuses(2, &["multiple of 8"], &["advise", "--size", "65"]);
    refuses(
        2,
        &["--quality"],
        &["advise", "--precision", "half", "--quality", "mlperf"],
    );
}
