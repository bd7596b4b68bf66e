//! `y = x·W + b`.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use candle_nn::VarBuilder;

use super::cpu::{Rows, Values, linear_rows, store};
use super::int8::{Int8Weights, Quantised, product};
use super::weight::{Weight, for_kernels, load_weight, outputs_last};
use super::work;
use crate::measure::op;

/// A linear layer: weight kept as its device reads it ([in, out] on the CPU) or in int8, bias `[out]`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    /// Reads `weight` [out, in] and `bias`.
    pub fn load(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        let bias = vb.get(outputs, "bias")?;
        Self::of(
            load_weight(&[outputs, inputs], &vb)?,
            Some(bias),
            [inputs, outputs],
        )
    }

    /// Reads `weight` [out, in] alone.
    pub fn load_no_bias(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        Self::of(
            load_weight(&[outputs, inputs], &vb)?,
            None,
            [inputs, outputs],
        )
    }

    /// A layer of the given tensors: weight [out, in], bias `[out]`.
    pub fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        let weight = Weight::Float(outputs_last(weight)?); // [in, out]
        Self::of(weight, bias, [inputs, outputs])
    }

    /// A layer of an int8 weight [out, in], bias `[out]`.
    pub fn new_int8(
        weight: Int8Weights,
        bias: Option<Tensor>,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self> {
        Self::of(Weight::Int8(Arc::new(weight)), bias, [inputs, outputs])
    }

    fn of(weight: Weight, bias: Option<Tensor>, [inputs, outputs]: [usize; 2]) -> Result<Self> {
        let bias = match weight.int8() {
            Some(_) => bias.map(for_kernels).transpose()?,
            None => bias,
        };
        Ok(Self {
            weight,
            bias,
            inputs,
            outputs,
        })
    }

    /// x [.., in] → [.., out].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let work = || {
            let (rows, bytes) = (x.elem_count() / inputs, x.dtype().size_in_bytes());
            let bias = self.bias.is_some();
            work::linear(rows, inputs, outputs, bias, bytes, self.weight.int8())
        };
        op::run(work, || {
            #[cfg(feature = "cuda")]
            if x.device().is_cuda() {
                return super::cuda::linear(x, &self.weight, self.bias.as_ref(), [inputs, outputs]);
            }
            let x = x.contiguous()?;
            match (&self.weight, &self.bias) {
                (Weight::Float(weight), Some(bias)) => x.apply_op3_no_bwd(weight, bias, &LinearOp),
                (Weight::Float(weight), None) => x.apply_op2_no_bwd(weight, &LinearOp),
                (Weight::Int8(weight), bias) => {
                    let op = Int8LinearOp {
                        weight,
                        inputs,
                        outputs,
                    };
                    match bias {
                        Some(bias) => x.apply_op2_no_bwd(bias, &op),
                        None => x.apply_op1_no_bwd(&op),
                    }
                }
                #[cfg(feature = "cuda")]
                (Weight::Int8OnGpu(_), _) => {
                    candle_core::bail!("a weight on a GPU met activations elsewhere")
                }
            }
        })
    }
}

struct LinearOp;

impl LinearOp {
    fn cpu(
        x: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let (inputs, outputs) = weight.1.shape().dims2()?;
        let weight = Values::of(weight.0, weight.1)?;
        run(x, bias, [inputs, outputs], |x, bias, out| {
            linear_rows(out, Rows::dense(x, inputs), weight, bias, outputs);
        })
    }
}

/// What all linear layers on the CPU do around their product: x [.., in] → [.., out].
fn run(
    (x, x_layout): (&CpuStorage, &Layout),
    bias: Option<(&CpuStorage, &Layout)>,
    [inputs, outputs]: [usize; 2],
    product: impl FnOnce(&[f32], Option<&[f32]>, &mut [f32]),
) -> Result<(CpuStorage, Shape)> {
    let mut dims = x_layout.dims().to_vec();
    match dims.last_mut() {
        Some(last) if *last == inputs => *last = outputs,
        _ => candle_core::bail!("linear of {inputs} inputs got {dims:?}"),
    }
    let values = Values::of(x, x_layout)?;
    let bias = bias
        .map(|(s, l)| Values::of(s, l).map(|v| v.widen()))
        .transpose()?;
    let wide = values.widen();
    let mut out = vec![0f32; wide.len() / inputs * outputs];
    product(&wide, bias.as_deref(), &mut out);
    Ok((store(out, values.dtype())?, dims.into()))
}

struct Int8LinearOp<'a> {
    weight: &'a Int8Weights,
    inputs: usize,
    outputs: usize,
}

impl Int8LinearOp<'_> {
    fn cpu(
        &self,
        x: (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let (inputs, outputs) = (self.inputs, self.outputs);
        run(x, bias, [inputs, outputs], |x, bias, out| {
            match self.weight {
                Int8Weights::Packed(weight) => {
                    let x = Quantised::rows(x, inputs);
                    product(out, &x, weight, bias, |row, _| Some(row));
                }
                Int8Weights::Wide { values, scales } => {
                    let weight = Values::I8 { values, scales };
                    linear_rows(out, Rows::dense(x, inputs), weight, bias, outputs);
                }
            }
        })
    }
}

impl CustomOp1 for Int8LinearOp<'_> {
    fn name(&self) -> &'static str {
        "int8_linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu((x, layout), None)
    }
}

impl CustomOp2 for Int8LinearOp<'_> {
    fn name(&self) -> &'static str {
        "int8_linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.cpu((x, x_layout), Some((bias, bias_layout)))
    }
}

impl CustomOp2 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Self::cpu((x, x_layout), (weight, weight_layout), None)
    }
}

impl CustomOp3 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Self::cpu(
            (x, x_layout),
            (weight, weight_layout),
            Some((bias, bias_layout)),
        )
    }
}
