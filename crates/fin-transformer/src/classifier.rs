//! Networks that read two texts at once and give one number: `BertForSequenceClassification`,
//! `XLMRobertaForSequenceClassification` and `DistilBertForSequenceClassification` of
//! `transformers` (`models/bert/modeling_bert.py` and so on) with one label. RoBERTa and CamemBERT
//! have XLM-RoBERTa's head.
//!
//! Fields have upstream's names, so that their paths are the keys of a checkpoint. What upstream
//! drops out in training is not here, where nothing trains these networks.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use fin_core::kernels::Activation;
use fin_core::nn::{Linear, LinearConfig, LinearLayers};
use fin_core::weights::{self, Checkpoint, LoadReport, Names};
use fin_core::{Backbone, Precision, Result};

use crate::batch::TokenBatch;
use crate::bert::Bert;
use crate::config::BackboneConfig;
use crate::distilbert::DistilBert;
use crate::xlm_roberta;

/// BERT with its pooler, and a linear map of what that gives.
#[derive(Module, Debug)]
pub struct BertClassifier {
    /// Encoder and pooler.
    pub bert: Bert,
    /// `[1, hidden]`.
    pub classifier: Linear,
}

/// XLM-RoBERTa with a head over the first token.
#[derive(Module, Debug)]
pub struct XlmRobertaClassifier {
    /// Encoder without a pooler.
    pub roberta: Bert,
    /// The head.
    pub classifier: XlmRobertaHead,
}

/// Dense layer, tanh and a linear map.
#[derive(Module, Debug)]
pub struct XlmRobertaHead {
    /// `[hidden, hidden]`, followed by tanh.
    pub dense: Linear,
    /// `[1, hidden]`.
    pub out_proj: Linear,
}

/// DistilBERT with a dense layer, ReLU and a linear map over the first token.
#[derive(Module, Debug)]
pub struct DistilBertClassifier {
    /// Encoder.
    pub distilbert: DistilBert,
    /// `[dim, dim]`, followed by ReLU.
    pub pre_classifier: Linear,
    /// `[1, dim]`.
    pub classifier: Linear,
}

/// One of the architectures.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)]
pub enum PairClassifier {
    /// BERT.
    Bert(BertClassifier),
    /// XLM-RoBERTa.
    XlmRoberta(XlmRobertaClassifier),
    /// DistilBERT.
    DistilBert(DistilBertClassifier),
}

impl PairClassifier {
    /// Makes the network of a configuration and loads its weights; `None` of an architecture that
    /// is not built with a head.
    ///
    /// # Errors
    /// Those of [`weights::load`].
    pub(crate) fn load(
        config: &BackboneConfig,
        checkpoint: &Checkpoint,
        device: &Device,
    ) -> Result<Option<(Self, LoadReport)>> {
        let hidden = config.hidden_size();
        let linear = |out| LinearConfig::new(hidden, out).init(device);
        Ok(Some(match config {
            BackboneConfig::Bert(config) => {
                let network = BertClassifier {
                    bert: config.init(true, device)?,
                    classifier: linear(1),
                };
                let names = under("bert.", Bert::names());
                let (network, report) = weights::load(network, checkpoint, &names, device)?;
                (Self::Bert(network), report)
            }
            BackboneConfig::XlmRoberta(config) => {
                let network = XlmRobertaClassifier {
                    roberta: config.init(false, device)?,
                    classifier: XlmRobertaHead {
                        dense: linear(hidden),
                        out_proj: linear(1),
                    },
                };
                let names = under("roberta.", xlm_roberta::names());
                let (network, report) = weights::load(network, checkpoint, &names, device)?;
                (Self::XlmRoberta(network), report)
            }
            BackboneConfig::DistilBert(config) => {
                let network = DistilBertClassifier {
                    distilbert: config.init(device)?,
                    pre_classifier: linear(hidden),
                    classifier: linear(1),
                };
                let names = under("distilbert.", DistilBert::names());
                let (network, report) = weights::load(network, checkpoint, &names, device)?;
                (Self::DistilBert(network), report)
            }
            BackboneConfig::T5(_) => return Ok(None),
        }))
    }

    /// The encoder in half precision, where that is asked for; the head stays in f32.
    pub(crate) fn cast(self, precision: Precision) -> Self {
        match self {
            Self::Bert(model) => Self::Bert(BertClassifier {
                bert: precision.cast(model.bert),
                ..model
            }),
            Self::XlmRoberta(model) => Self::XlmRoberta(XlmRobertaClassifier {
                roberta: precision.cast(model.roberta),
                ..model
            }),
            Self::DistilBert(model) => Self::DistilBert(DistilBertClassifier {
                distilbert: precision.cast(model.distilbert),
                ..model
            }),
        }
    }

    /// `[batch]`: the number that the head gives for each pair, before any function of it.
    pub fn forward(&self, batch: &TokenBatch) -> Tensor<1> {
        let logits = match self {
            Self::Bert(model) => {
                let first = first_token(model.bert.forward(batch));
                let pooled = match &model.bert.pooler {
                    Some(pooler) => pooler.dense.forward_activated(first, Activation::Tanh),
                    None => first,
                };
                model.classifier.forward(pooled)
            }
            Self::XlmRoberta(model) => {
                let first = first_token(model.roberta.forward(batch));
                let head = &model.classifier;
                let dense = head.dense.forward_activated(first, Activation::Tanh);
                head.out_proj.forward(dense)
            }
            Self::DistilBert(model) => {
                let first = first_token(model.distilbert.forward(batch));
                let dense = &model.pre_classifier;
                let dense = dense.forward_activated(first, Activation::Relu);
                model.classifier.forward(dense)
            }
        };
        let [rows, _] = logits.dims();
        logits.reshape([rows])
    }
}

impl LinearLayers for PairClassifier {
    fn each_linear(&mut self, f: &mut dyn FnMut(&mut Linear) -> Result<()>) -> Result<()> {
        match self {
            Self::Bert(model) => model.bert.each_linear(f),
            Self::XlmRoberta(model) => model.roberta.each_linear(f),
            Self::DistilBert(model) => model.distilbert.each_linear(f),
        }
    }
}

/// `[batch, seq, hidden]` → `[batch, hidden]`.
fn first_token(hidden: Tensor<3>) -> Tensor<2> {
    let [batch, _, width] = hidden.dims();
    hidden.narrow(1, 0, 1).reshape([batch, width])
}

/// A backbone's key names where it is under `prefix` and a head is beside it: heads are wanted, and
/// what else the backbone leaves aside is below it or, as heads of pretraining, beside it.
fn under(prefix: &str, mut names: Names) -> Names {
    let is_head = |pattern: &String| ["classifier.*", "pre_classifier.*"].contains(&&**pattern);
    names.ignored.retain(|pattern| !is_head(pattern));
    let below: Vec<String> = names
        .ignored
        .iter()
        .map(|pattern| format!("{prefix}{pattern}"))
        .collect();
    names.ignored.extend(below);
    names
}
