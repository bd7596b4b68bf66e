//! The noise that torch draws from a seed, drawn without torch.
//!
//! An image is a function of its seed only if the noise is: these generators
//! give the values of `torch.randn` for a CPU generator ([`TorchCpu`], what
//! diffusers' examples use) and for a CUDA one ([`Philox`]), on any machine.

mod philox;
mod torch_cpu;

pub use philox::{Philox, philox4x32_10};
pub use torch_cpu::TorchCpu;

/// A stream of standard normal values, in the order a torch generator gives them.
pub trait NoiseSource {
    /// The next `n` values: one `torch.randn` of `n` elements, in row-major order.
    ///
    /// Two draws of n are *not* one draw of 2n: torch lays the stream out
    /// anew for every tensor, so draw whole tensors.
    fn randn(&mut self, n: usize) -> Vec<f32>;
}
