//! `darkroom bench` on the embedded model: what it prints and writes, and that the figures agree with
//! each other.

#[path = "support/room.rs"]
mod room;

use std::fs;
use std::process::{Command, Stdio};

use darkroom::measure::record::Run;
use serde_json::{Value, json};

use room::{Room, stderr};

/// A small run: two steps at 64×64, three times.
const QUICK: [&str; 7] = ["bench", "--size", "64", "--steps", "2", "--warmup", "0"];

/// Stages of a text-to-image run.
const STAGES: [&str; 4] = ["text_encode", "denoise", "vae_decode", "post_process"];

impl Room {
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        let text = self.read(name);
        let parse = |line| serde_json::from_str(line).expect("a JSON value a line");
        text.lines().map(parse).collect()
    }

    fn write_lines(&self, name: &str, lines: &[Value]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(self.path(name), text).expect("room for it");
    }
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

fn numbers(value: &Value) -> Vec<f64> {
    let values = value.as_array().expect("an array");
    values.iter().map(number).collect()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

#[test]
fn a_benchmark_tells_time_memory_and_work() {
    let room = Room::new();
    let extra = [
        "--batch", "1,2", "--by", "op,step", "--json", "a.jsonl", "--plot", "p.png", "--trace",
        "t.json",
    ];
    let output = room.run(&[&QUICK[..], &extra].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let told = stderr(&output);
    assert!(
        told.contains("repeat 3 of 3") && told.contains("batch 2"),
        "{told}"
    );
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    assert_table(&table);

    let runs = room.lines("a.jsonl");
    assert_eq!(runs.len(), 2);
    for (run, batch) in runs.iter().zip([1, 2]) {
        assert_eq!(run["request"]["count"], batch);
        assert_run(run);
    }
    let (one, two) = (&runs[0]["stages"][1], &runs[1]["stages"][1]);
    let macs = |stage: &Value| number(&stage["forecast"]["macs"]);
    assert!(
        macs(two) > 1.9 * macs(one),
        "twice the images, twice the work"
    );

    assert_trace(&serde_json::from_str(&room.read("t.json")).expect("JSON"));
    let picture = image::open(room.path("p.png"))
        .expect("a PNG file")
        .into_rgb8();
    assert_eq!(picture.dimensions(), (1840, 1320));
    // White paper, and ink of both colours in both runs' halves.
    for half in [0..660, 660..1320] {
        for color in [[0, 114, 178], [230, 159, 0]] {
            let of_color = |y: &u32| {
                (0..1840)
                    .filter(|&x| picture.get_pixel(x, *y).0 == color)
                    .count()
            };
            let ink: usize = half.clone().map(|y| of_color(&y)).sum();
            assert!(ink > 500, "{color:?}: {ink}");
        }
    }
    assert_eq!(room.files(), ["a.jsonl", "p.png", "t.json"]);
}

/// Every stage has its row and every row its columns; what explains them follows.
fn assert_table(table: &str) {
    let head = table
        .lines()
        .find(|line| line.starts_with("stage "))
        .expect("a head");
    let columns: Vec<&str> = head
        .split("  ")
        .map(str::trim)
        .filter(|c| !c.is_empty())
        .collect();
    assert_eq!(
        columns,
        [
            "stage",
            "p50",
            "p95",
            "share",
            "forecast",
            "achieved",
            "peak memory",
            "forecast",
            "error"
        ]
    );
    for stage in STAGES.iter().chain(&["total"]) {
        let row = table
            .lines()
            .find(|line| line.starts_with(stage))
            .expect("a row");
        let cells = row.split("  ").filter(|c| !c.trim().is_empty()).count();
        assert_eq!(cells, columns.len(), "{row}");
    }
    for words in [
        "loading",
        "vocabulary",
        "text_encoder",
        "unet",
        "vae",
        "peak ",
        "resident",
        "throughput",
        "limits",
        "measuring",
        "denoise step",
        "denoise, by operation",
        "all linear",
        "all conv2d",
        "outside operations",
        "beyond the forecast",
        "GFLOP/s",
        "GB/s",
    ] {
        assert!(table.contains(words), "{words}: {table}");
    }
}

/// A run's figures agree with each other.
fn assert_run(run: &Value) {
    assert_eq!((&run["schema"], &run["device"]), (&json!(1), &json!("cpu")));
    let read: Run = serde_json::from_value(run.clone()).expect("a record");
    let written = serde_json::to_value(&read).expect("JSON");
    assert_eq!(&written, run, "reading and writing lose nothing");
    assert_eq!(
        (&run["driver"], &run["error"]),
        (&Value::Null, &Value::Null)
    );
    assert!(run["timestamp"].as_str().is_some_and(|t| t.ends_with('Z')));
    for known in [
        "version",
        "build",
        "machine",
        "limits",
        "request",
        "overhead",
        "model_fingerprint",
    ] {
        assert!(!run[known].is_null(), "{known}");
    }
    let stages = run["stages"].as_array().expect("stages");
    let names: Vec<&str> = stages.iter().filter_map(|s| s["stage"].as_str()).collect();
    assert_eq!(names, STAGES);
    let mut share = 0.0;
    let mut sums = vec![0.0; 3];
    for stage in stages {
        let name = &stage["stage"];
        let samples = numbers(&stage["samples_ms"]);
        assert_eq!(samples.len(), 3, "{name}");
        share += number(&stage["share"]);
        let steps = stage["steps_ms"].as_array().expect("steps");
        for (i, &ms) in samples.iter().enumerate() {
            sums[i] += ms;
            let steps: f64 = numbers(&steps[i]).iter().sum();
            assert!(steps <= ms, "{name}: steps of {steps} in {ms}");
            let ops = stage["ops"].as_array().into_iter().flatten();
            let ops: f64 = ops.map(|op| number(&op["samples_ms"][i])).sum();
            assert!(ops <= ms, "{name}: operations of {ops} in {ms}");
        }
        let memory = &stage["memory"];
        assert!(number(&memory["peak_bytes"]) >= number(&memory["begin_bytes"]));
        assert!(number(&stage["resident_peak_bytes"]) > 0.0);
        // The forecast's operations are those that ran.
        let flops = |op: &Value| 2.0 * number(&op["macs"]) + number(&op["other_flops"]);
        let ops = stage["ops"].as_array().into_iter().flatten();
        let ran: f64 = ops.map(|op| number(&op["calls"]) * flops(op)).sum();
        assert_eq!(ran, number(&stage["forecast"]["flops"]), "{name}");
    }
    assert!(close(share, 1.0), "{share}");
    let total = numbers(&run["total"]["samples_ms"]);
    assert!(
        total.iter().zip(&sums).all(|(&a, &b)| close(a, b)),
        "{total:?} {sums:?}"
    );
    let rate = number(&run["request"]["count"]) * 1e3 / number(&run["total"]["p50_ms"]);
    assert!(close(rate, number(&run["images_per_s"])));

    let peak = &run["peak"];
    let parts = [
        "weights_bytes",
        "activations_bytes",
        "workspace_bytes",
        "program_bytes",
    ];
    let parts: f64 = parts.iter().map(|part| number(&peak[part])).sum();
    assert_eq!(parts, number(&peak["bytes"]));
    let components = run["components"].as_array().expect("components");
    let weights: f64 = components.iter().map(|c| number(&c["bytes"])).sum();
    let off = weights / number(&peak["weights_bytes"]) - 1.0;
    assert!(off.abs() < 0.01, "{weights} of {peak}");
    let overhead = &run["overhead"];
    assert!(
        number(&overhead["share"]) < 0.01,
        "measuring took too much: {overhead}"
    );
    assert!(number(&overhead["ops"]) > 100.0 && number(&overhead["op_ns"]) > 0.0);
}

/// Operations lie in steps, steps in stages; a track shows the heap.
fn assert_trace(trace: &Value) {
    let events = trace["traceEvents"].as_array().expect("events");
    let of = |pid: i64, category: &str| -> Vec<(f64, f64)> {
        events
            .iter()
            .filter(|e| e["pid"] == pid && e["cat"] == category)
            .map(|e| (number(&e["ts"]), number(&e["ts"]) + number(&e["dur"])))
            .collect()
    };
    let inside = |inner: &(f64, f64), outer: &[(f64, f64)]| {
        outer.iter().any(|o| o.0 <= inner.0 && inner.1 <= o.1)
    };
    // The first process is loading, then one a run: of one image, of two.
    for (pid, batch) in [(2, 1), (3, 2)] {
        let [stages, steps, ops] = ["stage", "step", "op"].map(|category| of(pid, category));
        assert_eq!(stages.len(), STAGES.len());
        assert_eq!(
            steps.len(),
            2 + batch,
            "two of denoising, one for each image decoded"
        );
        assert!(ops.len() > 200, "{}", ops.len());
        assert!(steps.iter().all(|step| inside(step, &stages)));
        assert!(ops.iter().all(|op| inside(op, &stages)));
        let denoise = ops.iter().filter(|op| inside(op, &steps)).count();
        assert!(denoise > 200, "{denoise}");
    }
    let conv = events
        .iter()
        .find(|e| e["name"] == "conv2d")
        .expect("a convolution");
    assert!(conv["args"]["flops"].as_u64() > Some(0) && conv["args"]["sizes"].is_string());
    let heap = |e: &&Value| e["ph"] == "C" && number(&e["args"]["bytes"]) > 1e6;
    assert!(events.iter().filter(heap).count() > 400);
}

#[test]
fn a_plot_can_be_an_svg_and_json_can_go_to_stdout() {
    let room = Room::new();
    let extra = ["--repeat", "1", "--json", "-", "--plot", "p.svg", "--quiet"];
    let output = room.run(&[&QUICK[..], &extra].concat());
    assert_eq!(stderr(&output), "");
    let run: Value = serde_json::from_slice(&output.stdout).expect("one JSON value");
    assert_eq!(
        run["stages"][1]["samples_ms"].as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(run["stages"][1]["ops"], Value::Null, "not asked for");
    let svg = room.read("p.svg");
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    for words in [
        "measured",
        "forecast peak",
        "denoise",
        "64x64",
        "<polygon",
        "sans-serif",
    ] {
        assert!(svg.contains(words), "{words}");
    }
}

#[test]
fn compare_tells_a_change_from_noise() {
    let room = Room::new();
    room.prints(&[&QUICK[..], &["--json", "a.jsonl"]].concat());
    let compare = ["bench", "compare", "a.jsonl"];

    // With itself: nothing.
    let same = room.prints(&[&compare[..], &["a.jsonl", "--fail-above", "0"]].concat());
    for stage in STAGES.iter().chain(&["total"]) {
        let row = same
            .lines()
            .find(|line| line.starts_with(stage))
            .expect("a row");
        assert!(
            row.contains("within noise") && row.ends_with("none"),
            "{row}"
        );
        assert!(row.contains("1.000") && row.contains("(90 %)"), "{row}");
    }
    let load = same
        .lines()
        .find(|line| line.starts_with("load"))
        .expect("a row");
    assert!(load.contains("noise unknown"), "{load}");

    // Denoising ten times as slow and a bit larger, on another machine.
    let mut slow = room.lines("a.jsonl");
    let denoise = &mut slow[0]["stages"][1];
    let samples = numbers(&denoise["samples_ms"]).into_iter();
    denoise["samples_ms"] = samples.map(|ms| ms * 10.0).collect();
    let peak = denoise["memory"]["peak_bytes"].as_u64().expect("bytes");
    denoise["memory"]["peak_bytes"] = (peak + 1000).into();
    slow[0]["machine"]["cpu"] = "another".into();
    room.write_lines("b.jsonl", &slow);
    let text = room.prints(&[&compare[..], &["b.jsonl"]].concat());
    let row = text
        .lines()
        .find(|line| line.starts_with("denoise"))
        .expect("a row");
    assert!(row.contains("slower") && row.ends_with("+1000 B"), "{row}");
    assert!(text.contains("another machine"), "{text}");
    room.refuses(
        1,
        &["denoise", "more than 50.0 %"],
        &[&compare[..], &["b.jsonl", "--fail-above", "50"]].concat(),
    );
    room.prints(&[
        "bench",
        "compare",
        "b.jsonl",
        "a.jsonl",
        "--fail-above",
        "0",
    ]);
    let report = room.prints(&[&compare[..], &["b.jsonl", "--json"]].concat());
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let row = &report["pairs"][0]["rows"][2];
    assert_eq!(
        (&report["schema"], &row["time"]),
        (&json!(1), &json!("slower"))
    );

    // Two samples say nothing about noise.
    let mut few = slow.clone();
    for stage in few[0]["stages"].as_array_mut().expect("stages") {
        stage["samples_ms"].as_array_mut().expect("samples").pop();
    }
    few[0]["total"]["samples_ms"]
        .as_array_mut()
        .expect("samples")
        .pop();
    room.write_lines("few.jsonl", &few);
    let output = room.run(&[&compare[..], &["few.jsonl", "--fail-above", "1"]].concat());
    assert!(output.status.success() && stderr(&output).contains("too few repeats"));

    // Runs of other work, of another schema, and files that are none.
    let mut other = slow.clone();
    other[0]["request"]["steps"] = 3.into();
    let future = json!({ "schema": 99 });
    room.write_lines(
        "other.jsonl",
        &[other[0].clone(), slow[0].clone(), future.clone()],
    );
    let output = room.run(&[&compare[..], &["other.jsonl"]].concat());
    let told = stderr(&output);
    assert!(output.status.success(), "{told}");
    assert!(
        told.contains("no partner") && told.contains("3 steps") && told.contains("schema 99"),
        "{told}"
    );
    room.write_lines("none.jsonl", &[other[0].clone()]);
    room.refuses(
        1,
        &["nothing to compare"],
        &[&compare[..], &["none.jsonl"]].concat(),
    );
    let good = slow[0].to_string();
    let mut empty = slow[0].clone();
    empty["stages"][0]["samples_ms"] = json!([]);
    for (text, says) in [
        (format!("{good}\n{{\"schema\": 1,\n"), "bad.jsonl: line 2"),
        (format!("{good}\n\n{{\"schema\": 1}}\n"), "line 3"),
        ("{}\n".into(), "no `schema`"),
        (format!("{empty}\n"), "text_encode"),
        (String::new(), "holds no run"),
    ] {
        fs::write(room.path("bad.jsonl"), text).expect("room for it");
        room.refuses(
            1,
            &["bad.jsonl", says],
            &[&compare[..], &["bad.jsonl"]].concat(),
        );
    }
    room.refuses(
        1,
        &["gone.jsonl"],
        &[&compare[..], &["gone.jsonl"]].concat(),
    );
    room.refuses(
        2,
        &["--fail-above"],
        &[&compare[..], &["b.jsonl", "--fail-above", "nan"]].concat(),
    );
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_is_loaded() {
    let room = Room::new();
    fs::write(room.path("old.jsonl"), "old").expect("room for it");
    for (code, says, args) in [
        (1, "exists already", &["--json", "old.jsonl"][..]),
        (1, "two files", &["--json", "x", "--trace", "x"]),
        (2, ".svg or .png", &["--plot", "p.pdf"]),
        (2, "not a number of images", &["--batch", "0"]),
        (2, "multiple of", &["--size", "65"]),
        (1, "are free", &["--batch", "1,9000", "--size", "1024"]),
        (2, "neither an edge", &["--size", "large"]),
        (2, "auto", &["--batch", "many"]),
        (2, "--repeat", &["--repeat", "0"]),
        (2, "possible values", &["--by", "moon"]),
        (1, "CPU only", &["--device", "cuda"]),
        (1, "nosuch", &["--model", "nosuch"]),
    ] {
        room.refuses(code, &[says], &[&["bench", "--quiet"], args].concat());
    }
    assert_eq!(room.read("old.jsonl"), "old");
}

#[cfg(unix)]
#[test]
fn a_stopped_benchmark_keeps_what_was_measured() {
    use std::io::{BufRead, BufReader, Read};

    let room = Room::new();
    let args = [
        "bench", "--size", "64", "--steps", "40", "--batch", "1,16", "--repeat", "1", "--warmup",
        "0", "--json", "a.jsonl", "--trace", "t.json",
    ];
    let mut child = room
        .command(&args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary is built");
    let mut told = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("batch 16") {
        line.clear();
        assert!(
            told.read_line(&mut line).expect("readable") > 0,
            "ended early"
        );
    }
    // The first run is on the disk as soon as the second begins.
    assert_eq!(room.lines("a.jsonl").len(), 1);
    let sent = Command::new("kill")
        .args(["-s", "INT", &child.id().to_string()])
        .status();
    assert!(sent.expect("kill is there").success());
    let mut rest = String::new();
    told.read_to_string(&mut rest).expect("readable");
    assert_eq!(child.wait().expect("it ends").code(), Some(130), "{rest}");

    let runs = room.lines("a.jsonl");
    assert_eq!((runs.len(), &runs[0]["error"]), (2, &Value::Null));
    let stopped = &runs[1];
    assert!(
        stopped["error"]
            .as_str()
            .is_some_and(|e| e.contains("stopped")),
        "{stopped}"
    );
    assert_eq!(stopped["stages"], json!([]));
    let unfinished = stopped["unfinished"].as_array().expect("what began");
    assert!(unfinished.iter().all(|stage| stage["steps_ms"].is_array()));
    let trace: Value = serde_json::from_str(&room.read("t.json")).expect("JSON");
    assert!(
        trace["traceEvents"]
            .as_array()
            .is_some_and(|events| events.len() > 100)
    );
    // Both can be compared with a whole run: the stopped one has no stages to compare.
    let text = room.prints(&["bench", "compare", "a.jsonl", "a.jsonl"]);
    assert!(text.contains("did not end"), "{text}");
}
