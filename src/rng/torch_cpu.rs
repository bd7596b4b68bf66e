//! `torch.randn` of a CPU generator, in float32.
//!
//! Sources: pytorch, `aten/src/ATen/core/MT19937RNGEngine.h`,
//! `core/TransformationHelper.h`, `core/DistributionsHelper.h` and
//! `native/cpu/DistributionTemplates.h`. What differs: torch evaluates the
//! logarithm and the sine with whatever vector code the machine offers, so
//! its own last bits vary between CPUs; here they are rounded from float64,
//! the same everywhere and within 1e-6 of torch.

use super::NoiseSource;
use std::f64::consts::TAU;

/// Numbers in the Mersenne Twister's state.
const STATE: usize = 624;
/// Distance of the number that each twist mixes in.
const MIDDLE: usize = 397;
/// Tensors of at least this many elements are filled in blocks of it.
const BLOCK: usize = 16;

/// torch's CPU generator (`torch.Generator().manual_seed(seed)`).
#[derive(Clone, Debug)]
pub struct TorchCpu {
    engine: Mt19937,
    /// The second value of a pair drawn for a tensor below 16 elements, kept
    /// for the next such tensor; float64, as in `CPUGeneratorImpl`.
    spare: Option<f64>,
}

impl TorchCpu {
    /// A generator at the start of its stream. torch's engine takes the low
    /// 32 bits of the seed only, so seeds 2³² apart give the same noise.
    pub fn new(seed: u64) -> Self {
        Self {
            engine: Mt19937::new(seed as u32),
            spare: None,
        }
    }

    /// One value for a tensor below 16 elements: Box–Muller in float64.
    fn sequential(&mut self) -> f64 {
        if let Some(value) = self.spare.take() {
            return value;
        }
        let angle = TAU * self.engine.uniform53();
        let radius = (-2.0 * (-self.engine.uniform53()).ln_1p()).sqrt();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

impl NoiseSource for TorchCpu {
    fn randn(&mut self, n: usize) -> Vec<f32> {
        if n < BLOCK {
            return (0..n).map(|_| self.sequential() as f32).collect();
        }
        let mut values: Vec<f32> = (0..n).map(|_| self.engine.uniform24()).collect();
        let mut blocks = values.chunks_exact_mut(BLOCK);
        blocks.by_ref().for_each(box_muller);
        if !blocks.into_remainder().is_empty() {
            // The last 16 values are drawn again, over finished ones.
            let tail = &mut values[n - BLOCK..];
            tail.fill_with(|| self.engine.uniform24());
            box_muller(tail);
        }
        values
    }
}

/// Turns 16 uniforms into 16 normals: element j and element j + 8 are a pair.
fn box_muller(block: &mut [f32]) {
    let (first, second) = block.split_at_mut(BLOCK / 2);
    for (a, b) in first.iter_mut().zip(second) {
        // 1 − u: from [0, 1) to (0, 1], for the logarithm.
        let radius = (-2.0 * f64::from(1.0 - *a).ln() as f32).sqrt();
        let (sin, cos) = f64::from(TAU as f32 * *b).sin_cos();
        *a = radius * cos as f32;
        *b = radius * sin as f32;
    }
}

/// The Mersenne Twister of Matsumoto and Nishimura (1998), 32 bits.
#[derive(Clone, Debug)]
struct Mt19937 {
    state: Box<[u32; STATE]>,
    next: usize,
}

impl Mt19937 {
    fn new(seed: u32) -> Self {
        let mut state = Box::new([seed; STATE]);
        for i in 1..STATE {
            let last = state[i - 1];
            state[i] = (last ^ (last >> 30))
                .wrapping_mul(1_812_433_253)
                .wrapping_add(i as u32);
        }
        Self { state, next: STATE }
    }

    fn twist(&mut self) {
        for i in 0..STATE {
            let (this, after) = (self.state[i], self.state[(i + 1) % STATE]);
            let mixed = (this & 0x8000_0000) | (after & 0x7fff_ffff);
            let odd = if after & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + MIDDLE) % STATE] ^ (mixed >> 1) ^ odd;
        }
        self.next = 0;
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == STATE {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// Uniform in [0, 1) on float32's 24-bit grid.
    fn uniform24(&mut self) -> f32 {
        (self.next_u32() & 0x00ff_ffff) as f32 / (1 << 24) as f32
    }

    /// Uniform in [0, 1) on float64's 53-bit grid, the first word drawn being the high one.
    fn uniform53(&mut self) -> f64 {
        let high = u64::from(self.next_u32());
        let word = (high << 32) | u64::from(self.next_u32());
        (word & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }
}
