//! Model directories: what Hugging Face and sentence-transformers put where.
//!
//! A sentence-transformers directory has a `modules.json` that lists a transformer, a pooling,
//! any number of dense heads and an optional normalisation, each with its own sub-directory. A
//! plain Hugging Face directory has the transformer alone; it is pooled by its mean.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fin_core::kernels::Activation;
use fin_core::{Error, Pooling, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::read_json;
use crate::tokenizer::TokenizerConfig;

/// What a directory says beyond the transformer's own configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// Where the transformer's files are.
    pub transformer: PathBuf,
    /// Whether there is a `modules.json`; without one the rest is a default.
    pub has_modules: bool,
    /// Poolings, whose vectors are concatenated; at least one.
    pub pooling: Vec<Pooling>,
    /// Dense heads in order; usually none.
    pub dense: Vec<DenseHead>,
    /// Whether embeddings are scaled to unit length.
    pub normalize: bool,
    /// Largest number of tokens, where the directory says so.
    pub max_length: Option<usize>,
    /// Whether texts are lower-cased before anything else.
    pub do_lower_case: bool,
    /// Texts to put before inputs, by name.
    pub prompts: BTreeMap<String, String>,
    /// Name of the prompt that is used where none is asked for.
    pub default_prompt: Option<String>,
}

/// A dense head: its directory, sizes and activation.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseHead {
    /// Where its weights are.
    pub directory: PathBuf,
    /// Width of what it takes.
    pub in_features: usize,
    /// Width of what it gives.
    pub out_features: usize,
    /// Whether it adds a bias.
    pub bias: bool,
    /// What comes after it.
    pub activation: Activation,
}

#[derive(Debug, Deserialize, Serialize)]
struct ModuleEntry {
    #[serde(default)]
    idx: usize,
    #[serde(default)]
    name: String,
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Default, Deserialize)]
struct SentenceBertConfig {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

#[derive(Debug, Default, Deserialize)]
struct PromptConfig {
    #[serde(default)]
    prompts: BTreeMap<String, String>,
    default_prompt_name: Option<String>,
    /// Of cross-encoders: what the numbers of the classifier become scores by.
    activation_fn: Option<String>,
    /// Kind of the model, where the file says it.
    model_type: Option<String>,
}

#[derive(Debug, Deserialize)]
struct DenseConfig {
    in_features: usize,
    out_features: usize,
    #[serde(default = "yes")]
    bias: bool,
    activation_function: Option<String>,
}

fn yes() -> bool {
    true
}

/// Most modules of a directory, and most poolings of one: each takes memory of its own.
const MAX_MODULES: usize = 64;
const MAX_POOLINGS: usize = 16;

const MODULES: &str = "modules.json";
const SENTENCE_BERT: &str = "sentence_bert_config.json";
const PROMPTS: &str = "config_sentence_transformers.json";

impl Layout {
    /// Reads a directory's layout.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] where the directory is none or a file in it is damaged,
    /// [`Error::Config`] where one describes a module that is not built here.
    pub fn read(directory: &Path) -> Result<Self> {
        if !directory.is_dir() {
            return Err(Error::invalid(directory, "no such model directory"));
        }
        let modules = directory.join(MODULES);
        let mut layout = Self {
            transformer: directory.to_path_buf(),
            has_modules: modules.is_file(),
            pooling: vec![Pooling::Mean],
            dense: Vec::new(),
            normalize: false,
            max_length: None,
            do_lower_case: false,
            prompts: BTreeMap::new(),
            default_prompt: None,
        };
        if layout.has_modules {
            layout.read_modules(directory, &modules)?;
        }
        let sentence_bert = layout.transformer.join(SENTENCE_BERT);
        if sentence_bert.is_file() {
            let config: SentenceBertConfig = read_json(&sentence_bert)?;
            layout.max_length = config.max_seq_length;
            layout.do_lower_case = config.do_lower_case;
        }
        if layout.max_length.is_none() {
            layout.max_length = TokenizerConfig::read(&layout.transformer)?.max_length();
        }
        let prompts = directory.join(PROMPTS);
        if prompts.is_file() {
            let config: PromptConfig = read_json(&prompts)?;
            layout.prompts = config.prompts;
            layout.default_prompt = config.default_prompt_name;
        }
        Ok(layout)
    }

    fn read_modules(&mut self, directory: &Path, modules: &Path) -> Result<()> {
        let entries: Vec<ModuleEntry> = read_json(modules)?;
        if entries.len() < 2 {
            return Err(Error::config(
                modules,
                "[1]",
                "no Pooling; a transformer and a pooling are needed",
            ));
        }
        if entries.len() > MAX_MODULES {
            let reason = format!("{} modules; at most {MAX_MODULES}", entries.len());
            return Err(Error::config(modules, format!("[{MAX_MODULES}]"), reason));
        }
        for (i, entry) in entries.iter().enumerate() {
            let field = |name: &str| format!("[{i}].{name}");
            let sub = inside(directory, modules, i, entry)?;
            match entry.kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" if i == 0 => self.transformer = sub,
                "Pooling" if i == 1 => self.pooling = read_pooling(&sub.join("config.json"))?,
                "Dense" if i > 1 && !self.normalize => self.dense.push(read_dense(&sub)?),
                "Normalize" if i > 1 && !self.normalize => self.normalize = true,
                _ => {
                    let reason = format!(
                        "`{}` is not supported in this place; supported: Transformer, Pooling, then \
                         any number of Dense, then at most one Normalize",
                        entry.kind
                    );
                    return Err(Error::config(modules, field("type"), reason));
                }
            }
        }
        Ok(())
    }
}

/// Where a module's files are.
///
/// # Errors
/// Where that is outside of the model directory.
fn inside(directory: &Path, modules: &Path, i: usize, entry: &ModuleEntry) -> Result<PathBuf> {
    let sub = Path::new(&entry.path);
    let mut parts = sub.components();
    if parts.any(|part| !matches!(part, std::path::Component::Normal(_))) {
        let reason = format!("`{}` leads outside of the model directory", entry.path);
        return Err(Error::config(modules, format!("[{i}].path"), reason));
    }
    Ok(directory.join(sub))
}

/// What the directory of a cross-encoder says beyond the transformer's own configuration.
#[derive(Debug, Default)]
pub(crate) struct PairLayout {
    /// Where the transformer's files are.
    pub transformer: PathBuf,
    /// Largest number of tokens, where the directory says so.
    pub max_length: Option<usize>,
    /// Whether texts are lower-cased before anything else.
    pub do_lower_case: bool,
    /// Put before the first text of a pair.
    pub prefix: String,
    /// The file that names a function of the scores, and the function.
    pub activation: Option<(PathBuf, String)>,
}

impl PairLayout {
    /// Reads a directory's layout. Files of sentence-transformers count where they are of a
    /// cross-encoder: version 6 and later write a `modules.json` for those as well.
    ///
    /// # Errors
    /// As [`Layout::read`].
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        if !directory.is_dir() {
            return Err(Error::invalid(directory, "no such model directory"));
        }
        let mut layout = Self {
            transformer: directory.to_path_buf(),
            ..Self::default()
        };
        let (modules, path) = (directory.join(MODULES), directory.join(PROMPTS));
        if modules.is_file() && path.is_file() {
            let config: PromptConfig = read_json(&path)?;
            if config.model_type.as_deref() == Some("CrossEncoder") {
                layout.transformer = only_transformer(directory, &modules)?;
                if let Some(name) = &config.default_prompt_name {
                    layout.prefix = config.prompts.get(name).cloned().ok_or_else(|| {
                        let reason = format!("there is no prompt `{name}` in `prompts`");
                        Error::config(&path, "default_prompt_name", reason)
                    })?;
                }
                layout.activation = config.activation_fn.map(|name| (path, name));
                let sentence_bert = layout.transformer.join(SENTENCE_BERT);
                if sentence_bert.is_file() {
                    let config: SentenceBertConfig = read_json(&sentence_bert)?;
                    layout.max_length = config.max_seq_length;
                    layout.do_lower_case = config.do_lower_case;
                }
            }
        }
        if layout.max_length.is_none() {
            layout.max_length = TokenizerConfig::read(&layout.transformer)?.max_length();
        }
        Ok(layout)
    }
}

/// The place of the transformer in a `modules.json` that lists nothing else.
fn only_transformer(directory: &Path, modules: &Path) -> Result<PathBuf> {
    let entries: Vec<ModuleEntry> = read_json(modules)?;
    let unsupported = |i: usize, kind: &str| {
        let reason =
            format!("`{kind}` is not supported in this place; supported: one Transformer alone");
        Err(Error::config(modules, format!("[{i}].type"), reason))
    };
    match &entries[..] {
        [] => Err(Error::config(modules, "[0]", "no Transformer")),
        [entry] if entry.kind.rsplit('.').next() == Some("Transformer") => {
            inside(directory, modules, 0, entry)
        }
        [entry] => unsupported(0, &entry.kind),
        [_, entry, ..] => unsupported(1, &entry.kind),
    }
}

/// Names that sentence-transformers gives to poolings: in flags up to version 5, in
/// `pooling_mode` from 6 on.
const POOLING_NAMES: [(&str, &str, Pooling); 6] = [
    ("pooling_mode_cls_token", "cls", Pooling::Cls),
    ("pooling_mode_max_tokens", "max", Pooling::Max),
    ("pooling_mode_mean_tokens", "mean", Pooling::Mean),
    (
        "pooling_mode_mean_sqrt_len_tokens",
        "mean_sqrt_len_tokens",
        Pooling::MeanSqrtLen,
    ),
    ("pooling_mode_lasttoken", "lasttoken", Pooling::LastToken),
    // Not known upstream; written and read here alone.
    ("pooling_mode_gem", "gem", Pooling::Gem),
];

fn read_pooling(path: &Path) -> Result<Vec<Pooling>> {
    let config: Map<String, Value> = read_json(path)?;
    if config.get("include_prompt") == Some(&Value::Bool(false)) {
        return Err(Error::config(
            path,
            "include_prompt",
            "false is not supported; supported: true",
        ));
    }
    let supported = || POOLING_NAMES.map(|(_, name, _)| name).join(", ");
    let mut poolings = Vec::new();
    match config.get("pooling_mode") {
        Some(mode) => {
            let names: Vec<&str> = match mode {
                Value::String(name) => vec![name],
                Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
                _ => Vec::new(),
            };
            for name in names {
                let known = POOLING_NAMES.iter().find(|(_, known, _)| *known == name);
                let (_, _, pooling) = known.ok_or_else(|| {
                    Error::config(
                        path,
                        "pooling_mode",
                        format!("`{name}` is not supported; supported: {}", supported()),
                    )
                })?;
                poolings.push(*pooling);
            }
        }
        None => {
            for (field, value) in &config {
                if !field.starts_with("pooling_mode_") || value != &Value::Bool(true) {
                    continue;
                }
                if !POOLING_NAMES.iter().any(|(known, _, _)| known == field) {
                    return Err(Error::config(
                        path,
                        field,
                        format!("not supported; supported: {}", supported()),
                    ));
                }
            }
            // Upstream concatenates in the order of this table, not of the file.
            let is_set = |field: &str| config.get(field) == Some(&Value::Bool(true));
            poolings.extend(
                POOLING_NAMES
                    .iter()
                    .filter(|(field, _, _)| is_set(field))
                    .map(|(_, _, pooling)| *pooling),
            );
        }
    }
    if poolings.len() > MAX_POOLINGS {
        let reason = format!("{} poolings; at most {MAX_POOLINGS}", poolings.len());
        return Err(Error::config(path, "pooling_mode", reason));
    }
    if poolings.is_empty() {
        return Err(Error::config(
            path,
            "pooling_mode",
            format!("no pooling is set; supported: {}", supported()),
        ));
    }
    Ok(poolings)
}

fn read_dense(directory: &Path) -> Result<DenseHead> {
    let path = directory.join("config.json");
    let config: DenseConfig = read_json(&path)?;
    for (field, size) in [
        ("in_features", config.in_features),
        ("out_features", config.out_features),
    ] {
        if size == 0 || size > 1 << 24 {
            return Err(Error::config(
                &path,
                field,
                format!("{size} is not a usable size"),
            ));
        }
    }
    let name = config
        .activation_function
        .as_deref()
        .unwrap_or("torch.nn.modules.activation.Tanh");
    let activation = DENSE_ACTIVATIONS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, activation)| *activation);
    let activation = activation.ok_or_else(|| {
        let supported = DENSE_ACTIVATIONS.map(|(known, _)| known).join(", ");
        Error::config(
            &path,
            "activation_function",
            format!("`{name}` is not supported; supported: {supported}"),
        )
    })?;
    Ok(DenseHead {
        directory: directory.to_path_buf(),
        in_features: config.in_features,
        out_features: config.out_features,
        bias: config.bias,
        activation,
    })
}

/// Full names of the Python classes that `activation_function` may hold.
const DENSE_ACTIVATIONS: [(&str, Activation); 5] = [
    ("torch.nn.modules.activation.Tanh", Activation::Tanh),
    ("torch.nn.modules.linear.Identity", Activation::Identity),
    ("torch.nn.modules.activation.ReLU", Activation::Relu),
    ("torch.nn.modules.activation.GELU", Activation::Gelu),
    ("torch.nn.modules.activation.SiLU", Activation::Silu),
];

/// A dense head's sizes for [`files`].
pub(crate) struct DenseFiles {
    pub in_features: usize,
    pub out_features: usize,
    pub bias: bool,
    pub activation: Activation,
}

/// The small files of a sentence-transformers directory, as `(path, content)`.
///
/// Class paths and the pooling's flags are those of version 5 and before, which later versions
/// read as well.
pub(crate) fn files(
    layout: &Layout,
    pooling: &[Pooling],
    dense: &[DenseFiles],
    normalize: bool,
    max_length: usize,
    width: usize,
) -> Vec<(String, String)> {
    let mut modules = vec![
        entry(0, "", "Transformer"),
        entry(1, "1_Pooling", "Pooling"),
    ];
    let mut files = Vec::new();
    let mut pooling_config = Map::new();
    pooling_config.insert("word_embedding_dimension".into(), json!(width));
    for (field, _, kind) in POOLING_NAMES {
        if kind != Pooling::Gem || pooling.contains(&kind) {
            pooling_config.insert(field.into(), json!(pooling.contains(&kind)));
        }
    }
    pooling_config.insert("include_prompt".into(), json!(true));
    files.push((
        "1_Pooling/config.json".to_string(),
        pretty(&Value::Object(pooling_config)),
    ));
    for (i, head) in dense.iter().enumerate() {
        let directory = format!("{}_Dense", i + 2);
        let class = DENSE_ACTIVATIONS
            .iter()
            .find(|(_, activation)| *activation == head.activation);
        let config = json!({
            "in_features": head.in_features,
            "out_features": head.out_features,
            "bias": head.bias,
            "activation_function": class.map_or("torch.nn.modules.linear.Identity", |(class, _)| class),
        });
        files.push((format!("{directory}/config.json"), pretty(&config)));
        modules.push(entry(i + 2, &directory, "Dense"));
    }
    if normalize {
        let i = modules.len();
        modules.push(entry(i, &format!("{i}_Normalize"), "Normalize"));
    }
    files.push((MODULES.to_string(), pretty(&json!(modules))));
    let sentence_bert =
        json!({ "max_seq_length": max_length, "do_lower_case": layout.do_lower_case });
    files.push((SENTENCE_BERT.to_string(), pretty(&sentence_bert)));
    let prompts = json!({
        "prompts": layout.prompts,
        "default_prompt_name": layout.default_prompt,
        "similarity_fn_name": "cosine",
    });
    files.push((PROMPTS.to_string(), pretty(&prompts)));
    files
}

fn entry(idx: usize, path: &str, class: &str) -> ModuleEntry {
    let kind = format!("sentence_transformers.models.{class}");
    ModuleEntry {
        idx,
        name: idx.to_string(),
        path: path.to_string(),
        kind,
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
