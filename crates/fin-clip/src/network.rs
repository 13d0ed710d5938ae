//! Both towers and the temperature as one module.

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use fin_core::kernels;
use fin_core::nn::{Linear, LinearLayers};
use fin_core::{EmbeddingNetwork, Precision, Result, l2_normalize};

use crate::config::ClipConfig;
use crate::dialect::Dialect;
use crate::text::{TextInput, TextTower};
use crate::vision::VisionTower;
use crate::weights::{self, Keys};

/// Texts and images in, one vector an item out.
#[derive(Module, Debug)]
pub struct ClipNetwork {
    /// Texts to vectors.
    pub text: TextTower,
    /// Images to vectors.
    pub vision: VisionTower,
    /// `[1]`: the logarithm of what cosines are multiplied by.
    pub logit_scale: Param<Tensor<1>>,
    /// Whether embeddings are scaled to unit length.
    pub normalize: bool,
}

/// Where CLIP's training begins: the logarithm of 1 / 0.07.
const INITIAL_LOGIT_SCALE: f32 = 2.659_26;

/// A batch of texts, images, or both.
#[derive(Debug, Clone)]
pub struct ClipBatch {
    /// The texts.
    pub texts: Option<TextBatch>,
    /// The images.
    pub images: Option<ImageBatch>,
    /// `[batch]`: for every item its row in texts followed by images; none where the batch holds
    /// one kind alone, in order.
    pub order: Option<Tensor<1, Int>>,
}

/// The texts of a batch.
// A batch is made once and its tensors are handles: what they weigh here does not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone)]
pub enum TextBatch {
    /// Token ids.
    Tokens(TextInput),
    /// What a locked tower gave before, `[batch, projection_dim]`.
    Features(Tensor<2>),
}

/// The images of a batch.
#[derive(Debug, Clone)]
pub enum ImageBatch {
    /// `[batch, 3, height, width]`, normalised as the model asks for.
    Pixels(Tensor<4>),
    /// What a locked tower gave before, `[batch, projection_dim]`.
    Features(Tensor<2>),
}

impl ClipConfig {
    /// Makes the network.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where XLM-RoBERTa's activation is unknown.
    pub fn init(&self, device: &Device) -> Result<ClipNetwork> {
        let scale = Tensor::from_floats([INITIAL_LOGIT_SCALE], device);
        Ok(ClipNetwork {
            text: self.text.init(self.projection_dim, device)?,
            vision: self.vision.init(self.projection_dim, device),
            logit_scale: Param::from_tensor(scale),
            normalize: self.normalize,
        })
    }
}

/// Of the towers' layers, not of patches and projections.
impl LinearLayers for ClipNetwork {
    fn each_linear(&mut self, f: &mut dyn FnMut(&mut Linear) -> Result<()>) -> Result<()> {
        self.vision.encoder.layers.each_linear(f)?;
        match &mut self.text {
            TextTower::Clip(tower) => tower.encoder.layers.each_linear(f),
            TextTower::XlmRoberta(tower) => tower.transformer.each_linear(f),
        }
    }
}

impl ClipNetwork {
    /// With both towers in half precision, where that is asked for; the temperature stays in f32.
    pub fn cast(self, precision: Precision) -> Self {
        Self {
            text: precision.cast(self.text),
            vision: precision.cast(self.vision),
            ..self
        }
    }

    /// Writes the weights alone as safetensors, under the dialect's names.
    ///
    /// # Errors
    /// [`fin_core::Error::Io`]; an existing file is then as it was before.
    pub fn save_weights(&self, path: &Path, dialect: Dialect) -> Result<()> {
        let keys = match dialect {
            Dialect::OpenClip => Keys::OpenClip { custom_text: false },
            Dialect::Transformers | Dialect::SentenceTransformers => Keys::Transformers,
        };
        weights::save(path, self, keys)
    }

    /// What upstream's `get_text_features` gives, `[batch, projection_dim]`.
    pub fn text_features(&self, texts: &TextBatch) -> Tensor<2> {
        match texts {
            TextBatch::Tokens(input) => kernels::on_pool(&self.logit_scale.val().device(), || {
                self.text.forward(input)
            }),
            TextBatch::Features(features) => features.clone(),
        }
    }

    /// What upstream's `get_image_features` gives, `[batch, projection_dim]`.
    pub fn image_features(&self, images: &ImageBatch) -> Tensor<2> {
        match images {
            ImageBatch::Pixels(pixels) => {
                kernels::on_pool(&pixels.device(), || self.vision.forward(pixels))
            }
            ImageBatch::Features(features) => features.clone(),
        }
    }

    /// [`EmbeddingNetwork::embed`] without the scaling to unit length.
    ///
    /// # Panics
    /// Where the batch is empty.
    pub fn embed_unnormalized(&self, batch: &ClipBatch) -> Tensor<2> {
        let texts = batch.texts.as_ref().map(|texts| self.text_features(texts));
        let images = batch
            .images
            .as_ref()
            .map(|images| self.image_features(images));
        let rows = match (texts, images) {
            (Some(texts), Some(images)) => Tensor::cat(vec![texts, images], 0),
            (Some(rows), None) | (None, Some(rows)) => rows,
            (None, None) => panic!("a batch of neither texts nor images"),
        };
        match &batch.order {
            Some(order) => rows.select(0, order.clone()),
            None => rows,
        }
    }

    /// Cosines of texts `[texts, dim]` and images `[images, dim]` times `exp(logit_scale)`,
    /// `[texts, images]`: `logits_per_text` of `transformers`.
    pub fn logits(&self, texts: Tensor<2>, images: Tensor<2>) -> Tensor<2> {
        let cosines = l2_normalize(texts).matmul(l2_normalize(images).transpose());
        cosines * self.logit_scale.val().exp().unsqueeze()
    }
}

impl EmbeddingNetwork for ClipNetwork {
    type Batch = ClipBatch;

    fn output_dim(&self) -> usize {
        self.vision.output_dim()
    }

    fn embed(&self, batch: &ClipBatch) -> Tensor<2> {
        let x = self.embed_unnormalized(batch);
        if self.normalize { l2_normalize(x) } else { x }
    }

    fn logit_scale(&self) -> Option<f32> {
        let data = self.logit_scale.val().into_data().convert::<f32>();
        data.try_into_vec::<f32>().ok()?.first().copied()
    }

    fn with_logit_scale(mut self, logit_scale: f32) -> Self {
        let set = |scale: Tensor<1>| Tensor::from_floats([logit_scale], &scale.device());
        self.logit_scale = self.logit_scale.map(set);
        self
    }
}
