//! Weights in the order that the operations read them.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::int8::{Int8Weights, Scheme};

/// A layer's weight.
#[derive(Clone, Debug)]
pub enum Weight {
    /// [..kernel, in, out].
    Float(Tensor),
    /// In int8.
    Int8(Arc<Int8Weights>),
}

/// Beside a layer's `weight`, says that it is int8: its scales, `[out]`.
pub const SCALE: &str = "weight_scale";

/// A name that a checkpoint has where int8 weights are to meet int8 activations.
pub const INT8_ACTIVATIONS: &str = "int8_activations";

/// Reads `weight` [out, in, ..kernel], in int8 where the checkpoint has scales for it.
pub fn load_weight(shape: &[usize], vb: &VarBuilder) -> Result<Weight> {
    if !vb.contains_tensor(SCALE) {
        return Ok(Weight::Float(outputs_last(&vb.get(shape, "weight")?)?));
    }
    let scheme = match vb.contains_tensor(INT8_ACTIVATIONS) {
        true => Scheme::W8A8,
        false => Scheme::W8A16,
    };
    let read = |shape: &[usize], name, dtype| {
        vb.get_with_hints_dtype(shape, name, Default::default(), dtype)
    };
    let values = read(shape, "weight", DType::U8)?;
    let scales = read(&shape[..1], SCALE, DType::F32)?;
    let weights = Int8Weights::new(scheme, &values, &scales)?;
    Ok(Weight::Int8(Arc::new(weights)))
}

/// A checkpoint's weight [out, in, ..kernel] with its outputs side by side: [..kernel, in, out].
pub fn outputs_last(weight: &Tensor) -> Result<Tensor> {
    weight.contiguous()?.apply_op1_no_bwd(&OutputsLast)
}

struct OutputsLast;

/// Rows of the result written together, so that the values read for them share cache lines.
const ROWS: usize = 16;

/// Values [out, in, taps] as [taps, in, out].
pub(super) fn transposed<T: Copy + Default + Send + Sync>(
    weight: &[T],
    (outputs, inputs, taps): (usize, usize, usize),
) -> Vec<T> {
    let mut out = vec![T::default(); weight.len()];
    out.par_chunks_mut(ROWS * outputs.max(1))
        .enumerate()
        .for_each(|(block, rows)| {
            // Where each row's value lies among the values of one output.
            let offsets: [usize; ROWS] = std::array::from_fn(|i| {
                let row = block * ROWS + i;
                row % inputs * taps + row / inputs
            });
            for (o, weight) in weight.chunks_exact(inputs * taps).enumerate() {
                for (row, &offset) in rows.chunks_exact_mut(outputs).zip(&offsets) {
                    row[o] = weight[offset];
                }
            }
        });
    out
}

impl CustomOp1 for OutputsLast {
    fn name(&self) -> &'static str {
        "outputs_last"
    }

    fn cpu_fwd(&self, weight: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("weight is not contiguous")
        };
        let [outputs, inputs, kernel @ ..] = layout.dims() else {
            candle_core::bail!("weight of {:?} has no inputs", layout.dims())
        };
        let sizes = (*outputs, *inputs, kernel.iter().product());
        let out = match weight {
            CpuStorage::F32(v) => CpuStorage::F32(transposed(&v[start..end], sizes)),
            CpuStorage::F16(v) => CpuStorage::F16(transposed(&v[start..end], sizes)),
            CpuStorage::BF16(v) => CpuStorage::BF16(transposed(&v[start..end], sizes)),
            other => candle_core::bail!(
                "weight is {:?}, not f32, f16 or bf16",
                BackendStorage::dtype(other)
            ),
        };
        let shape = [kernel, &[*inputs, *outputs]].concat();
        Ok((out, shape.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn outputs_end_side_by_side() {
        let values = Tensor::arange(0f32, (3 * 37 * 6) as f32, &Device::Cpu).unwrap();
        let conv = values.reshape((3, 37, 2, 3)).unwrap();
        let want = conv.permute((2, 3, 1, 0)).unwrap().flatten_all().unwrap();
        let got = outputs_last(&conv).unwrap();
        assert_eq!(got.dims(), [2, 3, 37, 3]);
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(flat(&got), flat(&want));

        let linear = values.reshape((18, 37)).unwrap();
        let got = outputs_last(&linear).unwrap();
        assert_eq!(flat(&got), flat(&linear.t().unwrap().contiguous().unwrap()));
    }
}
