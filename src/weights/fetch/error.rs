//! Why a model could not be fetched, and what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::weights::manifest::ManifestError;

/// Who said what a file's hash or size must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedBy {
    /// The entry in weights.toml.
    Manifest,
    /// An earlier fetch.
    Lock,
    /// The hub's own answer.
    Hub,
}

impl fmt::Display for ExpectedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Manifest => "weights.toml",
            Self::Lock => "darkroom.lock.toml",
            Self::Hub => "the hub",
        })
    }
}

impl ExpectedBy {
    fn way_out(self) -> &'static str {
        match self {
            Self::Manifest => {
                "if it comes the same again, it is not the file that was pinned: do not use it, \
                 or pin the new one with --weights"
            }
            Self::Lock => {
                "if it comes the same again, it has changed since it was first fetched: to accept \
                 the new one, remove its entry from darkroom.lock.toml beside the hub's cache"
            }
            Self::Hub => "if it fails again, the connection or the disk spoils data",
        }
    }
}

/// Why a model could not be fetched.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum FetchError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),

    #[error("`{model}` is in the binary; there is nothing to fetch")]
    Embedded { model: String },

    #[error("no home folder is known to keep models in; set HF_HOME to a folder")]
    NoHome,

    #[error(
        "offline, and `{model}` is not all here (missing: {}); \
         run `darkroom models fetch {model}` with a network, without --offline and HF_HUB_OFFLINE",
        first(missing)
    )]
    Offline { model: String, missing: Vec<String> },

    #[error(
        "the hub refuses {repo} (HTTP {status}): it is gated or private, or the token is wrong; \
         open {page}, accept the licence there, then set HF_TOKEN to your token"
    )]
    Gated {
        repo: String,
        page: String,
        status: u16,
    },

    #[error(
        "{endpoint} has no {repo} with {file} at revision {revision} (HTTP 404); \
         check the three in weights.toml, or give the right ones with --weights"
    )]
    NotFound {
        endpoint: String,
        repo: String,
        revision: String,
        file: String,
    },

    #[error("{endpoint} answered HTTP {status} for {file} of {repo}; try again later")]
    Status {
        endpoint: String,
        repo: String,
        file: String,
        status: u16,
    },

    #[error(
        "cannot reach {endpoint} for {file}: {reason}; check the network and HF_ENDPOINT, then run \
         this again: it goes on where it stopped"
    )]
    Unreachable {
        endpoint: String,
        file: String,
        reason: String,
    },

    #[error(
        "{endpoint} was silent for {seconds} s while {file} was fetched; run this again: it goes on \
         where it stopped"
    )]
    Stalled {
        endpoint: String,
        file: String,
        seconds: f64,
    },

    #[error("{endpoint} does not answer as a hub does ({reason}); check HF_ENDPOINT")]
    NotAHub { endpoint: String, reason: String },

    #[error("another process is fetching {file} now; wait for it, then run this again")]
    Busy { file: String },

    #[error(
        "the disk with {} is full; {file} needs {} more; \
         make room, or set HF_HOME to a folder on another disk",
        dir.display(),
        bytes.map_or("bytes".into(), |b| format!("{b} bytes"))
    )]
    DiskFull {
        dir: PathBuf,
        file: String,
        bytes: Option<u64>,
    },

    #[error("cannot use {}: {error}; set HF_HOME to a folder that can be written", path.display())]
    Cache { path: PathBuf, error: io::Error },

    #[error("{} is not a lock file of darkroom: {reason}; mend or remove it", path.display())]
    LockFile { path: PathBuf, reason: String },

    #[error(
        "{file} of {repo} came with {got} bytes, but {by} says {expected}; it was removed: \
         fetch it again; {}",
        by.way_out()
    )]
    WrongSize {
        repo: String,
        file: String,
        expected: u64,
        got: u64,
        by: ExpectedBy,
    },

    #[error(
        "{file} of {repo} has the SHA-256 {got}, but {by} says {expected}; it was removed: \
         fetch it again; {}",
        by.way_out()
    )]
    WrongHash {
        repo: String,
        file: String,
        expected: String,
        got: String,
        by: ExpectedBy,
    },
}

fn first(names: &[String]) -> String {
    match names {
        [a, b, c, _, ..] => format!("{a}, {b}, {c} and {} more", names.len() - 3),
        few => few.join(", "),
    }
}
