//! Every stage of PointNet++ against the reference's numbers: queries, set abstractions, the global
//! feature, the classifier's first stage, and the gradients and running statistics of a training
//! step.
//!
//! References come from `fixtures/pointnet/generate.py`. Devices come from `FIN_TEST_DEVICES`
//! (`flex` where unset), so that one binary proves every backend it was built with.

#[path = "parity/half.rs"]
mod half;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use fin_core::device::f32_tolerance;
use fin_core::weights::{Checkpoint, Names};
use fin_core::{DeviceSpec, Embedder};
use fin_pointnet::query::{self, Start, portable};
use fin_pointnet::{
    Architecture, MeshEmbedder, MeshOptions, ModelConfig, PointBackbone, PointBatch, PointOutput,
};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/pointnet")
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

fn integers<const D: usize>(tensor: Tensor<D, Int>) -> Vec<i64> {
    let data = tensor.into_data().convert::<i64>();
    data.try_into_vec().unwrap()
}

/// `‖a − b‖ / ‖b‖`.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let pairs = a.iter().zip(b);
    let difference: f64 = pairs
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

/// The model of a fixture, every tensor of its checkpoint accounted for.
fn load(name: &str, device: &Device) -> MeshEmbedder {
    let json = json(name);
    let architecture: Architecture = serde_json::from_value(json["architecture"].clone()).unwrap();
    let config = ModelConfig::new(architecture, json["normals"].as_bool().unwrap());
    let path = fixtures().join(json["weights"].as_str().unwrap());
    let model =
        MeshEmbedder::open_checkpoint(path, &config, &MeshOptions::default(), device).unwrap();
    let report = model.report();
    assert!(report.unused.is_empty(), "{report}");
    // fc2, fc3 and bn2 with its three buffers.
    assert_eq!(report.ignored.len(), 9, "{report}");
    model
}

fn item(x: &Tensor<3>, i: usize) -> Tensor<3> {
    x.clone().narrow(0, i, 1)
}

fn stages(name: &str) {
    let reference = tensors(&format!("{name}.reference"));
    let expected = |key: &str| reference.read_f32(&format!("eval.{key}")).unwrap();
    for spec in devices() {
        let device = spec.open().unwrap();
        let tolerance = f32_tolerance(spec);
        let model = load(name, &device);
        let points = tensor::<3>(&reference, "points", &device);
        let [batch, _, _] = points.dims();
        let network = model.network();
        let PointBackbone::Full(full) = &network.backbone else {
            panic!("a model opens in its full form");
        };
        let levels = full.levels(&points);
        assert_eq!(levels.len(), 2);
        for (i, (xyz, features)) in levels.into_iter().enumerate() {
            for (key, found) in [("xyz", xyz), ("features", features)] {
                let key = format!("{key}.{i}");
                let what = format!("{name} on {spec}: {key}");
                check(&what, &values(found), &expected(&key), tolerance);
            }
        }
        for (form, network) in [("", network), (", at inference", model.inference_network())] {
            for one_by_one in [false, true] {
                let run = |f: &dyn Fn(&Tensor<3>) -> Tensor<2>| match one_by_one {
                    false => values(f(&points)),
                    true => (0..batch)
                        .flat_map(|i| values(f(&item(&points, i))))
                        .collect(),
                };
                let backbone = &network.backbone;
                let global = run(&|x| backbone.global(x));
                let stage = run(&|x| backbone.first_stage(backbone.global(x)));
                for (key, found) in [("global", &global), ("stage", &stage)] {
                    let what = format!("{name} on {spec}{form}, {one_by_one}: {key}");
                    check(&what, found, &expected(key), tolerance);
                }
                // The default is the stage, not rectified.
                assert_eq!(run(&|x| network.features(x)), stage);
                let mut other = network.clone();
                other.relu = true;
                let rectified = run(&|x| other.embed_unnormalized(&PointBatch::Points(x.clone())));
                let expected: Vec<f32> = stage.iter().map(|x| x.max(0.0)).collect();
                assert_eq!(rectified, expected);
                other.output = PointOutput::Global;
                assert_eq!(run(&|x| other.features(x)), global);
            }
        }
    }
}

#[test]
fn single_scale_from_a_training_checkpoint() {
    stages("ssg");
}

#[test]
fn single_scale_with_normals() {
    stages("ssg-normals");
}

#[test]
fn multi_scale_from_data_parallel() {
    stages("msg");
}

#[test]
fn multi_scale_with_normals() {
    stages("msg-normals");
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
        let (kind, found) = if key.contains(".running_") {
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
        let expected = self.reference.read_i64(&format!("after.{key}")).unwrap();
        assert_eq!(integers(param.val()), expected, "{key}");
        self.checked += 1;
    }
}

fn training_step(name: &str) {
    let reference = tensors(&format!("{name}.reference"));
    let json = json(name);
    let zero: BTreeSet<String> =
        serde_json::from_value(json["gradient_is_zero_in_exact_arithmetic"].clone()).unwrap();
    for spec in devices() {
        let plain = spec.open().unwrap();
        let device = plain.clone().autodiff();
        let model = load(name, &plain);
        let names = model.names();
        let network = model.network().clone().train();
        let points = tensor::<3>(&reference, "points", &device);
        let factors = tensor::<2>(&reference, "train.factors", &device);
        let stage = network.features(&points);
        let loss = (stage.clone() * factors).mean();
        let tolerance = f32_tolerance(spec);
        let label = format!("{name} on {spec}");
        check(
            &format!("{label}: train.stage"),
            &values(stage),
            &reference.read_f32("train.stage").unwrap(),
            tolerance,
        );
        let gradients = loss.backward();
        let mut step = StepCheck {
            gradients: &gradients,
            reference: &reference,
            names: &names,
            zero: zero.clone(),
            path: Vec::new(),
            tolerance,
            label,
            checked: 0,
        };
        network.visit(&mut step);
        let expected = reference
            .iter()
            .filter(|(key, _)| key.starts_with("grad.") || key.starts_with("after."));
        assert_eq!(step.checked, expected.count());

        // In evaluation the moved statistics count, in both forms, and nothing moves any more.
        let points = points.without_autodiff();
        let trained = network.valid();
        let before = values(trained.features(&points));
        assert_eq!(before, values(trained.features(&points)));
        let original = values(model.network().features(&points));
        assert!(relative(&original, &before) > 1e-3);
        let retrained = model.with_network(trained);
        let compiled = values(retrained.inference_network().features(&points));
        check(
            &format!("{name} on {spec}: after training"),
            &compiled,
            &before,
            tolerance,
        );
    }
}

#[test]
fn training_step_of_single_scale() {
    training_step("ssg");
}

#[test]
fn training_step_of_single_scale_with_normals() {
    training_step("ssg-normals");
}

#[test]
fn training_step_of_multi_scale() {
    training_step("msg");
}

#[test]
fn training_step_of_multi_scale_with_normals() {
    training_step("msg-normals");
}

/// Radius and number of neighbours of a ball query.
const BALLS: [(f64, usize); 2] = [(0.2, 16), (0.4, 12)];

/// Rounding included: on `flex` alone, whose queries round as the reference does.
#[test]
fn indices_of_queries() {
    let reference = tensors("queries");
    let device = DeviceSpec::Flex.open().unwrap();
    let clouds = tensor::<3>(&reference, "clouds", &device);
    let [batch, points, _] = clouds.dims();
    let expected = |key: String| reference.read_i64(&key).unwrap();
    let first = query::farthest_points(&clouds, 128, Start::default());
    assert_eq!(integers(first.clone()), expected("farthest.0".into()));
    let later = query::farthest_points(&clouds, 64, Start::Index(99));
    assert_eq!(integers(later), expected("farthest.99".into()));
    let centres = picked(&clouds, first);
    for (radius, neighbours) in BALLS {
        let found = query::ball_query(&clouds, &centres, radius, neighbours);
        assert_eq!(found.dims(), [batch, 128, neighbours]);
        let key = format!("ball.{radius}.{neighbours}");
        assert_eq!(integers(found), expected(key));
    }
    let seeded = query::farthest_points(&clouds, 3, Start::Seeded(5));
    let starts = Start::Seeded(5).of(batch, points);
    let seeded = integers(seeded);
    assert_eq!([seeded[0], seeded[3]], [starts[0] as i64, starts[1] as i64]);
    assert_ne!(starts, Start::Seeded(6).of(batch, points));
}

/// Rows of clouds `[batch, points, 3]` by index `[batch, n]`.
fn picked(clouds: &Tensor<3>, index: Tensor<2, Int>) -> Tensor<3> {
    let [batch, n] = index.dims();
    let index = index.reshape([batch, n, 1]).expand([batch, n, 3]);
    clouds.clone().gather(1, index)
}

/// On clouds where rounding cannot tell, tensor operations find the same on every device.
#[test]
fn queries_in_tensor_operations() {
    let flex = DeviceSpec::Flex.open().unwrap();
    let reference = tensors("ssg.reference");
    let clouds = tensor::<3>(&reference, "points", &flex);
    let chosen = query::farthest_points(&clouds, 24, Start::default());
    let centres = picked(&clouds, chosen.clone());
    let far = centres.clone() + 40.0;
    for spec in devices() {
        let device = spec.open().unwrap();
        let on = |x: &Tensor<3>| Tensor::<3>::from_data(x.to_data(), &device);
        let found = portable::farthest_points(&on(&clouds), 24, Start::default());
        assert_eq!(integers(found), integers(chosen.clone()), "{spec}");
        // 100 is more than there are points.
        for neighbours in [1, 8, 100] {
            let fast = query::ball_query(&clouds, &centres, 0.5, neighbours);
            let found = portable::ball_query(&on(&clouds), &on(&centres), 0.5, neighbours);
            assert_eq!(integers(found), integers(fast), "{spec}");
        }
        // Where no point is near, it is the nearest.
        let found = portable::ball_query(&on(&clouds), &on(&far), 0.5, 2);
        assert_eq!(found.dims(), [4, 24, 2], "{spec}");
        let fast = integers(query::ball_query(&clouds, &far, 0.5, 2));
        assert!(fast.chunks_exact(2).all(|pair| pair[0] == pair[1]));
        let places = picked(
            &clouds,
            Tensor::from_data(
                TensorData::new(
                    fast.iter().step_by(2).copied().collect::<Vec<i64>>(),
                    [4, 24],
                ),
                &flex,
            ),
        );
        // The corner that the distant centres see.
        let sums = values(places.sum_dim(2));
        let most = values(clouds.clone().sum_dim(2).max_dim(1));
        for (cloud, sums) in sums.chunks_exact(24).enumerate() {
            assert!(sums.iter().all(|sum| most[cloud] - sum < 0.2), "{sums:?}");
        }
    }
}

#[test]
fn interpolation_from_three_nearest() {
    let reference = tensors("queries");
    for spec in devices() {
        let device = spec.open().unwrap();
        let load = |name: &str| tensor::<3>(&reference, name, &device);
        let clouds = load("clouds");
        let flex = DeviceSpec::Flex.open().unwrap();
        let index = reference.read_i64("farthest.0").unwrap();
        let index = Tensor::<2, Int>::from_data(TensorData::new(index, [2, 128]), &device);
        let centres = picked(&clouds, index);
        let found = query::interpolate(&load("away"), &centres, load("features"));
        let expected = values(tensor::<3>(&reference, "interpolated", &flex));
        let what = format!("interpolation on {spec}");
        check(&what, &values(found), &expected, f32_tolerance(spec));
    }
}
