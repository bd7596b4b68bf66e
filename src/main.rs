//! Parses, runs, sets the exit code.

fn main() -> std::process::ExitCode {
    darkroom::cli::main()
}
