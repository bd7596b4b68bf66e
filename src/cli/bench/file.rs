//! Files of runs: one JSON object a line, one line a run.

use std::path::Path;

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
