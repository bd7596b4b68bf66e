//! Ctrl-C: once to stop cleanly, twice to stop at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::observe::{Event, Observer};
use anyhow::Context;

use super::failure::say;

/// Observer that ends the run at the next event after Ctrl-C (or SIGTERM, SIGHUP).
#[derive(Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes over the signals of this process; possible once.
    pub fn install() -> anyhow::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        let seen = flag.clone();
        ctrlc::set_handler(move || {
            if seen.swap(true, Ordering::SeqCst) {
                // Without what is done at exit, which would wait for a GPU's work, or pull the driver from under it.
                // SAFETY: a function without conditions.
                unsafe { libc::_exit(Error::Cancelled.exit_code().into()) };
            }
            say("stopping after this step; once more stops at once");
        })
        .context("cannot watch for Ctrl-C")?;
        Ok(Self(flag))
    }

    /// An error once the user asked to stop.
    pub fn check(&self) -> Result<()> {
        match self.0.load(Ordering::SeqCst) {
            true => Err(Error::Cancelled),
            false => Ok(()),
        }
    }
}

impl Observer for Interrupt {
    fn on(&mut self, _: Event<'_>) -> Result<()> {
        self.check()
    }
}
