//! Networks in half precision against the references in f32, where the device computes in it.

use burn::tensor::FloatDType;
use fin_cnn::{CnnNetwork, ImageBatch, ImageEmbedder, ImageOptions};
use fin_core::device::half_tolerance;
use fin_core::{Embedder, EmbeddingNetwork, Precision, Result};

use super::*;

/// The model where the device computes in the precision; where it does not, the refusal is what is checked.
fn opened<M>(
    precision: Precision,
    spec: DeviceSpec,
    device: &Device,
    model: Result<M>,
) -> Option<M> {
    let dtype = match precision {
        Precision::F16 => FloatDType::F16,
        _ => FloatDType::BF16,
    };
    let has = spec != DeviceSpec::Flex && device.supports_dtype(dtype);
    match model {
        Ok(model) if has => Some(model),
        Ok(_) => panic!("{precision} on {spec} is taken, which has it not"),
        Err(error) => {
            let error = error.to_string();
            assert!(!has, "{precision} on {spec}: {error}");
            let backend = spec.feature();
            for part in ["precision", &precision.to_string(), backend, "it has f32"] {
                assert!(error.contains(part), "{error}");
            }
            None
        }
    }
}

const HALVES: [Precision; 2] = [Precision::Bf16, Precision::F16];

#[test]
fn pooled_features_in_half_precision() {
    for spec in devices() {
        let device = spec.open().unwrap();
        for precision in HALVES {
            for (name, dialect) in [
                ("resnet-bottleneck", Dialect::Torchvision),
                ("resnet-basic", Dialect::Torchvision),
                ("resnet-wide", Dialect::Torchvision),
                ("efficientnet", Dialect::Torchvision),
                ("efficientnet-timm", Dialect::Timm),
                ("efficientnet-lite", Dialect::EfficientNetPytorch),
            ] {
                let checked = precision.check_device(&device);
                if opened(precision, spec, &device, checked).is_none() {
                    continue;
                }
                let reference = tensors(&format!("{name}.reference"));
                let network = CnnNetwork {
                    backbone: load(name, dialect, &device).backbone,
                    dropout: burn::nn::DropoutConfig::new(0.0).init(),
                    projection: None,
                    pooling: MapPooling::Mean,
                    normalize: false,
                };
                let pixels = tensor::<4>(&reference, "pixels", &device);
                let network = network.fold_in(precision);
                let found = values(network.embed(&ImageBatch::Pixels(pixels)));
                let expected = reference.read_f32("pooled.mean").unwrap();
                assert!(relative(&found, &expected) > f32_tolerance(spec));
                let what = format!("{name} on {spec}, {precision}: pooled.mean");
                check(&what, &found, &expected, half_tolerance(precision));
            }
        }
    }
}

#[test]
fn a_model_in_half_precision_is_not_saved() {
    for spec in devices() {
        let device = spec.open().unwrap();
        for precision in HALVES {
            let options = ImageOptions {
                precision,
                ..ImageOptions::default()
            };
            let model = ImageEmbedder::open(fixtures().join("efficientnet"), &options, &device);
            if let Some(model) = opened(precision, spec, &device, model) {
                let directory = tempfile::tempdir().unwrap();
                let error = model.save(&directory.path().join("saved")).unwrap_err();
                assert!(error.to_string().contains("open it in f32"), "{error}");
            }
        }
        let options = ImageOptions {
            precision: Precision::Int8,
            ..ImageOptions::default()
        };
        let model = ImageEmbedder::open(fixtures().join("efficientnet"), &options, &device);
        match spec {
            DeviceSpec::Flex => assert!(model.is_ok()),
            _ => assert!(model.unwrap_err().to_string().contains("`flex`")),
        }
    }
}
