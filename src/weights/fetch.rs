//! From a model's name to verified files in the hub's standard cache.
//!
//! hf-hub downloads, resumes and lays the cache out as every other tool of the hub expects it.
//! Around it stands what it leaves out: HF_TOKEN, HF_HUB_CACHE and HF_HUB_OFFLINE; snapshots of a
//! pinned commit that Python's client made; a limit on silence; size and SHA-256; licences; and
//! errors that say what to do.

mod download;
mod error;
mod lock;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use serde::Serialize;

pub use error::{ExpectedBy, FetchError};

use super::manifest::{Component, Licence, Manifest, ManifestError, Model, PlannedFile, Slot};
use download::Downloader;
use lock::Lock;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// Longest silence of the hub before a download is given up.
const STALL: Duration = Duration::from_secs(60);
/// How often a broken download is taken up again before it is given up.
const RETRIES: usize = 3;

/// The hub's token, kept out of every log.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Where files come from and go to.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// The hub's cache: `models--owner--name/…` lie in it.
    pub cache_dir: PathBuf,
    /// Where hashes seen, files verified and licences shown are kept.
    pub lock_file: PathBuf,
    /// The hub's address, without a slash at its end.
    pub endpoint: String,
    /// For gated repositories.
    pub token: Option<Token>,
    /// Take what is cached and ask nobody.
    pub offline: bool,
    /// The precision to take, where a model comes in several; its default where `None`.
    pub variant: Option<String>,
    /// Longest silence of the hub.
    pub stall: Duration,
    /// How often a broken download is taken up again.
    pub retries: usize,
}

impl FetchOptions {
    /// The hub's usual layout under `home`, the folder that HF_HOME names.
    pub fn new(home: &Path) -> Self {
        Self {
            cache_dir: home.join("hub"),
            lock_file: home.join("darkroom.lock.toml"),
            endpoint: DEFAULT_ENDPOINT.into(),
            token: None,
            offline: false,
            variant: None,
            stall: STALL,
            retries: RETRIES,
        }
    }

    /// As the environment says. The one place where darkroom reads HF_HOME, HF_HUB_CACHE,
    /// HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH and HF_HUB_OFFLINE.
    pub fn from_env() -> Result<Self, FetchError> {
        Self::from_vars(|name| std::env::var(name).ok(), std::env::home_dir())
    }

    /// As `var` says, which answers for environment variables; `user_home` serves where HF_HOME and
    /// XDG_CACHE_HOME are unset. The names and their order are huggingface_hub's (constants.py).
    pub fn from_vars(
        var: impl Fn(&str) -> Option<String>,
        user_home: Option<PathBuf>,
    ) -> Result<Self, FetchError> {
        let var = |name: &str| var(name).filter(|value| !value.trim().is_empty());
        let caches = || {
            var("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or(user_home.map(|h| h.join(".cache")))
        };
        let home = var("HF_HOME")
            .map(PathBuf::from)
            .or_else(|| caches().map(|c| c.join("huggingface")))
            .ok_or(FetchError::NoHome)?;
        // hf-hub links by absolute paths.
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let home = absolute(home);
        let mut options = Self::new(&home);
        if let Some(cache) = var("HF_HUB_CACHE") {
            options.cache_dir = absolute(cache.into());
        }
        if let Some(endpoint) = var("HF_ENDPOINT") {
            options.endpoint = endpoint.trim().trim_end_matches('/').to_owned();
        }
        options.token = var("HF_TOKEN")
            .or_else(|| {
                let path = var("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
                std::fs::read_to_string(path).ok()
            })
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty())
            .map(Token);
        options.offline = var("HF_HUB_OFFLINE").is_some_and(|value| {
            ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str())
        });
        Ok(options)
    }

    fn cache(&self) -> Cache {
        Cache::new(self.cache_dir.clone())
    }
}

/// What happens while a model is fetched, in order.
#[derive(Debug)]
pub enum FetchEvent<'a> {
    /// The terms of an entry whose files are used for the first time.
    Licence {
        /// The entry.
        model: &'a Model,
        /// Its terms.
        licence: &'a Licence,
    },
    /// Files will be downloaded.
    Begin {
        /// How many.
        files: usize,
        /// How much, those of unknown size apart.
        bytes: u64,
        /// How many of them are of unknown size.
        unknown: usize,
    },
    /// A file is on its way. `done` never falls within a file.
    Download {
        /// Its path in the repository.
        path: &'a str,
        /// Bytes on disk, those of an earlier attempt included.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A file is being hashed. `done` never falls within a file.
    Verify {
        /// Its path in the repository.
        path: &'a str,
        /// Bytes hashed.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A file is there and right.
    Ready {
        /// Its path in the repository.
        path: &'a str,
    },
    /// Something that does not stop the fetch.
    Warning(String),
}

/// One part of a pipeline on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct PartFiles {
    /// The folder with the part's configuration or vocabulary.
    pub folder: PathBuf,
    /// Its weights, which may lie elsewhere; empty for a part that has none.
    pub weights: Vec<PathBuf>,
}

/// A model's verified files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelFiles {
    /// The model's name.
    pub model: String,
    /// Its parts. What it does not have (the refiner's first text encoder) is absent.
    pub parts: BTreeMap<Component, PartFiles>,
    /// The VAE to take in half precision, where the model's own cannot be.
    pub vae_f16: Option<PartFiles>,
}

impl ModelFiles {
    /// One part.
    pub fn part(&self, component: Component) -> Option<&PartFiles> {
        self.parts.get(&component)
    }

    fn add(&mut self, planned: &PlannedFile<'_>, local: PathBuf) {
        let part = match planned.slot {
            Slot::Part(component) => self.parts.entry(component).or_default(),
            Slot::VaeF16 => self.vae_f16.get_or_insert_default(),
        };
        if planned.file.is_weights() {
            part.weights.push(local);
        } else if let Some(folder) = local.parent() {
            part.folder = folder.to_owned();
        }
    }
}

/// How much of a model is cached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CacheState {
    /// Files that the model needs.
    pub files: usize,
    /// Bytes of those that are here.
    pub bytes_present: u64,
    /// Bytes of all of them, where every one's size is known.
    pub bytes_total: Option<u64>,
    /// `repository/path` of those that are not here.
    pub missing: Vec<String>,
}

impl CacheState {
    /// Nothing is missing.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}

/// What of a model is cached. Looks at names and sizes only, and asks nobody.
pub fn cached(
    manifest: &Manifest,
    model: &Model,
    options: &FetchOptions,
) -> Result<CacheState, ManifestError> {
    let plan = manifest.plan(model, options.variant.as_deref())?;
    let mut state = CacheState {
        files: plan.len(),
        bytes_present: 0,
        bytes_total: Some(0),
        missing: Vec::new(),
    };
    for planned in &plan {
        let here = local(planned, options).and_then(|path| std::fs::metadata(path).ok());
        let size = here.as_ref().map(|m| m.len());
        state.bytes_present += size.unwrap_or(0);
        state.bytes_total = state
            .bytes_total
            .zip(size.or(planned.file.bytes))
            .map(|(total, bytes)| total + bytes);
        if here.is_none() {
            state
                .missing
                .push(format!("{}/{}", planned.hub.repo, planned.file.path));
        }
    }
    Ok(state)
}

/// A model's files as far as they are cached, unverified; `None` where a config or a vocabulary is
/// not. Weights may be absent. Asks nobody.
pub fn cached_settings(
    manifest: &Manifest,
    model: &Model,
    options: &FetchOptions,
) -> Result<Option<ModelFiles>, ManifestError> {
    let mut files = ModelFiles {
        model: model.name.clone(),
        parts: BTreeMap::new(),
        vae_f16: None,
    };
    for planned in &manifest.plan(model, options.variant.as_deref())? {
        match local(planned, options) {
            Some(path) => files.add(planned, path),
            None if planned.file.is_weights() => {}
            None => return Ok(None),
        }
    }
    Ok(Some(files))
}

/// Brings a model's files here and verifies them; what is here already is only verified, and what
/// was verified before and has not been touched since is taken at once.
pub fn fetch(
    manifest: &Manifest,
    model: &Model,
    options: &FetchOptions,
    observe: &mut dyn FnMut(FetchEvent<'_>),
) -> Result<ModelFiles, FetchError> {
    let plan = manifest.plan(model, options.variant.as_deref())?;
    if plan.is_empty() {
        return Err(FetchError::Embedded {
            model: model.name.clone(),
        });
    }
    let mut lock = Lock::open(&options.lock_file)?;
    let missing: Vec<_> = plan
        .iter()
        .filter(|p| local(p, options).is_none())
        .collect();
    if options.offline && !missing.is_empty() {
        return Err(FetchError::Offline {
            model: model.name.clone(),
            missing: missing.iter().map(|p| p.file.path.clone()).collect(),
        });
    }
    show_licences(&plan, &mut lock, observe);
    if !missing.is_empty() {
        observe(FetchEvent::Begin {
            files: missing.len(),
            bytes: missing.iter().filter_map(|p| p.file.bytes).sum(),
            unknown: missing.iter().filter(|p| p.file.bytes.is_none()).count(),
        });
    }
    let downloader = Downloader::new(options)?;
    let mut files = ModelFiles {
        model: model.name.clone(),
        parts: BTreeMap::new(),
        vae_f16: None,
    };
    for planned in &plan {
        let path = match local(planned, options) {
            Some(path) => path,
            None => downloader.download(planned, observe)?,
        };
        lock.verify(planned, &path, &options.cache_dir, observe)?;
        observe(FetchEvent::Ready {
            path: &planned.file.path,
        });
        files.add(planned, path);
    }
    Ok(files)
}

fn show_licences(
    plan: &[PlannedFile<'_>],
    lock: &mut Lock,
    observe: &mut dyn FnMut(FetchEvent<'_>),
) {
    let mut seen = BTreeSet::new();
    for owner in plan.iter().map(|p| p.owner) {
        if seen.insert(&owner.name) && !lock.licence_shown(owner) {
            observe(FetchEvent::Licence {
                model: owner,
                licence: &owner.licence,
            });
            lock.remember_licence(owner, observe);
        }
    }
}

fn repo(planned: &PlannedFile<'_>) -> Repo {
    let (repo, revision) = (planned.hub.repo.clone(), planned.hub.revision.clone());
    Repo::with_revision(repo, RepoType::Model, revision)
}

fn cache_repo(planned: &PlannedFile<'_>, options: &FetchOptions) -> CacheRepo {
    options.cache().repo(repo(planned))
}

/// The file in the cache. hf-hub finds a snapshot through `refs/`, where Python's client writes
/// nothing for a commit; a commit names its snapshot itself.
fn local(planned: &PlannedFile<'_>, options: &FetchOptions) -> Option<PathBuf> {
    let repo = cache_repo(planned, options);
    let pinned = repo
        .pointer_path(&planned.hub.revision)
        .join(&planned.file.path);
    let path = Some(pinned).filter(|p| p.is_file());
    path.or_else(|| repo.get(&planned.file.path))
}
