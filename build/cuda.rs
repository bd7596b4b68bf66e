//! The `cuda` feature's part of the build: kernels/*.cu become one fat binary each, which the program
//! embeds, and kernels/launch.c is compiled for the launcher.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

#[path = "libraries.rs"]
mod libraries;

/// Machine code for these compute capabilities, unless `DARKROOM_CUDA_ARCHS` names fewer.
const ARCHS: &str = "80,86,89,90,120";

/// No product and sum becomes one operation, which rounds once, unless the kernel says so: the emulation's bits are the
/// GPU's.
const FMAD: &str = "-fmad=false";

/// PTX of this one, which the driver compiles for whatever GPU comes later.
const PTX: &str = "80";

pub fn build() -> Result<(), String> {
    for name in ["CUDA_HOME", "CUDA_PATH", "DARKROOM_CUDA_ARCHS"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-changed=build/cuda.rs");
    cc::Build::new()
        .file("kernels/launch.c")
        .file("src/cuda/layout.c")
        .include("kernels")
        .warnings(true)
        .extra_warnings(true)
        .warnings_into_errors(true)
        .compile("darkroom_launch");
    println!("cargo:rerun-if-changed=src/cuda/layout.c");

    let nvcc = nvcc()?;
    let version = run(Command::new(&nvcc).arg("--version"))?;
    let release = release(&version)?;
    let archs = env::var("DARKROOM_CUDA_ARCHS").unwrap_or_else(|_| {
        let known = known_archs(release);
        if known != ARCHS {
            println!(
                "cargo:warning=CUDA {}.{} compiles for {known} of {ARCHS}; the rest run from PTX",
                release.0, release.1
            );
        }
        known
    });
    let options = options(&archs)?;
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let toolkit = fs::canonicalize(&nvcc).map_err(|e| format!("{}: {e}", nvcc.display()))?;
    let toolkit = toolkit.parent().and_then(Path::parent);
    libraries::build(toolkit.unwrap_or(Path::new("/")), &out)?;
    let sources = sources()?;
    // Every kernel may include every header.
    let mut headers = DefaultHasher::new();
    (&version, &options).hash(&mut headers);
    for path in sources.iter().filter(|path| extension(path) != "cu") {
        read(path)?.hash(&mut headers);
    }
    let mut table = format!(
        "/// Compute capabilities with machine code, in tenths.\n\
         pub const ARCHS: &str = {archs:?};\n\n\
         /// The toolkit's version.\n\
         pub const TOOLKIT: (i32, i32) = {release:?};\n\n\
         /// A fat binary of each file of kernels.\n\
         pub const IMAGES: &[&[u8]] = &[\n"
    );
    for source in sources.iter().filter(|path| extension(path) == "cu") {
        let mut hasher = headers.clone();
        read(source)?.hash(&mut hasher);
        let name = source
            .file_stem()
            .expect("it ends in .cu")
            .to_string_lossy();
        let image = out.join(format!("{name}-{:016x}.fatbin", hasher.finish()));
        if !image.exists() {
            // Under another name until whole: an interrupted build must leave no half of one.
            let partial = image.with_extension("partial");
            run(Command::new(&nvcc)
                .args(&options)
                .arg("-o")
                .args([&partial, source]))?;
            fs::rename(&partial, &image).map_err(|e| format!("{}: {e}", image.display()))?;
        }
        table += &format!("    include_bytes!({:?}),\n", image.display().to_string());
    }
    let path = out.join("images.rs");
    fs::write(&path, table + "];\n").map_err(|e| format!("{}: {e}", path.display()))
}

/// `CUDA_HOME`'s or `CUDA_PATH`'s, else that on the PATH.
fn nvcc() -> Result<PathBuf, String> {
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        if let Some(home) = env::var_os(name) {
            let nvcc = Path::new(&home).join("bin/nvcc");
            return match nvcc.is_file() {
                true => Ok(nvcc),
                false => Err(format!(
                    "{name} names a folder without bin/nvcc: {}",
                    nvcc.display()
                )),
            };
        }
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|folder| folder.join("nvcc"))
        .find(|nvcc| nvcc.is_file())
        .ok_or_else(|| {
            "the `cuda` feature needs nvcc, which neither CUDA_HOME nor CUDA_PATH nor the PATH has: \
             install a CUDA toolkit, or run `scripts/cuda-toolkit DEST`, set CUDA_HOME to what it prints and \
             put its bin on the PATH, where candle's build looks for it"
                .to_owned()
        })
}

/// The version in what `nvcc --version` prints: (13, 0).
fn release(version: &str) -> Result<(i32, i32), String> {
    let numbers = version
        .split_once("release ")
        .and_then(|(_, rest)| rest.split_once(','))
        .and_then(|(release, _)| release.split_once('.'));
    numbers
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .ok_or_else(|| format!("nvcc does not say its version: {version}"))
}

/// Those of [`ARCHS`] that a toolkit compiles for: 120 came with CUDA 12.8.
fn known_archs(release: (i32, i32)) -> String {
    let known = |arch: &&str| *arch != "120" || release >= (12, 8);
    let archs: Vec<&str> = ARCHS.split(',').filter(known).collect();
    archs.join(",")
}

fn options(archs: &str) -> Result<Vec<String>, String> {
    let mut options: Vec<String> = [
        "-fatbin",
        "-O3",
        "-std=c++17",
        FMAD,
        "-Werror",
        "all-warnings",
    ]
    .map(str::to_owned)
    .into();
    for arch in archs.split(',') {
        if arch.is_empty() || !arch.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(format!(
                "DARKROOM_CUDA_ARCHS is `{archs}`, not a list such as {ARCHS}"
            ));
        }
        options.push(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
    }
    options.push(format!("-gencode=arch=compute_{PTX},code=compute_{PTX}"));
    Ok(options)
}

/// The kernels and what they include, in order.
fn sources() -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir("kernels").map_err(|e| format!("kernels: {e}"))?;
    let mut sources = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| format!("kernels: {e}"))?.path();
        if ["cu", "cuh", "h"].contains(&extension(&path)) {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|e| e.to_str()).unwrap_or("")
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|e| format!("{} does not start: {e}", command.get_program().display()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!(
            "{command:?} failed:\n{}{}",
            text(&output.stdout),
            text(&output.stderr)
        )),
    }
}
