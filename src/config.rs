//! Component configs, read from the checkpoint's own JSON.
//!
//! Each config parses everything that changes what the network computes, and refuses a setting this
//! engine does not run, by name. Keys that change nothing at inference (dropout, initialisers) are
//! ignored. Defaults for absent keys are the reference classes' own.

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::weights::folder::Folder;

/// The file that every component keeps its settings in.
pub const FILE: &str = "config.json";

/// One value for all levels, or one for each.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum PerLevel<T> {
    /// By level, from the finest. (Tried first: where T may itself be a list, a list is one by level.)
    Each(Vec<T>),
    /// The same everywhere.
    One(T),
}

impl<T: Clone> PerLevel<T> {
    fn expand(&self, levels: usize, key: &str) -> Result<Vec<T>, String> {
        match self {
            PerLevel::One(value) => Ok(vec![value.clone(); levels]),
            PerLevel::Each(values) if values.len() == levels => Ok(values.clone()),
            PerLevel::Each(values) => Err(format!(
                "`{key}` has {} entries for {levels} levels",
                values.len()
            )),
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(
    folder: &Folder,
    check: impl FnOnce(&T) -> Result<(), String>,
) -> Result<T> {
    let config: T = folder.json(FILE)?;
    check(&config).map_err(|problem| Error::checkpoint(folder.describe(FILE), problem))?;
    Ok(config)
}

/// `key` must be one of `known`.
fn one_of(key: &str, value: &str, known: &[&str]) -> Result<(), String> {
    if known.contains(&value) {
        return Ok(());
    }
    Err(format!(
        "`{key}` is `{value}`; supported: {}",
        known.join(", ")
    ))
}

/// Far above any size of these networks, far below where a product of a few would overflow.
const MAX_SIZE: usize = 1 << 20;

/// More would make a pixel's worth of latents wider than any image.
const MAX_LEVELS: usize = 16;

/// Sizes must be from 1 to [`MAX_SIZE`].
fn sizes(values: &[(&str, usize)]) -> Result<(), String> {
    match values.iter().find(|(_, v)| !(1..=MAX_SIZE).contains(v)) {
        Some((key, value)) => Err(format!("`{key}` is {value}, not from 1 to {MAX_SIZE}")),
        None => Ok(()),
    }
}

/// The channels of each level, from 1 to [`MAX_LEVELS`] levels.
fn levels(channels: &[usize]) -> Result<(), String> {
    if !(1..=MAX_LEVELS).contains(&channels.len()) {
        return Err(format!(
            "`block_out_channels` has {} levels, not from 1 to {MAX_LEVELS}",
            channels.len()
        ));
    }
    channels
        .iter()
        .try_for_each(|&width| sizes(&[("block_out_channels", width)]))
}

fn above_zero(key: &str, value: f64) -> Result<(), String> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(format!("`{key}` is {value}, not above 0"))
}

fn divides(key: &str, divisor: usize, of: &str, value: usize) -> Result<(), String> {
    if divisor > 0 && value.is_multiple_of(divisor) {
        return Ok(());
    }
    Err(format!("`{key}` {divisor} does not divide {of} {value}"))
}

/// A CLIP text encoder (transformers, `CLIPTextConfig`).
#[derive(Clone, Debug, Deserialize)]
pub struct ClipConfig {
    /// Entries of the token table.
    #[serde(default = "ClipConfig::vocab_size")]
    pub vocab_size: usize,
    /// Width of a hidden state.
    #[serde(default = "ClipConfig::hidden_size")]
    pub hidden_size: usize,
    /// Width inside the feed-forward network.
    #[serde(default = "ClipConfig::intermediate_size")]
    pub intermediate_size: usize,
    /// Width of the pooled projection.
    #[serde(default = "ClipConfig::hidden_size")]
    pub projection_dim: usize,
    /// Layers.
    #[serde(default = "ClipConfig::num_hidden_layers")]
    pub num_hidden_layers: usize,
    /// Attention heads.
    #[serde(default = "ClipConfig::num_attention_heads")]
    pub num_attention_heads: usize,
    /// Positions, 77.
    #[serde(default = "ClipConfig::max_position_embeddings")]
    pub max_position_embeddings: usize,
    /// `quick_gelu` or `gelu`.
    #[serde(default = "ClipConfig::hidden_act")]
    pub hidden_act: String,
    /// Of the layer norms.
    #[serde(default = "ClipConfig::layer_norm_eps")]
    pub layer_norm_eps: f64,
    /// The token whose row is pooled; 2 in old files, where it means the largest id.
    #[serde(default = "ClipConfig::eos_token_id")]
    pub eos_token_id: u32,
}

impl ClipConfig {
    fn vocab_size() -> usize {
        49408
    }
    fn hidden_size() -> usize {
        512
    }
    fn intermediate_size() -> usize {
        2048
    }
    fn num_hidden_layers() -> usize {
        12
    }
    fn num_attention_heads() -> usize {
        8
    }
    fn max_position_embeddings() -> usize {
        77
    }
    fn hidden_act() -> String {
        "quick_gelu".into()
    }
    fn layer_norm_eps() -> f64 {
        1e-5
    }
    fn eos_token_id() -> u32 {
        49407
    }

    /// Reads and checks a text encoder's config.
    pub fn load(folder: &Folder) -> Result<Self> {
        read(folder, |c: &Self| {
            sizes(&[
                ("vocab_size", c.vocab_size),
                ("hidden_size", c.hidden_size),
                ("intermediate_size", c.intermediate_size),
                ("projection_dim", c.projection_dim),
                ("num_hidden_layers", c.num_hidden_layers),
                ("max_position_embeddings", c.max_position_embeddings),
            ])?;
            above_zero("layer_norm_eps", c.layer_norm_eps)?;
            one_of("hidden_act", &c.hidden_act, &["quick_gelu", "gelu"])?;
            divides(
                "num_attention_heads",
                c.num_attention_heads,
                "`hidden_size`",
                c.hidden_size,
            )
        })
    }
}

/// Transformer blocks at a level: the same number in each of its layers, or one for each.
type Depth = PerLevel<usize>;

/// The UNet (diffusers, `UNet2DConditionModel`).
#[derive(Clone, Debug, Deserialize)]
struct UnetFile {
    sample_size: Option<PerLevel<usize>>,
    #[serde(default = "four")]
    in_channels: usize,
    #[serde(default = "four")]
    out_channels: usize,
    #[serde(default)]
    center_input_sample: bool,
    #[serde(default = "yes")]
    flip_sin_to_cos: bool,
    #[serde(default)]
    freq_shift: f64,
    down_block_types: Vec<String>,
    #[serde(default = "UnetFile::mid_block_type")]
    mid_block_type: Option<String>,
    up_block_types: Vec<String>,
    only_cross_attention: Option<PerLevel<bool>>,
    mid_block_only_cross_attention: Option<bool>,
    block_out_channels: Vec<usize>,
    #[serde(default = "UnetFile::layers_per_block")]
    layers_per_block: PerLevel<usize>,
    #[serde(default = "UnetFile::one_usize")]
    downsample_padding: usize,
    #[serde(default = "UnetFile::one")]
    mid_block_scale_factor: f64,
    #[serde(default = "silu")]
    act_fn: String,
    #[serde(default = "UnetFile::norm_num_groups")]
    norm_num_groups: Option<usize>,
    #[serde(default = "UnetFile::norm_eps")]
    norm_eps: f64,
    #[serde(default = "UnetFile::cross_attention_dim")]
    cross_attention_dim: PerLevel<usize>,
    #[serde(default = "UnetFile::depth")]
    transformer_layers_per_block: PerLevel<Depth>,
    reverse_transformer_layers_per_block: Option<Vec<Depth>>,
    encoder_hid_dim_type: Option<String>,
    #[serde(default = "UnetFile::attention_head_dim")]
    attention_head_dim: PerLevel<usize>,
    num_attention_heads: Option<PerLevel<usize>>,
    #[serde(default)]
    dual_cross_attention: bool,
    #[serde(default)]
    use_linear_projection: bool,
    class_embed_type: Option<String>,
    addition_embed_type: Option<String>,
    addition_time_embed_dim: Option<usize>,
    num_class_embeds: Option<usize>,
    #[serde(default = "UnetFile::default_name")]
    resnet_time_scale_shift: String,
    #[serde(default)]
    resnet_skip_time_act: bool,
    #[serde(default = "UnetFile::positional")]
    time_embedding_type: String,
    time_embedding_dim: Option<usize>,
    time_embedding_act_fn: Option<String>,
    timestep_post_act: Option<String>,
    time_cond_proj_dim: Option<usize>,
    #[serde(default = "UnetFile::three")]
    conv_in_kernel: usize,
    #[serde(default = "UnetFile::three")]
    conv_out_kernel: usize,
    projection_class_embeddings_input_dim: Option<usize>,
    #[serde(default = "UnetFile::default_name")]
    attention_type: String,
    cross_attention_norm: Option<String>,
}

fn four() -> usize {
    4
}
fn yes() -> bool {
    true
}
fn silu() -> String {
    "silu".into()
}

impl UnetFile {
    fn mid_block_type() -> Option<String> {
        Some("UNetMidBlock2DCrossAttn".into())
    }
    fn layers_per_block() -> PerLevel<usize> {
        PerLevel::One(2)
    }
    fn one() -> f64 {
        1.0
    }
    fn one_usize() -> usize {
        1
    }
    fn three() -> usize {
        3
    }
    fn norm_num_groups() -> Option<usize> {
        Some(32)
    }
    fn norm_eps() -> f64 {
        1e-5
    }
    fn cross_attention_dim() -> PerLevel<usize> {
        PerLevel::One(1280)
    }
    fn depth() -> PerLevel<Depth> {
        PerLevel::One(PerLevel::One(1))
    }
    fn attention_head_dim() -> PerLevel<usize> {
        PerLevel::One(8)
    }
    fn default_name() -> String {
        "default".into()
    }
    fn positional() -> String {
        "positional".into()
    }
}

/// One level's transformers, or the mid block's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransformerConfig {
    /// Attention heads.
    pub heads: usize,
    /// Width of the context that cross-attention reads.
    pub context_width: usize,
    /// Transformer blocks in each of the level's layers.
    pub depths: Vec<usize>,
}

/// One level of the UNet's way down or up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelConfig {
    /// Channels that it gives.
    pub channels: usize,
    /// Residual blocks.
    pub layers: usize,
    /// Its transformers, if it has attention.
    pub transformer: Option<TransformerConfig>,
}

/// The UNet's shape, level by level.
#[derive(Clone, Debug)]
pub struct UnetConfig {
    /// Latent height and width that it was made for, where the file says so.
    pub sample_size: Option<[usize; 2]>,
    /// Latent channels in.
    pub in_channels: usize,
    /// Latent channels out.
    pub out_channels: usize,
    /// Cosines before sines in embeddings.
    pub flip_sin_to_cos: bool,
    /// Frequency shift of embeddings.
    pub freq_shift: f64,
    /// Levels on the way down, from the finest.
    pub down: Vec<LevelConfig>,
    /// The mid block: `None` if there is none; its transformer may be absent too.
    pub mid: Option<Option<TransformerConfig>>,
    /// Levels on the way up, from the coarsest.
    pub up: Vec<LevelConfig>,
    /// Zeros around an image before it is halved; 0 puts one row and column below and to the right.
    pub downsample_padding: usize,
    /// Divides the mid block's residual sums. (`resnet_out_scale_factor` is for block types that
    /// SDXL has not: the reference ignores it in these.)
    pub mid_block_scale_factor: f64,
    /// Groups of all group norms.
    pub norm_num_groups: usize,
    /// Eps of the residual blocks' norms.
    pub norm_eps: f64,
    /// Transformers project in and out by linear layers, not 1×1 convolutions.
    pub use_linear_projection: bool,
    /// Width of the time embedding.
    pub time_embedding_width: usize,
    /// Width of an embedded guidance scale (distilled models), if the network takes one.
    pub time_cond_proj_dim: Option<usize>,
    /// Width of each embedded time id.
    pub addition_time_embed_dim: usize,
    /// Pooled text ‖ embedded time ids.
    pub projection_class_embeddings_input_dim: usize,
    /// Kernel of the first convolution.
    pub conv_in_kernel: usize,
    /// Kernel of the last convolution.
    pub conv_out_kernel: usize,
}

impl UnetConfig {
    /// Reads and checks the UNet's config.
    pub fn load(folder: &Folder) -> Result<Self> {
        let file: UnetFile = read(folder, UnetFile::check)?;
        file.levels()
            .map_err(|problem| Error::checkpoint(folder.describe(FILE), problem))
    }

    /// Channels of the finest level.
    pub fn base_channels(&self) -> usize {
        self.down[0].channels
    }
}

impl UnetFile {
    fn check(&self) -> Result<(), String> {
        let plain = |key: &str, absent: bool| {
            if absent {
                Ok(())
            } else {
                Err(format!("`{key}` is set, which is not supported"))
            }
        };
        one_of("act_fn", &self.act_fn, &["silu", "swish"])?;
        one_of(
            "resnet_time_scale_shift",
            &self.resnet_time_scale_shift,
            &["default"],
        )?;
        one_of(
            "time_embedding_type",
            &self.time_embedding_type,
            &["positional"],
        )?;
        one_of("attention_type", &self.attention_type, &["default"])?;
        match &self.addition_embed_type {
            Some(kind) => one_of("addition_embed_type", kind, &["text_time"])?,
            None => return Err("`addition_embed_type` is absent: not an SDXL UNet".into()),
        }
        plain("center_input_sample", !self.center_input_sample)?;
        plain("encoder_hid_dim_type", self.encoder_hid_dim_type.is_none())?;
        plain("num_attention_heads", self.num_attention_heads.is_none())?;
        plain("dual_cross_attention", !self.dual_cross_attention)?;
        plain("class_embed_type", self.class_embed_type.is_none())?;
        plain("num_class_embeds", self.num_class_embeds.is_none())?;
        plain("resnet_skip_time_act", !self.resnet_skip_time_act)?;
        plain(
            "time_embedding_act_fn",
            self.time_embedding_act_fn.is_none(),
        )?;
        plain("timestep_post_act", self.timestep_post_act.is_none())?;
        plain("cross_attention_norm", self.cross_attention_norm.is_none())?;
        plain(
            "mid_block_only_cross_attention",
            self.mid_block_only_cross_attention != Some(true),
        )?;
        let only_cross = match &self.only_cross_attention {
            Some(PerLevel::One(only)) => *only,
            Some(PerLevel::Each(each)) => each.contains(&true),
            None => false,
        };
        plain("only_cross_attention", !only_cross)?;
        levels(&self.block_out_channels)?;
        let set = |size: Option<usize>| size.unwrap_or(1); // what is absent is not wrong
        sizes(&[
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("conv_in_kernel", self.conv_in_kernel),
            ("conv_out_kernel", self.conv_out_kernel),
            ("time_embedding_dim", set(self.time_embedding_dim)),
            ("time_cond_proj_dim", set(self.time_cond_proj_dim)),
            ("addition_time_embed_dim", set(self.addition_time_embed_dim)),
            (
                "projection_class_embeddings_input_dim",
                set(self.projection_class_embeddings_input_dim),
            ),
        ])?;
        for (key, values) in [
            ("layers_per_block", Some(&self.layers_per_block)),
            ("cross_attention_dim", Some(&self.cross_attention_dim)),
            ("sample_size", self.sample_size.as_ref()),
        ] {
            match values {
                Some(PerLevel::One(value)) => sizes(&[(key, *value)])?,
                Some(PerLevel::Each(each)) => each.iter().try_for_each(|v| sizes(&[(key, *v)]))?,
                None => {}
            }
        }
        for (key, kernel) in [
            ("conv_in_kernel", self.conv_in_kernel),
            ("conv_out_kernel", self.conv_out_kernel),
        ] {
            if kernel % 2 == 0 {
                return Err(format!("`{key}` is {kernel}: an even kernel has no middle"));
            }
        }
        if self.downsample_padding > 1 {
            let padding = self.downsample_padding;
            return Err(format!(
                "`downsample_padding` is {padding}; supported: 0, 1"
            ));
        }
        above_zero("norm_eps", self.norm_eps)?;
        above_zero("mid_block_scale_factor", self.mid_block_scale_factor)
    }

    fn levels(self) -> Result<UnetConfig, String> {
        let levels = self.block_out_channels.len();
        for (key, len) in [
            ("down_block_types", self.down_block_types.len()),
            ("up_block_types", self.up_block_types.len()),
        ] {
            if len != levels {
                return Err(format!("`{key}` has {len} entries for {levels} levels"));
            }
        }
        let groups = self.norm_num_groups.ok_or("`norm_num_groups` is null")?;
        let layers = self.layers_per_block.expand(levels, "layers_per_block")?;
        let heads = self
            .attention_head_dim
            .expand(levels, "attention_head_dim")?;
        let context = self
            .cross_attention_dim
            .expand(levels, "cross_attention_dim")?;
        let depths = self
            .transformer_layers_per_block
            .expand(levels, "transformer_layers_per_block")?;
        // Per-layer depths cannot be reversed for the way up, which has one layer more.
        let nested = depths
            .iter()
            .any(|depth| matches!(depth, PerLevel::Each(_)));
        let depths_up = match self.reverse_transformer_layers_per_block {
            Some(up) if up.len() == levels => up,
            Some(up) => {
                return Err(format!(
                    "`reverse_transformer_layers_per_block` has {} entries for {levels} levels",
                    up.len()
                ));
            }
            None if nested => {
                return Err("`transformer_layers_per_block` is nested, which needs \
                            `reverse_transformer_layers_per_block`"
                    .into());
            }
            None => depths.iter().rev().cloned().collect(),
        };
        let channels = &self.block_out_channels;
        for &width in channels {
            divides("norm_num_groups", groups, "`block_out_channels`", width)?;
        }
        let transformer = |level: usize, depth: &Depth, layers: usize| {
            divides(
                "attention_head_dim",
                heads[level],
                "`block_out_channels`",
                channels[level],
            )?;
            Ok::<_, String>(TransformerConfig {
                heads: heads[level],
                context_width: context[level],
                depths: depth.expand(layers, "transformer_layers_per_block")?,
            })
        };
        let down = (0..levels)
            .map(|i| {
                let transformer = match self.down_block_types[i].as_str() {
                    "DownBlock2D" => None,
                    "CrossAttnDownBlock2D" => Some(transformer(i, &depths[i], layers[i])?),
                    other => {
                        one_of(
                            "down_block_types",
                            other,
                            &["DownBlock2D", "CrossAttnDownBlock2D"],
                        )?;
                        None
                    }
                };
                Ok(LevelConfig {
                    channels: channels[i],
                    layers: layers[i],
                    transformer,
                })
            })
            .collect::<Result<Vec<_>, String>>()?;
        let up = (0..levels)
            .map(|i| {
                let level = levels - 1 - i;
                let layers = layers[level] + 1;
                let transformer = match self.up_block_types[i].as_str() {
                    "UpBlock2D" => None,
                    "CrossAttnUpBlock2D" => Some(transformer(level, &depths_up[i], layers)?),
                    other => {
                        one_of(
                            "up_block_types",
                            other,
                            &["UpBlock2D", "CrossAttnUpBlock2D"],
                        )?;
                        None
                    }
                };
                Ok(LevelConfig {
                    channels: channels[level],
                    layers,
                    transformer,
                })
            })
            .collect::<Result<Vec<_>, String>>()?;
        let mid = match self.mid_block_type.as_deref() {
            None => None,
            Some("UNetMidBlock2D") => Some(None),
            Some(kind) => {
                one_of(
                    "mid_block_type",
                    kind,
                    &["UNetMidBlock2DCrossAttn", "UNetMidBlock2D", "null"],
                )?;
                // One layer, as deep as the last level's first.
                let depth = match &depths[levels - 1] {
                    PerLevel::One(depth) => *depth,
                    PerLevel::Each(each) => *each
                        .first()
                        .ok_or("`transformer_layers_per_block` has an empty entry")?,
                };
                Some(Some(transformer(levels - 1, &PerLevel::One(depth), 1)?))
            }
        };
        Ok(UnetConfig {
            sample_size: self.sample_size.as_ref().and_then(|size| match size {
                PerLevel::One(edge) => Some([*edge, *edge]),
                PerLevel::Each(edges) => edges.as_slice().try_into().ok(),
            }),
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            flip_sin_to_cos: self.flip_sin_to_cos,
            freq_shift: self.freq_shift,
            down,
            mid,
            up,
            downsample_padding: self.downsample_padding,
            mid_block_scale_factor: self.mid_block_scale_factor,
            norm_num_groups: groups,
            norm_eps: self.norm_eps,
            use_linear_projection: self.use_linear_projection,
            time_embedding_width: self.time_embedding_dim.unwrap_or(4 * channels[0]),
            time_cond_proj_dim: self.time_cond_proj_dim,
            addition_time_embed_dim: self
                .addition_time_embed_dim
                .ok_or("`addition_time_embed_dim` is absent")?,
            projection_class_embeddings_input_dim: self
                .projection_class_embeddings_input_dim
                .ok_or("`projection_class_embeddings_input_dim` is absent")?,
            conv_in_kernel: self.conv_in_kernel,
            conv_out_kernel: self.conv_out_kernel,
        })
    }
}

/// The VAE (diffusers, `AutoencoderKL`).
#[derive(Clone, Debug, Deserialize)]
pub struct VaeConfig {
    /// Colours.
    #[serde(default = "VaeConfig::three")]
    pub in_channels: usize,
    /// Colours.
    #[serde(default = "VaeConfig::three")]
    pub out_channels: usize,
    /// Kinds of the encoder's levels.
    pub down_block_types: Vec<String>,
    /// Kinds of the decoder's levels.
    pub up_block_types: Vec<String>,
    /// Channels by level, from the finest.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks by level in the encoder; the decoder has one more.
    #[serde(default = "VaeConfig::one_usize")]
    pub layers_per_block: usize,
    /// Latent channels.
    #[serde(default = "four")]
    pub latent_channels: usize,
    /// Groups of all group norms.
    #[serde(default = "VaeConfig::norm_num_groups")]
    pub norm_num_groups: usize,
    /// Multiplies latents on their way out of the encoder.
    #[serde(default = "VaeConfig::scaling_factor")]
    pub scaling_factor: f64,
    /// Mean of each latent channel, where latents are standardised.
    pub latents_mean: Option<Vec<f64>>,
    /// Standard deviation of each latent channel, where latents are standardised.
    pub latents_std: Option<Vec<f64>>,
    #[serde(default = "silu")]
    act_fn: String,
    /// The network overflows in f16.
    #[serde(default = "yes")]
    pub force_upcast: bool,
    /// A 1×1 convolution behind the encoder.
    #[serde(default = "yes")]
    pub use_quant_conv: bool,
    /// A 1×1 convolution before the decoder.
    #[serde(default = "yes")]
    pub use_post_quant_conv: bool,
    /// Attention at the coarsest level.
    #[serde(default = "yes")]
    pub mid_block_add_attention: bool,
    shift_factor: Option<f64>,
}

impl VaeConfig {
    fn three() -> usize {
        3
    }
    fn one_usize() -> usize {
        1
    }
    fn norm_num_groups() -> usize {
        32
    }
    fn scaling_factor() -> f64 {
        0.18215
    }

    /// Reads and checks the VAE's config.
    pub fn load(folder: &Folder) -> Result<Self> {
        read(folder, |c: &Self| {
            one_of("act_fn", &c.act_fn, &["silu", "swish"])?;
            levels(&c.block_out_channels)?;
            for (key, kinds, known) in [
                (
                    "down_block_types",
                    &c.down_block_types,
                    "DownEncoderBlock2D",
                ),
                ("up_block_types", &c.up_block_types, "UpDecoderBlock2D"),
            ] {
                if kinds.len() != c.block_out_channels.len() {
                    return Err(format!(
                        "`{key}` has {} entries for {} levels",
                        kinds.len(),
                        c.block_out_channels.len()
                    ));
                }
                kinds
                    .iter()
                    .try_for_each(|kind| one_of(key, kind, &[known]))?;
            }
            sizes(&[
                ("layers_per_block", c.layers_per_block),
                ("latent_channels", c.latent_channels),
            ])?;
            for &width in &c.block_out_channels {
                divides(
                    "norm_num_groups",
                    c.norm_num_groups,
                    "`block_out_channels`",
                    width,
                )?;
            }
            if c.shift_factor.is_some_and(|shift| shift != 0.0) {
                return Err("`shift_factor` is set, which SDXL does not use".into());
            }
            if c.out_channels != 3 || c.in_channels != 3 {
                return Err(
                    "pictures have 3 colours; `in_channels` or `out_channels` differ".into(),
                );
            }
            above_zero("scaling_factor", c.scaling_factor)?;
            for (key, values) in [
                ("latents_mean", &c.latents_mean),
                ("latents_std", &c.latents_std),
            ] {
                if values
                    .as_ref()
                    .is_some_and(|v| v.len() != c.latent_channels)
                {
                    return Err(format!(
                        "`{key}` does not have one value for each latent channel"
                    ));
                }
            }
            c.latents_std
                .iter()
                .flatten()
                .try_for_each(|&std| above_zero("latents_std", std))
        })
    }

    /// Pixels by latent along each edge: 2^(levels − 1).
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}
