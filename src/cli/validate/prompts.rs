//! What is drawn.

use std::num::NonZeroUsize;
use std::path::Path;

use crate::error::{Error, Result};

/// Captions of the embedded model's kind.
const BUILTIN: &str = include_str!("prompts.txt");

/// The first `count` prompts of a file, one a line, or of the list in the program; empty lines are
/// passed over.
pub fn read(file: Option<&Path>, count: Option<NonZeroUsize>) -> Result<Vec<String>> {
    let (place, text) = match file {
        None => ("the list in the program".to_owned(), BUILTIN.to_owned()),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
            (path.display().to_string(), text)
        }
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut prompts: Vec<String> = lines.map(str::to_owned).collect();
    if prompts.is_empty() {
        return Err(Error::Request(format!(
            "{place} holds no prompt: write one a line"
        )));
    }
    let count = count.map_or(prompts.len(), NonZeroUsize::get);
    if count > prompts.len() {
        return Err(Error::Request(format!(
            "--count {count}: {place} holds {} prompts; --seeds makes more runs of each",
            prompts.len()
        )));
    }
    prompts.truncate(count);
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_in_the_program_is_long_and_says_nothing_twice() {
        let prompts = read(None, None).expect("in the program");
        let mut distinct = prompts.clone();
        distinct.sort();
        distinct.dedup();
        assert!(prompts.len() >= 50 && distinct.len() == prompts.len());
        let three = read(None, NonZeroUsize::new(3)).expect("so many are there");
        assert_eq!(three, prompts[..3]);
    }
}
