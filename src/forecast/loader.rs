//! A component's weights on the heap.

use candle_core::DType;

use super::heap::{Heap, Tensor};
use super::model::Int8;
use super::{ComponentForecast, Processor};
use crate::ops::int8::Int8Weights;

/// What candle keeps of a tensor besides its values: two reference-counted blocks, shape and strides.
const TENSOR_BYTES: usize = 320;

/// Counts weights as the networks keep them: each tensor once, in its number type. (Loading makes no
/// copy: tests/load_memory.rs.)
#[derive(Debug)]
pub struct Loader {
    heap: Heap,
    kept: DType,
    held: Vec<Tensor>,
    parameters: usize,
}

impl Loader {
    /// Nothing yet.
    pub fn new(heap: &Heap, kept: DType) -> Self {
        Self {
            heap: heap.clone(),
            kept,
            held: Vec::new(),
            parameters: 0,
        }
    }

    /// A weight [out, in, taps] and its bias, in int8 where a layer is named that `int8` selects.
    pub fn layer(&mut self, sizes: [usize; 3], bias: bool, int8: &Int8, part: &str) {
        let values = sizes.iter().product();
        match int8.of(part) {
            None => {
                // A convolution's is turned, on a GPU there.
                if sizes[2] > 1 && self.heap.processor() == Processor::Gpu {
                    self.heap.pass(2 * values * self.kept.size_in_bytes());
                }
                self.tensor(values);
            }
            Some(scheme) => {
                // The weight as it is quantised: in float32, and in the file's order; by the CPU.
                let copies = match (int8.on_load(), self.heap.processor()) {
                    (true, Processor::Cpu { .. }) => 5 * values,
                    _ => values,
                };
                let bytes = match self.heap.processor() {
                    Processor::Cpu { .. } => Int8Weights::bytes(scheme, sizes),
                    Processor::Gpu => values + size_of::<f32>() * sizes[0],
                };
                self.heap.pass(copies.max(values + bytes));
                self.parameters += values;
                self.held.push(self.heap.tensor([bytes], DType::U8));
            }
        }
        if bias {
            self.bias(sizes[0]);
        }
    }

    /// A tensor.
    pub fn tensor(&mut self, values: usize) {
        self.tensor_in(values, self.kept);
    }

    /// A GPU's kernels read biases in float32; those of a float linear layer stay as they are, which is let go here.
    fn bias(&mut self, values: usize) {
        let dtype = match self.heap.processor() {
            Processor::Cpu { .. } => self.kept,
            Processor::Gpu => DType::F32,
        };
        self.tensor_in(values, dtype);
    }

    fn tensor_in(&mut self, values: usize, dtype: DType) {
        self.parameters += values;
        self.heap.keep_in_process(TENSOR_BYTES);
        self.held.push(self.heap.tensor([values], dtype));
    }

    /// Weight and bias of a norm.
    pub fn norm(&mut self, channels: usize) {
        self.tensor(channels);
        self.tensor(channels);
    }

    /// A linear layer.
    pub fn linear(&mut self, inputs: usize, outputs: usize, bias: bool) {
        self.layer([outputs, inputs, 1], bias, &Int8::default(), "");
    }

    /// A convolution.
    pub fn conv(&mut self, inputs: usize, outputs: usize, kernel: usize) {
        self.layer(
            [outputs, inputs, kernel * kernel],
            true,
            &Int8::default(),
            "",
        );
    }

    /// The component, and its weights, to be held as long as it is.
    pub fn finish(self, name: &'static str) -> (ComponentForecast, Vec<Tensor>) {
        let bytes = |tensor: &Tensor| (tensor.count() * tensor.value_bytes()) as u64;
        let component = ComponentForecast {
            name,
            parameters: self.parameters as u64,
            bytes: self.held.iter().map(bytes).sum(),
        };
        (component, self.held)
    }
}
