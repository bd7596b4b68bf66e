//! What happened in a run: time, memory and work, by stage, step and operation.
//!
//! [`recorder::Recorder`] is the observer that gathers all of it. Operations tell [`op`] what they
//! do, and [`memory`] counts the heap; both are idle, but for one load and two additions, while
//! nobody records. [`record`] is what a benchmark keeps of it. This module knows nothing of networks
//! or commands.

pub mod gpu;
pub mod machine;
pub mod memory;
pub mod op;
pub mod record;
pub mod recorder;
pub mod statistics;
pub mod timer;
