//! What each operation holds for itself, in bytes: the most besides its inputs and its result. One function an
//! operation and processor, for the forecast.

pub mod cpu;
pub mod gpu;
