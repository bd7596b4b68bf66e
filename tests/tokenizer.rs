//! Prompt → ids, against what transformers computed (`fixtures/make.py tokens` and `models`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use darkroom::tokenizer::Tokenizer;
use darkroom::weights::folder::Folder;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// Larger than any vocabulary here.
const ANY_SIZE: usize = 1 << 20;
const LENGTH: usize = 77;
const BOS: &str = "<|startoftext|>";
const EOS: &str = "<|endoftext|>";

/// CLIP's own vocabulary, padded with EOS and with `!`.
static CLIP: LazyLock<[Tokenizer; 2]> = LazyLock::new(|| {
    ["tokenizer", "tokenizer_2"]
        .map(|name| load(&micro(name), LENGTH).expect("the embedded model's loads"))
});

/// The second of them without a limit: all ids of a text in one chunk.
static UNLIMITED: LazyLock<Tokenizer> = LazyLock::new(|| {
    let folder = Files::of(&micro("tokenizer_2"));
    fs::remove_file(folder.path("tokenizer_config.json")).expect("was copied");
    load(folder.dir.path(), 1 << 14).expect("the config is optional")
});

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn micro(name: &str) -> PathBuf {
    root().join("models/micro").join(name)
}

fn fixtures(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("file is there")).expect("file is JSON")
}

fn load(folder: &Path, max_length: usize) -> darkroom::error::Result<Tokenizer> {
    Tokenizer::load(&Folder::Disk(folder.to_owned()), ANY_SIZE, max_length)
}

fn one_chunk(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let tokens = tokenizer.encode(text).expect("encodes");
    assert_eq!(tokens.chunks.len(), 1, "{text:?}");
    tokens.chunks.into_iter().next().expect("just counted")
}

/// The ids of the text alone. Needs a padding that is not EOS.
fn text_ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    assert_ne!(tokenizer.pad_id(), tokenizer.eos_id());
    let chunk = one_chunk(tokenizer, text);
    let end = chunk
        .iter()
        .rposition(|&id| id == tokenizer.eos_id())
        .expect("holds EOS");
    chunk[1..end].to_vec()
}

#[test]
fn hard_texts_give_the_ids_of_transformers() {
    let cases = read_json(&fixtures("expected/tokens.json"));
    let cases = cases.as_array().expect("a list of cases");
    assert!(cases.len() > 100);
    let mut long = 0;
    for case in cases {
        let text = case["text"].as_str().expect("a text");
        let ids = |key: &str| -> Vec<u32> {
            serde_json::from_value(case[key].clone()).expect("a list of ids")
        };
        let (whole, [first, second]) = (ids("ids"), &*CLIP);
        assert_eq!(one_chunk(first, text), ids("padded"), "{text:?}");
        assert_eq!(one_chunk(second, text), ids("padded_2"), "{text:?}");

        let uncut = &whole[1..whole.len() - 1];
        let tokens = first.encode(text).expect("encodes");
        assert_eq!(tokens.cut.is_some(), uncut.len() > LENGTH - 2, "{text:?}");
        let chunks = first.encode_long(text).expect("encodes").chunks;
        let expected = frame(first, uncut);
        assert_eq!(chunks, expected, "{text:?}");
        long += usize::from(expected.len() > 1);
    }
    assert!(long > 0, "the cases hold a text of several chunks");
}

/// Chunks as they must be, from the ids of the text.
fn frame(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<Vec<u32>> {
    let count = ids.len().div_ceil(LENGTH - 2).max(1);
    (0..count)
        .map(|n| {
            let mut chunk = vec![tokenizer.bos_id()];
            chunk.extend(ids.iter().skip(n * (LENGTH - 2)).take(LENGTH - 2));
            chunk.push(tokenizer.eos_id());
            chunk.resize(LENGTH, tokenizer.pad_id());
            chunk
        })
        .collect()
}

/// The `i32` tensor `name` of a safetensors file.
fn ids_in(path: &Path, name: &str) -> Vec<u32> {
    let bytes = fs::read(path).expect("file is there");
    let head = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..head]).expect("safetensors header");
    let tensor = &header[name];
    assert_eq!(tensor["dtype"], "I32", "{name}");
    let at = |n: usize| head + tensor["data_offsets"][n].as_u64().expect("an offset") as usize;
    bytes[at(0)..at(1)]
        .chunks(4)
        .map(|id| u32::from_le_bytes(id.try_into().expect("four bytes")))
        .collect()
}

/// Vocabularies of a few hundred tokens, one of them in a `tokenizer.json`.
#[test]
fn small_vocabularies_give_the_ids_of_transformers() {
    for case in ["base", "vpred", "turbo", "lcm"] {
        let request = read_json(&fixtures(&format!("expected/{case}.json")))["request"].take();
        let prompt = &request["prompt"];
        let prompt_2 = request
            .get("prompt_2")
            .filter(|p| !p.is_null())
            .unwrap_or(prompt);
        for (n, prompt) in [("", prompt), ("_2", prompt_2)] {
            let model = fixtures(&format!("models/{case}"));
            let config = read_json(&model.join(format!("text_encoder{n}/config.json")));
            let size = config["vocab_size"].as_u64().expect("a size") as usize;
            let folder = Folder::Disk(model.join(format!("tokenizer{n}")));
            let tokenizer = Tokenizer::load(&folder, size, LENGTH).expect("loads");
            let expected = ids_in(
                &fixtures(&format!("expected/{case}.safetensors")),
                &format!("input_ids{n}"),
            );
            assert_eq!(
                one_chunk(&tokenizer, prompt.as_str().expect("a prompt")),
                expected,
                "{case}{n}"
            );
        }
    }
}

#[test]
fn padding_is_eos_and_exclamation_mark() {
    let [first, second] = &*CLIP;
    assert_eq!(first.pad_id(), first.eos_id());
    assert_eq!(second.pad_id(), text_ids(second, "!")[0]);
}

#[test]
fn cut_is_the_text_that_follows() {
    let [tokenizer, _] = &*CLIP;
    let words = |count: usize| vec!["apple"; count].join(" ");
    assert_eq!(tokenizer.encode(&words(75)).expect("encodes").cut, None);
    assert_eq!(
        tokenizer
            .encode(&words(76))
            .expect("encodes")
            .cut
            .as_deref(),
        Some("apple")
    );
    let text = format!("  {}\n\t", words(100).replace(' ', "\u{a0} \n"));
    let cut = tokenizer
        .encode(&text)
        .expect("encodes")
        .cut
        .expect("too long");
    assert_eq!(cut, words(25).replace(' ', "\u{a0} \n"));
}

/// Words, special tokens and trouble, or any characters at all.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec!["a", "photo", "CAT ", " ", "it's", "12", "!", "\u{e9}", "e\u{301}"]),
        2 => prop::sample::select(vec![EOS, BOS, "<|ENDOFTEXT|>", "<|end", "\u{200d}", "\u{a0}", "\u{1f469}", "\u{130}", "\0"]),
    ];
    prop_oneof![
        prop::collection::vec(piece, 0..300).prop_map(|pieces| pieces.concat()),
        any::<String>(),
        prop::collection::vec(any::<char>(), 0..200).prop_map(|all| all.into_iter().collect()),
    ]
}

proptest! {
    #[test]
    fn any_text_is_framed_and_nothing_is_lost(text in texts()) {
        let [_, tokenizer] = &*CLIP;
        let ids = text_ids(&UNLIMITED, &text);

        let tokens = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(&tokens.chunks[..], &frame(tokenizer, &ids)[..1]);
        prop_assert_eq!(tokens.cut.is_some(), ids.len() > LENGTH - 2);

        let long = tokenizer.encode_long(&text).unwrap();
        prop_assert_eq!(long.chunks, frame(tokenizer, &ids));
        prop_assert_eq!(long.cut, None);

        if let Some(cut) = tokens.cut {
            let kept = text.trim_end().strip_suffix(&cut);
            prop_assert!(kept.is_some(), "{:?} does not end {:?}", cut, text);
            // After white space both sides encode on their own. A character of which only some
            // bytes were kept is in `cut` as a whole.
            if let Some(kept) = kept.filter(|kept| kept.ends_with(char::is_whitespace)) {
                let (mut before, after) = (text_ids(&UNLIMITED, kept), text_ids(&UNLIMITED, &cut));
                prop_assert!((LENGTH - 5..=LENGTH - 2).contains(&before.len()));
                before.extend(after);
                prop_assert_eq!(before, ids);
            }
        }
    }
}

/// A tokenizer's folder to alter.
struct Files {
    dir: TempDir,
}

impl Files {
    /// A copy.
    fn of(folder: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for entry in fs::read_dir(folder).expect("folder is there") {
            let entry = entry.expect("readable");
            fs::write(
                dir.path().join(entry.file_name()),
                fs::read(entry.path()).expect("readable"),
            )
            .expect("writable");
        }
        Self { dir }
    }

    /// A copy of a small one: `vocab.json`, `merges.txt` and the two configs.
    fn small() -> Self {
        Self::of(&fixtures("models/base/tokenizer"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.path(name), content).expect("writable");
        self
    }

    fn without(self, names: &[&str]) -> Self {
        for name in names {
            fs::remove_file(self.path(name)).expect("was there");
        }
        self
    }

    /// Alters a JSON file.
    fn with(self, name: &str, alter: impl FnOnce(&mut Map<String, Value>)) -> Self {
        let mut json = read_json(&self.path(name));
        alter(json.as_object_mut().expect("an object"));
        self.write(name, json.to_string())
    }

    fn append(self, name: &str, line: &str) -> Self {
        let text = fs::read_to_string(self.path(name)).expect("text");
        self.write(name, format!("{}\n{line}\n", text.trim_end()))
    }

    fn load(&self) -> Tokenizer {
        load(self.dir.path(), LENGTH).expect("loads")
    }

    /// The error's text, without the folder.
    fn error(&self) -> String {
        let error = load(self.dir.path(), LENGTH)
            .expect_err("must not load")
            .to_string();
        error.replace(&self.dir.path().display().to_string(), "")
    }
}

fn assert_says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

#[test]
fn missing_files_are_named() {
    let none = Files::small().without(&["vocab.json", "merges.txt"]);
    assert_says(
        &none.error(),
        &["tokenizer.json", "vocab.json", "merges.txt"],
    );
    assert_says(
        &Files::small().without(&["merges.txt"]).error(),
        &["/merges.txt: missing"],
    );
    assert_says(
        &Files::small().without(&["vocab.json"]).error(),
        &["/vocab.json: missing"],
    );
}

#[test]
fn malformed_vocabularies_are_named() {
    let vocab = |content: &[u8]| Files::small().write("vocab.json", content).error();
    assert_says(&vocab(b"[1, 2]"), &["/vocab.json", "expected a map"]);
    assert_says(&vocab(b"{\"a\": -1}"), &["/vocab.json", "-1"]);
    assert_says(&vocab(b"{\"\xff\": 1}"), &["/vocab.json", "unicode"]);
    assert_says(&vocab(b""), &["/vocab.json"]);
    let json = Files::small()
        .write("tokenizer.json", "{\"version\": \"1.0\"}")
        .error();
    assert_says(&json, &["/tokenizer.json", "model"]);
}

#[test]
fn missing_special_tokens_are_named() {
    for token in [BOS, EOS] {
        // By another name, so that the ids stay without a gap.
        let files = Files::small().with("vocab.json", |vocab| {
            let id = vocab.remove(token).expect("a vocabulary of CLIP");
            vocab.insert("<other>".into(), id);
        });
        assert_says(
            &files.error(),
            &["/vocab.json", token, "tokenizer_config.json"],
        );
    }
    let pad = Files::small().with("special_tokens_map.json", |map| {
        map.insert("pad_token".into(), "<pad>".into());
    });
    assert_says(&pad.error(), &["/vocab.json", "<pad>"]);
}

#[test]
fn malformed_merges_are_named() {
    let merge = |line: &str| Files::small().append("merges.txt", line).error();
    for line in ["abc", "a b c", "a  b", ""] {
        assert_says(
            &merge(&format!("{line}\ni n")),
            &["/merges.txt", &format!("{line:?} is not a pair")],
        );
    }
    assert_says(
        &merge("nosuch a"),
        &[
            "/merges.txt",
            "\"nosuch\" is not in the vocabulary",
            "vocab.json",
        ],
    );
    assert_says(
        &merge("a nosuch"),
        &["/merges.txt", "\"nosuch\" is not in the vocabulary"],
    );
    let joined = format!("{BOS} {EOS}");
    assert_says(
        &merge(&joined),
        &[
            "/merges.txt",
            &format!("\"{BOS}{EOS}\" is not in the vocabulary"),
        ],
    );
    let first = Files::small()
        .write("merges.txt", "#version: 0.2\nzzz a\n")
        .error();
    assert_says(&first, &["/merges.txt: merge 1: \"zzz\""]);
    let binary = Files::small()
        .write("merges.txt", b"i n\n\xff\xfe a\n")
        .error();
    assert_says(&binary, &["/merges.txt", "not UTF-8"]);
}

#[test]
fn ids_beyond_the_embedding_are_refused() {
    let files = Files::small();
    let size = read_json(&files.path("vocab.json"))
        .as_object()
        .expect("a map")
        .len();
    let folder = Folder::Disk(files.dir.path().to_owned());
    Tokenizer::load(&folder, size, LENGTH).expect("each id has its row");
    let error = Tokenizer::load(&folder, size - 1, LENGTH)
        .expect_err("the last has none")
        .to_string();
    assert_says(
        &error,
        &[
            "vocab.json",
            &format!("id {}", size - 1),
            &format!("vocab_size is {}", size - 1),
        ],
    );
}

#[test]
fn malformed_settings_are_named() {
    let config = |content: &str| {
        Files::small()
            .write("tokenizer_config.json", content)
            .error()
    };
    assert_says(&config("[]"), &["/tokenizer_config.json"]);
    assert_says(
        &config("{\"model_max_length\": \"long\"}"),
        &["/tokenizer_config.json", "long"],
    );
    assert_says(
        &config("{\"model_max_length\": 2}"),
        &["/tokenizer_config.json", "length of 2"],
    );
    assert_says(
        &config("{\"added_tokens_decoder\": {\"5\": {\"content\": \"<new>\"}}}"),
        &["<new>", "5"],
    );
    let special = Files::small().write("special_tokens_map.json", "{\"bos_token\": 3}");
    assert_says(&special.error(), &["special_tokens_map.json"]);
}

#[test]
fn the_shorter_length_counts() {
    let length = |value: Value| {
        let files = Files::small().with("tokenizer_config.json", |config| {
            config.insert("model_max_length".into(), value);
        });
        one_chunk(&files.load(), "a cat").len()
    };
    assert_eq!(length(json!(16)), 16);
    assert_eq!(length(json!(512)), LENGTH);
    assert_eq!(length(json!(1e30)), LENGTH);
    assert_eq!(length(Value::Null), LENGTH);
    let bare = Files::small().without(&["tokenizer_config.json", "special_tokens_map.json"]);
    assert_eq!(
        one_chunk(&bare.load(), "a cat"),
        one_chunk(&Files::small().load(), "a cat")
    );
}

/// The second tokenizer of the `vpred` case is a `tokenizer.json` of the first one's vocabulary.
#[test]
fn tokenizer_json_gives_only_vocabulary_and_merges() {
    let texts = [
        "zwei \u{c4}pfel, 2 apples!",
        "",
        "it's <|endoftext|> a",
        &"cat ".repeat(100),
    ];
    let folder = fixtures("models/vpred/tokenizer_2");
    let plain = Files::of(&folder).load();
    let altered = Files::of(&folder).with("tokenizer.json", |json| {
        json.insert(
            "truncation".into(),
            json!({"direction": "Left", "max_length": 5, "strategy": "LongestFirst", "stride": 0}),
        );
        json.insert("padding".into(), json!({
            "strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 7,
            "pad_type_id": 0, "pad_token": "a",
        }));
        json.insert("normalizer".into(), Value::Null);
        // The older form of the file has merges as lines.
        let merges = json["model"]["merges"]
            .as_array_mut()
            .expect("a list of merges");
        for merge in merges.iter_mut().filter(|merge| merge.is_array()) {
            *merge = format!(
                "{} {}",
                merge[0].as_str().expect("text"),
                merge[1].as_str().expect("text")
            )
            .into();
        }
    });
    let altered = altered.load();
    let split = Files::of(&fixtures("models/vpred/tokenizer")).load();
    for text in texts {
        assert_eq!(
            one_chunk(&plain, text),
            one_chunk(&altered, text),
            "{text:?}"
        );
        // `!` is a special token of the one only, as it pads with it.
        let without = text.replace('!', "");
        let end = |ids: &[u32]| {
            ids.iter()
                .rposition(|&id| id == plain.eos_id())
                .expect("EOS")
        };
        let (ids, other) = (one_chunk(&plain, &without), one_chunk(&split, &without));
        assert_eq!(ids[..=end(&ids)], other[..=end(&ids)], "{without:?}");
    }
}

fn token(content: &str, normalized: bool) -> Value {
    json!({"content": content, "normalized": normalized, "lstrip": false, "rstrip": false, "single_word": false})
}

/// SDXL's published `special_tokens_map.json` has normalised BOS and EOS: found in any case. Its
/// first tokenizer names the padding, also EOS, as plain text, which is not; the later counts.
#[test]
fn special_tokens_are_found_as_their_flags_say() {
    let load = |special: Value| {
        Files::small()
            .write("special_tokens_map.json", special.to_string())
            .load()
    };
    let (upper_bos, upper_eos) = (BOS.to_uppercase(), EOS.to_uppercase());
    let same = |tokenizer: &Tokenizer, a: &str, b: &str| {
        one_chunk(tokenizer, a) == one_chunk(tokenizer, b)
    };

    let first = load(json!({
        "bos_token": token(BOS, true), "eos_token": token(EOS, true), "unk_token": token(EOS, true), "pad_token": EOS,
    }));
    assert!(same(&first, &upper_bos, BOS));
    assert!(!same(&first, &upper_eos, EOS));

    // The third, equal to the first, is not added again, so the second is the last.
    let repeated = load(json!({
        "eos_token": token(EOS, true), "unk_token": EOS, "pad_token": token(EOS, true),
    }));
    assert!(!same(&repeated, &upper_eos, EOS));

    let second = load(json!({
        "bos_token": token(BOS, true), "eos_token": token(EOS, true), "unk_token": token(EOS, true), "pad_token": "!",
    }));
    assert!(same(&second, &upper_bos, BOS));
    assert!(same(&second, &upper_eos, EOS));
    assert_eq!(second.pad_id(), text_ids(&second, "!")[0]);
}

#[test]
fn special_tokens_come_from_the_config_that_counts() {
    let bang = json!({"__type": "AddedToken", "content": "!", "special": true});
    let config = |pad: Value, decoder: Option<Value>| {
        Files::small().with("tokenizer_config.json", |config| {
            config.insert("pad_token".into(), pad);
            config.extend(decoder.map(|decoder| ("added_tokens_decoder".to_owned(), decoder)));
        })
    };
    // special_tokens_map.json says EOS; it counts only beside a config without added_tokens_decoder.
    let both = config(bang.clone(), None).load();
    assert_eq!(both.pad_id(), both.eos_id());
    let alone = config(bang.clone(), None)
        .without(&["special_tokens_map.json"])
        .load();
    assert_ne!(alone.pad_id(), alone.eos_id());
    let decoder = json!({"0": {"content": "!", "special": true}});
    let newer = config("!".into(), Some(decoder)).load();
    assert_eq!(newer.pad_id(), 0);
    let unsaid = config(Value::Null, None)
        .without(&["special_tokens_map.json"])
        .load();
    assert_eq!(unsaid.pad_id(), unsaid.eos_id());
}

#[test]
fn added_tokens_have_their_declared_ids() {
    let size = read_json(&Files::small().path("vocab.json"))
        .as_object()
        .expect("a map")
        .len();
    let added =
        |id: usize| Files::small().write("added_tokens.json", json!({"<cat-toy>": id}).to_string());
    let tokenizer = added(size).load();
    assert_eq!(one_chunk(&tokenizer, "a <CAT-toy>")[2] as usize, size);
    assert_says(
        &added(size + 1).error(),
        &[
            "<cat-toy>",
            &format!("id {size}"),
            &format!("say {}", size + 1),
        ],
    );
}
