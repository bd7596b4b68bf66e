//! A component's weights on the heap.

use candle_core::DType;

use super::ComponentForecast;
use super::heap::{Heap, Tensor};

/// What candle keeps of a tensor besides its values: two reference-counted blocks, shape and strides.
const TENSOR_BYTES: usize = 320;

/// Counts weights as the networks keep them: each tensor once, in its number type. (Loading makes no
/// copy: tests/load_memory.rs.)
#[derive(Debug)]
pub struct Loader {
    heap: Heap,
    kept: DType,
    held: Vec<Tensor>,
}

impl Loader {
    /// Nothing yet.
    pub fn new(heap: &Heap, kept: DType) -> Self {
        Self {
            heap: heap.clone(),
            kept,
            held: Vec::new(),
        }
    }

    /// A tensor.
    pub fn tensor(&mut self, values: usize) {
        self.heap.keep(TENSOR_BYTES);
        self.held.push(self.heap.tensor([values], self.kept));
    }

    /// Weight and bias of a norm.
    pub fn norm(&mut self, channels: usize) {
        self.tensor(channels);
        self.tensor(channels);
    }

    /// A linear layer.
    pub fn linear(&mut self, inputs: usize, outputs: usize, bias: bool) {
        self.tensor(inputs * outputs);
        if bias {
            self.tensor(outputs);
        }
    }

    /// A convolution.
    pub fn conv(&mut self, inputs: usize, outputs: usize, kernel: usize) {
        self.tensor(inputs * outputs * kernel * kernel);
        self.tensor(outputs);
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
