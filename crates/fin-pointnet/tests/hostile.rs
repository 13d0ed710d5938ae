//! `fin.json` that asks for what cannot be held, and checkpoints of something else.

#[path = "../../fin-core/tests/hostile/counting.rs"]
mod counting;

use std::path::{Path, PathBuf};

use fin_core::weights::{self, Checkpoint};
use fin_core::{DeviceSpec, Error};
use fin_pointnet::{Architecture, MeshEmbedder, MeshOptions, ModelConfig, PointNetConfig};
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/pointnet")
}

fn read(text: &str) -> Result<ModelConfig, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fin.json");
    std::fs::write(&path, text).unwrap();
    counting::within_limits(text.len(), || ModelConfig::read(&path)).map_err(|e| e.to_string())
}

fn custom() -> Value {
    json!({"family": "pointnet", "architecture": PointNetConfig::multi_scale()})
}

#[test]
fn numbers_of_clouds_and_layers_are_bounded() {
    read(&custom().to_string()).unwrap();
    read(r#"{"family": "pointnet", "architecture": "pointnet2_ssg"}"#).unwrap();
    let huge = json!(18446744073709551615u64);
    for (pointer, value, field) in [
        ("/architecture", json!("pointnet3"), "architecture"),
        ("/architecture/levels", json!([]), "levels"),
        (
            "/architecture/levels/0/points",
            huge.clone(),
            "levels.0.points",
        ),
        ("/architecture/levels/0/points", json!(0), "levels.0.points"),
        (
            "/architecture/levels/1/scales",
            json!([]),
            "levels.1.scales",
        ),
        (
            "/architecture/levels/1/scales/2/radius",
            json!(-0.5),
            "scales.2.radius",
        ),
        (
            "/architecture/levels/1/scales/0/neighbours",
            huge.clone(),
            "scales.0.neighbours",
        ),
        (
            "/architecture/levels/1/scales/0/mlp",
            json!([]),
            "scales.0.mlp",
        ),
        (
            "/architecture/levels/1/scales/0/mlp/1",
            huge.clone(),
            "scales.0.mlp",
        ),
        (
            "/architecture/levels/1/scales/0/mlp",
            json!(vec![1; 5000]),
            "scales.0.mlp",
        ),
        (
            "/architecture/grouping",
            json!("single_scale"),
            "levels.0.scales",
        ),
        ("/architecture/global", json!([]), "global"),
        ("/architecture/global/0", json!(1 << 30), "global"),
        (
            "/architecture/embedding_size",
            huge.clone(),
            "embedding_size",
        ),
        ("/family", json!("cnn"), "cnn"),
    ] {
        let mut config = custom();
        *config.pointer_mut(pointer).unwrap() = value;
        let error = read(&config.to_string()).unwrap_err();
        assert!(
            error.contains("fin.json") && error.contains(field),
            "{pointer}: {error}"
        );
    }
    for (field, value) in [
        ("points", json!(0)),
        ("points", huge.clone()),
        ("projection", huge),
        ("projection", json!(0)),
        ("output", json!("middle")),
        ("colour", json!(1)),
    ] {
        let mut config = custom();
        config[field] = value;
        let error = read(&config.to_string()).unwrap_err();
        let named = error.contains(field) || error.contains("middle");
        assert!(error.contains("fin.json") && named, "{error}");
    }
    let error = read(&format!("{{\"family\":{}", "[".repeat(100_000))).unwrap_err();
    assert!(error.contains("fin.json"), "{error}");
}

/// The weights of `ssg` after a change, opened as what the fixture says they are.
fn opened(
    change: impl FnOnce(&mut Vec<(String, Vec<usize>, Vec<f32>)>),
    options: &MeshOptions,
) -> Result<MeshEmbedder, Error> {
    let text = std::fs::read_to_string(fixtures().join("ssg.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let architecture: Architecture = serde_json::from_value(json["architecture"].clone()).unwrap();
    let source = Checkpoint::open(fixtures().join("ssg.pth")).unwrap();
    let floats = source.iter().filter(|(_, entry)| !entry.shape().is_empty());
    let mut tensors: Vec<_> = floats
        .map(|(key, entry)| {
            let values = source.read_f32(key).unwrap();
            (key.to_string(), entry.shape().to_vec(), values)
        })
        .collect();
    change(&mut tensors);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weights.safetensors");
    weights::save(&path, &tensors).unwrap();
    let config = ModelConfig::new(architecture, false);
    let device = DeviceSpec::Flex.open().unwrap();
    MeshEmbedder::open_checkpoint(&path, &config, options, &device)
}

#[test]
fn a_checkpoint_of_something_else_is_refused_by_name() {
    let plain = MeshOptions::default();
    // Counters may be missing, which old files lack.
    opened(|_| {}, &plain).unwrap();

    let error = opened(|tensors| tensors.retain(|t| t.0 != "bn1.weight"), &plain).unwrap_err();
    assert!(matches!(error, Error::MissingTensors { .. }), "{error}");
    assert!(error.to_string().contains("`bn1.weight`"), "{error}");

    let find = |tensors: &mut Vec<(String, Vec<usize>, Vec<f32>)>, key: &str| {
        tensors.iter().position(|t| t.0 == key).unwrap()
    };
    let error = opened(
        |tensors| {
            let i = find(tensors, "sa1.mlp_convs.0.weight");
            let out = tensors[i].1[0];
            tensors[i].1 = vec![out, 6, 1, 1];
            tensors[i].2.resize(out * 6, 0.0);
        },
        &plain,
    )
    .unwrap_err();
    assert!(matches!(error, Error::ShapeMismatch { .. }), "{error}");
    assert!(
        error.to_string().contains("sa1.mlp_convs.0.weight"),
        "{error}"
    );

    let spoil = |tensors: &mut Vec<(String, Vec<usize>, Vec<f32>)>| {
        let i = find(tensors, "fc1.bias");
        tensors[i].2[2] = f32::NAN;
    };
    opened(spoil, &plain).unwrap();
    let checked = MeshOptions {
        check: true,
        ..MeshOptions::default()
    };
    let error = opened(spoil, &checked).unwrap_err();
    assert!(error.to_string().contains("`fc1.bias`"), "{error}");

    let error = opened(|tensors| tensors.retain(|t| t.0.starts_with("fc")), &plain).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("sa1.mlp_convs.0.weight") && text.contains("`fc1.bias`"),
        "{text}"
    );

    // The other grouping.
    let device = DeviceSpec::Flex.open().unwrap();
    let config = ModelConfig::preset("pointnet2_ssg", false).unwrap();
    let error = MeshEmbedder::open_checkpoint(fixtures().join("msg.pth"), &config, &plain, &device)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("multi-scale") && error.contains("single-scale"),
        "{error}"
    );
}

#[test]
fn what_a_published_checkpoint_is_shows_in_its_keys() {
    for (file, name, normals) in [
        ("ssg.pth", "pointnet2_ssg", false),
        ("ssg-normals.weights.safetensors", "pointnet2_ssg", true),
        ("msg.pth", "pointnet2_msg", false),
        ("msg-normals.weights.safetensors", "pointnet2_msg", true),
    ] {
        let checkpoint = Checkpoint::open(fixtures().join(file)).unwrap();
        let config = ModelConfig::detect(&checkpoint).unwrap();
        let expected = ModelConfig::preset(name, normals);
        // Multi-scale networks put features first; with normals both see six values.
        assert_eq!(config, expected.unwrap());
    }
    let checkpoint = Checkpoint::open(fixtures().join("queries.safetensors")).unwrap();
    let error = ModelConfig::detect(&checkpoint).unwrap_err().to_string();
    assert!(error.contains("not the weights of a PointNet++"), "{error}");
    let error = ModelConfig::preset("pointnet", false)
        .unwrap_err()
        .to_string();
    assert!(error.contains("pointnet2_ssg, pointnet2_msg"), "{error}");
}
