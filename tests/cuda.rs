//! Every operation on a CUDA device against its CPU path in float32, over small, odd and extreme shapes;
//! then whole images. Needs a device; scripts/cuda-emulated gives it a stand-in.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread;
use std::time::Duration;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use darkroom::device::DeviceChoice;
use darkroom::finite::seen;
use darkroom::observe::{Event, Observer, Stage};
use darkroom::ops::int8::{LIMIT, SCALE_BYTES, Scheme};
use darkroom::ops::probe::{self, Call, watch};
use darkroom::ops::{
    Activation, Conv2d, Embedding, GroupNorm, LayerNorm, Linear, Mask, Padding, Reads, activation,
    add, add_by_image, add_to_each, attention, concat_channels, cross_attention, geglu,
    to_channels_first, to_channels_last, upsample_nearest,
};
use darkroom::pipeline::{Pipeline, Start};
use darkroom::request::{Dtype, InitImage, Precision, Request, Size};
use darkroom::scheduler::SchedulerKind;
use darkroom::weights::checkpoint::Checkpoint;
use image::RgbImage;

/// The launcher's own tests, here since the library's would compile all of it once more.
#[path = "../src/cuda/launch.rs"]
#[expect(dead_code, reason = "compiled for its tests only")]
mod launch;

#[expect(dead_code, reason = "compared with launch.h's")]
#[path = "../src/ops/limits.rs"]
mod limits;

#[path = "cuda/memory.rs"]
mod memory;

#[expect(dead_code, reason = "shared with tests that use other parts of it")]
#[path = "support/model.rs"]
mod model;

const CPU: Device = Device::Cpu;
const TYPES: [DType; 3] = [DType::F16, DType::BF16, DType::F32];

/// While a probe watches the process's layers, sums are not made in the layers' kernels and round otherwise:
/// whoever watches holds this alone, whoever compares bits holds it with others.
static WATCHED: RwLock<()> = RwLock::new(());

fn gpu() -> Device {
    thread_local! {
        // Until the test's thread ends.
        static HEARD: RwLockReadGuard<'static, ()> =
            RECORDED.read().unwrap_or_else(PoisonError::into_inner);
    }
    HEARD.with(|_| open_gpu())
}

/// A recorder hears the whole process: who records is alone.
static RECORDED: RwLock<()> = RwLock::new(());

fn open_gpu() -> Device {
    DeviceChoice::Cuda(0)
        .open(|_| ())
        .expect("a device to test on")
}

/// Normal noise that `dtype` can hold, as float32.
fn noise(seed: u64, shape: &[usize], scale: f64, dtype: DType) -> Result<Tensor> {
    use darkroom::rng::{NoiseSource, TorchCpu};
    let values = TorchCpu::new(seed).randn(shape.iter().product());
    let noise = (Tensor::from_vec(values, shape, &CPU)? * scale)?;
    noise.to_dtype(dtype)?.to_dtype(DType::F32)
}

/// What a value of about 1 loses.
fn rounding(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 1.0 / 2048.0,
        DType::BF16 => 1.0 / 256.0,
        _ => 1e-6,
    }
}

/// The most that one difference may be, over what their root mean square may be; 2.6 was the most on the stand-in.
const OUTLIER: f64 = 4.0;

/// What is foreseen of the kernels' limits is what launch.h says.
#[test]
fn limits_are_those_of_the_kernels() {
    // SAFETY: a constant of layout.c.
    unsafe extern "C" {
        static darkroom_limits: [usize; 5];
    }
    use limits::{GROUP_NORM_CHANNELS, GROUP_NORM_CHUNKS, GROUP_NORM_PIXELS, HEAD, VECTOR};
    let foreseen = [
        HEAD,
        VECTOR,
        GROUP_NORM_CHANNELS,
        GROUP_NORM_CHUNKS,
        GROUP_NORM_PIXELS,
    ];
    // SAFETY: likewise.
    assert_eq!(unsafe { darkroom_limits }, foreseen);
    let some = 16 as launch::Pointer;
    let geglu = |channels| {
        let rows = launch::Rows {
            x: some,
            out: some,
            out_scales: some,
            rows: 1,
            channels,
        };
        launch::launch_geglu(&rows, launch::Dtype::F16)
            .kernel()
            .is_ok()
    };
    let most = limits::INT8_GEGLU_CHANNELS as i32;
    assert!(geglu(most) && !geglu(most + limits::VECTOR as i32));
}

/// Root mean square of the differences over the reference's, which a rounding of `dtype` explains; none of them more than
/// [`OUTLIER`] times that.
fn check(what: &str, dtype: DType, got: &Tensor, want: &Tensor, slack: f64) -> Result<()> {
    assert_eq!(got.dims(), want.dims(), "{what} {dtype:?}");
    assert_eq!(got.dtype(), dtype, "{what}");
    let got = got.to_device(&CPU)?.to_dtype(DType::F32)?.flatten_all()?;
    let want = want.flatten_all()?;
    let square = |t: &Tensor| t.sqr()?.mean_all()?.to_scalar::<f32>();
    let difference = (&got - &want)?;
    let error = f64::from(square(&difference)?.sqrt());
    let mean = f64::from(square(&want)?.sqrt());
    // Of each value, or of the mean where that is larger.
    let sizes = want
        .abs()?
        .maximum(mean.max(f64::from(f32::MIN_POSITIVE)))?;
    let largest = (difference.abs()? / sizes)?.max(0)?.to_scalar::<f32>()?;
    let allowed = slack * rounding(dtype);
    assert!(
        error <= allowed * mean && f64::from(largest) <= OUTLIER * allowed,
        "{what} {dtype:?} {:?}: error {error:e} of {mean:e}, largest {largest:e}, allowed {allowed:e}",
        want.dims()
    );
    Ok(())
}

/// Tensors of a layer, given to it on any device.
struct Layer(HashMap<String, Tensor>);

impl Layer {
    fn float(seed: u64, weight: &[usize], dtype: DType) -> Result<Self> {
        let fan_in: usize = weight[1..].iter().product();
        let scale = 1.0 / (fan_in as f64).sqrt();
        Ok(Self(HashMap::from([
            ("weight".into(), noise(seed, weight, scale, dtype)?),
            ("bias".into(), noise(seed + 1, &weight[..1], 0.5, dtype)?),
        ])))
    }

    /// Integers over their whole range, scales that give the products a variance of about 1.
    fn int8(seed: u64, weight: &[usize], scheme: Scheme, dtype: DType) -> Result<Self> {
        let mut layer = Self::float(seed, weight, dtype)?.0;
        let bytes: Vec<u8> = noise(seed + 2, weight, 40.0, DType::F32)?
            .flatten_all()?
            .to_vec1::<f32>()?
            .iter()
            .map(|v| v.round().clamp(-LIMIT, LIMIT) as i8 as u8)
            .collect();
        layer.insert("weight".into(), Tensor::from_vec(bytes, weight, &CPU)?);
        let fan_in: usize = weight[1..].iter().product();
        let scales = (noise(seed + 3, &weight[..1], 0.1, DType::F32)? + 1.0)?.abs()?;
        let scales = (scales / (40.0 * (fan_in as f64).sqrt()))?;
        layer.insert("weight_scale".into(), scales);
        if scheme == Scheme::W8A8 {
            let mark = Tensor::zeros(1, DType::F32, &CPU)?;
            layer.insert("int8_activations".into(), mark);
        }
        Ok(Self(layer))
    }

    fn on(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_tensors(self.0.clone(), dtype, device)
    }
}

fn to(x: &Tensor, dtype: DType, device: &Device) -> Result<Tensor> {
    x.to_device(device)?.to_dtype(dtype)
}

#[test]
fn linear_layers() -> Result<()> {
    let gpu = gpu();
    for dtype in TYPES {
        for (rows, inputs, outputs) in [(1, 16, 8), (77, 96, 40), (130, 160, 200), (3, 20, 7)] {
            let x = noise(1, &[1, rows, inputs], 1.0, dtype)?;
            let layer = Layer::float(2, &[outputs, inputs], dtype)?;
            let on = |dtype, device: &Device| {
                Linear::load(inputs, outputs, layer.on(dtype, device))?
                    .forward(&to(&x, dtype, device)?)
            };
            check(
                "linear",
                dtype,
                &on(dtype, &gpu)?,
                &on(DType::F32, &CPU)?,
                2.0,
            )?;
            for scheme in Scheme::ALL {
                let layer = Layer::int8(3, &[outputs, inputs], scheme, dtype)?;
                let on = |dtype, device: &Device| {
                    Linear::load(inputs, outputs, layer.on(dtype, device))?
                        .forward(&to(&x, dtype, device)?)
                };
                // Where no kernel fits, the GPU's activations stay floats: closer to W8A16.
                let fits = dtype != DType::F32 && inputs % 16 == 0;
                let slack = match scheme == Scheme::W8A8 && !fits {
                    true => 2e-2 / rounding(dtype),
                    false => 2.0,
                };
                let name = format!("{} linear", scheme.name());
                check(
                    &name,
                    dtype,
                    &on(dtype, &gpu)?,
                    &on(DType::F32, &CPU)?,
                    slack,
                )?;
            }
        }
    }
    Ok(())
}

#[test]
fn convolutions() -> Result<()> {
    let gpu = gpu();
    let halving = Padding {
        bottom: 1,
        right: 1,
        ..Padding::default()
    };
    let cases = [
        ([1, 5, 7, 4], 12, 3, 1, Padding::all(1)),
        ([2, 8, 8, 32], 24, 3, 1, Padding::all(1)),
        ([1, 9, 6, 16], 3, 3, 2, Padding::all(1)),
        ([2, 6, 10, 48], 64, 3, 2, halving),
        ([3, 5, 4, 32], 40, 1, 1, Padding::default()),
        ([1, 7, 5, 24], 10, 1, 2, Padding::default()),
        ([2, 5, 8, 48], 20, 1, 2, Padding::default()),
    ];
    for dtype in TYPES {
        for (shape, outputs, kernel, stride, padding) in cases {
            let inputs = shape[3];
            let image = noise(4, &shape, 1.0, dtype)?;
            let run = |layer: &Layer, dtype, device: &Device| {
                Conv2d::load(inputs, outputs, kernel, layer.on(dtype, device))?
                    .with_stride(stride, padding)
                    .forward(&to(&image, dtype, device)?)
            };
            let weight = [outputs, inputs, kernel, kernel];
            let layer = Layer::float(5, &weight, dtype)?;
            let want = run(&layer, DType::F32, &CPU)?;
            check("convolution", dtype, &run(&layer, dtype, &gpu)?, &want, 2.0)?;
            for scheme in Scheme::ALL {
                let layer = Layer::int8(6, &weight, scheme, dtype)?;
                let want = run(&layer, DType::F32, &CPU)?;
                let name = format!("{} convolution", scheme.name());
                // One activation scale for an image there, one for a pixel here.
                let slack = match scheme {
                    Scheme::W8A8 => (3e-2 / 1e-6f64).min(match dtype {
                        DType::F16 => 60.0,
                        DType::BF16 => 8.0,
                        _ => f64::INFINITY,
                    }),
                    Scheme::W8A16 => 3.0,
                };
                check(&name, dtype, &run(&layer, dtype, &gpu)?, &want, slack)?;
            }
        }
    }
    Ok(())
}

/// candle's, in float32, of more patches than it is given at once: the last band is shorter.
#[test]
fn convolutions_in_bands() -> Result<()> {
    let gpu = gpu();
    let (dtype, weight) = (DType::F32, [8, 256, 3, 3]);
    let layer = Layer::float(5, &weight, dtype)?;
    for (stride, height, width) in [(1, 131, 120), (2, 131, 240)] {
        let image = noise(4, &[1, height, width, 256], 1.0, dtype)?;
        let run = |device: &Device| {
            Conv2d::load(256, 8, 3, layer.on(dtype, device))?
                .with_stride(stride, Padding::all(1))
                .forward(&to(&image, dtype, device)?)
        };
        check("bands", dtype, &run(&gpu)?, &run(&CPU)?, 2.0)?;
    }
    Ok(())
}

#[test]
fn attentions() -> Result<()> {
    let gpu = gpu();
    // Batch, batch of keys, heads, width of a head, queries, keys.
    let cases = [
        ([1, 1, 2, 64, 77, 77], Mask::Causal),
        ([4, 2, 3, 64, 130, 77], Mask::None),
        ([2, 1, 1, 64, 70, 70], Mask::None),
        ([1, 1, 2, 32, 20, 20], Mask::Causal),
        ([4, 2, 3, 32, 33, 9], Mask::None),
        ([1, 1, 1, 128, 40, 40], Mask::None),
    ];
    for dtype in TYPES {
        for ([batch, key_batch, heads, d, queries, keys], mask) in cases {
            let q = noise(7, &[batch, queries, heads * d], 1.0, dtype)?;
            let k = noise(8, &[key_batch, keys, heads * d], 1.0, dtype)?;
            let v = noise(9, &[key_batch, keys, heads * d], 1.0, dtype)?;
            let on = |dtype, device: &Device| {
                let [q, k, v] = [&q, &k, &v].map(|x| to(x, dtype, device));
                attention(&q?, &k?, &v?, heads, mask)
            };
            check(
                "attention",
                dtype,
                &on(dtype, &gpu)?,
                &on(DType::F32, &CPU)?,
                6.0,
            )?;
        }
    }
    Ok(())
}

#[test]
fn norms() -> Result<()> {
    let gpu = gpu();
    for dtype in TYPES {
        for (shape, groups) in [
            ([2, 4, 5, 64], 32),
            ([1, 9, 3, 48], 3),
            ([2, 2, 2, 12], 4),
            ([1, 1, 1, 32], 8),
        ] {
            let channels = shape[3];
            // A mean of several deviations.
            let x = (noise(10, &shape, 1.0, dtype)? + 4.0)?.to_dtype(dtype)?;
            let x = x.to_dtype(DType::F32)?;
            let layer = Layer::float(11, &[channels, 1], dtype)?;
            let weight = layer.0["weight"].flatten_all()?;
            let layer = Layer(HashMap::from([
                ("weight".into(), weight),
                ("bias".into(), layer.0["bias"].clone()),
            ]));
            for which in [None, Some(Activation::Silu), Some(Activation::Gelu)] {
                let on = |dtype, device: &Device| {
                    let norm = GroupNorm::load(channels, groups, 1e-5, layer.on(dtype, device))?;
                    let x = to(&x, dtype, device)?;
                    match which {
                        None => norm.forward(&x),
                        Some(which) => norm.forward_activated(&x, which),
                    }
                };
                check(
                    "group norm",
                    dtype,
                    &on(dtype, &gpu)?,
                    &on(DType::F32, &CPU)?,
                    4.0,
                )?;
            }
            let given = |dtype, device: &Device| {
                let norm = GroupNorm::load(channels, groups, 1e-5, layer.on(dtype, device))?;
                let x = to(&x, dtype, device)?;
                let moments = norm.moments(&x.narrow(0, 0, 1)?)?;
                norm.forward_given(&x, &moments, Activation::Silu)
            };
            check(
                "given group norm",
                dtype,
                &given(dtype, &gpu)?,
                &given(DType::F32, &CPU)?,
                4.0,
            )?;
            let on = |dtype, device: &Device| {
                LayerNorm::load(channels, 1e-5, layer.on(dtype, device))?
                    .forward(&to(&x, dtype, device)?)
            };
            check(
                "layer norm",
                dtype,
                &on(dtype, &gpu)?,
                &on(DType::F32, &CPU)?,
                4.0,
            )?;
        }
    }
    Ok(())
}

/// What a GPU gave in int8 for `want` [.., C], read back: within half a step of it, where a step is a
/// 127th of the largest magnitude of a row, or of an image [H, W, C].
fn check_int8(what: &str, got: &Tensor, want: &Tensor) -> Result<()> {
    assert_eq!(got.dtype(), DType::U8, "{what}");
    let dims = want.dims();
    let channels = dims[dims.len() - 1];
    let rows = want.elem_count() / channels;
    assert_eq!(got.elem_count(), rows * (channels + SCALE_BYTES), "{what}");
    let each = match dims {
        [_, height, width, _] => height * width * channels,
        _ => channels,
    };
    let bytes = got.to_device(&CPU)?.flatten_all()?.to_vec1::<u8>()?;
    let (values, scales) = bytes.split_at(rows * channels);
    let scales = scales.as_chunks().0.iter().map(|s| f32::from_ne_bytes(*s));
    let want = want.flatten_all()?.to_vec1::<f32>()?;
    let parts = values.chunks(each).zip(want.chunks(each)).zip(scales);
    assert_eq!(parts.len(), want.len() / each);
    for ((values, want), scale) in parts {
        let largest = want.iter().fold(0f32, |most, x| most.max(x.abs()));
        let step = largest / LIMIT;
        assert!(
            (scale - step).abs() <= 1e-4 * step,
            "{what}: {scale}, not {step}"
        );
        for (value, want) in values.iter().zip(want) {
            let got = f32::from(*value as i8) * scale;
            assert!(
                (got - want).abs() <= 0.501 * step,
                "{what}: {got}, not {want} by {step}"
            );
        }
    }
    Ok(())
}

#[test]
fn norms_and_geglu_give_int8() -> Result<()> {
    let gpu = gpu();
    for dtype in TYPES {
        // f32 is not quantised: the layer behind does without.
        let check = |what: &str, got: Tensor, want: Tensor| match dtype {
            DType::F32 => check(what, dtype, &got, &want, 10.0),
            _ => check_int8(&format!("{what} {dtype:?}"), &got, &want),
        };
        let affine = |channels: usize| -> Result<Layer> {
            let layer = Layer::float(20, &[channels, 1], dtype)?.0;
            Ok(Layer(HashMap::from([
                ("weight".into(), layer["weight"].flatten_all()?),
                ("bias".into(), layer["bias"].clone()),
            ])))
        };
        for shape in [[2, 37, 64], [1, 5, 48], [3, 1, 16], [1, 130, 336]] {
            let (channels, layer) = (shape[2], affine(shape[2])?);
            let x = noise(21, &shape, 1.0, dtype)?;
            let on = |dtype, device: &Device, reads| {
                LayerNorm::load(channels, 1e-5, layer.on(dtype, device))?
                    .forward_for(reads, &to(&x, dtype, device)?)
            };
            let want = on(DType::F32, &CPU, Reads::Float)?;
            check("layer norm", on(dtype, &gpu, Reads::Int8)?, want)?;
            let on = |dtype, device: &Device, reads| geglu(reads, &to(&x, dtype, device)?);
            let want = on(DType::F32, &CPU, Reads::Float)?;
            check("geglu", on(dtype, &gpu, Reads::Int8)?, want)?;
        }
        for (shape, groups) in [
            ([2, 4, 5, 64], 32),
            ([1, 9, 3, 48], 3),
            ([3, 1, 1, 32], 8),
            ([1, 33, 21, 16], 4),
        ] {
            let (channels, layer) = (shape[3], affine(shape[3])?);
            // The images' largest magnitudes differ.
            let x = noise(22, &shape, 1.0, dtype)?;
            for which in [None, Some(Activation::Silu)] {
                let on =
                    |dtype, device: &Device, reads| {
                        GroupNorm::load(channels, groups, 1e-5, layer.on(dtype, device))?
                            .forward_for(reads, &to(&x, dtype, device)?, which)
                    };
                let want = on(DType::F32, &CPU, Reads::Float)?;
                check("group norm", on(dtype, &gpu, Reads::Int8)?, want)?;
            }
        }
    }
    Ok(())
}

/// Values of shape [.., width] in int8 over their whole range: as a GPU has them, images with a scale
/// each, and as the CPU has them, all rows with one.
fn int8_activations(seed: u64, dims: &[usize]) -> Result<[Tensor; 2]> {
    let (width, rows) = dims.split_last().expect("rows have a width");
    let count: usize = rows.iter().product();
    let values: Vec<u8> = noise(seed, dims, 40.0, DType::F32)?
        .flatten_all()?
        .to_vec1::<f32>()?
        .iter()
        .map(|v| v.round().clamp(-LIMIT, LIMIT) as i8 as u8)
        .collect();
    let share = match rows {
        [_, height, width] => height * width,
        _ => 1,
    };
    let scales = (noise(seed + 1, &[count / share], 0.2, DType::F32)? + 1.0)?.abs()?;
    let scales = (scales / 40.0)?.to_vec1::<f32>()?;
    let by_row: Vec<f32> = (0..count).map(|row| scales[row / share]).collect();
    let tensor = |scales: &[f32]| {
        let mut bytes = values.clone();
        bytes.extend(scales.iter().flat_map(|scale| scale.to_ne_bytes()));
        bytes.resize(count * (width + SCALE_BYTES), 255);
        Tensor::from_vec(bytes, [rows, &[width + SCALE_BYTES]].concat(), &CPU)
    };
    Ok([tensor(&scales)?, tensor(&by_row)?])
}

#[test]
fn layers_do_geglu() -> Result<()> {
    let _unwatched = WATCHED.read();
    let gpu = gpu();
    for dtype in TYPES {
        for scheme in [None, Some(Scheme::W8A16), Some(Scheme::W8A8)] {
            let int8 = scheme == Some(Scheme::W8A8);
            if int8 && dtype == DType::F32 {
                continue;
            }
            for (dims, outputs) in [([2, 37, 96], 80), ([1, 1, 16], 8), ([1, 130, 160], 2 * 168)] {
                let layer = match scheme {
                    Some(scheme) => Layer::int8(41, &[outputs, dims[2]], scheme, dtype)?,
                    None => Layer::float(41, &[outputs, dims[2]], dtype)?,
                };
                let x = noise(43, &dims, 1.0, dtype)?;
                let [there, here] = match int8 {
                    true => int8_activations(43, &dims)?,
                    false => [to(&x, dtype, &gpu)?, x],
                };
                let on = |x: &Tensor, reads, dtype, device: &Device| {
                    Linear::load(dims[2], outputs, layer.on(dtype, device))?
                        .forward_geglu(reads, x.to_device(device)?)
                };
                let want = on(&here, Reads::Float, DType::F32, &CPU)?;
                // A product's kernel gives floats also to a layer that would rather read int8.
                let reads = match scheme.is_some() && dtype != DType::F32 {
                    true => Reads::Int8,
                    false => Reads::Float,
                };
                let name = format!("geglu of a linear layer {scheme:?}");
                check(&name, dtype, &on(&there, reads, dtype, &gpu)?, &want, 3.0)?;
            }
        }
    }
    let layer = Layer::int8(41, &[9, 32], Scheme::W8A16, DType::F16)?;
    let odd = Linear::load(32, 9, layer.on(DType::F16, &gpu))?;
    let x = Tensor::zeros((3, 32), DType::F16, &gpu)?;
    assert!(odd.forward_geglu(Reads::Float, x).is_err());
    Ok(())
}

#[test]
fn convolutions_of_enlarged_images() -> Result<()> {
    let _unwatched = WATCHED.read();
    let gpu = gpu();
    // Twice as large, less a row or a column, and as no kernel reads an image.
    let cases = [
        ([1, 4, 3, 16], 24, [8, 6]),
        ([2, 5, 4, 32], 12, [9, 8]),
        ([1, 3, 9, 48], 40, [5, 17]),
        ([1, 1, 1, 16], 8, [1, 1]),
        ([2, 3, 4, 16], 8, [7, 8]),
        ([1, 6, 5, 4], 7, [12, 10]),
    ];
    for dtype in TYPES {
        for (dims, outputs, size) in cases {
            let image = noise(44, &dims, 1.0, dtype)?;
            for scheme in [None, Some(Scheme::W8A16), Some(Scheme::W8A8)] {
                let weight = [outputs, dims[3], 3, 3];
                let layer = match scheme {
                    Some(scheme) => Layer::int8(45, &weight, scheme, dtype)?,
                    None => Layer::float(45, &weight, dtype)?,
                };
                let conv = Conv2d::load(dims[3], outputs, 3, layer.on(dtype, &gpu))?;
                let on_gpu = to(&image, dtype, &gpu)?;
                let got = conv.forward_upsampled(&on_gpu, size)?;
                // The same values in the same order: bit for bit.
                let enlarged = upsample_nearest(&on_gpu, size[0], size[1])?;
                let want = conv.forward(&enlarged)?.to_dtype(DType::F32)?;
                let name = format!("convolution of an enlarged image {scheme:?}");
                check(&name, dtype, &got, &want.to_device(&CPU)?, 0.0)?;
                if scheme != Some(Scheme::W8A8) {
                    let want = Conv2d::load(dims[3], outputs, 3, layer.on(DType::F32, &CPU))?
                        .forward_upsampled(&image, size)?;
                    check(&name, dtype, &got, &want, 3.0)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn layers_read_int8() -> Result<()> {
    let gpu = gpu();
    for dtype in [DType::F16, DType::BF16] {
        for (dims, outputs) in [
            (&[2, 37, 96][..], 40),
            (&[1, 1, 16], 8),
            (&[1, 130, 160], 200),
            (&[2, 5, 7, 48], 24),
            (&[3, 9, 15, 64], 33),
        ] {
            let inputs = dims[dims.len() - 1];
            let [there, here] = int8_activations(23, dims)?;
            let layer = Layer::int8(24, &[outputs, inputs], Scheme::W8A8, dtype)?;
            let on = |x: &Tensor, dtype, device: &Device| {
                let linear = Linear::load(inputs, outputs, layer.on(dtype, device))?;
                assert_eq!(linear.reads(), Reads::Int8);
                linear.forward(&x.to_device(device)?)
            };
            let want = on(&here, DType::F32, &CPU)?;
            check(
                "linear of int8",
                dtype,
                &on(&there, dtype, &gpu)?,
                &want,
                2.0,
            )?;
        }
        for (dims, outputs, kernel, stride) in [
            ([2, 5, 7, 32], 24, 3, 1),
            ([3, 8, 6, 16], 3, 3, 2),
            ([2, 9, 4, 48], 40, 1, 1),
            ([1, 23, 17, 64], 130, 3, 1),
        ] {
            let inputs = dims[3];
            let [there, here] = int8_activations(25, &dims)?;
            let layer = Layer::int8(26, &[outputs, inputs, kernel, kernel], Scheme::W8A8, dtype)?;
            let on = |x: &Tensor, dtype, device: &Device| {
                let conv = Conv2d::load(inputs, outputs, kernel, layer.on(dtype, device))?
                    .with_stride(stride, Padding::all(kernel / 2));
                assert_eq!(conv.reads(), Reads::Int8);
                conv.forward(&x.to_device(device)?)
            };
            let want = on(&here, DType::F32, &CPU)?;
            check(
                "convolution of int8",
                dtype,
                &on(&there, dtype, &gpu)?,
                &want,
                2.0,
            )?;
        }
    }
    // No kernel multiplies these: floats are read.
    let layer = Layer::int8(27, &[8, 20], Scheme::W8A8, DType::F16)?;
    let linear = Linear::load(20, 8, layer.on(DType::F16, &gpu))?;
    assert_eq!(linear.reads(), Reads::Float);
    let layer = Layer::int8(27, &[8, 32], Scheme::W8A16, DType::F16)?;
    let linear = Linear::load(32, 8, layer.on(DType::F16, &gpu))?;
    assert_eq!(linear.reads(), Reads::Float);
    Ok(())
}

#[test]
fn layers_add() -> Result<()> {
    let gpu = gpu();
    let schemes = [None, Some(Scheme::W8A16), Some(Scheme::W8A8)];
    for dtype in TYPES {
        for scheme in schemes {
            // Under W8A8 activations in int8, alike on both sides; f32 is not quantised.
            let int8 = scheme == Some(Scheme::W8A8);
            if int8 && dtype == DType::F32 {
                continue;
            }
            let layer = |weight: &[usize]| match scheme {
                Some(scheme) => Layer::int8(34, weight, scheme, dtype),
                None => Layer::float(34, weight, dtype),
            };
            let inputs = |dims: &[usize]| -> Result<[Tensor; 2]> {
                let x = noise(36, dims, 1.0, dtype)?;
                match int8 {
                    true => int8_activations(36, dims),
                    false => Ok([x.to_device(&gpu)?.to_dtype(dtype)?, x]),
                }
            };
            let name = |what: &str| format!("{what} {scheme:?}");
            for (dims, outputs) in [([2, 37, 96], 40), ([1, 3, 16], 7)] {
                let [there, here] = inputs(&dims)?;
                let layer = layer(&[outputs, dims[2]])?;
                let residual = noise(37, &[dims[0], dims[1], outputs], 1.0, dtype)?;
                let on = |x: &Tensor, dtype, device: &Device| {
                    Linear::load(dims[2], outputs, layer.on(dtype, device))?
                        .forward_add(x.to_device(device)?, &to(&residual, dtype, device)?)
                };
                let want = on(&here, DType::F32, &CPU)?;
                check(
                    &name("sum of a linear layer"),
                    dtype,
                    &on(&there, dtype, &gpu)?,
                    &want,
                    2.0,
                )?;
            }
            for (dims, outputs, kernel) in [
                ([2, 5, 7, 32], 24, 3),
                ([3, 4, 3, 16], 9, 3),
                ([2, 9, 4, 48], 40, 1),
            ] {
                let [batch, height, width, channels] = dims;
                let [there, here] = inputs(&dims)?;
                let layer = layer(&[outputs, channels, kernel, kernel])?;
                let residual = noise(38, &[batch, height, width, outputs], 1.0, dtype)?;
                let row = noise(39, &[batch, outputs], 1.0, dtype)?;
                let on = |x: &Tensor, dtype, device: &Device| {
                    let conv = Conv2d::load(channels, outputs, kernel, layer.on(dtype, device))?;
                    let x = x.to_device(device)?;
                    Ok::<_, candle_core::Error>([
                        conv.forward_add(x.clone(), || to(&residual, dtype, device))?,
                        conv.forward_add_by_image(x, || to(&row, dtype, device))?,
                    ])
                };
                let want = on(&here, DType::F32, &CPU)?;
                for (got, want) in on(&there, dtype, &gpu)?.iter().zip(&want) {
                    check(&name("sum of a convolution"), dtype, got, want, 3.0)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn cross_attentions() -> Result<()> {
    let gpu = gpu();
    // Batch, batch of keys, heads, width of a head, queries, keys, channels. The last two have no
    // kernel of their own.
    let cases = [
        [1, 1, 1, 64, 1, 1, 16],
        [4, 2, 3, 64, 130, 77, 96],
        [2, 1, 2, 64, 33, 154, 208],
        [2, 1, 3, 32, 20, 9, 96],
        [1, 1, 1, 128, 40, 77, 64],
    ];
    let each = [DType::F16, DType::BF16].map(|dtype| Scheme::ALL.map(|scheme| (dtype, scheme)));
    for (dtype, scheme) in each.into_iter().flatten() {
        for [batch, key_batch, heads, d, queries, keys, channels] in cases {
            let dims = [batch, queries, channels];
            let (x, x_there) = match scheme {
                Scheme::W8A8 => {
                    let [x, _] = int8_activations(28, &dims)?;
                    (x.clone(), x.to_device(&gpu)?)
                }
                Scheme::W8A16 => {
                    let x = noise(28, &dims, 1.0, dtype)?;
                    (x.clone(), to(&x, dtype, &gpu)?)
                }
            };
            let k = noise(30, &[key_batch, keys, heads * d], 1.0, dtype)?;
            let v = noise(31, &[key_batch, keys, heads * d], 1.0, dtype)?;
            let layer = Layer::int8(32, &[heads * d, channels], scheme, dtype)?.0;
            let layer = layer
                .into_iter()
                .map(|(name, t)| (format!("to_q.{name}"), t));
            let layer = Layer(layer.collect());
            let to_q = |dtype, device: &Device| {
                Linear::load_no_bias(channels, heads * d, layer.on(dtype, device).pp("to_q"))
            };
            let [k_there, v_there] = [&k, &v].map(|x| to(x, dtype, &gpu));
            let (k_there, v_there) = (k_there?, v_there?);
            let there = to_q(dtype, &gpu)?;
            let on_gpu = || cross_attention(&x_there, &there, &k_there, &v_there, heads);
            let q = to_q(DType::F32, &CPU)?.forward(&x)?;
            let want = attention(&q, &k, &v, heads, Mask::None)?;
            let name = format!("{} cross-attention", scheme.name());
            check(&name, dtype, &on_gpu()?, &want, 6.0)?;
            // A probe is still told of the projection.
            let told = Arc::new(AtomicUsize::new(0));
            let into = told.clone();
            let see = move |call: &probe::Call| {
                // Other tests run layers too.
                into.fetch_add(usize::from(call.name == "to_q"), Relaxed);
                Ok(())
            };
            let watched = {
                let _alone = WATCHED.write();
                probe::watch(Box::new(see), on_gpu)?
            };
            check(&format!("watched {name}"), dtype, &watched, &want, 6.0)?;
            assert_eq!(told.load(Relaxed), 1);
        }
    }
    Ok(())
}

#[test]
fn value_by_value_and_movements() -> Result<()> {
    let gpu = gpu();
    for dtype in TYPES {
        let x = noise(12, &[2, 3, 5, 48], 2.0, dtype)?;
        let y = noise(13, &[2, 3, 5, 48], 1.0, dtype)?;
        let row = noise(14, &[2, 48], 1.0, dtype)?;
        let table = noise(15, &[3, 5, 48], 1.0, dtype)?;
        type Case<'a> = (
            &'a str,
            &'a dyn Fn(&dyn Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor>,
        );
        let cases: [Case; 13] = [
            ("silu", &|on| activation(&on(&x)?, Activation::Silu)),
            ("gelu", &|on| activation(&on(&x)?, Activation::Gelu)),
            ("quick gelu", &|on| {
                activation(&on(&x)?, Activation::QuickGelu)
            }),
            ("geglu", &|on| geglu(Reads::Float, &on(&x)?)),
            ("odd geglu", &|on| {
                geglu(Reads::Float, &on(&x)?.narrow(3, 0, 10)?)
            }),
            ("add", &|on| add(&on(&x)?, &on(&y)?)),
            ("add by image", &|on| add_by_image(&on(&x)?, &on(&row)?)),
            ("add to each", &|on| add_to_each(&on(&x)?, &on(&table)?)),
            ("concat", &|on| {
                concat_channels(&on(&x)?, &on(&y)?.narrow(3, 1, 7)?)
            }),
            ("twice as large", &|on| upsample_nearest(&on(&x)?, 6, 10)),
            ("larger", &|on| upsample_nearest(&on(&x)?, 5, 13)),
            ("channels first", &|on| {
                let x = on(&x)?;
                to_channels_first(&x, x.dtype())
            }),
            ("channels last", &|on| {
                let x = on(&x)?;
                to_channels_last(&x, x.dtype())
            }),
        ];
        for (what, case) in cases {
            let got = case(&|x| to(x, dtype, &gpu))?;
            let want = case(&|x| Ok(x.clone()))?;
            check(what, dtype, &got, &want, 2.0)?;
        }
        let words = Layer(HashMap::from([(
            "weight".into(),
            noise(16, &[30, 24], 1.0, dtype)?,
        )]));
        let on = |dtype, device: &Device| {
            let ids = Tensor::new(&[[3u32, 29, 0], [7, 7, 1]], device)?;
            Embedding::load(30, 24, words.on(dtype, device))?.forward(&ids)
        };
        check(
            "embedding",
            dtype,
            &on(dtype, &gpu)?,
            &on(DType::F32, &CPU)?,
            0.0,
        )?;
    }
    Ok(())
}

#[test]
fn values_that_are_not_finite_are_found() -> Result<()> {
    let gpu = gpu();
    for dtype in TYPES {
        for count in [1, 7, 8, 1000, 4099] {
            let sound = noise(17, &[count], 1.0, dtype)?.to_vec1::<f32>()?;
            let on = |values: &[f32], device: &Device| {
                seen(&to(&Tensor::new(values, &CPU)?, dtype, device)?)
            };
            assert_eq!(on(&sound, &gpu)?, on(&sound, &CPU)?, "{dtype:?} {count}");
            assert_eq!(on(&sound, &gpu)?.bad, 0, "{dtype:?} {count}");
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, count / 2, count - 1] {
                    let mut values = sound.clone();
                    values[at] = bad;
                    let got = on(&values, &gpu)?;
                    assert_eq!(got, on(&values, &CPU)?, "{dtype:?} {count} {bad} at {at}");
                    assert_eq!(got.bad, 1, "{dtype:?} {count} {bad} at {at}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn shapes_that_do_not_fit_are_errors() -> Result<()> {
    let gpu = gpu();
    let x = Tensor::zeros((1, 4, 4, 32), DType::F16, &gpu)?;
    let layer = Layer::float(18, &[8, 16, 3, 3], DType::F16)?;
    let conv = Conv2d::load(16, 8, 3, layer.on(DType::F16, &gpu))?;
    assert!(conv.forward(&x).is_err());
    let q = Tensor::zeros((1, 4, 64), DType::F16, &gpu)?;
    let k = Tensor::zeros((1, 4, 32), DType::F16, &gpu)?;
    assert!(attention(&q, &k, &k, 1, Mask::None).is_err());
    assert!(geglu(Reads::Float, &Tensor::zeros((2, 5), DType::F16, &gpu)?).is_err());
    Ok(())
}

/// The embedded model's image at 64×64 after two guided steps.
fn image(device: &Device, precision: Precision, change: &dyn Fn(&mut Request)) -> RgbImage {
    let checkpoint = Checkpoint::micro().expect("it is in the program");
    let pipeline = Pipeline::load(&checkpoint, precision, device, &mut ()).expect("a sound model");
    let size = Size {
        height_px: 64,
        width_px: 64,
    };
    let mut request = Request::new("micro", "a red apple on a blue background", size, 2, 5.0);
    change(&mut request);
    let start = Start {
        latents: None,
        init_image: request.init_image.is_some().then(|| {
            RgbImage::from_fn(request.width_px as u32, request.height_px as u32, |x, y| {
                image::Rgb([4 * x as u8, 4 * y as u8, 99])
            })
        }),
    };
    let images = pipeline.generate(&request, start, &mut ());
    images.expect("a sound request").swap_remove(0)
}

fn graphed(device: &Device, precision: Precision, cuda_graph: bool) -> Pipeline {
    let checkpoint = Checkpoint::micro().expect("it is in the program");
    Pipeline::load(&checkpoint, precision, device, &mut ())
        .and_then(|pipeline| pipeline.with_cuda_graph(cuda_graph))
        .expect("a sound model")
}

/// Fresh noise in every step, and the guidance's contrast taken back.
fn fresh(request: &mut Request) {
    request.scheduler = Some(SchedulerKind::EulerAncestral);
    (request.steps, request.guidance_rescale) = (3, 0.7);
}

/// Steps that look back.
fn multistep(request: &mut Request) {
    request.scheduler = Some(SchedulerKind::DpmSolver2M);
    (request.steps, request.count) = (3, 2);
}

/// Its image at 64×64 after guided steps, of which the second is captured.
fn stepped(pipeline: &Pipeline, steps: usize) -> darkroom::error::Result<RgbImage> {
    sampled(pipeline, steps, &|_| {})
}

fn sampled(
    pipeline: &Pipeline,
    steps: usize,
    change: &dyn Fn(&mut Request),
) -> darkroom::error::Result<RgbImage> {
    let size = Size {
        height_px: 64,
        width_px: 64,
    };
    let mut request = Request::new("micro", "a red apple", size, steps, 5.0);
    change(&mut request);
    let mut images = pipeline.generate(&request, Start::default(), &mut ())?;
    Ok(images.swap_remove(0))
}

/// Two devices do not wait for each other, be it on one GPU.
#[test]
fn noise_may_lie_on_another_device() -> Result<()> {
    let _unwatched = WATCHED.read();
    let gpu = gpu();
    let pipeline = graphed(&gpu, Precision::all(Dtype::F16), false);
    let size = Size {
        height_px: 64,
        width_px: 64,
    };
    let request = Request::new("micro", "a red apple", size, 1, 1.0);
    let here = noise(8, &[1, 4, 8, 8], 1.0, DType::F32)?;
    let [first, others @ ..] = [CPU, gpu, open_gpu()].map(|device| {
        let start = Start {
            latents: Some(here.to_device(&device).expect("little")),
            ..Start::default()
        };
        pipeline.generate(&request, start, &mut ()).expect("sound")
    });
    assert!(others.iter().all(|images| *images == first));
    Ok(())
}

#[test]
fn a_cuda_graph_draws_the_same_image() {
    let _unwatched = WATCHED.read();
    let gpu = gpu();
    let w8a8 = Precision {
        quant: Some(Scheme::W8A8),
        ..Precision::all(Dtype::F16)
    };
    for (precision, steps) in [
        (Precision::all(Dtype::F16), 3),
        (w8a8, 3),
        // All of it candle's: slow where it is emulated.
        (Precision::all(Dtype::F32), 2),
    ] {
        let [plain, graph] = [false, true]
            .map(|on| stepped(&graphed(&gpu, precision, on), steps).expect("an image"));
        assert!(
            plain == graph,
            "{precision}: {:.1} dB",
            psnr(&plain, &graph)
        );
    }
    // With noise of its own for each step but the last; from the step before, in a batch; without guidance here.
    let [plain, graph] = [false, true].map(|on| graphed(&gpu, Precision::all(Dtype::F16), on));
    let changes: [&dyn Fn(&mut Request); 3] =
        [&fresh, &multistep, &|request| request.guidance = 1.0];
    for (at, change) in changes.into_iter().enumerate() {
        let [plain, graph] =
            [&plain, &graph].map(|pipeline| sampled(pipeline, 3, change).expect("an image"));
        assert!(plain == graph, "{at}: {:.1} dB", psnr(&plain, &graph));
    }
    let checkpoint = Checkpoint::micro().expect("it is in the program");
    let cpu = Pipeline::load(&checkpoint, Precision::default(), &CPU, &mut ());
    let refused = cpu.and_then(|cpu| cpu.with_cuda_graph(true)).map(drop);
    let refused = refused.expect_err("no GPU").to_string();
    assert!(
        refused.contains("device cpu: --cuda-graph captures"),
        "{refused}"
    );
}

/// What a graph cannot hold ends the run with an error, not with a hang or another image; the next run is sound.
#[test]
fn what_a_cuda_graph_cannot_hold_is_told() {
    let _alone = WATCHED.write();
    type Look = fn(&Tensor, &mut Vec<Tensor>) -> Result<()>;
    let captured = "a step cannot be captured as a CUDA graph";
    let forbidden: [(&[&str], Look); 4] = [
        (&[captured, "CUDA_ERROR_STREAM_CAPTURE"], |x, _| {
            x.device().synchronize()
        }),
        (&[captured, "CUDA_ERROR_STREAM_CAPTURE"], |x, _| {
            x.to_device(&CPU).map(drop)
        }),
        // More of the host's than a graph keeps.
        (
            &[captured, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"],
            |x, _| (0..5u8).try_for_each(|i| Tensor::new(&[i; 1 << 16], x.device()).map(drop)),
        ),
        // Its memory would be written by every launch.
        (&[captured, "a tensor of the step was kept"], |x, kept| {
            kept.push(x.clone());
            Ok(())
        }),
    ];
    let gpu = gpu();
    let pipeline = graphed(&gpu, Precision::all(Dtype::F16), true);
    let sound = stepped(&pipeline, 3).expect("an image");
    for (at, (wanted, look)) in forbidden.into_iter().enumerate() {
        if at > 0 {
            assert!(stepped(&pipeline, 3).expect("an image") == sound, "{at}");
        }
        let mut kept = Vec::new();
        let told = looked_at(&pipeline, &gpu, move |x| look(x, &mut kept)).expect_err(captured);
        let told = told.to_string();
        assert!(wanted.iter().all(|words| told.contains(words)), "{told}");
    }
    // Another device of the same GPU may be opened and closed meanwhile, which waits for all of it.
    let another = Arc::new(Mutex::new(None));
    let opening = another.clone();
    let drawn = looked_at(&pipeline, &gpu, move |_| {
        let open = thread::spawn(|| drop(open_gpu()));
        *opening.lock().expect("nobody panicked") = Some(open);
        thread::sleep(Duration::from_millis(300));
        Ok(())
    });
    drawn.expect("an image");
    let opened = another.lock().expect("nobody panicked").take();
    let opened = opened.expect("begun in the second step");
    opened.join().expect("a device");
}

/// Draws in three steps, and looks at a layer's output in the second, which is captured.
fn looked_at(
    pipeline: &Pipeline,
    gpu: &Device,
    mut look: impl FnMut(&Tensor) -> Result<()> + Send + 'static,
) -> darkroom::error::Result<RgbImage> {
    let (mut steps, own) = (0, gpu.clone());
    let probe = move |call: &Call| {
        // Other tests' layers are seen, too.
        if call.name != "conv_in" || !call.output.device().same_device(&own) {
            return Ok(());
        }
        steps += 1;
        match steps {
            2 => look(call.output),
            _ => Ok(()),
        }
    };
    watch(Box::new(probe), || stepped(pipeline, 3))
}

/// Peak signal-to-noise ratio in dB, at most 99.
fn psnr(a: &RgbImage, b: &RgbImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions());
    let squares = a
        .iter()
        .zip(b.iter())
        .map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
    let mean = squares.sum::<f64>() / a.len() as f64;
    (10.0 * (255.0 * 255.0 / mean).log10()).min(99.0)
}

#[test]
fn images_are_those_of_the_cpu() {
    let _unwatched = WATCHED.read();
    let gpu = gpu();
    let float = Precision::default();
    let tiled = |request: &mut Request| {
        (request.height_px, request.width_px) = (64, 192);
        (request.steps, request.guidance, request.vae_tile) = (1, 1.0, Some(16));
    };
    let img2img = |request: &mut Request| {
        request.init_image = Some(InitImage {
            path: "init.png".into(),
            sha256: String::new(),
            strength: 0.5,
        });
    };
    let quantised = |dtype, scheme| Precision {
        quant: Some(scheme),
        ..Precision::all(dtype)
    };
    // Each against the CPU's own image: in float32, or with the same int8 weights. Measured on the
    // stand-in: f32 83.0 dB, f16 54.8, bf16 40.7, w8a8 35.8, w8a16 55.0, tiled 63.5, from an image 61.5,
    // euler_a 55.4, dpm++2m 49.2; thresholds are a few dB below.
    let plain: &dyn Fn(&mut Request) = &|_| {};
    let cases = [
        ("f32", Precision::all(Dtype::F32), float, plain, 75.0),
        ("f16", Precision::all(Dtype::F16), float, plain, 50.0),
        ("bf16", Precision::all(Dtype::Bf16), float, plain, 36.0),
        (
            "w8a8",
            quantised(Dtype::F16, Scheme::W8A8),
            quantised(Dtype::F32, Scheme::W8A8),
            plain,
            33.0,
        ),
        (
            "w8a16",
            quantised(Dtype::F16, Scheme::W8A16),
            quantised(Dtype::F32, Scheme::W8A16),
            plain,
            50.0,
        ),
        ("f16 tiled", Precision::all(Dtype::F16), float, &tiled, 55.0),
        (
            "f16 from an image",
            Precision::all(Dtype::F16),
            float,
            &img2img,
            55.0,
        ),
        (
            "f16 euler_a",
            Precision::all(Dtype::F16),
            float,
            &fresh,
            40.0,
        ),
        (
            "f16 dpm++2m",
            Precision::all(Dtype::F16),
            float,
            &multistep,
            40.0,
        ),
    ];
    let mut low = Vec::new();
    for (name, precision, reference, change, least) in cases {
        let ratio = psnr(
            &image(&gpu, precision, change),
            &image(&CPU, reference, change),
        );
        println!("{name}: {ratio:.1} dB");
        if ratio < least {
            low.push(format!("{name}: {ratio:.1} dB, at least {least} wanted"));
        }
    }
    assert!(low.is_empty(), "{low:?}");
}

/// A VAE that overflows in f16, but does not say so, is run in bf16.
#[test]
fn a_vae_that_overflows_is_run_in_bf16() {
    let _unwatched = WATCHED.read();
    /// Stages that were run once more, and in what.
    #[derive(Default)]
    struct Retries(Vec<(Stage, DType)>);

    impl Observer for Retries {
        fn on(&mut self, event: Event<'_>) -> darkroom::error::Result<()> {
            if let Event::Retry { stage, dtype } = event {
                self.0.push((stage, dtype));
            }
            Ok(())
        }
    }

    let gpu = gpu();
    let model = model::Model::base();
    let weights = "vae/diffusion_pytorch_model.safetensors";
    model.poison(weights, "decoder.mid_block.resnets.0.conv1.bias", 1e6);
    model.edit_json("vae/config.json", |config| {
        config["force_upcast"] = false.into();
    });
    let draw = |vae: Dtype, tile: Option<usize>| {
        let checkpoint = Checkpoint::open(model.path()).expect("a sound folder");
        let precision = Precision {
            vae,
            ..Precision::all(Dtype::F16)
        };
        let pipeline = Pipeline::load(&checkpoint, precision, &gpu, &mut ()).expect("a model");
        let size = Size {
            height_px: 64,
            width_px: 256,
        };
        let mut request = Request::new("base", "a red apple", size, 1, 1.0);
        request.vae_tile = tile;
        let mut retries = Retries::default();
        let images = pipeline.generate(&request, Start::default(), &mut retries);
        (images.expect("numbers"), retries.0)
    };
    for tile in [None, Some(16)] {
        let (want, retries) = draw(Dtype::Bf16, tile);
        assert!(retries.is_empty());
        let (got, retries) = draw(Dtype::F16, tile);
        assert_eq!(retries, [(Stage::VaeDecode, DType::BF16)]);
        assert!(got == want, "tiles of {tile:?}");
    }
}

/// The program's own pictures, with its own defaults: float16 on a GPU, float32 on the CPU.
#[test]
fn the_program_draws_what_it_draws_on_the_cpu() {
    let folder = tempfile::tempdir().expect("a folder");
    // Where it was not built here, scripts/gpu-acceptance says where it is.
    let program = std::env::var("DARKROOM").unwrap_or(env!("CARGO_BIN_EXE_darkroom").into());
    let draw = |device: &str, options: &[&str]| {
        let path = folder
            .path()
            .join(format!("{device}{}.png", options.concat()));
        let done = std::process::Command::new(&program)
            .args([
                "generate",
                "a red apple on a blue background",
                "--device",
                device,
            ])
            .args(["--width", "64", "--height", "64", "--steps", "2", "-o"])
            .arg(&path)
            .args(options)
            .output()
            .expect("the program starts");
        let told = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{device} {options:?}: {told}");
        image::open(&path).expect("a picture").into_rgb8()
    };
    // Measured on the stand-in: 55.1 and 36.4 dB.
    for (name, options, least) in [
        ("generate", &[][..], 50.0),
        ("generate --quant w8a8", &["--quant", "w8a8"], 33.0),
    ] {
        let ratio = psnr(&draw("cuda", options), &draw("cpu", options));
        println!("{name}: {ratio:.1} dB");
        assert!(
            ratio >= least,
            "{name}: {ratio:.1} dB, at least {least} wanted"
        );
    }
}
