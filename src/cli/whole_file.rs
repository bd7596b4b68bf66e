//! Files written whole or not at all.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use tempfile::NamedTempFile;

/// Begins a temporary file in `folder` that is to become `path`; it is gone again unless it is put
/// there.
fn begin(folder: &Path, path: &Path) -> Result<NamedTempFile> {
    let builder = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".darkroom-").suffix(".part");
        // As any other new file: the user's umask decides who reads it.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        builder.tempfile_in(folder)
    };
    builder().map_err(|e| {
        let (folder, reason) = (folder.display(), reason(&e));
        Error::file(
            path,
            format!("the folder {folder} takes no new file: {reason}"),
        )
    })
}

/// The folder that `path` lies in.
pub fn folder_of(path: &Path) -> &Path {
    or_here(path.parent().unwrap_or(Path::new("")))
}

/// No folder at all means the working folder.
fn or_here(folder: &Path) -> &Path {
    match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    }
}

/// Where `path` lies, told by its folder's one true name: two ways to write a path are one file.
fn place(path: &Path) -> PathBuf {
    let folder = folder_of(path).canonicalize();
    match (folder, path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

/// Fails if two of the files that are to be written are one.
pub fn check_distinct(paths: &[&Path]) -> Result<()> {
    let places: Vec<PathBuf> = paths.iter().map(|path| place(path)).collect();
    for (i, path) in paths.iter().enumerate() {
        if places[..i].contains(&places[i]) {
            return Err(Error::file(
                path,
                "is to be two files: give each its own name",
            ));
        }
    }
    Ok(())
}

/// Fails if `path` could not be written at the end of the work: its folder takes no files, or its
/// name is none that a new file can have.
pub fn check(path: &Path, force: bool) -> Result<()> {
    begin(folder_of(path), path)?;
    check_name(path, force)
}

/// Fails if `path` exists and may not be replaced, or if no file can have this name.
pub fn check_name(path: &Path, force: bool) -> Result<()> {
    if path.is_dir() {
        return Err(Error::file(path, "a folder has this name"));
    }
    match path.symlink_metadata() {
        Ok(_) if force => Ok(()),
        Ok(_) => Err(exists(path)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::file(
            path,
            format!("no file can have this name: {e}"),
        )),
    }
}

/// Fails if `folder` takes no files or, where it is not there yet, if it could not be made.
pub fn check_folder(folder: &Path) -> Result<()> {
    let mut there = PathBuf::new();
    let mut missing = false;
    for part in folder.components() {
        let next = there.join(part);
        match next.symlink_metadata() {
            Ok(_) if !missing => there = next,
            Ok(_) => {}
            // Below it, the system is asked about the names alone.
            Err(e) if e.kind() == ErrorKind::NotFound => missing = true,
            Err(e) => return Err(unmade(folder, &e)),
        }
    }
    begin(or_here(&there), folder).map(drop)
}

/// Makes the folder that `path` lies in, unless it is there.
pub fn make_folder_of(path: &Path) -> Result<()> {
    let folder = folder_of(path);
    std::fs::create_dir_all(folder).map_err(|e| unmade(folder, &e))
}

fn unmade(folder: &Path, error: &std::io::Error) -> Error {
    Error::file(folder, format!("the folder cannot be made: {error}"))
}

fn exists(path: &Path) -> Error {
    Error::file(
        path,
        "exists already; give another name, or --force to replace it",
    )
}

/// Writes `path` with what `fill` puts into the temporary file.
pub fn write_with(
    path: &Path,
    force: bool,
    fill: impl FnOnce(&mut NamedTempFile) -> Result<()>,
) -> Result<()> {
    let mut file = begin(folder_of(path), path)?;
    fill(&mut file)?;
    file.as_file().sync_all().map_err(|e| unwritten(path, &e))?;
    let persisted = if force {
        file.persist(path)
    } else {
        file.persist_noclobber(path)
    };
    match persisted {
        Ok(_) => Ok(()),
        Err(e) if e.error.kind() == ErrorKind::AlreadyExists => Err(exists(path)),
        Err(e) => Err(unwritten(path, &e.error)),
    }
}

/// Writes `bytes` as `path`.
pub fn write(path: &Path, force: bool, bytes: &[u8]) -> Result<()> {
    write_with(path, force, |file| {
        file.write_all(bytes).map_err(|e| unwritten(path, &e))
    })
}

fn unwritten(path: &Path, error: &std::io::Error) -> Error {
    let reason = reason(error);
    Error::file(
        path,
        format!("not written, and nothing is left of it: {reason}"),
    )
}

/// The system's words. tempfile adds the name of its own random file, which tells nobody anything.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" at path ")
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_while_filling_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.png");
        let result = write_with(&path, false, |file| {
            file.write_all(b"half of it").expect("room for ten bytes");
            Err(Error::Cancelled)
        });
        assert!(matches!(result, Err(Error::Cancelled)));
        assert_eq!(
            std::fs::read_dir(folder.path()).expect("readable").count(),
            0
        );
    }

    #[test]
    fn a_folder_is_not_made_by_being_checked() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "").expect("room for it");
        check_folder(&path("new/newer/")).expect("can be made");
        // `file` is no folder, but `new/file` could be one.
        check_folder(&path("new/file/")).expect("can be made");
        let long = "n".repeat(5000);
        for bad in ["file/", "file/new/", &long, &format!("new/{long}")] {
            assert!(check_folder(&path(bad)).is_err(), "{bad}");
        }
        let names = std::fs::read_dir(folder.path()).expect("readable");
        assert_eq!(names.count(), 1);
    }

    #[test]
    fn an_existing_file_stays_unless_forced() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.png");
        write(&path, false, b"first").expect("new");
        assert!(check(&path, false).is_err());
        assert!(write(&path, false, b"second").is_err());
        assert_eq!(std::fs::read(&path).expect("there"), b"first");
        check(&path, true).expect("may be replaced");
        write(&path, true, b"second").expect("replaced");
        assert_eq!(std::fs::read(&path).expect("there"), b"second");
        assert_eq!(
            std::fs::read_dir(folder.path()).expect("readable").count(),
            1
        );
    }
}
