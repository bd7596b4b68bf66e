//! The samplers' names.

use super::SchedulerError;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A sampler, as `--scheduler` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum SchedulerKind {
    Euler,
    EulerKarras,
    EulerAncestral,
    Ddim,
    DpmSolver2M,
    DpmSolver2MKarras,
    Lcm,
    Tcd,
}

impl SchedulerKind {
    /// Every sampler, in the order in which help texts list them.
    pub const ALL: [Self; 8] = [
        Self::Euler,
        Self::EulerKarras,
        Self::EulerAncestral,
        Self::Ddim,
        Self::DpmSolver2M,
        Self::DpmSolver2MKarras,
        Self::Lcm,
        Self::Tcd,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Euler => "euler",
            Self::EulerKarras => "euler-karras",
            Self::EulerAncestral => "euler-a",
            Self::Ddim => "ddim",
            Self::DpmSolver2M => "dpm++2m",
            Self::DpmSolver2MKarras => "dpm++2m-karras",
            Self::Lcm => "lcm",
            Self::Tcd => "tcd",
        }
    }

    /// diffusers' class.
    pub fn class_name(self) -> &'static str {
        match self {
            Self::Euler | Self::EulerKarras => "EulerDiscreteScheduler",
            Self::EulerAncestral => "EulerAncestralDiscreteScheduler",
            Self::Ddim => "DDIMScheduler",
            Self::DpmSolver2M | Self::DpmSolver2MKarras => "DPMSolverMultistepScheduler",
            Self::Lcm => "LCMScheduler",
            Self::Tcd => "TCDScheduler",
        }
    }

    /// The sampler of a diffusers class and its `use_karras_sigmas`.
    pub(super) fn of_class(class: &str, karras: bool) -> Option<Self> {
        let plain = Self::ALL.into_iter().find(|k| k.class_name() == class)?;
        Some(match (plain, karras) {
            (Self::Euler, true) => Self::EulerKarras,
            (Self::DpmSolver2M, true) => Self::DpmSolver2MKarras,
            _ => plain,
        })
    }

    /// Whether the name asks for Karras' noise levels.
    pub(super) fn is_karras(self) -> bool {
        matches!(self, Self::EulerKarras | Self::DpmSolver2MKarras)
    }
}

impl fmt::Display for SchedulerKind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for SchedulerKind {
    type Err = SchedulerError;

    fn from_str(name: &str) -> Result<Self, SchedulerError> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| SchedulerError::UnknownName(name.to_owned()))
    }
}

/// Every name, for messages.
pub(super) fn names() -> String {
    SchedulerKind::ALL.map(SchedulerKind::name).join(", ")
}

impl TryFrom<String> for SchedulerKind {
    type Error = SchedulerError;

    fn try_from(name: String) -> Result<Self, SchedulerError> {
        name.parse()
    }
}

impl From<SchedulerKind> for String {
    fn from(kind: SchedulerKind) -> Self {
        kind.name().to_owned()
    }
}
