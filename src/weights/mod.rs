//! Where weights come from: the models known by name ([`manifest`]), how their files reach this
//! machine ([`fetch`]) or lie in the binary ([`micro`]), how they are read ([`checkpoint`]), and how
//! they are made up where a model's shapes are all that is wanted ([`synthetic`]).

pub mod checkpoint;
pub mod fetch;
mod fingerprint;
pub mod folder;
pub mod manifest;
pub mod mapped;
pub mod micro;
pub mod synthetic;
mod values;
