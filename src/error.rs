//! One error type; a variant for each class of failure that a user can act on.

use std::path::{Path, PathBuf};

use crate::observe::Stage;

/// What can go wrong between a prompt and an image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request itself is wrong: a size, a number, a combination of options.
    #[error("{0}")]
    Request(String),

    /// A checkpoint's file, tensor or setting is missing, malformed or not supported.
    #[error("{place}: {problem}")]
    Checkpoint {
        /// File, folder or tensor that is wrong.
        place: String,
        /// What is wrong with it, and the way out.
        problem: String,
    },

    /// A stage produced NaN or an infinity.
    #[error(
        "{stage}: {tensor} holds {bad} values that are not finite (NaN or infinity), the others up to {largest:e}; {way_out}"
    )]
    NotFinite {
        /// The stage that computed the values.
        stage: Stage,
        /// Which of its results.
        tensor: String,
        /// How many values are NaN or infinite.
        bad: usize,
        /// The largest magnitude of the others.
        largest: f32,
        /// What the user can do.
        way_out: String,
    },

    /// The run needs more memory than there is.
    #[error("{0}")]
    Memory(String),

    /// The device asked for cannot be used.
    #[error("device {device}: {problem}")]
    Device {
        /// As the user named it.
        device: String,
        /// Why, and the way out.
        problem: String,
    },

    /// A file cannot be read or written.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's words, or what the content lacks.
        problem: String,
    },

    /// The user asked to stop.
    #[error("stopped on request; no partial file was left")]
    Cancelled,

    /// The schedule asked for cannot be built.
    #[error(transparent)]
    Scheduler(#[from] crate::scheduler::SchedulerError),

    /// weights.toml, or the file given in its place, is wrong.
    #[error(transparent)]
    Manifest(#[from] crate::weights::manifest::ManifestError),

    /// A model's files could not be fetched.
    #[error(transparent)]
    Fetch(#[from] crate::weights::fetch::FetchError),

    /// A tensor operation failed: a defect of ours, memory ran out, or a GPU failed.
    #[error("tensor operation: {0}{hint}", hint = way_out(.0))]
    Tensor(candle_core::Error),
}

impl From<candle_core::Error> for Error {
    /// An error of ours that travelled inside candle's (a tensor missing from a checkpoint) comes out
    /// as it was.
    fn from(error: candle_core::Error) -> Self {
        match error {
            candle_core::Error::WrappedContext { wrapped, context } => {
                match wrapped.downcast::<Error>() {
                    Ok(ours) => *ours,
                    Err(wrapped) => {
                        Self::Tensor(candle_core::Error::WrappedContext { wrapped, context })
                    }
                }
            }
            other => Self::Tensor(other),
        }
    }
}

/// What to do about an error of a GPU's driver.
fn way_out(error: &candle_core::Error) -> &'static str {
    let text = error.to_string();
    if text.contains("OUT_OF_MEMORY") || text.contains("ALLOC_FAILED") {
        "\n  the GPU's memory ran out: --quant w8a8, --vae-tile 64, a smaller size or batch take less; \
         `darkroom plan --device cuda` forecasts how much"
    } else if text.contains("CUDA_ERROR_") || text.contains("CUBLAS_STATUS_") {
        "\n  the GPU failed or is gone, and this run with it: `nvidia-smi` tells its state, --device cpu \
         runs without one"
    } else {
        ""
    }
}

/// Shorthand of the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A checkpoint problem at `place`.
    pub fn checkpoint(place: impl ToString, problem: impl Into<String>) -> Self {
        Self::Checkpoint {
            place: place.to_string(),
            problem: problem.into(),
        }
    }

    /// A file problem at `path`.
    pub fn file(path: &Path, problem: impl ToString) -> Self {
        Self::File {
            path: path.to_owned(),
            problem: problem.to_string(),
        }
    }

    /// The process's exit code: 2 where the command was used wrongly, 1 where it failed.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Request(_) => 2,
            Self::Scheduler(error) if error.is_of_the_request() => 2,
            Self::Cancelled => 130,
            _ => 1,
        }
    }
}
