//! Every stage of the image models against the reference libraries' numbers: feature maps, pooled
//! vectors, and the gradients and running statistics of a training step.
//!
//! References come from `fixtures/images/generate.py`. Devices come from `FIN_TEST_DEVICES`
//! (`flex` where unset), so that one binary proves every backend it was built with.

#[path = "parity/half.rs"]
mod half;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use fin_cnn::{Architecture, BackboneConfig, CnnBackbone, Dialect};
use fin_core::device::f32_tolerance;
use fin_core::weights::{self, Checkpoint, Names};
use fin_core::{Backbone, DeviceSpec, MapPooling};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/images")
}

fn devices() -> Vec<DeviceSpec> {
    let names = std::env::var("FIN_TEST_DEVICES").unwrap_or_else(|_| "flex".into());
    names
        .split(',')
        .map(|name| name.parse().expect("FIN_TEST_DEVICES holds device names"))
        .collect()
}

fn json(name: &str) -> Value {
    let text = std::fs::read_to_string(fixtures().join(format!("{name}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn tensors(name: &str) -> Checkpoint {
    Checkpoint::open(fixtures().join(format!("{name}.safetensors"))).unwrap()
}

/// A tensor of a reference file.
fn tensor<const D: usize>(checkpoint: &Checkpoint, name: &str, device: &Device) -> Tensor<D> {
    let shape = checkpoint.get(name).unwrap().shape().to_vec();
    let values = checkpoint.read_f32(name).unwrap();
    Tensor::from_data(TensorData::new(values, shape), device)
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

struct Loaded {
    backbone: CnnBackbone,
    config: BackboneConfig,
    names: Names,
}

/// The network of a fixture, every tensor of its checkpoint accounted for.
fn load(name: &str, dialect: Dialect, device: &Device) -> Loaded {
    let json = json(name);
    let architecture: Architecture = serde_json::from_value(json["architecture"].clone()).unwrap();
    let config = architecture.config().unwrap();
    let path = fixtures().join(json["weights"].as_str().unwrap());
    let checkpoint = Checkpoint::open(path).unwrap();
    assert_eq!(Dialect::detect(&checkpoint, &config).unwrap(), dialect);
    let names = dialect.names_in(&checkpoint, &config);
    let (backbone, report) = weights::load(config.init(device), &checkpoint, &names, device)
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(report.unused.is_empty(), "{report}");
    assert_eq!(report.ignored.len(), 2, "{report}");
    Loaded {
        backbone,
        config,
        names,
    }
}

fn stages(name: &str, dialect: Dialect) {
    let reference = tensors(&format!("{name}.reference"));
    for spec in devices() {
        let device = spec.open().unwrap();
        let tolerance = f32_tolerance(spec);
        let model = load(name, dialect, &device).backbone;
        let pixels = tensor::<4>(&reference, "pixels", &device);
        let (folded, compiled) = (model.fold(), model.compile());
        let forms = [
            ("", &model),
            (", folded", &folded),
            (", compiled", &compiled),
        ];
        for (form, model) in forms {
            let maps = model.feature_maps(&pixels);
            for (i, map) in maps.into_iter().enumerate() {
                check(
                    &format!("{name} on {spec}{form}: feature_maps.{i}"),
                    &values(map),
                    &reference.read_f32(&format!("feature_maps.{i}")).unwrap(),
                    tolerance,
                );
            }
        }
        let count = reference
            .iter()
            .filter(|(key, _)| key.starts_with("feature_maps."));
        assert_eq!(model.feature_maps(&pixels).len(), count.count());
        for (form, model) in forms {
            let last = model.forward(&pixels);
            assert_eq!(model.hidden_size(), last.dims()[1]);
            for pooling in MapPooling::ALL {
                check(
                    &format!("{name} on {spec}{form}: pooled.{pooling}"),
                    &values(pooling.forward(last.clone())),
                    &reference.read_f32(&format!("pooled.{pooling}")).unwrap(),
                    tolerance,
                );
            }
        }
    }
}

#[test]
fn resnet_of_bottlenecks() {
    stages("resnet-bottleneck", Dialect::Torchvision);
}

#[test]
fn resnet_of_basic_blocks_from_a_pickle() {
    stages("resnet-basic", Dialect::Torchvision);
}

/// Compiled, its first stage goes by Winograd's convolutions, which take 32 channels and 6 x 6 tiles at least.
#[test]
fn resnet_of_32_channels() {
    stages("resnet-wide", Dialect::Torchvision);
}

#[test]
fn efficientnet() {
    stages("efficientnet", Dialect::Torchvision);
}

#[test]
fn efficientnet_with_another_epsilon() {
    stages("efficientnet-eps", Dialect::Torchvision);
}

#[test]
fn efficientnet_of_timm_with_same_padding() {
    stages("efficientnet-timm", Dialect::Timm);
}

#[test]
fn efficientnet_lite_from_a_legacy_pickle() {
    stages("efficientnet-lite", Dialect::EfficientNetPytorch);
}

/// Compares every gradient and every running statistic with the reference's.
struct StepCheck<'a> {
    gradients: &'a Gradients,
    reference: &'a Checkpoint,
    names: &'a Names,
    zero: BTreeSet<String>,
    path: Vec<String>,
    tolerance: f64,
    label: String,
    checked: usize,
}

impl ModuleVisitor for StepCheck<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let key = self.names.key(&self.path);
        let (kind, found) = if key.contains(".running_") || key.starts_with("running_") {
            ("after", values(param.val()))
        } else if self.zero.contains(&key) {
            return;
        } else {
            let gradient = param.val().grad(self.gradients);
            let gradient = gradient.unwrap_or_else(|| panic!("{key} has no gradient"));
            ("grad", values(gradient))
        };
        let expected = self.reference.read_f32(&format!("{kind}.{key}")).unwrap();
        let what = format!("{}: {kind}.{key}", self.label);
        check(&what, &found, &expected, self.tolerance);
        self.checked += 1;
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let key = self.names.key(&self.path);
        let found: Vec<i64> = param
            .val()
            .into_data()
            .convert::<i64>()
            .try_into_vec()
            .unwrap();
        let expected = self.reference.read_i64(&format!("after.{key}")).unwrap();
        assert_eq!(found, expected, "{key}");
        self.checked += 1;
    }
}

fn training_step(name: &str) {
    let reference = tensors(&format!("{name}.training"));
    let json = json(&format!("{name}.training"));
    let zero: BTreeSet<String> =
        serde_json::from_value(json["gradient_is_zero_in_exact_arithmetic"].clone()).unwrap();
    for spec in devices() {
        let plain = spec.open().unwrap();
        let device = plain.clone().autodiff();
        let loaded = load(name, Dialect::Torchvision, &plain);
        let model = loaded.backbone.train();
        let pixels = tensor::<4>(&reference, "pixels", &device);
        let factors = tensor::<2>(&reference, "factors", &device);
        let features = model.forward(&pixels);
        let [batch, channels, height, width] = features.dims();
        let vectors = features
            .reshape([batch, channels, height * width])
            .mean_dim(2)
            .reshape([batch, channels]);
        let loss = (vectors.clone() * factors).mean();
        let tolerance = f32_tolerance(spec);
        let label = format!("{name} on {spec}");
        check(
            &format!("{label}: pooled.mean"),
            &values(vectors),
            &reference.read_f32("pooled.mean").unwrap(),
            tolerance,
        );
        let gradients = loss.backward();
        let mut step = StepCheck {
            gradients: &gradients,
            reference: &reference,
            names: &loaded.names,
            zero: zero.clone(),
            path: Vec::new(),
            tolerance,
            label,
            checked: 0,
        };
        model.visit(&mut step);
        let expected = reference
            .iter()
            .filter(|(key, _)| key.starts_with("grad.") || key.starts_with("after."));
        assert_eq!(step.checked, expected.count());

        // In evaluation the moved statistics count, and nothing moves any more.
        let trained = model.valid();
        let pixels = pixels.without_autodiff();
        let before = values(trained.forward(&pixels));
        assert_eq!(before, values(trained.forward(&pixels)));
        let original = load(name, Dialect::Torchvision, &plain).backbone;
        assert!(relative(&values(original.forward(&pixels)), &before) > 1e-3);
        assert_eq!(loaded.config.hidden_size(), trained.hidden_size());
    }
}

#[test]
fn training_step_of_bottlenecks() {
    training_step("resnet-bottleneck");
}

#[test]
fn training_step_of_basic_blocks() {
    training_step("resnet-basic");
}

#[test]
fn training_step_of_efficientnet() {
    training_step("efficientnet");
}

#[test]
fn training_step_with_another_momentum() {
    training_step("efficientnet-eps");
}
