//! Files written whole or not at all.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use tempfile::NamedTempFile;

/// Begins a temporary file beside `path`, which is gone again unless [`finish`] puts it there.
fn begin(path: &Path) -> Result<NamedTempFile> {
    let folder = folder_of(path);
    let builder = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".darkroom-").suffix(".part");
        // As any other new file: the user's umask decides who reads it.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        builder.tempfile_in(&folder)
    };
    builder().map_err(|e| {
        // tempfile adds the name of its own random file, which tells nobody anything.
        let text = e.to_string();
        let reason = text.split(" at path ").next().unwrap_or_default();
        let folder = folder.display();
        Error::file(
            path,
            format!("the folder {folder} takes no new file: {reason}"),
        )
    })
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Fails if `path` could not be written at the end of the work: it exists and may not be replaced,
/// or its folder takes no files.
pub fn check(path: &Path, force: bool) -> Result<()> {
    if path.is_dir() {
        return Err(Error::file(path, "a folder has this name"));
    }
    if !force && path.symlink_metadata().is_ok() {
        return Err(exists(path));
    }
    begin(path).map(drop)
}

fn exists(path: &Path) -> Error {
    Error::file(
        path,
        "exists already; --force replaces it, -o names another",
    )
}

/// Writes `path` with what `fill` puts into the temporary file.
pub fn write_with(
    path: &Path,
    force: bool,
    fill: impl FnOnce(&mut NamedTempFile) -> Result<()>,
) -> Result<()> {
    let mut file = begin(path)?;
    fill(&mut file)?;
    file.as_file().sync_all().map_err(|e| unwritten(path, &e))?;
    let persisted = if force {
        file.persist(path)
    } else {
        file.persist_noclobber(path)
    };
    match persisted {
        Ok(_) => Ok(()),
        Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => Err(exists(path)),
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
    Error::file(
        path,
        format!("not written, and nothing is left of it: {error}"),
    )
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
