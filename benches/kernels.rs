//! Each of our kernels on a GPU, beside cuBLAS and candle's own operations on the same tensors:
//! `cargo bench --features cuda --bench kernels [-- --quick]`.
//!
//! SDXL's shapes at 1024² with guidance, f16. Times are the host's, of many calls between two
//! synchronisations, the median of several such rounds: a small kernel's is its launch's, `finite` waits for its
//! answer in every call, and float layers have a bias that cuBLAS beside them has not. `quantise_rows` and
//! `quantise_images` are timed inside the w8a8 layers, whose inputs are floats here. `--quick` tries the program on small shapes.

use std::collections::HashMap;
use std::time::Instant;

use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_nn::VarBuilder;
use darkroom::device::{self, DeviceChoice};
use darkroom::finite::check_finite;
use darkroom::observe::Stage;
use darkroom::ops::{
    self, Activation, Conv2d, GroupNorm, LayerNorm, Linear, Mask, Reads, SamplerStep,
};
use darkroom::quant::{OnLoad, Scheme};

/// An int8 linear layer's forms, and the plain one.
const FORMS: [Option<Scheme>; 3] = [None, Some(Scheme::W8A8), Some(Scheme::W8A16)];

/// The largest edge of an image that SDXL enlarges: 1024² pixels are none.
const LARGEST_DOUBLED: usize = 512;

/// Rounds, of which the median is told, and calls in each.
const ROUNDS: usize = 7;
const CALLS: usize = 10;

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
            "{what:60} {ours:10.1} {:9.1} {theirs:10.1} {:7.2}",
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
        let tensors = HashMap::from([
            ("layer.weight".to_owned(), weight),
            ("layer.bias".to_owned(), bias),
        ]);
        let weights = match scheme {
            None => VarBuilder::from_tensors(tensors, DType::F16, &self.device),
            Some(scheme) => {
                let backend = Box::new(OnLoad::new(Box::new(tensors), scheme));
                VarBuilder::from_backend(backend, DType::F16, self.device.clone())
            }
        };
        Ok(weights.pp("layer"))
    }

    fn linear(&self, rows: usize, inputs: usize, outputs: usize) -> Result<()> {
        let x = self.randn(&[rows, inputs])?;
        let weight = self.randn(&[inputs, outputs])?;
        let flops = 2.0 * (rows * inputs * outputs) as f64;
        for scheme in FORMS {
            let layer = Linear::load(inputs, outputs, self.weights(&[outputs, inputs], scheme)?)?;
            assert_eq!(layer.int8(), scheme);
            let name = scheme.map_or("f16", Scheme::name);
            let what = format!("linear {name} {rows}x{inputs}x{outputs} | cuBLAS f16");
            self.line(&what, flops, &|| layer.forward(&x), &|| x.matmul(&weight))?;
        }
        Ok(())
    }

    /// What stands behind a product: a sum, and GEGLU of twice as many outputs.
    fn behind_linear(&self, rows: usize, inputs: usize, outputs: usize) -> Result<()> {
        let x = self.randn(&[rows, inputs])?;
        let residual = self.randn(&[rows, outputs])?;
        let [weight, wide] = [outputs, 2 * outputs].map(|n| self.randn(&[inputs, n]));
        let (weight, wide) = (weight?, wide?);
        let flops = 2.0 * (rows * inputs * outputs) as f64;
        for scheme in FORMS {
            let name = scheme.map_or("f16", Scheme::name);
            let layer = Linear::load(inputs, outputs, self.weights(&[outputs, inputs], scheme)?)?;
            self.line(
                &format!("linear + sum {name} {rows}x{inputs}x{outputs} | cuBLAS, candle"),
                flops,
                &|| layer.forward_add(x.clone(), &residual),
                &|| x.matmul(&weight)? + &residual,
            )?;
            let vb = self.weights(&[2 * outputs, inputs], scheme)?;
            let layer = Linear::load(inputs, 2 * outputs, vb)?;
            self.line(
                &format!("linear + GEGLU {name} {rows}x{inputs}x{outputs} | cuBLAS, candle"),
                2.0 * flops,
                &|| layer.forward_geglu(Reads::Float, x.clone()),
                &|| gated(&x.matmul(&wide)?),
            )?;
        }
        Ok(())
    }

    fn conv2d(&self, edge: usize, inputs: usize, outputs: usize, batch: usize) -> Result<()> {
        let image = self.randn(&[batch, edge, edge, inputs])?;
        let nchw = image.permute((0, 3, 1, 2))?.contiguous()?;
        let weight = self.randn(&[outputs, inputs, 3, 3])?;
        let flops = 2.0 * (batch * edge * edge * 9 * inputs * outputs) as f64;
        for scheme in FORMS {
            let vb = self.weights(&[outputs, inputs, 3, 3], scheme)?;
            let layer = Conv2d::load(inputs, outputs, 3, vb)?;
            assert_eq!(layer.int8(), scheme);
            let name = scheme.map_or("f16", Scheme::name);
            let what =
                format!("conv2d {name} {batch}x{edge}x{edge}x{inputs}->{outputs} | candle f16");
            let theirs = || nchw.conv2d(&weight, 1, 1, 1, 1);
            self.line(&what, flops, &|| layer.forward(&image), &theirs)?;
            if edge > LARGEST_DOUBLED {
                continue;
            }
            self.line(
                &format!("  the same, of the image doubled, {name} | candle f16"),
                4.0 * flops,
                &|| layer.forward_upsampled(&image, [2 * edge; 2]),
                &|| {
                    nchw.upsample_nearest2d(2 * edge, 2 * edge)?
                        .conv2d(&weight, 1, 1, 1, 1)
                },
            )?;
        }
        Ok(())
    }

    fn attention(&self, batch: usize, queries: usize, keys: usize, heads: usize) -> Result<()> {
        let width = heads * 64;
        let [q, k, v] = [queries, keys, keys].map(|n| self.randn(&[batch, n, width]));
        let (q, k, v) = (q?, k?, v?);
        let flops = 4.0 * (batch * queries * keys * width) as f64;
        let theirs = || attended(&q, &k, &v, heads);
        let what = format!("attention {batch}x{heads}x{queries}x{keys} | candle f16");
        let ours = || ops::attention(&q, &k, &v, heads, Mask::None);
        self.line(&what, flops, &ours, &theirs)
    }

    /// Queries made of x by an int8 weight on the way.
    fn cross_attention(
        &self,
        batch: usize,
        queries: usize,
        keys: usize,
        heads: usize,
    ) -> Result<()> {
        let width = heads * 64;
        let x = self.randn(&[batch, queries, width])?;
        let ones = Tensor::ones(width, DType::F32, &self.device)?;
        let norm = LayerNorm::new(ones.clone(), ones.zeros_like()?, 1e-5);
        let rows = norm.forward_for(Reads::Int8, &x)?;
        let [k, v] = [keys, keys].map(|n| self.randn(&[batch, n, width]));
        let (k, v, weight) = (k?, v?, self.randn(&[width, width])?);
        let flops = 2.0 * (batch * queries * width) as f64 * (2 * keys + width) as f64;
        for (scheme, x_of) in [(Scheme::W8A8, &rows), (Scheme::W8A16, &x)] {
            let vb = self.weights(&[width, width], Some(scheme))?;
            let to_q = Linear::load_no_bias(width, width, vb)?;
            assert_eq!(to_q.int8(), Some(scheme));
            self.line(
                &format!(
                    "cross_attention {} {batch}x{heads}x{queries}x{keys} | cuBLAS, candle",
                    scheme.name()
                ),
                flops,
                &|| ops::cross_attention(x_of, &to_q, &k, &v, heads),
                &|| attended(&x.broadcast_matmul(&weight)?, &k, &v, heads),
            )?;
        }
        Ok(())
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
        self.line(
            "  the same, to int8 | candle f16, to f16",
            11.0 * values,
            &|| ours.forward_for(Reads::Int8, &image, Some(Activation::Silu)),
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
        let rows = image.flatten(1, 2)?;
        self.line(
            "  the same, to int8 | candle f16, to f16",
            8.0 * values,
            &|| ours.forward_for(Reads::Int8, &rows),
            &|| theirs.forward(&rows),
        )?;

        let both = self.randn(&[batch * edge * edge, 8 * channels])?;
        self.line(
            &format!(
                "geglu {}x{} | candle f16",
                batch * edge * edge,
                4 * channels
            ),
            6.0 * 4.0 * values,
            &|| ops::geglu(Reads::Float, &both),
            &|| gated(&both),
        )?;
        self.line(
            "  the same, to int8 | candle f16, to f16",
            6.0 * 4.0 * values,
            &|| ops::geglu(Reads::Int8, &both),
            &|| gated(&both),
        )
    }

    /// What is done value by value, and changes of layout.
    fn pointwise(&self, batch: usize, edge: usize, channels: usize) -> Result<()> {
        let [a, b] = [0, 1].map(|_| self.randn(&[batch, edge, edge, channels]));
        let (a, b) = (a?, b?);
        let nchw = a
            .permute((0, 3, 1, 2))?
            .to_dtype(DType::F32)?
            .contiguous()?;
        let values = a.elem_count() as f64;
        let sizes = format!("{batch}x{edge}x{edge}x{channels} | candle");
        let line = |what, flops: f64, ours: &dyn Fn() -> _, theirs: &dyn Fn() -> _| {
            self.line(&format!("{what} {sizes}"), flops * values, ours, theirs)
        };
        line("sum", 1.0, &|| ops::add(&a, &b), &|| &a + &b)?;
        let silu = || ops::activation(&a, Activation::Silu);
        line("silu", 4.0, &silu, &|| a.silu())?;
        let beside = || Tensor::cat(&[&a, &b], D::Minus1);
        line("concat", 0.0, &|| ops::concat_channels(&a, &b), &beside)?;
        let last = || {
            nchw.to_dtype(DType::F16)?
                .permute((0, 2, 3, 1))?
                .contiguous()
        };
        let ours = || ops::to_channels_last(&nchw, DType::F16);
        line("channels_last", 0.0, &ours, &last)?;
        let first = || a.to_dtype(DType::F32)?.permute((0, 3, 1, 2))?.contiguous();
        let ours = || ops::to_channels_first(&a, DType::F32);
        line("channels_first", 0.0, &ours, &first)?;
        // Both wait for the answer.
        let ours = || {
            check_finite(Stage::Denoise, "a", &a).map_err(candle_core::Error::msg)?;
            Ok(a.clone())
        };
        let theirs = || {
            (&a * 0.0)?.sum_all()?.to_scalar::<half::f16>()?;
            Ok(a.clone())
        };
        line("finite", 0.0, &ours, &theirs)
    }

    /// What a denoising step does besides the network: Euler, guided.
    fn sampler(&self, batch: usize, edge: usize) -> Result<()> {
        let randn = |rows| Tensor::randn(0f32, 1.0, (rows, 4, edge, edge), &self.device);
        let (latents, previous_x0, output) = (randn(batch)?, randn(batch)?, randn(2 * batch)?);
        // Input's scale, guidance, x0 of latents and output, its limit; next of latents, output, x0, the x0 before, noise.
        let numbers = [
            0.1f32,
            5.0,
            1.0,
            -10.0,
            f32::INFINITY,
            1.0,
            -0.5,
            0.0,
            0.0,
            0.0,
        ];
        let numbers = Tensor::new(&numbers, &self.device)?;
        let values = latents.elem_count() as f64;
        self.line(
            &format!("model_input {batch}x4x{edge}x{edge} | candle f32"),
            values,
            &|| ops::model_input(&latents, &numbers, 2),
            &|| {
                let scaled = (&latents * 0.1)?;
                Tensor::cat(&[&scaled, &scaled], 0)
            },
        )?;
        let step = SamplerStep {
            latents: &latents,
            output: &output,
            previous_x0: &previous_x0,
            noise: None,
            numbers: &numbers,
        };
        self.line(
            &format!("sampler_step {batch}x4x{edge}x{edge} | candle f32"),
            10.0 * values,
            &|| Ok(ops::sampler_step(&step)?[0].clone()),
            &|| {
                let both = output.chunk(2, 0)?;
                let guided = (&both[0] + ((&both[1] - &both[0])? * 5.0)?)?;
                let _x0 = (&latents - (&guided * 10.0)?)?;
                &latents - (guided * 0.5)?
            },
        )
    }
}

/// GEGLU by candle's operations.
fn gated(both: &Tensor) -> Result<Tensor> {
    let halves = both.chunk(2, D::Minus1)?;
    &halves[0] * halves[1].gelu_erf()?
}

/// Attention by candle's operations.
fn attended(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let split = |x: &Tensor| {
        let (b, n, _) = x.dims3()?;
        x.reshape((b, n, heads, 64))?.transpose(1, 2)?.contiguous()
    };
    let scores = (split(q)?.matmul(&split(k)?.transpose(2, 3)?)? * 0.125)?;
    let mixed = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&split(v)?)?;
    mixed.transpose(1, 2)?.reshape(q.shape())
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let device = DeviceChoice::Cuda(0).open(|_| ())?;
    println!("{}", device::driver(&device)?.unwrap_or_default());
    println!(
        "{:60} {:>10} {:>9} {:>10} {:>7}",
        "ours | theirs", "ours us", "TFLOP/s", "theirs us", "ratio"
    );
    let bench = Bench { device, quick };
    if quick {
        bench.linear(32, 64, 128)?;
        bench.behind_linear(32, 64, 64)?;
        bench.conv2d(8, 32, 32, 1)?;
        bench.attention(1, 64, 77, 1)?;
        bench.cross_attention(1, 64, 77, 1)?;
        bench.norms(1, 8, 64)?;
        bench.pointwise(1, 8, 64)?;
        return bench.sampler(1, 8).map_err(Into::into);
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
    for (rows, inputs, outputs) in [(8192, 640, 2560), (2048, 1280, 5120), (2048, 5120, 1280)] {
        bench.behind_linear(rows, inputs, outputs)?;
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
    bench.cross_attention(2, 4096, 77, 10)?;
    bench.cross_attention(2, 1024, 77, 20)?;
    bench.norms(2, 128, 320)?;
    bench.norms(2, 64, 640)?;
    bench.norms(2, 32, 1280)?;
    bench.pointwise(2, 128, 320)?;
    bench.pointwise(2, 32, 1280)?;
    bench.sampler(1, 128)?;
    Ok(())
}
