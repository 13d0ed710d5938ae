//! Every stage of the text models against the reference library's numbers: token ids, hidden
//! states, pooled vectors, embeddings, and the gradients of one training step.
//!
//! References come from `fixtures/text/generate.py`. Devices come from `FIN_TEST_DEVICES`
//! (`flex` where unset), so that one binary proves every backend it was built with.

#[path = "parity/cross_encoders.rs"]
mod cross_encoders;
#[path = "parity/half.rs"]
mod half;

use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Gradients, Tensor};
use fin_core::device::f32_tolerance;
use fin_core::weights::{self, Checkpoint};
use fin_core::{
    Backbone, BatchLimits, DeviceSpec, Embedder, EmbeddingNetwork, Pooling, PostProcess, encode,
    l2_normalize,
};
use fin_train::optim::{AdamW, Optimizer, OptimizerConfig};
use fin_transformer::bert::Bert;
use fin_transformer::{TextBackbone, TextEmbedder, TextNetwork, TextOptions};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/text")
}

fn devices() -> Vec<DeviceSpec> {
    let names = std::env::var("FIN_TEST_DEVICES").unwrap_or_else(|_| "flex".into());
    names
        .split(',')
        .map(|name| name.parse().expect("FIN_TEST_DEVICES holds device names"))
        .collect()
}

struct Reference {
    tensors: Checkpoint,
    json: Value,
}

impl Reference {
    fn open(name: &str) -> Self {
        let tensors = Checkpoint::open(fixtures().join(format!("{name}.safetensors"))).unwrap();
        let json = std::fs::read_to_string(fixtures().join(format!("{name}.json"))).unwrap();
        Self {
            tensors,
            json: serde_json::from_str(&json).unwrap(),
        }
    }

    fn texts(&self) -> Vec<String> {
        serde_json::from_value(self.json["texts"].clone()).unwrap()
    }

    fn ids(&self) -> Vec<Vec<u32>> {
        serde_json::from_value(self.json["input_ids"].clone()).unwrap()
    }
}

/// `‖a − b‖ / ‖b‖`.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let difference: f64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| square(f64::from(*a) - f64::from(*b)))
        .sum();
    let norm: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    (difference / norm).sqrt()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

/// The rows of `[batch, seq, width]` that are tokens; upstream leaves anything at padding.
fn tokens_only(values: &[f32], mask: &[f32], width: usize) -> Vec<f32> {
    values
        .chunks_exact(width)
        .zip(mask)
        .filter(|(_, mask)| **mask == 1.0)
        .flat_map(|(row, _)| row)
        .copied()
        .collect()
}

fn check(what: &str, found: &[f32], expected: &[f32], tolerance: f64) {
    let error = relative(found, expected);
    println!("{what}: {error:.2e}");
    assert!(
        error < tolerance,
        "{what}: relative error {error:.2e}, allowed {tolerance:.0e}"
    );
}

fn stages(name: &str) {
    let reference = Reference::open(&format!("{name}.reference"));
    for spec in devices() {
        let device = spec.open().unwrap();
        let tolerance = f32_tolerance(spec);
        let options = TextOptions {
            normalize: Some(false),
            ..TextOptions::default()
        };
        let model = TextEmbedder::open(fixtures().join(name), &options, &device).unwrap();
        assert!(model.report().unused.is_empty(), "{}", model.report());

        let tokenized = model.preprocess(&reference.texts()).unwrap();
        let ids: Vec<Vec<u32>> = tokenized.iter().map(|text| text.ids.clone()).collect();
        assert_eq!(ids, reference.ids(), "{name}: token ids");

        let batch = model
            .collate(&tokenized.iter().collect::<Vec<_>>(), &device)
            .unwrap();
        let mask = values(batch.mask.clone());
        let label = |stage: &str| format!("{name} on {spec}: {stage}");
        let states = model.network().backbone.hidden_states(&batch);
        let width = states[0].dims()[2];
        for (i, state) in states.iter().enumerate() {
            let expected = reference
                .tensors
                .read_f32(&format!("hidden_states.{i}"))
                .unwrap();
            let found = tokens_only(&values(state.clone()), &mask, width);
            check(
                &label(&format!("hidden_states.{i}")),
                &found,
                &tokens_only(&expected, &mask, width),
                tolerance,
            );
        }
        let last = model.network().backbone.forward(&batch);
        for pooling in Pooling::ALL {
            let expected = reference
                .tensors
                .read_f32(&format!("pooled.{pooling}"))
                .unwrap();
            let found = values(pooling.forward(last.clone(), batch.mask.clone()));
            check(
                &label(&format!("pooled.{pooling}")),
                &found,
                &expected,
                tolerance,
            );
        }
        if let TextBackbone::Bert(bert) = &model.network().backbone
            && let Some(pooled) = bert.pooler_output(last)
        {
            let expected = reference.tensors.read_f32("pooler_output").unwrap();
            check(
                &label("pooler_output"),
                &values(pooled),
                &expected,
                tolerance,
            );
        }
        let expected = reference
            .tensors
            .read_f32("sentence_embedding_unnormalized")
            .unwrap();
        check(
            &label("unnormalised"),
            &values(model.network().embed(&batch)),
            &expected,
            tolerance,
        );

        let as_saved =
            TextEmbedder::open(fixtures().join(name), &TextOptions::default(), &device).unwrap();
        let expected = reference.tensors.read_f32("sentence_embedding").unwrap();
        let limits = BatchLimits {
            max_items: 5,
            max_cost: 100,
        };
        let found = encode(
            &as_saved,
            &reference.texts(),
            &device,
            limits,
            PostProcess::default(),
            |_| {},
        )
        .unwrap();
        check(
            &label("embedding, in batches"),
            &found.values,
            &expected,
            tolerance,
        );
    }
}

#[test]
fn bert() {
    stages("bert-tiny");
}

#[test]
fn bert_from_sharded_safetensors() {
    stages("bert-tiny-sharded");
}

#[test]
fn bert_from_a_masked_language_model_pickle_and_a_vocabulary() {
    stages("bert-tiny-plain");
}

#[test]
fn distilbert_with_a_dense_head() {
    stages("distilbert-tiny");
}

#[test]
fn xlm_roberta() {
    stages("xlm-roberta-tiny");
}

#[test]
fn t5() {
    stages("t5-tiny");
}

#[test]
fn t5_gated_from_a_whole_checkpoint() {
    stages("t5-tiny-gated");
}

#[test]
fn a_classic_directory_and_a_prompt() {
    let reference = Reference::open("bert-tiny.reference");
    let device = DeviceSpec::Flex.open().unwrap();
    for (prompt, key) in [
        (None, "sentence_embedding"),
        (Some("query"), "sentence_embedding.query"),
    ] {
        let options = TextOptions {
            prompt: prompt.map(String::from),
            ..TextOptions::default()
        };
        let name = if prompt.is_none() {
            "bert-tiny-classic"
        } else {
            "bert-tiny"
        };
        let model = TextEmbedder::open(fixtures().join(name), &options, &device).unwrap();
        let found = encode(
            &model,
            &reference.texts(),
            &device,
            BatchLimits::default(),
            PostProcess::default(),
            |_| {},
        )
        .unwrap();
        check(
            key,
            &found.values,
            &reference.tensors.read_f32(key).unwrap(),
            f32_tolerance(DeviceSpec::Flex),
        );
    }
}

/// The same text alone, padded, and in another order: under 1e-5 apart.
#[test]
fn padding_and_order_do_not_leak() {
    for name in [
        "bert-tiny",
        "distilbert-tiny",
        "xlm-roberta-tiny",
        "t5-tiny",
    ] {
        padding_and_order(name);
    }
}

fn padding_and_order(name: &str) {
    let reference = Reference::open(&format!("{name}.reference"));
    for spec in devices() {
        let device = spec.open().unwrap();
        let options = TextOptions {
            normalize: Some(false),
            ..TextOptions::default()
        };
        let model = TextEmbedder::open(fixtures().join(name), &options, &device).unwrap();
        let tokenized = model.preprocess(&reference.texts()).unwrap();
        let embed = |items: &[usize]| -> Vec<Vec<f32>> {
            let items: Vec<_> = items.iter().map(|&i| &tokenized[i]).collect();
            let batch = model.collate(&items, &device).unwrap();
            let rows = values(model.network().embed(&batch));
            rows.chunks_exact(model.network().output_dim())
                .map(<[f32]>::to_vec)
                .collect()
        };
        let order: Vec<usize> = (0..tokenized.len()).collect();
        let reversed: Vec<usize> = order.iter().rev().copied().collect();
        let padded = embed(&order);
        let backwards = embed(&reversed);
        for i in order {
            let alone = &embed(&[i])[0];
            for other in [&padded[i], &backwards[tokenized.len() - 1 - i]] {
                let error = relative(other, alone);
                assert!(error < 1e-5, "{name} on {spec}: text {i} moves by {error}");
            }
        }
    }
}

/// BERT's pooler as the pooling, and in the directory that is saved then.
#[test]
fn the_pooler_becomes_a_head() {
    let reference = Reference::open("bert-tiny.reference");
    let expected = reference.tensors.read_f32("pooler_output").unwrap();
    let device = DeviceSpec::Flex.open().unwrap();
    let options = TextOptions {
        pooling: Some("pooler".parse().unwrap()),
        normalize: Some(false),
        ..TextOptions::default()
    };
    let model = TextEmbedder::open(fixtures().join("bert-tiny"), &options, &device).unwrap();
    let saved = tempfile::tempdir().unwrap();
    let saved = saved.path().join("pooler");
    model.save(&saved).unwrap();
    let reopened = TextEmbedder::open(&saved, &TextOptions::default(), &device).unwrap();
    for model in [model, reopened] {
        let limits = BatchLimits::default();
        let post = PostProcess::default();
        let found = encode(&model, &reference.texts(), &device, limits, post, |_| {}).unwrap();
        check("pooler", &found.values, &expected, 1e-5);
    }
    let error = TextEmbedder::open(fixtures().join("t5-tiny"), &options, &device).unwrap_err();
    assert!(error.to_string().contains("has no pooler"), "{error}");
}

#[test]
fn truncation_is_reported() {
    let device = DeviceSpec::Flex.open().unwrap();
    let options = TextOptions {
        max_length: Some(8),
        ..TextOptions::default()
    };
    let model = TextEmbedder::open(fixtures().join("bert-tiny"), &options, &device).unwrap();
    let texts = [
        "a boat",
        "the boat waits at the pier and the gulls follow it out to sea",
    ]
    .map(String::from);
    let found = encode(
        &model,
        &texts,
        &device,
        BatchLimits::default(),
        PostProcess::default(),
        |_| {},
    )
    .unwrap();
    assert_eq!((found.rows(), found.truncated), (2, 1));
    let tokenized = model.preprocess(&texts).unwrap();
    assert_eq!(tokenized[1].ids.len(), 8);
}

/// Compares every gradient with the reference's.
struct GradientCheck<'a> {
    gradients: &'a Gradients,
    reference: &'a Checkpoint,
    names: weights::Names,
    path: Vec<String>,
    tolerance: f64,
    label: String,
    checked: usize,
}

impl ModuleVisitor for GradientCheck<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let key = self.names.key(&self.path);
        let gradient = param.val().grad(self.gradients);
        // The gradient of a key bias is zero in exact arithmetic: what is left is rounding.
        if key.starts_with("pooler.") || key.ends_with("attention.self.key.bias") {
            return;
        }
        let gradient = gradient.unwrap_or_else(|| panic!("{key} has no gradient"));
        let reference = format!("grad.{key}");
        let expected = self.reference.read_f32(&reference).unwrap();
        check(
            &format!("{}: {key}", self.label),
            &values(gradient),
            &expected,
            self.tolerance,
        );
        self.checked += 1;
    }
}

/// Compares every parameter with the reference's after some steps.
fn check_parameters(
    label: &str,
    bert: &Bert,
    reference: &Checkpoint,
    prefix: &str,
    tolerance: f64,
) {
    let mut checked = 0;
    for (key, _, values) in weights::state_dict(bert, &Bert::names()) {
        // Adam turns the rounding noise that is a key bias's gradient into steps of full size.
        if key.starts_with("pooler.") || key.ends_with("attention.self.key.bias") {
            continue;
        }
        let expected = reference.read_f32(&format!("{prefix}.{key}")).unwrap();
        check(
            &format!("{label}: {prefix}.{key}"),
            &values,
            &expected,
            tolerance,
        );
        checked += 1;
    }
    assert_eq!(checked, PARAMETERS);
}

/// 5 of the embeddings, 16 a layer, less the two key biases.
const PARAMETERS: usize = 5 + 2 * 16 - 2;

/// The BERT of a network.
fn bert_of(network: &mut TextNetwork) -> &mut Bert {
    match &mut network.backbone {
        TextBackbone::Bert(bert) => bert,
        _ => panic!("the fixture is a BERT"),
    }
}

/// Switches every dropout of a network off.
fn switch_dropout_off(network: &mut TextNetwork) {
    match &mut network.backbone {
        TextBackbone::Bert(bert) | TextBackbone::XlmRoberta(bert) => {
            bert.embeddings.dropout.prob = 0.0;
            for layer in &mut bert.encoder.layer {
                layer.attention.self_attention.dropout.prob = 0.0;
                layer.attention.output.dropout.prob = 0.0;
                layer.output.dropout.prob = 0.0;
            }
        }
        TextBackbone::T5(t5) => {
            t5.encoder.dropout.prob = 0.0;
            for block in &mut t5.encoder.block {
                block.attention_layer.self_attention.dropout.prob = 0.0;
                block.attention_layer.dropout.prob = 0.0;
                block.feed_forward_layer.dense.dropout.prob = 0.0;
                block.feed_forward_layer.dropout.prob = 0.0;
            }
        }
        TextBackbone::DistilBert(_) => panic!("no gradient fixture is a DistilBERT"),
    }
}

/// The loss of the pairs and its gradient with respect to every parameter.
#[test]
fn gradients() {
    for (name, parameters) in [
        ("xlm-roberta-tiny", PARAMETERS),
        ("t5-tiny", T5_PARAMETERS),
        ("t5-tiny-gated", T5_PARAMETERS + 2),
    ] {
        let reference = Reference::open(&format!("{name}.gradients"));
        let pairs = reference.json["pairs"].as_array().unwrap();
        let column = |side: &str| -> Vec<String> {
            let text = |pair: &Value| pair[side].as_str().unwrap().to_string();
            pairs.iter().map(text).collect()
        };
        let score = |pair: &Value| pair["score"].as_f64().unwrap() as f32;
        let scores: Vec<f32> = pairs.iter().map(score).collect();
        for spec in devices() {
            let tolerance = f32_tolerance(spec);
            let plain = spec.open().unwrap();
            let device: Device = plain.clone().autodiff();
            let options = TextOptions::default();
            let model = TextEmbedder::open(fixtures().join(name), &options, &plain).unwrap();
            let mut network = model.network().clone().train();
            switch_dropout_off(&mut network);
            let embed = |side: &str| {
                let tokenized = model.preprocess(&column(side)).unwrap();
                let batch: Vec<_> = tokenized.iter().collect();
                let batch = model.collate(&batch, &device).unwrap();
                l2_normalize(network.embed_unnormalized(&batch))
            };
            let cosine = (embed("sentence1") * embed("sentence2")).sum_dim(1);
            let target = Tensor::<1>::from_floats(scores.as_slice(), &device);
            let loss = (cosine.reshape([-1]) - target).square().mean();
            let expected = reference.json["loss"].as_f64().unwrap() as f32;
            let found = loss.clone().into_scalar::<f32>();
            let label = format!("{name} on {spec}: loss");
            check(&label, &[found], &[expected], tolerance);
            let gradients = loss.backward();
            let mut check = GradientCheck {
                gradients: &gradients,
                reference: &reference.tensors,
                names: network.backbone.names(),
                path: Vec::new(),
                tolerance,
                label: format!("{name} on {spec}: gradient"),
                checked: 0,
            };
            match &network.backbone {
                TextBackbone::XlmRoberta(model) => model.visit(&mut check),
                TextBackbone::T5(model) => model.visit(&mut check),
                other => panic!("no gradient fixture is {other:?}"),
            }
            assert_eq!(check.checked, parameters, "{name}");
        }
    }
}

/// The word table, the relative positions, 8 a block, and the final norm.
const T5_PARAMETERS: usize = 1 + 1 + 2 * 8 + 1;

/// Three steps of AdamW with clipping on the cosine similarity loss: gradients, losses, and the
/// parameters they lead to.
#[test]
fn training_steps() {
    let reference = Reference::open("bert-tiny.training");
    let pairs = reference.json["pairs"].as_array().unwrap();
    let column = |name: &str| -> Vec<String> {
        pairs
            .iter()
            .map(|pair| pair[name].as_str().unwrap().to_string())
            .collect()
    };
    let score = |pair: &Value| pair["score"].as_f64().unwrap() as f32;
    let scores: Vec<f32> = pairs.iter().map(score).collect();
    let losses: Vec<f64> =
        serde_json::from_value(reference.json["clipped_losses"].clone()).unwrap();
    let limit = reference.json["clipped_max_grad_norm"].as_f64().unwrap();
    for spec in devices() {
        let tolerance = f32_tolerance(spec);
        let plain = spec.open().unwrap();
        let device: Device = plain.clone().autodiff();
        let model = TextEmbedder::open(
            fixtures().join("bert-tiny"),
            &TextOptions::default(),
            &plain,
        )
        .unwrap();
        // On the autodiff device, with dropout off.
        let mut network = model.network().clone().train();
        switch_dropout_off(&mut network);
        let config = OptimizerConfig {
            max_grad_norm: limit,
            ..OptimizerConfig::default()
        };
        let mut optimizer = Optimizer::new(Box::new(AdamW::default()), &config);
        for (step, expected) in losses.iter().enumerate() {
            let embed = |name: &str| {
                let tokenized = model.preprocess(&column(name)).unwrap();
                let batch = model
                    .collate(&tokenized.iter().collect::<Vec<_>>(), &device)
                    .unwrap();
                l2_normalize(network.embed_unnormalized(&batch))
            };
            let cosine = (embed("sentence1") * embed("sentence2"))
                .sum_dim(1)
                .reshape([-1]);
            let target = Tensor::<1>::from_floats(scores.as_slice(), &device);
            let loss = (cosine - target).square().mean();
            let found = loss.clone().into_scalar::<f32>();
            check(
                &format!("{spec}: loss {step}"),
                &[found],
                &[*expected as f32],
                tolerance,
            );
            let gradients = loss.backward();
            if step == 0 {
                let mut check = GradientCheck {
                    gradients: &gradients,
                    reference: &reference.tensors,
                    names: Bert::names(),
                    path: Vec::new(),
                    tolerance,
                    label: format!("{spec}: gradient"),
                    checked: 0,
                };
                bert_of(&mut network).visit(&mut check);
                assert_eq!(check.checked, PARAMETERS);
            }
            let gradients = GradientsParams::from_grads(gradients, &network);
            let (stepped, norm) = optimizer.step(network, gradients, 1e-3).unwrap();
            assert!(norm > limit, "clipping has nothing to do");
            network = stepped;
        }
        let mut trained = network.valid();
        check_parameters(
            &spec.to_string(),
            bert_of(&mut trained),
            &reference.tensors,
            "clipped3",
            tolerance,
        );
    }
}
