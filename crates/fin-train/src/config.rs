//! Settings of a training run.

use fin_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::optim::{Optimizer, OptimizerConfig, optimizer_from_name};
use crate::registry::Options;
use crate::schedule::{Schedule, schedule_from_name};

/// Settings of a training run. What a file leaves out has its default; fields that do not exist
/// are refused.
///
/// ```
/// let config: fin_train::TrainConfig = serde_json::from_str(r#"{"epochs": 3}"#)?;
/// assert_eq!((config.epochs, config.batch_size), (3, 16));
/// assert!(serde_json::from_str::<fin_train::TrainConfig>(r#"{"epoch": 3}"#).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Passes over the data. Default: 1.
    pub epochs: usize,
    /// Examples a batch. Default: 16.
    pub batch_size: usize,
    /// Batches a step: the gradients are those of the mean of their losses, as in transformers'
    /// `Trainer`. What is left of an epoch in the end is a step too, whose mean is over the batches
    /// that there are. Default: 1.
    pub gradient_accumulation_steps: usize,
    /// Largest learning rate of the schedule. Default: 2e-5.
    pub learning_rate: f64,
    /// Schedule of the learning rate, by name. Default: `linear`.
    pub schedule: String,
    /// Further options of the schedule, by name. Default: none.
    pub schedule_options: Options,
    /// Share of the steps that the schedule warms up over; `constant` ignores it. Default: 0.1.
    pub warmup: f64,
    /// Optimiser, by name. Default: `adamw`.
    pub optimizer: String,
    /// Further options of the optimiser, by name. Default: none.
    pub optimizer_options: Options,
    /// Weight decay. Default: 0.01 for `adamw`, 0 for the others.
    pub weight_decay: Option<f64>,
    /// Parameters without weight decay beside biases and normalisation layers, by upstream's name;
    /// `*` stands for any characters, `?` for one. Default: none.
    pub no_decay: Vec<String>,
    /// What the learning rate is multiplied by from each layer to the one below it; heads have the
    /// whole. Default: 1.
    pub layer_decay: f64,
    /// Largest global norm of the gradients; 0 for no limit. Default: 1.
    pub max_grad_norm: f64,
    /// Seed of shuffling and dropout. Default: 42.
    pub seed: u64,
    /// Steps at which to end, where the epochs have more. Default: none.
    pub max_steps: Option<usize>,
    /// Steps between checkpoints. Default: none are written.
    pub checkpoint_every_steps: Option<usize>,
    /// Newest checkpoints to keep; older ones are deleted. Default: 2.
    pub keep_checkpoints: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 1,
            batch_size: 16,
            gradient_accumulation_steps: 1,
            learning_rate: 2e-5,
            schedule: "linear".into(),
            schedule_options: Options::new(),
            warmup: 0.1,
            optimizer: "adamw".into(),
            optimizer_options: Options::new(),
            weight_decay: None,
            no_decay: Vec::new(),
            layer_decay: 1.0,
            max_grad_norm: 1.0,
            seed: 42,
            max_steps: None,
            checkpoint_every_steps: None,
            keep_checkpoints: 2,
        }
    }
}

impl TrainConfig {
    /// The fields that a resumed run may change.
    pub(crate) const FREE_ON_RESUME: [&str; 2] = ["checkpoint_every_steps", "keep_checkpoints"];

    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Argument`] names the field and says what is accepted.
    pub fn validate(&self) -> Result<()> {
        for (field, value) in [
            ("epochs", Some(self.epochs)),
            ("batch_size", Some(self.batch_size)),
            (
                "gradient_accumulation_steps",
                Some(self.gradient_accumulation_steps),
            ),
            ("max_steps", self.max_steps),
            ("checkpoint_every_steps", self.checkpoint_every_steps),
            ("keep_checkpoints", Some(self.keep_checkpoints)),
        ] {
            if value == Some(0) {
                return Err(Error::argument(
                    field,
                    "0 is too small; 1 or more are needed",
                ));
            }
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            let reason = format!("{} is not a positive number", self.learning_rate);
            return Err(Error::argument("learning_rate", reason));
        }
        for (field, value) in [
            ("weight_decay", self.weight_decay.unwrap_or_default()),
            ("max_grad_norm", self.max_grad_norm),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(Error::argument(
                    field,
                    format!("{value} is not a number of at least 0"),
                ));
            }
        }
        if !(0.0..=1.0).contains(&self.warmup) {
            return Err(Error::argument(
                "warmup",
                format!("{} is not a share from 0 to 1", self.warmup),
            ));
        }
        if !(self.layer_decay > 0.0 && self.layer_decay <= 1.0) {
            let reason = format!("{} is not a number above 0 and up to 1", self.layer_decay);
            return Err(Error::argument("layer_decay", reason));
        }
        self.optimizer()?;
        self.schedule().map(drop)
    }

    /// The schedule that [`TrainConfig::schedule`] names.
    ///
    /// # Errors
    /// [`Error::Argument`] where there is none of this name or the warm-up cannot be used.
    pub fn schedule(&self) -> Result<Box<dyn Schedule>> {
        let mut options = self.schedule_options.clone();
        if self.schedule != "constant" {
            options.entry("warmup").or_insert(json!(self.warmup));
        }
        schedule_from_name(&self.schedule, &options)
    }

    /// The optimiser that [`TrainConfig::optimizer`] names, without state.
    ///
    /// # Errors
    /// [`Error::Argument`] where there is none of this name or an option cannot be used.
    pub fn optimizer(&self) -> Result<Optimizer> {
        let rule = optimizer_from_name(&self.optimizer, &self.optimizer_options)?;
        let config = OptimizerConfig {
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
        };
        Ok(Optimizer::new(rule, &config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_round_trips() {
        let config = TrainConfig::default();
        config.validate().unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<TrainConfig>(&text).unwrap(), config);
        assert_eq!(config.schedule().unwrap().name(), "linear");
    }

    #[test]
    fn each_bad_value_names_its_field() {
        for (field, value) in [
            ("epochs", json!(0)),
            ("batch_size", json!(0)),
            ("gradient_accumulation_steps", json!(0)),
            ("learning_rate", json!(0.0)),
            ("learning_rate", json!(-1e-5)),
            ("weight_decay", json!(-0.1)),
            ("optimizer", json!("adamx")),
            ("layer_decay", json!(0.0)),
            ("layer_decay", json!(1.1)),
            ("max_grad_norm", json!(-1.0)),
            ("warmup", json!(1.5)),
            ("schedule", json!("cosinus")),
            ("max_steps", json!(0)),
            ("checkpoint_every_steps", json!(0)),
            ("keep_checkpoints", json!(0)),
        ] {
            let config: TrainConfig = serde_json::from_value(json!({ field: value })).unwrap();
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(field), "{field}: {error}");
        }
        let nan = TrainConfig {
            learning_rate: f64::NAN,
            ..TrainConfig::default()
        };
        assert!(
            nan.validate()
                .unwrap_err()
                .to_string()
                .starts_with("learning_rate")
        );
    }
}
