//! Models in half precision against the references in f32, where the device computes in it.

use burn::tensor::FloatDType;
use fin_core::device::half_tolerance;
use fin_core::{Precision, Result};
use fin_transformer::{CrossEncoder, CrossEncoderOptions};

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
fn embeddings_in_half_precision() {
    for spec in devices() {
        let device = spec.open().unwrap();
        for precision in HALVES {
            for name in [
                "bert-tiny",
                "distilbert-tiny",
                "xlm-roberta-tiny",
                "t5-tiny",
                "t5-tiny-gated",
            ] {
                let reference = Reference::open(&format!("{name}.reference"));
                let options = TextOptions {
                    normalize: Some(false),
                    precision,
                    ..TextOptions::default()
                };
                let model = TextEmbedder::open(fixtures().join(name), &options, &device);
                let Some(model) = opened(precision, spec, &device, model) else {
                    continue;
                };
                let (limits, post) = (BatchLimits::default(), PostProcess::default());
                let found = encode(&model, &reference.texts(), &device, limits, post, |_| {});
                let expected = reference
                    .tensors
                    .read_f32("sentence_embedding_unnormalized");
                let (found, expected) = (found.unwrap().values, expected.unwrap());
                // In f32 the two would be this close.
                assert!(relative(&found, &expected) > f32_tolerance(spec));
                let what = format!("{name} on {spec}, {precision}: unnormalised");
                check(&what, &found, &expected, half_tolerance(precision));

                let directory = tempfile::tempdir().unwrap();
                let error = model.save(&directory.path().join("saved")).unwrap_err();
                assert!(error.to_string().contains("open it in f32"), "{error}");
                let error =
                    TextEmbedder::open(fixtures().join(name), &options, &device.clone().autodiff());
                let error = error.unwrap_err().to_string();
                assert!(error.contains("inference"), "{error}");
            }
        }
    }
}

#[test]
fn cross_encoders_in_half_precision() {
    let texts = |name: &str| -> Value {
        let path = fixtures().join("../cross-encoders").join(name);
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let json = texts("texts.json");
    let sentences: Vec<String> = serde_json::from_value(json["texts"].clone()).unwrap();
    let numbers: Vec<[usize; 2]> = serde_json::from_value(json["pairs"].clone()).unwrap();
    let pairs = numbers.iter().map(|pair| pair.map(|i| &*sentences[i]));
    let pairs: Vec<(&str, &str)> = pairs.map(|[a, b]| (a, b)).collect();
    for spec in devices() {
        let device = spec.open().unwrap();
        for precision in HALVES {
            for name in ["bert", "xlm-roberta", "distilbert"] {
                let directory = fixtures().join("../cross-encoders").join(name);
                let options = CrossEncoderOptions {
                    precision,
                    ..CrossEncoderOptions::default()
                };
                let model = CrossEncoder::open(directory, &options, &device);
                let Some(model) = opened(precision, spec, &device, model) else {
                    continue;
                };
                let found = model.logits(&pairs, BatchLimits::default(), |_| {});
                let expected = texts(&format!("{name}.reference.json"))["logits"].clone();
                let expected: Vec<f32> = serde_json::from_value(expected).unwrap();
                let what = format!("{name} as a cross-encoder on {spec}, {precision}: logits");
                let found = found.unwrap().values;
                check(&what, &found, &expected, half_tolerance(precision));
            }
        }
    }
}

/// Of weights that give sums beyond the 65,504 of f16, as those of large T5 models do.
#[test]
fn t5_in_f16_keeps_large_sums() {
    for spec in devices() {
        let device = spec.open().unwrap();
        let options = TextOptions::default();
        let mut model = TextEmbedder::open(fixtures().join("t5-tiny"), &options, &device).unwrap();
        let batch = model.preprocess(&["a boat waits".into()]).unwrap();
        let batch = model.collate(&batch.iter().collect::<Vec<_>>(), &device);
        let batch = batch.unwrap();
        let mut network = model.network().clone();
        let TextBackbone::T5(encoder) = &mut network.backbone else {
            panic!("no T5");
        };
        for block in &mut encoder.encoder.block {
            let wo = &mut block.feed_forward_layer.dense.wo;
            wo.weight = wo.weight.clone().map(|weight| weight * 1e6);
        }
        let states = network.backbone.hidden_states(&batch);
        let largest = states[states.len() - 2].clone().abs().max();
        let largest = largest.into_scalar::<f32>();
        assert!(largest > 65_504.0, "{largest}");
        model = model.with_network(network.clone());
        if Precision::F16.check_device(&device).is_err() {
            continue;
        }
        network.backbone = network.backbone.cast(Precision::F16);
        let found = values(network.embed(&batch));
        let expected = values(model.network().embed(&batch));
        let what = format!("t5-tiny of large weights on {spec}, f16: embedding");
        check(&what, &found, &expected, half_tolerance(Precision::F16));
    }
}
