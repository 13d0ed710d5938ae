//! Image rows: opened, compared with what the checkpoint says, converted.
#![cfg(feature = "flex")]

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use fin_cnn::{Architecture, CnnBackbone, Dialect, ModelConfig, Preset};
use fin_core::weights::{self, FloatType};
use fin_registry::{
    AnyEmbedder, Catalogue, ConvertOptions, Locations, ModelOptions, Registry, build_model,
};
use serde_json::Value;

const NAME: &str = "efficientnet-lite0";

/// A network of the row's architecture with new weights, as timm has it.
fn make(directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    let config = Architecture::Named("efficientnet_lite0".into())
        .config()
        .unwrap();
    let device = Device::flex();
    device.seed(7);
    let backbone: CnnBackbone = config.init(&device);
    let path = directory.join("model.safetensors");
    weights::save_module(path, &backbone, &Dialect::Timm.names(&config)).unwrap();
}

fn registry(root: &Path) -> Registry {
    Registry {
        catalogue: Catalogue::embedded().clone(),
        locations: Locations {
            by_name: vec![root.to_path_buf()],
            ..Locations::default()
        },
    }
}

fn small() -> ModelOptions {
    ModelOptions {
        image_size: Some(32),
        ..ModelOptions::default()
    }
}

fn picture() -> PathBuf {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/images/files");
    let mut files: Vec<PathBuf> = fs::read_dir(images)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "png"))
        .collect();
    files.sort();
    files.remove(0)
}

#[test]
fn weights_alone_are_opened_as_the_row_says() {
    let dir = tempfile::tempdir().unwrap();
    make(&dir.path().join(NAME));
    let registry = registry(dir.path());
    let model = registry.build_model(NAME, &small()).unwrap();
    assert_eq!(model.contradictions, []);
    assert_eq!(model.output_dim(), 1280);
    let embedder = model.embedder.image().unwrap();
    assert_eq!(embedder.dialect(), Dialect::Timm);
    let row = model.row.as_ref().unwrap();
    assert_eq!(embedder.config().source.as_ref(), Some(&row.source));
    let embeddings = model.encode_image(&[picture()]).unwrap();
    assert_eq!((embeddings.rows(), embeddings.dim), (1, 1280));

    let error = model.encode_text(&["boat".into()]).unwrap_err().to_string();
    assert!(error.contains("reads images"), "{error}");
    for (field, options) in [
        (
            "max-length",
            ModelOptions {
                max_length: Some(12),
                ..small()
            },
        ),
        (
            "prompt",
            ModelOptions {
                prompt: Some("query".into()),
                ..small()
            },
        ),
        (
            "pooling",
            ModelOptions {
                pooling: Some("cls".into()),
                ..small()
            },
        ),
    ] {
        let error = registry.build_model(NAME, &options).unwrap_err();
        assert!(error.to_string().starts_with(field), "{error}");
    }

    // What is saved says of itself what it is.
    let saved = dir.path().join("saved");
    model.embedder.save(&saved).unwrap();
    let again = build_model(saved.to_str().unwrap(), &ModelOptions::default()).unwrap();
    assert!(matches!(again.embedder, AnyEmbedder::Image(_)));
    assert_eq!(
        again.encode_image(&[picture()]).unwrap().values,
        embeddings.values
    );
}

#[test]
fn a_directory_wins_over_its_row_and_the_difference_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join(NAME);
    make(&directory);
    let mut config = ModelConfig::preset("efficientnet_lite0", None).unwrap();
    config.pooling = "max".parse().unwrap();
    config.normalize = true;
    config.preprocessing = Preset::find("resnet50", None).unwrap().transform();
    let text = serde_json::to_string(&config).unwrap();
    fs::write(directory.join("fin.json"), text).unwrap();
    let registry = registry(dir.path());
    let model = registry
        .build_model(NAME, &ModelOptions::default())
        .unwrap();
    let fields: Vec<_> = model.contradictions.iter().map(|c| c.field).collect();
    assert_eq!(fields, ["pooling", "normalize", "preprocessing"]);
    let asked = ModelOptions {
        pooling: Some("gem".into()),
        normalize: Some(false),
        ..small()
    };
    let model = registry.build_model(NAME, &asked).unwrap();
    assert_eq!(model.contradictions, []);
}

#[test]
fn texts_options_mean_nothing_to_images_and_the_other_way_round() {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/text/bert-tiny");
    let error = build_model(text.to_str().unwrap(), &small()).unwrap_err();
    assert!(error.to_string().starts_with("image-size"), "{error}");
    let model = build_model(text.to_str().unwrap(), &ModelOptions::default()).unwrap();
    let error = model.encode_image(&[picture()]).unwrap_err().to_string();
    assert!(error.contains("reads texts"), "{error}");
}

#[test]
fn a_converted_checkpoint_gives_the_same_and_says_where_it_is_from() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join(NAME);
    make(&source);
    let registry = registry(dir.path());
    let to = dir.path().join("converted");
    let options = ConvertOptions::default();
    let (report, ()) = registry
        .convert(NAME, None, &to, &options, |_| Ok(()))
        .unwrap();
    assert_eq!(report.notes, [] as [&str; 0]);
    let counters = report.mappings[0].tensors.iter();
    let counters: Vec<_> = counters
        .filter(|tensor| tensor.target.ends_with("num_batches_tracked"))
        .collect();
    assert!(counters.len() > 40 && counters.iter().all(|tensor| tensor.to == "i64"));
    assert!(report.mappings[0].missing.is_empty() && report.mappings[0].unused.is_empty());
    let text = fs::read_to_string(to.join("fin.json")).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(manifest["family"], "cnn");
    assert_eq!(manifest["provenance"]["model"], NAME);
    assert_eq!(
        manifest["provenance"]["outputs"][0]["sha256"],
        report.outputs[0].sha256.as_str()
    );
    let encode = |path: &Path| {
        let model = build_model(path.to_str().unwrap(), &small()).unwrap();
        model.encode_image(&[picture()]).unwrap().values
    };
    let expected = registry.build_model(NAME, &small()).unwrap();
    let expected = expected.encode_image(&[picture()]).unwrap().values;
    assert_eq!(encode(&to), expected);

    // Again from what was written, as a file, to half precision.
    let half = dir.path().join("half");
    let options = ConvertOptions {
        dtype: FloatType::F16,
        ..options
    };
    let file = source.join("model.safetensors");
    registry
        .convert(NAME, Some(&file), &half, &options, |_| Ok(()))
        .unwrap();
    let found = encode(&half);
    let difference: f32 = found
        .iter()
        .zip(&expected)
        .map(|(a, b)| (a - b).powi(2))
        .sum();
    let norm: f32 = expected.iter().map(|b| b * b).sum();
    let error = (difference / norm).sqrt();
    assert!(error > 0.0 && error < 2e-3, "{error}");

    let other = fs::read_dir(&to).unwrap().count();
    assert_eq!(other, 2, "fin.json and model.safetensors");
}
