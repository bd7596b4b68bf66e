//! `darkroom claims`: a white paper's numbers beside what they should be and what was measured.

mod markdown;
mod plot;
mod read;
mod record;
mod table;

use std::path::{Path, PathBuf};

use super::{stdout, whole_file, width};
use crate::claims::grounds::Grounds;
use crate::claims::{Checked, check};
use plot::Plot;

const HELP: &str = "\
Examples:
  darkroom claims
  darkroom claims W1 W4
  darkroom bench --json here.jsonl && darkroom claims --run here.jsonl
  darkroom validate --json int8.jsonl && darkroom claims W5 W11 --run int8.jsonl
  darkroom claims --report claims/       # REPORT.md and its plots

Without --run, the runs that come with the program are taken, which no machine of yours has made. A \
figure of another device or under other conditions is shown as that and judges nothing; times of a GPU \
that no run is from are forecasts.";

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
    let records = read::records(&args.runs)?;
    let runs = match args.runs.is_empty() {
        true => "runs in the program",
        false => "runs given",
    };
    let grounds = Grounds::new(records.runs, records.validations)?;
    let checked = check(&args.ids, &grounds)?;
    let markdown = || markdown::text(&checked, &grounds, runs);
    match &args.report {
        Some(folder) => report(folder, args.force, markdown(), &checked, &grounds),
        None if args.json => stdout::json(&record::Record::new(&checked, &grounds)),
        None if args.markdown => stdout::bytes(markdown().as_bytes()),
        None => {
            let text = table::text(&checked, &grounds, runs, width::columns());
            stdout::bytes(text.as_bytes())
        }
    }
}

/// Everything is made before anything is written.
fn report(
    folder: &Path,
    force: bool,
    markdown: String,
    checked: &[Checked],
    grounds: &Grounds,
) -> anyhow::Result<()> {
    whole_file::check_folder(folder)?;
    let mut files = vec![("REPORT.md", markdown.into_bytes())];
    for plot in Plot::of(checked) {
        files.push((plot.file(), plot.bytes(checked, grounds)?));
    }
    let paths: Vec<PathBuf> = files.iter().map(|(name, _)| folder.join(name)).collect();
    for path in &paths {
        whole_file::check_name(path, force)?;
    }
    for (path, (_, bytes)) in paths.iter().zip(&files) {
        whole_file::make_folder_of(path)?;
        whole_file::write(path, force, bytes)?;
    }
    let names: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    stdout::line(names.join("\n"))
}
