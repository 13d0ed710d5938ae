//! Every stage of CLIP models in both dialects against the reference libraries' numbers: pixels,
//! token ids, hidden states, features, logits, and the gradients of a training step.
//!
//! References come from `fixtures/clip/generate.py`. Devices come from `FIN_TEST_DEVICES`
//! (`flex` where unset), so that one binary proves every backend it was built with.

#[path = "parity/half.rs"]
mod half;

use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use fin_clip::text::{TextInput, TextTower};
use fin_clip::{
    ClipBatch, ClipEmbedder, ClipItem, ClipNetwork, ClipOptions, EncodedClip, TextBatch,
};
use fin_core::device::f32_tolerance;
use fin_core::weights::{Checkpoint, Names};
use fin_core::{BatchLimits, DeviceSpec, Embedder, EmbeddingNetwork, l2_normalize};
use serde_json::Value;

const MODELS: [&str; 4] = [
    "transformers",
    "transformers-gelu",
    "open_clip",
    "open_clip-xlm-roberta",
];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/clip")
}

fn devices() -> Vec<DeviceSpec> {
    let names = std::env::var("FIN_TEST_DEVICES").unwrap_or_else(|_| "flex".into());
    names
        .split(',')
        .map(|name| name.parse().expect("FIN_TEST_DEVICES holds device names"))
        .collect()
}

/// A model of the fixtures with its references.
struct Case {
    name: &'static str,
    tensors: Checkpoint,
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    images: Vec<PathBuf>,
}

impl Case {
    fn new(name: &'static str) -> Self {
        let text = std::fs::read_to_string(fixtures().join(format!("{name}.reference.json")));
        let json: Value = serde_json::from_str(&text.unwrap()).unwrap();
        let images = (0..4).map(|i| fixtures().join(format!("images/{i}.png")));
        Self {
            name,
            tensors: Checkpoint::open(fixtures().join(format!("{name}.reference.safetensors")))
                .unwrap(),
            texts: serde_json::from_value(json["texts"].clone()).unwrap(),
            ids: serde_json::from_value(json["ids"].clone()).unwrap(),
            images: images.collect(),
        }
    }

    fn open(&self, options: &ClipOptions, device: &Device) -> ClipEmbedder {
        let model = ClipEmbedder::open(fixtures().join(self.name), options, device)
            .unwrap_or_else(|e| panic!("{e}"));
        assert!(model.report().unused.is_empty(), "{}", model.report());
        model
    }

    fn expected(&self, key: &str) -> Vec<f32> {
        self.tensors.read_f32(key).unwrap()
    }

    fn items(&self) -> (Vec<ClipItem>, Vec<ClipItem>) {
        let texts = self.texts.iter().cloned().map(ClipItem::Text);
        let images = self.images.iter().cloned().map(ClipItem::Image);
        (texts.collect(), images.collect())
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
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

fn check(what: &str, found: &[f32], expected: &[f32], tolerance: f64) {
    let error = relative(found, expected);
    println!("{what}: {error:.2e}");
    assert!(
        error < tolerance,
        "{what}: relative error {error:.2e}, allowed {tolerance:.0e}"
    );
}

fn batch(model: &ClipEmbedder, items: &[ClipItem], device: &Device) -> ClipBatch {
    let encoded = model.preprocess(items).unwrap();
    model
        .collate(&encoded.iter().collect::<Vec<_>>(), device)
        .unwrap()
}

/// The output of the embeddings and of every layer for the first text.
fn text_states(network: &ClipNetwork, input: &TextInput) -> Vec<Tensor<3>> {
    match (&network.text, input) {
        (TextTower::Clip(tower), TextInput::Causal { ids, .. }) => tower.hidden_states(ids),
        (TextTower::XlmRoberta(tower), TextInput::Masked(batch)) => {
            tower.transformer.hidden_states(batch)
        }
        _ => panic!("a batch for another tower"),
    }
}

#[test]
fn stages_of_both_towers() {
    for spec in devices() {
        let device = spec.open().unwrap();
        let tolerance = f32_tolerance(spec);
        for name in MODELS {
            let case = Case::new(name);
            let model = case.open(&ClipOptions::default(), &device);
            let network = model.network();
            let label = |stage: &str| format!("{name} on {spec}: {stage}");
            let compare = |stage: &str, found: Vec<f32>| {
                check(&label(stage), &found, &case.expected(stage), tolerance);
            };
            let (texts, images) = case.items();

            let first = batch(&model, &texts[..1], &device);
            let Some(TextBatch::Tokens(input)) = &first.texts else {
                panic!("no tokens");
            };
            let states = text_states(network, input);
            assert_eq!(states.len(), 3);
            for (i, state) in states.into_iter().enumerate() {
                let (stage, found) = (format!("text.hidden.{i}"), values(state));
                // open_clip always pads, which changes nothing of what is before.
                let expected = case.expected(&stage)[..found.len()].to_vec();
                check(&label(&stage), &found, &expected, tolerance);
            }
            let shape = case.tensors.get("pixels").unwrap().shape().to_vec();
            let pixels = TensorData::new(case.expected("pixels"), shape);
            let pixels = Tensor::<4>::from_data(pixels, &device);
            let states = network.vision.hidden_states(&pixels);
            assert_eq!(states.len(), 3);
            for (i, state) in states.into_iter().enumerate() {
                compare(&format!("image.hidden.{i}"), values(state));
            }
            compare("image.features", values(network.vision.forward(&pixels)));

            // From files and texts, and together.
            let [text, image] = [&texts, &images]
                .map(|items| network.embed_unnormalized(&batch(&model, items, &device)));
            compare("text.features", values(text.clone()));
            compare("image.features", values(image.clone()));
            compare("logits_per_text", values(network.logits(text, image)));
        }
    }
}

#[test]
fn clip_pixels_and_token_ids_are_those_of_the_reference() {
    let device = DeviceSpec::Flex.open().unwrap();
    for name in MODELS {
        let case = Case::new(name);
        let model = case.open(&ClipOptions::default(), &device);
        let (texts, images) = case.items();
        let encoded = model.preprocess(&texts).unwrap();
        let mut truncated = 0;
        for ((item, ids), text) in encoded.iter().zip(&case.ids).zip(&case.texts) {
            let EncodedClip::Text(found) = item else {
                panic!("{text:?} is no text");
            };
            assert_eq!(&found.ids, ids, "{name}: {text:?}");
            truncated += usize::from(model.is_truncated(item));
        }
        assert_eq!(truncated, 1, "{name}");
        let levels = case.tensors.get("levels").unwrap().shape().to_vec();
        assert_eq!(levels, [4, 32, 32, 3]);
        let encoded = model.preprocess(&images).unwrap();
        let found: Vec<f32> = encoded
            .iter()
            .flat_map(|item| match item {
                EncodedClip::Pixels(image) => image.pixels().to_vec(),
                _ => panic!("no image"),
            })
            .map(f32::from)
            .collect();
        let levels = levels_of(&case);
        let differ = (0..4).map(|i| {
            let of = i * 3072..(i + 1) * 3072;
            let pairs = found[of.clone()].iter().zip(&levels[of]);
            pairs.filter(|(a, b)| a != b).count()
        });
        assert_eq!(differ.collect::<Vec<_>>(), [0; 4], "{name}");
        let Some(fin_clip::ImageBatch::Pixels(pixels)) = batch(&model, &images, &device).images
        else {
            panic!("no pixels");
        };
        let label = format!("{name} on {}: pixels", DeviceSpec::Flex);
        check(&label, &values(pixels), &case.expected("pixels"), 1e-6);
    }
}

/// The reference's pixels before they are scaled.
fn levels_of(case: &Case) -> Vec<f32> {
    let bytes = std::fs::read(fixtures().join(format!("{}.reference.safetensors", case.name)));
    let bytes = bytes.unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let levels = file.tensor("levels").unwrap();
    levels
        .data()
        .iter()
        .map(|level| f32::from(*level))
        .collect()
}

/// The library's loss: the mean of two cross-entropies over the logits.
fn clip_loss(logits: Tensor<2>) -> Tensor<1> {
    let count = logits.dims()[0];
    let own = Tensor::<1, Int>::arange(0..count as i64, &logits.device()).reshape([count, 1]);
    let entropy = |logits: Tensor<2>| log_softmax(logits, 1).gather(1, own.clone()).mean().neg();
    (entropy(logits.clone()) + entropy(logits.transpose())) / 2.0
}

/// Compares every gradient with the reference's.
struct GradientCheck<'a> {
    gradients: &'a Gradients,
    case: &'a Case,
    names: Names,
    path: Vec<String>,
    tolerance: f64,
    label: String,
    /// Parts of the reference's tensors that were compared; a third of a fused one counts as one.
    thirds: usize,
}

impl GradientCheck<'_> {
    /// The reference's gradient by the name of a parameter here, and thirds it is of its tensor.
    fn expected(&self, key: &str, shape: &[usize]) -> (Vec<f32>, usize) {
        let reference = |key: &str| self.case.tensors.get(&format!("grad.{key}"));
        let read = |key: &str| self.case.expected(&format!("grad.{key}"));
        if reference(key).is_some() {
            return (read(key), 3);
        }
        for (third, letter) in ["q", "k", "v"].iter().enumerate() {
            if let Some((start, end)) = key.split_once(&format!(".attn.{letter}_proj.")) {
                let whole = read(&format!("{start}.attn.in_proj_{end}"));
                let size = whole.len() / 3;
                return (whole[third * size..(third + 1) * size].to_vec(), 1);
            }
        }
        let bare = key.strip_suffix(".weight").unwrap_or(key);
        let whole = read(bare);
        let found = reference(bare).unwrap().shape();
        if found == shape {
            return (whole, 3);
        }
        assert_eq!(found, [shape[1], shape[0]], "{key}");
        let (rows, columns) = (shape[0], shape[1]);
        let transposed = (0..rows * columns).map(|i| whole[(i % columns) * rows + i / columns]);
        (transposed.collect(), 3)
    }
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
        let found = values(gradient.unwrap_or_else(|| panic!("{key} has no gradient")));
        let (expected, thirds) = self.expected(&key, &param.val().dims());
        self.thirds += thirds;
        // A key's bias shifts all scores of a query alike; its gradient is zero but for rounding.
        if key.ends_with("k_proj.bias") || key.ends_with("key.bias") {
            let largest = |values: &[f32]| values.iter().fold(0.0f32, |a, b| a.max(b.abs()));
            assert!(largest(&found) < 1e-5 && largest(&expected) < 1e-5, "{key}");
            return;
        }
        let what = format!("{}: grad.{key}", self.label);
        check(&what, &found, &expected, self.tolerance);
    }
}

#[test]
fn clip_training_step() {
    for spec in devices() {
        let plain = spec.open().unwrap();
        let device = plain.clone().autodiff();
        let tolerance = f32_tolerance(spec);
        for name in ["transformers", "open_clip", "open_clip-xlm-roberta"] {
            let case = Case::new(name);
            let model = case.open(&ClipOptions::default(), &plain);
            let network = model.network().clone().train();
            let (texts, images) = case.items();
            let [texts, images] = [texts, images].map(|items| {
                let encoded = model.preprocess_training(&items, &plain).unwrap();
                let encoded: Vec<&EncodedClip> = encoded.iter().collect();
                let batch = model.collate_training(&encoded, 1, &device).unwrap();
                network.embed_unnormalized(&batch)
            });
            let loss = clip_loss(network.logits(texts, images));
            let label = format!("{name} on {spec}");
            let found = values(loss.clone());
            check(
                &format!("{label}: loss"),
                &found,
                &case.expected("loss"),
                tolerance,
            );
            let gradients = loss.backward();
            let mut step = GradientCheck {
                gradients: &gradients,
                case: &case,
                names: model.names(),
                path: Vec::new(),
                tolerance,
                label,
                thirds: 0,
            };
            network.visit(&mut step);
            let expected = case.tensors.iter();
            let expected = expected.filter(|(key, _)| key.starts_with("grad."));
            assert_eq!(step.thirds, 3 * expected.count(), "{name}");
        }
    }
}

#[test]
fn a_mixed_batch_gives_rows_in_order() {
    for spec in devices() {
        let device = spec.open().unwrap();
        for name in MODELS {
            let case = Case::new(name);
            let model = case.open(&ClipOptions::default(), &device);
            let (texts, images) = case.items();
            let mixed = [
                images[2].clone(),
                texts[1].clone(),
                texts[3].clone(),
                images[0].clone(),
                texts[0].clone(),
            ];
            let batch = batch(&model, &mixed, &device);
            assert!(batch.order.is_some());
            let found = values(model.network().embed(&batch));
            let row = |key: &str, i: usize| case.expected(key)[i * 24..(i + 1) * 24].to_vec();
            let expected = [
                row("image.features", 2),
                row("text.features", 1),
                row("text.features", 3),
                row("image.features", 0),
                row("text.features", 0),
            ]
            .concat();
            let label = format!("{name} on {spec}: mixed");
            check(&label, &found, &expected, f32_tolerance(spec));
        }
    }
}

#[test]
fn clip_encoding_and_similarity_on_the_host() {
    let device = DeviceSpec::Flex.open().unwrap();
    let limits = BatchLimits::default();
    for name in MODELS {
        let case = Case::new(name);
        let options = ClipOptions {
            normalize: Some(true),
            ..ClipOptions::default()
        };
        let mut model = case.open(&options, &device);
        let texts = model.encode_text(&case.texts, &device, limits).unwrap();
        let images = model.encode_image(&case.images, &device, limits).unwrap();
        assert_eq!((texts.rows(), images.rows(), texts.dim), (4, 4, 24));
        assert_eq!(texts.truncated, 1);
        let shape = [4, 24];
        let features = TensorData::new(case.expected("text.features"), shape);
        let unit = values(l2_normalize(Tensor::from_data(features, &device)));
        let label = |what: &str| format!("{name} on {}: {what}", DeviceSpec::Flex);
        check(&label("encoded texts"), &texts.values, &unit, 1e-5);
        let logits = model.similarity(&texts, &images).unwrap();
        let expected = case.expected("logits_per_text");
        check(&label("similarity"), &logits, &expected, 1e-5);

        assert_eq!(model.logit_scale(), 2.5);
        assert!((model.temperature() - (-2.5f32).exp()).abs() < 1e-7);
        model.set_logit_scale(0.0).unwrap();
        let cosines = model.similarity(&texts, &images).unwrap();
        assert!(cosines.iter().all(|cosine| cosine.abs() <= 1.0));
        let scaled: Vec<f32> = cosines.iter().map(|x| x * 2.5f32.exp()).collect();
        check(&label("scaled cosines"), &scaled, &logits, 1e-6);
        assert!(model.set_logit_scale(f32::NAN).is_err());
    }
}
