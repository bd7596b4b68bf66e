//! The heap, counted to the byte; the process's resident set; the machine's memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The system's allocator with its bytes counted. A program that wants exact memory figures sets it:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: darkroom::measure::memory::Counting = darkroom::measure::memory::Counting;
/// ```
///
/// Large blocks lie in large pages where the system has them. Counted is what was asked for, from the
/// program's start on: neither the allocator's own overhead nor memory-mapped files are in it.
#[derive(Debug)]
pub struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicUsize = AtomicUsize::new(0);

fn grown(bytes: usize) {
    CALLS.fetch_add(1, Relaxed);
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    // A load is cheaper than a maximum, and nearly always enough.
    if live > PEAK.load(Relaxed) {
        PEAK.fetch_max(live, Relaxed);
    }
}

fn shrunk(bytes: usize) {
    LIVE.fetch_sub(bytes, Relaxed);
}

/// Blocks from this size on are asked for in large pages.
#[cfg(target_os = "linux")]
const LARGE: usize = 4 << 20;

/// Asks the system to back a large block by pages of 2 MiB. A tensor is written once and soon gone, so
/// in pages of 4 KiB half of the time of a sum of two large ones is the system handing out pages.
#[cfg(target_os = "linux")]
fn in_large_pages(block: *mut u8, bytes: usize) {
    const PAGE: usize = 4096;
    if bytes < LARGE || block.is_null() {
        return;
    }
    let skip = block.align_offset(PAGE);
    // SAFETY: whole pages inside the block; the advice changes how they are backed, not what they
    // hold, and may be refused (where the kernel was built without).
    unsafe {
        libc::madvise(
            block.add(skip).cast(),
            (bytes - skip) & !(PAGE - 1),
            libc::MADV_HUGEPAGE,
        );
    }
}

#[cfg(not(target_os = "linux"))]
fn in_large_pages(_: *mut u8, _: usize) {}

// SAFETY: the system's allocator does the work; only sizes are counted beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise is the system allocator's.
        let block = unsafe { System.alloc(layout) };
        in_large_pages(block, layout.size());
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: as above.
        let block = unsafe { System.alloc_zeroed(layout) };
        in_large_pages(block, layout.size());
        block
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Both blocks may be there while the content moves.
        grown(new_size);
        // SAFETY: as above.
        let moved = unsafe { System.realloc(pointer, layout, new_size) };
        shrunk(if moved.is_null() {
            new_size
        } else {
            layout.size()
        });
        moved
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        shrunk(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What counting adds to one allocation and its end.
pub(super) fn count_and_uncount(bytes: usize) {
    grown(bytes);
    shrunk(bytes);
}

/// Whether this program counts its heap.
pub fn counted() -> bool {
    CALLS.load(Relaxed) > 0
}

/// Bytes allocated now.
pub fn live_bytes() -> usize {
    LIVE.load(Relaxed)
}

/// Allocations so far.
pub fn allocations() -> usize {
    CALLS.load(Relaxed)
}

/// The most bytes that were allocated at once since the last call, and a new beginning. Exact while
/// no other thread allocates during the call.
pub fn take_peak_bytes() -> usize {
    PEAK.swap(LIVE.load(Relaxed), Relaxed)
}

/// Bytes of the process in physical memory, now; with mapped files and all overhead.
pub fn resident_bytes() -> Option<u64> {
    status("VmRSS")
}

/// The most since the program's start or [`reset_resident_peak`].
pub fn resident_peak_bytes() -> Option<u64> {
    status("VmHWM")
}

/// Lets [`resident_peak_bytes`] begin anew, where the system allows it (Linux, own process).
pub fn reset_resident_peak() {
    // proc(5): 5 written to clear_refs resets the peak resident set. If refused, the peak is the
    // program's own, which is what the caller then reports.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Memory installed, or what the container allows if that is less.
pub fn installed_bytes() -> Option<u64> {
    least(meminfo("MemTotal"), cgroup("memory.max"))
}

/// Memory that could be taken now.
pub fn available_bytes() -> Option<u64> {
    let limit = cgroup("memory.max");
    let left = limit.and_then(|max| Some(max.saturating_sub(cgroup("memory.current")?)));
    least(meminfo("MemAvailable"), left)
}

fn least(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).min()
}

/// A value of /proc/meminfo.
fn meminfo(key: &str) -> Option<u64> {
    kibibytes("/proc/meminfo", key)
}

/// A value of the control group (version 2) that a container sees as its root.
fn cgroup(file: &str) -> Option<u64> {
    std::fs::read_to_string(format!("/sys/fs/cgroup/{file}"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// A value of /proc/self/status.
fn status(key: &str) -> Option<u64> {
    kibibytes("/proc/self/status", key)
}

/// A value of a file of the system that counts in units of 1024 bytes.
fn kibibytes(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    value
        .split_whitespace()
        .next()?
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}
