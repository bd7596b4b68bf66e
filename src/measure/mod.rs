//! What happened in a run: observers that measure.

pub mod timer;
