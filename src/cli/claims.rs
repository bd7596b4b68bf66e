//! `darkroom claims`: a white paper's numbers beside what they should be and what was measured.

mod markdown;
mod plot;
mod record;
mod table;

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::bench::file;
use super::{stdout, whole_file};
use crate::claims::grounds::{COMMITTED, Grounds, Sourced};
use crate::claims::{Checked, check};
use crate::error::{Error, Result};
use crate::measure::record::{Run, SCHEMA};

const HELP: &str = "\
Examples:
  darkroom claims
  darkroom claims W1 W4
  darkroom bench --json here.jsonl && darkroom claims --run here.jsonl
  darkroom claims --report claims/       # REPORT.md and its plots

Without --run, the runs that come with the program are taken. A figure of another device or under other
conditions is shown as that and judges nothing; times of a GPU that no run is from are forecasts.";

/// What was typed.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Claims to check, W1 to W15 [default: all]
    ids: Vec<String>,

    /// Runs from `darkroom bench --json`, in the place of those in the program; may be repeated
    #[arg(long = "run", value_name = "FILE")]
    runs: Vec<PathBuf>,

    /// Print one JSON record
    #[arg(long, conflicts_with_all = ["markdown", "report"])]
    json: bool,

    /// Print the report in Markdown
    #[arg(long, conflicts_with = "report")]
    markdown: bool,

    /// Write the report and its plots into a folder
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,

    /// Replace existing files
    #[arg(long, requires = "report")]
    force: bool,
}

/// Checks and prints.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(folder) = &args.report {
        whole_file::check_folder(folder)?;
        for name in FILES {
            whole_file::check_name(&folder.join(name), args.force)?;
        }
    }
    let grounds = Grounds::new(runs(&args.runs)?)?;
    let checked = check(&args.ids, &grounds)?;
    match &args.report {
        Some(folder) => report(folder, args.force, &checked, &grounds),
        None if args.json => stdout::json(&record::Record::new(&checked, &grounds)),
        None if args.markdown => stdout::bytes(markdown::text(&checked, &grounds).as_bytes()),
        None => stdout::bytes(table::text(&checked, &grounds).as_bytes()),
    }
}

/// Files of a report.
const FILES: [&str; 4] = [
    "REPORT.md",
    "differences.svg",
    "batch-memory.svg",
    "cost-latency.svg",
];

/// Everything is made before anything is written.
fn report(
    folder: &Path,
    force: bool,
    checked: &[Checked],
    grounds: &Grounds,
) -> anyhow::Result<()> {
    let text = markdown::text(checked, grounds).into_bytes();
    let [differences, memory, cost] = plot::all(checked, grounds)?;
    for (name, bytes) in FILES.iter().zip([text, differences, memory, cost]) {
        let path = folder.join(name);
        whole_file::make_folder_of(&path)?;
        whole_file::write(&path, force, &bytes)?;
    }
    let names = FILES.map(|name| folder.join(name).display().to_string());
    stdout::line(names.join("\n"))
}

/// The runs of files, or those in the program.
fn runs(paths: &[PathBuf]) -> Result<Vec<Sourced>> {
    let sourced = |source: &str, runs: Vec<Run>| {
        let source = source.to_owned();
        let of = move |run| Sourced {
            source: source.clone(),
            run,
        };
        runs.into_iter().map(of)
    };
    let mut all = Vec::new();
    if paths.is_empty() {
        for (name, lines) in COMMITTED {
            all.extend(sourced(name, file::parse(Path::new(name), lines)?.runs));
        }
    }
    for path in paths {
        let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
        check_kind(path, &text)?;
        let contents = file::parse(path, &text)?;
        if let Some(other) = contents.skipped.first() {
            return Err(Error::file(path, other));
        }
        let name = path.file_name().unwrap_or(path.as_os_str());
        all.extend(sourced(&name.to_string_lossy(), contents.runs));
    }
    Ok(all)
}

/// Refuses a file that is one record of another kind, as darkroom's other commands print them.
fn check_kind(path: &Path, text: &str) -> Result<()> {
    let Ok(value) = serde_json::from_str::<Value>(text) else {
        return Ok(()); // several lines of JSON, or none
    };
    let Some(schema) = value.get("schema") else {
        return Ok(());
    };
    match schema == SCHEMA && value.get("limits").is_none() {
        true => Err(Error::file(
            path,
            format!(
                "a record with schema {schema}, but of another kind: `darkroom bench --json` writes \
                 what is read here, its schema {SCHEMA} with `request`, `limits` and `stages`"
            ),
        )),
        false => Ok(()),
    }
}
