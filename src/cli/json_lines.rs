//! `--json FILE`: one JSON object a line, one line a record.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{stdout, whole_file};
use crate::error::Result;

/// Where the lines go.
pub struct JsonLines {
    place: Place,
    text: String,
}

enum Place {
    Nowhere,
    Stdout,
    File { path: PathBuf, replace: bool },
}

impl JsonLines {
    /// To `path`, to standard output where it is `-`, to nowhere without one; what could not be
    /// written at the end is refused now.
    pub fn begin(path: Option<&Path>, force: bool) -> Result<Self> {
        let place = match path {
            None => Place::Nowhere,
            Some(path) if path == Path::new("-") => Place::Stdout,
            Some(path) => {
                whole_file::check(path, force)?;
                Place::File {
                    path: path.to_owned(),
                    replace: force,
                }
            }
        };
        Ok(Self {
            place,
            text: String::new(),
        })
    }

    /// Whether standard output is taken.
    pub fn to_stdout(&self) -> bool {
        matches!(self.place, Place::Stdout)
    }

    /// Adds a record. The file is written anew with each, so that whatever ends the program later
    /// leaves those before.
    pub fn push(&mut self, record: &impl Serialize) -> anyhow::Result<()> {
        let line = serde_json::to_string(record)?;
        match &mut self.place {
            Place::Nowhere => Ok(()),
            Place::Stdout => stdout::line(line),
            Place::File { path, replace } => {
                self.text.push_str(&line);
                self.text.push('\n');
                whole_file::write(path, *replace, self.text.as_bytes())?;
                *replace = true; // from now on it is ours
                Ok(())
            }
        }
    }
}
