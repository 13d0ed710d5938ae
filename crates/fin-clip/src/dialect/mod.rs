//! What the libraries put where in a model directory.

mod open_clip;
mod preprocessor;
mod section;
mod sentence_transformers;
mod transformers;

use std::path::{Path, PathBuf};

use fin_core::weights::Checkpoint;
use fin_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::config::ClipConfig;
use crate::tokenizer::{BPE_FILES, TokenizerDialect, read_bpe};
use crate::tokens::Tokens;
use crate::weights::Keys;

/// Whose directory, and whose names of tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// `CLIPModel` and `CLIPProcessor` of `transformers`.
    Transformers,
    /// sentence-transformers around the same: `modules.json` beside `0_CLIPModel`.
    SentenceTransformers,
    /// `create_model("local-dir:…")` of open_clip.
    #[serde(rename = "open_clip")]
    OpenClip,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Self; 3] = [
        Self::Transformers,
        Self::SentenceTransformers,
        Self::OpenClip,
    ];

    /// Name in files and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transformers => "transformers",
            Self::SentenceTransformers => "sentence-transformers",
            Self::OpenClip => "open_clip",
        }
    }

    /// The dialect of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.name() == name)
    }
}

/// Name of the file that says what a saved directory is.
pub const CONFIG_FILE: &str = "fin.json";

/// The families that write a `fin.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// CLIP.
    #[default]
    Clip,
}

/// `fin.json`: what a directory saved here says of itself beside upstream's files. Directories
/// without one are opened as well.
///
/// ```json
/// {
///   "family": "clip",
///   "dialect": "open_clip",
///   "normalize": false,
///   "source": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
///   "licence": "MIT"
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Which crate's directory this is.
    pub family: Family,
    /// Which of the directory's files to read, where there are those of several.
    #[serde(default)]
    pub dialect: Option<Dialect>,
    /// Whether embeddings are scaled to unit length.
    #[serde(default)]
    pub normalize: bool,
    /// Where the weights come from.
    #[serde(default)]
    pub source: Option<String>,
    /// Their licence.
    #[serde(default)]
    pub licence: Option<String>,
    /// What a conversion says of the files that it read and wrote; for people and other programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<serde_json::Value>,
}

/// Whether a directory holds a CLIP model: by its `fin.json`, else by upstream's own files.
///
/// # Errors
/// Where one of the files cannot be read.
pub fn is_clip_directory(directory: &Path) -> Result<bool> {
    #[derive(Deserialize)]
    struct Kind {
        family: Option<String>,
        model_type: Option<String>,
    }
    let read = |name: &str| -> Result<Option<Kind>> {
        let path = directory.join(name);
        path.is_file()
            .then(|| fin_core::json::read(&path))
            .transpose()
    };
    if let Some(Kind {
        family: Some(family),
        ..
    }) = read(CONFIG_FILE)?
    {
        return Ok(family == "clip");
    }
    if directory.join(open_clip::CONFIG).is_file() {
        return Ok(true);
    }
    if sentence_transformers::find(directory)?.is_some() {
        return Ok(true);
    }
    let kind = read(transformers::CONFIG)?.and_then(|kind| kind.model_type);
    Ok(kind.as_deref() == Some("clip"))
}

/// A directory whose configuration has been read.
#[derive(Debug)]
pub(crate) struct Opened {
    pub dialect: Dialect,
    pub config: ClipConfig,
    pub keys: Keys,
    /// Or why there are no weights.
    pub checkpoint: Result<Checkpoint>,
    pub files: Files,
}

/// What is needed to write the directory again.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    /// Where the tokenizer's files are.
    pub tokenizer: PathBuf,
    /// How texts become ids.
    pub tokens: Tokens,
    /// `(name, bytes)` of upstream's configuration, kept as it was.
    pub configuration: Vec<(String, Vec<u8>)>,
    /// The same of the tokenizer and the licence.
    pub vocabulary: Vec<(String, Vec<u8>)>,
}

/// Files of tokenizers, and the licence.
const VOCABULARY: [&str; 11] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "bpe_simple_vocab_16e6.txt.gz",
    "bpe_simple_vocab_16e6.txt",
    "sentencepiece.bpe.model",
    "LICENSE",
    "LICENSE.txt",
];

/// The files of these names that there are.
fn verbatim(directory: &Path, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
    let paths = names.iter().map(|name| (*name, directory.join(name)));
    let read = |(name, path): (&str, PathBuf)| {
        let bytes = std::fs::read(&path).map_err(Error::io(&path, "read"))?;
        Ok((name.to_string(), bytes))
    };
    paths.filter(|(_, path)| path.is_file()).map(read).collect()
}

/// Reads a directory; `asked` chooses where there are files of several dialects.
pub(crate) fn open(directory: &Path, asked: Option<Dialect>) -> Result<Opened> {
    let path = directory.join(CONFIG_FILE);
    let manifest: Manifest = match path.is_file() {
        true => fin_core::json::read(&path)?,
        false => Manifest::default(),
    };
    let dialect = match asked.or(manifest.dialect) {
        Some(dialect) => dialect,
        None => detect(directory)?,
    };
    let mut opened = match dialect {
        Dialect::Transformers => transformers::open(directory)?,
        Dialect::OpenClip => open_clip::open(directory)?,
        Dialect::SentenceTransformers => sentence_transformers::open(directory)?,
    };
    let config = &mut opened.config;
    config.normalize |= manifest.normalize;
    config.source = manifest.source;
    config.licence = manifest.licence;
    Ok(opened)
}

/// The dialect of a directory: the first whose configuration is there with its weights.
fn detect(directory: &Path) -> Result<Dialect> {
    if !directory.is_dir() {
        let missing = std::io::ErrorKind::NotFound.into();
        return Err(Error::io(directory, "open the model directory")(missing));
    }
    if sentence_transformers::find(directory)?.is_some() {
        return Ok(Dialect::SentenceTransformers);
    }
    let has_open_clip = directory.join(open_clip::CONFIG).is_file();
    if transformers::is_in(directory)?
        && !(has_open_clip && Checkpoint::open_directory(directory).is_err())
    {
        return Ok(Dialect::Transformers);
    }
    if has_open_clip {
        return Ok(Dialect::OpenClip);
    }
    Err(Error::invalid(
        directory,
        format!(
            "no CLIP model found; looked for {} with model_type clip, {}, and modules.json with \
             a CLIPModel",
            transformers::CONFIG,
            open_clip::CONFIG
        ),
    ))
}

/// Paths below a directory, with contents.
pub(crate) type NamedFiles = Vec<(String, Vec<u8>)>;

/// The files of a directory in `dialect` beside the weights, and where those go.
///
/// # Errors
/// [`Error::Argument`] where the dialect has no words for what the model is.
pub(crate) fn files(
    dialect: Dialect,
    config: &ClipConfig,
    own: Option<&Files>,
    vocabulary: &Files,
) -> Result<(NamedFiles, &'static str)> {
    let (mut files, weights) = match dialect {
        Dialect::Transformers => {
            let configuration = match own {
                Some(files) => files.configuration.clone(),
                None => transformers::configuration(config)?,
            };
            (configuration, "model.safetensors")
        }
        Dialect::OpenClip => {
            let configuration = match own {
                Some(files) => files.configuration.clone(),
                None => open_clip::configuration(config)?,
            };
            (configuration, "open_clip_model.safetensors")
        }
        Dialect::SentenceTransformers => {
            let configuration = match own {
                Some(files) => files.configuration.clone(),
                None => transformers::configuration(config)?,
            };
            let vocabulary = transformers_vocabulary(config, vocabulary)?;
            return Ok((
                sentence_transformers::files(config, configuration, &vocabulary),
                "0_CLIPModel/model.safetensors",
            ));
        }
    };
    files.extend(match dialect {
        Dialect::OpenClip => vocabulary.vocabulary.clone(),
        _ => transformers_vocabulary(config, vocabulary)?,
    });
    Ok((files, weights))
}

/// The files of a tokenizer for `transformers`, which reads no merges alone.
fn transformers_vocabulary(config: &ClipConfig, files: &Files) -> Result<Vec<(String, Vec<u8>)>> {
    let mut vocabulary = files.vocabulary.clone();
    let has = |name: &str| files.vocabulary.iter().any(|(file, _)| file == name);
    let merges = BPE_FILES.iter().find(|name| has(name));
    if let Some(name) = merges
        && !has("tokenizer.json")
        && !has("vocab.json")
    {
        let file = files.tokenizer.join(name);
        let found = read_bpe(&file, TokenizerDialect::Transformers)?.files();
        vocabulary.retain(|(name, _)| !BPE_FILES.contains(&name.as_str()));
        vocabulary.extend(found.map(|(name, bytes)| (name.to_string(), bytes)));
        let tokenizer = serde_json::json!({
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": config.text.context_length(),
        });
        vocabulary.push(("tokenizer_config.json".into(), json(&tokenizer)));
    }
    Ok(vocabulary)
}

/// A value as JSON for a file.
fn json(value: &serde_json::Value) -> Vec<u8> {
    let mut text = format!("{value:#}");
    text.push('\n');
    text.into_bytes()
}
