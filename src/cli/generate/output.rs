//! Where the images go.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::request::Request;

use crate::cli::whole_file;

/// Characters of the prompt that a default name takes.
const NAME_CHARS: usize = 40;
/// A default name that is taken gets a number; past this many, the user should choose.
const MAX_TRIES: usize = 10_000;

/// One path an image, each free and possible to write.
///
/// `name.png` stays as it is for one image and becomes `name-000.png` … for several; a folder (there
/// already, or ending in a slash) takes files named after the prompt and seed. Without `--output`
/// such names are made in the working folder, and those taken are passed over. Nothing is made yet,
/// not even the folder.
pub fn paths(output: Option<&Path>, request: &Request, force: bool) -> Result<Vec<PathBuf>> {
    let names = (0..request.count).map(|i| default_name(request, i));
    match output {
        None => names.map(|name| free(&name)).collect(),
        Some(folder) if is_folder(folder) => {
            whole_file::check_folder(folder)?;
            let paths = names.map(|name| folder.join(name + ".png"));
            checked(paths.collect(), |path| whole_file::check_name(path, force))
        }
        Some(path) => checked(named(path, request.count)?, |path| {
            whole_file::check(path, force)
        }),
    }
}

fn checked(paths: Vec<PathBuf>, check: impl Fn(&Path) -> Result<()>) -> Result<Vec<PathBuf>> {
    paths.iter().try_for_each(|path| check(path))?;
    Ok(paths)
}

/// Fails if `--dump` could not be written after the images.
pub fn check_dump(dump: &Path, images: &[PathBuf], force: bool) -> Result<()> {
    if images.iter().any(|image| same_file(image, dump)) {
        return Err(Error::file(
            dump,
            "is the image's name too: give --dump another",
        ));
    }
    let folder = whole_file::folder_of(dump);
    let beside = |image: &PathBuf| whole_file::folder_of(image) == folder;
    match images.iter().any(beside) {
        // Their folder was checked, and may not be there yet.
        true => whole_file::check_name(dump, force),
        false => whole_file::check(dump, force),
    }
}

/// Whether two paths name one file.
fn same_file(a: &Path, b: &Path) -> bool {
    let whole = |path: &Path| {
        let folder = whole_file::folder_of(path).canonicalize().ok()?;
        Some((folder, path.file_name()?.to_owned()))
    };
    a == b || whole(a).is_some_and(|a| Some(a) == whole(b))
}

fn is_folder(path: &Path) -> bool {
    path.is_dir() || path.to_string_lossy().ends_with(std::path::is_separator)
}

fn named(path: &Path, count: usize) -> Result<Vec<PathBuf>> {
    if !path
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("png"))
    {
        return Err(Error::Request(format!(
            "--output {}: images are PNG files; end the name in .png, or a folder's in /",
            path.display()
        )));
    }
    if count == 1 {
        return Ok(vec![path.to_owned()]);
    }
    let stem = path.file_stem().unwrap_or_default();
    let numbered = |i| {
        let mut name = stem.to_owned();
        name.push(format!("-{i:03}.png"));
        path.with_file_name(name)
    };
    Ok((0..count).map(numbered).collect())
}

/// The prompt's first words and the image's seed: `a-red-apple-7`.
fn default_name(request: &Request, index: usize) -> String {
    let words = request
        .prompt
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase);
    let mut name = String::new();
    for word in words {
        if name.chars().count() + word.chars().count() >= NAME_CHARS {
            break;
        }
        name.push_str(&word);
        name.push('-');
    }
    if name.is_empty() {
        name.push_str("darkroom-");
    }
    format!("{name}{}", request.seed.saturating_add(index as u64))
}

/// `name.png`, or `name-2.png` and so on if that is taken.
fn free(name: &str) -> Result<PathBuf> {
    let tries = std::iter::once(format!("{name}.png"))
        .chain((2..MAX_TRIES).map(|n| format!("{name}-{n}.png")));
    let path = tries
        .map(PathBuf::from)
        .find(|path| path.symlink_metadata().is_err())
        .ok_or_else(|| Error::Request(format!("{name}.png is taken many times: give --output")))?;
    whole_file::check(&path, false)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use crate::request::Size;

    use super::*;

    fn request(prompt: &str, count: usize) -> Request {
        let size = Size {
            height_px: 8,
            width_px: 8,
        };
        Request {
            count,
            seed: 5,
            ..Request::new("micro", prompt, size, 1, 1.0)
        }
    }

    #[test]
    fn default_names_are_short_and_plain() {
        for (prompt, name) in [
            ("A red apple, on blue!", "a-red-apple-on-blue-5"),
            ("../../etc/passwd", "etc-passwd-5"),
            ("", "darkroom-5"),
            ("ein Bär 🐻", "ein-bär-5"),
            (
                &"long ".repeat(50),
                "long-long-long-long-long-long-long-long-5",
            ),
            (&"x".repeat(300), "darkroom-5"),
        ] {
            assert_eq!(default_name(&request(prompt, 1), 0), name);
        }
    }

    #[test]
    fn several_images_are_numbered() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let output = folder.path().join("x.png");
        let several = paths(Some(&output), &request("a", 2), false).expect("free");
        assert_eq!(
            several,
            ["x-000.png", "x-001.png"].map(|name| folder.path().join(name))
        );
        let into = paths(Some(folder.path()), &request("a", 2), false).expect("free");
        assert_eq!(
            into,
            ["a-5.png", "a-6.png"].map(|name| folder.path().join(name))
        );
    }

    #[test]
    fn other_formats_are_refused() {
        assert!(paths(Some(Path::new("x.jpg")), &request("a", 1), false).is_err());
        assert!(paths(Some(Path::new("x")), &request("a", 1), false).is_err());
    }
}
