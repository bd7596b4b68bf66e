//! The network step after step, with one conditioning.

use candle_core::Tensor;

use super::{Prepared, Unet};
#[cfg(feature = "cuda")]
use crate::cuda::Replay;
use crate::error::Result;

/// A network and a run's conditioning, which do not change over the steps; as a CUDA graph where that is asked for.
pub struct Steps<'a> {
    unet: &'a Unet,
    prepared: &'a Prepared,
    #[cfg(feature = "cuda")]
    graph: Option<Replay>,
}

impl<'a> Steps<'a> {
    /// `cuda_graph` is for GPUs ([`crate::device::check_cuda_graph`]).
    pub fn new(unet: &'a Unet, prepared: &'a Prepared, cuda_graph: bool) -> Self {
        #[cfg(not(feature = "cuda"))]
        debug_assert!(!cuda_graph, "a build without GPUs");
        Self {
            unet,
            prepared,
            #[cfg(feature = "cuda")]
            graph: cuda_graph.then(Replay::default),
        }
    }

    /// Rows of conditioning: 2 where a negative one is there.
    pub fn rows(&self) -> usize {
        self.prepared.rows()
    }

    /// [`Unet::forward`] of the next step; samples of all steps have one shape.
    pub fn forward(&mut self, sample: &Tensor, timestep: f64) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(graph) = &mut self.graph {
            return replayed(graph, self.unet, self.prepared, sample, timestep);
        }
        self.unet.forward(sample, timestep, self.prepared)
    }
}

#[cfg(feature = "cuda")]
fn replayed(
    graph: &mut Replay,
    unet: &Unet,
    prepared: &Prepared,
    sample: &Tensor,
    timestep: f64,
) -> Result<Tensor> {
    use crate::error::Error;
    let wave = unet.wave(timestep)?;
    // SAFETY: the network and its conditioning are borrowed for as long as the graph is there.
    let result = unsafe {
        graph.run(&[sample, &wave], &unet.device, |inputs| {
            unet.forward_wave(inputs[0], inputs[1], prepared)
                .map_err(|error| match error {
                    Error::Tensor(error) => error,
                    other => candle_core::Error::msg(other),
                })
        })
    };
    Ok(result?)
}
