//! f64 arrays, declared cases, and what is checked of each.

use std::sync::LazyLock;

use candle_core::{DType, Device, Result, Tensor};
use darkroom::rng::{NoiseSource, TorchCpu};
use half::{bf16, f16};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Half the distance of 1 to the next float32.
pub const F32_EPS: f64 = 5.960_464_477_539_063e-8;

/// A row-major array: what the references compute on.
#[derive(Clone, Debug)]
pub struct Array {
    pub dims: Vec<usize>,
    pub data: Vec<f64>,
}

impl Array {
    pub fn new(dims: &[usize], data: Vec<f64>) -> Self {
        assert_eq!(dims.iter().product::<usize>(), data.len());
        Self {
            dims: dims.to_vec(),
            data,
        }
    }

    /// Normal values; each seed gives its own.
    pub fn randn(seed: u64, dims: &[usize]) -> Self {
        let values = TorchCpu::new(seed).randn(dims.iter().product());
        Self::new(dims, values.into_iter().map(f64::from).collect())
    }

    pub fn map(mut self, f: impl Fn(f64) -> f64) -> Self {
        self.data.iter_mut().for_each(|x| *x = f(*x));
        self
    }

    /// The nearest values that `dtype` has.
    pub fn round(self, dtype: DType) -> Self {
        self.map(|x| match dtype {
            DType::F32 => f64::from(x as f32),
            DType::F16 => f16::from_f64(x).to_f64(),
            DType::BF16 => bf16::from_f64(x).to_f64(),
            other => panic!("not a type of the operations: {other:?}"),
        })
    }

    pub fn tensor(&self, dtype: DType) -> Tensor {
        let tensor = Tensor::from_slice(&self.data, self.dims.as_slice(), &Device::Cpu).unwrap();
        tensor.to_dtype(dtype).unwrap()
    }

    pub fn of(tensor: &Tensor) -> Self {
        let flat = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        Self::new(tensor.dims(), flat.to_vec1().unwrap())
    }

    pub fn last(&self) -> usize {
        *self.dims.last().unwrap()
    }

    /// L2 norm of the difference over the norm of `want`.
    pub fn distance(&self, want: &Self) -> f64 {
        assert_eq!(self.dims, want.dims, "shape");
        let norm: f64 = want.data.iter().map(|w| w * w).sum();
        let pairs = self.data.iter().zip(&want.data);
        let square: f64 = pairs.map(|(got, want)| (got - want).powi(2)).sum();
        (square / norm.max(f64::MIN_POSITIVE)).sqrt()
    }
}

/// A seeded choice of shapes.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From `low` to `high`, both included (splitmix64).
    pub fn roll(&mut self, low: usize, high: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        low + ((z ^ (z >> 31)) % (high - low + 1) as u64) as usize
    }
}

/// One declared case of an operation.
pub struct Case<'a> {
    pub name: String,
    /// The operands. The first `batched` have the batch as first dimension; the rest are weights.
    pub inputs: Vec<Array>,
    pub batched: usize,
    /// Largest relative L2 error in float32.
    pub f32_limit: f64,
    pub run: &'a (dyn Fn(&[Tensor]) -> Result<Tensor> + Sync),
    pub reference: &'a (dyn Fn(&[Array]) -> Array + Sync),
}

impl Case<'_> {
    pub fn check(&self) {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let rounded: Vec<Array> = self.inputs.iter().map(|a| a.clone().round(dtype)).collect();
            let tensors: Vec<Tensor> = rounded.iter().map(|a| a.tensor(dtype)).collect();
            let out = self.run(&tensors);
            assert_eq!(out.dtype(), dtype, "{}", self.name);
            self.accurate(dtype, &out, &(self.reference)(&rounded));
            self.same_when_strided(dtype, &tensors, &out);
            self.same_with_any_threads(dtype, &tensors, &out);
            self.same_in_any_batch(dtype, &tensors, &out);
        }
    }

    fn run(&self, tensors: &[Tensor]) -> Tensor {
        (self.run)(tensors).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// In half precision the plain path computes exactly and rounds once; ours may have twice its
    /// error, and what float32 is allowed.
    fn accurate(&self, dtype: DType, out: &Tensor, want: &Array) {
        let limit = match dtype {
            DType::F32 => self.f32_limit,
            _ => 2.0 * want.clone().round(dtype).distance(want) + self.f32_limit,
        };
        let error = Array::of(out).distance(want);
        assert!(
            error <= limit, // NaN fails too
            "{} in {dtype:?}: off by {error:.2e}, limit {limit:.2e}",
            self.name
        );
    }

    fn same_when_strided(&self, dtype: DType, tensors: &[Tensor], out: &Tensor) {
        let strided = |(i, tensor): (usize, &Tensor)| -> Result<Tensor> {
            if i >= self.batched || tensor.rank() < 2 {
                return Ok(tensor.clone());
            }
            let rank = tensor.rank();
            let turned = tensor.transpose(rank - 2, rank - 1)?.contiguous()?;
            turned.transpose(rank - 2, rank - 1)
        };
        let strided: Vec<Tensor> = tensors
            .iter()
            .enumerate()
            .map(|t| strided(t).unwrap())
            .collect();
        assert_same_bits(&self.run(&strided), out, || {
            format!("{} in {dtype:?}, strided", self.name)
        });
    }

    fn same_with_any_threads(&self, dtype: DType, tensors: &[Tensor], out: &Tensor) {
        for pool in POOLS.iter() {
            let again = pool.install(|| self.run(tensors));
            assert_same_bits(&again, out, || {
                let threads = pool.current_num_threads();
                format!("{} in {dtype:?} on {threads} threads", self.name)
            });
        }
    }

    /// Row i of a batch is what the operation gives for row i alone.
    fn same_in_any_batch(&self, dtype: DType, tensors: &[Tensor], out: &Tensor) {
        let batch = tensors[0].dim(0).unwrap();
        let rows_each = out.dim(0).unwrap() / batch;
        for row in (0..batch).filter(|_| batch > 1) {
            let alone: Vec<Tensor> = tensors
                .iter()
                .enumerate()
                .map(|(i, tensor)| {
                    if i >= self.batched {
                        return tensor.clone();
                    }
                    // Where the batch shares rows of an operand, take the one it shares.
                    let shared = batch / tensor.dim(0).unwrap();
                    tensor.narrow(0, row / shared, 1).unwrap()
                })
                .collect();
            let want = out.narrow(0, row * rows_each, rows_each).unwrap();
            assert_same_bits(&self.run(&alone), &want, || {
                format!("{} in {dtype:?}, row {row} of {batch} alone", self.name)
            });
        }
    }
}

/// More threads than the machine may have, so that work is split where it would not be here.
static POOLS: LazyLock<Vec<ThreadPool>> = LazyLock::new(|| {
    let pool = |threads| ThreadPoolBuilder::new().num_threads(threads).build();
    [1, 2, 5].map(|threads| pool(threads).unwrap()).into()
});

fn assert_same_bits(got: &Tensor, want: &Tensor, what: impl Fn() -> String) {
    assert_eq!(got.dims(), want.dims(), "{}", what());
    let (got, want) = (Array::of(got).data, Array::of(want).data);
    let differing = got
        .iter()
        .zip(&want)
        .filter(|(got, want)| got.to_bits() != want.to_bits());
    assert_eq!(differing.count(), 0, "{}: values that differ", what());
}

/// What rounding may do to a sum of `terms` products of random sign: each of the additions is off by
/// up to half an ulp of a partial sum that grows like a random walk, so the relative error of the
/// whole is about eps·√(terms / 2). Four times that is allowed.
pub fn sum_limit(terms: usize) -> f64 {
    4.0 * F32_EPS * (terms as f64 / 2.0).sqrt().max(1.0)
}
