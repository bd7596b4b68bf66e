//! The commands. What was typed stands in clap's structures, what it means in the library's types.

mod advise;
mod bench;
mod claims;
mod completions;
mod doctor;
mod dump;
mod failure;
mod generate;
mod inspect;
mod interrupt;
mod json_lines;
mod man;
mod model;
mod models;
mod plan;
mod plot;
mod progress;
mod quantize;
mod run_args;
mod stdout;
mod threads;
mod units;
mod validate;
mod whole_file;
mod width;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  darkroom generate \"a red apple on a blue background\"
  darkroom generate \"a lighthouse at night\" --model sdxl-base --seed 7 --count 4 -o night/
  darkroom inspect a-red-apple-on-a-blue-background-0.png";

/// Makes images from text with SDXL models.
#[derive(Parser)]
#[command(name = "darkroom", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make images from a prompt
    #[command(visible_alias = "g")]
    Generate(Box<generate::Args>),
    /// Write a model anew with int8 weights
    Quantize(quantize::Args),
    /// Tell whether a run fits in memory, and how long it takes at best, before anything is loaded
    Plan(plan::Args),
    /// Measure a model: time and memory by stage, beside what they should be
    Bench(Box<bench::Args>),
    /// Say what int8 weights save and what they cost, beside the unquantised model
    Validate(Box<validate::Args>),
    /// Put a white paper's numbers beside what they should be and what was measured
    Claims(claims::Args),
    /// Choose a GPU for a workload: latency, dollars and joules per image
    Advise(Box<advise::Args>),
    /// Show how an image was made
    Inspect(inspect::Args),
    /// List the models known by name, or fetch one
    Models(models::ModelsArgs),
    /// Show what this build and this machine can do
    Doctor(doctor::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Print the manual page
    Man(man::Args),
}

/// Runs the command line. Every failure ends as words and an exit code.
pub fn main() -> ExitCode {
    failure::guard(|| match Cli::parse().command {
        Command::Generate(args) => generate::run(*args),
        Command::Quantize(args) => quantize::run(args),
        Command::Plan(args) => plan::run(&args),
        Command::Bench(args) => bench::run(*args),
        Command::Validate(args) => validate::run(&args),
        Command::Claims(args) => claims::run(&args),
        Command::Advise(args) => advise::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Models(args) => models::run(args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => completions::run(&args, Cli::command()),
        Command::Man(args) => man::run(&args, Cli::command()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
