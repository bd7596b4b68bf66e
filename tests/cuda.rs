//! Every operation on a CUDA device against its CPU path in float32, over small, odd and extreme shapes;
//! then whole images. Needs a device; scripts/cuda-emulated gives it a stand-in.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use darkroom::device::DeviceChoice;
use darkroom::finite::check_finite;
use darkroom::observe::Stage;
use darkroom::ops::int8::{LIMIT, Scheme};
use darkroom::ops::probe::{Call, watch};
use darkroom::ops::{
    Activation, Conv2d, Embedding, GroupNorm, LayerNorm, Linear, Mask, Padding, Reads, activation,
    add, add_by_image, add_to_each, attention, concat_channels, geglu, to_channels_first,
    to_channels_last, upsample_nearest,
};

use darkroom::pipeline::{Pipeline, Start};
use darkroom::request::{Dtype, InitImage, Precision, Request, Size};
use darkroom::weights::checkpoint::Checkpoint;
use image::RgbImage;

/// The launcher's own tests, here since the library's would compile all of it once more.
#[path = "../src/cuda/launch.rs"]
#[expect(dead_code, reason = "compiled for its tests only")]
mod launch;

const CPU: Device = Device::Cpu;
const TYPES: [DType; 3] = [DType::F16, DType::BF16, DType::F32];

fn gpu() -> Device {
    DeviceChoice::Cuda(0).open().expect("a device to test on")
}

/// Normal noise that `dtype` can hold, as float32.
fn noise(seed: u64, shape: &[usize], scale: f64, dtype: DType) -> Result<Tensor> {
    use darkroom::rng::{NoiseSource, TorchCpu};
    let values = TorchCpu::new(seed).randn(shape.iter().product());
    let noise = (Tensor::from_vec(values, shape, &CPU)? * scale)?;
    noise.to_dtype(dtype)?.to_dtype(DType::F32)
}

/// Largest difference over the reference's root mean square, which a rounding of `dtype` explains.
fn check(what: &str, dtype: DType, got: &Tensor, want: &Tensor, slack: f64) -> Result<()> {
    assert_eq!(got.dims(), want.dims(), "{what} {dtype:?}");
    assert_eq!(got.dtype(), dtype, "{what}");
    let got = got.to_device(&CPU)?.to_dtype(DType::F32)?.flatten_all()?;
    let want = want.flatten_all()?;
    let square = |t: &Tensor| t.sqr()?.mean_all()?.to_scalar::<f32>();
    let error = f64::from(square(&(&got - &want)?)?.sqrt());
    let rounding = match dtype {
        DType::F16 => 1.0 / 2048.0,
        DType::BF16 => 1.0 / 256.0,
        _ => 1e-6,
    };
    let allowed = slack * rounding * f64::from(square(&want)?.sqrt());
    assert!(
        error <= allowed,
        "{what} {dtype:?} {:?}: error {error:e}, allowed {allowed:e}",
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
                    true => 2e-2 * f64::from(1 << 20),
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
            let found = |values: &[f32]| {
                let x = to(&Tensor::new(values, &CPU)?, dtype, &gpu)?;
                Ok::<_, candle_core::Error>(check_finite(Stage::Denoise, "x", &x).is_err())
            };
            assert!(!found(&sound)?, "{dtype:?} {count}");
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, count / 2, count - 1] {
                    let mut values = sound.clone();
                    values[at] = bad;
                    assert!(found(&values)?, "{dtype:?} {count} {bad} at {at}");
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

/// Its image at 64×64 after guided steps, of which the second is captured.
fn stepped(pipeline: &Pipeline, steps: usize) -> darkroom::error::Result<RgbImage> {
    let size = Size {
        height_px: 64,
        width_px: 64,
    };
    let request = Request::new("micro", "a red apple", size, steps, 5.0);
    let mut images = pipeline.generate(&request, Start::default(), &mut ())?;
    Ok(images.swap_remove(0))
}

#[test]
fn a_cuda_graph_draws_the_same_image() {
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
    type Look = fn(&Tensor, &mut Vec<Tensor>) -> Result<()>;
    let captured = "a step cannot be captured as a CUDA graph";
    let forbidden: [(&[&str], Look); 3] = [
        (&[captured, "CUDA_ERROR_STREAM_CAPTURE"], |x, _| {
            x.device().synchronize()
        }),
        (
            &[captured, "host/device copies are not permitted"],
            |x, _| x.to_device(&CPU).map(drop),
        ),
        // A tensor that outlives the capture: its memory would be allocated by each launch and freed by none.
        (&["CUDA_ERROR"], |x, kept| {
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
        // In the first step all of it may be done; the second is captured.
        let (mut steps, mut kept, own) = (0, Vec::new(), gpu.clone());
        let probe = move |call: &Call| {
            // Other tests' layers are seen, too.
            if call.name != "conv_in" || !call.output.device().same_device(&own) {
                return Ok(());
            }
            steps += 1;
            match steps {
                2 => look(call.output, &mut kept),
                _ => Ok(()),
            }
        };
        let told = watch(Box::new(probe), || stepped(&pipeline, 3)).expect_err(captured);
        let told = told.to_string();
        assert!(wanted.iter().all(|words| told.contains(words)), "{told}");
    }
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
    // stand-in: f32 89.0 dB, f16 57.0, bf16 43.3, w8a8 35.0, w8a16 56.3, tiled 64.2, from an image 64.5;
    // thresholds are a few dB below.
    let plain: &dyn Fn(&mut Request) = &|_| {};
    let cases = [
        ("f32", Precision::all(Dtype::F32), float, plain, 75.0),
        ("f16", Precision::all(Dtype::F16), float, plain, 50.0),
        ("bf16", Precision::all(Dtype::Bf16), float, plain, 38.0),
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
    // Measured on the stand-in: 57.7 and 36.6 dB.
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
