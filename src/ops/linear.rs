//! `y = x·W + b`.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use candle_nn::VarBuilder;

use super::cpu::{Rows, Values, linear_rows, store};
use super::weight::{self, outputs_last};
use super::work;
use crate::measure::op;

/// A linear layer: weight kept as [in, out], bias `[out]`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Reads `weight` [out, in] and `bias`.
    pub fn load(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: weight::load(&[outputs, inputs], &vb)?, // [in, out]
            bias: Some(vb.get(outputs, "bias")?),
        })
    }

    /// Reads `weight` [out, in] alone.
    pub fn load_no_bias(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        let weight = weight::load(&[outputs, inputs], &vb)?; // [in, out]
        Ok(Self { weight, bias: None })
    }

    /// A layer of the given tensors: weight [out, in], bias `[out]`.
    pub fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        let weight = outputs_last(weight)?; // [in, out]
        Ok(Self { weight, bias })
    }

    /// x [.., in] → [.., out].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (inputs, outputs) = self.weight.dims2()?;
        let work = || {
            let (rows, bytes) = (x.elem_count() / inputs, x.dtype().size_in_bytes());
            work::linear(rows, inputs, outputs, self.bias.is_some(), bytes)
        };
        op::run(work, || {
            let x = x.contiguous()?;
            match &self.bias {
                Some(bias) => x.apply_op3_no_bwd(&self.weight, bias, &LinearOp),
                None => x.apply_op2_no_bwd(&self.weight, &LinearOp),
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
        let mut dims = x.1.dims().to_vec();
        if dims.last() != Some(&inputs) {
            candle_core::bail!("linear of {inputs} inputs got {dims:?}")
        }
        let values = Values::of(x.0, x.1)?;
        let bias = bias
            .map(|(s, l)| Values::of(s, l).map(|v| v.widen()))
            .transpose()?;
        let wide = values.widen();
        let mut out = vec![0f32; wide.len() / inputs * outputs];
        let weight = Values::of(weight.0, weight.1)?;
        linear_rows(
            &mut out,
            Rows::dense(&wide, inputs),
            weight,
            bias.as_deref(),
            outputs,
        );
        *dims
            .last_mut()
            .expect("has a last dimension: checked above") = outputs;
        Ok((store(out, values.dtype())?, dims.into()))
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
