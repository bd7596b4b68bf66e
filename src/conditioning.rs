//! Prompts and sizes → what the UNet is conditioned on.
//!
//! Source: diffusers' SDXL pipeline, `encode_prompt` and `_get_add_time_ids`.

use candle_core::{D, DType, Device, Tensor};

use crate::clip::{ClipTextEncoder, TextStates};
use crate::config::ClipConfig;
use crate::error::{Error, Result};
use crate::request::{Request, Size};
use crate::tokenizer::{Tokenizer, Tokens};
use crate::weights::checkpoint::{Checkpoint, Component};

/// The refiner's aesthetic scores for what is wanted and what is not (diffusers' defaults).
const AESTHETIC_SCORE: f32 = 6.0;
const NEGATIVE_AESTHETIC_SCORE: f32 = 2.5;

/// One side of the guidance: text and sizes.
#[derive(Clone, Debug)]
pub struct Conditioning {
    /// Hidden states of both encoders side by side, float32: [1, N, C].
    pub context: Tensor,
    /// Encoder 2's pooled embedding, float32: [1, P].
    pub pooled: Tensor,
}

/// The text a run is steered towards, and away from.
#[derive(Clone, Debug)]
pub struct Guided {
    /// Towards.
    pub positive: Conditioning,
    /// Away from, where guidance is on.
    pub negative: Option<Conditioning>,
}

/// A tokenizer and its encoder.
#[derive(Debug)]
pub struct TextTower {
    tokenizer: Tokenizer,
    encoder: ClipTextEncoder,
}

/// A text encoder of a checkpoint, with its tokenizer read and its weights not yet.
#[derive(Debug)]
pub struct TextTowerLoader {
    tokenizer: Tokenizer,
    config: ClipConfig,
    component: Component,
}

impl TextTowerLoader {
    /// Reads a tokenizer and its encoder's config.
    pub fn new(
        checkpoint: &Checkpoint,
        (tokenizer, encoder): (Component, Component),
    ) -> Result<Self> {
        let config = ClipConfig::load(checkpoint.folder(encoder)?)?;
        Ok(Self {
            tokenizer: Tokenizer::load(
                checkpoint.folder(tokenizer)?,
                config.vocab_size,
                config.max_position_embeddings,
            )?,
            config,
            component: encoder,
        })
    }

    /// Reads the encoder.
    pub fn load(self, checkpoint: &Checkpoint, dtype: DType, device: &Device) -> Result<TextTower> {
        let project = self.component == Component::TextEncoder2;
        let weights = checkpoint.weights(self.component, dtype, device)?;
        Ok(TextTower {
            tokenizer: self.tokenizer,
            encoder: ClipTextEncoder::load(self.config, project, weights)?,
        })
    }
}

/// Everything that reads prompts. Base models have two towers, the refiner only the second.
#[derive(Debug)]
pub struct TextStage {
    towers: Vec<TextTower>,
    force_zeros_for_empty_prompt: bool,
}

impl TextStage {
    /// The towers of a model; `force_zeros_for_empty_prompt` is the setting of its index.
    pub fn new(towers: Vec<TextTower>, force_zeros_for_empty_prompt: bool) -> Self {
        Self {
            towers,
            force_zeros_for_empty_prompt,
        }
    }

    /// Width of the pooled embedding.
    pub fn pooled_width(&self) -> usize {
        self.towers
            .last()
            .map_or(0, |tower| tower.encoder.projection_dim())
    }

    /// What the encoders would not read of the request's prompts, one line each.
    pub fn cut(&self, request: &Request) -> Result<Vec<String>> {
        if request.long_prompt {
            return Ok(Vec::new());
        }
        let mut lines = Vec::new();
        for (name, texts) in [
            (
                "prompt",
                Some(self.texts(&request.prompt, request.prompt_2.as_deref())),
            ),
            ("negative prompt", self.negative_texts(request)),
        ] {
            for (tower, text) in self.towers.iter().zip(texts.into_iter().flatten()) {
                if let Some(cut) = tower.tokenizer.encode(text)?.cut {
                    let line = format!(
                        "the {name} is too long for {} tokens; not read: \"{cut}\" \
                         (--long-prompt reads all of it)",
                        tower.encoder.config().max_position_embeddings
                    );
                    if !lines.contains(&line) {
                        lines.push(line);
                    }
                }
            }
        }
        Ok(lines)
    }

    /// The text for each tower; the second text is for the last one.
    fn texts<'a>(&self, text: &'a str, second: Option<&'a str>) -> Vec<&'a str> {
        let mut texts = vec![text; self.towers.len()];
        if let (Some(last), Some(second)) = (texts.last_mut(), second.filter(|t| !t.is_empty())) {
            *last = second;
        }
        texts
    }

    /// The negative texts, or `None` where their absence stands for zeros.
    fn negative_texts<'a>(&self, request: &'a Request) -> Option<Vec<&'a str>> {
        if request.negative.is_none() && self.force_zeros_for_empty_prompt {
            return None;
        }
        let text = request.negative.as_deref().unwrap_or("");
        Some(self.texts(text, request.negative_2.as_deref()))
    }

    /// Encodes the request's prompts.
    pub fn encode(&self, request: &Request) -> Result<Guided> {
        let mut positive = self.tokens(
            request,
            self.texts(&request.prompt, request.prompt_2.as_deref()),
        )?;
        let negative = match self.negative_texts(request) {
            _ if !request.guided() => None,
            None => Some(None),
            Some(texts) => Some(Some(self.tokens(request, texts)?)),
        };
        let Some(negative) = negative else {
            return Ok(Guided {
                positive: self.states(&positive, request.clip_skip)?,
                negative: None,
            });
        };
        let Some(mut negative) = negative else {
            let positive = self.states(&positive, request.clip_skip)?;
            let zeros = Conditioning {
                context: positive.context.zeros_like()?,
                pooled: positive.pooled.zeros_like()?,
            };
            return Ok(Guided {
                positive,
                negative: Some(zeros),
            });
        };
        // Both sides must have as many chunks: the shorter is filled with empty text.
        let empty = self.tokens(request, vec![""; self.towers.len()])?;
        let longest = positive
            .iter()
            .chain(&negative)
            .map(|t| t.chunks.len())
            .max()
            .unwrap_or(1);
        for side in [&mut positive, &mut negative] {
            for (tokens, empty) in side.iter_mut().zip(&empty) {
                tokens.chunks.resize(longest, empty.chunks[0].clone());
            }
        }
        Ok(Guided {
            positive: self.states(&positive, request.clip_skip)?,
            // The reference skips layers for the positive side only.
            negative: Some(self.states(&negative, None)?),
        })
    }

    fn tokens(&self, request: &Request, texts: Vec<&str>) -> Result<Vec<Tokens>> {
        let mut all = self
            .towers
            .iter()
            .zip(texts)
            .map(|(tower, text)| {
                if request.long_prompt {
                    tower.tokenizer.encode_long(text)
                } else {
                    tower.tokenizer.encode(text)
                }
            })
            .collect::<Result<Vec<_>>>()?;
        let longest = all.iter().map(|t| t.chunks.len()).max().unwrap_or(1);
        for (tower, tokens) in self.towers.iter().zip(&mut all) {
            if tokens.chunks.len() < longest {
                let empty = tower.tokenizer.encode("")?.chunks.remove(0);
                tokens.chunks.resize(longest, empty);
            }
        }
        Ok(all)
    }

    /// Token chunks of each tower → context and pooled. Chunks are encoded apart and laid end to
    /// end; the first is pooled.
    fn states(&self, tokens: &[Tokens], clip_skip: Option<usize>) -> Result<Conditioning> {
        let mut hidden = Vec::new();
        let mut pooled = None;
        for (tower, tokens) in self.towers.iter().zip(tokens) {
            let TextStates {
                hidden: states,
                pooled: first,
            } = tower
                .encoder
                .forward(&tokens.chunks, clip_skip.unwrap_or(0))?; // [chunks, 77, C]
            let (chunks, length, width) = states.dims3()?;
            let states = states
                .to_dtype(DType::F32)?
                .reshape((1, chunks * length, width))?;
            hidden.push(states); // [1, N, C]
            pooled = first
                .map(|p| p.narrow(0, 0, 1)?.to_dtype(DType::F32))
                .transpose()?
                .or(pooled);
        }
        Ok(Conditioning {
            context: Tensor::cat(&hidden, D::Minus1)?, // [1, N, C₁ + C₂]
            pooled: pooled.ok_or_else(|| {
                Error::checkpoint(
                    "text_encoder_2",
                    "the second text encoder has no projection",
                )
            })?,
        })
    }
}

/// Micro-conditioning: the numbers that the UNet embeds besides the text, for the wanted and the
/// unwanted side. `ids` is 6 (sizes and crop) or 5 (the refiner: an aesthetic score in place of the
/// target size).
pub fn time_ids(request: &Request, ids: usize) -> Result<[Vec<f32>; 2]> {
    let own = Size {
        height_px: request.height_px,
        width_px: request.width_px,
    };
    let pair = |size: Size| [size.height_px as f32, size.width_px as f32];
    let original = pair(request.original_size.unwrap_or(own));
    let crop = [request.crop.0 as f32, request.crop.1 as f32];
    let common = [original, crop].concat();
    match ids {
        6 => {
            let all = [common, pair(request.target_size.unwrap_or(own)).to_vec()].concat();
            Ok([all.clone(), all])
        }
        5 => Ok([AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE]
            .map(|score| [common.as_slice(), &[score]].concat())),
        other => Err(Error::checkpoint(
            "unet/config.json",
            format!("the UNet takes {other} time ids; SDXL has 6, its refiner 5"),
        )),
    }
}
