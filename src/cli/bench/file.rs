//! Files of runs: one JSON object a line, one line a run.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::{stdout, whole_file};
use crate::error::{Error, Result};
use crate::measure::record::{Run, SCHEMA, Times};

/// Where the lines of a benchmark go.
pub struct Lines {
    place: Place,
    text: String,
}

enum Place {
    Nowhere,
    Stdout,
    File { path: PathBuf, replace: bool },
}

impl Lines {
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

    /// Adds a run. The file is written anew with each, so that whatever ends the program later leaves
    /// the runs before.
    pub fn push(&mut self, run: &Run) -> anyhow::Result<()> {
        let line = serde_json::to_string(run)?;
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

/// The runs of a file, and what was passed over, in words.
pub struct Contents {
    pub runs: Vec<Run>,
    pub skipped: Vec<String>,
}

/// Reads a file of runs. A run of another schema is passed over; anything else that is no run is an
/// error that names its line.
pub fn read(path: &Path) -> Result<Contents> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
    parse(path, &text)
}

/// The same of a text that `path` names.
pub fn parse(path: &Path, text: &str) -> Result<Contents> {
    let mut contents = Contents {
        runs: Vec::new(),
        skipped: Vec::new(),
    };
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |problem: String| Error::file(path, format!("line {number}: {problem}"));
        let value: Value = serde_json::from_str(line)
            .map_err(|e| wrong(format!("not one JSON value a line: {e}")))?;
        match value.get("schema").and_then(Value::as_u64) {
            Some(schema) if schema == u64::from(SCHEMA) => {
                let run = serde_json::from_value(value).map_err(|e| {
                    wrong(format!(
                        "schema {SCHEMA}, but not a benchmark's record: {e}"
                    ))
                })?;
                check(&run).map_err(wrong)?;
                contents.runs.push(run);
            }
            Some(schema) => contents.skipped.push(format!(
                "{}: line {number} has schema {schema}, and this darkroom reads schema {SCHEMA}",
                path.display()
            )),
            None => return Err(wrong("not a benchmark's record: it has no `schema`".into())),
        }
    }
    match contents.runs.is_empty() && contents.skipped.is_empty() {
        true => Err(Error::file(
            path,
            "holds no run: `darkroom bench --json` writes them",
        )),
        false => Ok(contents),
    }
}

/// What the statistics rely on.
fn check(run: &Run) -> Result<(), String> {
    let stages = run.stages.iter().chain([&run.load]);
    let stages = stages.map(|stage| (stage.stage.name(), &stage.times));
    let total = run.total.iter().map(|times| ("total", times));
    for (name, Times { samples_ms, .. }) in stages.chain(total) {
        if samples_ms.is_empty() || samples_ms.iter().any(|&ms| ms <= 0.0) {
            return Err(format!("`samples_ms` of {name} are not times above 0"));
        }
    }
    Ok(())
}
