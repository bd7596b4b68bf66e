//! A model's identity: one SHA-256 over the files that the engine reads of it.

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::folder::{Bytes, Folder};
use super::manifest::Component;
use crate::error::Result;

const MIB: usize = 1 << 20;
/// A file up to this size is hashed whole.
const WHOLE: usize = 64 * MIB;
/// Bytes taken out of each further MiB of a larger one.
const SAMPLE: usize = 4 << 10;

/// A file of a model.
#[derive(Clone, Debug)]
pub(super) struct ModelFile {
    /// What it belongs to.
    pub component: Component,
    /// The folder that holds it.
    pub folder: Folder,
    /// Its name there.
    pub name: String,
}

/// Whether a component has weights.
pub(super) fn is_network(component: Component) -> bool {
    matches!(
        component,
        Component::TextEncoder | Component::TextEncoder2 | Component::Unet | Component::Vae
    )
}

/// The configs or vocabulary of `component` in `folder`, as far as they are there.
pub(super) fn settings(component: Component, folder: &Folder) -> Vec<&'static str> {
    let names: &[&str] = match component {
        Component::ModelIndex => &["model_index.json"],
        Component::Scheduler => &["scheduler_config.json"],
        Component::Tokenizer | Component::Tokenizer2 => &[
            "tokenizer.json",
            "vocab.json",
            "merges.txt",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "added_tokens.json",
        ],
        _ => &["config.json"],
    };
    let passed_over: &[&str] = match folder.has("tokenizer.json") {
        true => &["vocab.json", "merges.txt"],
        false => &[],
    };
    let read = |name: &&str| folder.has(name) && !passed_over.contains(name);
    names.iter().copied().filter(read).collect()
}

/// SHA-256, in hex, over component, name and digest of each file, in the order given.
pub(super) fn of(files: &[ModelFile]) -> Result<String> {
    let digests = files.par_iter().map(|file| {
        let bytes = file.folder.map(&file.name)?;
        sampled(&bytes);
        Ok(digest(bytes.as_ref()))
    });
    let mut whole = Sha256::new();
    for (file, digest) in files.iter().zip(digests.collect::<Result<Vec<_>>>()?) {
        whole.update(format!("{}/{}\0", file.component, file.name));
        whole.update(digest);
    }
    let hex = whole.finalize();
    Ok(hex.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Tells the system that a large file is not read on: without reading ahead, the samples of a file
/// that is not in memory come several times faster. It may ignore the hint, and so may we its answer.
fn sampled(bytes: &Bytes) {
    #[cfg(unix)]
    if let Bytes::Mapped(map) = bytes
        && map.len() > WHOLE
    {
        let _ = map.advise(memmap2::Advice::Random);
    }
}

/// SHA-256 of a file's size and bytes; of a large one, of its size and a sample of its bytes.
fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update((bytes.len() as u64).to_le_bytes());
    if bytes.len() <= WHOLE {
        hash.update(bytes);
    } else {
        let (first, rest) = bytes.split_at(MIB);
        hash.update(first);
        for part in rest.chunks(MIB) {
            hash.update(&part[..SAMPLE.min(part.len())]);
        }
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::weights::checkpoint::Checkpoint;

    /// A copy of a fixture's model.
    fn copy(name: &str) -> tempfile::TempDir {
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/models")
            .join(name);
        let to = tempfile::tempdir().expect("a temporary folder");
        for entry in fs::read_dir(from).expect("committed") {
            let entry = entry.expect("readable");
            let target = to.path().join(entry.file_name());
            if entry.path().is_file() {
                fs::copy(entry.path(), target).expect("room for it");
                continue;
            }
            fs::create_dir(&target).expect("room for it");
            for file in fs::read_dir(entry.path()).expect("committed") {
                let file = file.expect("readable");
                fs::copy(file.path(), target.join(file.file_name())).expect("room for it");
            }
        }
        to
    }

    fn fingerprint(folder: &Path) -> String {
        let checkpoint = Checkpoint::open(folder).expect("a model");
        checkpoint.fingerprint().expect("readable")
    }

    #[test]
    fn the_place_is_no_part_of_it() {
        let micro = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/micro");
        let embedded = Checkpoint::micro().expect("sound").fingerprint();
        assert_eq!(embedded.expect("in the binary"), fingerprint(&micro));

        let (here, there) = (copy("lcm"), copy("lcm"));
        fs::write(there.path().join("README.md"), "not read").expect("room for it");
        fs::write(there.path().join("unet/notes.json"), "not read").expect("room for it");
        assert_eq!(fingerprint(here.path()), fingerprint(there.path()));
    }

    #[test]
    fn every_file_is_part_of_it() {
        // A model in shards, and one whose tokenizers have both forms.
        for (model, least) in [("turbo", 20), ("vpred", 17)] {
            let folder = copy(model);
            let before = fingerprint(folder.path());
            let mut files = 0;
            for part in fs::read_dir(folder.path()).expect("readable") {
                let part = part.expect("readable").path();
                let inside = fs::read_dir(&part).map(|entries| {
                    let path = |entry: std::io::Result<fs::DirEntry>| entry.expect("readable");
                    entries.map(|entry| path(entry).path()).collect()
                });
                for path in inside.unwrap_or(vec![part]) {
                    if path.to_string_lossy().ends_with(".index.json") {
                        continue; // the shards that it names are hashed
                    }
                    let bytes = fs::read(&path).expect("readable");
                    let mut changed = bytes.clone();
                    match bytes.last() {
                        Some(b'}' | b'\n') => changed.push(b'\n'), // still JSON
                        _ => *changed.last_mut().expect("not empty") ^= 1,
                    }
                    fs::write(&path, changed).expect("room for it");
                    let other = fingerprint(folder.path());
                    assert_ne!(other, before, "{}", path.display());
                    fs::write(&path, bytes).expect("room for it");
                    files += 1;
                }
            }
            assert_eq!(fingerprint(folder.path()), before);
            assert!(files >= least, "{model}: {files} files");
        }
    }

    #[test]
    fn a_large_file_is_sampled() {
        let mut bytes = vec![0; WHOLE + 1];
        let before = digest(&bytes);
        for seen in [0, MIB - 1, MIB, 9 * MIB + SAMPLE - 1, WHOLE] {
            bytes[seen] = 1;
            assert_ne!(digest(&bytes), before, "byte {seen}");
            bytes[seen] = 0;
        }
        bytes[MIB + SAMPLE] = 1;
        assert_eq!(digest(&bytes), before, "what the documentation says");
        bytes.push(0);
        assert_ne!(digest(&bytes), before, "the size");
        bytes.truncate(WHOLE);
        let before = digest(&bytes);
        bytes[MIB + SAMPLE] = 0;
        assert_ne!(digest(&bytes), before, "a smaller one is hashed whole");
    }
}
