//! What an int8 model saves and costs, beside its unquantised twin.
//!
//! ```text
//! checkpoint → what its networks keep, to the byte      [`weights`]
//! twin's run → latents and pictures kept on disk        [`tape`]
//! int8 run   → drift by step, likeness of the pictures  [`tape`], [`picture`]
//! all of it  → a record that can be signed              [`ledger`]
//! ```

pub mod ledger;
pub mod picture;
pub mod tape;
pub mod weights;
