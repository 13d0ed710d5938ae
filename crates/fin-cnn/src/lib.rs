//! Image embedding models: ResNet and EfficientNet.

pub mod architecture;
pub mod efficientnet;
pub mod layers;
pub mod names;
pub mod resnet;

pub use architecture::{Architecture, BackboneConfig, CnnBackbone};
pub use names::Dialect;
