//! Options that several commands share.

use clap::Args;
use fin_core::input::{Column, ReadOptions, TextFormat};
use fin_core::{BatchLimits, DeviceSpec, Precision};
use fin_pointnet::PointOutput;
use fin_registry::ModelOptions;
use fin_transformer::TextPooling;

use crate::family::{Kind, Reading};

/// The model where none is named.
pub const DEFAULT_MODEL: &str = "fin-tiny-en";

/// Which model, and what to change of it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Name in the catalogue (see `fin models`) or directory of a model; the default is a small one
    /// of English texts that is part of the program
    #[arg(long, value_name = "NAME|DIR", default_value = DEFAULT_MODEL)]
    pub model: String,

    /// Where to compute: flex, tch, tch:N, wgpu, wgpu:N or cuda:N
    #[arg(long, default_value = "flex")]
    pub device: DeviceSpec,

    /// Pooling instead of the model's: cls, mean, mean_sqrt_len, max, last_token or gem (several,
    /// separated by commas, are concatenated), or pooler; for images mean, max or gem; for meshes
    /// embedding or global
    #[arg(long, value_name = "NAMES", value_parser = pooling)]
    pub pooling: Option<String>,

    /// Largest number of tokens of a text instead of the model's; longer texts are cut
    #[arg(long, value_name = "N")]
    pub max_length: Option<usize>,

    /// Name of the model's prompt that is put before every text
    #[arg(long, value_name = "NAME")]
    pub prompt: Option<String>,

    /// Height and width that images are cropped to, instead of the model's; the resizing before it
    /// is scaled along
    #[arg(long, value_name = "PIXELS")]
    pub image_size: Option<usize>,

    /// Most pixels that an image file may have [default: 100000000]
    #[arg(long, value_name = "N")]
    pub max_pixels: Option<u64>,

    /// Points that are sampled of a mesh, instead of the model's
    #[arg(long, value_name = "N", value_parser = positive)]
    pub points: Option<usize>,

    /// Refuse weights with values that are NaN or infinite
    #[arg(long)]
    pub check: bool,

    /// What weights are held in: f32; bf16 or f16, on devices that compute in them (tch, wgpu, cuda); or int8, of the
    /// large layers of models of texts and images, on flex, which is faster on processors with VNNI, takes a quarter
    /// of these layers' memory, and leaves embeddings close to those of f32 (all-minilm-l6-v2: cosines of 0.99 and
    /// more)
    #[arg(long, default_value = "f32")]
    pub precision: Precision,
}

impl ModelArgs {
    pub fn options(&self) -> ModelOptions {
        ModelOptions {
            device: self.device,
            pooling: self.pooling.clone(),
            check: self.check,
            max_length: self.max_length,
            prompt: self.prompt.clone(),
            image_size: self.image_size,
            max_pixels: self.max_pixels,
            points: self.points,
            precision: self.precision,
            ..ModelOptions::default()
        }
    }
}

/// Limits on what is computed at a time.
#[derive(Debug, Args)]
#[command(next_help_heading = "Batches")]
pub struct BatchArgs {
    /// Most items in a batch
    #[arg(long, value_name = "N", default_value_t = BatchLimits::default().max_items, value_parser = positive)]
    pub batch_size: usize,

    /// Most tokens in a batch, padding included; decides on memory use. A patch of 16 x 16 pixels
    /// counts as a token
    #[arg(long, value_name = "N", default_value_t = BatchLimits::default().max_cost, value_parser = positive)]
    pub max_tokens: usize,
}

impl BatchArgs {
    pub fn limits(&self) -> BatchLimits {
        BatchLimits {
            max_items: self.batch_size,
            max_cost: self.max_tokens,
        }
    }
}

/// Where the texts or paths of a file are.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
pub struct ColumnArgs {
    /// Column of the texts or of the images' paths, by name or zero-based index; not needed where
    /// there is only one, or one is called `text`, of paths `path`, `image` or `file`
    #[arg(long, value_name = "NAME|INDEX")]
    pub column: Option<Column>,

    /// The first row of .csv and .tsv files is data, not column names
    #[arg(long)]
    pub no_header: bool,

    /// What the items are, of a model of texts and images [default: images where they are files or
    /// end like the name of one]
    #[arg(long, value_enum, value_name = "KIND")]
    pub modality: Option<Kind>,
}

impl ColumnArgs {
    /// How a file of this format is read, or of the format that its extension says.
    pub fn reading(&self, format: Option<TextFormat>) -> Reading<'_> {
        Reading {
            column: self.column.as_ref(),
            options: read_options(self.no_header, format),
            kind: self.modality,
        }
    }
}

/// How a file is read.
pub fn read_options(no_header: bool, format: Option<TextFormat>) -> ReadOptions {
    ReadOptions {
        has_header: !no_header,
        format,
    }
}

/// Names of poolings, which those of feature maps are among.
fn pooling(text: &str) -> Result<String, fin_core::Error> {
    if text.parse::<PointOutput>().is_ok() {
        return Ok(text.to_owned());
    }
    text.parse::<TextPooling>().map(|_| text.to_owned())
}

/// Parses a number of at least 1.
pub fn positive(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(0) => Err("at least 1 is needed".into()),
        Ok(n) => Ok(n),
        Err(e) => Err(e.to_string()),
    }
}
