//! Our UNet beside candle-transformers' `stable_diffusion` one: same shape, same weights, one run.
//!
//! candle's network has no `add_embedding` (pooled text and sizes), so ours is given zeros there and
//! the two compute the same function but for GEGLU's gelu, which candle approximates by tanh. The
//! difference of the outputs is printed, as a sign that the same work is compared.
//!
//! Both take turns; the ratio is of the fastest forwards, which a busy machine disturbs least. Our
//! network projects the text to keys and values once a run (`prepare`), candle's in every forward:
//! both ways of counting are printed.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use candle_transformers::models::stable_diffusion::unet_2d::{
    BlockConfig, UNet2DConditionModel, UNet2DConditionModelConfig,
};
use darkroom::config::UnetConfig;
use darkroom::rng::{NoiseSource, TorchCpu};
use darkroom::unet::Unet;
use darkroom::weights::folder::Folder;

const BATCH: usize = 2;
const TOKENS: usize = 77;
const CONTEXT_WIDTH: usize = 768;
const POOLED_WIDTH: usize = 256;
const TIME_ID_WIDTH: usize = 32;
const TIMESTEP: f64 = 481.0;
const REPEATS: usize = 7;

/// A shape that both can express: SDXL's layout, narrower.
struct Case {
    name: &'static str,
    /// Channels, attention heads and transformer depth of each level; depth 0 is no attention.
    levels: [(usize, usize, usize); 3],
    layers: usize,
}

const CASES: [Case; 2] = [
    Case {
        name: "micro",
        levels: [(64, 1, 0), (96, 3, 1), (128, 4, 2)],
        layers: 1,
    },
    Case {
        name: "mid",
        levels: [(128, 2, 0), (256, 4, 1), (512, 8, 2)],
        layers: 2,
    },
];

fn main() -> Result<()> {
    // `cargo test --benches` and `cargo bench -- --list` pass through here too.
    if !std::env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    println!(
        "UNet forward, float32, batch {BATCH}, {} threads, best of {REPEATS}; ms\n\
         {:6} {:>7} {:>9} {:>9} {:>9} {:>7} {:>13} {:>10}",
        rayon::current_num_threads(),
        "shape",
        "latents",
        "prepare",
        "forward",
        "candle",
        "ratio",
        "with prepare",
        "difference"
    );
    for case in &CASES {
        let (ours, theirs) = (case.ours()?, case.candles()?);
        for edge in [32, 64] {
            compare(case.name, &ours, &theirs, edge)?;
        }
    }
    Ok(())
}

/// Runs both in turns and prints one line.
fn compare(name: &str, ours: &Unet, theirs: &UNet2DConditionModel, edge: usize) -> Result<()> {
    let latents = seeded("latents", &Shape::from((BATCH, 4, edge, edge)))?;
    let context = seeded("context", &Shape::from((BATCH, TOKENS, CONTEXT_WIDTH)))?;
    let pooled = seeded("pooled", &Shape::from((BATCH, POOLED_WIDTH)))?;
    let time_ids = vec![vec![edge as f32 * 8.0; 6]; BATCH];

    let prepare = || ours.prepare(&context, &pooled, &time_ids, 1.0);
    let prepared = prepare()?;
    let forward = || ours.forward(&latents, TIMESTEP, &prepared);
    let candle = || theirs.forward(&latents, TIMESTEP, &context);
    let difference = relative_l2(&forward()?, &candle()?)?; // the first runs warm up, too

    let mut best = [Duration::MAX; 3];
    for _ in 0..REPEATS {
        let took = [timed(prepare)?, timed(forward)?, timed(candle)?];
        for (best, took) in best.iter_mut().zip(took) {
            *best = took.min(*best);
        }
    }
    let [prepare, forward, candle] = best.map(|time| time.as_secs_f64() * 1e3);
    println!(
        "{name:6} {:>7} {prepare:9.2} {forward:9.2} {candle:9.2} {:7.2} {:13.2} {difference:10.1e}",
        format!("{edge}x{edge}"),
        forward / candle,
        (prepare + forward) / candle,
    );
    Ok(())
}

fn timed<T, E>(run: impl FnOnce() -> Result<T, E>) -> Result<Duration, E> {
    let began = Instant::now();
    black_box(run()?);
    Ok(began.elapsed())
}

fn relative_l2(got: &Tensor, want: &Tensor) -> Result<f32> {
    let norm = |x: Tensor| x.sqr()?.sum_all()?.to_scalar::<f32>();
    Ok((norm((got - want)?)? / norm(want.clone())?).sqrt())
}

impl Case {
    fn ours(&self) -> Result<Unet> {
        let kind = |place, depth| match depth {
            0 => format!("{place}Block2D"),
            _ => format!("CrossAttn{place}Block2D"),
        };
        let kinds = |place| self.levels.map(|(_, _, depth)| kind(place, depth));
        let mut up_block_types = kinds("Up");
        up_block_types.reverse();
        let config = serde_json::json!({
            "in_channels": 4,
            "out_channels": 4,
            "act_fn": "silu",
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": TIME_ID_WIDTH,
            "projection_class_embeddings_input_dim": POOLED_WIDTH + 6 * TIME_ID_WIDTH,
            "block_out_channels": self.levels.map(|(channels, ..)| channels),
            "attention_head_dim": self.levels.map(|(_, heads, _)| heads),
            "transformer_layers_per_block": self.levels.map(|(.., depth)| depth.max(1)),
            "down_block_types": kinds("Down"),
            "up_block_types": up_block_types,
            "layers_per_block": self.layers,
            "cross_attention_dim": CONTEXT_WIDTH,
            "use_linear_projection": true,
        });
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("config.json"), config.to_string())?;
        let config = UnetConfig::load(&Folder::Disk(folder.path().to_owned()))?;
        Ok(Unet::load(config, Seeded::weights())?)
    }

    fn candles(&self) -> Result<UNet2DConditionModel> {
        let blocks = self.levels.map(|(out_channels, heads, depth)| BlockConfig {
            out_channels,
            use_cross_attn: (depth > 0).then_some(depth),
            attention_head_dim: heads,
        });
        let config = UNet2DConditionModelConfig {
            blocks: blocks.into(),
            layers_per_block: self.layers,
            cross_attention_dim: CONTEXT_WIDTH,
            use_linear_projection: true,
            ..Default::default()
        };
        let weights = Seeded::weights();
        Ok(UNet2DConditionModel::new(weights, 4, 4, false, config)?)
    }
}

/// Weights that follow from their names, so that both networks read the same ones.
struct Seeded;

impl Seeded {
    fn weights() -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(Self), DType::F32, Device::Cpu)
    }
}

impl SimpleBackend for Seeded {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        _: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let weight = seeded(name, &shape)?;
        match shape.dims() {
            _ if name.starts_with("add_embedding.") => Tensor::zeros(shape, DType::F32, device),
            // Norm weights around 1, biases around 0, matrices such that variance is kept.
            [_] if name.ends_with("weight") => weight.affine(0.1, 1.0),
            [_] => weight.affine(0.1, 0.0),
            [_, inputs @ ..] => {
                weight.affine(1.0 / (inputs.iter().product::<usize>() as f64).sqrt(), 0.0)
            }
            [] => candle_core::bail!("{name} has no dimension"),
        }
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("the shape of {name} is not known")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        !name.ends_with(darkroom::ops::OUTPUTS_LAST)
    }
}

/// Standard normal values that follow from `name`.
fn seeded(name: &str, shape: &Shape) -> candle_core::Result<Tensor> {
    // FNV-1a, by Fowler, Noll and Vo.
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let values = TorchCpu::new(seed).randn(shape.elem_count());
    Tensor::from_vec(values, shape.clone(), &Device::Cpu)
}
