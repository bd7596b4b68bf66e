//! `darkroom man`.

use std::path::PathBuf;

use crate::error::Error;
use clap_mangen::Man;

use super::{stdout, whole_file};

/// What was typed.
#[derive(clap::Args)]
pub struct Args {
    /// The command to describe; darkroom itself if absent
    command: Option<String>,

    /// Write the pages of all commands into this folder instead
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

/// Prints one page, or writes all of them and prints their paths.
pub fn run(args: &Args, command: clap::Command) -> anyhow::Result<()> {
    // As clap_mangen::generate_to does: pages are named after the whole command line.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    if let Some(dir) = &args.dir {
        for page in std::iter::once(&command).chain(command.get_subcommands()) {
            let man = Man::new(page.clone());
            let path = dir.join(man.get_filename());
            whole_file::write(&path, true, &render(&man)?)?;
            stdout::line(path.display().to_string())?;
        }
        return Ok(());
    }
    let page = match &args.command {
        None => &command,
        Some(name) => command.find_subcommand(name).ok_or_else(|| {
            let known: Vec<_> = command
                .get_subcommands()
                .map(clap::Command::get_name)
                .collect();
            Error::Request(format!(
                "no command is called `{name}`: {}",
                known.join(", ")
            ))
        })?,
    };
    stdout::bytes(&render(&Man::new(page.clone()))?)
}

fn render(man: &Man) -> anyhow::Result<Vec<u8>> {
    let mut page = Vec::new();
    man.render(&mut page)?;
    Ok(page)
}
