//! Warm-up, then a half cosine.

use std::f64::consts::TAU;

use fin_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Schedule, warmup};
use crate::registry::{self, Options};

/// Linear from 0 to 1 over the warm-up, then `(1 + cos(2π · cycles · p)) / 2` where `p` is the part of
/// the rest that is done (Loshchilov and Hutter 2016), as `get_cosine_schedule_with_warmup` of
/// transformers. Half a cycle ends at 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WarmupCosine {
    warmup: f64,
    cycles: f64,
}

impl Default for WarmupCosine {
    /// A warm-up over a tenth of the steps, half a cycle.
    fn default() -> Self {
        Self {
            warmup: 0.1,
            cycles: 0.5,
        }
    }
}

impl WarmupCosine {
    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let parsed: Self = registry::parse("cosine", options)?;
        warmup::check(parsed.warmup)?;
        if !(parsed.cycles > 0.0 && parsed.cycles.is_finite()) {
            let reason = format!("{} is not a positive number", parsed.cycles);
            return Err(Error::argument("cycles", reason));
        }
        Ok(parsed)
    }
}

impl Schedule for WarmupCosine {
    fn name(&self) -> &'static str {
        "cosine"
    }

    fn factor(&self, step: usize, total: usize) -> f64 {
        warmup::factor(self.warmup, step, total, |done| {
            (0.5 * (1.0 + (TAU * self.cycles * done).cos())).max(0.0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn factors(options: serde_json::Value, total: usize) -> Vec<f64> {
        let options = options.as_object().unwrap().clone();
        let schedule = WarmupCosine::from_options(&options).unwrap();
        (0..=total)
            .map(|step| schedule.factor(step, total))
            .collect()
    }

    fn near(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() < 1e-12,
                "{found} against {expected}"
            );
        }
    }

    #[test]
    fn factors_of_cosine_are_those_of_transformers() {
        // torch.optim.lr_scheduler after get_cosine_schedule_with_warmup(optimizer, 2, 6).
        let root = 0.5f64.sqrt() / 2.0;
        let expected = [0.0, 0.5, 1.0, 0.5 + root, 0.5, 0.5 - root, 0.0];
        near(&factors(json!({"warmup": 1.0 / 3.0}), 6), &expected);
        // The same with num_cycles=1.
        let expected = [0.0, 0.5, 1.0, 0.5, 0.0, 0.5, 1.0];
        near(
            &factors(json!({"warmup": 1.0 / 3.0, "cycles": 1}), 6),
            &expected,
        );
        for options in [
            json!({"warmup": 2}),
            json!({"cycles": 0}),
            json!({"power": 1}),
        ] {
            let options = options.as_object().unwrap();
            assert!(WarmupCosine::from_options(options).is_err());
        }
    }
}
