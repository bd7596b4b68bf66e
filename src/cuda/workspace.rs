//! The one workspace of a GPU's memory: what tensors are allocated from, in place of the driver.
//!
//! candle allocates by the driver's `cuMemAllocAsync` and frees by `cuMemFreeAsync`; on a stream that is adopted, the two
//! lead here (libraries.rs). Memory is taken from the driver in pieces, best in one ([`set_aside`], by the forecast), and
//! given back when the stream ends. All work is on that one stream, in the order of the calls: a block that is freed can
//! be given again at once, since what is asked of it later is done later.
//!
//! So the figures are exact and the same on every GPU, a run of known shapes finds the same addresses each time, and a
//! step that is captured as a graph allocates nothing: it gets a part of the workspace that is its own ([`capture`]).
//!
//! With `DARKROOM_CHECK_MEMORY` set, new blocks are filled with NaN and freed ones with other bytes, a granule behind each
//! block has to stay as it is until that is freed, and blocks that are left at the end of the process are told. Set to
//! `fail:N`, it lets the N-th block find no memory.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use candle_core::{Device, Result};
use cudarc::driver::CudaStream;
use cudarc::driver::sys::{self, CUdeviceptr, CUresult, CUstream};

use super::Driver;
use super::blocks::Blocks;
use super::libraries::Jump;
use crate::ops::workspace::gpu::GRANULE_BYTES;

/// The driver hands out memory in pages of this.
const PAGE_BYTES: u64 = 2 << 20;

/// Blocks up to this have pieces of their own, a page each: one that lives long keeps no large piece from being given back.
const SMALL_BYTES: u64 = 4096;

/// A piece larger than this is given back when the last block in it is freed.
const KEPT_BYTES: u64 = 32 << 20;

/// More than any GPU has, and little enough to be added up.
const MOST_BYTES: u64 = 1 << 48;

/// What a checked block is filled with: NaN in every float type, before it is written; and after it is freed.
const NEW: u8 = 0xFF;
const FREED: u8 = 0xFB;
/// What is behind it.
const FENCE: u8 = 0xFD;

type Alloc = unsafe extern "C" fn(*mut CUdeviceptr, usize, CUstream) -> CUresult;
type Free = unsafe extern "C" fn(CUdeviceptr, CUstream) -> CUresult;
type Destroy = unsafe extern "C" fn(CUstream) -> CUresult;

/// The driver's own functions.
struct Original {
    alloc: Alloc,
    free: Free,
    destroy: Destroy,
}

static ORIGINAL: OnceLock<Original> = OnceLock::new();

/// Leads the driver's allocations here.
///
/// # Safety
/// The jumps are those of the driver's functions of these names.
pub unsafe fn install(to_alloc: Jump, to_free: Jump, to_destroy: Jump) {
    // SAFETY: the types are those of cuda.h.
    let original = unsafe {
        Original {
            alloc: std::mem::transmute::<*mut c_void, Alloc>(to_alloc.leads()),
            free: std::mem::transmute::<*mut c_void, Free>(to_free.leads()),
            destroy: std::mem::transmute::<*mut c_void, Destroy>(to_destroy.leads()),
        }
    };
    if ORIGINAL.set(original).is_ok() {
        to_alloc.lead(alloc as Alloc as *mut c_void);
        to_free.lead(free as Free as *mut c_void);
        to_destroy.lead(destroy as Destroy as *mut c_void);
        if checked() {
            // SAFETY: a function without conditions.
            unsafe { libc::atexit(tell_what_is_left) };
        }
    }
}

fn original() -> &'static Original {
    ORIGINAL.get().expect("set before the jumps led here")
}

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
    /// From each piece's beginning to the end of the last block that was ever in it: the peak, and gaps.
    pub reach_bytes: u64,
    /// Taken from the driver.
    pub reserved_bytes: u64,
}

/// A piece of the driver's memory.
struct Piece {
    at: u64,
    bytes: u64,
    /// How much of it was ever used.
    reach: u64,
    size: Size,
    /// Asked for by name: not given back for having no block in it.
    set_aside: bool,
}

/// What blocks are in a piece.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    Small,
    Large,
}

impl Piece {
    fn contains(&self, at: u64) -> bool {
        (self.at..self.at + self.bytes).contains(&at)
    }
}

#[derive(Default)]
struct Workspace {
    pieces: Vec<Piece>,
    /// Taken for a library, until the end.
    lent: Vec<u64>,
    small: Blocks,
    large: Blocks,
    used: u64,
    peak: u64,
    capture: Option<Capture>,
    /// Whether there ever was one.
    captured: bool,
    /// Where checked: what each block was asked to hold.
    asked: HashMap<u64, u64>,
}

/// A captured graph's part while it is captured: the largest free block.
struct Capture {
    at: u64,
    bytes: u64,
    blocks: Blocks,
    /// Where the part ends of it that was ever taken.
    end: u64,
}

impl Workspace {
    fn take(&mut self, bytes: u64, stream: CUstream) -> std::result::Result<u64, CUresult> {
        if bytes == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        if bytes > MOST_BYTES {
            return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        }
        let length = bytes.next_multiple_of(GRANULE_BYTES) + fence_bytes();
        self.captured |= self.capture.is_some();
        let captured = self.captured;
        let found = match &mut self.capture {
            _ if fails(captured) => None,
            Some(capture) => {
                let found = capture.blocks.take(length);
                capture.end = capture.end.max(found.map_or(0, |at| at + length));
                found
            }
            None => {
                let size = match length <= SMALL_BYTES {
                    true => Size::Small,
                    false => Size::Large,
                };
                self.blocks(size).take(length).or_else(|| {
                    self.grow(size, length);
                    self.blocks(size).take(length)
                })
            }
        };
        let at = found.ok_or(CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        self.count(at, length, length - fence_bytes());
        if checked() {
            self.asked.insert(at, bytes);
            fill(at, NEW, bytes, stream);
            fill(at + bytes, FENCE, length - bytes, stream);
        }
        Ok(at)
    }

    fn count(&mut self, at: u64, length: u64, used: u64) {
        self.used += used;
        self.peak = self.peak.max(self.used);
        if let Some(piece) = self.pieces.iter_mut().find(|piece| piece.contains(at)) {
            piece.reach = piece.reach.max(at + length - piece.at);
        }
    }

    /// Whether the block was one.
    fn give(&mut self, at: u64, stream: CUstream) -> bool {
        let given = match &mut self.capture {
            Some(capture) => capture.blocks.give(at),
            None => self.small.give(at).or_else(|| self.large.give(at)),
        };
        let Some(length) = given else {
            return false;
        };
        self.used -= length - fence_bytes();
        if let Some(bytes) = self.asked.remove(&at) {
            if self.capture.is_none() {
                check_fence(at + bytes, length - bytes, bytes, stream);
            }
            fill(at, FREED, bytes, stream);
        }
        if length > SMALL_BYTES && self.capture.is_none() {
            self.give_back(|piece| {
                piece.bytes > KEPT_BYTES && !piece.set_aside && piece.contains(at)
            });
        }
        true
    }

    fn blocks(&mut self, size: Size) -> &mut Blocks {
        match size {
            Size::Small => &mut self.small,
            Size::Large => &mut self.large,
        }
    }

    /// Takes a piece from the driver in which a block of `bytes` has room, and a quarter of what there is, if it can be
    /// had; what is free is given back first where it cannot.
    fn grow(&mut self, size: Size, bytes: u64) {
        let least = bytes + GRANULE_BYTES;
        let ample = match size {
            Size::Small => PAGE_BYTES,
            Size::Large => least.max(self.reserved() / 4),
        };
        if !self.add_piece(size, ample) && !self.add_piece(size, least) {
            self.give_back(|_| true);
            self.add_piece(size, least);
        }
    }

    fn add_piece(&mut self, size: Size, bytes: u64) -> bool {
        let bytes = bytes.next_multiple_of(PAGE_BYTES);
        let Ok(at) = from_driver(bytes) else {
            return false;
        };
        self.pieces.push(Piece {
            at,
            bytes,
            reach: 0,
            size,
            set_aside: false,
        });
        // The last granule is never given: two pieces side by side stay two.
        self.blocks(size).add(at, bytes - GRANULE_BYTES);
        true
    }

    /// Gives such pieces back to the driver of which nothing is used.
    fn give_back(&mut self, such: impl Fn(&Piece) -> bool) {
        for i in (0..self.pieces.len()).rev() {
            let Piece {
                at, bytes, size, ..
            } = self.pieces[i];
            if such(&self.pieces[i]) && self.blocks(size).remove(at, bytes - GRANULE_BYTES) {
                self.pieces.swap_remove(i);
                to_driver(at);
            }
        }
    }

    /// Has `bytes` free in one block, if the driver has so much.
    fn reserve(&mut self, bytes: u64) {
        let bytes = bytes.min(MOST_BYTES);
        let most = self.large.largest().map_or(0, |(_, bytes)| bytes);
        if bytes > most {
            self.give_back(|_| true);
            if self.add_piece(Size::Large, bytes + GRANULE_BYTES) {
                self.pieces.last_mut().expect("just added").set_aside = true;
            }
        }
    }

    fn reserved(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.bytes).sum()
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        self.pieces.iter().for_each(|piece| to_driver(piece.at));
        self.lent.iter().for_each(|at| to_driver(*at));
    }
}

fn from_driver(bytes: u64) -> Driver<u64> {
    let mut at = 0;
    // SAFETY: writes one address.
    unsafe { sys::cuMemAlloc_v2(&mut at, bytes as usize) }.result()?;
    Ok(at)
}

fn to_driver(at: u64) {
    // SAFETY: what the driver gave, whose blocks nobody has any more. It waits for the work that is under way; an error
    // is of that, and is told where that is waited for.
    let _ = unsafe { sys::cuMemFree_v2(at) };
}

fn fill(at: u64, value: u8, bytes: u64, stream: CUstream) {
    if bytes > 0 {
        // SAFETY: inside a block. An error is of the work before, and is told where that is waited for.
        let _ = unsafe { sys::cuMemsetD8Async(at, value, bytes as usize, stream) };
    }
}

/// Ends the process if what is behind a block of `bytes` was written.
fn check_fence(at: u64, length: u64, bytes: u64, stream: CUstream) {
    let mut fence = vec![FENCE; length as usize];
    // SAFETY: inside the workspace; as many bytes as there is room for.
    unsafe {
        if sys::cuStreamSynchronize(stream) == CUresult::CUDA_SUCCESS {
            let _ = sys::cuMemcpyDtoH_v2(fence.as_mut_ptr().cast(), at, fence.len());
        }
    }
    if let Some(behind) = fence.iter().position(|byte| *byte != FENCE) {
        eprintln!("workspace: byte {behind} behind a block of {bytes} bytes was written");
        std::process::abort();
    }
}

extern "C" fn tell_what_is_left() {
    let (mut blocks, mut bytes) = (0, 0);
    for space in spaces().values() {
        blocks += space.small.taken().chain(space.large.taken()).count();
        bytes += space.used;
    }
    eprintln!("workspace: {blocks} blocks of {bytes} bytes not freed");
}

/// `cuMemAllocAsync`.
unsafe extern "C" fn alloc(to: *mut CUdeviceptr, bytes: usize, stream: CUstream) -> CUresult {
    if let Some(space) = spaces().get_mut(&(stream as usize)) {
        return match space.take(bytes as u64, stream) {
            Ok(at) => {
                // SAFETY: the caller's own word.
                unsafe { *to = at };
                CUresult::CUDA_SUCCESS
            }
            Err(error) => error,
        };
    }
    // SAFETY: the caller's own call.
    unsafe { (original().alloc)(to, bytes, stream) }
}

/// `cuMemFreeAsync`.
unsafe extern "C" fn free(at: CUdeviceptr, stream: CUstream) -> CUresult {
    if let Some(space) = spaces().get_mut(&(stream as usize)) {
        return match space.give(at, stream) {
            true => CUresult::CUDA_SUCCESS,
            false => CUresult::CUDA_ERROR_INVALID_VALUE,
        };
    }
    // SAFETY: the caller's own call.
    unsafe { (original().free)(at, stream) }
}

/// `cuStreamDestroy`: no tensor is left, each of which holds its stream.
unsafe extern "C" fn destroy(stream: CUstream) -> CUresult {
    drop(spaces().remove(&(stream as usize)));
    // SAFETY: the caller's own call.
    unsafe { (original().destroy)(stream) }
}

/// Has a stream's tensors allocated here from now on.
pub fn adopt(stream: &CudaStream) {
    spaces().entry(stream.cu_stream() as usize).or_default();
}

/// Memory for a library's own use, as long as the stream is there.
pub fn lend(stream: &CudaStream, bytes: u64) -> Driver<u64> {
    let at = from_driver(bytes)?;
    of(stream, |space| space.lent.push(at));
    Ok(at)
}

/// Has `bytes` free in one piece of the driver's memory; leaves all as it is where there is not so much.
pub fn set_aside(stream: &CudaStream, bytes: u64) {
    if stream.context().bind_to_thread().is_ok() {
        of(stream, |space| {
            space.reserve(bytes.next_multiple_of(GRANULE_BYTES))
        });
    }
}

/// How much of a device's memory is in use, where its stream was adopted.
pub fn usage(device: &Device) -> Result<Option<Usage>> {
    Ok(in_use(&device.as_cuda_device()?.cuda_stream()))
}

pub(super) fn in_use(stream: &CudaStream) -> Option<Usage> {
    of(stream, |space| Usage {
        used_bytes: space.used,
        peak_bytes: space.peak,
        reach_bytes: space.pieces.iter().map(|piece| piece.reach).sum(),
        reserved_bytes: space.reserved(),
    })
}

/// Lets the peak begin anew.
pub fn forget_peak(stream: &CudaStream) {
    of(stream, |space| space.peak = space.used);
}

/// Lets all blocks from now on, until [`Capturing::end`], be of a part that is the captured graph's own.
pub fn capture(stream: &Arc<CudaStream>) -> Option<Capturing> {
    of(stream, |space| {
        // What the same work took before, and an eighth for other gaps.
        let before = space.peak - space.used;
        space.reserve(before + before / 8);
        let (at, bytes) = space.large.largest()?;
        space.large.remove(at, bytes);
        let mut blocks = Blocks::default();
        blocks.add(at, bytes);
        space.capture = Some(Capture {
            at,
            bytes,
            blocks,
            end: at,
        });
        Some(Capturing(stream.clone()))
    })?
}

/// While a graph is captured.
pub struct Capturing(Arc<CudaStream>);

impl Capturing {
    /// The graph's part; nothing where a block in it was not freed.
    pub fn end(self) -> Option<Own> {
        finish(&self.0)
    }
}

impl Drop for Capturing {
    fn drop(&mut self) {
        finish(&self.0);
    }
}

/// Ends a capture's part, if that is still under way.
fn finish(stream: &Arc<CudaStream>) -> Option<Own> {
    of(stream, |space| {
        let capture = space.capture.take()?;
        space.large.add(capture.at, capture.bytes);
        if capture.blocks.taken().next().is_some() {
            // Somebody has them still.
            for (at, length) in capture.blocks.taken() {
                space.large.take_at(at, length);
            }
            return None;
        }
        let bytes = capture.end - capture.at;
        if bytes > 0 {
            space.large.take_at(capture.at, bytes);
            space.count(capture.at, bytes, bytes);
        }
        Some(Own {
            stream: stream.clone(),
            at: capture.at,
            bytes,
        })
    })?
}

/// What a graph works in: nobody else's until it is dropped.
pub struct Own {
    stream: Arc<CudaStream>,
    at: u64,
    bytes: u64,
}

impl Drop for Own {
    fn drop(&mut self) {
        if self.bytes > 0 {
            of(&self.stream, |space| {
                space.large.give(self.at);
                space.used -= self.bytes;
            });
        }
    }
}
