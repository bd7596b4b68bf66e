//! Each of our kernels on a GPU, beside cuBLAS and candle's own operations on the same tensors:
//! `cargo bench --features cuda --bench kernels [-- --quick]`.
//!
//! SDXL's shapes at 1024² with guidance, f16. Times are of the device: many calls between two
//! synchronisations, the median of several such rounds. `--quick` tries the program on small shapes.

use std::collections::HashMap;
use std::time::Instant;

use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_nn::VarBuilder;
use darkroom::device::{self, DeviceChoice};
use darkroom::ops::{self, Activation, Conv2d, GroupNorm, LayerNorm, Linear, Mask, Reads};
use darkroom::quant::{OnLoad, Scheme};

/// Rounds, of which the median is told, and calls in each.
const ROUNDS: usize = 7;
const CALLS: usize = 20;

struct Bench {
    device: Device,
    quick: bool,
}

impl Bench {
    fn randn(&self, shape: &[usize]) -> Result<Tensor> {
        Tensor::randn(0f32, 1.0, shape, &self.device)?.to_dtype(DType::F16)
    }

    /// Microseconds of a call.
    fn time(&self, run: &dyn Fn() -> Result<Tensor>) -> Result<f64> {
        let (rounds, calls) = if self.quick { (1, 1) } else { (ROUNDS, CALLS) };
        run()?;
        self.device.synchronize()?;
        let mut rounds = (0..rounds)
            .map(|_| {
                let began = Instant::now();
                for _ in 0..calls {
                    run()?;
                }
                self.device.synchronize()?;
                Ok(began.elapsed().as_secs_f64() * 1e6 / calls as f64)
            })
            .collect::<Result<Vec<f64>>>()?;
        rounds.sort_by(f64::total_cmp);
        Ok(rounds[rounds.len() / 2])
    }

    /// Prints ours beside `theirs`, with the rate that `flops` in that time are.
    fn line(
        &self,
        what: &str,
        flops: f64,
        ours: &dyn Fn() -> Result<Tensor>,
        theirs: &dyn Fn() -> Result<Tensor>,
    ) -> Result<()> {
        let (ours, theirs) = (self.time(ours)?, self.time(theirs)?);
        println!(
            "{what:44} {ours:10.1} {:9.1} {theirs:10.1} {:7.2}",
            flops / ours / 1e6,
            ours / theirs
        );
        Ok(())
    }

    /// A layer's tensors in float32 on the CPU, quantised as they are loaded where a scheme is given.
    fn weights(&self, shape: &[usize], scheme: Option<Scheme>) -> Result<VarBuilder<'static>> {
        let inner: usize = shape[1..].iter().product();
        let deviation = 1.0 / (inner as f64).sqrt();
        let weight = Tensor::randn(0f32, deviation as f32, shape, &Device::Cpu)?;
        let bias = Tensor::zeros(shape[0], DType::F32, &Device::Cpu)?;
        let tensors = HashMap::from([("weight".to_owned(), weight), ("bias".to_owned(), bias)]);
        Ok(match scheme {
            None => VarBuilder::from_tensors(tensors, DType::F16, &self.device),
            Some(scheme) => {
                let backend = Box::new(OnLoad::new(Box::new(tensors), scheme));
                VarBuilder::from_backend(backend, DType::F16, self.device.clone())
            }
        })
    }

    fn linear(&self, rows: usize, inputs: usize, outputs: usize) -> Result<()> {
        let x = self.randn(&[rows, inputs])?;
        let weight = self.randn(&[inputs, outputs])?;
        let flops = 2.0 * (rows * inputs * outputs) as f64;
        for scheme in [None, Some(Scheme::W8A8), Some(Scheme::W8A16)] {
            let layer = Linear::load(inputs, outputs, self.weights(&[outputs, inputs], scheme)?)?;
            let name = scheme.map_or("f16", Scheme::name);
            let what = format!("linear {name} {rows}x{inputs}x{outputs} | cuBLAS f16");
            self.line(&what, flops, &|| layer.forward(&x), &|| x.matmul(&weight))?;
        }
        Ok(())
    }

    fn conv2d(&self, edge: usize, inputs: usize, outputs: usize, batch: usize) -> Result<()> {
        let image = self.randn(&[batch, edge, edge, inputs])?;
        let nchw = image.permute((0, 3, 1, 2))?.contiguous()?;
        let weight = self.randn(&[outputs, inputs, 3, 3])?;
        let flops = 2.0 * (batch * edge * edge * 9 * inputs * outputs) as f64;
        for scheme in [None, Some(Scheme::W8A8), Some(Scheme::W8A16)] {
            let vb = self.weights(&[outputs, inputs, 3, 3], scheme)?;
            let layer = Conv2d::load(inputs, outputs, 3, vb)?;
            let name = scheme.map_or("f16", Scheme::name);
            let what =
                format!("conv2d {name} {batch}x{edge}x{edge}x{inputs}->{outputs} | candle f16");
            let theirs = || nchw.conv2d(&weight, 1, 1, 1, 1);
            self.line(&what, flops, &|| layer.forward(&image), &theirs)?;
        }
        Ok(())
    }

    fn attention(&self, batch: usize, queries: usize, keys: usize, heads: usize) -> Result<()> {
        let width = heads * 64;
        let [q, k, v] = [queries, keys, keys].map(|n| self.randn(&[batch, n, width]));
        let (q, k, v) = (q?, k?, v?);
        let flops = 4.0 * (batch * queries * keys * width) as f64;
        let split = |x: &Tensor| {
            let (b, n, _) = x.dims3()?;
            x.reshape((b, n, heads, 64))?.transpose(1, 2)?.contiguous()
        };
        let theirs = || {
            let scores = (split(&q)?.matmul(&split(&k)?.transpose(2, 3)?)? * 0.125)?;
            let mixed = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&split(&v)?)?;
            mixed.transpose(1, 2)?.reshape((batch, queries, width))
        };
        let what = format!("attention {batch}x{heads}x{queries}x{keys} | candle f16");
        let ours = || ops::attention(&q, &k, &v, heads, Mask::None);
        self.line(&what, flops, &ours, &theirs)
    }

    fn norms(&self, batch: usize, edge: usize, channels: usize) -> Result<()> {
        let image = self.randn(&[batch, edge, edge, channels])?;
        let nchw = image.permute((0, 3, 1, 2))?.contiguous()?;
        let ones = Tensor::ones(channels, DType::F32, &self.device)?;
        let zeros = ones.zeros_like()?;
        let half = |t: &Tensor| t.to_dtype(DType::F16);
        let values = (batch * edge * edge * channels) as f64;

        let ours = GroupNorm::new(ones.clone(), zeros.clone(), 32, 1e-5);
        let theirs = candle_nn::GroupNorm::new(half(&ones)?, half(&zeros)?, channels, 32, 1e-5)?;
        self.line(
            &format!("group_norm_silu {batch}x{edge}x{edge}x{channels} | candle f16"),
            11.0 * values,
            &|| ours.forward_activated(&image, Activation::Silu),
            &|| theirs.forward(&nchw)?.silu(),
        )?;

        let ours = LayerNorm::new(ones.clone(), zeros.clone(), 1e-5);
        let theirs = candle_nn::LayerNorm::new(half(&ones)?, half(&zeros)?, 1e-5);
        self.line(
            &format!("layer_norm {}x{channels} | candle f16", batch * edge * edge),
            8.0 * values,
            &|| ours.forward(&image),
            &|| theirs.forward(&image),
        )?;

        let gated = self.randn(&[batch * edge * edge, 8 * channels])?;
        self.line(
            &format!(
                "geglu {}x{} | candle f16",
                batch * edge * edge,
                4 * channels
            ),
            6.0 * 4.0 * values,
            &|| ops::geglu(Reads::Float, &gated),
            &|| {
                let halves = gated.chunk(2, D::Minus1)?;
                &halves[0] * halves[1].gelu_erf()?
            },
        )
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let device = DeviceChoice::Cuda(0).open(|_| ())?;
    println!("{}", device::driver(&device)?.unwrap_or_default());
    println!(
        "{:44} {:>10} {:>9} {:>10} {:>7}",
        "ours | theirs", "ours us", "TFLOP/s", "theirs us", "ratio"
    );
    let bench = Bench { device, quick };
    if quick {
        bench.linear(32, 64, 128)?;
        bench.conv2d(8, 32, 32, 1)?;
        bench.attention(1, 64, 77, 1)?;
        bench.norms(1, 8, 64)?;
        return Ok(());
    }
    for (rows, inputs, outputs) in [
        (8192, 640, 640),
        (2048, 1280, 1280),
        (2048, 1280, 10240),
        (2048, 5120, 1280),
        (512, 1280, 1280),
        (1024, 1280, 1280),
    ] {
        bench.linear(rows, inputs, outputs)?;
    }
    for (edge, inputs, outputs, batch) in [
        (128, 320, 320, 2),
        (64, 640, 640, 2),
        (32, 1280, 1280, 2),
        (512, 256, 256, 1),
        (1024, 128, 128, 1),
    ] {
        bench.conv2d(edge, inputs, outputs, batch)?;
    }
    bench.attention(2, 4096, 4096, 10)?;
    bench.attention(2, 1024, 1024, 20)?;
    bench.attention(2, 4096, 77, 10)?;
    bench.attention(2, 1024, 77, 20)?;
    bench.norms(2, 128, 320)?;
    bench.norms(2, 64, 640)?;
    bench.norms(2, 32, 1280)?;
    Ok(())
}
