//! Tensors without values, on a heap that is only counted.
//!
//! A walk written like the real forward, with the same variables, drops its tensors where that drops
//! them, so the heap's peak is the real one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use candle_core::DType;

use super::launches::Launches;
use super::{MemoryForecast, Processor};
use crate::measure::op::Work;
use crate::ops::Reads;
use crate::ops::int8::SCALE_BYTES;
use crate::ops::workspace::cpu::gemm_slab;
use crate::ops::workspace::gpu::GRANULE_BYTES;

/// The counted heap, and the operations that ran on it.
#[derive(Clone, Debug)]
pub struct Heap {
    ledger: Rc<RefCell<Ledger>>,
    processor: Processor,
}

#[derive(Debug, Default)]
struct Ledger {
    live: u64,
    peak: u64,
    workspace_at_peak: u64,
    ops: BTreeMap<Work, usize>,
    launches: Launches,
    /// Each operation is booked so many times.
    times: usize,
    multiplied: bool,
}

impl Ledger {
    fn touch(&mut self, bytes: u64, workspace: u64) {
        if bytes > self.peak {
            (self.peak, self.workspace_at_peak) = (bytes, workspace);
        }
    }
}

impl Heap {
    /// An empty heap: a process's, or a GPU's workspace.
    pub fn new(processor: Processor) -> Self {
        let ledger = Ledger {
            times: 1,
            launches: Some(0),
            ..Ledger::default()
        };
        Self {
            ledger: Rc::new(RefCell::new(ledger)),
            processor,
        }
    }

    /// What computes on it.
    pub fn processor(&self) -> Processor {
        self.processor
    }

    /// Bytes of the process that are there until the heap's end, whatever computes.
    pub fn keep_in_process(&self, bytes: usize) {
        if self.processor != Processor::Gpu {
            self.keep(bytes);
        }
    }

    /// Bytes that are there until the heap's end.
    pub fn keep(&self, bytes: usize) {
        let mut ledger = self.ledger.borrow_mut();
        ledger.live += bytes as u64;
        let live = ledger.live;
        ledger.touch(live, 0);
    }

    /// Bytes that are there only now.
    pub fn pass(&self, bytes: usize) {
        let mut ledger = self.ledger.borrow_mut();
        let most = ledger.live + bytes as u64;
        ledger.touch(most, 0);
    }

    /// Bytes of the process that are there only now, whatever computes.
    pub fn pass_in_process(&self, bytes: usize) {
        if self.processor != Processor::Gpu {
            self.pass(bytes);
        }
    }

    /// Books a GPU's kernels; once a count is not known, the sum is not.
    pub fn launch(&self, kernels: Launches) {
        let mut ledger = self.ledger.borrow_mut();
        let times = ledger.times;
        let sum = ledger.launches.zip(kernels);
        ledger.launches = sum.map(|(sum, kernels)| sum + times * kernels);
    }

    /// Kernels booked since the last call.
    pub fn take_launches(&self) -> Launches {
        self.ledger.borrow_mut().launches.replace(0)
    }

    /// Runs an operation that holds `workspace` bytes besides its inputs and its result.
    pub fn run(&self, work: Work, workspace: usize, dims: Vec<usize>, dtype: DType) -> Tensor {
        self.book(work, workspace, bytes_of(&dims, dtype));
        self.tensor(dims, dtype)
    }

    /// An operation whose result takes `result` bytes.
    fn book(&self, work: Work, workspace: usize, result: u64) {
        let mut ledger = self.ledger.borrow_mut();
        if let Processor::Cpu { threads } = self.processor
            && work.macs > 0
            && !ledger.multiplied
        {
            ledger.multiplied = true;
            ledger.live += (threads * gemm_slab()) as u64;
        }
        let times = ledger.times;
        *ledger.ops.entry(work).or_default() += times;
        let workspace = workspace as u64;
        let most = ledger.live + result + workspace;
        ledger.touch(most, workspace);
    }

    /// Runs an operation whose result goes into an int8 layer as `reads` says: x's own shape but for
    /// the last size.
    pub fn run_for(
        &self,
        reads: Reads,
        work: Work,
        workspace: usize,
        x: &Tensor,
        width: usize,
    ) -> Tensor {
        let mut dims = x.dims.clone();
        dims.pop();
        let rows: usize = dims.iter().product();
        dims.push(width);
        let bytes = match reads {
            Reads::Float => bytes_of(&dims, x.dtype),
            Reads::Int8 => (rows * (width + SCALE_BYTES)) as u64,
        };
        let work = work.writing(reads, rows, width, x.value_bytes());
        self.book(work, workspace, bytes);
        let mut result = self.block(dims, x.dtype, bytes);
        result.reads = reads;
        result
    }

    /// A tensor of its own memory.
    pub fn tensor(&self, dims: impl Into<Vec<usize>>, dtype: DType) -> Tensor {
        let dims = dims.into();
        let bytes = bytes_of(&dims, dtype);
        self.block(dims, dtype, bytes)
    }

    fn block(&self, dims: Vec<usize>, dtype: DType, bytes: u64) -> Tensor {
        let bytes = match self.processor {
            Processor::Cpu { .. } => bytes,
            Processor::Gpu => bytes.next_multiple_of(GRANULE_BYTES),
        };
        self.keep(bytes as usize);
        Tensor {
            dims,
            dtype,
            reads: Reads::Float,
            block: Rc::new(Block {
                heap: self.clone(),
                bytes,
            }),
        }
    }

    /// Walks what runs `times` times in succession, once.
    pub fn repeated<T>(&self, times: usize, walk: impl FnOnce() -> T) -> T {
        let before = std::mem::replace(&mut self.ledger.borrow_mut().times, times);
        let value = walk();
        self.ledger.borrow_mut().times = before;
        value
    }

    /// Operations and memory since the last call, and a new beginning.
    pub fn take(&self, resident: u64) -> (BTreeMap<Work, usize>, MemoryForecast) {
        let mut ledger = self.ledger.borrow_mut();
        let memory = MemoryForecast {
            resident,
            peak: ledger.peak,
            workspace_at_peak: ledger.workspace_at_peak,
        };
        (ledger.peak, ledger.workspace_at_peak) = (ledger.live, 0);
        (std::mem::take(&mut ledger.ops), memory)
    }

    /// Bytes held now.
    pub fn live(&self) -> u64 {
        self.ledger.borrow().live
    }
}

/// A tensor's shape and type, and its part of the heap.
#[derive(Clone, Debug)]
pub struct Tensor {
    dims: Vec<usize>,
    dtype: DType,
    /// How an int8 layer finds its values.
    reads: Reads,
    block: Rc<Block>,
}

/// Memory that views share; freed with the last of them.
#[derive(Debug)]
struct Block {
    heap: Heap,
    bytes: u64,
}

impl Drop for Block {
    fn drop(&mut self) {
        self.heap.ledger.borrow_mut().live -= self.bytes;
    }
}

fn bytes_of(dims: &[usize], dtype: DType) -> u64 {
    (dims.iter().product::<usize>() * dtype.size_in_bytes()) as u64
}

impl Tensor {
    /// Its heap.
    pub fn heap(&self) -> &Heap {
        &self.block.heap
    }

    /// Its type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// How an int8 layer finds its values: as they are, or as rows in int8.
    pub fn reads(&self) -> Reads {
        self.reads
    }

    /// Its sizes.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Its sizes, of which it has N.
    pub fn sizes<const N: usize>(&self) -> [usize; N] {
        self.dims
            .as_slice()
            .try_into()
            .expect("the walks keep the networks' shapes")
    }

    /// Its last size.
    pub fn width(&self) -> usize {
        self.dims.last().copied().unwrap_or(1)
    }

    /// Its values.
    pub fn count(&self) -> usize {
        self.dims.iter().product()
    }

    /// Bytes of a value.
    pub fn value_bytes(&self) -> usize {
        self.dtype.size_in_bytes()
    }

    /// The same memory in another shape, or a part of it.
    pub fn view(&self, dims: impl Into<Vec<usize>>) -> Self {
        Self {
            dims: dims.into(),
            ..self.clone()
        }
    }

    /// The result of a plain tensor operation: memory of its own, the same shape.
    pub fn like(&self) -> Self {
        self.heap().tensor(self.dims.clone(), self.dtype)
    }

    /// In another type; the same memory if it is this one.
    pub fn cast(&self, dtype: DType) -> Self {
        match dtype == self.dtype {
            true => self.clone(),
            false => self.heap().tensor(self.dims.clone(), dtype),
        }
    }

    /// Side by side along `dim` with others of its shape; itself if there are none.
    pub fn cat(parts: &[&Tensor], dim: usize) -> Self {
        let first = parts[0];
        if parts.len() == 1 {
            return first.clone();
        }
        let mut dims = first.dims.clone();
        dims[dim] = parts.iter().map(|part| part.dims[dim]).sum();
        first.heap().tensor(dims, first.dtype)
    }
}
