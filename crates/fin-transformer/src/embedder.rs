//! The whole text embedding model.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use fin_core::atomic::AtomicDir;
use fin_core::kernels::Activation;
use fin_core::nn::LinearConfig;
use fin_core::weights::{self, Checkpoint, LoadReport, Names};
use fin_core::{Embedder, EmbeddingNetwork, Error, Pooling, Precision, Result};

use crate::batch::TokenBatch;
use crate::bert::Bert;
use crate::config::BackboneConfig;
use crate::directory::{self, DenseFiles, Layout};
use crate::distilbert::DistilBert;
use crate::network::{Dense, TextBackbone, TextNetwork};
use crate::t5::T5Encoder;
use crate::tokenizer::{TextTokenizer, TokenizedText};
use crate::xlm_roberta;

/// How a text's token vectors become one vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextPooling {
    /// By these poolings; the vectors of several are concatenated.
    Tokens(Vec<Pooling>),
    /// By the checkpoint's own pooler, a dense layer and tanh over the first token. It becomes a
    /// dense head after [`Pooling::Cls`], which is how a saved directory has it.
    Pooler,
}

impl From<Pooling> for TextPooling {
    fn from(pooling: Pooling) -> Self {
        Self::Tokens(vec![pooling])
    }
}

impl FromStr for TextPooling {
    type Err = Error;

    /// `pooler`, or names of poolings separated by commas.
    ///
    /// # Errors
    /// [`Error::Argument`] listing the names.
    fn from_str(text: &str) -> Result<Self> {
        if text == "pooler" {
            return Ok(Self::Pooler);
        }
        let parse = |name: &str| {
            name.trim().parse::<Pooling>().map_err(|_| {
                let names = Pooling::ALL.map(Pooling::name).join(", ");
                let reason =
                    format!("`{name}` is not a pooling; accepted: {names}, or pooler alone");
                Error::argument("pooling", reason)
            })
        };
        text.split(',')
            .map(parse)
            .collect::<Result<_>>()
            .map(Self::Tokens)
    }
}

/// What to change of a model as its directory describes it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TextOptions {
    /// Pooling instead of the directory's (mean for a plain Hugging Face directory).
    pub pooling: Option<TextPooling>,
    /// Whether embeddings are scaled to unit length, instead of what the directory says.
    pub normalize: Option<bool>,
    /// Largest number of tokens, instead of the directory's.
    pub max_length: Option<usize>,
    /// Adds a projection head to this many components, with new weights that must be trained.
    pub output_dim: Option<usize>,
    /// Name of the prompt that is put before every text, instead of the directory's default.
    pub prompt: Option<String>,
    /// Keeps the backbone as it is in training; only heads learn.
    pub freeze: bool,
    /// Refuse weights with NaN or infinite values.
    pub check: bool,
    /// What the weights of the transformer, or of its layers in int8, are held in; heads are in f32.
    pub precision: Precision,
}

/// A text embedding model: tokenizer, network, and the files around the weights.
#[derive(Debug, Clone)]
pub struct TextEmbedder {
    network: TextNetwork,
    tokenizer: Arc<TextTokenizer>,
    prefix: String,
    files: Arc<Files>,
    precision: Precision,
    report: LoadReport,
}

/// What is needed to write the directory again.
#[derive(Debug)]
struct Files {
    layout: Layout,
    config: BackboneConfig,
    /// `(name, bytes)` of the configuration and tokenizer, kept as they were.
    verbatim: Vec<(&'static str, Vec<u8>)>,
}

/// Two special tokens and one of text.
const MIN_LENGTH: usize = 3;

/// Largest number of tokens where neither the directory nor the position table says one.
pub(crate) const DEFAULT_LENGTH: usize = 512;

/// Files that are copied as they are.
const VERBATIM: [&str; 9] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "LICENSE",
];

impl TextEmbedder {
    /// Opens a sentence-transformers directory or a plain Hugging Face one on `device`.
    ///
    /// # Errors
    /// Where a file is missing, damaged, or describes what is not built here; the error names
    /// the file, the field or tensor, and what is accepted.
    pub fn open(
        directory: impl AsRef<Path>,
        options: &TextOptions,
        device: &Device,
    ) -> Result<Self> {
        let directory = directory.as_ref();
        let layout = Layout::read(directory)?;
        let config = BackboneConfig::read(&layout.transformer.join("config.json"))?;
        let checkpoint = Checkpoint::open_directory(&layout.transformer)?;
        if options.check {
            checkpoint.check_finite()?;
        }
        let (mut backbone, mut report) = load_backbone(&config, &checkpoint, device)?;
        options.precision.apply(&mut backbone, device)?;
        let mut dense = Vec::new();
        let pooling = match options.pooling.clone() {
            Some(TextPooling::Tokens(pooling)) => pooling,
            Some(TextPooling::Pooler) => {
                let pooler = backbone.take_pooler().ok_or_else(|| {
                    let reason = format!(
                        "{} has no pooler; accepted here: {}",
                        checkpoint.path().display(),
                        Pooling::ALL.map(Pooling::name).join(", ")
                    );
                    Error::argument("pooling", reason)
                })?;
                dense.push(Dense {
                    linear: pooler.dense,
                    activation: Activation::Tanh,
                });
                vec![Pooling::Cls]
            }
            None => layout.pooling.clone(),
        };
        for head in &layout.dense {
            let checkpoint = Checkpoint::open_directory(&head.directory)?;
            if options.check {
                checkpoint.check_finite()?;
            }
            let linear = LinearConfig::new(head.in_features, head.out_features)
                .with_bias(head.bias)
                .init(device);
            let module = Dense {
                linear,
                activation: head.activation,
            };
            let (module, head_report) =
                weights::load(module, &checkpoint, &Names::default(), device)?;
            let section = head
                .directory
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let under = |names: Vec<String>| {
                names
                    .into_iter()
                    .map(|name| format!("{section}/{name}"))
                    .collect::<Vec<_>>()
            };
            report.used.extend(under(head_report.used));
            report.unused.extend(under(head_report.unused));
            dense.push(module);
        }
        if pooling.is_empty() {
            return Err(Error::argument("pooling", "at least one is needed"));
        }
        let normalize = options.normalize.unwrap_or(layout.normalize);
        let mut network = TextNetwork {
            backbone: backbone.cast(options.precision),
            dense,
            pooling,
            normalize,
        };
        check_widths(directory, &network, &config)?;
        if let Some(dim) = options.output_dim {
            if dim == 0 {
                return Err(Error::argument(
                    "output-dim",
                    "0 components asked for; at least 1 is needed",
                ));
            }
            let width = network.output_dim();
            network.dense.push(Dense::projection(width, dim, device));
        }
        if options.freeze {
            if network.dense.is_empty() {
                let reason = "with the backbone frozen there is nothing left to train; ask for a \
                              projection head with output-dim";
                return Err(Error::argument("freeze", reason));
            }
            network.backbone = network.backbone.no_grad();
        }

        let limit = config.max_tokens();
        let largest = limit.unwrap_or(usize::MAX);
        // A directory that claims more than its position table holds is cut; a person is told.
        let max_length = match options.max_length {
            Some(asked) if (MIN_LENGTH..=largest).contains(&asked) => asked,
            Some(asked) => {
                let takes = match limit {
                    Some(limit) => format!("{MIN_LENGTH} to {limit}"),
                    None => format!("at least {MIN_LENGTH}"),
                };
                let reason = format!("{asked} tokens asked for; the model takes {takes}");
                return Err(Error::argument("max-length", reason));
            }
            None => default_max_length(&layout, &config),
        };
        if max_length < MIN_LENGTH {
            return Err(Error::config(
                directory,
                "max_seq_length",
                format!("{max_length} leaves no room for a token between the special ones"),
            ));
        }
        let pad_id = config.pad_token_id();
        let tokenizer =
            TextTokenizer::open(&layout.transformer, max_length, config.vocab_size(), pad_id)?
                .lower_case(layout.do_lower_case);
        let prefix = match options.prompt.as_ref().or(layout.default_prompt.as_ref()) {
            None => String::new(),
            Some(name) => layout.prompts.get(name).cloned().ok_or_else(|| {
                let names: Vec<&str> = layout.prompts.keys().map(String::as_str).collect();
                Error::argument(
                    "prompt",
                    format!(
                        "the model has no prompt `{name}`; it has: {}",
                        names.join(", ")
                    ),
                )
            })?,
        };
        let verbatim = verbatim_files(&layout)?;
        Ok(Self {
            network,
            tokenizer: Arc::new(tokenizer),
            prefix,
            files: Arc::new(Files {
                layout,
                config,
                verbatim,
            }),
            precision: options.precision,
            report,
        })
    }

    /// What became of every tensor of the checkpoint.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }

    /// The transformer's configuration.
    pub fn config(&self) -> &BackboneConfig {
        &self.files.config
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// The pooling that the model's directory names, where it has a `modules.json`.
    pub fn directory_pooling(&self) -> Option<&[Pooling]> {
        let layout = &self.files.layout;
        layout.has_modules.then_some(layout.pooling.as_slice())
    }

    /// Whether the model's directory asks for unit length, where it has a `modules.json`.
    pub fn directory_normalize(&self) -> Option<bool> {
        let layout = &self.files.layout;
        layout.has_modules.then_some(layout.normalize)
    }

    /// Whether the network scales embeddings to unit length, or not.
    pub fn with_normalize(mut self, normalize: bool) -> Self {
        self.network.normalize = normalize;
        self
    }

    fn write(&self, directory: &Path) -> Result<()> {
        let put = |name: &str, bytes: &[u8]| -> Result<()> {
            let path: PathBuf = directory.join(name);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(Error::io(parent, "create"))?;
            }
            std::fs::write(&path, bytes).map_err(Error::io(&path, "write"))
        };
        let network = &self.network;
        let dense: Vec<DenseFiles> = network
            .dense
            .iter()
            .map(|head| DenseFiles {
                in_features: head.linear.weight.lazy_shape()[1],
                out_features: head.linear.out_features(),
                bias: head.linear.bias.is_some(),
                activation: head.activation,
            })
            .collect();
        let width = self.files.config.hidden_size();
        let max_length = self.tokenizer.max_length();
        let small = directory::files(
            &self.files.layout,
            &network.pooling,
            &dense,
            network.normalize,
            max_length,
            width,
        );
        for (name, content) in &small {
            put(name, content.as_bytes())?;
        }
        for (name, bytes) in &self.files.verbatim {
            put(name, bytes)?;
        }
        if network.normalize {
            let normalize = directory.join(format!("{}_Normalize", dense.len() + 2));
            std::fs::create_dir_all(&normalize).map_err(Error::io(&normalize, "create"))?;
        }
        let tensors = network.backbone.state_dict();
        weights::save(directory.join("model.safetensors"), &tensors)?;
        for (i, head) in network.dense.iter().enumerate() {
            let tensors = weights::state_dict(head, &Names::default());
            weights::save(
                directory.join(format!("{}_Dense/model.safetensors", i + 2)),
                &tensors,
            )?;
        }
        Ok(())
    }
}

/// Largest number of tokens of a model as its files describe it.
pub(crate) fn default_max_length(layout: &Layout, config: &BackboneConfig) -> usize {
    let length = layout.max_length.or(config.pretrained_tokens());
    let largest = config.max_tokens().unwrap_or(usize::MAX);
    length.unwrap_or(DEFAULT_LENGTH).min(largest)
}

/// The files of a directory that are carried over as they are.
pub(crate) fn verbatim_files(layout: &Layout) -> Result<Vec<(&'static str, Vec<u8>)>> {
    VERBATIM
        .into_iter()
        .map(|name| (name, layout.transformer.join(name)))
        .filter(|(_, path)| path.is_file())
        .map(|(name, path)| {
            let bytes = std::fs::read(&path).map_err(Error::io(&path, "read"))?;
            Ok((name, bytes))
        })
        .collect()
}

/// Key names of a backbone's checkpoint, with the prefix that a task head's puts before them.
pub(crate) fn backbone_names(config: &BackboneConfig, checkpoint: &Checkpoint) -> Names {
    let (mut names, prefix) = match config {
        BackboneConfig::Bert(_) => (Bert::names(), "bert."),
        BackboneConfig::DistilBert(_) => (DistilBert::names(), "distilbert."),
        BackboneConfig::XlmRoberta(_) => (xlm_roberta::names(), "roberta."),
        BackboneConfig::T5(_) => (T5Encoder::names(), "transformer."),
    };
    if checkpoint.has_prefix(prefix) {
        names.prefix = prefix.to_string();
    }
    names
}

/// Whether a checkpoint has BERT's pooler.
pub(crate) fn has_pooler(names: &Names, checkpoint: &Checkpoint) -> bool {
    let key = format!("{}pooler.dense.weight", names.prefix);
    checkpoint.get(&key).is_some()
}

/// Loads the backbone.
fn load_backbone(
    config: &BackboneConfig,
    checkpoint: &Checkpoint,
    device: &Device,
) -> Result<(TextBackbone, LoadReport)> {
    let names = backbone_names(config, checkpoint);
    let pooler = has_pooler(&names, checkpoint);
    match config {
        BackboneConfig::Bert(config) => {
            let model = config.init(pooler, device)?;
            let (model, report) = weights::load(model, checkpoint, &names, device)?;
            Ok((TextBackbone::Bert(model), report))
        }
        BackboneConfig::DistilBert(config) => {
            let (model, report) = weights::load(config.init(device)?, checkpoint, &names, device)?;
            Ok((TextBackbone::DistilBert(model), report))
        }
        BackboneConfig::XlmRoberta(config) => {
            let model = config.init(pooler, device)?;
            let (model, report) = weights::load(model, checkpoint, &names, device)?;
            Ok((TextBackbone::XlmRoberta(model), report))
        }
        BackboneConfig::T5(config) => {
            let (model, report) = weights::load(config.init(device)?, checkpoint, &names, device)?;
            Ok((TextBackbone::T5(model), report))
        }
    }
}

/// Each head must take what comes before it.
fn check_widths(directory: &Path, network: &TextNetwork, config: &BackboneConfig) -> Result<()> {
    let mut width = config.hidden_size() * network.pooling.len();
    for (i, dense) in network.dense.iter().enumerate() {
        let takes = dense.linear.weight.lazy_shape()[1];
        if takes != width {
            let path = directory.join(format!("{}_Dense/config.json", i + 2));
            return Err(Error::config(
                path,
                "in_features",
                format!("{takes}, but what comes before gives {width}"),
            ));
        }
        width = dense.linear.out_features();
    }
    Ok(())
}

impl Embedder for TextEmbedder {
    type Item = String;
    type Encoded = TokenizedText;
    type Batch = TokenBatch;
    type Network = TextNetwork;

    fn preprocess(&self, items: &[String]) -> Result<Vec<TokenizedText>> {
        self.tokenizer.encode(items, &self.prefix)
    }

    fn cost(&self, item: &TokenizedText) -> usize {
        item.ids.len()
    }

    fn is_truncated(&self, item: &TokenizedText) -> bool {
        item.truncated
    }

    fn collate(&self, items: &[&TokenizedText], device: &Device) -> Result<TokenBatch> {
        let ids: Vec<&[u32]> = items.iter().map(|item| item.ids.as_slice()).collect();
        Ok(TokenBatch::new(&ids, self.tokenizer.pad_id(), device))
    }

    fn network(&self) -> &TextNetwork {
        &self.network
    }

    fn with_network(mut self, network: TextNetwork) -> Self {
        self.network = network;
        self
    }

    fn names(&self) -> Names {
        let backbone = &self.network.backbone;
        Names {
            within: vec!["backbone".into(), backbone.variant().into()],
            ..backbone.names()
        }
    }

    fn save(&self, directory: &Path) -> Result<()> {
        self.precision.check_save()?;
        let target = AtomicDir::create(directory)?;
        self.write(target.path())?;
        target.commit()
    }
}
