//! One learning rate throughout.

use serde::{Deserialize, Serialize};

use super::Schedule;

/// Factor 1 at every step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Constant {}

impl Schedule for Constant {
    fn name(&self) -> &'static str {
        "constant"
    }

    fn factor(&self, _step: usize, _total: usize) -> f64 {
        1.0
    }
}
