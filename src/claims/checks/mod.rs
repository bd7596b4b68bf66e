//! One module a kind of check: each makes figures for the claims that it names.

pub mod advice;
pub mod batch;
pub mod cluster;
pub mod cost;
pub mod dynamic;
pub mod fusion;
pub mod latency;
pub mod memory;
pub mod photonic;
pub mod savings;
pub mod training;
pub mod utilisation;
