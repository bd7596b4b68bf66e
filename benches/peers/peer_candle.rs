//! candle-transformers' own UNet, alone, on a checkpoint's weights: one of the peers of `compare.py`.
//!
//! `cargo bench --bench peer_candle -- UNET_FOLDER INPUTS OUTPUT WARMUP REPEAT` times its forward in
//! float32 and prints one line of JSON, as the other peers do. Its network has no `add_embedding`.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, safetensors};
use candle_nn::VarBuilder;
use candle_transformers::models::stable_diffusion::unet_2d::{
    BlockConfig, UNet2DConditionModel, UNet2DConditionModelConfig,
};
use serde::Deserialize;
use serde_json::json;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` and `cargo bench` of everything pass through here too.
    let [folder, inputs, output, warmup, repeat, ..] = arguments.as_slice() else {
        return Ok(());
    };
    let (warmup, repeat): (usize, usize) = (warmup.parse()?, repeat.parse()?);

    let began = Instant::now();
    let unet = load(Path::new(folder))?;
    let load_ms = began.elapsed().as_secs_f64() * 1e3;

    let inputs = safetensors::load(inputs, &Device::Cpu)?;
    let input = |name: &str| {
        inputs
            .get(name)
            .with_context(|| format!("no input `{name}`"))
    };
    let timestep = f64::from(input("timestep")?.to_vec1::<f32>()?[0]);
    let (sample, context) = (input("sample")?, input("context")?);
    let mut samples_ms = Vec::new();
    let mut last = None;
    for _ in 0..warmup + repeat {
        let began = Instant::now();
        last = Some(unet.forward(sample, timestep, context)?);
        samples_ms.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let Some(last) = last else {
        bail!("nothing to do: WARMUP and REPEAT are 0");
    };
    let edge = last.dim(3)?.to_string();
    safetensors::save(&[(edge, last)].into(), output)?;
    println!(
        "{}",
        json!({ "load_ms": load_ms, "samples_ms": samples_ms[warmup..] })
    );
    Ok(())
}

/// What candle's network can be told of diffusers' `config.json`.
#[derive(Deserialize)]
struct Config {
    block_out_channels: Vec<usize>,
    down_block_types: Vec<String>,
    transformer_layers_per_block: Vec<usize>,
    /// The number of heads, by its historical name, in both.
    attention_head_dim: Vec<usize>,
    layers_per_block: usize,
    cross_attention_dim: usize,
    use_linear_projection: bool,
}

fn load(folder: &Path) -> Result<UNet2DConditionModel> {
    let config: Config = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    let blocks = (0..config.block_out_channels.len()).map(|level| BlockConfig {
        out_channels: config.block_out_channels[level],
        use_cross_attn: config.down_block_types[level]
            .starts_with("CrossAttn")
            .then_some(config.transformer_layers_per_block[level]),
        attention_head_dim: config.attention_head_dim[level],
    });
    let weights = folder.join("diffusion_pytorch_model.safetensors");
    // SAFETY: nobody changes the file meanwhile.
    let weights =
        unsafe { VarBuilder::from_mmaped_safetensors(&[weights], DType::F32, &Device::Cpu)? };
    let config = UNet2DConditionModelConfig {
        blocks: blocks.collect(),
        layers_per_block: config.layers_per_block,
        cross_attention_dim: config.cross_attention_dim,
        use_linear_projection: config.use_linear_projection,
        ..Default::default()
    };
    Ok(UNet2DConditionModel::new(weights, 4, 4, false, config)?)
}
