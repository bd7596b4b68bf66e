//! A component's weights on the heap, in the order and through the copies that loading makes.

use candle_core::DType;

use super::ComponentForecast;
use super::heap::{Heap, Tensor};

/// What candle keeps of a tensor besides its values: two reference-counted blocks, shape and strides.
const TENSOR_BYTES: usize = 320;

/// Counts weights as `Checkpoint::weights` reads them and the networks keep them.
#[derive(Debug)]
pub struct Loader {
    heap: Heap,
    /// Type in the files.
    stored: DType,
    /// Type in memory.
    kept: DType,
    held: Vec<Tensor>,
}

impl Loader {
    /// Nothing yet. Weights that nobody has stored are counted as if stored in the type kept.
    pub fn new(heap: &Heap, stored: Option<DType>, kept: DType) -> Self {
        Self {
            heap: heap.clone(),
            stored: stored.unwrap_or(kept),
            kept,
            held: Vec::new(),
        }
    }

    /// One tensor as `Weights::read` gives it: copied out of the file, then converted, but for half
    /// precision that is widened on the way.
    fn read(&mut self, values: usize) -> Tensor {
        self.heap.keep(TENSOR_BYTES);
        match (self.stored, self.kept) {
            (DType::F16 | DType::BF16, DType::F32) => self.heap.tensor([values], DType::F32),
            (stored, kept) => self.heap.tensor([values], stored).cast(kept),
        }
    }

    /// A tensor kept as it is read.
    pub fn tensor(&mut self, values: usize) {
        let tensor = self.read(values);
        self.held.push(tensor);
    }

    /// Weight and bias of a norm.
    pub fn norm(&mut self, channels: usize) {
        self.tensor(channels);
        self.tensor(channels);
    }

    /// A weight that is kept turned (`ops::weight::outputs_last`), and its bias.
    fn turned(&mut self, values: usize, bias: Option<usize>) {
        let weight = self.read(values);
        let bias = bias.map(|values| self.read(values));
        self.held.push(weight.like());
        self.held.extend(bias);
    }

    /// A linear layer.
    pub fn linear(&mut self, inputs: usize, outputs: usize, bias: bool) {
        self.turned(inputs * outputs, bias.then_some(outputs));
    }

    /// A convolution.
    pub fn conv(&mut self, inputs: usize, outputs: usize, kernel: usize) {
        self.turned(inputs * outputs * kernel * kernel, Some(outputs));
    }

    /// The component, and its weights, to be held as long as it is.
    pub fn finish(self, name: &'static str) -> (ComponentForecast, Vec<Tensor>) {
        let sum = |of: fn(&Tensor) -> usize| self.held.iter().map(of).sum::<usize>() as u64;
        let component = ComponentForecast {
            name,
            parameters: sum(Tensor::count),
            bytes: sum(|tensor| tensor.count() * tensor.value_bytes()),
        };
        (component, self.held)
    }
}
