//! `darkroom claims`: a white paper's numbers beside what they should be and what was measured.

mod markdown;
mod plot;
mod read;
mod record;
mod table;

use std::path::{Path, PathBuf};

use super::{stdout, whole_file};
use crate::claims::grounds::Grounds;
use crate::claims::{Checked, check};

const HELP: &str = "\
Examples:
  darkroom claims
  darkroom claims W1 W4
  darkroom bench --json here.jsonl && darkroom claims --run here.jsonl
  darkroom validate --json int8.jsonl && darkroom claims W5 W11 --run int8.jsonl
  darkroom claims --report claims/       # REPORT.md and its plots

Without --run, the runs that come with the program are taken. A figure of another device or under other
conditions is shown as that and judges nothing; times of a GPU that no run is from are forecasts.";

/// What was typed.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Claims to check, W1 to W15 [default: all]
    ids: Vec<String>,

    /// Records from `bench --json` or `validate --json`, in the place of those in the program; may be
    /// repeated
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
    let records = read::records(&args.runs)?;
    let grounds = Grounds::new(records.runs, records.validations)?;
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
