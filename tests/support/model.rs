//! A copy of a fixture's model in a folder of its own, to be spoiled.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

/// The model, deleted when dropped.
pub struct Model(TempDir);

impl Model {
    /// tests/fixtures/models/base, whole.
    pub fn base() -> Self {
        let model = Self(tempfile::tempdir().unwrap());
        // From the package's root, where tests run, also on a machine that did not build them.
        copy(Path::new("tests/fixtures/models/base"), model.path());
        model
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.file(name)).unwrap()
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.file(name), bytes).unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.file(name)).unwrap();
    }

    /// Changes a JSON file.
    pub fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut json = serde_json::from_slice(&self.read(name)).unwrap();
        edit(&mut json);
        self.write(name, serde_json::to_vec(&json).unwrap());
    }

    /// Rewrites a safetensors file: its header as JSON, and the data behind it.
    pub fn edit_tensors(&self, name: &str, edit: impl FnOnce(&mut Value, &mut Vec<u8>)) {
        let bytes = self.read(name);
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let mut data = bytes[8 + length..].to_vec();
        edit(&mut header, &mut data);
        self.write(name, safetensors(&header, &data));
    }

    /// Sets the first value of a float32 tensor whose name ends in `suffix`.
    pub fn poison(&self, file: &str, suffix: &str, value: f32) {
        self.edit_tensors(file, |header, data| {
            let entries = header.as_object().unwrap();
            let (_, entry) = entries
                .iter()
                .find(|(name, _)| name.ends_with(suffix))
                .unwrap_or_else(|| panic!("no {suffix} in {file}"));
            assert_eq!(entry["dtype"], "F32");
            let start = entry["data_offsets"][0].as_u64().unwrap() as usize;
            data[start..start + 4].copy_from_slice(&value.to_le_bytes());
        });
    }
}

/// A safetensors file of this header and data.
pub fn safetensors(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = serde_json::to_vec(header).unwrap();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend(data);
    bytes
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
