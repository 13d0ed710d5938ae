//! Cross-encoders: a score for two texts that are read together.
//!
//! A directory is one of `CrossEncoder` of sentence-transformers (`cross_encoder/model.py`, version
//! 6.2.0) or of a `…ForSequenceClassification` of `transformers` with one label, which is what
//! cross-encoders are published as.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use fin_core::kernels;
use fin_core::weights::{Checkpoint, LoadReport};
use fin_core::{BatchLimits, Error, Precision, Result, plan_batches};
use serde::Deserialize;
use serde_json::Value;

use crate::batch::TokenBatch;
use crate::classifier::PairClassifier;
use crate::config::{BackboneConfig, read_json};
use crate::directory::PairLayout;
use crate::embedder::DEFAULT_LENGTH;
use crate::tokenizer::{PairTokenizer, TextTokenizer, TokenizedPair};

/// What to change of a cross-encoder as its directory describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CrossEncoderOptions {
    /// Largest number of tokens of a pair, instead of the directory's.
    pub max_length: Option<usize>,
    /// Refuse weights with NaN or infinite values.
    pub check: bool,
    /// What the layers' weights are held in.
    pub precision: Precision,
}

/// What the classifier's numbers become scores by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ScoreActivation {
    /// `1 / (1 + e⁻ˣ)`, where the directory names no other.
    #[default]
    Sigmoid,
    /// `x`.
    Identity,
    /// Hyperbolic tangent.
    Tanh,
}

/// Full names of the Python classes that configurations hold, the usual ones first.
const ACTIVATIONS: [(&str, ScoreActivation); 6] = [
    (
        "torch.nn.modules.activation.Sigmoid",
        ScoreActivation::Sigmoid,
    ),
    (
        "torch.nn.modules.linear.Identity",
        ScoreActivation::Identity,
    ),
    ("torch.nn.modules.activation.Tanh", ScoreActivation::Tanh),
    ("torch.nn.Sigmoid", ScoreActivation::Sigmoid),
    ("torch.nn.Identity", ScoreActivation::Identity),
    ("torch.nn.Tanh", ScoreActivation::Tanh),
];

impl ScoreActivation {
    /// The score of a number.
    pub fn apply(self, x: f32) -> f32 {
        let wide = f64::from(x);
        match self {
            Self::Sigmoid => (1.0 / (1.0 + (-wide).exp())) as f32,
            Self::Identity => x,
            Self::Tanh => wide.tanh() as f32,
        }
    }

    /// By the name in a configuration. Classes outside of PyTorch count as none, as they do
    /// upstream where their code is not trusted.
    fn of(file: &Path, field: &str, name: &str) -> Result<Self> {
        if !name.starts_with("torch.") {
            return Ok(Self::default());
        }
        let known = ACTIVATIONS.iter().find(|(known, _)| *known == name);
        known.map(|(_, activation)| *activation).ok_or_else(|| {
            let supported = ACTIVATIONS.map(|(known, _)| known).join(", ");
            let reason = format!("`{name}` is not supported; supported: {supported}");
            Error::config(file, field, reason)
        })
    }
}

/// Fields of `config.json` that are of the classifier.
#[derive(Debug, Deserialize)]
struct ClassifierConfig {
    architectures: Option<Vec<String>>,
    num_labels: Option<usize>,
    id2label: Option<BTreeMap<String, Value>>,
    sentence_transformers: Option<BTreeMap<String, Value>>,
    sbert_ce_default_activation_function: Option<String>,
}

/// Ending of the architectures that have a classifier over whole texts.
const CLASSIFIER: &str = "ForSequenceClassification";

/// Labels where `config.json` gives no number of them.
const DEFAULT_LABELS: usize = 2;

/// Pairs that are tokenised, and sorted by length, at a time.
const WINDOW: usize = 4096;

/// Scores of a list of pairs, in the list's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// One a pair.
    pub values: Vec<f32>,
    /// Number of pairs that were cut to the model's maximum length.
    pub truncated: usize,
}

/// A cross-encoder: tokenizer, network, and what its numbers become scores by.
#[derive(Debug, Clone)]
pub struct CrossEncoder {
    network: PairClassifier,
    tokenizer: Arc<PairTokenizer>,
    prefix: String,
    activation: ScoreActivation,
    token_types: usize,
    config: BackboneConfig,
    report: LoadReport,
    device: Device,
}

impl CrossEncoder {
    /// Opens a directory on `device`.
    ///
    /// # Errors
    /// Where a file is missing, damaged, or describes what is not built here: another architecture,
    /// or another number of labels than one. The error names the file, the field or tensor, and
    /// what is accepted.
    pub fn open(
        directory: impl AsRef<Path>,
        options: &CrossEncoderOptions,
        device: &Device,
    ) -> Result<Self> {
        let layout = PairLayout::read(directory.as_ref())?;
        let path = layout.transformer.join("config.json");
        let fields: ClassifierConfig = read_json(&path)?;
        check_classifier(&path, &fields)?;
        let activation = activation(&path, &fields, layout.activation.as_ref())?;
        let config = BackboneConfig::read(&path)?;
        let largest = config.max_tokens().unwrap_or(usize::MAX);
        let max_length = match options.max_length {
            Some(asked) if asked > largest => {
                let reason = format!("{asked} tokens asked for; the model takes at most {largest}");
                return Err(Error::argument("max-length", reason));
            }
            Some(asked) => asked,
            // A directory that claims more than its position table holds is cut.
            None => {
                let length = layout.max_length.or(config.pretrained_tokens());
                length.unwrap_or(DEFAULT_LENGTH).min(largest)
            }
        };
        let tokenizer = TextTokenizer::open(
            &layout.transformer,
            max_length,
            config.vocab_size(),
            config.pad_token_id(),
        )?;
        let tokenizer = tokenizer.lower_case(layout.do_lower_case).into_pairs()?;
        let checkpoint = Checkpoint::open_directory(&layout.transformer)?;
        if options.check {
            checkpoint.check_finite()?;
        }
        let Some((mut network, report)) = PairClassifier::load(&config, &checkpoint, device)?
        else {
            let reason = format!(
                "`{}` is not supported as a cross-encoder; supported: bert, distilbert, \
                 xlm-roberta, roberta, camembert",
                config.model_type()
            );
            return Err(Error::config(path, "model_type", reason));
        };
        options.precision.apply(&mut network, device)?;
        let network = network.cast(options.precision);
        let token_types = match &config {
            BackboneConfig::Bert(config) => config.type_vocab_size,
            BackboneConfig::XlmRoberta(config) => config.bert.type_vocab_size,
            // Without a table of types, none is beyond it.
            BackboneConfig::DistilBert(_) | BackboneConfig::T5(_) => usize::MAX,
        };
        Ok(Self {
            network,
            tokenizer: Arc::new(tokenizer),
            prefix: layout.prefix,
            activation,
            token_types,
            config,
            report,
            device: device.clone(),
        })
    }

    /// What became of every tensor of the checkpoint.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }

    /// The transformer's configuration.
    pub fn config(&self) -> &BackboneConfig {
        &self.config
    }

    /// The network.
    pub fn network(&self) -> &PairClassifier {
        &self.network
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &PairTokenizer {
        &self.tokenizer
    }

    /// What the network's numbers become scores by.
    pub fn activation(&self) -> ScoreActivation {
        self.activation
    }

    /// Tokenises pairs, in order.
    ///
    /// # Errors
    /// [`Error::Argument`] where an id or a token type has no row in the model's tables.
    pub fn preprocess(&self, pairs: &[(&str, &str)]) -> Result<Vec<TokenizedPair>> {
        let tokenized = self.tokenizer.encode(pairs, &self.prefix)?;
        let mut types = tokenized.iter().flat_map(|pair| &pair.token_types);
        if let Some(kind) = types.find(|kind| **kind as usize >= self.token_types) {
            let reason = format!(
                "token type {kind} is beyond the model's {}; the tokenizer and the weights do not \
                 belong together",
                self.token_types
            );
            return Err(Error::argument("tokenizer", reason));
        }
        Ok(tokenized)
    }

    /// Makes a batch, padded to the longest pair.
    pub fn collate(&self, pairs: &[&TokenizedPair]) -> TokenBatch {
        let ids: Vec<&[u32]> = pairs.iter().map(|pair| pair.ids.as_slice()).collect();
        let batch = TokenBatch::new(&ids, self.tokenizer.pad_id(), &self.device);
        let types: Vec<&[u32]> = pairs.iter().map(|pair| &*pair.token_types).collect();
        match types.iter().copied().flatten().any(|kind| *kind != 0) {
            true => batch.with_token_types(&types),
            false => batch,
        }
    }

    /// Scores pairs of texts in length-sorted batches, in the list's order.
    ///
    /// `progress` is told the number of pairs done after every batch.
    ///
    /// # Errors
    /// Those of [`CrossEncoder::preprocess`], and where numbers cannot be read back from the device.
    pub fn score(
        &self,
        pairs: &[(&str, &str)],
        limits: BatchLimits,
        progress: impl FnMut(usize),
    ) -> Result<Scores> {
        let mut scores = self.logits(pairs, limits, progress)?;
        for value in &mut scores.values {
            *value = self.activation.apply(*value);
        }
        Ok(scores)
    }

    /// [`CrossEncoder::score`] before [`CrossEncoder::activation`].
    ///
    /// # Errors
    /// As [`CrossEncoder::score`].
    pub fn logits(
        &self,
        pairs: &[(&str, &str)],
        limits: BatchLimits,
        mut progress: impl FnMut(usize),
    ) -> Result<Scores> {
        let mut scores = Scores {
            values: vec![0.0; pairs.len()],
            truncated: 0,
        };
        let mut done = 0;
        let windows = pairs.chunks(WINDOW).zip(scores.values.chunks_mut(WINDOW));
        for (pairs, values) in windows {
            let tokenized = self.preprocess(pairs)?;
            scores.truncated += tokenized.iter().filter(|pair| pair.truncated).count();
            let costs: Vec<usize> = tokenized.iter().map(|pair| pair.ids.len()).collect();
            for indices in plan_batches(&costs, limits) {
                let batch: Vec<&TokenizedPair> = indices.iter().map(|&i| &tokenized[i]).collect();
                let batch = self.collate(&batch);
                let found = kernels::on_pool(&self.device, || self.network.forward(&batch));
                let found = found.into_data().convert::<f32>().try_into_vec::<f32>();
                let found = found.map_err(|e| {
                    Error::argument("device", format!("scores cannot be read back: {e:?}"))
                })?;
                for (value, &i) in found.into_iter().zip(&indices) {
                    values[i] = value;
                }
                done += indices.len();
                progress(done);
            }
        }
        Ok(scores)
    }
}

/// Checks that a `config.json` describes a classifier with one label.
fn check_classifier(path: &Path, fields: &ClassifierConfig) -> Result<()> {
    let names = fields.architectures.as_deref().unwrap_or_default();
    if !names.iter().any(|name| name.ends_with(CLASSIFIER)) {
        let found = match names {
            [] => "missing".to_string(),
            names => format!("`{}` gives no score of two texts", names.join(", ")),
        };
        let reason = format!(
            "{found}; a cross-encoder is one of Bert{CLASSIFIER}, DistilBert{CLASSIFIER}, \
             XLMRoberta{CLASSIFIER}, Roberta{CLASSIFIER}, Camembert{CLASSIFIER}"
        );
        return Err(Error::config(path, "architectures", reason));
    }
    let (field, labels) = match (&fields.id2label, fields.num_labels) {
        (Some(labels), _) => ("id2label", labels.len()),
        (None, Some(labels)) => ("num_labels", labels),
        (None, None) => ("num_labels", DEFAULT_LABELS),
    };
    if labels != 1 {
        let stands_for = match (field, fields.num_labels) {
            ("num_labels", None) => "missing, which stands for ",
            _ => "",
        };
        let reason = format!(
            "{stands_for}{labels} labels; a cross-encoder that scores has 1 label, one with several \
             sorts into classes, which is not supported"
        );
        return Err(Error::config(path, field, reason));
    }
    Ok(())
}

/// What a directory names, in the order in which sentence-transformers looks.
fn activation(
    path: &Path,
    fields: &ClassifierConfig,
    in_prompts: Option<&(PathBuf, String)>,
) -> Result<ScoreActivation> {
    const NAME: &str = "activation_fn";
    if let Some((file, name)) = in_prompts
        && name.starts_with("torch.")
    {
        return ScoreActivation::of(file, NAME, name);
    }
    let own = fields.sentence_transformers.as_ref();
    match own.and_then(|own| own.get(NAME)) {
        Some(Value::String(name)) => {
            ScoreActivation::of(path, &format!("sentence_transformers.{NAME}"), name)
        }
        Some(_) => Ok(ScoreActivation::default()),
        None => match &fields.sbert_ce_default_activation_function {
            Some(name) => ScoreActivation::of(path, "sbert_ce_default_activation_function", name),
            None => Ok(ScoreActivation::default()),
        },
    }
}
