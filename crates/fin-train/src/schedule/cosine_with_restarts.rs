//! Warm-up, then half cosines one after the other.

use std::f64::consts::PI;

use fin_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Schedule, warmup};
use crate::registry::{self, Options};

/// Linear from 0 to 1 over the warm-up, then `cycles` times from 1 down to 0 along a half cosine, each
/// beginning anew at 1 (Loshchilov and Hutter 2016, "SGDR"), as
/// `get_cosine_with_hard_restarts_schedule_with_warmup` of transformers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WarmupCosineRestarts {
    warmup: f64,
    cycles: usize,
}

impl Default for WarmupCosineRestarts {
    /// A warm-up over a tenth of the steps, one cycle.
    fn default() -> Self {
        Self {
            warmup: 0.1,
            cycles: 1,
        }
    }
}

impl WarmupCosineRestarts {
    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let parsed: Self = registry::parse("cosine_with_restarts", options)?;
        warmup::check(parsed.warmup)?;
        if parsed.cycles == 0 {
            return Err(Error::argument(
                "cycles",
                "0 are none; 1 or more are needed",
            ));
        }
        Ok(parsed)
    }
}

impl Schedule for WarmupCosineRestarts {
    fn name(&self) -> &'static str {
        "cosine_with_restarts"
    }

    fn factor(&self, step: usize, total: usize) -> f64 {
        warmup::factor(self.warmup, step, total, |done| {
            if done >= 1.0 {
                return 0.0;
            }
            let within = (self.cycles as f64 * done) % 1.0;
            0.5 * (1.0 + (PI * within).cos())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn factors(options: serde_json::Value, total: usize) -> Vec<f64> {
        let options = options.as_object().unwrap().clone();
        let schedule = WarmupCosineRestarts::from_options(&options).unwrap();
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
    fn factors_of_restarts_are_those_of_transformers() {
        // get_cosine_with_hard_restarts_schedule_with_warmup(optimizer, 2, 6, num_cycles=2).
        let expected = [0.0, 0.5, 1.0, 0.5, 1.0, 0.5, 0.0];
        near(
            &factors(json!({"warmup": 1.0 / 3.0, "cycles": 2}), 6),
            &expected,
        );
        let root = 0.5f64.sqrt() / 2.0;
        near(
            &factors(json!({"warmup": 0}), 4),
            &[1.0, 0.5 + root, 0.5, 0.5 - root, 0.0],
        );
        for options in [
            json!({"warmup": -1}),
            json!({"cycles": 0}),
            json!({"cycles": 0.5}),
        ] {
            let options = options.as_object().unwrap();
            assert!(WarmupCosineRestarts::from_options(options).is_err());
        }
    }
}
