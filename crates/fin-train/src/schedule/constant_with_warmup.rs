//! Warm-up, then one learning rate.

use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::{Schedule, warmup};
use crate::registry::{self, Options};

/// Linear from 0 to 1 over the warm-up, then 1, as `get_constant_schedule_with_warmup` of
/// transformers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WarmupConstant {
    warmup: f64,
}

impl Default for WarmupConstant {
    /// A warm-up over a tenth of the steps.
    fn default() -> Self {
        Self { warmup: 0.1 }
    }
}

impl WarmupConstant {
    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let parsed: Self = registry::parse("constant_with_warmup", options)?;
        warmup::check(parsed.warmup)?;
        Ok(parsed)
    }
}

impl Schedule for WarmupConstant {
    fn name(&self) -> &'static str {
        "constant_with_warmup"
    }

    fn factor(&self, step: usize, total: usize) -> f64 {
        warmup::factor(self.warmup, step, total, |_| 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_the_warm_up_the_factor_is_one() {
        let schedule = WarmupConstant { warmup: 0.5 };
        let factors: Vec<f64> = (0..5).map(|step| schedule.factor(step, 4)).collect();
        assert_eq!(factors, [0.0, 0.5, 1.0, 1.0, 1.0]);
    }
}
