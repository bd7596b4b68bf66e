//! What the GPU's kernels take (kernels/launch.h), and how much candle's operations are given at once where none does:
//! for who launches them (`ops::cuda`), and who foresees what they hold ([`super::workspace::gpu`]) and how many they are
//! ([`crate::forecast`]).

/// Channels and values of most kernels are a multiple of this: a thread's vector of half precision.
pub const VECTOR: usize = 8;

/// Inputs of an int8 weight, of this.
pub const INT8_INPUTS: usize = 16;

/// The head dimension of the attention kernels.
pub const HEAD: usize = 64;

/// The most channels of the group norm kernels.
pub const GROUP_NORM_CHANNELS: usize = 3072;

/// Chunks of pixels that group norm takes its statistics of: at most so many.
pub const GROUP_NORM_CHUNKS: usize = 128;

/// Pixels of such a chunk, at least.
pub const GROUP_NORM_PIXELS: usize = 32;

/// The most channels of the quantised GEGLU: a row lies in a block's memory.
#[cfg(feature = "cuda")]
pub const INT8_GEGLU_CHANNELS: usize = 12_280;

/// Scores of candle's attention held at once, at most (unless one query's are more).
pub const SCORES: usize = 1 << 26;

/// Values of an image's patches in candle's convolution, likewise (of one row of the result). candle counts them in 32
/// bits; fewer take less memory, and these are still a product of thousands of rows.
pub const PATCHES: usize = 1 << 24;
