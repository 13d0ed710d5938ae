//! Symmetric cross-entropy of pairs over cosine similarities.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::EPS;
use super::{ExpectedData, Loss, LossParameters, LossShape, check_batch, ops};
use crate::dataset::{BatchTargets, TargetKind};
use crate::registry::{self, Options};

/// Temperature where CLIP's training begins.
const INITIAL: f64 = 0.07;

/// Largest number that cosines are multiplied by (Radford et al. 2021, section 2.5).
const MAX_SCALE: f64 = 100.0;

/// The mean of two cross-entropies over `cos(a, b) / temperature`: of each first item's own second
/// one among all second ones of the batch, and the other way round (Radford et al. 2021, "CLIP",
/// figure 3; `ClipLoss` of open_clip, `clip_loss` of transformers). A batch must not hold an item
/// twice.
///
/// The temperature is fixed, or learned as CLIP's is: its parameter is then `logit_scale`, the
/// logarithm of `1 / temperature`, kept between 0 and ln 100 as in open_clip. It ends up in a
/// network that keeps one.
#[derive(Debug, Default)]
pub struct ClipLoss {
    options: ClipOptions,
    /// The fixed one.
    logit_scale: Option<f64>,
    /// The learned one, `[1, 1]`.
    parameters: Option<LossParameters>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ClipOptions {
    /// What training begins with; the network's own where unset, else 0.07.
    temperature: Option<f64>,
    learn_temperature: bool,
}

impl ClipLoss {
    /// With this temperature.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where it is out of its range.
    pub fn new(temperature: f64) -> Result<Self> {
        ops::positive("temperature", temperature)?;
        Ok(Self {
            options: ClipOptions {
                temperature: Some(temperature),
                ..ClipOptions::default()
            },
            ..Self::default()
        })
    }

    /// With a temperature that is learned.
    pub fn learned(mut self) -> Self {
        self.options.learn_temperature = true;
        self
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let options: ClipOptions = registry::parse("clip", options)?;
        if let Some(temperature) = options.temperature {
            ops::positive("temperature", temperature)?;
        }
        Ok(Self {
            options,
            ..Self::default()
        })
    }

    /// Where the logarithm of the scale begins for a network with one of its own.
    fn initial(&self, own: Option<f32>) -> f64 {
        match (self.options.temperature, own) {
            (Some(temperature), _) => -temperature.ln(),
            (None, Some(own)) => f64::from(own).min(MAX_SCALE.ln()),
            (None, None) => -INITIAL.ln(),
        }
    }
}

impl Loss for ClipLoss {
    fn name(&self) -> &'static str {
        "clip"
    }

    fn options(&self) -> Options {
        registry::to_options(&self.options)
    }

    fn accepts(&self) -> ExpectedData {
        ExpectedData {
            min_columns: 2,
            max_columns: Some(2),
            targets: TargetKind::None,
            roles: "first, second",
        }
    }

    fn default_sampler(&self) -> &'static str {
        "no_duplicates"
    }

    fn forward(&self, embeddings: &[Tensor<2>], targets: &BatchTargets) -> Result<Tensor<1>> {
        let [batch, _] = check_batch(self, embeddings, targets)?;
        let [a, b] =
            [0, 1].map(|column: usize| ops::normalize_rows(embeddings[column].clone(), EPS));
        let cosines = a.matmul(b.transpose());
        let logits = match &self.parameters {
            Some(parameters) => cosines * parameters.weight().exp(),
            None => {
                let fixed = self
                    .logit_scale
                    .map_or_else(|| self.initial(None), f64::from);
                cosines.mul_scalar(fixed.exp())
            }
        };
        let own = Tensor::<1, Int>::arange(0..batch as i64, &logits.device()).reshape([batch, 1]);
        let entropy =
            |logits: Tensor<2>| log_softmax(logits, 1).gather(1, own.clone()).mean().neg();
        Ok((entropy(logits.clone()) + entropy(logits.transpose())).div_scalar(2.0))
    }

    fn has_parameters(&self) -> bool {
        self.options.learn_temperature
    }

    fn prepare(&mut self, shape: &LossShape) -> Result<()> {
        let initial = self.initial(shape.logit_scale);
        if self.options.learn_temperature {
            let data = TensorData::new(vec![initial as f32], [1, 1]);
            let weight = Tensor::from_data(data, &shape.device);
            self.parameters = Some(LossParameters::new(weight));
        } else {
            self.logit_scale = Some(initial);
        }
        Ok(())
    }

    fn parameters(&self) -> Option<(&'static str, LossParameters)> {
        Some(("logit_scale", self.parameters.clone()?))
    }

    fn set_parameters(&mut self, parameters: LossParameters) {
        if self.options.learn_temperature {
            self.parameters = Some(parameters);
        }
    }

    fn bounds(&self) -> Option<(f64, f64)> {
        self.options
            .learn_temperature
            .then_some((0.0, MAX_SCALE.ln()))
    }

    fn logit_scale(&self) -> Option<f32> {
        let weight = self.parameters.as_ref()?.weight().detach();
        let values = weight.into_data().convert::<f32>().try_into_vec::<f32>();
        values.ok()?.first().copied()
    }
}
