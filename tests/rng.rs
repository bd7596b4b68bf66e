//! The noise against torch's own, and Philox against published vectors.

use candle_core::{Device, safetensors};
use darkroom::rng::{NoiseSource, Philox, TorchCpu, philox4x32_10};
use serde::Deserialize;

/// torch's vector code rounds the logarithm and the sine in its own way.
const TOLERANCE: f32 = 1e-6;

#[derive(Deserialize)]
struct Reference {
    draws: Vec<Draw>,
    pairs: Vec<Pair>,
    large: Vec<Large>,
    philox: PublishedPhilox,
}

/// One tensor from a fresh generator.
#[derive(Deserialize)]
struct Draw {
    key: String,
    seed: u64,
    shape: Vec<usize>,
}

/// Two tensors from one generator, end to end.
#[derive(Deserialize)]
struct Pair {
    key: String,
    seed: u64,
    sizes: [usize; 2],
}

/// A tensor too large to keep: its ends and its sums.
#[derive(Deserialize)]
struct Large {
    seed: u64,
    shape: Vec<usize>,
    first: Vec<f32>,
    last: Vec<f32>,
    sum: f64,
    sum_of_squares: f64,
}

#[derive(Deserialize)]
struct PublishedPhilox {
    philox4x32_10: Vectors,
    torch_cuda_randn: CudaRandn,
}

#[derive(Deserialize)]
struct Vectors {
    vectors: Vec<[String; 3]>,
}

#[derive(Deserialize)]
struct CudaRandn {
    seed: u64,
    values: Vec<f32>,
}

fn expected(name: &str) -> String {
    format!(
        "{}/tests/fixtures/expected/{name}",
        env!("CARGO_MANIFEST_DIR")
    )
}

fn reference() -> Reference {
    let text = std::fs::read_to_string(expected("randn.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn assert_close(ours: &[f32], theirs: &[f32], what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!(
            (a - b).abs() < TOLERANCE,
            "{what}: value {i} is {a}, not {b}"
        );
    }
}

#[test]
fn cpu_noise_is_torchs() {
    let reference = reference();
    let tensors = safetensors::load(expected("randn.safetensors"), &Device::Cpu).unwrap();
    let theirs = |key: &str| -> Vec<f32> { tensors[key].flatten_all().unwrap().to_vec1().unwrap() };
    assert!(!reference.draws.is_empty() && !reference.pairs.is_empty());
    for draw in &reference.draws {
        let ours = TorchCpu::new(draw.seed).randn(draw.shape.iter().product());
        assert_close(&ours, &theirs(&draw.key), &draw.key);
    }
    for pair in &reference.pairs {
        let mut source = TorchCpu::new(pair.seed);
        let ours = pair.sizes.map(|n| source.randn(n)).concat();
        assert_close(&ours, &theirs(&pair.key), &pair.key);
    }
}

#[test]
fn cpu_noise_of_a_whole_image_is_torchs() {
    for large in reference().large {
        let ours = TorchCpu::new(large.seed).randn(large.shape.iter().product());
        let what = format!("seed {}", large.seed);
        assert_close(&ours[..8], &large.first, &what);
        assert_close(&ours[ours.len() - 8..], &large.last, &what);
        let wide = || ours.iter().map(|&x| f64::from(x));
        assert!((wide().sum::<f64>() - large.sum).abs() < 1e-3, "{what}");
        let squares: f64 = wide().map(|x| x * x).sum();
        assert!((squares - large.sum_of_squares).abs() < 1e-2, "{what}");
    }
}

#[test]
fn the_spare_value_outlives_other_tensors() {
    // Three values leave one over, which a large tensor does not take.
    let (mut one, mut other) = (TorchCpu::new(7), TorchCpu::new(7));
    let four = other.randn(4);
    assert_eq!(one.randn(3), four[..3]);
    assert_eq!(one.randn(16), other.randn(16));
    assert_eq!(one.randn(1), four[3..]);
}

#[test]
fn philox_gives_the_published_words() {
    fn words<const N: usize>(text: &str) -> [u32; N] {
        let words = text.split(' ').map(|w| u32::from_str_radix(w, 16).unwrap());
        words.collect::<Vec<_>>().try_into().unwrap()
    }
    let vectors = reference().philox.philox4x32_10.vectors;
    assert!(!vectors.is_empty());
    for [counter, key, result] in vectors {
        assert_eq!(philox4x32_10(words(&counter), words(&key)), words(&result));
    }
}

#[test]
fn philox_noise_is_torchs_on_cuda() {
    let published = reference().philox.torch_cuda_randn;
    let ours = Philox::new(published.seed).randn(published.values.len());
    assert_close(&ours, &published.values, "philox");
}

#[test]
fn philox_on_a_gpu_that_fits_is_philox() {
    let (mut any, mut h100) = (Philox::new(5), Philox::on_gpu(5, 132, 2048));
    for n in [1, 255, 1000, 65_536] {
        assert_eq!(any.randn(n), h100.randn(n), "{n} values");
    }
}

#[test]
fn philox_on_a_full_gpu_takes_each_threads_next_values() {
    // One block of 256 threads: element 256·k + t is the k-th normal of thread t.
    let mut tiny = Philox::on_gpu(9, 1, 256);
    let values = tiny.randn(2 * 1024 + 3);
    let mut any = Philox::new(9);
    // The first value of a thread's first, second and third calls.
    for call in 0..2 {
        assert_eq!(values[call * 1024..][..256], any.randn(256), "call {call}");
    }
    assert_eq!(values[2048..], any.randn(256)[..3]);
    // All three calls were counted.
    assert_eq!(tiny.randn(256), any.randn(256));
    // The second value of a pair shares its radius with the first: both
    // together are the pair's radius, whatever the angle.
    let (sine, cosine) = (values[0], values[256]);
    let [u, v, ..] = philox4x32_10([0; 4], [9, 0]);
    let unit = |word: u32| (f64::from(word) + 0.5) / 2f64.powi(32);
    let radius = (-2.0 * unit(u).ln()).sqrt();
    let angle = std::f64::consts::TAU * unit(v);
    assert!((f64::from(sine) - radius * angle.sin()).abs() < 2e-6);
    assert!((f64::from(cosine) - radius * angle.cos()).abs() < 2e-6);
}
