//! EfficientNet (Tan and Le 2019, <https://arxiv.org/abs/1905.11946>) without its classifier.
//!
//! B0 to B7 are those of torchvision's `models/efficientnet.py`. The variants of TensorFlow's
//! original code, for weights converted from it, differ in padding and in the constants of batch
//! normalisation ([`EfficientNetConfig::tensorflow`]); EfficientNet-Lite
//! (<https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite>) is one of
//! them, without squeeze and excitation, with ReLU6, and with a stem and head of fixed width.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use fin_core::Backbone;
use fin_core::kernels::Activation;
use fin_core::nn::{Conv2dConfig, ConvPadding};
use serde::{Deserialize, Serialize};

use crate::architecture::{MOST_BLOCKS, MOST_CHANNELS, out_of_bounds};
use crate::layers::{ConvNorm, NormConfig, SqueezeExcite, StochasticDepth};

/// One stage of blocks of the same shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageConfig {
    /// Factor from the channels of a block's input to those within it.
    pub expand: usize,
    /// Height and width of the depthwise kernel.
    pub kernel: usize,
    /// Step of the first block's depthwise convolution.
    pub stride: usize,
    /// Channels of the output.
    pub channels: usize,
    /// Number of blocks.
    pub layers: usize,
}

/// Padding of the convolutions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// Half the kernel on every side, as PyTorch's own networks have it.
    Symmetric,
    /// TensorFlow's: [`ConvPadding::Same`], for the size that an image has. (EfficientNet-PyTorch
    /// fixes it for the usual size of a network, which differs where an image's is another.)
    Same,
}

/// The numbers that shape an EfficientNet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EfficientNetConfig {
    /// Channels of the first convolution.
    pub stem_channels: usize,
    /// Stages in order.
    pub stages: Vec<StageConfig>,
    /// Channels of the features.
    pub head_channels: usize,
    /// Whether blocks have squeeze and excitation, with SiLU throughout; without it they have
    /// ReLU6, which is what makes an EfficientNet a Lite one.
    pub squeeze_excite: bool,
    /// Padding of the convolutions.
    pub padding: Padding,
    /// Batch normalisation.
    #[serde(default)]
    pub norm: NormConfig,
    /// Probability to drop the last block's branch in training; less before, and zero for the
    /// first.
    #[serde(default = "default_stochastic_depth")]
    pub stochastic_depth: f64,
    /// Probability of the dropout before the projection that takes the classifier's place, in
    /// training.
    #[serde(default = "default_dropout")]
    pub dropout: f64,
}

fn default_stochastic_depth() -> f64 {
    0.2
}

fn default_dropout() -> f64 {
    0.2
}

/// Stages of B0: expansion, kernel, stride, channels, layers.
const BASE: [[usize; 5]; 7] = [
    [1, 3, 1, 16, 1],
    [6, 3, 2, 24, 2],
    [6, 5, 2, 40, 2],
    [6, 3, 2, 80, 3],
    [6, 5, 1, 112, 3],
    [6, 5, 2, 192, 4],
    [6, 3, 1, 320, 1],
];

/// Most of expansion, kernel and stride.
const MOST_SMALL: usize = 64;

/// The multiple of 8 next to `channels`, but not more than a tenth below it.
fn divisible(channels: f64) -> usize {
    let rounded = (((channels + 4.0) as usize) / 8 * 8).max(8);
    if (rounded as f64) < 0.9 * channels {
        rounded + 8
    } else {
        rounded
    }
}

/// Channels within a block.
fn expanded(channels: usize, expand: usize) -> usize {
    divisible((channels * expand) as f64)
}

impl EfficientNetConfig {
    /// B0 scaled in width and depth, as torchvision has it.
    pub fn scaled(width: f64, depth: f64, dropout: f64) -> Self {
        let scale = |[expand, kernel, stride, channels, layers]: [usize; 5]| StageConfig {
            expand,
            kernel,
            stride,
            channels: divisible(channels as f64 * width),
            layers: (layers as f64 * depth).ceil() as usize,
        };
        let stages: Vec<StageConfig> = BASE.into_iter().map(scale).collect();
        Self {
            stem_channels: divisible(32.0 * width),
            head_channels: 4 * stages[BASE.len() - 1].channels,
            stages,
            squeeze_excite: true,
            padding: Padding::Symmetric,
            norm: NormConfig::default(),
            stochastic_depth: default_stochastic_depth(),
            dropout,
        }
    }

    /// The same with TensorFlow's padding, epsilon and momentum.
    pub fn tensorflow(mut self) -> Self {
        self.padding = Padding::Same;
        self.norm = NormConfig::TENSORFLOW;
        self
    }

    /// EfficientNet-Lite: the first and last stage keep their depth, stem and head their width.
    pub fn lite(width: f64, depth: f64, dropout: f64) -> Self {
        let mut config = Self::scaled(width, depth, dropout).tensorflow();
        for i in [0, BASE.len() - 1] {
            config.stages[i].layers = BASE[i][4];
        }
        config.stem_channels = 32;
        config.head_channels = 1280;
        config.squeeze_excite = false;
        config
    }

    /// Channels of a block's input.
    fn block_input(&self, stage: usize, block: usize) -> usize {
        match (stage, block) {
            (0, 0) => self.stem_channels,
            (_, 0) => self.stages[stage - 1].channels,
            _ => self.stages[stage].channels,
        }
    }

    /// Whether a block has a convolution to more channels.
    pub(crate) fn expands(&self, stage: usize, block: usize) -> bool {
        let channels = self.block_input(stage, block);
        expanded(channels, self.stages[stage].expand) != channels
    }

    /// The first field that no network can be made of, and why.
    pub(crate) fn fault(&self) -> Option<(&'static str, String)> {
        if self.stages.is_empty() {
            return Some(("stages", "at least one is needed".into()));
        }
        let all = |number: fn(&StageConfig) -> usize| -> Vec<usize> {
            self.stages.iter().map(number).collect()
        };
        let layers = all(|stage| stage.layers);
        let blocks = layers.iter().fold(0usize, |n, m| n.saturating_add(*m));
        let expand = all(|stage| stage.expand);
        let wrong = out_of_bounds("stages.layers", &layers, MOST_BLOCKS)
            .or_else(|| out_of_bounds("stages.layers", &[blocks], MOST_BLOCKS))
            .or_else(|| out_of_bounds("stages.expand", &expand, MOST_SMALL))
            .or_else(|| out_of_bounds("stages.kernel", &all(|stage| stage.kernel), MOST_SMALL))
            .or_else(|| out_of_bounds("stages.stride", &all(|stage| stage.stride), MOST_SMALL))
            .or_else(|| {
                out_of_bounds(
                    "stages.channels",
                    &all(|stage| stage.channels),
                    MOST_CHANNELS,
                )
            })
            .or_else(|| out_of_bounds("stem_channels", &[self.stem_channels], MOST_CHANNELS))
            .or_else(|| out_of_bounds("head_channels", &[self.head_channels], MOST_CHANNELS));
        if wrong.is_some() {
            return wrong;
        }
        if let Some(kernel) = all(|stage| stage.kernel).iter().find(|n| **n % 2 == 0) {
            let reason = format!("{kernel} is even, so that its output would not fit its input");
            return Some(("stages.kernel", reason));
        }
        for (field, rate) in [
            ("dropout", self.dropout),
            ("stochastic_depth", self.stochastic_depth),
        ] {
            if !(0.0..1.0).contains(&rate) {
                return Some((field, format!("{rate} is not at least 0 and below 1")));
            }
        }
        None
    }

    /// Makes the network, for a configuration of positive numbers.
    pub fn init(&self, device: &Device) -> EfficientNet {
        let act = if self.squeeze_excite {
            Activation::Silu
        } else {
            Activation::Relu6
        };
        let conv = |from, to, kernel: usize, stride, groups, activation| {
            let padding = match self.padding {
                Padding::Symmetric => ConvPadding::Fixed((kernel - 1) / 2),
                Padding::Same => ConvPadding::Same,
            };
            let config = Conv2dConfig::new(from, to, kernel)
                .with_stride(stride)
                .with_padding(padding)
                .with_groups(groups);
            ConvNorm::init(config, self.norm, activation, device)
        };
        let total: usize = self.stages.iter().map(|stage| stage.layers).sum();
        let mut number = 0;
        let mut stages = Vec::with_capacity(self.stages.len());
        for (i, stage) in self.stages.iter().enumerate() {
            let mut blocks = Vec::with_capacity(stage.layers);
            for block in 0..stage.layers {
                let channels = self.block_input(i, block);
                let stride = if block == 0 { stage.stride } else { 1 };
                let wide = expanded(channels, stage.expand);
                let prob = self.stochastic_depth * number as f64 / total as f64;
                blocks.push(MbConv {
                    expand: (wide != channels).then(|| conv(channels, wide, 1, 1, 1, act)),
                    depthwise: conv(wide, wide, stage.kernel, stride, wide, act),
                    squeeze_excite: self
                        .squeeze_excite
                        .then(|| SqueezeExcite::init(wide, (channels / 4).max(1), act, device)),
                    project: conv(wide, stage.channels, 1, 1, 1, Activation::Identity),
                    stochastic_depth: (stride == 1 && channels == stage.channels)
                        .then(|| StochasticDepth::new(prob)),
                });
                number += 1;
            }
            stages.push(blocks);
        }
        EfficientNet {
            stem: conv(3, self.stem_channels, 3, 2, 1, act),
            stages,
            head: conv(
                self.block_input(self.stages.len() - 1, 1),
                self.head_channels,
                1,
                1,
                1,
                act,
            ),
        }
    }
}

/// EfficientNet up to its last feature map.
#[derive(Module, Debug)]
pub struct EfficientNet {
    /// 3×3 convolution that halves the resolution.
    pub stem: ConvNorm,
    /// Stages of blocks.
    pub stages: Vec<Vec<MbConv>>,
    /// 1×1 convolution to the features.
    pub head: ConvNorm,
}

/// Mobile inverted bottleneck (Sandler et al. 2018).
#[derive(Module, Debug)]
pub struct MbConv {
    /// 1×1 convolution to more channels; none where there are not more.
    pub expand: Option<ConvNorm>,
    /// Convolution of every channel on its own.
    pub depthwise: ConvNorm,
    /// Scaling of channels; none in Lite networks.
    pub squeeze_excite: Option<SqueezeExcite>,
    /// 1×1 convolution to the channels of the output.
    pub project: ConvNorm,
    /// On the branch, where there is a shortcut beside it.
    pub stochastic_depth: Option<StochasticDepth>,
}

impl MbConv {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let branch = match &self.expand {
            Some(expand) => expand.forward(x.clone()),
            None => x.clone(),
        };
        let branch = self.depthwise.forward(branch);
        let branch = match &self.squeeze_excite {
            Some(squeeze_excite) => squeeze_excite.forward(branch),
            None => branch,
        };
        let branch = self.project.forward(branch);
        match &self.stochastic_depth {
            Some(stochastic_depth) => stochastic_depth.forward(branch) + x,
            None => branch,
        }
    }

    fn fold(&self) -> Self {
        Self {
            expand: self.expand.as_ref().map(ConvNorm::fold),
            depthwise: self.depthwise.fold(),
            project: self.project.fold(),
            ..self.clone()
        }
    }
}

impl EfficientNet {
    /// The feature maps after the stem, after every stage and after the head, each
    /// `[batch, channels, height, width]`.
    pub fn feature_maps(&self, pixels: &Tensor<4>) -> Vec<Tensor<4>> {
        let mut maps = Vec::with_capacity(2 + self.stages.len());
        self.run(pixels, |map| maps.push(map.clone()));
        maps
    }

    fn run(&self, pixels: &Tensor<4>, mut seen: impl FnMut(&Tensor<4>)) -> Tensor<4> {
        let mut x = self.stem.forward(pixels.clone());
        seen(&x);
        for stage in &self.stages {
            x = stage.iter().fold(x, |x, block| block.forward(x));
            seen(&x);
        }
        x = self.head.forward(x);
        seen(&x);
        x
    }

    /// The same function at inference, without batch normalisations: [`ConvNorm::fold`].
    pub fn fold(&self) -> Self {
        let fold = |stage: &Vec<MbConv>| stage.iter().map(MbConv::fold).collect();
        Self {
            stem: self.stem.fold(),
            stages: self.stages.iter().map(fold).collect(),
            head: self.head.fold(),
        }
    }
}

impl Backbone for EfficientNet {
    type Batch = Tensor<4>;
    type Features = Tensor<4>;

    fn hidden_size(&self) -> usize {
        self.head.conv.out_channels()
    }

    fn forward(&self, pixels: &Tensor<4>) -> Tensor<4> {
        self.run(pixels, |_| ())
    }
}
