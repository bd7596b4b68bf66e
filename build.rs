//! Tells the program which commit it is built from, for the records of `darkroom bench`: that of
//! `DARKROOM_COMMIT` where it is set, else that of the clone; none outside of one. With the feature
//! `cuda`, compiles the kernels.

use std::process::Command;

#[cfg(feature = "cuda")]
#[path = "build/cuda.rs"]
mod cuda;

fn main() {
    #[cfg(feature = "cuda")]
    if let Err(problem) = cuda::build() {
        println!("cargo::error={}", problem.replace('\n', "\ncargo::error="));
        return;
    }
    println!("cargo:rerun-if-env-changed=DARKROOM_COMMIT");
    println!("cargo:rerun-if-changed=build.rs");
    if let Some(commit) = std::env::var("DARKROOM_COMMIT").ok().or_else(of_clone) {
        println!("cargo:rustc-env=DARKROOM_COMMIT={commit}");
    }
}

/// The clone's commit, asked again after each new one; `+changes` where tracked files differ from it.
fn of_clone() -> Option<String> {
    // A crate inside another project's clone has no commit of its own.
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let here = std::env::current_dir().ok()?.canonicalize().ok()?;
    if std::path::Path::new(&top).canonicalize().ok()? != here {
        return None;
    }
    for file in ["HEAD", "logs/HEAD"] {
        println!(
            "cargo:rerun-if-changed={}",
            git(&["rev-parse", "--git-path", file])?
        );
    }
    // What the program is made of: a change of it is a change against the commit.
    for path in ["src", "models", "weights.toml", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={path}");
    }
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(git(&["rev-parse", "HEAD"])? + if changed { "+changes" } else { "" })
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
