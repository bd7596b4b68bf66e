//! Parses, runs, sets the exit code.

/// Memory is a result here: `darkroom bench` reports the heap to the byte.
#[global_allocator]
static ALLOCATOR: darkroom::measure::memory::Counting = darkroom::measure::memory::Counting;

fn main() -> std::process::ExitCode {
    darkroom::cli::main()
}
