//! The pool that all CPU work shares.

use std::num::NonZeroUsize;

use crate::error::Error;
use anyhow::Context;

/// More than any machine's cores; a slip of the finger would start them all.
const MOST: usize = 1024;

/// Sizes the pool, where a size was typed. Called before anything uses it.
pub fn set(count: Option<NonZeroUsize>) -> anyhow::Result<()> {
    let Some(count) = count else {
        return Ok(());
    };
    if count.get() > MOST {
        let text = format!("--threads {count} is too many: at most {MOST}");
        return Err(Error::Request(text).into());
    }
    // SAFETY: no other thread runs yet that could read the environment.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", count.to_string()) }; // candle asks for it
    rayon::ThreadPoolBuilder::new()
        .num_threads(count.get())
        .build_global()
        .with_context(|| format!("cannot start {count} threads"))
}
