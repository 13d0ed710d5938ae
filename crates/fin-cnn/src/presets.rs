//! The preprocessing that published weights were evaluated with.
//!
//! Rows of torchvision are its `ImageClassification` presets. Those of TensorFlow's networks are
//! the evaluation of the original code
//! (<https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet>), which crops
//! `size / (size + 32)` of the shorter side and resizes that with cubics: here, as in timm, in the
//! other order. The Lite networks take values from about −1 to 1
//! (`lite/efficientnet_lite_builder.py`).

use fin_core::image::{ImageTransform, Interpolation, Resize};
use fin_core::{Error, Result};

/// Preprocessing of one set of weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preset {
    /// A name of [`crate::Architecture::names`].
    pub architecture: &'static str,
    /// Name of the weights, torchvision's where they are its own.
    pub weights: &'static str,
    /// Shorter side before the crop.
    pub resize: usize,
    /// Height and width of the crop.
    pub crop: usize,
    /// Of the resizing.
    pub interpolation: Interpolation,
    /// Mean and standard deviation.
    pub scaling: Scaling,
}

/// Mean and standard deviation of values from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scaling {
    /// Those of ImageNet's colours.
    ImageNet,
    /// 127/255 and 128/255 for all three.
    Lite,
}

impl Scaling {
    fn mean_and_std(self) -> [[f32; 3]; 2] {
        match self {
            Self::ImageNet => [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]],
            Self::Lite => [[127.0 / 255.0; 3], [128.0 / 255.0; 3]],
        }
    }
}

const V1: &str = "IMAGENET1K_V1";
const V2: &str = "IMAGENET1K_V2";
const TENSORFLOW: &str = "TENSORFLOW";
use Interpolation::{Bicubic, Bilinear};

/// Architecture, weights, resize, crop, interpolation; the preferred weights of an architecture
/// come first.
const TORCHVISION: [(&str, &str, usize, usize, Interpolation); 17] = [
    ("resnet18", V1, 256, 224, Bilinear),
    ("resnet34", V1, 256, 224, Bilinear),
    ("resnet50", V2, 232, 224, Bilinear),
    ("resnet50", V1, 256, 224, Bilinear),
    ("resnet101", V2, 232, 224, Bilinear),
    ("resnet101", V1, 256, 224, Bilinear),
    ("resnet152", V2, 232, 224, Bilinear),
    ("resnet152", V1, 256, 224, Bilinear),
    ("efficientnet_b0", V1, 256, 224, Bicubic),
    ("efficientnet_b1", V2, 255, 240, Bilinear),
    ("efficientnet_b1", V1, 256, 240, Bicubic),
    ("efficientnet_b2", V1, 288, 288, Bicubic),
    ("efficientnet_b3", V1, 320, 300, Bicubic),
    ("efficientnet_b4", V1, 384, 380, Bicubic),
    ("efficientnet_b5", V1, 456, 456, Bicubic),
    ("efficientnet_b6", V1, 528, 528, Bicubic),
    ("efficientnet_b7", V1, 600, 600, Bicubic),
];

/// Architecture and crop of TensorFlow's networks.
const TENSORFLOWS: [(&str, usize, Scaling); 13] = [
    ("tf_efficientnet_b0", 224, Scaling::ImageNet),
    ("tf_efficientnet_b1", 240, Scaling::ImageNet),
    ("tf_efficientnet_b2", 260, Scaling::ImageNet),
    ("tf_efficientnet_b3", 300, Scaling::ImageNet),
    ("tf_efficientnet_b4", 380, Scaling::ImageNet),
    ("tf_efficientnet_b5", 456, Scaling::ImageNet),
    ("tf_efficientnet_b6", 528, Scaling::ImageNet),
    ("tf_efficientnet_b7", 600, Scaling::ImageNet),
    ("efficientnet_lite0", 224, Scaling::Lite),
    ("efficientnet_lite1", 240, Scaling::Lite),
    ("efficientnet_lite2", 260, Scaling::Lite),
    ("efficientnet_lite3", 280, Scaling::Lite),
    ("efficientnet_lite4", 300, Scaling::Lite),
];

impl Preset {
    /// Every row.
    pub fn all() -> Vec<Self> {
        let torchvision = TORCHVISION.iter().map(
            |&(architecture, weights, resize, crop, interpolation)| Self {
                architecture,
                weights,
                resize,
                crop,
                interpolation,
                scaling: Scaling::ImageNet,
            },
        );
        let tensorflow = TENSORFLOWS
            .iter()
            .map(|&(architecture, crop, scaling)| Self {
                architecture,
                weights: TENSORFLOW,
                resize: crop + 32,
                crop,
                interpolation: Bicubic,
                scaling,
            });
        torchvision.chain(tensorflow).collect()
    }

    /// The row of an architecture and the name of its weights; the first of the architecture
    /// where no name is given.
    ///
    /// # Errors
    /// [`Error::Argument`] lists what there is.
    pub fn find(architecture: &str, weights: Option<&str>) -> Result<Self> {
        let mut rows = Self::all();
        rows.retain(|row| row.architecture == architecture);
        let found = rows
            .iter()
            .find(|row| weights.is_none_or(|weights| weights == row.weights));
        found.copied().ok_or_else(|| {
            let reason = match (rows.is_empty(), weights) {
                (false, Some(weights)) => {
                    let known: Vec<&str> = rows.iter().map(|row| row.weights).collect();
                    let known = known.join(", ");
                    format!("`{architecture}` has no weights `{weights}`; it has {known}")
                }
                _ => format!("`{architecture}` has none; give the preprocessing itself"),
            };
            Error::argument("preset", reason)
        })
    }

    /// The preprocessing.
    pub fn transform(&self) -> ImageTransform {
        let [mean, std] = self.scaling.mean_and_std();
        ImageTransform {
            resize: Some(Resize::ShorterSide(self.resize)),
            interpolation: self.interpolation,
            crop: Some([self.crop, self.crop]),
            mean,
            std,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Architecture;

    #[test]
    fn every_architecture_has_a_row_and_every_row_an_architecture() {
        let names = Architecture::names();
        for name in &names {
            assert_eq!(Preset::find(name, None).unwrap().architecture, name);
        }
        for row in Preset::all() {
            assert!(names.iter().any(|name| name == row.architecture));
            assert_eq!(row.transform().fault(), None);
        }
        let error = Preset::find("resnet50", Some("V3"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("IMAGENET1K_V2, IMAGENET1K_V1"), "{error}");
    }
}
