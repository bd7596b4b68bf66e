//! `darkroom claims` and `darkroom advise`: the ledger is whole, the report is the committed one, and
//! what is wrong is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use darkroom::claims::LEDGER;
use darkroom::claims::grounds::Grounds;
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
            let decided = point.verdict.name() != "not testable here";
            assert!(!decided || point.verdict.figure().is_some(), "{}", claim.id);
            assert!(
                point.figures.iter().all(|f| f.value.is_finite()),
                "{}",
                claim.id
            );
        }
    }
}

/// Whether lines say the same: equal words, and numbers within 2 %. Memory forecasts count this CPU's
/// own kernels' layouts and scratch, which differ in the third digit from one processor to another.
fn alike(a: &str, b: &str) -> bool {
    let split = |line: &str| -> (String, Vec<f64>) {
        let number = |c: char| c.is_ascii_digit() || c == '.';
        let words = line.split(|c| !number(c)).filter(|word| !word.is_empty());
        let numbers = words.filter_map(|word| word.trim_matches('.').parse().ok());
        (line.replace(number, ""), numbers.collect())
    };
    let ((words_a, a), (words_b, b)) = (split(a), split(b));
    let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 0.02 * a.abs().max(b.abs()).max(5.0);
    words_a == words_b && a.len() == b.len() && a.iter().zip(&b).all(near)
}

#[test]
fn lines_are_alike_up_to_the_third_digit() {
    assert!(alike(
        "| W5 | 7.79 GB | -37.2 % |",
        "| W5 | 7.81 GB | -37.0 % |"
    ));
    assert!(!alike("| W5 | 7.79 GB |", "| W5 | 8.79 GB |"));
    assert!(!alike("| W5 | contradicted |", "| W5 | reproduced |"));
    assert!(!alike("| 12 GPUs | 3 |", "| 12 GPUs |"));
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
        let differs = lines.find(|(a, b)| !alike(a, b));
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
        "arithmetic error, +2.0 %",
        "to measure it: no command: darkroom does not train",
        "2 claims: arithmetic error 2",
        "measured on: AMD EPYC, 2 threads",
    ] {
        assert!(text.contains(words), "`{words}` is not in:\n{text}");
    }
    let record = record(&["claims", "--json"]);
    assert_eq!(record["schema"], 1);
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
    let mut run: Value = serde_json::from_str(&line).expect("one record");
    let w1 = |run: &Value| {
        fs::write(folder.path().join("run.jsonl"), format!("{run}\n")).expect("room for it");
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
        (
            measured.expect("a measured figure"),
            point["verdict"].clone(),
        )
    };
    let (measured, verdict) = w1(&run);
    assert_eq!(measured["basis"]["device"], "AMD EPYC, 2 threads");
    assert_eq!(measured["basis"]["run"], "run.jsonl");
    assert_eq!(measured["bearing"], "context");
    assert_eq!(verdict["kind"], "not_testable");

    run["device"] = "cuda:0".into();
    run["limits"]["name"] = "NVIDIA H800 SXM".into();
    for edge in ["height_px", "width_px"] {
        run["request"][edge] = 1024.into();
    }
    run["request"]["steps"] = 30.into();
    for part in ["text_encoder", "unet", "vae"] {
        run["request"]["precision"][part] = "bf16".into();
    }
    run["images_per_s"] = json!(1.0 / 2.7);
    let (measured, verdict) = w1(&run);
    assert_eq!(measured["basis"]["device"], "NVIDIA H800 SXM");
    assert_eq!(
        (&measured["bearing"], &verdict["kind"]),
        (&json!("same"), &json!("reproduced"))
    );
    run["images_per_s"] = json!(1.0 / 1.4);
    assert_eq!(w1(&run).1["kind"], "contradicted");
    // Two steps are not the paper's image.
    run["request"]["steps"] = 2.into();
    assert_eq!(w1(&run).1["kind"], "not_testable");
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
    refuses(2, &["`W16` is no claim", "W1 to W15"], &["claims", "W16"]);
    refuses(2, &["--json"], &["claims", "--json", "--markdown"]);
    refuses(1, &["gone.jsonl"], &["claims", "--run", "gone.jsonl"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bad.jsonl");
    let name = path.to_string_lossy();
    for (text, says) in [
        ("{\"schema\": 99}\n", "schema 99"),
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
        "h100=3.6",
    ];
    let record = record(&[&["advise", "--json"], &workload[..]].concat());
    assert_eq!(
        (&record["schema"], &record["steps"]),
        (&json!(1), &json!(20))
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
