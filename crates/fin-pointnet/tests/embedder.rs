//! `MeshEmbedder` from files to vectors and back to files.

use std::path::{Path, PathBuf};

use fin_core::weights::{self, Checkpoint};
use fin_core::{BatchLimits, DeviceSpec, Embedder, EmbeddingNetwork, Error, PostProcess, encode};
use fin_pointnet::{
    Architecture, EncodedPoints, MeshConversion, MeshEmbedder, MeshOptions, ModelConfig,
    PointAugmentation, PointBatch, PointOutput, Points,
};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/pointnet")
}

fn config(name: &str) -> (ModelConfig, PathBuf) {
    let text = std::fs::read_to_string(fixtures().join(format!("{name}.json"))).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let architecture: Architecture = serde_json::from_value(json["architecture"].clone()).unwrap();
    let mut config = ModelConfig::new(architecture, json["normals"].as_bool().unwrap());
    config.points = 96;
    (config, fixtures().join(json["weights"].as_str().unwrap()))
}

fn open(name: &str, options: &MeshOptions) -> Result<MeshEmbedder, Error> {
    let (config, path) = config(name);
    let device = DeviceSpec::Flex.open().unwrap();
    MeshEmbedder::open_checkpoint(path, &config, options, &device)
}

/// A box of these sides, away from the origin.
fn cuboid([a, b, c]: [f32; 3]) -> String {
    let mut text = String::new();
    for i in 0..8 {
        let at = |bit: usize, side: f32| 10.0 + if i >> bit & 1 == 1 { side } else { 0.0 };
        text += &format!("v {} {} {}\n", at(0, a), at(1, b), at(2, c));
    }
    text + "f 1 3 4 2\nf 5 6 8 7\nf 1 2 6 5\nf 3 7 8 4\nf 1 5 7 3\nf 2 4 8 6\n"
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let sides = [
        [1.0, 1.0, 1.0],
        [1.0, 4.0, 1.0],
        [3.0, 0.5, 2.0],
        [1.0, 1.0, 0.1],
        [5.0, 2.0, 1.0],
    ];
    let write = |(i, sides)| {
        let path = directory.join(format!("{i}.obj"));
        std::fs::write(&path, cuboid(sides)).unwrap();
        path
    };
    sides.into_iter().enumerate().map(write).collect()
}

fn rows(model: &MeshEmbedder, files: &[PathBuf], max_items: usize) -> Vec<f32> {
    let device = DeviceSpec::Flex.open().unwrap();
    let limits = BatchLimits {
        max_items,
        max_cost: usize::MAX,
    };
    encode(
        model,
        files,
        &device,
        limits,
        PostProcess::default(),
        |_| {},
    )
    .unwrap()
    .values
}

fn points(item: &EncodedPoints) -> &Points {
    match item {
        EncodedPoints::Points(points) => points,
        EncodedPoints::Features(_) => panic!("features, not points"),
    }
}

#[test]
fn files_to_vectors() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(directory.path());
    let device = DeviceSpec::Flex.open().unwrap();
    for name in ["ssg", "msg-normals"] {
        let model = open(name, &MeshOptions::default()).unwrap();
        let all = rows(&model, &files, 16);
        assert_eq!(all.len(), 5 * 18);
        assert_eq!(rows(&model, &files, 2), all);
        // The same points as an array.
        let encoded = model.preprocess(&files).unwrap();
        let clouds: Vec<Points> = encoded.iter().map(|item| points(item).clone()).collect();
        let direct = model.embed_points(&clouds, &device).unwrap();
        let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4;
        assert!(direct.iter().zip(&all).all(close));
        for cloud in &clouds {
            assert_eq!(cloud.len(), 96);
            let longest = cloud
                .values()
                .chunks_exact(cloud.columns())
                .map(|row| row[..3].iter().map(|x| x * x).sum::<f32>().sqrt());
            assert!((longest.fold(0.0, f32::max) - 1.0).abs() < 1e-6);
        }
        // Another seed, other points; another number, another shape.
        let options = MeshOptions {
            seed: 1,
            points: Some(40),
            ..MeshOptions::default()
        };
        let other = open(name, &options).unwrap();
        let other = other.preprocess(&files[..1]).unwrap();
        assert_eq!(points(&other[0]).len(), 40);
        assert_ne!(points(&other[0]).values()[..3], clouds[0].values()[..3]);
    }
}

#[test]
fn clouds_in_memory() {
    let device = DeviceSpec::Flex.open().unwrap();
    let model = open("ssg", &MeshOptions::default()).unwrap();
    // Clouds of unequal size, one smaller than what the first level keeps, one a single place.
    let cloud = |n: usize| {
        let values: Vec<f32> = (0..n * 6).map(|i| (i as f32 * 0.7).sin()).collect();
        Points::new(values, 6).unwrap()
    };
    let clouds = [cloud(70), cloud(70), cloud(5), cloud(1)];
    let found = model.embed_points(&clouds, &device).unwrap();
    assert_eq!(found.len(), 4 * 18);
    assert!(found.iter().all(|x| x.is_finite()));
    assert_eq!(found[..18], found[18..36]);

    let bare = Points::new(vec![0.5, 1.0, 2.0], 3).unwrap();
    let normals = open("ssg-normals", &MeshOptions::default()).unwrap();
    let error = normals.embed_points(&[bare], &device).unwrap_err();
    assert!(error.to_string().contains("takes 6"), "{error}");
    for (values, columns, reason) in [
        (vec![], 3, "0 values"),
        (vec![1.0; 7], 3, "7 values"),
        (vec![1.0; 8], 4, "4 values a point"),
        (
            vec![1.0, 2.0, 3.0, 4.0, f32::NAN, 6.0],
            3,
            "value 1 of point 1 is NaN",
        ),
    ] {
        let error = Points::new(values, columns).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let error = Points::from_oriented(&[[0.0; 3]], &[]).unwrap_err();
    assert!(error.to_string().contains("0 normals of 1 points"));
}

#[test]
fn a_saved_model_opens_with_the_same_vectors_and_upstream_keys() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(directory.path());
    let device = DeviceSpec::Flex.open().unwrap();
    for name in ["ssg", "ssg-normals", "msg", "msg-normals"] {
        let options = MeshOptions {
            output: Some(PointOutput::Global),
            output_dim: Some(7),
            normalize: Some(true),
            ..MeshOptions::default()
        };
        let model = open(name, &options).unwrap().with_origin("here", "MIT");
        let target = directory.path().join(name);
        model.save(&target).unwrap();
        let opened = MeshEmbedder::open(&target, &MeshOptions::default(), &device).unwrap();
        assert_eq!(opened.config(), model.config());
        assert_eq!(opened.config().source.as_deref(), Some("here"));
        assert!(opened.report().unused.is_empty() && opened.report().ignored.is_empty());
        assert_eq!(rows(&opened, &files, 3), rows(&model, &files, 3));
        assert_eq!(opened.network().output_dim(), 7);

        // The keys of the checkpoint but for its head, with the same values.
        let (config, path) = config(name);
        let source = Checkpoint::open(&path).unwrap();
        let saved = Checkpoint::open(target.join("model.safetensors")).unwrap();
        let key = |key: &str| key.strip_prefix("module.").unwrap_or(key).to_string();
        let head = |key: &str| ["fc2.", "bn2.", "fc3."].iter().any(|h| key.starts_with(h));
        let expected: Vec<String> = source
            .iter()
            .map(|(k, _)| key(k))
            .filter(|k| !head(k))
            .collect();
        let found: Vec<String> = saved.iter().map(|(key, _)| key.into()).collect();
        assert_eq!(found, expected);
        for (name, entry) in source.iter().filter(|(k, _)| !head(&key(k))) {
            assert_eq!(saved.get(&key(name)).unwrap().shape(), entry.shape());
            if entry.shape().is_empty() {
                assert_eq!(
                    saved.read_i64(&key(name)).unwrap(),
                    source.read_i64(name).unwrap()
                );
            } else {
                assert_eq!(
                    saved.read_f32(&key(name)).unwrap(),
                    source.read_f32(name).unwrap()
                );
            }
        }

        // What a conversion writes is the same.
        let plan = MeshConversion::plan(&path, &config).unwrap();
        assert_eq!(plan.output_dim, 18);
        assert_eq!(
            (plan.mapping.missing.len(), plan.mapping.unused.len()),
            (0, 0)
        );
        let error = MeshConversion::plan(&target, &config).unwrap_err();
        assert!(error.to_string().contains("projection"), "{error}");
    }
}

#[test]
fn options_of_meshes() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(directory.path());
    let plain = open("ssg", &MeshOptions::default()).unwrap();
    let embeddings = rows(&plain, &files, 16);
    assert!(embeddings.iter().any(|x| *x < 0.0));
    let rectified = open(
        "ssg",
        &MeshOptions {
            relu: Some(true),
            ..MeshOptions::default()
        },
    )
    .unwrap();
    let expected: Vec<f32> = embeddings.iter().map(|x| x.max(0.0)).collect();
    assert_eq!(rows(&rectified, &files, 16), expected);
    let global = MeshOptions {
        output: Some(PointOutput::Global),
        ..MeshOptions::default()
    };
    let global = open("ssg", &global).unwrap();
    assert_eq!(global.network().output_dim(), 40);
    assert!(rows(&global, &files, 16).iter().all(|x| *x >= 0.0));

    let augmentation = Some(PointAugmentation::standard());
    for (options, name) in [
        (
            MeshOptions {
                points: Some(0),
                ..MeshOptions::default()
            },
            "points",
        ),
        (
            MeshOptions {
                points: Some(usize::MAX),
                ..MeshOptions::default()
            },
            "points",
        ),
        (
            MeshOptions {
                output_dim: Some(0),
                ..MeshOptions::default()
            },
            "output-dim",
        ),
        (
            MeshOptions {
                freeze: true,
                ..MeshOptions::default()
            },
            "freeze",
        ),
        (
            MeshOptions {
                freeze: true,
                output_dim: Some(4),
                augmentation,
                ..MeshOptions::default()
            },
            "augmentation",
        ),
        (
            MeshOptions {
                augmentation: Some(PointAugmentation {
                    dropout: 2.0,
                    ..PointAugmentation::default()
                }),
                ..MeshOptions::default()
            },
            "augmentation.dropout",
        ),
    ] {
        let error = open("ssg", &options).unwrap_err().to_string();
        assert!(error.starts_with(name), "{error}");
    }

    // Of a model with a projection, neither it nor what it projects is to be had otherwise.
    let device = DeviceSpec::Flex.open().unwrap();
    let target = directory.path().join("projected");
    let projected = MeshOptions {
        output_dim: Some(4),
        ..MeshOptions::default()
    };
    open("ssg", &projected).unwrap().save(&target).unwrap();
    let global = MeshOptions {
        output: Some(PointOutput::Global),
        ..MeshOptions::default()
    };
    for (options, name) in [(projected, "output-dim"), (global, "pooling")] {
        let error = MeshEmbedder::open(&target, &options, &device)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(name), "{error}");
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let good = files(directory.path());
    let cloud = directory.path().join("cloud.obj");
    std::fs::write(&cloud, "v 0 0 0\nv 1 0 0\nv 0 1 0\n").unwrap();
    let missing = directory.path().join("missing.obj");
    let items = [good[0].clone(), cloud.clone(), missing];
    let with = open("ssg-normals", &MeshOptions::default()).unwrap();
    let found = with.preprocess_each(&items);
    assert!(found[0].is_ok());
    let error = found[1].as_ref().unwrap_err().to_string();
    assert!(
        error.contains("cloud.obj") && error.contains("without normals"),
        "{error}"
    );
    let error = found[2].as_ref().unwrap_err().to_string();
    assert!(error.contains("missing.obj"), "{error}");
    let without = open("ssg", &MeshOptions::default()).unwrap();
    assert!(without.preprocess(&[cloud]).is_ok());
}

#[test]
fn augmentation_is_a_function_of_seed_and_place() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(directory.path());
    let device = DeviceSpec::Flex.open().unwrap();
    let options = MeshOptions {
        augmentation: Some(PointAugmentation::standard()),
        ..MeshOptions::default()
    };
    let model = open("ssg-normals", &options).unwrap();
    let encoded = model.preprocess_training(&files[..1], &device).unwrap();
    let items = [&encoded[0]; 2];
    let batch = |seed: Option<u64>| {
        let batch = match seed {
            Some(seed) => model.collate_training(&items, seed, &device),
            None => model.collate(&items, &device),
        };
        match batch.unwrap() {
            PointBatch::Points(points) => points.into_data().try_into_vec::<f32>().unwrap(),
            PointBatch::Features(_) => panic!("features, not points"),
        }
    };
    let plain = batch(None);
    let (first, second) = plain.split_at(96 * 6);
    assert!(first == second && first == points(&encoded[0]).values());
    let one = batch(Some(1));
    assert!(one == batch(Some(1)) && one != batch(Some(2)) && one != plain);
    let (first, second) = one.split_at(96 * 6);
    assert_ne!(first, second);
}

#[test]
fn a_frozen_backbone_is_computed_once() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(directory.path());
    let device = DeviceSpec::Flex.open().unwrap();
    let options = MeshOptions {
        freeze: true,
        output_dim: Some(5),
        ..MeshOptions::default()
    };
    let model = open("msg", &options).unwrap();
    let encoded = model.preprocess_training(&files, &device).unwrap();
    assert!(
        encoded
            .iter()
            .all(|item| matches!(item, EncodedPoints::Features(row) if row.len() == 18))
    );
    let items: Vec<&EncodedPoints> = encoded.iter().collect();
    let batch = model.collate_training(&items, 3, &device).unwrap();
    let found: Vec<f32> = model
        .network()
        .embed(&batch)
        .into_data()
        .try_into_vec()
        .unwrap();
    let expected = rows(&model, &files, 16);
    assert!(
        found
            .iter()
            .zip(&expected)
            .all(|(a, b)| (a - b).abs() < 1e-5)
    );
}

#[test]
fn random_weights_are_a_function_of_the_seed() {
    let (mut config, _) = config("ssg");
    let device = DeviceSpec::Flex.open().unwrap();
    let state = |config: &ModelConfig, seed: u64| {
        device.seed(seed);
        let model = MeshEmbedder::init(config, &MeshOptions::default(), &device).unwrap();
        (
            weights::state_dict(model.network(), &model.names()),
            model.network().output_dim(),
        )
    };
    let (first, width) = state(&config, 3);
    assert_eq!(width, 18);
    assert!(first == state(&config, 3).0 && first != state(&config, 4).0);
    let weight = first
        .iter()
        .find(|t| t.0 == "sa1.mlp_convs.1.weight")
        .unwrap();
    let bound = 1.0 / 12f32.sqrt();
    let largest = weight.2.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    assert!(largest <= bound && largest > 0.9 * bound, "{largest}");
    config.projection = Some(11);
    assert_eq!(state(&config, 3).1, 11);
    config.projection = Some(0);
    assert!(MeshEmbedder::init(&config, &MeshOptions::default(), &device).is_err());
}
