//! `torch.randn` of a CUDA generator, in float32, computed on the CPU.
//!
//! Sources: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"
//! (2011) for philox4x32-10; cuRAND's `curand_init` and `curand_normal4`, as
//! pytorch's `aten/src/ATen/native/cuda/DistributionTemplates.h` calls them.
//! AUTOMATIC1111's `modules/rng_philox.py` computes the same for one pass.
//! What differs: the GPU takes its fast sine and logarithm; here both are
//! rounded from float64, within about 1e-6 of it.

use super::NoiseSource;

/// Threads in a block of torch's distribution kernels.
const THREADS_PER_BLOCK: usize = 256;
/// Values that a thread takes from one call of `curand_normal4`.
const VALUES_PER_CALL: usize = 4;

/// torch's CUDA generator (`torch.Generator("cuda").manual_seed(seed)`).
///
/// torch starts one thread an element until its grid is full, then gives each
/// thread further elements. Where the grid fills up depends on the GPU.
/// [`Philox::new`] assumes that a tensor fits the grid, the form that other
/// engines reproduce; it is right for one SDXL image of 1024 × 1024 (65,536
/// values) on GPUs with at least 32 multiprocessors of 2048 threads.
/// [`Philox::on_gpu`] follows a given GPU.
#[derive(Clone, Debug)]
pub struct Philox {
    seed: u64,
    /// Philox blocks that each thread has used so far.
    offset: u64,
    max_threads: usize,
}

impl Philox {
    /// A generator at the start of its stream, for tensors that fit the GPU's grid.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            offset: 0,
            max_threads: usize::MAX,
        }
    }

    /// The same on a GPU with this many multiprocessors and resident threads
    /// a multiprocessor (H100: 132 and 2048; RTX 4090: 128 and 1536).
    pub fn on_gpu(seed: u64, multiprocessors: usize, threads_per_multiprocessor: usize) -> Self {
        let blocks = multiprocessors * (threads_per_multiprocessor / THREADS_PER_BLOCK);
        Self {
            max_threads: blocks.max(1) * THREADS_PER_BLOCK,
            ..Self::new(seed)
        }
    }

    /// `curand_normal4` of one thread (cuRAND's subsequence), `call` calls from here.
    fn normal4(&self, thread: u64, call: u64) -> [f32; VALUES_PER_CALL] {
        let at = self.offset.wrapping_add(call);
        let counter = [at, thread].map(halves);
        let [x, y, z, w] = philox4x32_10(
            [counter[0][0], counter[0][1], counter[1][0], counter[1][1]],
            halves(self.seed),
        );
        let ([a, b], [c, d]) = (box_muller(x, y), box_muller(z, w));
        [a, b, c, d]
    }
}

impl NoiseSource for Philox {
    fn randn(&mut self, n: usize) -> Vec<f32> {
        if n == 0 {
            return Vec::new();
        }
        let threads = n
            .div_ceil(THREADS_PER_BLOCK)
            .saturating_mul(THREADS_PER_BLOCK)
            .min(self.max_threads);
        let mut values = vec![0.0; n];
        // A pass of the kernel's loop writes `threads` neighbours four times over.
        let pass = threads.saturating_mul(VALUES_PER_CALL);
        for (call, chunk) in values.chunks_mut(pass).enumerate() {
            for thread in 0..threads.min(chunk.len()) {
                let normals = self.normal4(thread as u64, call as u64);
                let targets = chunk.iter_mut().skip(thread).step_by(threads);
                targets.zip(normals).for_each(|(to, value)| *to = value);
            }
        }
        self.offset = self.offset.wrapping_add(n.div_ceil(pass) as u64);
        values
    }
}

/// Ten rounds of Philox: four random words from a counter and a key, both
/// with the low word first.
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let [low0, high0] = halves(u64::from(counter[0]) * 0xd251_1f53);
        let [low1, high1] = halves(u64::from(counter[2]) * 0xcd9e_8d57);
        counter = [
            high1 ^ counter[1] ^ key[0],
            low1,
            high0 ^ counter[3] ^ key[1],
            low0,
        ];
        key[0] = key[0].wrapping_add(0x9e37_79b9);
        key[1] = key[1].wrapping_add(0xbb67_ae85);
    }
    counter
}

/// cuRAND's Box–Muller: the sine first. The uniforms are float32, as on the
/// GPU, where the multiplication and addition are one fused operation.
fn box_muller(x: u32, y: u32) -> [f32; 2] {
    const SCALE: f32 = 1.0 / 4_294_967_296.0;
    const ANGLE: f32 = SCALE * std::f32::consts::TAU;
    let u = (x as f32).mul_add(SCALE, SCALE / 2.0);
    let v = (y as f32).mul_add(ANGLE, ANGLE / 2.0);
    let radius = (-2.0 * f64::from(u).ln()).sqrt();
    let (sin, cos) = f64::from(v).sin_cos();
    [(radius * sin) as f32, (radius * cos) as f32]
}

/// The low and the high word.
fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}
