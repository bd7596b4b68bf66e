//! Where weights come from: the models known by name ([`manifest`]) and how their files reach this
//! machine ([`fetch`]).

pub mod fetch;
pub mod manifest;
