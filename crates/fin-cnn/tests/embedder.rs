//! The whole image model: directories in and out, image files to embeddings, keys of saved
//! weights, and what is refused. References come from `fixtures/images/generate.py`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use fin_cnn::{
    Architecture, CONFIG_FILE, Dialect, EncodedImage, ImageBatch, ImageEmbedder, ImageOptions,
    ModelConfig, Preset,
};
use fin_core::device::f32_tolerance;
use fin_core::image::Augmentation;
use fin_core::weights::{self, Checkpoint};
use fin_core::{
    BatchLimits, DeviceSpec, Embedder, EmbeddingNetwork, Error, MapPooling, PostProcess, encode,
    encode_each,
};
use safetensors::SafeTensors;
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/images")
}

fn flex() -> Device {
    DeviceSpec::Flex.open().unwrap()
}

fn read_json(path: impl AsRef<Path>) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn open(options: &ImageOptions) -> ImageEmbedder {
    let directory = fixtures().join("efficientnet");
    ImageEmbedder::open(directory, options, &flex()).unwrap_or_else(|e| panic!("{e}"))
}

fn files() -> Vec<PathBuf> {
    let names = read_json(fixtures().join("directory.reference.json"))["files"].clone();
    let names: Vec<String> = serde_json::from_value(names).unwrap();
    names
        .iter()
        .map(|name| fixtures().join("files").join(name))
        .collect()
}

fn embed(model: &ImageEmbedder, files: &[PathBuf]) -> Vec<f32> {
    let limits = BatchLimits {
        max_items: 4,
        max_cost: 1000,
    };
    let post = PostProcess::default();
    encode(model, files, &flex(), limits, post, |_| {})
        .unwrap()
        .values
}

/// `‖a − b‖ / ‖b‖`.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let pairs = || a.iter().zip(b).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    let difference: f64 = pairs().map(|(a, b)| (a - b) * (a - b)).sum();
    (difference / pairs().map(|(_, b)| b * b).sum::<f64>()).sqrt()
}

#[test]
fn image_files_to_embeddings_as_in_torchvision() {
    let path = fixtures().join("directory.reference.safetensors");
    let reference = Checkpoint::open(path).unwrap();
    for (normalize, key) in [
        (Some(false), "embeddings.unnormalized"),
        (None, "embeddings"),
    ] {
        let options = ImageOptions {
            normalize,
            ..ImageOptions::default()
        };
        let model = open(&options);
        let (used, unused) = (&model.report().used, &model.report().unused);
        assert!(unused.is_empty() && used.contains(&"projection/weight".to_string()));
        let error = relative(&embed(&model, &files()), &reference.read_f32(key).unwrap());
        assert!(
            error < f32_tolerance(DeviceSpec::Flex),
            "{key}: {error:.1e}"
        );
    }
}

/// An image's embedding does not depend on its batch.
#[test]
fn alone_and_in_batches() {
    let model = open(&ImageOptions::default());
    let files = files();
    let together = embed(&model, &files);
    for (file, row) in files.iter().zip(together.chunks_exact(10)) {
        let alone = embed(&model, std::slice::from_ref(file));
        assert!(relative(&alone, row) < 1e-5, "{}", file.display());
    }
}

#[test]
fn the_folded_network_agrees_and_is_made_anew_for_another_network() {
    let model = open(&ImageOptions::default());
    let encoded = model.preprocess(&files()).unwrap();
    let batch = model
        .collate(&encoded.iter().collect::<Vec<_>>(), &flex())
        .unwrap();
    let values = |x: Tensor<2>| -> Vec<f32> { x.into_data().try_into_vec().unwrap() };
    let plain = values(model.network().embed_unnormalized(&batch));
    let folded = values(model.inference_network().embed_unnormalized(&batch));
    assert!(relative(&folded, &plain) < 1e-5);

    // One pass on an autodiff device moves the running statistics: the next folded copy has to
    // differ.
    let training = model.network().clone().train();
    let ImageBatch::Pixels(pixels) = batch.clone() else {
        panic!("not pixels");
    };
    training.embed(&ImageBatch::Pixels(pixels.autodiff()));
    let trained = model.clone().with_network(training.valid());
    let moved = values(trained.network().embed_unnormalized(&batch));
    let folded_again = values(trained.inference_network().embed_unnormalized(&batch));
    assert!(relative(&folded_again, &moved) < 1e-5);
    assert!(relative(&moved, &plain) > 1e-4);
    // And the model that it was trained from has not changed.
    let untouched = values(model.network().embed_unnormalized(&batch));
    assert_eq!(untouched, plain);
}

#[test]
fn a_saved_directory_opens_to_the_same_bits() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("saved");
    let model = open(&ImageOptions::default()).with_origin("elsewhere", "MIT");
    model.save(&target).unwrap();
    let mut names: Vec<String> = std::fs::read_dir(&target)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["fin.json", "model.safetensors", "projection.safetensors"]
    );
    let again = ImageEmbedder::open(&target, &ImageOptions::default(), &flex()).unwrap();
    assert_eq!(again.config(), model.config());
    assert_eq!(again.config().licence.as_deref(), Some("MIT"));
    assert_eq!(embed(&again, &files()), embed(&model, &files()));

    // Tensor by tensor, counters included, and nothing but the classifier is missing.
    let original = Checkpoint::open(fixtures().join("efficientnet/model.safetensors")).unwrap();
    let saved = Checkpoint::open(target.join("model.safetensors")).unwrap();
    for (name, entry) in original.iter() {
        if name.starts_with("classifier.") {
            assert!(saved.get(name).is_none());
            continue;
        }
        assert_eq!(saved.get(name).unwrap().shape(), entry.shape(), "{name}");
        if name.ends_with("num_batches_tracked") {
            let (a, b) = (saved.read_i64(name), original.read_i64(name));
            assert_eq!(a.unwrap(), b.unwrap());
        } else {
            let (a, b) = (saved.read_f32(name), original.read_f32(name));
            assert_eq!(a.unwrap(), b.unwrap());
        }
    }
    assert_eq!(saved.len(), original.len() - 2);
}

/// Every dialect is written as the library has it whose network computes the same.
#[test]
fn saved_keys_types_and_shapes_are_upstreams() {
    let expected = read_json(fixtures().join("state_dicts.json"));
    let directory = tempfile::tempdir().unwrap();
    for (name, tensors) in expected["state_dicts"].as_object().unwrap() {
        let config = Architecture::Named(name.clone()).config().unwrap();
        let path = directory.path().join(name);
        let names = Dialect::of_saved(&config).names(&config);
        weights::save_module(&path, &config.init(&flex()), &names).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let found: BTreeSet<String> = file
            .iter()
            .map(|(key, view)| {
                let dtype = format!("{:?}", view.dtype())
                    .replace("F32", "float32")
                    .replace("I64", "int64");
                format!("{key} {dtype} {:?}", view.shape())
            })
            .collect();
        let tensors: BTreeSet<String> = serde_json::from_value(tensors.clone()).unwrap();
        let difference: Vec<&String> = found.symmetric_difference(&tensors).collect();
        assert!(difference.is_empty(), "{name}: {difference:?}");
    }
}

#[test]
fn options_change_what_the_directory_says() {
    let options = ImageOptions {
        pooling: Some(MapPooling::Max),
        image_size: Some(64),
        check: true,
        ..ImageOptions::default()
    };
    let model = open(&options);
    assert_eq!(model.config().pooling, MapPooling::Max);
    assert_eq!(model.config().preprocessing.crop, Some([64, 64]));
    let encoded = model.preprocess(&files()[..1]).unwrap();
    let EncodedImage::Pixels(image) = &encoded[0] else {
        panic!("not pixels");
    };
    assert_eq!((image.width(), image.height()), (64, 64));
    assert_eq!(model.cost(&encoded[0]), 16);

    let checkpoint = fixtures().join("resnet-basic.pth");
    let shape = read_json(fixtures().join("resnet-basic.json"))["architecture"].clone();
    let config = ModelConfig::new(
        serde_json::from_value(shape).unwrap(),
        Preset::find("resnet18", None).unwrap().transform(),
    );
    let options = ImageOptions {
        output_dim: Some(7),
        normalize: Some(true),
        ..ImageOptions::default()
    };
    let model = ImageEmbedder::open_checkpoint(checkpoint, &config, &options, &flex()).unwrap();
    assert_eq!(model.network().output_dim(), 7);
    let rows = embed(&model, &files()[..2]);
    for row in rows.chunks_exact(7) {
        let norm: f32 = row.iter().map(|x| x * x).sum();
        assert!((norm - 1.0).abs() < 1e-5, "{norm}");
    }
}

/// What a batch of training gives, at a seed.
fn training_values(model: &ImageEmbedder, encoded: &[EncodedImage], seed: u64) -> Vec<f32> {
    let items: Vec<&EncodedImage> = encoded.iter().collect();
    let batch = model.collate_training(&items, seed, &flex()).unwrap();
    let rows = model.network().embed(&batch).into_data();
    rows.try_into_vec().unwrap()
}

#[test]
fn a_frozen_backbone_is_computed_once_and_gives_the_same() {
    let options = ImageOptions {
        freeze: true,
        ..ImageOptions::default()
    };
    let model = open(&options);
    let encoded = model.preprocess_training(&files(), &flex()).unwrap();
    assert!(matches!(encoded[0], EncodedImage::Features(_)));
    let found = training_values(&model, &encoded, 0);
    let width = model.network().output_dim();
    assert_eq!(found.len(), files().len() * width);
    assert!(relative(&found, &embed(&model, &files())) < 1e-5);

    let both = ImageOptions {
        augmentation: Some(Augmentation::standard()),
        ..options
    };
    let directory = fixtures().join("efficientnet");
    let error = ImageEmbedder::open(directory, &both, &flex()).unwrap_err();
    assert!(error.to_string().contains("augmentation"), "{error}");
}

#[test]
fn augmented_images_depend_on_the_seed_and_plain_ones_do_not() {
    let plain = open(&ImageOptions::default());
    let encoded = plain.preprocess_training(&files(), &flex()).unwrap();
    assert!(matches!(encoded[0], EncodedImage::Pixels(_)));
    let expected = training_values(&plain, &encoded, 1);
    assert_eq!(expected, training_values(&plain, &encoded, 2));

    let augmented = open(&ImageOptions {
        augmentation: Some(Augmentation::standard()),
        ..ImageOptions::default()
    });
    let encoded = augmented.preprocess_training(&files(), &flex()).unwrap();
    assert!(matches!(encoded[0], EncodedImage::File(_)));
    let first = training_values(&augmented, &encoded, 1);
    assert_eq!(first, training_values(&augmented, &encoded, 1));
    assert_ne!(first, training_values(&augmented, &encoded, 2));
    assert_ne!(first, expected);
    // A file is found bad before training, not in its midst.
    let missing = [PathBuf::from("missing.png")];
    let error = augmented
        .preprocess_training(&missing, &flex())
        .unwrap_err();
    assert!(error.to_string().contains("missing.png"), "{error}");
}

#[test]
fn images_that_cannot_be_read_are_left_out_by_place() {
    let model = open(&ImageOptions::default());
    // More than are decoded at a time.
    let mut items: Vec<PathBuf> = files().into_iter().cycle().take(70).collect();
    let whole = embed(&model, &items);
    let bad = [0, 66];
    for place in bad {
        items[place] = "missing.png".into();
    }
    let limits = BatchLimits::default();
    let post = PostProcess::default();
    let mut told = 0;
    let (found, rejected) =
        encode_each(&model, &items, &flex(), limits, post, |done| told = done).unwrap();
    let places: Vec<usize> = rejected.iter().map(|item| item.index).collect();
    assert_eq!(places, bad);
    assert!(rejected[1].error.to_string().contains("missing.png"));
    assert_eq!(told, items.len() - bad.len());
    let kept = whole.chunks_exact(found.dim).enumerate();
    let kept = kept.filter(|(place, _)| !bad.contains(place));
    let expected: Vec<f32> = kept.flat_map(|(_, row)| row).copied().collect();
    assert!(relative(&found.values, &expected) < 1e-5);

    let error = encode(&model, &items, &flex(), limits, post, |_| {}).unwrap_err();
    assert!(error.to_string().contains("missing.png"), "{error}");
}

#[test]
fn presets_are_torchvisions() {
    let expected = read_json(fixtures().join("files.reference.json"));
    let rows = expected["presets"].as_array().unwrap();
    assert_eq!(rows.len(), 17);
    for row in rows {
        let text = |field: &str| row[field].as_str().unwrap();
        let preset = Preset::find(text("architecture"), Some(text("weights"))).unwrap();
        let found = json!({
            "architecture": preset.architecture,
            "weights": preset.weights,
            "resize": [preset.resize],
            "crop": [preset.crop],
            "interpolation": preset.interpolation,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        });
        assert_eq!(&found, row);
        assert_eq!(preset.transform().mean, [0.485, 0.456, 0.406]);
    }
}

/// A copy of the directory with a changed `fin.json` must be refused with a message that says
/// all of `words`.
fn refused(change: impl FnOnce(&mut Value), words: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let source = fixtures().join("efficientnet");
    for name in ["model.safetensors", "projection.safetensors"] {
        std::fs::copy(source.join(name), directory.path().join(name)).unwrap();
    }
    let mut config = read_json(source.join(CONFIG_FILE));
    change(&mut config);
    std::fs::write(directory.path().join(CONFIG_FILE), config.to_string()).unwrap();
    let error = ImageEmbedder::open(directory.path(), &ImageOptions::default(), &flex())
        .expect_err("a bad description was accepted")
        .to_string();
    for word in words {
        assert!(error.contains(word), "{error} (expected {word})");
    }
}

#[test]
fn bad_descriptions_are_refused_by_field() {
    refused(
        |c| c["architecture"] = json!("resnet51"),
        &["fin.json", "`architecture`", "resnet50"],
    );
    refused(
        |c| c["architecture"] = json!("efficientnet_b0"),
        &["model.safetensors", "has shape"],
    );
    refused(
        |c| c["architecture"] = json!("resnet18"),
        &[
            "model.safetensors",
            "no `conv1.weight`",
            "classifier.1.bias",
        ],
    );
    refused(
        |c| c["architecture"]["efficientnet"]["stages"] = json!([]),
        &["`architecture`", "`stages`"],
    );
    refused(|c| c["family"] = json!("clip"), &["fin.json", "clip"]);
    refused(|c| c["poling"] = json!("mean"), &["fin.json", "poling"]);
    refused(|c| c["pooling"] = json!("cls"), &["fin.json", "cls"]);
    refused(
        |c| c["preprocessing"]["std"] = json!([0.5, 0.0, 0.5]),
        &["`preprocessing.std`"],
    );
    refused(
        |c| c["preprocessing"]["crop"] = Value::Null,
        &["`preprocessing.crop`", "batch"],
    );
    refused(|c| c["projection"] = json!(0), &["`projection`"]);
    refused(
        |c| c["projection"] = json!(11),
        &["projection.safetensors", "has shape [10, 96]"],
    );
}

#[test]
fn weights_of_efficientnet_pytorch_need_tensorflows_numbers() {
    let checkpoint = Checkpoint::open(fixtures().join("efficientnet-lite.pth")).unwrap();
    let config = Architecture::Named("efficientnet_b0".into())
        .config()
        .unwrap();
    let error = Dialect::detect(&checkpoint, &config)
        .unwrap_err()
        .to_string();
    assert!(error.contains("tf_efficientnet_b0"), "{error}");
}

#[test]
fn files_that_are_no_images_are_named() {
    let model = open(&ImageOptions::default());
    let mut items = files();
    items.insert(1, fixtures().join("bad/truncated.jpg"));
    items.insert(3, fixtures().join("bad/empty.jpg"));
    let error = model.preprocess(&items).unwrap_err();
    assert!(matches!(error, Error::InvalidFile { .. }), "{error}");
    assert!(error.to_string().contains("truncated.jpg"), "{error}");

    let small = ImageOptions {
        max_pixels: Some(1000),
        ..ImageOptions::default()
    };
    let error = open(&small).preprocess(&files()).unwrap_err().to_string();
    assert!(
        error.contains("rgb.png") && error.contains("1000"),
        "{error}"
    );
}
