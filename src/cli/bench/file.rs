//! Files of runs: one JSON object a line, one line a run.

use std::fmt::Display;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::measure::record::{Run, SCHEMA, Times};

/// The runs of a file, and what was passed over, in words.
pub struct Contents {
    pub runs: Vec<Run>,
    pub skipped: Vec<String>,
}

/// Reads a file of runs. A run of another schema is passed over; anything else that is no run is an
/// error that names its line.
pub fn read(path: &Path) -> Result<Contents> {
    parse(path, &text(path)?)
}

/// The text of a file of records.
pub fn text(path: &Path) -> Result<String> {
    if path.is_dir() {
        return Err(Error::file(path, "is a folder: give a file of records"));
    }
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, e))?;
    String::from_utf8(bytes).map_err(|_| {
        Error::file(
            path,
            "is no text, and records are JSON: give a file of records",
        )
    })
}

/// The same of a text that `path` names.
fn parse(path: &Path, text: &str) -> Result<Contents> {
    let mut contents = Contents {
        runs: Vec::new(),
        skipped: Vec::new(),
    };
    for line in lines(path, text)? {
        match line.schema == u64::from(SCHEMA) {
            true => contents.runs.push(line.run()?),
            false => {
                let problem = line.of_another_schema(SCHEMA);
                contents
                    .skipped
                    .push(format!("{}: {problem}", path.display()));
            }
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

/// A record in a file.
pub struct Line<'a> {
    path: &'a Path,
    number: usize,
    /// Form of the record.
    pub schema: u64,
    /// All of it.
    pub value: Value,
}

/// The records of a text, one JSON object a line, each with a schema number.
pub fn lines<'a>(path: &'a Path, text: &str) -> Result<Vec<Line<'a>>> {
    let numbered = (1..).zip(text.lines());
    let filled = numbered.filter(|(_, line)| !line.trim().is_empty());
    let lines = filled.map(|(number, line)| {
        let wrong = |problem: String| Error::file(path, format!("line {number}: {problem}"));
        let value: Value = serde_json::from_str(line)
            .map_err(|e| wrong(format!("not one JSON value a line: {e}")))?;
        let problem = match value.get("schema") {
            Some(_) => "its `schema` is no whole number",
            None => "it has no `schema`",
        };
        let schema = value.get("schema").and_then(Value::as_u64);
        Ok(Line {
            path,
            number,
            schema: schema
                .ok_or_else(|| wrong(format!("not a record of darkroom's: {problem}")))?,
            value,
        })
    });
    lines.collect()
}

impl Line<'_> {
    /// What is wrong with it, where it stands.
    pub fn wrong(&self, problem: impl Display) -> Error {
        Error::file(self.path, format!("line {}: {problem}", self.number))
    }

    /// That it is of another schema than the one that is read.
    pub fn of_another_schema(&self, read: u32) -> String {
        let Self { number, schema, .. } = self;
        format!("line {number} has schema {schema}, and this darkroom reads schema {read}")
    }

    /// The benchmark that it is, if its schema is [`SCHEMA`].
    pub fn run(&self) -> Result<Run> {
        let run = Run::deserialize(&self.value).map_err(|e| {
            let kind = "but not a benchmark's record";
            self.wrong(format!("schema {SCHEMA}, {kind}: {e}"))
        })?;
        check(&run).map_err(|problem| self.wrong(problem))?;
        Ok(run)
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
