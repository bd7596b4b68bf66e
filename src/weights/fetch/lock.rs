//! `darkroom.lock.toml`: what a fetch saw, so that the next one can hold the hub to it, need not
//! hash gigabytes again, and shows a licence once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{ExpectedBy, FetchError, FetchEvent};
use crate::weights::manifest::{Model, PlannedFile, is_sha256};

const SCHEMA: u32 = 1;
const HEADER: &str =
    "# Written by darkroom: hashes of fetched files. Remove an entry to accept another file.\n\n";
/// Read size for hashing, in bytes.
const CHUNK: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    sha256: String,
    bytes: u64,
    /// The file's modification time when it was hashed, in nanoseconds of the Unix epoch.
    modified_ns: i64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Document {
    schema: u32,
    /// Entry → the licence that was shown for it.
    #[serde(default)]
    licences: BTreeMap<String, String>,
    /// `repository@revision/path` → what was seen.
    #[serde(default)]
    files: BTreeMap<String, Seen>,
}

/// The lock file, read.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    document: Document,
}

impl Lock {
    /// Reads the file; none is an empty one.
    pub(super) fn open(path: &Path) -> Result<Self, FetchError> {
        let document = read(path)?;
        let path = path.to_owned();
        Ok(Self { path, document })
    }

    pub(super) fn licence_shown(&self, model: &Model) -> bool {
        self.document.licences.get(&model.name) == Some(&model.licence.name)
    }

    pub(super) fn remember_licence(
        &mut self,
        model: &Model,
        observe: &mut dyn FnMut(FetchEvent<'_>),
    ) {
        let (name, licence) = (model.name.clone(), model.licence.name.clone());
        self.update(observe, |d| {
            d.licences.insert(name, licence);
        });
    }

    /// Holds a file to the size and hash expected of it, and removes it where it fails.
    ///
    /// The hash expected is the manifest's, else the one recorded by an earlier fetch, else the
    /// hub's: the blob of a large file is named by its SHA-256.
    pub(super) fn verify(
        &mut self,
        planned: &PlannedFile<'_>,
        path: &Path,
        cache_dir: &Path,
        observe: &mut dyn FnMut(FetchEvent<'_>),
    ) -> Result<(), FetchError> {
        let (hub, file) = (planned.hub, planned.file);
        let key = format!("{}@{}/{}", hub.repo, hub.revision, file.path);
        let unreadable = |error| FetchError::Cache {
            path: path.to_owned(),
            error,
        };
        let metadata = fs::metadata(path).map_err(unreadable)?;
        let bytes = metadata.len();
        if let Some(expected) = file.bytes.filter(|&b| b != bytes) {
            remove(path, cache_dir);
            return Err(FetchError::WrongSize {
                repo: hub.repo.clone(),
                file: file.path.clone(),
                expected,
                got: bytes,
                by: ExpectedBy::Manifest,
            });
        }
        let modified_ns = modified_ns(&metadata);
        let seen = self.document.files.get(&key);
        let manifest = file.sha256.clone().map(|hash| (hash, ExpectedBy::Manifest));
        let expected = manifest
            .or_else(|| seen.map(|s| (s.sha256.clone(), ExpectedBy::Lock)))
            .or_else(|| blob_hash(path).map(|hash| (hash, ExpectedBy::Hub)));
        let untouched = seen.is_some_and(|s| s.bytes == bytes && s.modified_ns == modified_ns);
        let as_before = seen.map(|s| &s.sha256) == expected.as_ref().map(|(hash, _)| hash);
        if untouched && as_before {
            return Ok(());
        }
        let sha256 = hash(path, |done| {
            observe(FetchEvent::Verify {
                path: &file.path,
                done,
                total: bytes,
            });
        })
        .map_err(unreadable)?;
        if let Some((expected, by)) = expected
            && expected != sha256
        {
            remove(path, cache_dir);
            return Err(FetchError::WrongHash {
                repo: hub.repo.clone(),
                file: file.path.clone(),
                expected,
                got: sha256,
                by,
            });
        }
        let seen = Seen {
            sha256,
            bytes,
            modified_ns,
        };
        self.update(observe, |d| {
            d.files.insert(key, seen);
        });
        Ok(())
    }

    /// Changes the file on disk as it is now, since another process may have written it meanwhile.
    /// A cache that cannot be written still serves, so that failing is a warning.
    fn update(
        &mut self,
        observe: &mut dyn FnMut(FetchEvent<'_>),
        change: impl FnOnce(&mut Document),
    ) {
        if let Ok(document) = read(&self.path) {
            self.document = document;
        }
        change(&mut self.document);
        if let Err(error) = write(&self.path, &self.document) {
            observe(FetchEvent::Warning(format!(
                "cannot write {}: {error}; hashes and licences will not be remembered",
                self.path.display()
            )));
        }
    }
}

fn read(path: &Path) -> Result<Document, FetchError> {
    let invalid = |reason: String| FetchError::LockFile {
        path: path.to_owned(),
        reason,
    };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Document {
                schema: SCHEMA,
                ..Document::default()
            });
        }
        Err(error) => return Err(invalid(error.to_string())),
    };
    let document: Document = toml::from_str(&text).map_err(|e| invalid(e.to_string()))?;
    match document.schema {
        SCHEMA => Ok(document),
        other => Err(invalid(format!("schema {other} is not known"))),
    }
}

/// Whole or not at all.
fn write(path: &Path, document: &Document) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let text = toml::to_string(document).map_err(io::Error::other)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(HEADER.as_bytes())?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

fn modified_ns(metadata: &fs::Metadata) -> i64 {
    let since = metadata
        .modified()
        .ok()
        .and_then(|m| m.duration_since(UNIX_EPOCH).ok());
    since
        .and_then(|d| i64::try_from(d.as_nanos()).ok())
        .unwrap_or(0)
}

/// The SHA-256 that a blob in the hub's cache is named by, where the hub names it so.
fn blob_hash(path: &Path) -> Option<String> {
    let blob = fs::canonicalize(path).ok()?;
    let name = blob.file_name()?.to_str()?;
    is_sha256(name).then(|| name.to_owned())
}

fn hash(path: &Path, mut progress: impl FnMut(u64)) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; CHUNK];
    let (mut hasher, mut done) = (Sha256::new(), 0);
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..read]);
        done += read as u64;
        progress(done);
    }
    let digest = hasher.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Takes a file out of the cache: the snapshot's link, and the blob behind it if the cache owns it.
pub(super) fn remove(path: &Path, cache_dir: &Path) {
    let blob = fs::canonicalize(path).ok();
    let cache = fs::canonicalize(cache_dir).ok();
    // Best effort: what cannot be removed fails the same check the next time.
    let _ = fs::remove_file(path);
    if let (Some(blob), Some(cache)) = (blob, cache)
        && blob.starts_with(cache)
    {
        let _ = fs::remove_file(blob);
    }
}
