//! The settings of a run, from the command line and a TOML file.

use std::path::{Path, PathBuf};

use clap::Args;
use fin_core::image::Augmentation;
use fin_core::input::Column;
use fin_core::{BatchLimits, DeviceSpec, Error, Precision};
use fin_pointnet::PointAugmentation;
use fin_registry::{Modality, ModelOptions, Tower, nearest};
use fin_train::callback::Mode;
use fin_train::{LoraConfig, MultiDatasetSampler, Options, TrainConfig};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::args::DEFAULT_MODEL;
use crate::commands::split::SplitBy;
use crate::data::EvalTask;
use crate::report::{Failure, Result};

/// Steps between checkpoints unless told otherwise.
const CHECKPOINT_EVERY: usize = 500;

/// What can be set by a flag or by the key of the same name; `None` where it is not.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Name in the catalogue (see `fin models`) or directory of the model to start from [default:
    /// fin-tiny-en, a small one of English texts that is part of the program]
    #[arg(long, value_name = "NAME|DIR", help_heading = "Model")]
    pub model: Option<String>,

    /// Where to compute: flex, tch, tch:N, wgpu, wgpu:N or cuda:N [default: flex]
    #[arg(long, help_heading = "Model")]
    pub device: Option<String>,

    /// Pooling instead of the model's: cls, mean, mean_sqrt_len, max, last_token or gem (several,
    /// separated by commas, are concatenated), or pooler; for images mean, max or gem; for meshes
    /// embedding or global
    #[arg(long, value_delimiter = ',', help_heading = "Model")]
    pub pooling: Option<Vec<String>>,

    /// Largest number of tokens of a text instead of the model's; longer texts are cut
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub max_length: Option<usize>,

    /// Add a projection to this many components
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub output_dim: Option<usize>,

    /// Whether the tuned model scales embeddings to unit length, instead of what the model says
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Model")]
    pub normalize: Option<bool>,

    /// Name of the model's prompt that is put before every text
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    pub prompt: Option<String>,

    /// Train heads alone and leave the backbone as it is; needs --output-dim or a model with heads
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Model")]
    pub freeze: Option<bool>,

    /// Leave parameters as they are whose names in the weights file match, as in
    /// text_model.embeddings.*; * stands for any characters, ? for one
    #[arg(
        long,
        value_name = "GLOB",
        value_delimiter = ',',
        help_heading = "Model"
    )]
    pub freeze_pattern: Option<Vec<String>>,

    /// Train low-rank adapters of this rank (LoRA) and leave the weights as they are; the tuned model
    /// has both as one
    #[arg(long, value_name = "RANK", help_heading = "Model")]
    pub lora: Option<usize>,

    /// Factor of the adapters, divided by their rank [default: 16]
    #[arg(long, value_name = "ALPHA", requires = "lora", help_heading = "Model")]
    pub lora_alpha: Option<f64>,

    /// Layers with adapters by name, as in query,value,dense [default: queries and values]
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        requires = "lora",
        help_heading = "Model"
    )]
    pub lora_targets: Option<Vec<String>>,

    /// Directory to write the adapters to as well, in the format of PEFT
    #[arg(long, value_name = "DIR", requires = "lora", help_heading = "Model")]
    pub lora_output: Option<PathBuf>,

    /// Height and width that images are cropped to, instead of the model's; the resizing before it
    /// is scaled along
    #[arg(long, value_name = "PIXELS", help_heading = "Model")]
    pub image_size: Option<usize>,

    /// Most pixels that an image file may have [default: 100000000]
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub max_pixels: Option<u64>,

    /// Points that are sampled of a mesh, instead of the model's
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub points: Option<usize>,

    /// Towers of a model of texts and images to leave as they are: text, image
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_parser = tower,
        help_heading = "Model"
    )]
    pub lock: Option<Vec<Tower>>,

    /// Refuse weights with values that are NaN or infinite
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Model")]
    pub check: Option<bool>,

    /// File of training data: .csv, .tsv, .jsonl or .parquet; or directory of images or meshes by
    /// class. Can be given several times, for batches of one set each
    #[arg(long, value_name = "FILE|DIR", help_heading = "Data")]
    #[serde(deserialize_with = "one_or_several")]
    pub train: Option<Vec<PathBuf>>,

    /// Whose turn it is of several sets of training data: proportional (all batches of all sets,
    /// shuffled) or round_robin (one of each in turn, until the smallest ends) [default: proportional]
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    pub multi_dataset_sampler: Option<MultiDatasetSampler>,

    /// Keep the rows of the training data in a file instead of memory, for sets that memory has no room
    /// for: the same batches and the same model. What needs all rows together, as
    /// --validation-fraction and --targets do, cannot be had with it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Data")]
    pub stream: Option<bool>,

    /// Directory for the file of --stream, which is gone when the run ends [default: that of --output]
    #[arg(long, value_name = "DIR", help_heading = "Data")]
    pub stream_dir: Option<PathBuf>,

    /// Change items of training at random. Images: crops of 8 to 100 % of the area, mirrored in half
    /// of the cases, with other brightness, contrast, saturation and hue. Meshes: rotated about the
    /// up axis, scaled, moved, their points jittered and some left out
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Data")]
    pub augment: Option<bool>,

    /// Columns of the training data in the order above, by name or zero-based index
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        help_heading = "Data"
    )]
    pub columns: Option<Vec<String>>,

    /// The first row of .csv and .tsv files is data, not column names
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Data")]
    pub no_header: Option<bool>,

    /// Range of the scores in the training data, as in 0..5 [default: 0..1, or 0..5 where a score
    /// is above 1]
    #[arg(long, value_name = "MIN..MAX", help_heading = "Data")]
    pub score_range: Option<String>,

    /// Share of the training rows that are held out and measured on, instead of --eval. Rows that
    /// share an item, directly or over others, stay together; of labels, each class has its share
    #[arg(long, value_name = "SHARE", help_heading = "Data")]
    pub validation_fraction: Option<f64>,

    /// What stays together in what is held out: rows that share items, or those of a label [default:
    /// items]
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Data")]
    pub validation_by: Option<SplitBy>,

    /// For losses on labels: the training data is pairs, and the items that are connected over
    /// pairs have one label
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Data")]
    pub group_pairs: Option<bool>,

    /// NumPy file with a teacher's embeddings, for the loss mse: row i is what training item i is to
    /// be embedded as. Once for each --train
    #[arg(long, value_name = "NPY", help_heading = "Data")]
    #[serde(deserialize_with = "one_or_several")]
    pub targets: Option<Vec<PathBuf>>,

    /// File of evaluation data, or directory of images or meshes by class
    #[arg(long, value_name = "FILE|DIR", help_heading = "Evaluation")]
    pub eval: Option<PathBuf>,

    /// What to measure on it [default: sts for losses on scores, retrieval for losses on pairs,
    /// labelled for losses on labels]
    #[arg(long, value_enum, value_name = "TASK", help_heading = "Evaluation")]
    pub eval_task: Option<EvalTask>,

    /// Columns of the evaluation data [default: those of the training data]
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        help_heading = "Evaluation"
    )]
    pub eval_columns: Option<Vec<String>>,

    /// File of further documents to rank, for retrieval
    #[arg(long, value_name = "FILE", help_heading = "Evaluation")]
    pub corpus: Option<PathBuf>,

    /// Column of the further documents
    #[arg(long, value_name = "NAME|INDEX", help_heading = "Evaluation")]
    pub corpus_column: Option<String>,

    /// Cut-offs of the rankings, for retrieval [default: 1,3,5,10]
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        help_heading = "Evaluation"
    )]
    pub k: Option<Vec<usize>>,

    /// Metric that is watched, as in mrr@10, spearman or hit@1; for --patience and --load-best
    #[arg(long, value_name = "METRIC", help_heading = "Evaluation")]
    pub monitor: Option<String>,

    /// Whether the larger or the smaller value of --monitor is the better: max or min [default: max]
    #[arg(long, value_name = "MODE", help_heading = "Evaluation")]
    pub mode: Option<Mode>,

    /// Save the network as it was at the best value of --monitor instead of the last; until the end it
    /// is in OUTPUT.checkpoint/best
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Evaluation")]
    pub load_best: Option<bool>,

    /// Epochs without a better value of --monitor after which training ends
    #[arg(long, value_name = "N", help_heading = "Evaluation")]
    pub patience: Option<usize>,

    /// What --monitor has to improve by to count as better for --patience [default: 0]
    #[arg(
        long,
        value_name = "DELTA",
        requires = "patience",
        help_heading = "Evaluation"
    )]
    pub min_delta: Option<f64>,

    /// Value of --monitor that has to be passed within --patience, such as that of another model
    #[arg(
        long,
        value_name = "VALUE",
        allow_negative_numbers = true,
        help_heading = "Evaluation"
    )]
    pub baseline: Option<f64>,

    /// What training makes small: cosine_similarity, multiple_negatives_ranking, triplet_margin or
    /// another of fin-train's losses; an unknown name lists them all
    #[arg(long, value_name = "NAME", help_heading = "Training")]
    pub loss: Option<String>,

    /// Option of the loss, as in scale=20, margin=0.1 or learn_temperature=true; memory=1024 compares
    /// labelled items with those of earlier batches too; can be given several times
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Training")]
    pub loss_option: Option<Vec<String>>,

    /// Largest learning rate of the parameters that a loss has itself, such as class vectors
    /// [default: 0.01]
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    pub loss_learning_rate: Option<f64>,

    /// Weight decay of the parameters that a loss has itself [default: 0]
    #[arg(long, value_name = "DECAY", help_heading = "Training")]
    pub loss_weight_decay: Option<f64>,

    /// How batches are drawn: random, no_duplicates or class_balanced [default: what suits the
    /// loss]
    #[arg(long, value_name = "NAME", help_heading = "Training")]
    pub sampler: Option<String>,

    /// Option of the sampler, as in samples_per_class=4; can be given several times
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Training")]
    pub sampler_option: Option<Vec<String>>,

    /// Passes over the data [default: 1]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub epochs: Option<usize>,

    /// Rows a batch [default: 16]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub batch_size: Option<usize>,

    /// Batches a step: weights follow the mean of their gradients. Steps are counted, not batches
    /// [default: 1]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub gradient_accumulation: Option<usize>,

    /// Rows that the network sees at a time, for batches that memory has no room for: the loss is over
    /// the whole batch, and every item is embedded twice
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub mini_batch_size: Option<usize>,

    /// Largest learning rate [default: 2e-5]
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    pub learning_rate: Option<f64>,

    /// Learning rate over time: linear, cosine, cosine_with_restarts, polynomial, constant_with_warmup
    /// or constant [default: linear]
    #[arg(long, value_name = "NAME", help_heading = "Training")]
    pub schedule: Option<String>,

    /// Option of the schedule, as in power=3; can be given several times
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Training")]
    pub schedule_option: Option<Vec<String>>,

    /// Share of the steps that the schedule warms up over; constant has none [default: 0.1]
    #[arg(long, value_name = "SHARE", help_heading = "Training")]
    pub warmup: Option<f64>,

    /// How weights follow their gradients: adamw, adam, sgd, lion or adafactor [default: adamw]
    #[arg(long, value_name = "NAME", help_heading = "Training")]
    pub optimizer: Option<String>,

    /// Option of the optimiser, as in beta2=0.98 or momentum=0.9; can be given several times
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Training")]
    pub optimizer_option: Option<Vec<String>>,

    /// Weight decay [default: 0.01 for adamw, 0 for other optimisers]
    #[arg(long, value_name = "DECAY", help_heading = "Training")]
    pub weight_decay: Option<f64>,

    /// Parameters without weight decay beside biases and normalisation layers, by their names in the
    /// weights file, as in *embeddings*; * stands for any characters, ? for one
    #[arg(
        long,
        value_name = "GLOB",
        value_delimiter = ',',
        help_heading = "Training"
    )]
    pub no_decay: Option<Vec<String>>,

    /// What the learning rate is multiplied by from each layer to the one below it, as in 0.9; heads
    /// have the whole [default: 1]
    #[arg(long, value_name = "FACTOR", help_heading = "Training")]
    pub layer_decay: Option<f64>,

    /// Largest norm of the gradients; 0 for no limit [default: 1]
    #[arg(long, value_name = "NORM", help_heading = "Training")]
    pub max_grad_norm: Option<f64>,

    /// Seed of shuffling, dropout and new weights [default: 42]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub seed: Option<u64>,

    /// Steps to end after, where the epochs have more
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub max_steps: Option<usize>,

    /// Steps between checkpoints; 0 for none [default: 500]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub checkpoint_every: Option<usize>,

    /// File to write loss, learning rate and metrics to: .jsonl, or .csv
    #[arg(long, value_name = "FILE", help_heading = "Training")]
    pub log: Option<PathBuf>,

    /// Directory to write event files for TensorBoard to; a resumed run adds one
    #[arg(long, value_name = "DIR", help_heading = "Training")]
    pub tensorboard: Option<PathBuf>,

    /// Write a page for people: settings, curves of loss and metrics, and of rankings examples before
    /// and after
    #[arg(long, value_name = "HTML", help_heading = "Training")]
    pub report: Option<PathBuf>,

    /// Write no README.md, the model card, beside the tuned model
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Training")]
    pub no_model_card: Option<bool>,

    /// Directory to write the tuned model to
    #[arg(long, short, value_name = "DIR", help_heading = "Training")]
    pub output: Option<PathBuf>,
}

impl Settings {
    /// These settings, with those of a TOML file where these have none.
    pub fn over_file(&self, path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
        let table: toml::Table = toml::from_str(&text)
            .map_err(|e| Error::invalid(path, format!("is not valid TOML: {e}")))?;
        let known = fields(&Self::default());
        let mut merged = Map::new();
        for (key, value) in table {
            let field = key.replace('-', "_");
            if !known.contains_key(&field) {
                return Err(unknown_key(path, &key, &known).into());
            }
            let value = serde_json::to_value(value)
                .map_err(|e| Error::config(path, &key, format!("cannot be used: {e}")))?;
            // Alone first, so that an error is about this key.
            let alone = Map::from_iter([(field.clone(), value.clone())]);
            serde_json::from_value::<Self>(Value::Object(alone))
                .map_err(|e| Error::config(path, &key, e))?;
            if merged.insert(field, value).is_some() {
                let reason = "is given twice, with `-` and with `_`";
                return Err(Error::config(path, key, reason).into());
            }
        }
        for (field, value) in fields(self) {
            if !value.is_null() {
                merged.insert(field, value);
            }
        }
        let merged = serde_json::from_value(Value::Object(merged))
            .map_err(|e| Error::invalid(path, format!("cannot be used: {e}")))?;
        Ok(merged)
    }

    /// What a run cannot do without.
    pub fn required(&self) -> Result<Required<'_>> {
        fn given<'a, T>(name: &str, value: &'a Option<T>) -> Result<&'a T> {
            value.as_ref().ok_or_else(|| {
                Failure::Usage(format!(
                    "fit: `{name}` is missing: give --{name}, or the key {name} in a file given \
                     by --config"
                ))
            })
        }
        Ok(Required {
            model: self.model.as_deref().unwrap_or(DEFAULT_MODEL),
            train: match given("train", &self.train)?.as_slice() {
                [] => return Err(Error::argument("train", "is an empty list").into()),
                paths => paths,
            },
            loss: given("loss", &self.loss)?,
            output: given("output", &self.output)?,
        })
    }

    /// Names and values of the settings that differ from the defaults, but for those that say where
    /// files are or what is written beside the model.
    pub fn chosen(&self) -> Vec<(String, String)> {
        const ASIDE: [&str; 14] = [
            "model",
            "train",
            "targets",
            "eval",
            "corpus",
            "loss",
            "log",
            "lora_output",
            "no_model_card",
            "output",
            "report",
            "stream",
            "stream_dir",
            "tensorboard",
        ];
        let defaults = serde_json::to_value(TrainConfig::default()).unwrap_or_default();
        let is_chosen = |(name, value): &(String, Value)| {
            let is_default = match (name.as_str(), value) {
                (_, Value::Null) => true,
                ("normalize", _) => false,
                ("device", value) => value == &DeviceSpec::default().to_string(),
                ("checkpoint_every", value) => value == CHECKPOINT_EVERY,
                (_, Value::Bool(value)) => !value,
                (name, value) => defaults.get(name) == Some(value),
            };
            !is_default && !ASIDE.contains(&name.as_str())
        };
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        let chosen = fields(self).into_iter().filter(is_chosen);
        chosen
            .map(|(name, value)| match &value {
                Value::Array(values) => {
                    (name, values.iter().map(text).collect::<Vec<_>>().join(", "))
                }
                value => (name, text(value)),
            })
            .collect()
    }

    pub fn device(&self) -> Result<DeviceSpec> {
        match &self.device {
            Some(name) => Ok(name.parse()?),
            None => Ok(DeviceSpec::default()),
        }
    }

    /// For a model of this kind.
    pub fn model_options(&self, modality: Modality) -> Result<ModelOptions> {
        let augments = self.augment.unwrap_or_default();
        let of_points = modality == Modality::Mesh;
        Ok(ModelOptions {
            device: self.device()?,
            limits: BatchLimits::default(),
            pooling: self.pooling.as_ref().map(|names| names.join(",")),
            normalize: self.normalize,
            max_length: self.max_length,
            output_dim: self.output_dim,
            prompt: self.prompt.clone(),
            freeze: self.freeze.unwrap_or_default(),
            check: self.check.unwrap_or_default(),
            precision: Precision::F32,
            image_size: self.image_size,
            max_pixels: self.max_pixels,
            augmentation: (augments && !of_points).then(Augmentation::standard),
            points: self.points,
            point_augmentation: (augments && of_points).then(PointAugmentation::standard),
            lock: self.lock.clone().unwrap_or_default(),
            freeze_patterns: self.freeze_pattern.clone().unwrap_or_default(),
        })
    }

    /// Adapters, where they are asked for.
    pub fn lora(&self) -> Result<Option<LoraConfig>> {
        let Some(rank) = self.lora else {
            let given = [
                ("lora_alpha", self.lora_alpha.is_some()),
                ("lora_targets", self.lora_targets.is_some()),
                ("lora_output", self.lora_output.is_some()),
            ];
            return match given.iter().find(|(_, given)| *given) {
                Some((name, _)) => {
                    let reason = "is about adapters; give their rank by `lora` too";
                    Err(Error::argument(*name, reason).into())
                }
                None => Ok(None),
            };
        };
        let default = LoraConfig::default();
        let config = LoraConfig {
            rank,
            alpha: self.lora_alpha.unwrap_or(default.alpha),
            targets: self.lora_targets.clone().unwrap_or(default.targets),
        };
        config.validate()?;
        Ok(Some(config))
    }

    pub fn train_config(&self) -> Result<TrainConfig> {
        let default = TrainConfig::default();
        let every = self.checkpoint_every.unwrap_or(CHECKPOINT_EVERY);
        let config = TrainConfig {
            epochs: self.epochs.unwrap_or(default.epochs),
            batch_size: self.batch_size.unwrap_or(default.batch_size),
            gradient_accumulation_steps: self
                .gradient_accumulation
                .unwrap_or(default.gradient_accumulation_steps),
            learning_rate: self.learning_rate.unwrap_or(default.learning_rate),
            schedule: self.schedule.clone().unwrap_or(default.schedule),
            schedule_options: options("schedule_option", self.schedule_option.as_ref())?,
            warmup: self.warmup.unwrap_or(default.warmup),
            optimizer: self.optimizer.clone().unwrap_or(default.optimizer),
            optimizer_options: options("optimizer_option", self.optimizer_option.as_ref())?,
            weight_decay: self.weight_decay,
            no_decay: self.no_decay.clone().unwrap_or_default(),
            layer_decay: self.layer_decay.unwrap_or(default.layer_decay),
            max_grad_norm: self.max_grad_norm.unwrap_or(default.max_grad_norm),
            seed: self.seed.unwrap_or(default.seed),
            max_steps: self.max_steps,
            checkpoint_every_steps: (every > 0).then_some(every),
            keep_checkpoints: 1,
        };
        config.validate()?;
        Ok(config)
    }
}

/// The settings that a run cannot do without.
#[derive(Debug, Clone, Copy)]
pub struct Required<'a> {
    pub model: &'a str,
    pub train: &'a [PathBuf],
    pub loss: &'a str,
    pub output: &'a Path,
}

/// A path, or a list of paths.
fn one_or_several<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Vec<PathBuf>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "neither a path nor a list of paths")]
    enum Paths {
        One(PathBuf),
        Several(Vec<PathBuf>),
    }
    Ok(match Option::<Paths>::deserialize(deserializer)? {
        Some(Paths::One(path)) => Some(vec![path]),
        Some(Paths::Several(paths)) => Some(paths),
        None => None,
    })
}

fn tower(text: &str) -> std::result::Result<Tower, String> {
    serde_json::from_value(Value::from(text)).map_err(|_| "accepted: text, image".into())
}

/// Column choices from their text.
pub fn columns(names: Option<&Vec<String>>) -> Vec<Column> {
    names
        .into_iter()
        .flatten()
        .map(|name| Column::from(name.as_str()))
        .collect()
}

/// Options from `name=value` pairs; a value that is not JSON is a string.
pub fn options(setting: &str, pairs: Option<&Vec<String>>) -> Result<Options> {
    let mut options = Options::new();
    for pair in pairs.into_iter().flatten() {
        let Some((name, value)) = pair.split_once('=') else {
            let reason = format!("`{pair}` is not of the form name=value");
            return Err(Error::argument(setting, reason).into());
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        options.insert(name.trim().to_owned(), value);
    }
    Ok(options)
}

/// Every setting by name, `null` where it is not set.
fn fields(settings: &Settings) -> Map<String, Value> {
    match serde_json::to_value(settings) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

fn unknown_key(path: &Path, key: &str, known: &Map<String, Value>) -> Error {
    let near = nearest(&key.replace('-', "_"), known.keys().map(String::as_str));
    let hint = match near.first() {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let names: Vec<&str> = known.keys().map(String::as_str).collect();
            format!("known are {}", names.join(", "))
        }
    };
    Error::config(path, key, format!("is unknown; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        settings: Settings,
    }

    fn flags(args: &[&str]) -> Settings {
        Flags::try_parse_from([&["fit"], args].concat())
            .unwrap()
            .settings
    }

    fn merge(args: &[&str], file: &str) -> Result<Settings> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fit.toml");
        std::fs::write(&path, file).unwrap();
        flags(args).over_file(&path)
    }

    #[test]
    fn a_file_says_the_same_as_flags_and_flags_win() {
        let file = "model = 'a'\nbatch-size = 8\nlearning_rate = 1\npooling = ['cls', 'max']\n\
                    no_header = true\neval_task = 'sts'\nk = [1, 2]\nepochs = 2\n";
        let same = flags(&[
            "--model=a",
            "--batch-size=8",
            "--learning-rate=1",
            "--pooling=cls,max",
            "--no-header",
            "--eval-task=sts",
            "--k=1,2",
            "--epochs=2",
        ]);
        assert_eq!(merge(&[], file).unwrap(), same);
        let merged = merge(&["--epochs=5", "--no-header=false"], file).unwrap();
        assert_eq!((merged.epochs, merged.no_header), (Some(5), Some(false)));
        assert_eq!(merged.batch_size, Some(8));
    }

    #[test]
    fn a_bad_file_names_itself_and_the_key() {
        for (file, parts) in [
            ("epoch = 1", ["field `epoch`", "did you mean `epochs`?"]),
            ("xyz = 1", ["field `xyz`", "known are model, device"]),
            ("epochs = 'two'", ["field `epochs`", "invalid type: string"]),
            ("epochs = -1", ["field `epochs`", "-1"]),
            ("train = 1", ["field `train`", "nor a list of paths"]),
            (
                "multi-dataset-sampler = 'size'",
                ["field `multi-dataset-sampler`", "round_robin"],
            ),
            ("eval_task = 'sst'", ["field `eval_task`", "retrieval"]),
            ("epochs = ", ["is not valid TOML", "epochs"]),
            (
                "batch-size = 1\nbatch_size = 2",
                ["field `batch", "given twice"],
            ),
        ] {
            let error = merge(&[], file).unwrap_err().to_string();
            for part in ["fit.toml", parts[0], parts[1]] {
                assert!(error.contains(part), "{part} is not in: {error}");
            }
        }
    }

    #[test]
    fn defaults_are_those_of_training_and_help_says_so() {
        let config = Settings::default().train_config().unwrap();
        let default = TrainConfig::default();
        assert_eq!(
            TrainConfig {
                checkpoint_every_steps: None,
                keep_checkpoints: default.keep_checkpoints,
                ..config.clone()
            },
            default
        );
        let help = <Flags as clap::CommandFactory>::command()
            .term_width(0)
            .render_help()
            .to_string();
        for (flag, value) in [
            ("--epochs", default.epochs.to_string()),
            ("--batch-size", default.batch_size.to_string()),
            (
                "--gradient-accumulation",
                default.gradient_accumulation_steps.to_string(),
            ),
            ("--learning-rate", format!("{:e}", default.learning_rate)),
            ("--schedule", default.schedule),
            ("--warmup", default.warmup.to_string()),
            ("--optimizer <", default.optimizer),
            ("--layer-decay", default.layer_decay.to_string()),
            ("--max-grad-norm", default.max_grad_norm.to_string()),
            ("--seed", default.seed.to_string()),
            (
                "--checkpoint-every",
                config.checkpoint_every_steps.unwrap().to_string(),
            ),
        ] {
            let line = help.lines().find(|line| line.contains(flag)).unwrap();
            assert!(line.contains(&format!("[default: {value}]")), "{line}");
        }
    }

    #[test]
    fn training_data_is_one_set_or_several() {
        let one = merge(&[], "train = 'a.csv'").unwrap();
        assert_eq!(one.train, Some(vec![PathBuf::from("a.csv")]));
        let file = "train = ['a.csv', 'b.csv']\nmulti_dataset_sampler = 'round_robin'\n\
                    gradient_accumulation = 4\n";
        let same = flags(&[
            "--train=a.csv",
            "--train=b.csv",
            "--multi-dataset-sampler=round_robin",
            "--gradient-accumulation=4",
        ]);
        assert_eq!(merge(&[], file).unwrap(), same);
        assert_eq!(same.train_config().unwrap().gradient_accumulation_steps, 4);
        let merged = merge(&["--train=c.csv"], file).unwrap();
        assert_eq!(merged.train, Some(vec![PathBuf::from("c.csv")]));
        assert!(flags(&["--train=a.csv"]).required().is_err());
        let file = "train = []\nloss = 'clip'\noutput = 'x'";
        let error = merge(&[], file).unwrap().required().unwrap_err();
        assert!(error.to_string().contains("empty list"), "{error}");
    }

    #[test]
    fn what_differs_from_the_defaults_is_told() {
        let settings = flags(&[
            "--model=a",
            "--train=/home/me/b.csv",
            "--output=c",
            "--device=flex",
            "--epochs=1",
            "--learning-rate=1e-3",
            "--batch-size=32",
            "--freeze=false",
            "--normalize=false",
            "--pooling=cls,max",
            "--stream",
            "--stream-dir=/tmp",
            "--loss-option=scale=10",
            "--checkpoint-every=500",
        ]);
        let chosen = settings.chosen();
        let chosen: Vec<(&str, &str)> = chosen
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            chosen,
            [
                ("pooling", "cls, max"),
                ("normalize", "false"),
                ("loss_option", "scale=10"),
                ("batch_size", "32"),
                ("learning_rate", "0.001"),
            ]
        );
    }

    #[test]
    fn options_are_json_or_text() {
        let pairs = vec![
            "scale=20.5".to_owned(),
            "kind=hard".into(),
            "on=true".into(),
        ];
        let found = options("loss_option", Some(&pairs)).unwrap();
        assert_eq!(
            Value::Object(found),
            serde_json::json!({"scale": 20.5, "kind": "hard", "on": true})
        );
        let error = options("loss_option", Some(&vec!["scale".to_owned()])).unwrap_err();
        assert!(error.to_string().contains("`scale`"), "{error}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let settings = flags(&["--model=a", "--train=b.csv"]);
        let failure = settings.required().unwrap_err();
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.to_string().contains("--loss"), "{failure}");
    }
}
