//! The command itself, with the model in the binary: what it writes, and what it refuses.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use tempfile::TempDir;

const PROMPT: &str = "a red apple on a blue background";
/// Enough to notice a difference, quick enough to run often.
const QUICK: [&str; 2] = ["--steps", "2"];

/// A working folder of its own, in which commands are run.
struct Room(TempDir);

impl Room {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_darkroom"));
        command
            .current_dir(self.0.path())
            .env("HF_HOME", self.path("hub"))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command()
            .args(args)
            .output()
            .expect("the binary is built")
    }

    /// `generate` in two steps, which must succeed.
    fn generate(&self, args: &[&str]) -> Output {
        let output = self.run(&[&["generate"], args, &QUICK].concat());
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        output
    }

    /// A command that must fail with this exit code, these words, no panic and no new file.
    fn refuses(&self, code: i32, says: &[&str], args: &[&str]) {
        let before = self.files();
        let output = self.run(args);
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(
            stderr.contains("error: ") && !stderr.contains("defect"),
            "{stderr}"
        );
        for words in says {
            assert!(
                stderr.contains(words),
                "{args:?}: `{words}` is not in: {stderr}"
            );
        }
        assert!(output.stdout.is_empty(), "{args:?}");
        assert_eq!(self.files(), before, "{args:?}");
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("readable");
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let mut names: Vec<_> = entries
            .map(|entry| name(entry.expect("readable")))
            .collect();
        names.sort();
        names
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn safetensors(&self, name: &str, tensors: &[(&str, Tensor)]) {
        let tensors: HashMap<_, _> = tensors.iter().cloned().collect();
        candle_core::safetensors::save(&tensors, self.path(name)).expect("room for it");
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("exactly one JSON value on stdout")
}

fn sha256(bytes: &[u8]) -> String {
    darkroom::image_file::sha256_hex(bytes)
}

fn zeros(shape: &[usize], dtype: DType) -> Tensor {
    Tensor::zeros(shape, dtype, &Device::Cpu).expect("small")
}

#[test]
fn a_prompt_becomes_a_png_named_after_it() {
    let room = Room::new();
    let output = room.generate(&[PROMPT]);
    let name = "a-red-apple-on-a-blue-background-0.png";
    assert_eq!(stdout(&output), format!("{name}\n"));
    assert_eq!(room.files(), [name]);
    let image = image::open(room.path(name))
        .expect("a PNG file")
        .into_rgb8();
    assert_eq!(image.dimensions(), (128, 128));
    for stage in [
        "load",
        "text_encode",
        "denoise",
        "vae_decode",
        "post_process",
        "seed 0",
    ] {
        assert!(stderr(&output).contains(stage), "{}", stderr(&output));
    }
    assert!(
        !stderr(&output).contains('\x1b'),
        "no terminal, no terminal's codes"
    );

    // The same again takes a name that is free.
    let again = room.generate(&[PROMPT, "--quiet"]);
    let second = "a-red-apple-on-a-blue-background-0-2.png";
    assert_eq!(stdout(&again), format!("{second}\n"));
    assert_eq!(stderr(&again), "");
    assert!(room.read(name) == room.read(second));
}

#[test]
fn a_receipt_makes_the_same_file_again() {
    let room = Room::new();
    let all = [
        &[
            PROMPT,
            "--seed",
            "7",
            "--count",
            "2",
            "-o",
            "x.png",
            "--guidance",
            "3.3",
        ][..],
        &[
            "--negative",
            "blurry, 模糊",
            "--width",
            "64",
            "--crop",
            "8,0",
            "--original-size",
        ],
        &[
            "256x200",
            "--scheduler",
            "euler-a",
            "--guidance-rescale",
            "0.7",
            "--vae-tile",
            "16",
        ],
    ];
    room.generate(&all.concat());
    assert_eq!(room.files(), ["x-000.png", "x-001.png"]);
    for name in ["x-000.png", "x-001.png"] {
        room.run(&["generate", "--from", name, "-o", "again.png", "--force"]);
        assert!(room.read("again.png") == room.read(name), "{name}");
    }
    assert!(room.read("x-000.png") != room.read("x-001.png"));

    // An option beside it changes its request, and nothing else of it.
    room.generate(&[
        "--from",
        "x-001.png",
        "-o",
        "other.png",
        "--negative",
        "sharp",
    ]);
    let of = |name: &str| json(&room.run(&["inspect", name, "--json"]))["request"].clone();
    let (mut before, after) = (of("x-001.png"), of("other.png"));
    assert_eq!((&before["seed"], &before["count"]), (&8.into(), &1.into()));
    before["negative"] = "sharp".into();
    assert_eq!(before, after);
}

#[test]
fn the_record_is_one_json_value_and_true() {
    let room = Room::new();
    let args = [
        PROMPT,
        "--json",
        "--count",
        "2",
        "--seed",
        "3",
        "-o",
        "out/",
        "--threads",
        "1",
    ];
    let record = json(&room.generate(&args));
    assert_eq!(record["schema"], 1);
    assert_eq!(record["model"], "micro");
    assert_eq!(record["seeds"], serde_json::json!([3, 4]));
    assert_eq!(
        (&record["width_px"], &record["height_px"]),
        (&128.into(), &128.into())
    );
    assert_eq!(
        (&record["steps"], &record["threads"]),
        (&2.into(), &1.into())
    );
    assert_eq!(
        (&record["device"], &record["scheduler"]),
        (&"cpu".into(), &"euler".into())
    );
    let stages = record["stage_ms"].as_object().expect("an object");
    let names: Vec<_> = stages.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "load",
            "text_encode",
            "denoise",
            "vae_decode",
            "post_process"
        ]
    );
    let stages_ms: f64 = stages
        .values()
        .map(|ms| ms.as_f64().expect("a number"))
        .sum();
    assert!(stages_ms > 0.0 && stages_ms <= record["total_ms"].as_f64().expect("a number"));
    let steps = record["denoise_step_ms"].as_array().expect("a list");
    assert_eq!(steps.len(), 2);
    let files = record["files"].as_array().expect("a list");
    assert_eq!(files.len(), 2);
    for (file, seed) in files.iter().zip([3, 4]) {
        let bytes = room.read(file["path"].as_str().expect("a path"));
        assert_eq!(file["sha256"], sha256(&bytes));
        assert_eq!(file["bytes"], bytes.len());
        assert_eq!(file["seed"], seed);
    }
}

#[test]
fn a_dump_holds_what_was_promised() {
    let room = Room::new();
    let dump = |args: &[&str]| {
        room.generate(&[&[PROMPT, "--dump", "d.safetensors", "--force"], args].concat());
        let tensors = candle_core::safetensors::load(room.path("d.safetensors"), &Device::Cpu);
        let tensors = tensors.expect("a safetensors file");
        assert!(tensors.values().all(|t| t.dtype() == DType::F32));
        let mut shapes: Vec<_> = tensors
            .iter()
            .map(|(name, t)| (name.clone(), t.dims().to_vec()))
            .collect();
        shapes.sort();
        shapes
    };
    let shape = |name: &str, dims: &[usize]| (name.to_owned(), dims.to_vec());
    let positive = [
        shape("context", &[2, 77, 160]),
        shape("latents_000", &[2, 4, 16, 12]),
        shape("latents_001", &[2, 4, 16, 12]),
        shape("latents_final", &[2, 4, 16, 12]),
    ];
    let rest = [
        shape("pixels", &[2, 3, 128, 96]),
        shape("pooled", &[2, 96]),
        shape("timesteps", &[2]),
    ];
    let negative = [
        shape("negative_context", &[2, 77, 160]),
        shape("negative_pooled", &[2, 96]),
    ];
    let size = ["--count", "2", "--width", "96"];
    let guided = dump(&[&size[..], &["--dtype", "bf16"]].concat());
    assert_eq!(guided, [&positive[..], &negative, &rest].concat());
    let unguided = dump(&[&size[..], &["--guidance", "1"]].concat());
    assert_eq!(unguided, [&positive[..], &rest].concat());
}

#[test]
fn latents_from_a_file_take_the_place_of_the_seeds() {
    let room = Room::new();
    let noise = Tensor::randn(0f32, 1.0, (2, 4, 16, 16), &Device::Cpu).expect("small");
    room.safetensors("two.safetensors", &[("latents", noise.clone())]);
    room.safetensors(
        "last.safetensors",
        &[("latents", noise.narrow(0, 1, 1).expect("a row"))],
    );
    room.generate(&[PROMPT, "--latents", "two.safetensors", "-o", "x.png"]);
    room.generate(&[
        PROMPT,
        "--latents",
        "last.safetensors",
        "-o",
        "y.png",
        "--seed",
        "1",
    ]);
    let pixels = |name: &str| {
        image::open(room.path(name))
            .expect("a PNG file")
            .into_rgb8()
    };
    assert_eq!(
        room.files()
            .iter()
            .filter(|name| name.starts_with("x-"))
            .count(),
        2
    );
    assert_eq!(
        pixels("x-001.png"),
        pixels("y.png"),
        "the seed has no part in it"
    );
    assert!(pixels("x-000.png") != pixels("y.png"));

    // The receipt leads back to the row, and notices another file.
    room.generate(&["--from", "x-001.png", "-o", "again.png"]);
    assert!(room.read("again.png") == room.read("x-001.png"));
    fs::copy(room.path("last.safetensors"), room.path("two.safetensors")).expect("room for it");
    let says = [
        "two.safetensors",
        "is not the file that the image was made from",
    ];
    room.refuses(
        1,
        &says,
        &["generate", "--from", "x-001.png", "-o", "z.png"],
    );
    fs::remove_file(room.path("two.safetensors")).expect("it is there");
    let says = [
        "two.safetensors",
        "the receipt wants this file",
        "--latents puts another",
    ];
    room.refuses(
        1,
        &says,
        &["generate", "--from", "x-001.png", "-o", "z.png"],
    );
    let other = ["--latents", "last.safetensors", "-o", "z.png"];
    room.generate(&[&["--from", "x-001.png"][..], &other].concat());
}

#[test]
fn a_changed_model_is_noticed() {
    let room = Room::new();
    let micro = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/micro");
    copy(&micro, &room.path("m"));
    room.generate(&[PROMPT, "-o", "x.png"]);
    let receipt = json(&room.run(&["inspect", "x.png", "--json"]));
    let fingerprint = receipt["model_fingerprint"].as_str().expect("it has one");
    assert_eq!(fingerprint.len(), 64);
    assert!(stdout(&room.run(&["inspect", "x.png"])).contains(fingerprint));

    let from = |model| {
        [
            "--from", "x.png", "-o", "y.png", "--force", "--model", model,
        ]
    };
    let warning = "warning: the model's files are not those that the image was made from";
    for same in ["micro", "m"] {
        let said = stderr(&room.generate(&from(same)));
        assert!(!said.contains("warning"), "{said}");
    }
    let vae = room.path("m/vae/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&vae).expect("it is there");
    *bytes.last_mut().expect("not empty") ^= 1;
    fs::write(&vae, bytes).expect("room for it");
    let said = stderr(&room.generate(&from("m")));
    assert!(said.contains(warning), "{said}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("room for it");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("room for it")),
        }
    }
}

#[test]
fn latents_that_do_not_fit_are_refused() {
    let room = Room::new();
    let nan = Tensor::full(f32::NAN, (1, 4, 16, 16), &Device::Cpu).expect("small");
    for (tensor, name, says) in [
        (
            zeros(&[1, 4, 16, 16], DType::F32),
            "noise",
            "no tensor `latents`, but noise",
        ),
        (
            zeros(&[4, 16, 16], DType::F32),
            "latents",
            "[4, 16, 16]; [B, 4, H/8, W/8] is needed",
        ),
        (
            zeros(&[1, 4, 16, 16], DType::I64),
            "latents",
            "I64; F32, F16 and BF16 are read",
        ),
        (
            zeros(&[1, 4, 8, 16], DType::F16),
            "latents",
            "[1, 4, 8, 16]; 1 image(s) of 128x128",
        ),
        (
            zeros(&[1, 9, 16, 16], DType::BF16),
            "latents",
            "need [1, 4, 16, 16]",
        ),
        (nan, "latents", "1024 values of `latents` are not finite"),
    ] {
        room.safetensors("l.safetensors", &[(name, tensor)]);
        let args = [
            "generate",
            PROMPT,
            "--latents",
            "l.safetensors",
            "-o",
            "x.png",
        ];
        room.refuses(1, &["l.safetensors", says], &args);
    }
    let args = [
        "generate",
        PROMPT,
        "--count",
        "2",
        "--latents",
        "l.safetensors",
        "-o",
        "x.png",
    ];
    room.safetensors(
        "l.safetensors",
        &[("latents", zeros(&[1, 4, 16, 16], DType::F32))],
    );
    room.refuses(1, &["[1, 4, 16, 16]; 2 image(s)", "[2, 4, 16, 16]"], &args);
    fs::write(room.path("l.safetensors"), b"\x08\0\0\0\0\0\0\0{}").expect("room for it");
    room.refuses(1, &["l.safetensors", "not a whole safetensors file"], &args);
    fs::remove_file(room.path("l.safetensors")).expect("it is there");
    room.refuses(1, &["l.safetensors"], &args);
}

#[test]
fn an_initial_image_is_gone_from_and_checked() {
    let room = Room::new();
    let picture = image::RgbImage::from_fn(40, 20, |x, y| image::Rgb([x as u8 * 6, y as u8, 99]));
    picture.save(room.path("in.png")).expect("room for it");
    let args = [
        PROMPT,
        "--init-image",
        "in.png",
        "--strength",
        "0.5",
        "-o",
        "x.png",
    ];
    let output = room.generate(&args);
    assert!(
        stderr(&output).contains("40x20 is stretched to 128x128"),
        "{}",
        stderr(&output)
    );
    assert!(stderr(&output).contains("vae_encode"));
    room.generate(&["--from", "x.png", "-o", "y.png"]);
    assert!(room.read("x.png") == room.read("y.png"));

    picture
        .save_with_format(room.path("in.png"), image::ImageFormat::Jpeg)
        .expect("room for it");
    let says = ["in.png", "is not the file that the image was made from"];
    room.refuses(1, &says, &["generate", "--from", "x.png", "-o", "z.png"]);
    fs::remove_file(room.path("in.png")).expect("it is there");
    let says = [
        "in.png",
        "the receipt wants this file",
        "--init-image puts another",
    ];
    room.refuses(1, &says, &["generate", "--from", "x.png", "-o", "z.png"]);
    room.generate(&["--from", "x.png", "--init-image", "y.png", "-o", "z.png"]);
    let says = ["in.png", "No such file"];
    let output = room.run(&["generate", "a", "--init-image", "in.png"]);
    assert!(says.iter().all(|words| stderr(&output).contains(words)));
    assert!(!stderr(&output).contains("receipt"), "{}", stderr(&output));
    room.refuses(
        1,
        &["x.safetensors"],
        &["generate", "a", "--init-image", "x.safetensors"],
    );
}

#[test]
fn requests_that_cannot_be_meant_are_refused() {
    let room = Room::new();
    for (says, args) in [
        ("no prompt", &[][..]),
        ("--steps 0", &["a", "--steps", "0"]),
        ("--count 0", &["a", "--count", "0"]),
        ("--guidance NaN", &["a", "--guidance", "NaN"]),
        ("--guidance -2", &["a", "--guidance", "-2"]),
        ("--guidance inf", &["a", "--guidance", "inf"]),
        (
            "--guidance-rescale 1.5 is above 1",
            &["a", "--guidance-rescale", "1.5"],
        ),
        ("--strength needs --init-image", &["a", "--strength", "0.5"]),
        (
            "--width 100 is not a multiple of 8",
            &["a", "--width", "100"],
        ),
        ("take 8", &["a", "--height", "3"]),
        ("no pixels", &["a", "--height", "0"]),
        (
            "runs past the largest seed",
            &["a", "--seed", "18446744073709551615", "--count", "2"],
        ),
        ("or `random`", &["a", "--seed", "-1"]),
        ("possible values: euler,", &["a", "--scheduler", "eulr"]),
        (
            "possible values: leading",
            &["a", "--timestep-spacing", "even"],
        ),
        ("HEIGHTxWIDTH", &["a", "--original-size", "12"]),
        ("TOP,LEFT", &["a", "--crop", "12"]),
        ("`f8` is not a number type", &["a", "--dtype", "f8"]),
        ("`gpu` is not a device", &["a", "--device", "gpu"]),
        ("--threads", &["a", "--threads", "0"]),
        ("end the name in .png", &["a", "-o", "x.jpg"]),
        ("unexpected argument", &["a", "--stepz", "3"]),
    ] {
        room.refuses(2, &[says], &[&["generate"], args].concat());
    }
    fs::write(room.path("in.png"), b"").expect("room for it");
    let strength = [
        "generate",
        "a",
        "--init-image",
        "in.png",
        "--strength",
        "-1",
    ];
    room.refuses(2, &["--strength -1"], &strength);
    room.refuses(
        1,
        &["device cuda:0", "--device cpu"],
        &["generate", "a", "--device", "cuda"],
    );
}

#[test]
fn unknown_models_and_broken_folders_are_refused() {
    let room = Room::new();
    let model = |name| ["generate", "a", "--model", name];
    room.refuses(1, &["`micor`", "did you mean `micro`?"], &model("micor"));
    room.refuses(1, &["./nowhere", "not a folder"], &model("./nowhere"));
    room.refuses(
        1,
        &["sdxl-base"],
        &[&model("sdxl-base")[..], &["--offline"]].concat(),
    );
    room.refuses(
        2,
        &["sdxl-vae-fp16-fix", "part of other models"],
        &model("sdxl-vae-fp16-fix"),
    );
    fs::create_dir(room.path("empty")).expect("room for it");
    room.refuses(1, &["empty/model_index.json", "missing"], &model("empty"));
    fs::write(room.path("w.toml"), "schema = 1\n[model.x]\nweird = 1").expect("room for it");
    room.refuses(
        1,
        &["w.toml", "weird"],
        &["generate", "a", "--weights", "w.toml"],
    );
}

#[test]
fn a_folder_in_diffusers_layout_is_a_model_too() {
    let room = Room::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/micro");
    let folder = folder.to_str().expect("UTF-8");
    room.generate(&[PROMPT, "-o", "embedded.png", "--guidance", "5"]);
    let record = json(&room.generate(&[PROMPT, "-o", "folder.png", "--json", "--model", folder]));
    assert_eq!(
        (&record["width_px"], &record["guidance"]),
        (&128.into(), &5.0.into())
    );
    assert_eq!(record["scheduler"], "euler");
    let pixels = |name: &str| {
        image::open(room.path(name))
            .expect("a PNG file")
            .into_rgb8()
    };
    assert!(pixels("embedded.png") == pixels("folder.png"));
}

#[test]
fn a_model_can_be_made_up() {
    let room = Room::new();
    let warning = "warning: the weights are made up";
    let synthetic = ["--model", "synthetic:micro"];
    let said = stderr(&room.generate(&[&[PROMPT, "-o", "x.png"], &synthetic[..]].concat()));
    assert!(said.contains(warning), "{said}");
    let receipt = json(&room.run(&["inspect", "x.png", "--json"]));
    let fingerprint = receipt["model_fingerprint"].as_str().expect("it has one");
    assert!(fingerprint.starts_with("synthetic-1-"), "{fingerprint}");
    let request = &receipt["request"];
    // micro's own, as its entry in weights.toml has them.
    let defaults = ["model", "width_px", "guidance", "scheduler"].map(|key| request[key].clone());
    let want: [Value; 4] = [
        "synthetic:micro".into(),
        128.into(),
        4.0.into(),
        "euler".into(),
    ];
    assert_eq!(defaults, want);

    let again = room.run(&["generate", "--from", "x.png", "-o", "y.png"]);
    assert!(again.status.success(), "{}", stderr(&again));
    assert!(room.read("x.png") == room.read("y.png"));
    room.generate(&[PROMPT, "-o", "z.png"]);
    assert!(room.read("x.png") != room.read("z.png"));
}

#[test]
fn a_folder_of_configs_is_enough_to_make_a_model_up() {
    let room = Room::new();
    let micro = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/micro");
    copy(&micro, &room.path("m"));
    for weights in ["text_encoder/model", "text_encoder_2/model"] {
        fs::remove_file(room.path(&format!("m/{weights}.safetensors"))).expect("it was there");
    }
    for part in ["unet", "vae"] {
        let weights = format!("m/{part}/diffusion_pytorch_model.safetensors");
        fs::remove_file(room.path(&weights)).expect("it was there");
    }
    for part in ["tokenizer", "tokenizer_2"] {
        fs::remove_dir_all(room.path(&format!("m/{part}"))).expect("it was there");
    }
    let quick = ["--guidance", "4", "--seed", "3"];
    let drawn = |name: &str, model: &str| {
        room.generate(&[&[PROMPT, "-o", name, "--model", model], &quick[..]].concat());
        image::open(room.path(name))
            .expect("a PNG file")
            .into_rgb8()
    };
    assert!(drawn("a.png", "synthetic:m") == drawn("b.png", "synthetic:micro"));
    let model = |name| ["generate", "a", "--model", name];
    room.refuses(1, &["m/text_encoder/model.safetensors"], &model("./m"));
    for unknown in ["synthetic:sdxl-turbo", "synthetic:nowhere/", "synthetic:"] {
        room.refuses(
            1,
            &[unknown, "micro, sdxl-base, sdxl-refiner"],
            &model(unknown),
        );
    }
    fs::create_dir(room.path("empty")).expect("room for it");
    room.refuses(
        1,
        &["empty/model_index.json", "missing"],
        &model("synthetic:empty"),
    );
}

#[test]
fn outputs_are_checked_before_the_work() {
    let room = Room::new();
    fs::write(room.path("x.png"), b"mine").expect("room for it");
    let generate = |args: &[&'static str]| [&["generate", "a", "--steps", "999"], args].concat();
    // So many steps that a check after the work would come a minute late.
    room.refuses(
        1,
        &["x.png", "exists already", "--force"],
        &generate(&["-o", "x.png"]),
    );
    room.refuses(1, &["nowhere/x.png"], &generate(&["-o", "nowhere/x.png"]));
    room.refuses(1, &["x.png/y.png"], &generate(&["-o", "x.png/y.png"]));
    room.refuses(
        1,
        &["x.png", "exists already"],
        &generate(&["--dump", "x.png"]),
    );
    room.refuses(1, &["/no/d"], &generate(&["--dump", "/no/d"]));
    let long = format!("{}.png", "n".repeat(300));
    let says = [long.as_str(), "no file can have this name"];
    for option in ["-o", "--dump"] {
        let args = ["generate", "a", "--steps", "999", option, &long];
        room.refuses(1, &says, &args);
    }
    room.refuses(1, &["x.png/new"], &generate(&["-o", "x.png/new/"]));
    assert!(room.read("x.png") == b"mine");
    if cfg!(target_os = "linux") {
        room.refuses(1, &["/proc/x.png"], &generate(&["-o", "/proc/x.png"]));
    }
    room.generate(&["a", "-o", "x.png", "--force"]);
    assert!(room.read("x.png").starts_with(b"\x89PNG"));
    assert_eq!(room.files(), ["x.png"], "no temporary file is left");
}

#[test]
fn a_folder_is_made_once_there_is_something_to_write() {
    let room = Room::new();
    let into = ["generate", "a", "-o", "new/er/"];
    room.refuses(
        1,
        &["device cuda:0"],
        &[&into[..], &["--device", "cuda"]].concat(),
    );
    let dump = ["a", "-o", "new/er/", "--dump", "new/er/d.safetensors"];
    room.generate(&dump);
    room.read("new/er/a-0.png");
    room.read("new/er/d.safetensors");
    let same = ["generate", "a", "-o", "none/", "--dump", "none/a-0.png"];
    room.refuses(1, &["none/a-0.png", "the image's name too"], &same);
}

#[test]
fn only_files_are_read() {
    let room = Room::new();
    fs::create_dir(room.path("folder.png")).expect("room for it");
    let mut others = vec![("folder.png", "is a folder, not a file")];
    if cfg!(unix) {
        let made = Command::new("mkfifo").arg(room.path("pipe.png")).status();
        assert!(made.expect("every Unix has mkfifo").success());
        // /dev/zero never ends; /dev/null is the same to us, and safe where this test fails.
        others.push(("pipe.png", "is a pipe or a device, not a file"));
        others.push(("/dev/null", "is a pipe or a device, not a file"));
    }
    for (path, says) in others {
        for option in ["--from", "--init-image", "--latents"] {
            room.refuses(1, &[path, says], &["generate", "a", option, path]);
        }
        room.refuses(1, &[path, says], &["inspect", path]);
    }
}

#[test]
fn a_prompt_may_start_with_a_dash() {
    let room = Room::new();
    let help = stdout(&room.run(&["generate", "--help"]));
    assert!(help.contains("starts with a dash is given last, after two dashes"));
    room.refuses(2, &["'-- -4"], &["generate", "-40 degrees"]);
    let output = room.run(&["generate", "--steps", "1", "--", "-40 degrees"]);
    assert_eq!(stdout(&output), "40-degrees-0.png\n");
}

#[test]
fn a_long_prompt_is_cut_with_a_warning() {
    let room = Room::new();
    let prompt = format!("{} and a zebra", "apple ".repeat(80));
    let cut = room.generate(&[&prompt, "-o", "cut.png"]);
    assert!(stderr(&cut).contains("warning: ") && stderr(&cut).contains("zebra"));
    let whole = room.generate(&[&prompt, "-o", "whole.png", "--long-prompt"]);
    assert!(!stderr(&whole).contains("warning: "), "{}", stderr(&whole));
    let pixels = |name: &str| {
        image::open(room.path(name))
            .expect("a PNG file")
            .into_rgb8()
    };
    assert!(pixels("cut.png") != pixels("whole.png"));
}

#[test]
fn inspect_shows_or_says_why_not() {
    let room = Room::new();
    room.generate(&[PROMPT, "-o", "x.png", "--seed", "12"]);
    let text = stdout(&room.run(&["inspect", "x.png"]));
    for words in [PROMPT, "micro", "12", "euler"] {
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(
        json(&room.run(&["inspect", "x.png", "--json"]))["request"]["prompt"],
        PROMPT
    );

    fs::write(room.path("text.png"), "not a picture").expect("room for it");
    room.refuses(1, &["text.png: not a PNG file"], &["inspect", "text.png"]);
    image::RgbImage::new(2, 2)
        .save(room.path("bare.png"))
        .expect("room for it");
    room.refuses(1, &["bare.png: holds no receipt"], &["inspect", "bare.png"]);
    room.refuses(
        1,
        &["bare.png: holds no receipt"],
        &["generate", "--from", "bare.png"],
    );
    room.refuses(1, &["none.png"], &["inspect", "none.png"]);

    let mut foreign = Vec::new();
    let mut encoder = png::Encoder::new(&mut foreign, 1, 1);
    encoder
        .add_text_chunk("parameters".into(), "a cat\nSteps: 3".into())
        .expect("Latin-1");
    let mut writer = encoder.write_header().expect("memory");
    writer.write_image_data(&[0]).expect("memory");
    writer.finish().expect("memory");
    fs::write(room.path("foreign.png"), foreign).expect("room for it");
    assert_eq!(
        stdout(&room.run(&["inspect", "foreign.png"])),
        "a cat\nSteps: 3\n"
    );
    room.refuses(
        1,
        &["only the text `parameters`"],
        &["inspect", "foreign.png", "--json"],
    );
}

#[test]
fn doctor_completions_and_man_pages() {
    let room = Room::new();
    let report = json(&room.run(&["doctor", "--json"]));
    assert_eq!(report["schema"], 1);
    assert_eq!(
        report["devices"][0],
        serde_json::json!(
            {"device": "cpu", "name": null, "usable": true, "problem": null}
        )
    );
    assert!(report["machine"]["threads"].as_u64().expect("a number") > 0);
    let models = report["models"].as_array().expect("a list");
    assert!(
        models
            .iter()
            .any(|m| m["name"] == "micro" && m["state"] == "embedded")
    );
    assert!(
        models
            .iter()
            .any(|m| m["name"] == "sdxl-base" && m["state"] == "not here")
    );
    assert!(stdout(&room.run(&["doctor"])).contains("micro"));

    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(
            stdout(&room.run(&["completions", shell])).contains("guidance-rescale"),
            "{shell}"
        );
    }
    assert!(stdout(&room.run(&["man"])).contains(".TH darkroom 1"));
    assert!(stdout(&room.run(&["man", "generate"])).contains("guidance\\-rescale"));
    room.refuses(
        2,
        &["no command is called `paint`", "generate"],
        &["man", "paint"],
    );
    let pages = stdout(&room.run(&["man", "--dir", "."]));
    assert!(
        pages.contains("darkroom-generate.1") && pages.lines().count() >= 6,
        "{pages}"
    );
    for page in pages.lines() {
        assert!(room.path(page).is_file(), "{page}");
    }
    for command in [
        "generate",
        "inspect",
        "models",
        "doctor",
        "completions",
        "man",
    ] {
        let help = room.run(&[command, "--help"]);
        assert!(
            help.status.success() && stdout(&help).contains("Usage: darkroom"),
            "{command}"
        );
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let room = Room::new();
    for args in [
        &["generate", PROMPT, "--steps", "1"][..],
        &["man", "generate"],
        &["models"],
    ] {
        let mut child = room
            .command()
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary is built");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        assert!(
            !stderr(&output).contains("error"),
            "{args:?}: {}",
            stderr(&output)
        );
    }
}

#[cfg(unix)]
mod unix {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::ExitStatusExt;
    use std::time::{Duration, Instant};

    use super::*;

    fn shell(room: &Room, script: &str) -> Output {
        Command::new("sh")
            .args(["-c", script, env!("CARGO_BIN_EXE_darkroom")])
            .current_dir(room.0.path())
            .output()
            .expect("every Unix has sh")
    }

    #[test]
    fn a_full_disk_leaves_no_partial_file() {
        let room = Room::new();
        // A limit of one block stands in for a full disk: the write fails half way, as it would.
        let limited = |args: &str| {
            shell(
                &room,
                &format!("trap '' XFSZ; ulimit -f 1; exec \"$0\" generate a {args}"),
            )
        };
        for args in [
            "--steps 1 -o x.png",
            "--steps 1 -o x.png --dump d.safetensors",
        ] {
            let output = limited(args);
            assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
            assert!(
                stderr(&output).contains("x.png: not written"),
                "{}",
                stderr(&output)
            );
            assert_eq!(room.files(), [""; 0]);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_standard_output_is_a_failure() {
        let room = Room::new();
        for command in [
            "generate a --steps 1 -o x.png --json",
            "inspect x.png",
            "doctor",
        ] {
            let output = shell(&room, &format!("exec \"$0\" {command} > /dev/full"));
            assert_eq!(output.status.code(), Some(1), "{command}");
            let stderr = stderr(&output);
            assert!(
                stderr.contains("error: cannot write to standard output"),
                "{stderr}"
            );
            assert!(stderr.contains("No space left"), "{stderr}");
        }
    }

    #[test]
    fn standard_streams_may_be_closed() {
        let room = Room::new();
        let output = shell(
            &room,
            "exec \"$0\" generate a --steps 1 -o x.png >&- 2>&- <&-",
        );
        assert!(output.status.success());
        assert_eq!(room.files(), ["x.png"]);
    }

    /// Starts a run that would take hours, and waits until it denoises.
    fn endless(room: &Room) -> (std::process::Child, BufReader<std::process::ChildStderr>) {
        let args = [
            "generate", PROMPT, "--steps", "900", "--count", "8", "-o", "x.png",
        ];
        let dump = ["--dump", "d.safetensors"];
        let mut child = room
            .command()
            .args(args)
            .args(dump)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary is built");
        let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        while !line.contains("text_encode") {
            line.clear();
            assert!(
                stderr.read_line(&mut line).expect("readable") > 0,
                "ended before its work"
            );
        }
        (child, stderr)
    }

    fn signal(child: &std::process::Child, name: &str) {
        let pid = child.id().to_string();
        let sent = Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .expect("kill is there");
        assert!(sent.success());
    }

    #[test]
    fn ctrl_c_stops_after_the_step_and_leaves_nothing() {
        for name in ["INT", "TERM"] {
            let room = Room::new();
            let (mut child, mut stderr) = endless(&room);
            let sent = Instant::now();
            signal(&child, name);
            let mut rest = String::new();
            std::io::Read::read_to_string(&mut stderr, &mut rest).expect("readable");
            let status = child.wait().expect("it ends");
            assert_eq!(
                (status.code(), status.signal()),
                (Some(130), None),
                "{rest}"
            );
            assert!(rest.contains("error: stopped on request"), "{rest}");
            assert!(sent.elapsed() < Duration::from_secs(30));
            assert_eq!(room.files(), [""; 0]);
        }
    }

    #[test]
    fn a_second_ctrl_c_stops_at_once() {
        let room = Room::new();
        let (mut child, _stderr) = endless(&room);
        signal(&child, "INT");
        signal(&child, "INT");
        let status = child.wait().expect("it ends");
        assert_eq!(status.code(), Some(130));
        assert_eq!(room.files(), [""; 0]);
    }
}
