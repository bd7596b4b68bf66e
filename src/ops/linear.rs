//! `y = x·W + b`.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor,
};
use candle_nn::VarBuilder;

use super::cpu::{Rows, Values, linear_rows, store};
use super::int8::{Int8Weights, Quantised, Reads, SCALE_BYTES, Scheme, product, result_dtype};
use super::probe::{self, Layer};
use super::weight::{Weight, for_kernels, load_weight, outputs_last};
use super::{add, geglu, work};
#[cfg(feature = "cuda")]
use super::{cuda::Added, weight::Int8OnGpu};
use crate::measure::op::{self, Work};

/// A linear layer: weight kept as its device reads it ([in, out] on the CPU) or in int8, bias `[out]`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    inputs: usize,
    outputs: usize,
    dtype: DType,
    /// In the checkpoint; empty where it is from none.
    name: String,
}

impl Linear {
    /// Reads `weight` [out, in] and `bias`.
    pub fn load(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        let bias = vb.get(outputs, "bias")?;
        let weight = load_weight(&[outputs, inputs], &vb)?;
        Ok(Self::of(weight, Some(bias), [inputs, outputs], vb.dtype())?.named(&vb))
    }

    /// Reads `weight` [out, in] alone.
    pub fn load_no_bias(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        let weight = load_weight(&[outputs, inputs], &vb)?;
        Ok(Self::of(weight, None, [inputs, outputs], vb.dtype())?.named(&vb))
    }

    /// A layer of the given tensors: weight [out, in], bias `[out]`.
    pub fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        let dtype = weight.dtype();
        let weight = Weight::Float(outputs_last(weight)?); // [in, out]
        Self::of(weight, bias, [inputs, outputs], dtype)
    }

    /// A layer of an int8 weight [out, in], bias `[out]`, that gives `dtype` where it reads int8.
    pub fn new_int8(
        weight: Int8Weights,
        bias: Option<Tensor>,
        [inputs, outputs]: [usize; 2],
        dtype: DType,
    ) -> Result<Self> {
        Self::of(
            Weight::Int8(Arc::new(weight)),
            bias,
            [inputs, outputs],
            dtype,
        )
    }

    fn of(
        weight: Weight,
        bias: Option<Tensor>,
        [inputs, outputs]: [usize; 2],
        dtype: DType,
    ) -> Result<Self> {
        let bias = match weight.int8() {
            Some(_) => bias.map(for_kernels).transpose()?,
            None => bias,
        };
        Ok(Self {
            weight,
            bias,
            inputs,
            outputs,
            dtype,
            name: String::new(),
        })
    }

    fn named(self, vb: &VarBuilder) -> Self {
        Self {
            name: vb.prefix(),
            ..self
        }
    }

    /// Its scheme, if it is int8.
    pub fn int8(&self) -> Option<Scheme> {
        self.weight.int8()
    }

    /// The largest magnitude of its weights for each input, where they are floats.
    pub fn largest_weights(&self) -> Result<Option<Vec<f32>>> {
        self.weight.largest_by_input(self.inputs)
    }

    /// What it would rather read.
    pub fn reads(&self) -> Reads {
        Reads::of(&self.weight)
    }

    /// Its int8 weight on a GPU, if that is all it has and no probe is to see it run.
    #[cfg(feature = "cuda")]
    pub(super) fn bare_on_gpu(&self) -> Option<&Int8OnGpu> {
        match (&self.weight, &self.bias) {
            (Weight::Int8OnGpu(weight), None) if !probe::watched() => Some(weight),
            _ => None,
        }
    }

    /// x [.., in], or its rows in int8 ([`Reads::Int8`]) → [.., out].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.forward_unseen(x)?;
        probe::tell(&self.name, || Layer::Linear(self.clone()), x, &y)?;
        Ok(y)
    }

    /// What it has to do for x.
    pub(super) fn work(&self, x: &Tensor) -> Work {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let int8 = x.dtype() == DType::U8;
        let rows = x.elem_count() / (inputs + if int8 { SCALE_BYTES } else { 0 });
        let bytes = result_dtype(x.dtype(), self.dtype).size_in_bytes();
        let bias = self.bias.is_some();
        let work = work::linear(rows, inputs, outputs, bias, bytes, self.weight.int8());
        match int8 {
            true => work.reading_int8(rows, inputs, bytes),
            false => work,
        }
    }

    /// residual + [`Linear::forward`] of x, in one kernel where a GPU has one.
    pub fn forward_add(&self, x: Tensor, residual: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        {
            let dtype = result_dtype(x.dtype(), self.dtype);
            if super::cuda::linear_adds(&self.weight, dtype) && !probe::watched() {
                let values = residual.elem_count();
                let add = work::add(values, values, dtype.size_in_bytes());
                let added = Added::residual(residual.clone());
                return op::run(|| self.work(&x).adding(add), || self.on_gpu(&x, added));
            }
        }
        let y = self.forward(&x)?;
        // Not needed while the sum is made.
        drop(x);
        add(residual, &y)
    }

    /// [`geglu`] of [`Linear::forward`] of x, in one kernel where a GPU has one. That gives floats in any
    /// case: an int8 row needs its largest magnitude, which no tile of a product knows, and the layer
    /// behind quantises for itself. The product's result, twice as wide, is neither written nor read: of
    /// a guided step of SDXL base at 1024² that is 6.7 GB less under W8A16, and under W8A8, where the
    /// rows are written and read once more, 3.4 GB in as many kernels.
    pub fn forward_geglu(&self, reads: Reads, x: Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Weight::Int8OnGpu(weight) = &self.weight {
            let dtype = result_dtype(x.dtype(), self.dtype);
            if super::cuda::linear_adds(&self.weight, dtype) && !probe::watched() {
                let work = || {
                    let product = self.work(&x);
                    let bytes = dtype.size_in_bytes();
                    let values = product.written_bytes as usize / bytes;
                    let rows = values / self.outputs.max(1);
                    product.gating(work::geglu(rows, self.outputs / 2, bytes))
                };
                let bias = self.bias.as_ref();
                return op::run(work, || super::cuda::linear_geglu(&x, weight, bias, dtype));
            }
        }
        let y = self.forward(&x)?;
        // Not needed while y is halved.
        drop(x);
        geglu(reads, &y)
    }

    #[cfg(feature = "cuda")]
    fn on_gpu(&self, x: &Tensor, added: Added) -> Result<Tensor> {
        let sizes = [self.inputs, self.outputs];
        let dtype = result_dtype(x.dtype(), self.dtype);
        super::cuda::linear(x, &self.weight, self.bias.as_ref(), sizes, (dtype, added))
    }

    pub(super) fn forward_unseen(&self, x: &Tensor) -> Result<Tensor> {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let work = || self.work(x);
        op::run(work, || {
            #[cfg(feature = "cuda")]
            if x.device().is_cuda() {
                return self.on_gpu(x, Default::default());
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
                        dtype: result_dtype(x.dtype(), self.dtype),
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
        floats(x, weight, bias, [inputs, outputs])
    }
}

/// The product of floats: x [.., in] → [.., out].
fn floats(
    (x, x_layout): (&CpuStorage, &Layout),
    weight: Values,
    bias: Option<(&CpuStorage, &Layout)>,
    [inputs, outputs]: [usize; 2],
) -> Result<(CpuStorage, Shape)> {
    let shape = result_shape(x_layout, inputs, outputs)?;
    let values = Values::of(x, x_layout)?;
    let bias = widened(bias)?;
    let wide = values.widen();
    let mut out = vec![0f32; shape.elem_count()];
    let rows = Rows::dense(&wide, inputs);
    linear_rows(&mut out, rows, weight, bias.as_deref(), outputs);
    Ok((store(out, values.dtype())?, shape))
}

/// Of x [.., width], [.., outputs].
fn result_shape(x: &Layout, width: usize, outputs: usize) -> Result<Shape> {
    let mut dims = x.dims().to_vec();
    match dims.last_mut() {
        Some(last) if *last == width => *last = outputs,
        _ => candle_core::bail!("linear of {width} inputs got {dims:?}"),
    }
    Ok(dims.into())
}

fn widened<'a>(bias: Option<(&'a CpuStorage, &Layout)>) -> Result<Option<Cow<'a, [f32]>>> {
    bias.map(|(storage, layout)| Values::of(storage, layout).map(|values| values.widen()))
        .transpose()
}

struct Int8LinearOp<'a> {
    weight: &'a Int8Weights,
    inputs: usize,
    outputs: usize,
    dtype: DType,
}

impl Int8LinearOp<'_> {
    fn cpu(
        &self,
        x: (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let (inputs, outputs) = (self.inputs, self.outputs);
        match self.weight {
            Int8Weights::Packed(weight) => {
                let int8 = x.0.dtype() == DType::U8;
                let width = inputs + if int8 { SCALE_BYTES } else { 0 };
                let shape = result_shape(x.1, width, outputs)?;
                let x = Quantised::read(x.0, x.1, inputs)?;
                let bias = widened(bias)?;
                let mut out = vec![0f32; shape.elem_count()];
                product(&mut out, &x, weight, bias.as_deref(), |row, _| Some(row));
                Ok((store(out, self.dtype)?, shape))
            }
            Int8Weights::Wide { values, scales } => {
                floats(x, Values::I8 { values, scales }, bias, [inputs, outputs])
            }
        }
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
