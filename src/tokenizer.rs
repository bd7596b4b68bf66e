//! Prompt → ids, as `CLIPTokenizer` of huggingface/transformers 5 makes them.
//!
//! The steps are those of transformers' `models/clip/tokenization_clip.py` (which rebuilds them
//! from the vocabulary and the merges even where a `tokenizer.json` lies in the folder), run by
//! the same `tokenizers` crate: special tokens are found in the raw text, the rest goes through
//! NFC, white space → one space, lower case, a split into words, byte-level BPE.
//!
//! Different here: a special token that no file gives an id is an error (transformers invents an
//! id, which no embedding has), a length beyond the encoder's is the encoder's, and the framing
//! BOS … EOS, padding is our own, so that cut and long prompts come from one encoding.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, Encoding, SplitDelimiterBehavior};

use crate::error::{Error, Result};
use crate::weights::folder::Folder;

/// Words, contractions, single digits, runs of anything else; white space falls out.
/// Source: openai/CLIP `clip/simple_tokenizer.py`, as transformers has it.
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

const TOKENIZER: &str = "tokenizer.json";
const VOCAB: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
const ADDED_TOKENS: &str = "added_tokens.json";

/// Marks a token that ends a word.
const END_OF_WORD: &str = "</w>";

/// What transformers assumes where the folder does not name the token.
const BOS: &str = "<|startoftext|>";
const EOS: &str = "<|endoftext|>";

/// Prompt → ids for one CLIP encoder.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    backend: tokenizers::Tokenizer,
    place: String,
    bos: u32,
    eos: u32,
    pad: u32,
    max_length: usize,
}

/// A prompt's ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// One or more chunks of `max_length` ids: BOS, text, EOS, padding.
    pub chunks: Vec<Vec<u32>>,
    /// The end of the text that did not fit, when cut; it begins with the character, whole, at
    /// which the ids end.
    pub cut: Option<String>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, or `vocab.json` and `merges.txt`, and the special tokens and the
    /// length from `tokenizer_config.json` and `special_tokens_map.json`.
    ///
    /// `vocab_size` and `max_length` are the text encoder's `vocab_size` and
    /// `max_position_embeddings`; a shorter `model_max_length` of the tokenizer wins.
    ///
    /// # Errors
    /// Names the file and what is wrong with it: missing, not UTF-8, not in the expected form, a
    /// merge or a special token that is not in the vocabulary, an id that the encoder has no
    /// embedding for.
    pub fn load(folder: &Folder, vocab_size: usize, max_length: usize) -> Result<Self> {
        let (vocabulary, declared) = Vocabulary::read(folder)?;
        let settings = Settings::read(folder, declared)?;
        let length = settings
            .model_max_length
            .map_or(max_length, |length| max_length.min(length as usize));
        if length < 3 {
            let problem = format!("a length of {length} ids leaves no room for text; CLIP's is 77");
            return Err(Error::checkpoint(folder.describe(CONFIG), problem));
        }
        let place = folder.describe(vocabulary.file);
        settings
            .check(&vocabulary, vocab_size)
            .map_err(|problem| Error::checkpoint(&place, problem))?;
        let backend = build(vocabulary, &settings)
            .map_err(|e| Error::checkpoint(&place, format!("not usable as a tokenizer: {e}")))?;
        let id = |token: &Special| {
            let token = token.content();
            let unknown = || Error::checkpoint(&place, format!("has no id for {token:?}"));
            backend.token_to_id(token).ok_or_else(unknown)
        };
        let (bos, eos, pad) = (
            id(&settings.bos_token)?,
            id(&settings.eos_token)?,
            id(&settings.pad_token)?,
        );
        Ok(Self {
            backend,
            place,
            bos,
            eos,
            pad,
            max_length: length,
        })
    }

    /// One chunk; text that does not fit is cut off, as `truncation=True` does in transformers.
    pub fn encode(&self, text: &str) -> Result<Tokens> {
        let encoding = self.text_ids(text)?;
        let (ids, room) = (encoding.get_ids(), self.room());
        let cut = encoding
            .get_offsets()
            .get(room)
            .map(|&(start, _)| text_from(text, start).to_owned());
        Ok(Tokens {
            chunks: vec![self.framed(&ids[..ids.len().min(room)])],
            cut,
        })
    }

    /// As many chunks as the text needs, at least one; nothing is cut.
    pub fn encode_long(&self, text: &str) -> Result<Tokens> {
        let encoding = self.text_ids(text)?;
        let mut chunks: Vec<_> = encoding
            .get_ids()
            .chunks(self.room())
            .map(|ids| self.framed(ids))
            .collect();
        if chunks.is_empty() {
            chunks.push(self.framed(&[]));
        }
        Ok(Tokens { chunks, cut: None })
    }

    /// The id that begins a chunk.
    pub fn bos_id(&self) -> u32 {
        self.bos
    }

    /// The id that ends a chunk's text.
    pub fn eos_id(&self) -> u32 {
        self.eos
    }

    /// The id that fills a chunk.
    pub fn pad_id(&self) -> u32 {
        self.pad
    }

    /// Ids in a chunk.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Ids of text in a chunk, BOS and EOS not counted.
    fn room(&self) -> usize {
        self.max_length - 2
    }

    fn text_ids(&self, text: &str) -> Result<Encoding> {
        self.backend
            .encode(text, false)
            .map_err(|e| Error::checkpoint(&self.place, format!("cannot encode the prompt: {e}")))
    }

    fn framed(&self, text: &[u32]) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.max_length);
        ids.push(self.bos);
        ids.extend(text);
        ids.push(self.eos);
        ids.resize(self.max_length, self.pad);
        ids
    }
}

/// `text` from byte `start`, or from the character that holds it.
fn text_from(text: &str, start: usize) -> &str {
    let start = (0..=start.min(text.len()))
        .rev()
        .find(|&at| text.is_char_boundary(at));
    text[start.unwrap_or(0)..].trim_end()
}

/// The steps of transformers' `CLIPTokenizer`, without its post-processor.
fn build(vocabulary: Vocabulary, settings: &Settings) -> tokenizers::Result<tokenizers::Tokenizer> {
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary.ids, vocabulary.merges)
        .continuing_subword_prefix(String::new())
        .end_of_word_suffix(END_OF_WORD.to_owned())
        .unk_token(settings.unk_token.content().to_owned())
        .build()?;
    let white_space = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ")?;
    let words = Split::new(
        SplitPattern::Regex(WORDS.to_owned()),
        SplitDelimiterBehavior::Removed,
        true,
    )?;
    let bytes = ByteLevel::default().add_prefix_space(false);

    let mut tokenizer = tokenizers::Tokenizer::new(bpe);
    tokenizer.with_normalizer(Some(Normalizers::new(vec![
        NFC.into(),
        white_space.into(),
        Lowercase.into(),
    ])))?;
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(vec![words.into(), bytes.into()])));
    tokenizer.add_tokens(settings.in_order_of_addition())?;
    Ok(tokenizer)
}

/// Tokens and merges, from whichever files hold them.
struct Vocabulary {
    /// The file that the ids are from.
    file: &'static str,
    ids: Vocab,
    merges: Merges,
}

/// `tokenizer.json`, as far as transformers uses it for CLIP.
#[derive(Deserialize)]
struct TokenizerJson {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Declared>,
}

#[derive(Deserialize)]
struct Model {
    vocab: Vocab,
    merges: Vec<Merge>,
}

/// A merge in either form that the `tokenizers` crate has written.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair(String, String),
}

/// A token with the id that its file gives it.
#[derive(Deserialize)]
struct Declared {
    id: u32,
    #[serde(flatten)]
    token: Added,
}

impl Vocabulary {
    /// With the added tokens, which only `tokenizer.json` holds.
    fn read(folder: &Folder) -> Result<(Self, Vec<Declared>)> {
        let whole = folder.has(TOKENIZER);
        if !whole && !folder.has(VOCAB) && !folder.has(MERGES) {
            let problem =
                format!("holds no tokenizer: neither {TOKENIZER} nor {VOCAB} and {MERGES}");
            return Err(Error::checkpoint(folder.describe(""), problem));
        }
        let (ids, lines, added, file) = if whole {
            let TokenizerJson {
                model,
                added_tokens,
            } = folder.json(TOKENIZER)?;
            (model.vocab, model.merges, added_tokens, TOKENIZER)
        } else {
            (folder.json(VOCAB)?, merge_lines(folder)?, Vec::new(), VOCAB)
        };

        let mut merges = Vec::with_capacity(lines.len());
        let mut joined = String::new();
        for (n, line) in lines.into_iter().enumerate() {
            let wrong = |problem: String| {
                let file = if whole { TOKENIZER } else { MERGES };
                Error::checkpoint(folder.describe(file), format!("merge {}: {problem}", n + 1))
            };
            let (left, right) = line.pair().map_err(|line| {
                wrong(format!(
                    "{line:?} is not a pair of tokens with one space between"
                ))
            })?;
            joined.clear();
            joined.extend([left.as_str(), right.as_str()]);
            // The crate's builder relies on it: a joined token that is too long makes it panic.
            if let Some(token) = [&left, &right, &joined]
                .into_iter()
                .find(|&token| !ids.contains_key(token))
            {
                return Err(wrong(format!(
                    "{token:?} is not in the vocabulary ({file})"
                )));
            }
            merges.push((left, right));
        }
        Ok((Self { file, ids, merges }, added))
    }
}

/// The lines of `merges.txt` but its head.
fn merge_lines(folder: &Folder) -> Result<Vec<Merge>> {
    let bytes = folder.read(MERGES)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|e| Error::checkpoint(folder.describe(MERGES), format!("not UTF-8: {e}")))?;
    let lines = text.lines().filter(|line| !line.starts_with("#version"));
    Ok(lines.map(|line| Merge::Line(line.to_owned())).collect())
}

impl Merge {
    /// The two tokens; the line itself, if it is not a pair.
    fn pair(self) -> Result<(String, String), String> {
        match self {
            Self::Pair(left, right) => Ok((left, right)),
            Self::Line(line) => match line.split_once(' ') {
                Some((left, right)) if !right.contains(' ') => {
                    Ok((left.to_owned(), right.to_owned()))
                }
                _ => Err(line),
            },
        }
    }
}

/// The keys of `tokenizer_config.json` that bear on ids, and those of the files that override it.
#[derive(Deserialize)]
struct Settings {
    bos_token: Special,
    eos_token: Special,
    unk_token: Special,
    sep_token: Option<Special>,
    pad_token: Special,
    cls_token: Option<Special>,
    mask_token: Option<Special>,
    extra_special_tokens: Vec<Special>,
    /// 1e30 where the tokenizer was saved without a limit.
    model_max_length: Option<f64>,
    #[serde(default)]
    added_tokens_decoder: BTreeMap<u32, Added>,
}

/// A special token as the configs write it.
#[derive(Deserialize, PartialEq)]
#[serde(untagged)]
enum Special {
    Text(String),
    Token(Added),
}

/// A token looked for in the text before the words are split.
#[derive(Deserialize, PartialEq)]
struct Added {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    /// Looked for in the normalised text, so in any case; if not said, only where not special.
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

impl Settings {
    /// As `_from_pretrained` in transformers' `tokenization_utils_base.py` merges the files:
    /// `added_tokens_decoder`, where the config has it, else the other three files.
    fn read(folder: &Folder, declared: Vec<Declared>) -> Result<Self> {
        let object = |name| {
            if folder.has(name) {
                folder.json(name)
            } else {
                Ok(Map::new())
            }
        };
        let mut keys = object(CONFIG)?;
        let legacy = !keys.contains_key("added_tokens_decoder");
        if legacy {
            keys.extend(object(SPECIAL_TOKENS)?);
        }
        for (key, token) in [
            ("bos_token", BOS),
            ("eos_token", EOS),
            ("unk_token", EOS),
            ("pad_token", EOS),
        ] {
            if keys.get(key).is_none_or(Value::is_null) {
                keys.insert(key.to_owned(), token.into());
            }
        }
        // A list, or a map from names; the second key is what transformers 4 wrote.
        let extra = ["extra_special_tokens", "additional_special_tokens"]
            .iter()
            .filter_map(|&key| match keys.remove(key)? {
                Value::Array(tokens) => Some(tokens),
                Value::Object(tokens) => Some(tokens.into_iter().map(|(_, token)| token).collect()),
                _ => None,
            })
            .find(|tokens| !tokens.is_empty());
        keys.insert(
            "extra_special_tokens".to_owned(),
            extra.unwrap_or_default().into(),
        );
        let mut settings: Self = serde_json::from_value(keys.into()).map_err(|e| {
            let place = format!("{} (with {SPECIAL_TOKENS})", folder.describe(CONFIG));
            Error::checkpoint(place, format!("not as expected: {e}"))
        })?;
        if legacy {
            if folder.has(ADDED_TOKENS) {
                for (content, id) in folder.json::<BTreeMap<String, u32>>(ADDED_TOKENS)? {
                    let special = settings.special().any(|token| token.content() == content);
                    settings
                        .added_tokens_decoder
                        .insert(id, Added::new(content, special));
                }
            }
            settings
                .added_tokens_decoder
                .extend(declared.into_iter().map(|d| (d.id, d.token)));
        }
        Ok(settings)
    }

    /// In transformers' order (`SPECIAL_TOKENS_ATTRIBUTES`), which decides where two differ.
    fn special(&self) -> impl Iterator<Item = &Special> {
        [
            Some(&self.bos_token),
            Some(&self.eos_token),
            Some(&self.unk_token),
            self.sep_token.as_ref(),
        ]
        .into_iter()
        .chain([
            Some(&self.pad_token),
            self.cls_token.as_ref(),
            self.mask_token.as_ref(),
        ])
        .flatten()
        .chain(&self.extra_special_tokens)
    }

    fn declares(&self, token: &str) -> bool {
        self.added_tokens_decoder
            .values()
            .any(|added| added.content == token)
    }

    /// That every token has an id, its own, within the encoder's embedding.
    fn check(&self, vocabulary: &Vocabulary, vocab_size: usize) -> Result<(), String> {
        let in_files = |token: &&str| vocabulary.ids.contains_key(*token) || self.declares(token);
        if let Some(token) = self
            .special()
            .map(Special::content)
            .find(|token| !in_files(token))
        {
            return Err(format!(
                "lacks the special token {token:?} of {CONFIG}, {SPECIAL_TOKENS} or CLIP's defaults; \
                 take all files of the folder from one model"
            ));
        }
        // As the crate gives them out: after the vocabulary, without a gap.
        let mut next = vocabulary.ids.len() as u32;
        for (&id, Added { content, .. }) in &self.added_tokens_decoder {
            let expected = vocabulary.ids.get(content).copied().unwrap_or(next);
            if id != expected {
                return Err(format!(
                    "gives {content:?} the id {expected}, the added tokens say {id}"
                ));
            }
            next += u32::from(id == next);
        }
        let in_vocabulary = vocabulary.ids.iter().map(|(token, &id)| (id, token));
        let added = self
            .added_tokens_decoder
            .iter()
            .map(|(&id, added)| (id, &added.content));
        match in_vocabulary.chain(added).max() {
            Some((id, token)) if id as usize >= vocab_size => Err(format!(
                "token {token:?} has the id {id}, but the text encoder's vocab_size is {vocab_size}; \
                 take tokenizer and text encoder from one model"
            )),
            _ => Ok(()),
        }
    }

    /// As `TokenizersBackend.__init__` adds them; of two that differ, the later counts.
    fn in_order_of_addition(&self) -> Vec<AddedToken> {
        let mut named: Vec<&Special> = Vec::new();
        for token in self
            .special()
            .filter(|token| !self.declares(token.content()))
        {
            if !named.contains(&token) {
                named.push(token);
            }
        }
        let declared = self.added_tokens_decoder.values().map(Added::to_backend);
        declared
            .chain(named.into_iter().map(Special::to_backend))
            .collect()
    }
}

impl Special {
    fn content(&self) -> &str {
        match self {
            Self::Text(content) | Self::Token(Added { content, .. }) => content,
        }
    }

    fn to_backend(&self) -> AddedToken {
        match self {
            Self::Text(content) => AddedToken::from(content, true),
            Self::Token(added) => AddedToken {
                normalized: added.normalized.unwrap_or(false),
                special: true,
                ..added.to_backend()
            },
        }
    }
}

impl Added {
    fn new(content: String, special: bool) -> Self {
        Self {
            content,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: None,
            special,
        }
    }

    fn to_backend(&self) -> AddedToken {
        AddedToken {
            content: self.content.clone(),
            single_word: self.single_word,
            lstrip: self.lstrip,
            rstrip: self.rstrip,
            normalized: self.normalized.unwrap_or(!self.special),
            special: self.special,
        }
    }
}
