//! Which parts of a range of addresses are taken: first fit, or last; neighbours that are free become one.

use std::collections::{BTreeMap, HashMap};

/// A book of blocks; it touches no memory.
#[derive(Debug, Default)]
pub struct Blocks {
    /// Bytes of each free block, by its address.
    free: BTreeMap<u64, u64>,
    /// Of those that are taken.
    taken: HashMap<u64, u64>,
}

impl Blocks {
    /// Adds `bytes` that are free. Two pieces side by side stay two if something between them is never given.
    pub fn add(&mut self, at: u64, bytes: u64) {
        let (mut at, mut end) = (at, at + bytes);
        if let Some((&before, &length)) = self.free.range(..at).next_back()
            && before + length == at
        {
            at = before;
        }
        if let Some(length) = self.free.remove(&end) {
            end += length;
        }
        self.free.insert(at, end - at);
    }

    /// Takes the beginning of the first free block that holds `bytes`.
    pub fn take(&mut self, bytes: u64) -> Option<u64> {
        let mut fitting = self.free.iter().filter(|(_, length)| **length >= bytes);
        let (&at, _) = fitting.next()?;
        self.take_at(at, bytes);
        Some(at)
    }

    /// Takes the end of the last free block that holds them.
    pub fn take_last(&mut self, bytes: u64) -> Option<u64> {
        let mut fitting = self.free.iter().filter(|(_, length)| **length >= bytes);
        let (&begin, &length) = fitting.next_back()?;
        let at = begin + length - bytes;
        self.take_at(at, bytes);
        Some(at)
    }

    /// Frees a block that was taken: its bytes, or nothing if it is none.
    pub fn give(&mut self, at: u64) -> Option<u64> {
        let bytes = self.taken.remove(&at)?;
        self.add(at, bytes);
        Some(bytes)
    }

    /// Takes these bytes, which are free.
    pub fn take_at(&mut self, at: u64, bytes: u64) {
        let before = self.free.range(..=at).next_back();
        let (&begin, &length) = before.expect("bytes that are free");
        self.free.remove(&begin);
        let (end, after) = (at + bytes, begin + length);
        for (from, to) in [(begin, at), (end, after)] {
            if from < to {
                self.free.insert(from, to - from);
            }
        }
        self.taken.insert(at, bytes);
    }

    /// Another book of all that is free here, and then is not.
    pub fn split_free(&mut self) -> Self {
        Self {
            free: std::mem::take(&mut self.free),
            taken: HashMap::new(),
        }
    }

    /// Takes back a book that was split off, as it is now.
    pub fn absorb(&mut self, other: Self) {
        for (at, bytes) in other.free {
            self.add(at, bytes);
        }
        self.taken.extend(other.taken);
    }

    /// Bytes of the largest free block.
    pub fn largest(&self) -> u64 {
        self.free.values().copied().max().unwrap_or(0)
    }

    /// Forgets a piece of `bytes` if all of it is free.
    pub fn remove(&mut self, at: u64, bytes: u64) -> bool {
        let whole = self.free.get(&at) == Some(&bytes);
        if whole {
            self.free.remove(&at);
        }
        whole
    }

    /// Blocks that are taken: address and bytes.
    pub fn taken(&self) -> impl Iterator<Item = (u64, u64)> {
        self.taken.iter().map(|(at, bytes)| (*at, *bytes))
    }
}
