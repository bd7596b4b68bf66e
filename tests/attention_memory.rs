//! Attention never holds the score matrix: its peak memory, counted by the allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use candle_core::{Device, Tensor};
use darkroom::ops::{Mask, attention};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work; only sizes are counted beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(
            NOW.fetch_add(layout.size(), Relaxed) + layout.size(),
            Relaxed,
        );
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn memory_grows_with_the_sequence_and_not_with_its_square() {
    let peak_of = |length: usize| {
        let x = Tensor::randn(0f32, 1.0, (1, length, 16), &Device::Cpu).unwrap();
        let before = NOW.load(Relaxed);
        PEAK.store(before, Relaxed);
        let out = attention(&x, &x, &x, 1, Mask::None).unwrap();
        assert_eq!(out.dims(), [1, length, 16]);
        PEAK.load(Relaxed) - before
    };
    peak_of(8192); // threads and their buffers come into being
    let (short, long) = (peak_of(1024), peak_of(8192));
    let matrix = 8192 * 8192 * size_of::<f32>();
    println!("peak {short} bytes for 1024 positions, {long} for 8192; the matrix has {matrix}");
    assert!(long < matrix / 50, "{long} bytes");
    assert!(
        long < 8 * short + (1 << 20),
        "{short} bytes for 1024, {long} for 8192"
    );
}
