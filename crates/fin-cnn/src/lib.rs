//! Image embedding models: ResNet and EfficientNet, from torchvision's, timm's and
//! EfficientNet-PyTorch's checkpoints and back.
//!
//! [`ImageEmbedder`] is what most programs want: it opens a directory or a published checkpoint,
//! encodes image files, is trained by `fin-train`, and saves a directory whose weights
//! `torchvision` loads.
//!
//! ```no_run
//! use fin_cnn::{ImageEmbedder, ImageOptions, ModelConfig};
//! use fin_core::{BatchLimits, DeviceSpec, Embedder, PostProcess, encode};
//!
//! let device = DeviceSpec::Flex.open()?;
//! let config = ModelConfig::preset("resnet50", Some("IMAGENET1K_V2"))?;
//! let options = ImageOptions::default();
//! let model = ImageEmbedder::open_checkpoint("resnet50-11ad3fa6.pth", &config, &options, &device)?;
//! let images = ["pier.jpg".into(), "boat.png".into()];
//! let post = PostProcess::default();
//! let embeddings = encode(&model, &images, &device, BatchLimits::default(), post, |_| {})?;
//! assert_eq!(embeddings.dim, 2048);
//! model.save("resnet50".as_ref())?;
//! # Ok::<(), fin_core::Error>(())
//! ```
//!
//! [`ImageOptions::precision`] has most convolutions in 8 bits, for inference on `flex`.
//!
//! [`resnet`] and [`efficientnet`] hold the networks for use without the rest.

pub mod architecture;
mod config;
mod convert;
pub mod efficientnet;
mod embedder;
#[cfg(feature = "flex")]
mod inference;
#[cfg(not(feature = "flex"))]
#[path = "inference/absent.rs"]
mod inference;
pub mod layers;
mod names;
mod network;
mod presets;
pub mod resnet;

pub use architecture::{Architecture, BackboneConfig, Blocked, CnnBackbone};
pub use config::{CONFIG_FILE, Family, ModelConfig};
pub use convert::ImageConversion;
pub use embedder::{EncodedImage, ImageEmbedder, ImageOptions};
pub use names::Dialect;
pub use network::{CnnNetwork, ImageBatch};
pub use presets::{Preset, Scaling};
