//! Where weights come from: the models known by name ([`manifest`]), how their files reach this
//! machine ([`fetch`]) or lie in the binary ([`micro`]), and how they are read ([`checkpoint`]).

pub mod checkpoint;
pub mod fetch;
mod fingerprint;
pub mod folder;
pub mod manifest;
pub mod micro;
