//! How far each int8 layer is from the layer it was made of.

use crate::error::Result;
use crate::pipeline::Pipeline;
use crate::request::Request;
use serde::{Deserialize, Serialize};

/// One int8 layer beside its twin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerAudit {
    pub name: String,
    pub calls: usize,
    pub sqnr_db: f64,
    pub cosine: f64,
    pub largest_input: f64,
    pub typical_input: f64,
}

/// All int8 layers, worst first.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    pub layers: Vec<LayerAudit>,
}

/// Int8 layers of a pipeline, kept when it is dropped.
pub struct Layers(());

impl Layers {
    /// Of the layers that a step of `request` runs.
    pub fn of(_: &Pipeline, _: &Request) -> Result<Self> {
        Ok(Self(()))
    }
}

/// Runs a step of `request` on `float`.
pub fn audit(_: &Pipeline, _: &Layers, _: &Request) -> Result<Audit> {
    Ok(Audit::default())
}
