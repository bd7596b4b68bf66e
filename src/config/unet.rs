//! `UNet2DConditionModel` of diffusers: the file as it is, and the shape that it describes.

use serde::Deserialize;

use super::{FILE, PerLevel, above_zero, divides, four, levels, one_of, read, silu, sizes, yes};
use crate::error::{Error, Result};
use crate::weights::folder::Folder;

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
