//! Directories written here: each dialect into the others, back, and what is in the files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use fin_clip::{ClipEmbedder, ClipOptions, Dialect, is_clip_directory};
use fin_core::weights::Checkpoint;
use fin_core::{BatchLimits, DeviceSpec, Embedder};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/clip")
}

fn open(directory: &Path, device: &Device) -> ClipEmbedder {
    let model = ClipEmbedder::open(directory, &ClipOptions::default(), device)
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(model.report().unused.is_empty(), "{}", model.report());
    model
}

/// Embeddings of texts that both tokenizers take apart alike, and of images that both crop alike.
fn embeddings(model: &ClipEmbedder, device: &Device) -> Vec<f32> {
    let texts = ["a photo of a cat", "boats in the rain"].map(String::from);
    let limits = BatchLimits::default();
    let texts = model.encode_text(&texts, device, limits).unwrap();
    let images = [0, 3].map(|i| fixtures().join(format!("images/{i}.png")));
    let images = model.encode_image(&images, device, limits).unwrap();
    [texts.values, images.values].concat()
}

fn keys(path: &Path) -> BTreeSet<String> {
    let checkpoint = Checkpoint::open(path).unwrap();
    checkpoint.iter().map(|(key, _)| key.to_string()).collect()
}

#[test]
fn every_dialect_into_the_others_and_back() {
    let device = DeviceSpec::Flex.open().unwrap();
    for (name, own) in [
        ("transformers", Dialect::Transformers),
        ("transformers-gelu", Dialect::Transformers),
        ("open_clip", Dialect::OpenClip),
    ] {
        let model = open(&fixtures().join(name), &device);
        assert_eq!(model.dialect(), own);
        let expected = embeddings(&model, &device);
        let directory = tempfile::tempdir().unwrap();
        for dialect in Dialect::ALL {
            let path = directory.path().join(dialect.name());
            match model.save_as(dialect, &path) {
                Ok(()) => {}
                Err(error) => {
                    // Its images are resized to more than what is cut out.
                    assert_eq!((name, dialect), ("transformers-gelu", Dialect::OpenClip));
                    assert!(error.to_string().contains("resizing"), "{error}");
                    continue;
                }
            }
            assert!(is_clip_directory(&path).unwrap());
            let other = open(&path, &device);
            assert_eq!(other.dialect(), dialect);
            assert_eq!(
                embeddings(&other, &device),
                expected,
                "{name} as {dialect:?}"
            );
            assert_eq!(other.logit_scale(), 2.5);

            let back = directory.path().join("back");
            other.save_as(own, &back).unwrap();
            let back = open(&back, &device);
            assert_eq!(
                embeddings(&back, &device),
                expected,
                "{name} as {dialect:?}"
            );
            assert_eq!(back.config().vision, model.config().vision);
            assert_eq!(back.config().text, model.config().text);
        }
    }
}

#[test]
fn an_xlm_roberta_tower_has_words_in_open_clip_alone() {
    let device = DeviceSpec::Flex.open().unwrap();
    let source = fixtures().join("open_clip-xlm-roberta");
    let model = open(&source, &device);
    assert!(model.is_multilingual());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("saved");
    model.save(&path).unwrap();
    assert_eq!(
        embeddings(&open(&path, &device), &device),
        embeddings(&model, &device)
    );
    assert_eq!(
        keys(&path.join("open_clip_model.safetensors")),
        keys(&source.join("open_clip_pytorch_model.bin"))
    );
    for dialect in [Dialect::Transformers, Dialect::SentenceTransformers] {
        let error = model.save_as(dialect, &directory.path().join("other"));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("XLM-RoBERTa"), "{error}");
        assert!(!directory.path().join("other").exists());
    }
}

#[test]
fn keys_shapes_and_bits_are_upstreams() {
    let device = DeviceSpec::Flex.open().unwrap();
    for (name, file, saved) in [
        ("transformers", "model.safetensors", "model.safetensors"),
        (
            "open_clip",
            "open_clip_model.safetensors",
            "open_clip_model.safetensors",
        ),
    ] {
        let source = fixtures().join(name);
        let model = open(&source, &device);
        let directory = tempfile::tempdir().unwrap();
        // By way of the other dialect, and back.
        let (other, path) = (directory.path().join("a"), directory.path().join("b"));
        let dialect = match model.dialect() {
            Dialect::OpenClip => Dialect::Transformers,
            _ => Dialect::OpenClip,
        };
        model.save_as(dialect, &other).unwrap();
        open(&other, &device)
            .save_as(model.dialect(), &path)
            .unwrap();
        let before = Checkpoint::open(source.join(file)).unwrap();
        let after = Checkpoint::open(path.join(saved)).unwrap();
        let mut compared = 0;
        for (key, entry) in before.iter() {
            if key.ends_with("position_ids") {
                assert!(after.get(key).is_none());
                continue;
            }
            let found = after.get(key).unwrap_or_else(|| panic!("{key} is missing"));
            assert_eq!(found.shape(), entry.shape(), "{key}");
            assert!(after.read_f32(key).unwrap() == before.read_f32(key).unwrap());
            compared += 1;
        }
        assert_eq!(compared, after.len(), "{name}");
    }
}

#[test]
fn a_manifest_keeps_what_upstream_has_no_place_for() {
    let device = DeviceSpec::Flex.open().unwrap();
    let options = ClipOptions {
        normalize: Some(true),
        ..ClipOptions::default()
    };
    let model = ClipEmbedder::open(fixtures().join("open_clip"), &options, &device).unwrap();
    let mut model = model.with_origin("somewhere/else", "MIT");
    model.set_logit_scale(1.25).unwrap();
    let directory = tempfile::tempdir().unwrap();
    for dialect in Dialect::ALL {
        let path = directory.path().join(dialect.name());
        model.save_as(dialect, &path).unwrap();
        let saved = open(&path, &device);
        assert!(saved.config().normalize);
        assert_eq!(saved.config().source.as_deref(), Some("somewhere/else"));
        assert_eq!(saved.config().licence.as_deref(), Some("MIT"));
        assert_eq!(saved.logit_scale(), 1.25);
        // Without it, sentence-transformers' own file still says that rows are scaled.
        std::fs::remove_file(path.join("fin.json")).unwrap();
        let plain = open(&path, &device).config().normalize;
        assert_eq!(plain, dialect == Dialect::SentenceTransformers);
    }
}

#[test]
fn a_directory_of_both_dialects() {
    let device = DeviceSpec::Flex.open().unwrap();
    let model = open(&fixtures().join("transformers"), &device);
    let directory = tempfile::tempdir().unwrap();
    let both = directory.path().join("both");
    model.save_as(Dialect::OpenClip, &both).unwrap();
    std::fs::remove_file(both.join("fin.json")).unwrap();
    for file in ["config.json", "preprocessor_config.json"] {
        std::fs::copy(fixtures().join("transformers").join(file), both.join(file)).unwrap();
    }
    // The configurations of both, the weights of one.
    assert_eq!(open(&both, &device).dialect(), Dialect::OpenClip);
    let weights = "model.safetensors";
    std::fs::copy(
        fixtures().join("transformers").join(weights),
        both.join(weights),
    )
    .unwrap();
    assert_eq!(open(&both, &device).dialect(), Dialect::Transformers);
    let options = ClipOptions {
        dialect: Some(Dialect::OpenClip),
        ..ClipOptions::default()
    };
    let chosen = ClipEmbedder::open(&both, &options, &device).unwrap();
    assert_eq!(chosen.dialect(), Dialect::OpenClip);

    for other in ["text/bert-tiny", "images"] {
        let path = fixtures().join("..").join(other);
        assert!(!is_clip_directory(&path).unwrap(), "{other}");
    }
}
