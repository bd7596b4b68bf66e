//! The stages on the embedded model, and single operations at SDXL's shapes beside candle's own.
//!
//! `cargo bench --bench stages -- conv` runs a part. A FLOP is a multiplication or an addition;
//! criterion prints them as elements a second. Each side of a pair gets its image in the order that
//! it keeps images in (ours channels-last), and attention starts from [B, N, C] on both sides.

use std::hint::black_box;
use std::time::Duration;

use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_nn::ops::softmax_last_dim;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use darkroom::measure::timer::StageTimer;
use darkroom::observe::Stage;
use darkroom::ops::{self, Activation, Conv2d, GroupNorm, Linear, Mask, Padding};
use darkroom::pipeline::{Pipeline, Start};
use darkroom::request::{Precision, Request, Size};
use darkroom::rng::{NoiseSource, TorchCpu};
use darkroom::weights::checkpoint::Checkpoint;

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = load, stages, linear, conv2d, group_norm, attention
}
criterion_main!(benches);

/// Random values: the same at each call.
fn values(shape: &[usize]) -> Tensor {
    let values = TorchCpu::new(0).randn(shape.iter().product());
    Tensor::from_vec(values, shape, &Device::Cpu).expect("as many values as the shape has")
}

/// Weights of [out, ..]: such that the output's variance is the input's.
fn weights(shape: &[usize]) -> Tensor {
    let inputs: usize = shape[1..].iter().product();
    (values(shape) / (inputs as f64).sqrt()).expect("a division by a number")
}

/// One bar of a comparison.
fn bench<T>(group: &mut BenchmarkGroup<WallTime>, name: &str, run: impl Fn() -> Result<T>) {
    group.bench_function(name, |b| b.iter(|| black_box(run().expect(name))));
}

fn pipeline() -> Pipeline {
    let checkpoint = Checkpoint::micro().expect("the embedded model is whole");
    Pipeline::load(&checkpoint, Precision::default(), &Device::Cpu, &mut ())
        .expect("the embedded model loads")
}

fn load(c: &mut Criterion) {
    c.bench_function("micro/load", |b| b.iter(pipeline));
}

/// Each stage as a run of one guided step at 128×128 times it, so `denoise` is one forward of batch
/// 2 and the scheduler's step.
fn stages(c: &mut Criterion) {
    let pipeline = pipeline();
    let size = Size {
        height_px: 128,
        width_px: 128,
    };
    let request = Request::new("micro", "a red apple on a blue background", size, 1, 4.0);
    for stage in [
        Stage::TextEncode,
        Stage::Denoise,
        Stage::VaeDecode,
        Stage::PostProcess,
    ] {
        c.bench_function(&format!("micro/{stage}"), |b| {
            b.iter_custom(|runs| {
                let mut timer = StageTimer::default();
                for _ in 0..runs {
                    pipeline
                        .generate(&request, Start::default(), &mut timer)
                        .expect("a valid request");
                }
                let took = timer.stage(stage).expect("every run has the stage");
                Duration::from_secs_f64(took.total_ms / 1e3)
            })
        });
    }
}

/// GEGLU's projection at the 32×32 level.
fn linear(c: &mut Criterion) {
    let (rows, inputs, outputs) = (1024, 640, 5120);
    let (x, weight, bias) = (
        values(&[1, rows, inputs]),
        weights(&[outputs, inputs]),
        values(&[outputs]),
    );
    let mut group = c.benchmark_group(format!("linear {rows}x{inputs}x{outputs}"));
    group.throughput(Throughput::Elements((2 * rows * inputs * outputs) as u64));
    let ours = Linear::new(&weight, Some(bias.clone())).expect("a matrix");
    bench(&mut group, "darkroom", || ours.forward(&x));
    let theirs = candle_nn::Linear::new(weight, Some(bias));
    bench(&mut group, "candle", || theirs.forward(&x));
}

fn conv2d(c: &mut Criterion) {
    let channels = 320;
    let (weight, bias) = (weights(&[channels, channels, 3, 3]), values(&[channels]));
    let ours = Conv2d::new(&weight, bias.clone(), 1, Padding::all(1)).expect("a valid kernel");
    let config = candle_nn::Conv2dConfig {
        padding: 1,
        ..Default::default()
    };
    let theirs = candle_nn::Conv2d::new(weight, Some(bias), config);
    for edge in [32, 64] {
        let image = values(&[1, channels, edge, edge]);
        let last = ops::to_channels_last(&image, DType::F32).expect("an image");
        let mut group = c.benchmark_group(format!("conv2d 3x3 {channels} channels {edge}x{edge}"));
        group.throughput(Throughput::Elements(
            (2 * edge * edge * 9 * channels * channels) as u64,
        ));
        bench(&mut group, "darkroom", || ours.forward(&last));
        bench(&mut group, "candle", || theirs.forward(&image));
    }
}

/// With SiLU. Bound by memory, so measured in the bytes that have to be read and written.
fn group_norm(c: &mut Criterion) {
    let (channels, edge, groups, eps) = (320, 64, 32, 1e-5);
    let (weight, bias) = (values(&[channels]), values(&[channels]));
    let image = values(&[1, channels, edge, edge]);
    let last = ops::to_channels_last(&image, DType::F32).expect("an image");
    let mut group = c.benchmark_group(format!(
        "group norm, SiLU {channels} channels {edge}x{edge}"
    ));
    let bytes = 2 * image.elem_count() * DType::F32.size_in_bytes();
    group.throughput(Throughput::Bytes(bytes as u64));
    let ours = GroupNorm::new(weight.clone(), bias.clone(), groups, eps);
    bench(&mut group, "darkroom", || {
        ours.forward_activated(&last, Activation::Silu)
    });
    let theirs =
        candle_nn::GroupNorm::new(weight, bias, channels, groups, eps).expect("groups divide");
    bench(&mut group, "candle", || {
        candle_nn::ops::silu(&theirs.forward(&image)?)
    });
}

/// Self-attention and cross-attention of the 32×32 level.
fn attention(c: &mut Criterion) {
    let (heads, queries, d) = (10, 1024, 64);
    let q = values(&[1, queries, heads * d]);
    for keys in [1024, 77] {
        let k = values(&[1, keys, heads * d]);
        let mut group = c.benchmark_group(format!("attention {heads}x{queries}x{keys}x{d}"));
        group.throughput(Throughput::Elements(
            (4 * heads * queries * keys * d) as u64,
        ));
        bench(&mut group, "darkroom", || {
            ops::attention(&q, &k, &k, heads, Mask::None)
        });
        bench(&mut group, "candle", || plain_attention(&q, &k, &k, heads));
    }
}

/// softmax(q·kᵀ/√d)·v in candle's operations, the scores whole: [B, N, heads·d] → the same.
fn plain_attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let split = |x: &Tensor| {
        let (batch, rows, width) = x.dims3()?;
        x.reshape((batch, rows, heads, width / heads))?
            .transpose(1, 2)?
            .contiguous() // [B, heads, N, d]
    };
    let (q, k, v) = (split(q)?, split(k)?, split(v)?);
    let scores =
        (q.matmul(&k.transpose(D::Minus2, D::Minus1)?)? / (q.dim(D::Minus1)? as f64).sqrt())?;
    let mixed = softmax_last_dim(&scores)?.matmul(&v)?; // [B, heads, N, d]
    mixed.transpose(1, 2)?.flatten_from(D::Minus2)
}
