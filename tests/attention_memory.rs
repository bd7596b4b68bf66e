//! Attention never holds the score matrix: its peak memory, counted by the allocator.

use candle_core::{Device, Tensor};
use darkroom::measure::memory::{Counting, live_bytes, take_peak_bytes};
use darkroom::ops::{Mask, attention};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn memory_grows_with_the_sequence_and_not_with_its_square() {
    let peak_of = |length: usize| {
        let x = Tensor::randn(0f32, 1.0, (1, length, 16), &Device::Cpu).unwrap();
        let before = live_bytes();
        take_peak_bytes();
        let out = attention(&x, &x, &x, 1, Mask::None).unwrap();
        assert_eq!(out.dims(), [1, length, 16]);
        take_peak_bytes() - before
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
