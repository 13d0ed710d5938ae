//! Models in half precision against the references in f32, where the device computes in it.

use burn::tensor::FloatDType;
use fin_core::device::half_tolerance;
use fin_core::{Precision, Result};

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
fn features_in_half_precision() {
    for spec in devices() {
        let device = spec.open().unwrap();
        for precision in HALVES {
            for name in MODELS {
                let case = Case::new(name);
                let options = ClipOptions {
                    normalize: Some(false),
                    precision,
                    ..ClipOptions::default()
                };
                let model = ClipEmbedder::open(fixtures().join(name), &options, &device);
                let Some(model) = opened(precision, spec, &device, model) else {
                    continue;
                };
                let (texts, images) = case.items();
                for (stage, items) in [("text.features", texts), ("image.features", images)] {
                    let found = values(model.network().embed(&batch(&model, &items, &device)));
                    let expected = case.expected(stage);
                    assert!(relative(&found, &expected) > f32_tolerance(spec));
                    let what = format!("{name} on {spec}, {precision}: {stage}");
                    check(&what, &found, &expected, half_tolerance(precision));
                }
                let exact = case.open(&ClipOptions::default(), &device);
                assert_eq!(model.logit_scale(), exact.logit_scale());
                let directory = tempfile::tempdir().unwrap();
                assert!(model.save(&directory.path().join("saved")).is_err());
            }
        }
    }
}
