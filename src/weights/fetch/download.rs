//! One file through hf-hub, with what it lacks.
//!
//! hf-hub 0.5 (`api/sync.rs`) names a partial file by the hub's etag and asks for the rest of it,
//! which is sound as far as it goes. It does not: give up on a silent connection; get past a partial
//! file that is complete already (the hub answers 416, for ever) or too long; notice that a server
//! sent the whole file when asked for its rest, or that a body ended early. Each is handled here.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};

use super::{
    ExpectedBy, FetchError, FetchEvent, FetchOptions, PlannedFile, cache_repo, lock, repo,
};

pub(super) struct Downloader<'a> {
    api: Api,
    options: &'a FetchOptions,
}

/// What the downloading thread tells.
enum Message {
    Total(u64),
    Bytes(u64),
    Done(Result<PathBuf, ApiError>),
}

struct Reporter(Sender<Message>);

impl Progress for Reporter {
    fn init(&mut self, size: usize, _: &str) {
        // A receiver that has gone gave up on this download: nobody is left to tell.
        let _ = self.0.send(Message::Total(size as u64));
    }
    fn update(&mut self, size: usize) {
        let _ = self.0.send(Message::Bytes(size as u64));
    }
    fn finish(&mut self) {}
}

/// Why an attempt ended without a file.
enum Failure {
    Api(ApiError),
    Silence,
    Panic,
}

impl<'a> Downloader<'a> {
    pub(super) fn new(options: &'a FetchOptions) -> Result<Self, FetchError> {
        let token = options.token.as_ref().map(|t| t.0.clone());
        let api = ApiBuilder::from_cache(options.cache())
            .with_endpoint(options.endpoint.clone())
            .with_token(token)
            .with_retries(options.retries)
            .with_user_agent("darkroom", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| FetchError::NotAHub {
                endpoint: options.endpoint.clone(),
                reason: error.to_string(),
            })?;
        Ok(Self { api, options })
    }

    /// Brings one file into the cache, whole.
    pub(super) fn download(
        &self,
        planned: &PlannedFile<'_>,
        observe: &mut dyn FnMut(FetchEvent<'_>),
    ) -> Result<PathBuf, FetchError> {
        let mut total = None;
        let mut result = self.attempt(planned, &mut total, observe);
        if matches!(&result, Err(Failure::Api(error)) if is_bad_part(error))
            && self.mend_part(planned).is_some()
        {
            result = self.attempt(planned, &mut total, observe);
        }
        let path = result.map_err(|failure| self.explain(planned, total, failure))?;
        let got = std::fs::metadata(&path).map_or(0, |m| m.len());
        match total {
            Some(expected) if expected != got => {
                lock::remove(&path, &self.options.cache_dir);
                Err(FetchError::WrongSize {
                    repo: planned.hub.repo.clone(),
                    file: planned.file.path.clone(),
                    expected,
                    got,
                    by: ExpectedBy::Hub,
                })
            }
            _ => Ok(path),
        }
    }

    /// Downloads on a thread of its own, so that silence can be noticed: hf-hub sets no timeout. A
    /// thread given up keeps its partial file and ends with the connection or the process.
    fn attempt(
        &self,
        planned: &PlannedFile<'_>,
        size: &mut Option<u64>,
        observe: &mut dyn FnMut(FetchEvent<'_>),
    ) -> Result<PathBuf, Failure> {
        let (sender, receiver) = mpsc::channel();
        let (repo, file) = (self.api.repo(repo(planned)), planned.file.path.clone());
        std::thread::spawn(move || {
            let result = repo.download_with_progress(&file, Reporter(sender.clone()));
            let _ = sender.send(Message::Done(result));
        });
        // hf-hub begins to count anew with every retry; what is shown never goes back.
        let (mut counted, mut shown) = (0, 0);
        loop {
            match receiver.recv_timeout(self.options.stall) {
                Ok(Message::Total(bytes)) => {
                    *size = Some(bytes);
                    counted = 0;
                }
                Ok(Message::Bytes(bytes)) => {
                    counted = (counted + bytes).min(size.unwrap_or(u64::MAX));
                    if counted > shown {
                        shown = counted;
                        observe(FetchEvent::Download {
                            path: &planned.file.path,
                            done: shown,
                            total: size.unwrap_or(shown),
                        });
                    }
                }
                Ok(Message::Done(result)) => return result.map_err(Failure::Api),
                Err(RecvTimeoutError::Timeout) => return Err(Failure::Silence),
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::Panic),
            }
        }
    }

    /// Makes a partial file that cannot be resumed resumable: a complete one loses its last byte,
    /// which is then asked for, and one that is too long is removed.
    fn mend_part(&self, planned: &PlannedFile<'_>) -> Option<()> {
        let url = self.api.repo(repo(planned)).url(&planned.file.path);
        let metadata = self.api.metadata(&url).ok()?;
        let mut part = cache_repo(planned, self.options).blob_path(metadata.etag());
        part.set_extension("part");
        let size = metadata.size() as u64;
        if std::fs::metadata(&part).ok()?.len() > size {
            return std::fs::remove_file(&part).ok();
        }
        let file = std::fs::OpenOptions::new().write(true).open(&part).ok()?;
        file.set_len(size.saturating_sub(1)).ok()
    }

    fn explain(
        &self,
        planned: &PlannedFile<'_>,
        size: Option<u64>,
        failure: Failure,
    ) -> FetchError {
        let endpoint = self.options.endpoint.clone();
        let (repo, file) = (planned.hub.repo.clone(), planned.file.path.clone());
        let error = match failure {
            Failure::Api(error) => root(error),
            Failure::Silence => {
                let seconds = self.options.stall.as_secs_f64();
                return FetchError::Stalled {
                    endpoint,
                    file,
                    seconds,
                };
            }
            Failure::Panic => {
                let reason = "its redirect leads nowhere".into();
                return FetchError::NotAHub { endpoint, reason };
            }
        };
        match error {
            ApiError::RequestError(error) => match *error {
                ureq::Error::StatusCode(status @ (401 | 403)) => FetchError::Gated {
                    page: format!("{endpoint}/{repo}"),
                    repo,
                    status,
                },
                ureq::Error::StatusCode(404) => FetchError::NotFound {
                    endpoint,
                    repo,
                    revision: planned.hub.revision.clone(),
                    file,
                },
                ureq::Error::StatusCode(status) => FetchError::Status {
                    endpoint,
                    repo,
                    file,
                    status,
                },
                other => FetchError::Unreachable {
                    endpoint,
                    file,
                    reason: other.to_string(),
                },
            },
            ApiError::IoError(error) => match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => FetchError::DiskFull {
                    dir: self.options.cache_dir.clone(),
                    file,
                    bytes: size,
                },
                ErrorKind::PermissionDenied
                | ErrorKind::ReadOnlyFilesystem
                | ErrorKind::NotADirectory
                | ErrorKind::AlreadyExists
                | ErrorKind::NotFound => FetchError::Cache {
                    path: self.options.cache_dir.clone(),
                    error,
                },
                _ => FetchError::Unreachable {
                    endpoint,
                    file,
                    reason: error.to_string(),
                },
            },
            ApiError::LockAcquisition(_) => FetchError::Busy { file },
            other => FetchError::NotAHub {
                endpoint,
                reason: other.to_string(),
            },
        }
    }
}

/// The failure behind the retries.
fn root(error: ApiError) -> ApiError {
    match error {
        ApiError::TooManyRetries(inner) => root(*inner),
        other => other,
    }
}

fn is_bad_part(error: &ApiError) -> bool {
    match error {
        ApiError::TooManyRetries(inner) => is_bad_part(inner),
        ApiError::RequestError(error) => matches!(**error, ureq::Error::StatusCode(416)),
        ApiError::InvalidResume => true,
        _ => false,
    }
}
