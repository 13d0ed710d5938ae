//! Architectures by name.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use fin_core::{Backbone, Error, Precision, Result};
use serde::{Deserialize, Serialize};

use crate::efficientnet::{EfficientNet, EfficientNetConfig};
use crate::inference::Plan;
use crate::layers::NormConfig;
use crate::resnet::{ResNet, ResNetConfig, ResidualBlock};

/// An architecture: by name, or by its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Architecture {
    /// One of [`Architecture::names`].
    Named(String),
    /// Numbers of one's own.
    Custom(BackboneConfig),
}

/// The numbers that shape a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackboneConfig {
    /// ResNet.
    ResNet(ResNetConfig),
    /// EfficientNet, Lite included.
    EfficientNet(EfficientNetConfig),
}

/// Name, block and layers.
const RESNETS: [(&str, ResidualBlock, [usize; 4]); 5] = [
    ("resnet18", ResidualBlock::Basic, [2, 2, 2, 2]),
    ("resnet34", ResidualBlock::Basic, [3, 4, 6, 3]),
    ("resnet50", ResidualBlock::Bottleneck, [3, 4, 6, 3]),
    ("resnet101", ResidualBlock::Bottleneck, [3, 4, 23, 3]),
    ("resnet152", ResidualBlock::Bottleneck, [3, 8, 36, 3]),
];

/// Name, width, depth and dropout. With `tf_` before the name come TensorFlow's numbers.
const EFFICIENTNETS: [(&str, f64, f64, f64); 8] = [
    ("efficientnet_b0", 1.0, 1.0, 0.2),
    ("efficientnet_b1", 1.0, 1.1, 0.2),
    ("efficientnet_b2", 1.1, 1.2, 0.3),
    ("efficientnet_b3", 1.2, 1.4, 0.3),
    ("efficientnet_b4", 1.4, 1.8, 0.4),
    ("efficientnet_b5", 1.6, 2.2, 0.4),
    ("efficientnet_b6", 1.8, 2.6, 0.5),
    ("efficientnet_b7", 2.0, 3.1, 0.5),
];

/// torchvision gives these TensorFlow's batch normalisation, though not its padding.
const TENSORFLOW_NORM: [&str; 3] = ["efficientnet_b5", "efficientnet_b6", "efficientnet_b7"];

/// Name, width, depth and dropout.
const LITE: [(&str, f64, f64, f64); 5] = [
    ("efficientnet_lite0", 1.0, 1.0, 0.2),
    ("efficientnet_lite1", 1.0, 1.1, 0.2),
    ("efficientnet_lite2", 1.1, 1.2, 0.3),
    ("efficientnet_lite3", 1.2, 1.4, 0.3),
    ("efficientnet_lite4", 1.4, 1.8, 0.3),
];

/// Most channels, and most blocks of all stages: far more than in any published network. Each
/// block takes memory before any weight is read.
pub(crate) const MOST_CHANNELS: usize = 1 << 16;
pub(crate) const MOST_BLOCKS: usize = 1024;

/// The first of these numbers that is zero or more than `most`, and why not.
pub(crate) fn out_of_bounds(
    field: &'static str,
    numbers: &[usize],
    most: usize,
) -> Option<(&'static str, String)> {
    let wrong = numbers.iter().find(|n| **n == 0 || **n > most)?;
    Some((
        field,
        format!("{wrong} is not usable; accepted: 1 to {most}"),
    ))
}

impl Architecture {
    /// Every name, in the order of the families.
    pub fn names() -> Vec<String> {
        let resnets = RESNETS.iter().map(|row| row.0.to_string());
        let efficientnets = EFFICIENTNETS.iter().map(|row| row.0.to_string());
        let tensorflow = EFFICIENTNETS.iter().map(|row| format!("tf_{}", row.0));
        let lite = LITE.iter().map(|row| row.0.to_string());
        resnets
            .chain(efficientnets)
            .chain(tensorflow)
            .chain(lite)
            .collect()
    }

    /// The numbers behind the name.
    ///
    /// # Errors
    /// [`Error::Argument`] lists the names where there is none such, and names the field where
    /// no network can be made of one's own numbers.
    pub fn config(&self) -> Result<BackboneConfig> {
        let name = match self {
            Self::Named(name) => name.as_str(),
            Self::Custom(config) => {
                let fault = match config {
                    BackboneConfig::ResNet(config) => config.fault(),
                    BackboneConfig::EfficientNet(config) => config.fault(),
                };
                return match fault {
                    None => Ok(config.clone()),
                    Some((field, reason)) => Err(Error::argument(
                        "architecture",
                        format!("field `{field}`: {reason}"),
                    )),
                };
            }
        };
        if let Some((_, block, layers)) = RESNETS.iter().find(|row| row.0 == name) {
            return Ok(BackboneConfig::ResNet(ResNetConfig::new(*block, *layers)));
        }
        if let Some((_, width, depth, dropout)) = LITE.iter().find(|row| row.0 == name) {
            let config = EfficientNetConfig::lite(*width, *depth, *dropout);
            return Ok(BackboneConfig::EfficientNet(config));
        }
        let plain = name.strip_prefix("tf_").unwrap_or(name);
        if let Some((_, width, depth, dropout)) = EFFICIENTNETS.iter().find(|row| row.0 == plain) {
            let mut config = EfficientNetConfig::scaled(*width, *depth, *dropout);
            if plain != name {
                config = config.tensorflow();
            } else if TENSORFLOW_NORM.contains(&name) {
                config.norm = NormConfig::TENSORFLOW;
            }
            return Ok(BackboneConfig::EfficientNet(config));
        }
        Err(Error::argument(
            "architecture",
            format!(
                "`{name}` is not known; known are: {}",
                Self::names().join(", ")
            ),
        ))
    }
}

impl BackboneConfig {
    /// Channels of the features.
    pub fn hidden_size(&self) -> usize {
        match self {
            Self::ResNet(config) => config.hidden_size(),
            Self::EfficientNet(config) => config.head_channels,
        }
    }

    /// Dropout before the layer that takes the classifier's place, in training; ResNets have none.
    pub fn dropout(&self) -> f64 {
        match self {
            Self::ResNet(_) => 0.0,
            Self::EfficientNet(config) => config.dropout,
        }
    }

    /// Makes the network.
    pub fn init(&self, device: &Device) -> CnnBackbone {
        match self {
            Self::ResNet(config) => CnnBackbone::ResNet(config.init(device)),
            Self::EfficientNet(config) => CnnBackbone::EfficientNet(config.init(device)),
        }
    }
}

/// One of the architectures.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum CnnBackbone {
    /// ResNet.
    ResNet(ResNet),
    /// EfficientNet, Lite included.
    EfficientNet(EfficientNet),
    /// Either of them for inference on `flex`: [`CnnBackbone::compile`], [`CnnBackbone::quantize`].
    Blocked(Blocked),
}

/// A network for inference on `flex`, with its own form of the weights and no parameters. It takes
/// pixels that are f32 on `flex` outside of autodiff, and panics for others.
#[derive(Module, Debug)]
pub struct Blocked {
    #[module(skip)]
    plan: Arc<Plan>,
}

impl Blocked {
    fn forward(&self, pixels: &Tensor<4>) -> Tensor<4> {
        self.plan.forward(pixels).unwrap_or_else(|| refuse(pixels))
    }

    fn feature_maps(&self, pixels: &Tensor<4>) -> Vec<Tensor<4>> {
        let maps = self.plan.feature_maps(pixels);
        maps.unwrap_or_else(|| refuse(pixels))
    }
}

fn refuse(pixels: &Tensor<4>) -> ! {
    panic!(
        "pixels are {:?} on {:?}; a network that was compiled for inference takes f32 on flex \
         outside of autodiff",
        pixels.dtype(),
        pixels.device()
    )
}

impl CnnBackbone {
    /// The feature maps after the stem and after every stage (and after the head of an
    /// EfficientNet), each `[batch, channels, height, width]`.
    pub fn feature_maps(&self, pixels: &Tensor<4>) -> Vec<Tensor<4>> {
        match self {
            Self::ResNet(model) => model.feature_maps(pixels),
            Self::EfficientNet(model) => model.feature_maps(pixels),
            Self::Blocked(model) => model.feature_maps(pixels),
        }
    }

    /// The same function at inference, with every batch normalisation taken into the convolution
    /// before it.
    pub fn fold(&self) -> Self {
        match self {
            Self::ResNet(model) => Self::ResNet(model.fold()),
            Self::EfficientNet(model) => Self::EfficientNet(model.fold()),
            Self::Blocked(model) => Self::Blocked(model.clone()),
        }
    }

    /// The same function at inference, in the form that is fastest where the weights are: blocks
    /// of channels on `flex` (`fin_core::kernels::blocked`), else [`CnnBackbone::fold`].
    ///
    /// Weights are folded and packed layer by layer, so that no more than one layer is in memory
    /// a third time.
    pub fn compile(&self) -> Self {
        self.packed(Precision::F32).unwrap_or_else(|| self.fold())
    }

    /// Nearly the same function at inference on `flex`, as [`CnnBackbone::compile`] has it, with most convolutions in
    /// 8 bits (`fin_core::kernels::blocked::conv_int8`): those in which every output sees every input, but for the first
    /// and those of squeeze and excitation.
    ///
    /// # Errors
    /// [`Error::Argument`] where the weights are not f32 on `flex`, or the network was compiled before.
    pub fn quantize(&self) -> Result<Self> {
        self.packed(Precision::Int8).ok_or_else(|| {
            let reason = "int8 takes a network as it was loaded, in f32 on the device `flex`";
            Error::argument("precision", reason)
        })
    }

    fn packed(&self, precision: Precision) -> Option<Self> {
        let plan = Arc::new(Plan::new(self, precision)?);
        Some(Self::Blocked(Blocked { plan }))
    }
}

impl Backbone for CnnBackbone {
    type Batch = Tensor<4>;
    type Features = Tensor<4>;

    fn hidden_size(&self) -> usize {
        match self {
            Self::ResNet(model) => model.hidden_size(),
            Self::EfficientNet(model) => model.hidden_size(),
            Self::Blocked(model) => model.plan.hidden_size(),
        }
    }

    fn forward(&self, pixels: &Tensor<4>) -> Tensor<4> {
        match self {
            Self::ResNet(model) => model.forward(pixels),
            Self::EfficientNet(model) => model.forward(pixels),
            Self::Blocked(model) => model.forward(pixels),
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use fin_core::DeviceSpec;

    /// Parameters of the whole models as torchvision's and EfficientNet-PyTorch's documentation
    /// give them, less a classifier of 1,000 classes.
    #[test]
    fn numbers_of_parameters() {
        let device = DeviceSpec::Flex.open().unwrap();
        for (name, parameters, features) in [
            ("resnet18", 11_689_512, 512),
            ("resnet34", 21_797_672, 512),
            ("resnet50", 25_557_032, 2048),
            ("resnet101", 44_549_160, 2048),
            ("resnet152", 60_192_808, 2048),
            ("efficientnet_b0", 5_288_548, 1280),
            ("efficientnet_b1", 7_794_184, 1280),
            ("efficientnet_b2", 9_109_994, 1408),
            ("efficientnet_b3", 12_233_232, 1536),
            ("efficientnet_b4", 19_341_616, 1792),
            ("efficientnet_b5", 30_389_784, 2048),
            ("efficientnet_b6", 43_040_704, 2304),
            ("efficientnet_b7", 66_347_960, 2560),
            ("efficientnet_lite0", 4_652_008, 1280),
            ("efficientnet_lite4", 13_006_568, 1280),
        ] {
            let config = Architecture::Named(name.into()).config().unwrap();
            assert_eq!(config.hidden_size(), features, "{name}");
            let model = config.init(&device);
            assert_eq!(model.hidden_size(), features, "{name}");
            // Running statistics are visited like parameters: two a channel, as many as weights
            // and biases of the normalisations.
            let mut count = Count::default();
            model.visit(&mut count);
            assert_eq!(
                count.parameters + (features + 1) * 1000,
                parameters,
                "{name}"
            );
        }
    }

    #[derive(Default)]
    struct Count {
        path: Vec<String>,
        parameters: usize,
    }

    impl burn::module::ModuleVisitor for Count {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<Tensor<D>>) {
            if !self.path.last().unwrap().starts_with("running") {
                self.parameters += param.lazy_shape().num_elements();
            }
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known() {
        let error = Architecture::Named("resnet51".into()).config().unwrap_err();
        assert!(error.to_string().contains("resnet50"), "{error}");
    }
}
