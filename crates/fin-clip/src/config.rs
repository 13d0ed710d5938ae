//! The numbers that shape a model, whichever dialect they were written in.

use std::path::Path;

use fin_core::kernels::Activation;
use fin_core::{Error, Result};
use fin_transformer::xlm_roberta::XlmRobertaConfig;

use crate::preprocessing::Preprocessing;

/// What a model is.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipConfig {
    /// Length of an embedding, of texts and of images.
    pub projection_dim: usize,
    /// The image tower.
    pub vision: VisionConfig,
    /// The text tower.
    pub text: TextConfig,
    /// From an image file to the image tower's input.
    pub preprocessing: Preprocessing,
    /// Whether embeddings are scaled to unit length.
    pub normalize: bool,
    /// Where the weights come from.
    pub source: Option<String>,
    /// Their licence.
    pub licence: Option<String>,
}

/// The image tower: a Vision Transformer (Dosovitskiy et al. 2020) with a class token and a layer
/// norm before the first layer.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// The layers.
    pub encoder: EncoderConfig,
    /// Height and width of the input in pixels.
    pub image_size: usize,
    /// Height and width of a patch in pixels; what is left over at the right and the bottom is not
    /// seen.
    pub patch_size: usize,
}

impl VisionConfig {
    /// Patches on a side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Tokens of an image: its patches and the class token.
    pub fn tokens(&self) -> usize {
        self.grid() * self.grid() + 1
    }
}

/// The stack of layers of either tower.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Attention heads a layer.
    pub heads: usize,
    /// Of the feed-forward layers.
    pub activation: Activation,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f64,
    /// Dropout on attention weights, in training.
    pub attention_dropout: f64,
}

/// The text tower.
#[derive(Debug, Clone, PartialEq)]
pub enum TextConfig {
    /// CLIP's own: causal attention, the vector at the end of the text.
    Clip(ClipTextConfig),
    /// open_clip's `HFTextEncoder` around XLM-RoBERTa: the mean of the token vectors.
    XlmRoberta(XlmRobertaTextConfig),
}

impl TextConfig {
    /// Largest number of tokens of a text.
    pub fn context_length(&self) -> usize {
        match self {
            Self::Clip(config) => config.context_length,
            Self::XlmRoberta(config) => config.context_length,
        }
    }

    /// Rows of the token table.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Clip(config) => config.vocab_size,
            Self::XlmRoberta(config) => config.transformer.bert.vocab_size,
        }
    }
}

/// CLIP's text tower.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipTextConfig {
    /// The layers.
    pub encoder: EncoderConfig,
    /// Rows of the token table.
    pub vocab_size: usize,
    /// Rows of the position table: the largest number of tokens.
    pub context_length: usize,
    /// Which token's vector is the text's.
    pub pooling: TextPooling,
}

/// Which token's vector is the text's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextPooling {
    /// The first with the largest id, which is the end of the text in CLIP's vocabulary (open_clip's
    /// `argmax`; `transformers` where `eos_token_id` is 2, as it is in older files).
    Argmax,
    /// The first with this id, or the first of all where there is none (`transformers` otherwise;
    /// open_clip's `eos`).
    Eos(u32),
    /// The first (open_clip's `first`).
    First,
}

impl TextPooling {
    /// The token's place.
    pub fn place(self, ids: &[u32]) -> usize {
        let found = match self {
            Self::Argmax => {
                let largest = ids.iter().max();
                ids.iter().position(|id| Some(id) == largest)
            }
            Self::Eos(end) => ids.iter().position(|id| *id == end),
            Self::First => None,
        };
        found.unwrap_or(0)
    }
}

/// XLM-RoBERTa as a text tower.
#[derive(Debug, Clone, PartialEq)]
pub struct XlmRobertaTextConfig {
    /// The network.
    pub transformer: XlmRobertaConfig,
    /// Largest number of tokens.
    pub context_length: usize,
    /// What is after the pooling.
    pub projection: TextProjection,
}

/// What open_clip puts after a pooled transformer, without biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextProjection {
    /// Two linear maps with GELU between them, `(in + out) / 2` wide there (`mlp`).
    Mlp,
    /// One linear map (`linear`).
    Linear,
}

/// Most layers of a network, each of which takes memory before any weight is read. The deepest
/// published tower has 56.
const MAX_LAYERS: usize = 1024;

/// The largest of all other sizes.
const MAX_SIZE: usize = 1 << 24;

/// The field names of a tower in a configuration file, for errors.
pub(crate) struct Fields<'a> {
    pub path: &'a Path,
    /// Before every field, as in `text_config`.
    pub section: &'a str,
}

impl Fields<'_> {
    pub fn error(&self, field: &str, reason: impl std::fmt::Display) -> Error {
        let field = match self.section {
            "" => field.to_string(),
            section => format!("{section}.{field}"),
        };
        Error::config(self.path, field, reason)
    }

    /// Refuses sizes that nothing can be made of.
    pub fn check_size(&self, field: &str, size: usize) -> Result<()> {
        let most = if field.ends_with("layers") {
            MAX_LAYERS
        } else {
            MAX_SIZE
        };
        if (1..=most).contains(&size) {
            Ok(())
        } else {
            let reason = format!("{size} is not a usable size; accepted: 1 to {most}");
            Err(self.error(field, reason))
        }
    }

    /// The activation of this name.
    pub fn activation(&self, field: &str, name: &str) -> Result<Activation> {
        Activation::from_name(name).ok_or_else(|| {
            let names = Activation::NAMES.join(", ");
            self.error(
                field,
                format!("`{name}` is not supported; supported: {names}"),
            )
        })
    }

    /// What the layers rely on; `names` are those of width, feed-forward width, layers and heads.
    pub fn check_encoder(&self, config: &EncoderConfig, names: [&str; 4]) -> Result<()> {
        let [hidden, intermediate, layers, heads] = names;
        for (field, size) in [
            (hidden, config.hidden_size),
            (intermediate, config.intermediate_size),
            (layers, config.layers),
            (heads, config.heads),
        ] {
            self.check_size(field, size)?;
        }
        if !config.hidden_size.is_multiple_of(config.heads) {
            let reason = format!(
                "a width of {} does not split into {} heads",
                config.hidden_size, config.heads
            );
            return Err(self.error(heads, reason));
        }
        if !(config.layer_norm_eps > 0.0 && config.layer_norm_eps < 1.0) {
            let reason = format!(
                "{} is not a usable epsilon; accepted: above 0 and below 1",
                config.layer_norm_eps
            );
            return Err(self.error("layer_norm_eps", reason));
        }
        if !(0.0..1.0).contains(&config.attention_dropout) {
            let reason = format!(
                "{} is not a rate; accepted: 0 up to but not including 1",
                config.attention_dropout
            );
            return Err(self.error("attention_dropout", reason));
        }
        Ok(())
    }

    /// What the image tower relies on beside its layers.
    pub fn check_vision(&self, config: &VisionConfig) -> Result<()> {
        for (field, size) in [
            ("image_size", config.image_size),
            ("patch_size", config.patch_size),
        ] {
            if !(1..=MAX_SIDE).contains(&size) {
                let reason = format!("{size} pixels; 1 to {MAX_SIDE} are accepted");
                return Err(self.error(field, reason));
            }
        }
        if config.patch_size > config.image_size {
            let reason = format!(
                "a patch of {} pixels is larger than the image of {}",
                config.patch_size, config.image_size
            );
            return Err(self.error("patch_size", reason));
        }
        Ok(())
    }
}

/// Most pixels on a side of an image.
const MAX_SIDE: usize = 1 << 13;

impl ClipConfig {
    /// What the two towers rely on together; `path` is what errors name, and `fields` those of
    /// the resized size, the crop, mean and standard deviation in the file of the preprocessing.
    pub(crate) fn check(&self, path: &Path, preprocessing: &Path, fields: [&str; 4]) -> Result<()> {
        let [resize, crop, mean, std] = fields;
        if let Some((field, reason)) = self.preprocessing.transform.fault() {
            let field = match field {
                "resize" => resize,
                "crop" => crop,
                "mean" => mean,
                "std" => std,
                other => other,
            };
            return Err(Error::config(preprocessing, field, reason));
        }
        let size = self.vision.image_size;
        match self.preprocessing.transform.output_size() {
            Some(found) if found == [size, size] => {}
            found => {
                let found = found.map_or("of any size".into(), |[height, width]| {
                    format!("of {width} × {height} pixels")
                });
                let reason = format!(
                    "images come out {found}; the image tower of {} takes {size} × {size}",
                    path.display()
                );
                return Err(Error::config(preprocessing, crop, reason));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_text_ends() {
        let ids = [90, 3, 99, 4, 99, 1];
        assert_eq!(TextPooling::Argmax.place(&ids), 2);
        assert_eq!(TextPooling::Eos(4).place(&ids), 3);
        assert_eq!(TextPooling::Eos(5).place(&ids), 0);
        assert_eq!(TextPooling::First.place(&ids), 0);
        assert_eq!(TextPooling::Argmax.place(&[]), 0);
    }

    #[test]
    fn a_patch_that_does_not_divide_the_image_leaves_a_margin() {
        let encoder = EncoderConfig {
            hidden_size: 8,
            intermediate_size: 8,
            layers: 1,
            heads: 1,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-5,
            attention_dropout: 0.0,
        };
        let config = VisionConfig {
            encoder,
            image_size: 32,
            patch_size: 14,
        };
        assert_eq!((config.grid(), config.tokens()), (2, 5));
    }
}
