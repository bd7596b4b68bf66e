//! What the operations of the networks do: kind, shape, arithmetic, traffic; and, while somebody
//! records, how long each took and what it allocated.
//!
//! A recording is the process's: it holds what all threads run, so one is made at a time.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::memory;

/// Kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// y = x·W + b.
    Linear,
    /// The same of integers: int8 weights and activations.
    Int8Linear,
    /// Two-dimensional convolution.
    Conv2d,
    /// The same of integers.
    Int8Conv2d,
    /// softmax(q·kᵀ/√d)·v.
    Attention,
    /// Group norm, with the activation behind it if there is one.
    GroupNorm,
    /// Layer norm.
    LayerNorm,
    /// GELU-gated halves.
    Geglu,
    /// A pointwise non-linearity.
    Activation,
    /// A sum of tensors.
    Add,
    /// Values put elsewhere, or into another number type: concatenation, change of layout,
    /// enlargement, table look-up.
    Move,
}

impl Op {
    /// All kinds.
    pub const ALL: [Op; 11] = [
        Op::Linear,
        Op::Int8Linear,
        Op::Conv2d,
        Op::Int8Conv2d,
        Op::Attention,
        Op::GroupNorm,
        Op::LayerNorm,
        Op::Geglu,
        Op::Activation,
        Op::Add,
        Op::Move,
    ];

    /// The kind's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Op::Linear => "linear",
            Op::Int8Linear => "int8_linear",
            Op::Conv2d => "conv2d",
            Op::Int8Conv2d => "int8_conv2d",
            Op::Attention => "attention",
            Op::GroupNorm => "group_norm",
            Op::LayerNorm => "layer_norm",
            Op::Geglu => "geglu",
            Op::Activation => "activation",
            Op::Add => "add",
            Op::Move => "move",
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One operation on tensors of given shapes: what has to be done, whatever does it.
///
/// Counts are of the mathematics, not of an implementation: a tap of a convolution that falls on
/// padding counts, a row that pads a matrix product does not. Each tensor is read or written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Work {
    /// Kind.
    pub op: Op,
    /// Sizes that tell operations of one kind apart, in the order that `ops::work` gives them.
    pub sizes: [usize; 4],
    /// Multiply-accumulates of matrix products.
    pub macs: u64,
    /// All other arithmetic; an exponential or an error function counts one.
    pub other_flops: u64,
    /// Bytes of inputs and weights.
    pub read_bytes: u64,
    /// Bytes of results.
    pub written_bytes: u64,
}

impl Work {
    /// Floating-point operations; a multiply-accumulate is two.
    pub fn flops(&self) -> u64 {
        2 * self.macs + self.other_flops
    }

    /// Bytes moved.
    pub fn bytes(&self) -> u64 {
        self.read_bytes + self.written_bytes
    }

    /// The sizes in words: `4096x640x5120`.
    pub fn label(&self) -> String {
        let sizes: Vec<String> = self
            .sizes
            .iter()
            .filter(|&&size| size > 0)
            .map(usize::to_string)
            .collect();
        sizes.join("x")
    }
}

/// An operation that ran.
#[derive(Clone, Copy, Debug)]
pub struct OpRecord {
    /// What it did.
    pub work: Work,
    /// When it began.
    pub began: Instant,
    /// How long it took.
    pub ms: f64,
    /// Heap before, at its highest inside, and after, in bytes.
    pub memory: OpMemory,
}

/// The heap around an operation, in bytes; zeros where the heap is not counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpMemory {
    /// The most since the operation before, which nothing recorded.
    pub gap_peak: usize,
    /// The most inside.
    pub peak: usize,
    /// After, with the result.
    pub after: usize,
}

static RECORDING: AtomicBool = AtomicBool::new(false);
static PAUSED: AtomicBool = AtomicBool::new(false);
static RECORDS: Mutex<Vec<OpRecord>> = Mutex::new(Vec::new());

/// Runs an operation, and notes it if somebody records.
#[inline]
pub fn run(work: impl FnOnce() -> Work, body: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
    if RECORDING.load(Relaxed) && !PAUSED.load(Relaxed) {
        return recorded(work(), body);
    }
    body()
}

/// Runs `body`, of whose operations none is recorded: they do not run yet.
#[cfg(feature = "cuda")]
pub fn unrecorded<T>(body: impl FnOnce() -> T) -> T {
    /// Ends the pause, also where `body` panics.
    struct Pause;

    impl Drop for Pause {
        fn drop(&mut self) {
            PAUSED.store(false, Relaxed);
        }
    }

    PAUSED.store(true, Relaxed);
    let _pause = Pause;
    body()
}

fn recorded(work: Work, body: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
    let gap_peak = memory::take_peak_bytes();
    let began = Instant::now();
    let out = body()?;
    out.device().synchronize()?;
    let ms = began.elapsed().as_secs_f64() * 1e3;
    let record = OpRecord {
        work,
        began,
        ms,
        memory: OpMemory {
            gap_peak,
            peak: memory::take_peak_bytes(),
            after: memory::live_bytes(),
        },
    };
    RECORDS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .push(record);
    Ok(out)
}

/// The right to the process's records, until dropped.
#[derive(Debug)]
pub(super) struct Recording(());

impl Recording {
    /// Begins to record; `None` while another recording is under way.
    pub fn begin() -> Option<Self> {
        let free = !RECORDING.swap(true, Relaxed);
        // Lazily: one made in vain would end the other recording when it is dropped.
        free.then(|| Self(()))
    }

    /// The operations since the last call.
    pub fn take(&self) -> Vec<OpRecord> {
        let mut records = RECORDS
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::take(&mut records)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        RECORDING.store(false, Relaxed);
        self.take();
    }
}
