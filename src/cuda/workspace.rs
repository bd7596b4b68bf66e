//! The one workspace of a GPU's memory: what tensors are allocated from, in place of the driver.
//!
//! candle allocates by the driver's `cuMemAllocAsync` and frees by `cuMemFreeAsync`; on a stream that is adopted, the two
//! lead here (driver.rs). Memory is taken from the driver in pieces, best in one ([`set_aside`], by the forecast), and
//! given back when the stream ends, or when more is needed and they are free. All work is on that one stream, in the
//! order of the calls: a block that is freed can be given again at once, since what is asked of it later is done later.
//!
//! So the figures are exact and the same on every GPU, a run of known shapes finds the same addresses each time, and a
//! step that is captured as a graph allocates nothing: what it takes of the workspace stays its own ([`capture`]). What
//! candle would upload in such a step, shapes and strides for its own kernels, becomes a part of that, too: a graph reads
//! no memory of the host's.
//!
//! With `DARKROOM_CHECK_MEMORY` set, new blocks are filled with NaN and freed ones with other bytes, a granule behind each
//! block has to stay as it is until that is freed (what a graph does is not looked at), and blocks that are left at the end
//! of the process are told. Set to `fail:N`, it lets the N-th block find no memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};

use candle_core::{Device, Result};
use cudarc::driver::sys::{self, CUcontext, CUresult, CUstream};
use cudarc::driver::{CudaStream, DriverError};

use super::blocks::Blocks;
use super::probe::told;
use super::{Driver, driver};
use crate::ops::workspace::gpu::GRANULE_BYTES;

/// The driver hands out memory in pages of this.
const PAGE_BYTES: u64 = 2 << 20;

/// Blocks up to this lie at the other end: with them among the large ones gaps grow (tried for SDXL's shapes).
const SMALL_BYTES: u64 = 64 << 10;

/// The workspace grows by this at most, where the block that is missing is no larger.
const AMPLE_BYTES: u64 = 256 << 20;

/// What a captured step may upload, all in all: a hundred bytes or so for each shape that it moves.
const CONSTANT_BYTES: u64 = 256 << 10;

/// More than any GPU has, and little enough to be added up.
const MOST_BYTES: u64 = 1 << 48;

/// What a checked block is filled with: NaN in every float type, before it is written; and after it is freed.
const NEW: u8 = 0xFF;
const FREED: u8 = 0xFB;
/// What is behind it.
const FENCE: u8 = 0xFD;

/// What `DARKROOM_CHECK_MEMORY` is set to.
fn check() -> Option<&'static str> {
    static CHECK: OnceLock<Option<String>> = OnceLock::new();
    CHECK
        .get_or_init(|| std::env::var("DARKROOM_CHECK_MEMORY").ok())
        .as_deref()
}

fn checked() -> bool {
    check().is_some()
}

/// Whether this block is the one that the check says finds no memory: `fail:40`, or, of those from the first capture on,
/// `fail:40@capture`.
fn fails(captured: bool) -> bool {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let asked = check().and_then(|text| text.strip_prefix("fail:"));
    let asked = asked.map(|which| match which.strip_suffix("@capture") {
        Some(which) => (which, captured),
        None => (which, true),
    });
    asked.is_some_and(|(which, counting)| {
        counting && which.parse() == Ok(COUNT.fetch_add(1, Ordering::Relaxed) + 1)
    })
}

/// Bytes behind a block that nobody may write.
fn fence_bytes() -> u64 {
    match checked() {
        true => GRANULE_BYTES,
        false => 0,
    }
}

/// The workspaces, by their streams.
fn spaces() -> MutexGuard<'static, HashMap<usize, Workspace>> {
    static SPACES: LazyLock<Mutex<HashMap<usize, Workspace>>> = LazyLock::new(Mutex::default);
    SPACES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn of<T>(stream: &CudaStream, then: impl FnOnce(&mut Workspace) -> T) -> Option<T> {
    spaces().get_mut(&(stream.cu_stream() as usize)).map(then)
}

/// How much of a workspace is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Now, in whole granules; all that a graph works in counts.
    pub used_bytes: u64,
    /// At most, since it was last asked to begin anew.
    pub peak_bytes: u64,
    /// Taken from the driver, at most: with what is free, and the gaps.
    pub reserved_bytes: u64,
}

/// A piece of the driver's memory.
struct Piece {
    at: u64,
    bytes: u64,
}

struct Workspace {
    context: CUcontext,
    stream: CUstream,
    pieces: Vec<Piece>,
    /// Taken for a library, until the end.
    lent: Vec<u64>,
    blocks: Blocks,
    usage: Usage,
    capture: Option<Capture>,
    /// Whether there ever was one.
    captured: bool,
    /// Where checked: what each block was asked to hold.
    asked: HashMap<u64, u64>,
}

// SAFETY: the driver's handles, which any thread may use.
unsafe impl Send for Workspace {}

/// While a graph is captured: its blocks, from all that was free before.
struct Capture {
    thread: ThreadId,
    blocks: Blocks,
    /// Every block that it ever took: address and bytes.
    touched: Vec<(u64, u64)>,
    constants: Constants,
}

/// What a captured step uploads: the same in each launch, so it is uploaded once, behind the capture.
struct Constants {
    /// A block of [`CONSTANT_BYTES`].
    at: u64,
    bytes: Vec<u8>,
    /// Where in `bytes` an upload lies.
    offsets: HashMap<Vec<u8>, usize>,
}

impl Constants {
    /// Where on the device these bytes will be; nowhere once there is no more room.
    fn keep(&mut self, upload: &[u8]) -> Option<u64> {
        let offset = match self.offsets.get(upload) {
            Some(offset) => *offset,
            None => {
                let offset = self.bytes.len().next_multiple_of(size_of::<u64>());
                if offset + upload.len() > CONSTANT_BYTES as usize {
                    return None;
                }
                self.bytes.resize(offset, 0);
                self.bytes.extend(upload);
                self.offsets.insert(upload.into(), offset);
                offset
            }
        };
        Some(self.at + offset as u64)
    }
}

/// The first place for what is large, the last for what is small.
fn take_from(blocks: &mut Blocks, length: u64) -> Option<u64> {
    match length > SMALL_BYTES {
        true => blocks.take(length),
        false => blocks.take_last(length),
    }
}

impl Workspace {
    fn take(&mut self, bytes: u64) -> std::result::Result<u64, CUresult> {
        if bytes == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        if bytes > MOST_BYTES {
            return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        }
        let length = bytes.next_multiple_of(GRANULE_BYTES) + fence_bytes();
        self.captured |= self.capture.is_some();
        let found = match &mut self.capture {
            _ if fails(self.captured) => None,
            Some(capture) if capture.thread != thread::current().id() => {
                return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
            }
            Some(capture) => {
                let found = take_from(&mut capture.blocks, length);
                capture.touched.extend(found.map(|at| (at, length)));
                found
            }
            None => take_from(&mut self.blocks, length).or_else(|| {
                self.grow(length);
                take_from(&mut self.blocks, length)
            }),
        };
        let at = found.ok_or(CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        self.count(length - fence_bytes());
        if checked() {
            self.asked.insert(at, bytes);
            self.fill(at, NEW, bytes);
            self.fill(at + bytes, FENCE, length - bytes);
        }
        Ok(at)
    }

    fn count(&mut self, bytes: u64) {
        let usage = &mut self.usage;
        usage.used_bytes += bytes;
        usage.peak_bytes = usage.peak_bytes.max(usage.used_bytes);
    }

    /// Whether the block was one.
    fn give(&mut self, at: u64) -> bool {
        // Another thread's blocks are older than the capture.
        let blocks = match &mut self.capture {
            Some(capture) if capture.thread == thread::current().id() => &mut capture.blocks,
            _ => &mut self.blocks,
        };
        let Some(length) = blocks.give(at) else {
            return false;
        };
        self.usage.used_bytes -= length - fence_bytes();
        if let Some(bytes) = self.asked.remove(&at) {
            if self.capture.is_none() {
                self.check_fence(at + bytes, length - bytes, bytes);
            }
            self.fill(at, FREED, bytes);
        }
        true
    }

    /// Takes a piece from the driver in which a block of `bytes` has room, and a quarter of what there is, if it can be
    /// had; what is free is given back first where it cannot.
    fn grow(&mut self, bytes: u64) {
        let least = bytes + GRANULE_BYTES;
        let ample = least.max(AMPLE_BYTES.min(self.reserved() / 4));
        if !self.add_piece(ample) && !self.add_piece(least) {
            self.give_back();
            self.add_piece(least);
        }
    }

    fn add_piece(&mut self, bytes: u64) -> bool {
        let bytes = bytes.next_multiple_of(PAGE_BYTES);
        let Ok(at) = self.driver(|| from_driver(bytes)) else {
            return false;
        };
        self.pieces.push(Piece { at, bytes });
        self.usage.reserved_bytes = self.usage.reserved_bytes.max(self.reserved());
        // The last granule is never given: two pieces side by side stay two.
        self.blocks.add(at, bytes - GRANULE_BYTES);
        true
    }

    /// Gives pieces back to the driver of which nothing is used.
    fn give_back(&mut self) {
        let blocks = &mut self.blocks;
        let unused = |piece: &mut Piece| blocks.remove(piece.at, piece.bytes - GRANULE_BYTES);
        let unused: Vec<Piece> = self.pieces.extract_if(.., unused).collect();
        self.to_driver(unused.iter().map(|piece| piece.at));
    }

    /// Has `bytes` free in one block, if the driver has so much.
    fn reserve(&mut self, bytes: u64) {
        let bytes = bytes.min(MOST_BYTES).next_multiple_of(GRANULE_BYTES);
        if bytes > self.blocks.largest() {
            self.give_back();
            self.add_piece(bytes + GRANULE_BYTES);
        }
    }

    fn reserved(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.bytes).sum()
    }

    /// Calls the driver in the stream's context, whatever the thread's own is.
    fn driver<T>(&self, call: impl FnOnce() -> T) -> T {
        let mut before = std::ptr::null_mut();
        // SAFETY: a context that the stream keeps; what was current is again.
        unsafe {
            let _ = sys::cuCtxPushCurrent_v2(self.context);
            let result = call();
            let _ = sys::cuCtxPopCurrent_v2(&mut before);
            result
        }
    }

    /// Gives back what the driver gave, whose blocks nobody has any more, when the work that may read them is done.
    fn to_driver(&self, pieces: impl Iterator<Item = u64>) {
        let mut pieces = pieces.peekable();
        if pieces.peek().is_none() {
            return;
        }
        // An error is of that work, and is told where it is waited for.
        self.driver(|| {
            // SAFETY: a stream that is there, and addresses of the driver's.
            let _ = unsafe { sys::cuStreamSynchronize(self.stream) };
            pieces.for_each(|at| {
                let _ = unsafe { sys::cuMemFree_v2(at) };
            });
        });
    }

    /// Ends the capture, takes what it has touched and uploads its constants: address and bytes of each part, and the
    /// constants.
    fn own(&mut self) -> Result<(Vec<(u64, u64)>, u64)> {
        let capture = self.capture.take().expect("one is under way");
        let (Constants { at, bytes, .. }, mut touched) = (capture.constants, capture.touched);
        let kept = capture.blocks.taken().next().is_some();
        self.blocks.absorb(capture.blocks);
        // SAFETY: no more than the block holds; the bytes are there until they are copied.
        let uploaded = self.driver(|| unsafe {
            match driver::upload_now(at, &bytes, self.stream) {
                CUresult::CUDA_SUCCESS => sys::cuStreamSynchronize(self.stream),
                error => error,
            }
        });
        if kept || uploaded != CUresult::CUDA_SUCCESS {
            self.give(at);
            uploaded.result().map_err(told)?;
            candle_core::bail!("a tensor of the step was kept")
        }
        let mut parts: Vec<(u64, u64)> = Vec::new();
        touched.sort_unstable();
        for (at, bytes) in touched {
            match parts.last_mut() {
                Some((from, length)) if at <= *from + *length => {
                    *length = (*length).max(at + bytes - *from)
                }
                _ => parts.push((at, bytes)),
            }
        }
        for (at, bytes) in &parts {
            self.blocks.take_at(*at, *bytes);
            self.count(*bytes);
        }
        Ok((parts, at))
    }

    fn fill(&self, at: u64, value: u8, bytes: u64) {
        if bytes > 0 {
            // SAFETY: inside a block. An error is of the work before, and is told where that is waited for.
            self.driver(|| unsafe {
                let _ = sys::cuMemsetD8Async(at, value, bytes as usize, self.stream);
            });
        }
    }

    /// Ends the process if what is behind a block of `bytes` was written.
    fn check_fence(&self, at: u64, length: u64, bytes: u64) {
        let mut fence = vec![FENCE; length as usize];
        // SAFETY: inside the workspace; as many bytes as there is room for.
        self.driver(|| unsafe {
            if sys::cuStreamSynchronize(self.stream) == CUresult::CUDA_SUCCESS {
                let _ = sys::cuMemcpyDtoH_v2(fence.as_mut_ptr().cast(), at, fence.len());
            }
        });
        if let Some(behind) = fence.iter().position(|byte| *byte != FENCE) {
            eprintln!("workspace: byte {behind} behind a block of {bytes} bytes was written");
            std::process::abort();
        }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let pieces = self.pieces.iter().map(|piece| piece.at);
        self.to_driver(pieces.chain(self.lent.iter().copied()));
    }
}

fn from_driver(bytes: u64) -> Driver<u64> {
    let mut at = 0;
    // SAFETY: writes one address.
    unsafe { sys::cuMemAlloc_v2(&mut at, bytes as usize) }.result()?;
    Ok(at)
}

extern "C" fn tell_what_is_left() {
    let (mut blocks, mut bytes) = (0, 0);
    for space in spaces().values() {
        blocks += space.blocks.taken().count();
        bytes += space.usage.used_bytes;
    }
    eprintln!("workspace: {blocks} blocks of {bytes} bytes not freed");
}

/// A block of a stream's workspace, where it has one.
pub(super) fn take(stream: CUstream, bytes: usize) -> Option<std::result::Result<u64, CUresult>> {
    let mut spaces = spaces();
    let space = spaces.get_mut(&(stream as usize))?;
    Some(space.take(bytes as u64))
}

/// Frees a block of a stream's workspace, where it has one: whether the block was one.
pub(super) fn give(stream: CUstream, at: u64) -> Option<bool> {
    let mut spaces = spaces();
    let space = spaces.get_mut(&(stream as usize))?;
    Some(space.give(at))
}

/// While a stream is captured: where on the device what is uploaded will be.
pub(super) fn constant(
    stream: CUstream,
    upload: &[u8],
) -> Option<std::result::Result<u64, CUresult>> {
    let mut spaces = spaces();
    let capture = spaces.get_mut(&(stream as usize))?.capture.as_mut()?;
    if capture.thread != thread::current().id() {
        return Some(Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD));
    }
    let kept = capture.constants.keep(upload);
    Some(kept.ok_or(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED))
}

/// Whether a stream is captured.
pub(super) fn is_captured(stream: CUstream) -> bool {
    let space = spaces();
    let space = space.get(&(stream as usize));
    space.is_some_and(|space| space.capture.is_some())
}

/// Gives a stream's workspace back: no tensor is left, each of which holds its stream.
pub(super) fn end(stream: CUstream) {
    drop(spaces().remove(&(stream as usize)));
}

/// One capture at a time.
static CAPTURING: Mutex<()> = Mutex::new(());

/// Keeps captures from beginning, once none is under way; not in a thread that captures.
pub(super) fn no_capture() -> Option<MutexGuard<'static, ()>> {
    let here = thread::current().id();
    let captures = |space: &Workspace| space.capture.as_ref().map(|capture| capture.thread);
    let own = spaces().values().any(|space| captures(space) == Some(here));
    (!own).then(|| CAPTURING.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Has the check tell at the end of the process what is left, where it is asked for.
pub(super) fn tell_at_exit() {
    if checked() {
        // SAFETY: a function without conditions.
        unsafe { libc::atexit(tell_what_is_left) };
    }
}

/// Has a stream's tensors allocated here from now on.
pub fn adopt(stream: &CudaStream) {
    let space = Workspace {
        context: stream.context().cu_ctx(),
        stream: stream.cu_stream(),
        pieces: Vec::new(),
        lent: Vec::new(),
        blocks: Blocks::default(),
        usage: Usage::default(),
        capture: None,
        captured: false,
        asked: HashMap::new(),
    };
    spaces().insert(stream.cu_stream() as usize, space);
}

/// Memory for a library's own use, as long as the stream is there.
pub fn lend(stream: &CudaStream, bytes: u64) -> Driver<u64> {
    let lent = of(stream, |space| {
        let at = space.driver(|| from_driver(bytes))?;
        space.lent.push(at);
        Ok(at)
    });
    lent.expect("an adopted stream")
}

/// Has `bytes` free in one piece of the driver's memory; leaves all as it is where there is not so much.
pub fn set_aside(stream: &CudaStream, bytes: u64) {
    of(stream, |space| space.reserve(bytes));
}

/// How much of a device's memory is in use, where its stream was adopted.
pub fn usage(device: &Device) -> Result<Option<Usage>> {
    Ok(in_use(&device.as_cuda_device()?.cuda_stream()))
}

pub(super) fn in_use(stream: &CudaStream) -> Option<Usage> {
    of(stream, |space| space.usage)
}

/// What the driver has given, and no tensor takes.
pub fn unused_bytes(stream: &CudaStream) -> u64 {
    of(stream, |space| space.reserved() - space.usage.used_bytes).unwrap_or(0)
}

/// Lets the peak begin anew.
pub fn forget_peak(stream: &CudaStream) {
    of(stream, |space| {
        space.usage.peak_bytes = space.usage.used_bytes
    });
}

/// Lets all memory that is taken from now on, until [`Capturing::end`], be the captured graph's own. Waits for a capture
/// in another thread.
pub fn capture(stream: &Arc<CudaStream>) -> Result<Capturing> {
    let alone = CAPTURING.lock().unwrap_or_else(PoisonError::into_inner);
    of(stream, |space| {
        let at = space
            .take(CONSTANT_BYTES)
            .map_err(|error| told(DriverError(error)))?;
        space.capture = Some(Capture {
            thread: thread::current().id(),
            blocks: space.blocks.split_free(),
            touched: Vec::new(),
            constants: Constants {
                at,
                bytes: Vec::new(),
                offsets: HashMap::new(),
            },
        });
        Ok(Capturing {
            stream: stream.clone(),
            _alone: alone,
        })
    })
    .unwrap_or_else(|| candle_core::bail!("this GPU's tensors are not allocated from a workspace"))
}

/// While a graph is captured.
pub struct Capturing {
    stream: Arc<CudaStream>,
    _alone: MutexGuard<'static, ()>,
}

impl Capturing {
    /// The graph's own memory, with all in it that the graph does not write.
    ///
    /// # Errors
    /// A block that was not freed, or what the driver says.
    pub fn end(self) -> Result<Own> {
        let parts = of(&self.stream, |space| space.own()).expect("begun");
        let (parts, constants) = parts?;
        Ok(Own {
            stream: self.stream.clone(),
            parts,
            constants,
        })
    }
}

impl Drop for Capturing {
    fn drop(&mut self) {
        of(&self.stream, |space| {
            if let Some(capture) = space.capture.take() {
                space.blocks.absorb(capture.blocks);
                space.give(capture.constants.at);
            }
        });
    }
}

/// What a graph works in: nobody else's until it is dropped.
pub struct Own {
    stream: Arc<CudaStream>,
    /// Address and bytes of each part.
    parts: Vec<(u64, u64)>,
    /// The block of its [`Constants`].
    constants: u64,
}

impl Drop for Own {
    fn drop(&mut self) {
        of(&self.stream, |space| {
            for (at, bytes) in &self.parts {
                space.blocks.give(*at);
                space.usage.used_bytes -= bytes;
            }
            space.give(self.constants);
        });
    }
}
