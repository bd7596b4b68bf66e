//! What a tokenizer takes in memory, from the sizes of its files.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Result};
use crate::weights::folder::Folder;

/// CLIP's vocabulary, assumed where a model's files are not there.
const CLIP: Vocabulary = Vocabulary {
    tokens: 49_408,
    token_bytes: 360_000,
    merges: 48_894,
    file_bytes: 1_059_962,
};

/// Sizes of a tokenizer's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    tokens: usize,
    /// Of all tokens together.
    token_bytes: usize,
    merges: usize,
    /// Of the file that is read whole.
    file_bytes: usize,
}

impl Vocabulary {
    /// Counts the entries of `tokenizer.json`, or of `vocab.json` and `merges.txt`.
    pub fn of(folder: &Folder) -> Result<Self> {
        const WHOLE: &str = "tokenizer.json";
        const TOKENS: &str = "vocab.json";
        const MERGES: &str = "merges.txt";
        if folder.has(WHOLE) {
            let file = folder.read(WHOLE)?;
            let counts: Whole = parsed(folder, WHOLE, &file)?;
            return Ok(Self::counted(
                counts.model.vocab,
                counts.model.merges.0,
                file.len(),
            ));
        }
        if !folder.has(TOKENS) || !folder.has(MERGES) {
            return Ok(CLIP);
        }
        let file = folder.read(TOKENS)?;
        let tokens: Tokens = parsed(folder, TOKENS, &file)?;
        let merges = folder.read(MERGES)?;
        let merges = merges.split(|&byte| byte == b'\n');
        let merges = merges.filter(|line| !line.is_empty() && !line.starts_with(b"#version"));
        Ok(Self::counted(tokens, merges.count(), file.len()))
    }

    fn counted(Tokens { tokens, bytes }: Tokens, merges: usize, file_bytes: usize) -> Self {
        Self {
            tokens,
            token_bytes: bytes,
            merges,
            file_bytes,
        }
    }

    /// Once loaded: three hash tables of the `tokenizers` crate's BPE model (0.23, models/bpe): token
    /// → id and id → token with the texts, pair of ids → rank and id; and two compiled expressions.
    pub fn bytes(&self) -> usize {
        let by_token = table(self.tokens, size_of::<(String, u32)>());
        let by_pair = table(self.merges, size_of::<[u32; 4]>());
        2 * (by_token + self.token_bytes) + by_pair + EXPRESSIONS
    }

    /// Beyond [`Vocabulary::bytes`], while it is built: the merges as texts, twice, and the file.
    pub fn loading_bytes(&self) -> usize {
        let merges = 2 * self.merges * size_of::<(String, String)>();
        self.bytes() + merges + self.file_bytes
    }
}

/// What the expressions that split a prompt take, compiled, with the added tokens' (measured).
const EXPRESSIONS: usize = 145_000;

/// What they and the crate's cache take in addition once a prompt was read (measured; the prompt's
/// length hardly matters).
pub const READING: usize = 200_000;

/// A hash table of hashbrown's layout: a power of two of slots, at most ⅞ full, and a byte for each.
fn table(entries: usize, entry_bytes: usize) -> usize {
    let slots = (entries * 8).div_ceil(7).next_power_of_two().max(4);
    slots * (entry_bytes + 1) + 16
}

fn parsed<'a, T: Deserialize<'a>>(folder: &Folder, name: &str, file: &'a [u8]) -> Result<T> {
    serde_json::from_slice(file)
        .map_err(|e| Error::checkpoint(folder.describe(name), format!("not as expected: {e}")))
}

/// `tokenizer.json`.
#[derive(Deserialize)]
struct Whole {
    model: WholeModel,
}

#[derive(Deserialize)]
struct WholeModel {
    vocab: Tokens,
    merges: Length,
}

/// A map's keys, counted and not kept.
struct Tokens {
    tokens: usize,
    bytes: usize,
}

impl<'de> Deserialize<'de> for Tokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Count;
        impl<'de> Visitor<'de> for Count {
            type Value = Tokens;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from token to id")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tokens, A::Error> {
                let (mut tokens, mut bytes) = (0, 0);
                while let Some((token, _)) = map.next_entry::<String, IgnoredAny>()? {
                    tokens += 1;
                    bytes += token.len();
                }
                Ok(Tokens { tokens, bytes })
            }
        }
        deserializer.deserialize_map(Count)
    }
}

/// A list's length.
struct Length(usize);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Count;
        impl<'de> Visitor<'de> for Count {
            type Value = Length;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Length, A::Error> {
                let mut length = 0;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    length += 1;
                }
                Ok(Length(length))
            }
        }
        deserializer.deserialize_seq(Count)
    }
}
