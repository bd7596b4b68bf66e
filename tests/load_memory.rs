//! Loading holds the model and next to nothing else: its peak memory, counted by the allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use candle_core::{DType, Device};
use darkroom::config::UnetConfig;
use darkroom::unet::Unet;
use darkroom::weights::checkpoint::{Checkpoint, Component};
use darkroom::weights::micro;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn more(bytes: usize) {
    PEAK.fetch_max(NOW.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: the system's allocator does the work; only sizes are counted beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// micro's UNet: its parameters, and those of its largest tensor, a convolution.
const PARAMETERS: usize = 7_142_820;
const LARGEST: usize = 256 * 128 * 3 * 3;

#[test]
fn no_tensor_is_held_twice() {
    let models = [
        ("made up", Checkpoint::synthetic(&micro::folder())),
        ("from files", Checkpoint::micro()),
    ];
    for (kind, model) in models {
        let model = model.expect("a sound model");
        for dtype in [DType::F32, DType::BF16] {
            let load = || {
                let before = NOW.load(Relaxed);
                PEAK.store(before, Relaxed);
                let config = UnetConfig::load(model.folder(Component::Unet).expect("it has one"));
                let weights = model.weights(Component::Unet, dtype, &Device::Cpu);
                let unet = Unet::load(config.expect("sound"), weights.expect("sound"));
                let peak = PEAK.load(Relaxed) - before;
                drop(unet.expect("sound"));
                peak
            };
            load(); // threads and their buffers come into being
            let (peak, weights) = (load(), PARAMETERS * dtype.size_in_bytes());
            let (over, largest) = (peak - weights, LARGEST * dtype.size_in_bytes());
            println!("{kind}, {dtype:?}: {weights} bytes, {over} over; largest tensor {largest}");
            assert!(over < largest, "{kind}, {dtype:?}: {over} bytes over");
        }
    }
}
