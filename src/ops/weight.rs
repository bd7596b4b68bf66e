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
    /// As [`outputs_last`] gives it.
    Float(Tensor),
    /// In int8.
    Int8(Arc<Int8Weights>),
    /// In int8, as the GPU's kernels read it.
    #[cfg(feature = "cuda")]
    Int8OnGpu(Int8OnGpu),
}

/// An int8 weight on a GPU.
#[cfg(feature = "cuda")]
#[derive(Clone, Debug)]
pub struct Int8OnGpu {
    /// What it is multiplied by.
    pub scheme: Scheme,
    /// Integers in two's complement, [out, ..kernel, in].
    pub values: Tensor,
    /// `[out]`, float32.
    pub scales: Tensor,
}

#[cfg(feature = "cuda")]
impl Int8OnGpu {
    /// Its inputs: channels of what it is multiplied by.
    pub fn inputs(&self) -> usize {
        self.values.dims().last().copied().unwrap_or(0)
    }

    /// Whether there is a kernel for its inputs in half precision.
    pub fn has_kernel(&self) -> bool {
        self.inputs().is_multiple_of(super::limits::INT8_INPUTS)
    }

    /// Whether that kernel multiplies int8 activations.
    pub fn multiplies_int8(&self) -> bool {
        self.scheme == Scheme::W8A8 && self.has_kernel()
    }
}

impl Weight {
    /// How it is quantised, if it is.
    pub fn int8(&self) -> Option<Scheme> {
        match self {
            Self::Float(_) => None,
            Self::Int8(weights) => Some(weights.scheme()),
            #[cfg(feature = "cuda")]
            Self::Int8OnGpu(weight) => Some(weight.scheme),
        }
    }
}

impl Weight {
    /// The largest magnitude for each input, where the values are floats.
    pub fn largest_by_input(&self, inputs: usize) -> Result<Option<Vec<f32>>> {
        let Self::Float(weight) = self else {
            return Ok(None);
        };
        let outputs = weight.dims().last().copied().unwrap_or(1);
        let by_tap = weight.abs()?.reshape(((), inputs, outputs))?.max(2)?; // [taps, in]
        let largest = by_tap.max(0)?.to_dtype(DType::F32)?.to_vec1()?;
        Ok(Some(largest))
    }
}

/// Beside a layer's `weight`, says that it is int8: its scales, `[out]`.
pub const SCALE: &str = "weight_scale";

/// A name that a checkpoint has where int8 weights are to meet int8 activations.
pub const INT8_ACTIVATIONS: &str = "int8_activations";

/// Behind a weight's name, asks a [`VarBuilder`]'s backend for the weight as the operations keep it:
/// [out, in, ..kernel] in the checkpoint, given as [..kernel, in, out].
pub const OUTPUTS_LAST: &str = "@outputs_last";

/// Reads `weight`, [out, in, ..kernel] in the checkpoint; in int8 where the checkpoint has scales
/// for it.
///
/// A backend that contains `weight` + [`OUTPUTS_LAST`] turns it as it reads it, which saves a copy of
/// the tensor; one that does not is read as usual.
pub fn load_weight(shape: &[usize], vb: &VarBuilder) -> Result<Weight> {
    if !vb.contains_tensor(SCALE) {
        let turned = format!("weight{OUTPUTS_LAST}");
        let weight = match vb.device().is_cpu() && vb.contains_tensor(&turned) {
            true => vb.get(shape, &turned)?,
            false => outputs_last(&vb.get(shape, "weight")?)?,
        };
        return Ok(Weight::Float(weight));
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
    let sound = |scale: &f32| scale.is_finite() && *scale >= 0.0;
    if !scales.to_vec1::<f32>()?.iter().all(sound) {
        candle_core::bail!(
            "the scales of `{}` are not all finite and from 0 up: the checkpoint is damaged",
            vb.prefix()
        )
    }
    #[cfg(feature = "cuda")]
    if values.device().is_cuda() {
        return Ok(Weight::Int8OnGpu(Int8OnGpu {
            scheme,
            values: super::cuda::inputs_last(&values)?,
            scales,
        }));
    }
    let weights = Int8Weights::new(scheme, &values, &scales)?;
    Ok(Weight::Int8(Arc::new(weights)))
}

/// A bias, or a norm's weight, as its device's operations read it: in float32 on a GPU.
pub fn for_kernels(values: Tensor) -> Result<Tensor> {
    match values.device().is_cpu() {
        true => Ok(values),
        false => values.to_dtype(DType::F32),
    }
}

/// A checkpoint's weight [out, in, ..kernel] with its outputs side by side: [..kernel, in, out]; on a
/// GPU, whose kernels read them so, with its inputs side by side: [out, ..kernel, in].
pub fn outputs_last(weight: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if weight.device().is_cuda() {
        return super::cuda::inputs_last(weight);
    }
    weight.contiguous()?.apply_op1_no_bwd(&OutputsLast)
}

struct OutputsLast;

/// The sizes of a weight, and where its values go.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Outputs: the length of a row of the result.
    pub outputs: usize,
    /// Values of one output: the rows of the result.
    pub rows: usize,
    inputs: usize,
    taps: usize,
}

impl Turn {
    /// Of a weight [out, in, ..kernel].
    pub fn of(shape: &[usize]) -> Result<Self> {
        let [outputs, inputs, kernel @ ..] = shape else {
            candle_core::bail!("weight of {shape:?} has no inputs")
        };
        let taps = kernel.iter().product();
        Ok(Self {
            outputs: *outputs,
            rows: inputs * taps,
            inputs: *inputs,
            taps,
        })
    }

    /// The result's shape, [..kernel, in, out], of a weight of shape `shape`.
    pub fn shape(shape: &[usize]) -> Vec<usize> {
        [&shape[2..], &[shape[1], shape[0]]].concat()
    }

    /// Where a row's value lies among the values of one output.
    pub fn offset(&self, row: usize) -> usize {
        row % self.inputs * self.taps + row / self.inputs
    }

    /// Fills `out` [rows, outputs] from a weight's values; `store` writes values that lie side by
    /// side in the number type of the result.
    pub fn fill<S, T>(self, weight: &[S], out: &mut [T], store: impl Fn(&[S], &mut [T]) + Sync)
    where
        S: Copy + Default + Sync,
        T: Send,
    {
        out.par_chunks_mut(ROWS * self.outputs.max(1))
            .enumerate()
            .for_each_init(Vec::new, |gathered, (block, out)| {
                gathered.resize(out.len(), S::default());
                let offsets: [usize; ROWS] = std::array::from_fn(|i| self.offset(block * ROWS + i));
                for (o, weight) in weight.chunks_exact(self.rows).enumerate() {
                    let rows = gathered.chunks_exact_mut(self.outputs);
                    for (row, &offset) in rows.zip(&offsets) {
                        row[o] = weight[offset];
                    }
                }
                store(gathered, out);
            });
    }
}

/// Rows of the result gathered together, so that the values read for them share cache lines.
const ROWS: usize = 16;

/// Values [out, in, ..kernel] as [..kernel, in, out].
pub(super) fn turned<T: Copy + Default + Send + Sync>(weight: &[T], turn: Turn) -> Vec<T> {
    let mut out = vec![T::default(); weight.len()];
    turn.fill(weight, &mut out, |values, out| out.copy_from_slice(values));
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
        let turn = Turn::of(layout.dims())?;
        let out = match weight {
            CpuStorage::F32(v) => CpuStorage::F32(turned(&v[start..end], turn)),
            CpuStorage::F16(v) => CpuStorage::F16(turned(&v[start..end], turn)),
            CpuStorage::BF16(v) => CpuStorage::BF16(turned(&v[start..end], turn)),
            other => candle_core::bail!(
                "weight is {:?}, not f32, f16 or bf16",
                BackendStorage::dtype(other)
            ),
        };
        Ok((out, Turn::shape(layout.dims()).into()))
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
