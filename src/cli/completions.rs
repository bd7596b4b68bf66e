//! `darkroom completions`.

use clap_complete::Shell;

use super::stdout;

/// What was typed.
#[derive(clap::Args)]
pub struct Args {
    /// The shell that will read it
    shell: Shell,
}

/// Prints the script.
pub fn run(args: &Args, mut command: clap::Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "darkroom", &mut script);
    stdout::bytes(&script)
}
