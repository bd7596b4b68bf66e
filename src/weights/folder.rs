//! A folder of files, on disk or in the binary.

use std::borrow::Cow;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Files compiled into the binary, named by their path inside the folder (`unet/config.json`).
pub type Embedded = &'static [(&'static str, &'static [u8])];

/// A folder that holds a model or one of its components.
#[derive(Clone, Debug)]
pub enum Folder {
    /// On disk.
    Disk(PathBuf),
    /// In the binary, under a prefix (empty for the model's root).
    Embedded {
        /// All files of the model.
        files: Embedded,
        /// This folder inside it.
        prefix: String,
    },
}

/// A file's bytes: mapped from disk, or lying in the binary.
#[derive(Clone, Debug)]
pub enum Bytes {
    /// Memory-mapped; pages are read on first touch.
    Mapped(Arc<Mmap>),
    /// In the binary.
    Static(&'static [u8]),
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
        }
    }
}

impl Folder {
    /// The folder `name` inside this one.
    pub fn join(&self, name: &str) -> Self {
        match self {
            Folder::Disk(path) => Folder::Disk(path.join(name)),
            Folder::Embedded { files, prefix } => Folder::Embedded {
                files,
                prefix: format!("{prefix}{name}/"),
            },
        }
    }

    /// How errors call the file `name` of this folder (with an empty name: the folder).
    pub fn describe(&self, name: &str) -> String {
        match self {
            Folder::Disk(path) if name.is_empty() => path.display().to_string(),
            Folder::Disk(path) => path.join(name).display().to_string(),
            Folder::Embedded { prefix, .. } => format!("(embedded) {prefix}{name}"),
        }
    }

    fn embedded(&self, name: &str) -> Option<&'static [u8]> {
        let Folder::Embedded { files, prefix } = self else {
            return None;
        };
        files
            .iter()
            .find(|(path, _)| path.strip_prefix(prefix.as_str()) == Some(name))
            .map(|&(_, bytes)| bytes)
    }

    /// Whether the file `name` is there.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Folder::Disk(path) => path.join(name).is_file(),
            Folder::Embedded { .. } => self.embedded(name).is_some(),
        }
    }

    /// Names of the files directly in this folder, sorted; empty if there is no such folder.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Folder::Disk(path) => std::fs::read_dir(path)
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect(),
            Folder::Embedded { files, prefix } => files
                .iter()
                .filter_map(|(path, _)| path.strip_prefix(prefix.as_str()))
                .filter(|rest| !rest.contains('/'))
                .map(str::to_owned)
                .collect(),
        };
        names.sort();
        names
    }

    /// The whole file `name`.
    pub fn read(&self, name: &str) -> Result<Cow<'static, [u8]>> {
        match self {
            Folder::Disk(path) => {
                let path = path.join(name);
                std::fs::read(&path)
                    .map(Cow::Owned)
                    .map_err(|e| unreadable(&path, &e))
            }
            Folder::Embedded { .. } => self
                .embedded(name)
                .map(Cow::Borrowed)
                .ok_or_else(|| Error::checkpoint(self.describe(name), "not in this binary")),
        }
    }

    /// The file `name` as memory: mapped if on disk.
    pub fn map(&self, name: &str) -> Result<Bytes> {
        match self {
            Folder::Disk(path) => {
                let path = path.join(name);
                let file = File::open(&path).map_err(|e| unreadable(&path, &e))?;
                // SAFETY: the map is read-only. Another process that truncates the file while we
                // read it would kill this one (SIGBUS); every memory-mapped loader has this limit.
                let map = unsafe { Mmap::map(&file) }.map_err(|e| unreadable(&path, &e))?;
                Ok(Bytes::Mapped(Arc::new(map)))
            }
            Folder::Embedded { .. } => self
                .embedded(name)
                .map(Bytes::Static)
                .ok_or_else(|| Error::checkpoint(self.describe(name), "not in this binary")),
        }
    }

    /// Reads and parses the JSON file `name`.
    pub fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        serde_json::from_slice(&self.read(name)?)
            .map_err(|e| Error::checkpoint(self.describe(name), format!("not as expected: {e}")))
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::checkpoint(
            path.display(),
            "missing; a checkpoint folder in diffusers' layout has it",
        ),
        _ => Error::file(path, error),
    }
}
