//! Failures in words, and the exit code.

use std::any::Any;
use std::io::{IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// Exit code of a failure that is not the user's.
const FAILED: u8 = 1;

/// Runs a command; reports what went wrong on stderr. A panic, too, ends in one plain line.
pub fn guard(command: impl FnOnce() -> anyhow::Result<()>) -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        // An observer's or a closed pipe's end is no panic; only a defect comes here.
        let place = panic
            .location()
            .map(|l| format!(" ({}:{})", l.file(), l.line()));
        let text = words(panic.payload());
        say(&format!(
            "error: a defect in darkroom{}: {text}",
            place.unwrap_or_default()
        ));
        say("  please report it together with the command line");
    }));
    match catch_unwind(AssertUnwindSafe(command)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        // Whoever read our output has left: `darkroom models | head -1`.
        Ok(Err(error)) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            say(&report(&error));
            ExitCode::from(exit_code(&error))
        }
        Err(_) => ExitCode::from(FAILED),
    }
}

/// A line on stderr. There is nobody to tell when stderr is gone.
pub fn say(line: &str) {
    let mut stderr = std::io::stderr();
    let clear = if stderr.is_terminal() { "\r\x1b[K" } else { "" };
    let _ = writeln!(stderr, "{clear}{line}");
}

/// A warning on stderr.
pub fn warn(text: impl std::fmt::Display) {
    say(&format!("warning: {text}"));
}

fn words(payload: &dyn Any) -> &str {
    payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("no further words")
}

/// `error: …`, then each cause that says something new, one per line.
fn report(error: &anyhow::Error) -> String {
    let mut lines = vec![format!("error: {error}")];
    for cause in error.chain().skip(1).map(|cause| cause.to_string()) {
        if !lines.iter().any(|line| line.contains(&cause)) {
            lines.push(format!("  because: {cause}"));
        }
    }
    lines.join("\n")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

fn exit_code(error: &anyhow::Error) -> u8 {
    error
        .chain()
        .find_map(|cause| cause.downcast_ref::<crate::error::Error>())
        .map_or(FAILED, crate::error::Error::exit_code)
}

#[cfg(test)]
mod tests {
    use crate::error::Error;
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn causes_are_told_once_each() {
        let error = anyhow!("disk full")
            .context("cannot write: disk full")
            .context("no image");
        assert_eq!(
            report(&error),
            "error: no image\n  because: cannot write: disk full"
        );
    }

    #[test]
    fn the_exit_code_survives_context() {
        let wrong = anyhow::Error::from(Error::Request("0 steps".into())).context("generate");
        assert_eq!(exit_code(&wrong), 2);
        assert_eq!(exit_code(&Error::Cancelled.into()), 130);
        assert_eq!(exit_code(&anyhow!("anything else")), 1);
    }
}
