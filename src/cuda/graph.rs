//! Work that is done again and again on other inputs, as a CUDA graph: plainly the first time, captured the second, one
//! launch from then on.
//!
//! Nothing runs while the stream is captured, and nothing is allocated: tensors get a part of the workspace that is the
//! graph's own, at the same addresses in every launch. All of it has to be freed there too, and nothing else may be; nor
//! may the host wait, or give other values in one launch than in another.

use std::sync::Arc;

use candle_core::{Device, Error, Result, Tensor};
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaStream};

use super::Driver;
use super::device::first_line;
use super::probe::told;
use super::workspace::{self, Own};
use crate::measure::op;

/// The work, as far as it has come.
#[derive(Default)]
pub struct Replay(State);

#[derive(Default)]
enum State {
    #[default]
    New,
    /// Done once: kernels are loaded. Results like the next ones.
    Warm(Vec<Tensor>),
    Captured(Captured),
}

/// A graph, and the tensors that it reads its inputs from and leaves its results in.
struct Captured {
    graph: CudaGraph,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
    /// What it works in; given back after the graph.
    _own: Own,
}

/// Copies each of `from` to where its twin in `to` lies.
fn copy_all<'a>(from: impl IntoIterator<Item = &'a Tensor>, to: &[Tensor]) -> Result<()> {
    to.iter()
        .zip(from)
        .try_for_each(|(to, from)| to.slice_set(from, 0, 0))
}

impl Replay {
    /// `work` on `inputs`, which have the same shapes each time; at least one result.
    ///
    /// # Safety
    /// `work` does the same each time, and whatever else it reads stays where it is until `self` is dropped.
    pub unsafe fn run(
        &mut self,
        inputs: &[&Tensor],
        device: &Device,
        work: impl FnOnce(&[&Tensor]) -> Result<Vec<Tensor>>,
    ) -> Result<Vec<Tensor>> {
        let captured = match std::mem::take(&mut self.0) {
            State::New => {
                let outputs = work(inputs)?;
                let kept: Vec<_> = outputs.iter().map(Tensor::copy).collect::<Result<_>>()?;
                // Loads the copy that the capture ends with, too.
                copy_all(&outputs, &kept)?;
                self.0 = State::Warm(kept);
                return Ok(outputs);
            }
            State::Warm(outputs) => {
                Captured::new(inputs, outputs, device, work).map_err(|error| {
                    if device.synchronize().is_err() {
                        return error; // the GPU's, of whatever is done
                    }
                    let problem = first_line(&error);
                    Error::msg(format!(
                        "a step cannot be captured as a CUDA graph: {problem}; leave --cuda-graph out"
                    ))
                })?
            }
            State::Captured(captured) => captured,
        };
        let outputs = captured.run(inputs);
        self.0 = State::Captured(captured);
        outputs
    }
}

/// A stream that is captured, until it is dropped: a panic leaves no stream on which nothing runs any more.
struct Capture<'a>(&'a Arc<CudaStream>);

impl Capture<'_> {
    fn end(self) -> Driver<Option<CudaGraph>> {
        let stream = self.0;
        std::mem::forget(self);
        stream.end_capture(CUgraphInstantiate_flags(0))
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        // Nobody is left to tell of an error; one from before would keep the capture from being ended.
        let _ = self.0.context().check_err();
        let _ = self.0.end_capture(CUgraphInstantiate_flags(0));
    }
}

impl Captured {
    fn new(
        inputs: &[&Tensor],
        outputs: Vec<Tensor>,
        device: &Device,
        work: impl FnOnce(&[&Tensor]) -> Result<Vec<Tensor>>,
    ) -> Result<Self> {
        let stream = device.as_cuda_device()?.cuda_stream();
        let inputs = inputs
            .iter()
            .map(|x| x.copy())
            .collect::<Result<Vec<_>>>()?;
        let part = workspace::capture(&stream)?;
        // Of this thread only: others may go on, on other streams, with what a capture forbids; but for waiting for the
        // whole GPU, which driver.rs keeps them from.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(told)?;
        let capture = Capture(&stream);
        let done = op::unrecorded(|| {
            let results = work(&inputs.iter().collect::<Vec<_>>())?;
            copy_all(&results, &outputs)
        });
        // What went wrong when a tensor was freed would keep the capture from being ended.
        let freed = stream.context().check_err();
        let graph = capture.end();
        done?;
        freed.map_err(told)?;
        let graph = graph.map_err(told)?;
        let graph = graph.ok_or_else(|| Error::msg("the driver captured nothing"))?;
        Ok(Self {
            graph,
            inputs,
            outputs,
            _own: part.end()?,
        })
    }

    fn run(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        for (own, input) in self.inputs.iter().zip(inputs) {
            if own.dims() != input.dims() {
                candle_core::bail!("captured for {:?}, not {:?}", own.dims(), input.dims())
            }
        }
        copy_all(inputs.iter().copied(), &self.inputs)?;
        self.graph.launch().map_err(told)?;
        self.outputs.iter().map(Tensor::copy).collect()
    }
}
