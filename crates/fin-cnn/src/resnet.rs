//! ResNet (He et al. 2016, <https://arxiv.org/abs/1512.03385>) without its classifier, as
//! torchvision's `models/resnet.py` defines it: the variant that halves the resolution in the
//! 3×3 convolution of a bottleneck ("v1.5").

use burn::module::Module;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Device, Tensor};
use fin_core::Backbone;
use fin_core::kernels::Activation;
use fin_core::nn::{Conv2dConfig, ConvPadding};
use serde::{Deserialize, Serialize};

use crate::architecture::{MOST_BLOCKS, MOST_CHANNELS, out_of_bounds};
use crate::layers::{ConvNorm, NormConfig};

/// What a residual branch is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResidualBlock {
    /// Two 3×3 convolutions.
    Basic,
    /// 1×1, 3×3 and 1×1 convolutions, the last to four times as many channels.
    Bottleneck,
}

impl ResidualBlock {
    fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }
}

/// The numbers that shape a ResNet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// What its blocks are made of.
    pub block: ResidualBlock,
    /// Blocks in each stage.
    pub layers: Vec<usize>,
    /// Channels within the blocks of each stage; four times as many between bottlenecks.
    #[serde(default = "default_planes")]
    pub planes: Vec<usize>,
    /// Channels of the first convolution.
    #[serde(default = "default_stem")]
    pub stem_channels: usize,
    /// Batch normalisation.
    #[serde(default)]
    pub norm: NormConfig,
}

fn default_planes() -> Vec<usize> {
    vec![64, 128, 256, 512]
}

fn default_stem() -> usize {
    64
}

impl ResNetConfig {
    /// A network with the paper's widths.
    pub fn new(block: ResidualBlock, layers: [usize; 4]) -> Self {
        Self {
            block,
            layers: layers.to_vec(),
            planes: default_planes(),
            stem_channels: default_stem(),
            norm: NormConfig::default(),
        }
    }

    /// Channels of the features.
    pub fn hidden_size(&self) -> usize {
        self.planes.last().copied().unwrap_or(0) * self.block.expansion()
    }

    /// The first field that no network can be made of, and why.
    pub(crate) fn fault(&self) -> Option<(&'static str, String)> {
        let blocks = self.layers.iter().fold(0usize, |n, m| n.saturating_add(*m));
        if self.layers.is_empty() {
            return Some(("layers", "at least one stage is needed".into()));
        }
        if self.planes.len() != self.layers.len() {
            let reason = format!("{} numbers are needed, one a stage", self.layers.len());
            return Some(("planes", reason));
        }
        out_of_bounds("layers", &self.layers, MOST_BLOCKS)
            .or_else(|| out_of_bounds("layers", &[blocks], MOST_BLOCKS))
            .or_else(|| out_of_bounds("planes", &self.planes, MOST_CHANNELS))
            .or_else(|| out_of_bounds("stem_channels", &[self.stem_channels], MOST_CHANNELS))
    }

    /// Makes the network, for a configuration whose stages agree in number.
    pub fn init(&self, device: &Device) -> ResNet {
        let relu = Activation::Relu;
        let conv = |from, to, kernel: usize, stride, activation| {
            let config = Conv2dConfig::new(from, to, kernel)
                .with_stride(stride)
                .with_padding(ConvPadding::Fixed(kernel / 2));
            ConvNorm::init(config, self.norm, activation, device)
        };
        let mut channels = self.stem_channels;
        let mut stages = Vec::with_capacity(self.layers.len());
        for (stage, (&blocks, &planes)) in self.layers.iter().zip(&self.planes).enumerate() {
            let mut layer = Vec::with_capacity(blocks);
            for block in 0..blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let out = planes * self.block.expansion();
                let convs = match self.block {
                    ResidualBlock::Basic => vec![
                        conv(channels, planes, 3, stride, relu),
                        conv(planes, planes, 3, 1, Activation::Identity),
                    ],
                    ResidualBlock::Bottleneck => vec![
                        conv(channels, planes, 1, 1, relu),
                        conv(planes, planes, 3, stride, relu),
                        conv(planes, out, 1, 1, Activation::Identity),
                    ],
                };
                let downsample = (block == 0 && (stride != 1 || channels != out))
                    .then(|| conv(channels, out, 1, stride, Activation::Identity));
                layer.push(Residual { convs, downsample });
                channels = out;
            }
            stages.push(layer);
        }
        ResNet {
            stem: conv(3, self.stem_channels, 7, 2, relu),
            stages,
        }
    }
}

/// ResNet up to its last feature map.
#[derive(Module, Debug)]
pub struct ResNet {
    /// `conv1` and `bn1` upstream.
    pub stem: ConvNorm,
    /// `layer1` to `layer4` upstream.
    pub stages: Vec<Vec<Residual>>,
}

/// A branch of convolutions beside a shortcut.
#[derive(Module, Debug)]
pub struct Residual {
    /// `conv1` and `bn1` and so on upstream.
    pub convs: Vec<ConvNorm>,
    /// On the shortcut, where the shape changes.
    pub downsample: Option<ConvNorm>,
}

impl Residual {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let branch = self.convs.iter().fold(x.clone(), |x, conv| conv.forward(x));
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.forward(x),
            None => x,
        };
        Activation::Relu.forward(branch + shortcut)
    }

    fn fold(&self) -> Self {
        Self {
            convs: self.convs.iter().map(ConvNorm::fold).collect(),
            downsample: self.downsample.as_ref().map(ConvNorm::fold),
        }
    }
}

impl ResNet {
    /// The feature maps after the stem (before its max pooling) and after every stage, each
    /// `[batch, channels, height, width]`.
    pub fn feature_maps(&self, pixels: &Tensor<4>) -> Vec<Tensor<4>> {
        let mut maps = Vec::with_capacity(1 + self.stages.len());
        self.run(pixels, |map| maps.push(map.clone()));
        maps
    }

    fn run(&self, pixels: &Tensor<4>, mut seen: impl FnMut(&Tensor<4>)) -> Tensor<4> {
        let stem = self.stem.forward(pixels.clone());
        seen(&stem);
        let options = MaxPoolOptions::new([3; 2])
            .with_stride([2; 2])
            .with_padding([1; 2]);
        let mut x = burn::tensor::module::max_pool2d(stem, options);
        for stage in &self.stages {
            x = stage.iter().fold(x, |x, block| block.forward(x));
            seen(&x);
        }
        x
    }

    /// The same function at inference, without batch normalisations: [`ConvNorm::fold`].
    pub fn fold(&self) -> Self {
        let fold = |stage: &Vec<Residual>| stage.iter().map(Residual::fold).collect();
        Self {
            stem: self.stem.fold(),
            stages: self.stages.iter().map(fold).collect(),
        }
    }
}

impl Backbone for ResNet {
    type Batch = Tensor<4>;
    type Features = Tensor<4>;

    fn hidden_size(&self) -> usize {
        let last = self.stages.last().and_then(|stage| stage.last());
        let conv = last.and_then(|block| block.convs.last());
        conv.map_or(0, |conv| conv.conv.out_channels())
    }

    fn forward(&self, pixels: &Tensor<4>) -> Tensor<4> {
        self.run(pixels, |_| ())
    }
}
