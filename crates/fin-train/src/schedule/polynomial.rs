//! Warm-up, then a power of what is left.

use fin_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Schedule, warmup};
use crate::registry::{self, Options};

/// Linear from 0 to 1 over the warm-up, then `(1 − end) · (1 − p)^power + end` where `p` is the part of
/// the rest that is done, as `get_polynomial_decay_schedule_with_warmup` of transformers with
/// `lr_end` as a factor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WarmupPolynomial {
    warmup: f64,
    power: f64,
    end: f64,
}

impl Default for WarmupPolynomial {
    /// A warm-up over a tenth of the steps, then quadratic to 0.
    fn default() -> Self {
        Self {
            warmup: 0.1,
            power: 2.0,
            end: 0.0,
        }
    }
}

impl WarmupPolynomial {
    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let parsed: Self = registry::parse("polynomial", options)?;
        warmup::check(parsed.warmup)?;
        if !(parsed.power > 0.0 && parsed.power.is_finite()) {
            let reason = format!("{} is not a positive number", parsed.power);
            return Err(Error::argument("power", reason));
        }
        if !(0.0..1.0).contains(&parsed.end) {
            let reason = format!("{} is not a factor from 0 to below 1", parsed.end);
            return Err(Error::argument("end", reason));
        }
        Ok(parsed)
    }
}

impl Schedule for WarmupPolynomial {
    fn name(&self) -> &'static str {
        "polynomial"
    }

    fn factor(&self, step: usize, total: usize) -> f64 {
        warmup::factor(self.warmup, step, total, |done| {
            (1.0 - self.end) * (1.0 - done).max(0.0).powf(self.power) + self.end
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn factors(options: serde_json::Value, total: usize) -> Vec<f64> {
        let options = options.as_object().unwrap().clone();
        let schedule = WarmupPolynomial::from_options(&options).unwrap();
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
    fn factors_of_powers_are_those_of_transformers() {
        // get_polynomial_decay_schedule_with_warmup(optimizer, 2, 6, lr_end=0.2, power=2), rate 1.
        let expected = [0.0, 0.5, 1.0, 0.65, 0.4, 0.25, 0.2];
        let options = json!({"warmup": 1.0 / 3.0, "power": 2, "end": 0.2});
        near(&factors(options, 6), &expected);
        near(
            &factors(json!({"warmup": 0, "power": 1}), 2),
            &[1.0, 0.5, 0.0],
        );
        for options in [json!({"power": 0}), json!({"end": 1}), json!({"end": -0.1})] {
            let options = options.as_object().unwrap();
            assert!(WarmupPolynomial::from_options(options).is_err());
        }
    }
}
