//! Networks of real size, and queries of many clouds, against the reference. It is made by
//! `scripts/reference/pointnet.py` and lies where `FIN_POINTNET_REFERENCE` says:
//!
//! ```sh
//! scripts/reference/pointnet.py full /tmp/pointnet/full
//! scripts/reference/pointnet.py queries /tmp/pointnet/queries
//! FIN_POINTNET_REFERENCE=/tmp/pointnet cargo test --release --workspace --test full_size \
//!     -- --ignored --nocapture pointnet
//! ```

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};
use fin_core::device::f32_tolerance;
use fin_core::weights::Checkpoint;
use fin_core::{DeviceSpec, Embedder};
use fin_pointnet::query::{self, Start};
use fin_pointnet::{MeshEmbedder, MeshOptions, ModelConfig, PointNetwork};

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
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

fn entries(kind: &str) -> Vec<PathBuf> {
    let directory =
        std::env::var_os("FIN_POINTNET_REFERENCE").expect("FIN_POINTNET_REFERENCE is not set");
    let mut found: Vec<PathBuf> = std::fs::read_dir(Path::new(&directory).join(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no references");
    found
}

fn compare(directory: &Path, spec: DeviceSpec) {
    let name = directory.file_name().unwrap().to_string_lossy();
    let device = spec.open().unwrap();
    let path = directory.join("best_model.pth");
    let config = ModelConfig::detect(&Checkpoint::open(&path).unwrap()).unwrap();
    let options = MeshOptions::default();
    let model = MeshEmbedder::open_checkpoint(&path, &config, &options, &device).unwrap();
    assert!(model.report().unused.is_empty(), "{}", model.report());
    let reference = Checkpoint::open(directory.join("reference.safetensors")).unwrap();
    let shape = reference.get("clouds").unwrap().shape().to_vec();
    let clouds = TensorData::new(reference.read_f32("clouds").unwrap(), shape);
    let points = Tensor::<3>::from_data(clouds.clone(), &device);
    let expected = |key: &str| reference.read_f32(key).unwrap();
    let tolerance = f32_tolerance(spec);
    let both = |network: &PointNetwork, points: &Tensor<3>| {
        let global = network.backbone.global(points);
        [
            values(network.backbone.first_stage(global.clone())),
            values(global),
        ]
    };
    let check = |form: &str, [stage, global]: [Vec<f32>; 2], mode: &str| {
        for (what, found) in [("stage", stage), ("global", global)] {
            let error = relative(&found, &expected(&format!("{mode}.{what}")));
            let single = f64::from(expected(&format!("{mode}.{what}.single"))[0]);
            println!("{name} on {spec}, {form}, {what}: {error:.2e}, the library's {single:.2e}");
            assert!(
                error < tolerance,
                "{name} on {spec}, {form}, {what}: {error:.2e}"
            );
        }
    };
    for (form, network) in [
        ("as trained", model.network()),
        ("at inference", model.inference_network()),
    ] {
        check(
            &format!("{form}, batch of 4"),
            both(network, &points),
            "eval",
        );
        let mut joined = [vec![], vec![]];
        for i in 0..4 {
            let found = both(network, &points.clone().narrow(0, i, 1));
            for (joined, found) in joined.iter_mut().zip(found) {
                joined.extend(found);
            }
        }
        check(&format!("{form}, one by one"), joined, "eval");
    }
    let training = model.network().clone().train();
    let points = Tensor::<3>::from_data(clouds, &device.autodiff());
    check("in training, batch of 4", both(&training, &points), "train");
}

#[test]
#[ignore = "needs references of real size: see the top of this file"]
fn pointnet_of_real_size() {
    let devices = std::env::var("FIN_TEST_DEVICES").unwrap_or_else(|_| "flex".into());
    for device in devices.split(',') {
        for directory in entries("full") {
            compare(&directory, device.parse().unwrap());
        }
    }
}

#[test]
#[ignore = "needs references of real size: see the top of this file"]
fn pointnet_queries_of_many_clouds() {
    let device = DeviceSpec::Flex.open().unwrap();
    let [mut clouds, mut compared, mut different] = [0; 3];
    for path in entries("queries") {
        let reference = Checkpoint::open(path).unwrap();
        let shape = reference.get("clouds").unwrap().shape().to_vec();
        clouds += shape[0];
        let points = TensorData::new(reference.read_f32("clouds").unwrap(), shape);
        let mut xyz = Tensor::<3>::from_data(points, &device);
        let mut count = |name: &str, found: Vec<i64>| {
            let expected = reference.read_i64(name).unwrap();
            assert_eq!(found.len(), expected.len());
            let pairs = found.iter().zip(&expected);
            let wrong = pairs.filter(|(a, b)| a != b).count();
            println!("{name}: {wrong} of {} differ", found.len());
            compared += found.len();
            different += wrong;
        };
        let integers = |x: TensorData| x.convert::<i64>().try_into_vec::<i64>().unwrap();
        for (level, kept, balls) in [
            ("first", 512, [(0.1, 16), (0.2, 32), (0.4, 128)]),
            ("second", 128, [(0.2, 32), (0.4, 64), (0.8, 128)]),
        ] {
            let chosen = query::farthest_points(&xyz, kept, Start::default());
            count(level, integers(chosen.to_data()));
            let batch = xyz.dims()[0];
            let index: Tensor<3, Int> = chosen.reshape([batch, kept, 1]).expand([batch, kept, 3]);
            let centres = xyz.clone().gather(1, index);
            for (radius, neighbours) in balls {
                let found = query::ball_query(&xyz, &centres, radius, neighbours);
                count(&format!("{level}.{radius}"), integers(found.into_data()));
            }
            xyz = centres;
        }
    }
    println!("{clouds} clouds, {compared} indices, {different} differ");
    assert_eq!(different, 0);
}
