//! Model directories that ask for more than they hold, or for files elsewhere.

#[path = "../../fin-core/tests/hostile/counting.rs"]
mod counting;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use fin_transformer::{BackboneConfig, Layout, TextEmbedder, TextOptions, TextTokenizer};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/text/bert-tiny")
}

/// A copy of the fixture, with one file's content replaced.
fn with(file: &str, content: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for from in ["", "1_Pooling", "2_Normalize"] {
        let target = copy.path().join(from);
        std::fs::create_dir_all(&target).unwrap();
        for entry in std::fs::read_dir(fixture().join(from)).unwrap() {
            let entry = entry.unwrap();
            if entry.path().is_file() {
                std::fs::copy(entry.path(), target.join(entry.file_name())).unwrap();
            }
        }
    }
    std::fs::write(copy.path().join(file), content).unwrap();
    copy
}

/// What is said of the fixture with this file in place of its own.
fn refusal(file: &str, content: &str) -> String {
    let directory = with(file, content);
    let outcome = counting::within_limits(content.len(), || {
        let layout = Layout::read(directory.path())?;
        BackboneConfig::read(&layout.transformer.join("config.json"))
    });
    match outcome {
        Ok(config) => panic!("{file} was read: {config:?}"),
        Err(error) => {
            let error = error.to_string();
            let path = directory.path().join(file);
            assert!(error.starts_with(path.to_str().unwrap()), "{error}");
            error
        }
    }
}

fn replaced(file: &str, from: &str, to: &str) -> String {
    let content = std::fs::read_to_string(fixture().join(file)).unwrap();
    assert!(content.contains(from), "{content}");
    refusal(file, &content.replacen(from, to, 1))
}

#[test]
fn modules_are_inside_of_their_directory() {
    for path in [
        "..",
        "../1_Pooling",
        "/",
        "/etc",
        "a/../..",
        ".",
        "./1_Pooling",
    ] {
        let error = replaced("modules.json", "1_Pooling", path);
        assert!(
            error.contains("leads outside of the model directory"),
            "{error}"
        );
    }
    // No file has this name.
    let directory = with(
        "modules.json",
        r#"[{"type": "Transformer"}, {"type": "Pooling", "path": "a\u0000b"}]"#,
    );
    assert!(Layout::read(directory.path()).is_err());
}

#[cfg(unix)]
#[test]
fn modules_may_be_links() {
    // Caches keep the files of a model as links to where they are.
    let elsewhere = tempfile::tempdir().unwrap();
    let directory = with(
        "modules.json",
        &std::fs::read_to_string(fixture().join("modules.json")).unwrap(),
    );
    let pooling = directory.path().join("1_Pooling");
    std::fs::rename(&pooling, elsewhere.path().join("blob")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("blob"), &pooling).unwrap();
    Layout::read(directory.path()).unwrap();
}

#[test]
fn numbers_that_would_be_allocated_are_bounded() {
    for (field, size) in [
        ("num_hidden_layers", 16_777_216),
        ("vocab_size", u64::MAX),
        ("hidden_size", 0),
        ("intermediate_size", 99_999_999_999),
    ] {
        let config = std::fs::read_to_string(fixture().join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
        config[field] = size.into();
        let error = refusal("config.json", &config.to_string());
        assert!(
            error.contains(field) && error.contains("not a usable size"),
            "{error}"
        );
    }
    let module = r#"{"type": "Dense", "path": "2_Dense"}"#;
    let many = format!("[{}]", vec![module; 1000].join(","));
    let error = refusal("modules.json", &many);
    assert!(error.contains("1000 modules; at most 64"), "{error}");
    let many = format!(
        r#"{{"pooling_mode": [{}]}}"#,
        vec![r#""mean""#; 1000].join(",")
    );
    let error = refusal("1_Pooling/config.json", &many);
    assert!(error.contains("1000 poolings; at most 16"), "{error}");
}

#[test]
fn json_is_held_to_a_depth_and_a_number_of_values() {
    for file in [
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "config.json",
    ] {
        let open = if file == "modules.json" {
            "["
        } else {
            "{\"a\":"
        };
        refusal(file, &open.repeat(50_000));
        let many: Vec<String> = (0..1_000_000).map(|i| format!("\"{i:x}\":0")).collect();
        let error = refusal(file, &format!("{{{}}}", many.join(",")));
        assert!(error.contains("too many values"), "{error}");
        // A number that no field holds, and text that is none.
        refusal(file, "1e999");
        refusal(file, "\u{feff}{}");
    }
}

#[test]
fn weights_of_a_hostile_shape_are_refused_before_they_are_allocated() {
    let header = r#"{"embeddings.word_embeddings.weight":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[0,0]}}"#;
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    let directory = with("LICENSE", "");
    std::fs::write(directory.path().join("model.safetensors"), file).unwrap();
    let device = Device::flex();
    let error = TextEmbedder::open(directory.path(), &TextOptions::default(), &device);
    assert!(error.unwrap_err().to_string().contains("embeddings"));
}

#[test]
fn replacements_do_not_outgrow_memory() {
    let open = |replacement: &str, times: usize| {
        let steps = vec![replacement; times].join(",");
        let directory = tempfile::tempdir().unwrap();
        let json = format!(
            r#"{{"model": {{"type": "WordLevel", "vocab": {{"a": 0}}, "unk_token": "a"}},
                "added_tokens": [], "pre_tokenizer": null, "post_processor": null,
                "normalizer": {{"type": "Sequence", "normalizers": [{steps}]}}}}"#
        );
        std::fs::write(directory.path().join("tokenizer.json"), json).unwrap();
        let tokenizer = TextTokenizer::open(directory.path(), 8, 1, None)?;
        tokenizer.encode(&["a".to_string()], "")
    };
    let double = r#"{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}"#;
    let between = r#"{"type": "Replace", "pattern": {"Regex": ""}, "content": "aa"}"#;
    for replacement in [double, between] {
        let error = open(replacement, 60).unwrap_err().to_string();
        assert!(error.contains("bytes of one"), "{error}");
        assert_eq!(open(replacement, 3).unwrap()[0].ids, [0]);
    }
}
