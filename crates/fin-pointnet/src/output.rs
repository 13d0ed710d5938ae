//! Which of the network's vectors is the embedding.

use std::fmt;
use std::str::FromStr;

use fin_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// Which of the network's vectors is the embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PointOutput {
    /// The first fully connected stage of the classifier, `fc1` and `bn1`: 512 components.
    #[default]
    Embedding,
    /// What the last set abstraction gives, before the classifier: 1024 components, none negative.
    Global,
}

impl PointOutput {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Embedding, Self::Global];

    /// Name on the command line and in configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Global => "global",
        }
    }
}

impl fmt::Display for PointOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PointOutput {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|output| output.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::argument(
                "pooling",
                format!("`{text}` is not an output of PointNet++; accepted: {names}"),
            )
        })
    }
}
