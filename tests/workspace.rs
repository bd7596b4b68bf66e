//! The book of a GPU's workspace (src/cuda/blocks.rs), which needs no GPU: against a plain list of bytes.

#[path = "../src/cuda/blocks.rs"]
mod blocks;

use blocks::Blocks;
use proptest::prelude::*;

const GRANULE_BYTES: u64 = 512;

/// Where the two pieces lie: side by side but for a granule.
const PIECES: [(u64, u64); 2] = [(1 << 20, 64), ((1 << 20) + 65 * GRANULE_BYTES, 32)];

/// Runs of free granules in a piece, as (address, bytes).
fn free_runs(taken: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let is_taken = |at: u64| {
        taken
            .iter()
            .any(|(from, bytes)| (*from..from + bytes).contains(&at))
    };
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (begin, granules) in PIECES {
        for at in (0..granules).map(|i| begin + i * GRANULE_BYTES) {
            match runs.last_mut() {
                _ if is_taken(at) => {}
                Some((from, bytes)) if *from + *bytes == at => *bytes += GRANULE_BYTES,
                _ => runs.push((at, GRANULE_BYTES)),
            }
        }
    }
    runs
}

proptest! {
    /// A block is the beginning of the first free run that holds it, or the end of the last; what is freed joins its
    /// neighbours; the book's largest free run is the list's.
    #[test]
    fn blocks_are_those_of_a_plain_list(steps in prop::collection::vec((0u64..40_000, any::<prop::sample::Index>(), 0..4u8), 1..80)) {
        let mut book = Blocks::default();
        PIECES.iter().for_each(|(at, granules)| book.add(*at, granules * GRANULE_BYTES));
        let mut taken: Vec<(u64, u64)> = Vec::new();
        for (bytes, which, kind) in steps {
            let runs = free_runs(&taken);
            if kind == 0 && !taken.is_empty() {
                let (at, bytes) = taken.swap_remove(which.index(taken.len()));
                prop_assert_eq!(book.give(at), Some(bytes));
                prop_assert_eq!(book.give(at), None);
            } else if kind == 1 && !runs.is_empty() {
                // The last granule of some run.
                let (from, length) = runs[which.index(runs.len())];
                let at = from + length - GRANULE_BYTES;
                book.take_at(at, GRANULE_BYTES);
                taken.push((at, GRANULE_BYTES));
            } else {
                let bytes = (bytes + 1).next_multiple_of(GRANULE_BYTES);
                let mut fitting = runs.iter().filter(|(_, length)| *length >= bytes);
                let (wanted, got) = match kind {
                    2 => (fitting.next().map(|(at, _)| *at), book.take(bytes)),
                    _ => {
                        let last = fitting.next_back();
                        (last.map(|(at, length)| at + length - bytes), book.take_last(bytes))
                    }
                };
                prop_assert_eq!(got, wanted);
                taken.extend(wanted.map(|at| (at, bytes)));
            }
            let runs = free_runs(&taken);
            let most = runs.iter().map(|(_, bytes)| *bytes).max();
            prop_assert_eq!(book.largest(), most.unwrap_or(0));
            let mut told: Vec<_> = book.taken().collect();
            told.sort_unstable();
            taken.sort_unstable();
            prop_assert_eq!(&told, &taken);
        }
        for (at, _) in taken {
            book.give(at);
        }
        // What is split off comes back as it is then, taken blocks and all.
        let mut all = book.split_free();
        prop_assert_eq!(book.largest(), 0);
        let at = all.take(GRANULE_BYTES).expect("all is free");
        book.absorb(all);
        prop_assert_eq!(book.give(at), Some(GRANULE_BYTES));
        for (at, granules) in PIECES {
            prop_assert!(book.remove(at, granules * GRANULE_BYTES));
        }
        prop_assert_eq!(book.largest(), 0);
    }
}
