//! `darkroom models`: what is known by name, what of it is here; and `darkroom models fetch`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::weights::fetch::{
    CacheState, FetchError, FetchEvent, FetchOptions, ModelFiles, cached, fetch,
};
use crate::weights::manifest::{Defaults, Licence, Manifest, Model};

/// The form of the JSON that this command prints.
const SCHEMA: u32 = 1;

const SYNTHETIC: &str = "\
`--model synthetic:NAME` (micro, sdxl-base, sdxl-refiner) or `synthetic:DIR` needs no files: it makes \
up weights of the model's shapes, to measure time and memory.";

/// List the models known by name, or fetch one
#[derive(Debug, Args)]
#[command(after_help = SYNTHETIC)]
pub struct ModelsArgs {
    #[command(subcommand)]
    command: Option<ModelsCommand>,

    /// Print JSON
    #[arg(long, global = true)]
    json: bool,

    /// Add the models of this file to those known, or put them in their place
    #[arg(long, value_name = "FILE", global = true)]
    weights: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// Download a model into the hub's cache and verify it
    Fetch(FetchArgs),
}

#[derive(Debug, Args)]
struct FetchArgs {
    /// The model's name or alias
    name: String,

    /// Only verify what is cached; ask nobody
    #[arg(long)]
    offline: bool,

    /// The precision to take, where the model comes in several: fp16, f32
    #[arg(long)]
    variant: Option<String>,
}

/// Runs the command.
pub fn run(args: ModelsArgs) -> anyhow::Result<()> {
    let manifest = manifest(args.weights.as_deref())?;
    let mut options = FetchOptions::from_env()?;
    let mut out = io::stdout().lock();
    match args.command {
        None => {
            let rows = rows(&manifest, &options)?;
            if args.json {
                let cache = &options.cache_dir;
                let report = Report {
                    schema: SCHEMA,
                    cache,
                    models: &rows,
                };
                writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
            } else {
                out.write_all(table(&rows).as_bytes())?;
            }
        }
        Some(ModelsCommand::Fetch(fetch_args)) => {
            options.offline |= fetch_args.offline;
            options.variant = fetch_args.variant;
            let model = manifest.model(&fetch_args.name)?;
            let mut progress = FetchProgress::new();
            let files = match fetch(&manifest, model, &options, &mut |e| progress.on(&e)) {
                Ok(files) => Some(files),
                // Asking for what is in the binary is no mistake.
                Err(FetchError::Embedded { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            progress.finish();
            if args.json {
                let fetched = Fetched {
                    schema: SCHEMA,
                    model: &model.name,
                    files: files.as_ref(),
                };
                writeln!(out, "{}", serde_json::to_string_pretty(&fetched)?)?;
            } else if files.is_some() {
                writeln!(out, "{}: complete and verified", model.name)?;
            } else {
                writeln!(out, "{}: in the binary, nothing to fetch", model.name)?;
            }
        }
    }
    Ok(())
}

/// The models in the binary, and those of a file where one is given.
pub fn manifest(file: Option<&Path>) -> anyhow::Result<Manifest> {
    Ok(match file {
        Some(path) => Manifest::load(path)?,
        None => Manifest::builtin(),
    })
}

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    cache: &'a Path,
    models: &'a [Row<'a>],
}

#[derive(Serialize)]
struct Fetched<'a> {
    schema: u32,
    model: &'a str,
    /// `null` for a model in the binary.
    files: Option<&'a ModelFiles>,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    aliases: &'a [String],
    title: &'a str,
    /// `owner/name` on the hub; `null` for a model in the binary.
    repo: Option<&'a str>,
    revision: Option<&'a str>,
    base: Option<&'a str>,
    vae_f16: Option<&'a str>,
    licence: &'a Licence,
    defaults: Option<&'a Defaults>,
    cached: CacheState,
}

fn rows<'a>(manifest: &'a Manifest, options: &FetchOptions) -> anyhow::Result<Vec<Row<'a>>> {
    let row = |model: &'a Model| {
        Ok(Row {
            name: &model.name,
            aliases: &model.aliases,
            title: &model.title,
            repo: model.hub().map(|h| h.repo.as_str()),
            revision: model.hub().map(|h| h.revision.as_str()),
            base: model.base.as_deref(),
            vae_f16: model.vae_f16.as_deref(),
            licence: &model.licence,
            defaults: model.defaults.as_ref(),
            cached: cached(manifest, model, options)?,
        })
    };
    manifest.models().map(row).collect()
}

fn table(rows: &[Row<'_>]) -> String {
    let head = ["NAME", "HERE", "SIZE", "LICENCE"].map(String::from);
    let cells = rows.iter().map(|row| {
        let size = match row.cached.bytes_total {
            _ if row.repo.is_none() => "-".into(),
            Some(bytes) => DecimalBytes(bytes).to_string(),
            None => "not known yet".into(),
        };
        // The name before any remark: the rest is in the JSON and in the licence itself.
        let licence = row
            .licence
            .name
            .split([':', '('])
            .next()
            .unwrap_or_default()
            .trim();
        [row.name.to_owned(), here(row), size, licence.to_owned()]
    });
    let lines: Vec<[String; 4]> = std::iter::once(head).chain(cells).collect();
    let width = |column: usize| {
        lines
            .iter()
            .map(|l| l[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let [name, here, size] = [width(0), width(1), width(2)];
    let line = |l: &[String; 4]| {
        format!(
            "{:name$}  {:here$}  {:>size$}  {}\n",
            l[0], l[1], l[2], l[3]
        )
    };
    lines.iter().map(line).collect()
}

fn here(row: &Row<'_>) -> String {
    let CacheState { files, missing, .. } = &row.cached;
    match files - missing.len() {
        _ if row.repo.is_none() => "in the binary".into(),
        0 => "no".into(),
        present if present == *files => "yes".into(),
        present => format!("{present} of {files} files"),
    }
}

/// Shows a fetch on stderr: licences, and a bar for each file.
pub struct FetchProgress {
    bar: ProgressBar,
    shown: String,
}

impl FetchProgress {
    /// Nothing is shown before something happens.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self {
            bar: ProgressBar::hidden(),
            shown: String::new(),
        }
    }

    /// Shows one event.
    pub fn on(&mut self, event: &FetchEvent<'_>) {
        match event {
            FetchEvent::Licence { model, licence } => {
                eprintln!(
                    "{} comes under: {} ({})",
                    model.name, licence.name, licence.url
                );
            }
            FetchEvent::Begin {
                files,
                bytes,
                unknown,
            } => {
                let known = match files - unknown {
                    0 => String::new(),
                    known => format!("{known} files of {}", DecimalBytes(*bytes)),
                };
                let unknown = match unknown {
                    0 => String::new(),
                    unknown => format!("{unknown} files of a size not known yet"),
                };
                let both = if known.is_empty() || unknown.is_empty() {
                    ""
                } else {
                    " and "
                };
                eprintln!("fetching {known}{both}{unknown}");
            }
            FetchEvent::Download { path, done, total } => self.show("fetch", path, *done, *total),
            FetchEvent::Verify { path, done, total } => self.show("verify", path, *done, *total),
            FetchEvent::Ready { .. } => self.finish(),
            FetchEvent::Warning(text) => {
                self.finish();
                eprintln!("warning: {text}");
            }
        }
    }

    /// Leaves the last bar.
    pub fn finish(&mut self) {
        self.bar.finish_and_clear();
        self.shown.clear();
    }

    fn show(&mut self, doing: &str, path: &str, done: u64, total: u64) {
        let message = format!("{doing} {path}");
        if message != self.shown {
            self.finish();
            let template = "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} \
                            {decimal_bytes_per_sec} {eta}";
            let style = ProgressStyle::with_template(template)
                .expect("the template is constant, and the command's first use would show a fault");
            // What an earlier attempt left counts as done, not as speed.
            self.bar = ProgressBar::new(total)
                .with_style(style)
                .with_position(done);
            self.bar.set_message(message.clone());
            self.bar.reset_eta();
            self.shown = message;
        }
        self.bar.set_position(done);
    }
}
