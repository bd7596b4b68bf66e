//! Files of records: what `darkroom bench` and `darkroom validate` wrote.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::claims::grounds::COMMITTED;
use crate::claims::source::Sourced;
use crate::cli::bench::file::{Line, lines, text};
use crate::error::{Error, Result};
use crate::measure::record::SCHEMA;
use crate::validate::ledger::{self, Ledger};

/// What was measured.
#[derive(Default)]
pub struct Records {
    pub runs: Vec<Sourced>,
    pub validations: Vec<Sourced<Ledger>>,
}

/// The records of files, or those in the program.
pub fn records(paths: &[PathBuf]) -> Result<Records> {
    let mut records = Records::default();
    if paths.is_empty() {
        for (name, text) in COMMITTED {
            records.read(name, Path::new(name), text)?;
        }
    }
    for path in paths {
        let text = text(path)?;
        check_kind(path, &text)?;
        let name = path.file_name().unwrap_or(path.as_os_str());
        records.read(&name.to_string_lossy(), path, &text)?;
    }
    Ok(records)
}

impl Records {
    fn read(&mut self, name: &str, path: &Path, text: &str) -> Result<()> {
        let lines = lines(path, text)?;
        if lines.is_empty() {
            let writers = "`darkroom bench --json` and `validate --json` write them";
            return Err(Error::file(path, format!("holds no record: {writers}")));
        }
        for line in lines {
            let source = name.to_owned();
            let known = match is_validation(&line.value) {
                true => ledger::SCHEMA,
                false => SCHEMA,
            };
            if line.schema != u64::from(known) {
                return Err(Error::file(path, line.of_another_schema(known)));
            }
            match is_validation(&line.value) {
                true => self.validations.push(Sourced {
                    source,
                    run: validation(&line)?,
                }),
                false => self.runs.push(Sourced {
                    source,
                    run: line.run()?,
                }),
            }
        }
        Ok(())
    }
}

fn is_benchmark(value: &Value) -> bool {
    value.get("limits").is_some()
}

fn is_validation(value: &Value) -> bool {
    value.get("quality").is_some() && value.get("memory").is_some()
}

/// The validation that a line of its schema is.
fn validation(line: &Line<'_>) -> Result<Ledger> {
    let ledger = Ledger::deserialize(&line.value)
        .map_err(|e| line.wrong(format!("not a validation's record: {e}")))?;
    match ledger.speed.iter().all(|stage| stage.ratio > 0.0) {
        true => Ok(ledger),
        false => Err(line.wrong("a `ratio` of `speed` is no number above 0")),
    }
}

/// Refuses a file that is one record of another kind, as darkroom's other commands print them.
fn check_kind(path: &Path, text: &str) -> Result<()> {
    let Ok(value) = serde_json::from_str::<Value>(text) else {
        return Ok(()); // several lines of JSON, or none
    };
    let Some(schema) = value.get("schema") else {
        return Ok(());
    };
    match !is_benchmark(&value) && !is_validation(&value) {
        true => Err(Error::file(
            path,
            format!(
                "a record with schema {schema}, but of another kind: what `darkroom bench --json` and \
                 `darkroom validate --json` write is read here"
            ),
        )),
        false => Ok(()),
    }
}
