//! Model directories that ask for more than they hold, or for files elsewhere.

#[path = "../../fin-core/tests/hostile/counting.rs"]
mod counting;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use fin_transformer::{
    BackboneConfig, CrossEncoder, CrossEncoderOptions, Layout, TextEmbedder, TextOptions,
    TextTokenizer,
};
use serde_json::{Value, json};

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
        let mut config: Value = serde_json::from_str(&config).unwrap();
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

/// A copy of a cross-encoder's directory.
fn cross_encoder(name: &str) -> tempfile::TempDir {
    let from = fixture().join("../../cross-encoders").join(name);
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

/// What is said of a directory that cannot be opened as a cross-encoder.
fn cross_refusal(directory: &Path, max_length: Option<usize>) -> String {
    let size = std::fs::read_dir(directory).unwrap();
    let size = size.map(|entry| entry.unwrap().metadata().unwrap().len());
    let size: u64 = size.sum();
    let options = CrossEncoderOptions {
        max_length,
        check: true,
        ..CrossEncoderOptions::default()
    };
    let device = Device::flex();
    let outcome = counting::within_limits(size as usize, || {
        CrossEncoder::open(directory, &options, &device)
    });
    outcome.map(|_| ()).unwrap_err().to_string()
}

#[test]
fn cross_encoders_that_are_none_are_refused_by_field() {
    for (name, field, value, parts) in [
        (
            "bert",
            "id2label",
            json!({"0": "no", "1": "yes", "2": "perhaps"}),
            &["`id2label`", "3 labels", "1 label"][..],
        ),
        ("bert", "id2label", json!({}), &["`id2label`", "0 labels"]),
        (
            "xlm-roberta",
            "id2label",
            Value::Null,
            &["`num_labels`", "stands for 2 labels"],
        ),
        (
            "distilbert",
            "architectures",
            json!(["DistilBertModel"]),
            &[
                "`architectures`",
                "DistilBertModel",
                "DistilBertForSequence",
            ],
        ),
        (
            "bert",
            "architectures",
            Value::Null,
            &["`architectures`", "missing"],
        ),
        (
            "bert",
            "model_type",
            json!("deberta-v2"),
            &["`model_type`", "deberta-v2", "distilbert"],
        ),
        (
            "bert",
            "sentence_transformers",
            json!({"activation_fn": "torch.nn.modules.activation.GELU"}),
            &["`sentence_transformers.activation_fn`", "GELU", "Sigmoid"],
        ),
        (
            "bert",
            "num_hidden_layers",
            json!(1_u64 << 40),
            &["`num_hidden_layers`", "not a usable size"],
        ),
        ("bert", "id2label", json!(7), &["config.json"]),
    ] {
        let directory = cross_encoder(name);
        let path = directory.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config[field] = value;
        std::fs::write(&path, config.to_string()).unwrap();
        let error = cross_refusal(directory.path(), None);
        assert!(error.starts_with(path.to_str().unwrap()), "{error}");
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    // Architecture and labels are right, the weights are of an encoder alone.
    let directory = cross_encoder("bert");
    let weights = fixture().join("model.safetensors");
    std::fs::copy(weights, directory.path().join("model.safetensors")).unwrap();
    let error = cross_refusal(directory.path(), None);
    assert!(error.contains("tensor(s) missing: `bert."), "{error}");
    for (max_length, part) in [(65, "at most 64"), (3, "no room beside the 3 special")] {
        let error = cross_refusal(cross_encoder("bert").path(), Some(max_length));
        assert!(error.contains(part), "{error}");
    }
    let error = cross_refusal(tempfile::tempdir().unwrap().path(), None);
    assert!(error.contains("config.json"), "{error}");
}

#[test]
fn files_of_sentence_transformers_around_a_cross_encoder_are_checked() {
    let entry = |kind: &str, path: &str| json!({"type": kind, "path": path});
    let transformer = "sentence_transformers.base.modules.transformer.Transformer";
    for (file, content, parts) in [
        ("modules.json", json!([]), &["`[0]`", "no Transformer"][..]),
        (
            "modules.json",
            json!([entry(transformer, "../elsewhere")]),
            &["`[0].path`", "leads outside"],
        ),
        (
            "modules.json",
            json!([
                entry(transformer, ""),
                entry("x.LogitScore", "1_LogitScore")
            ]),
            &["`[1].type`", "LogitScore", "one Transformer"],
        ),
        (
            "modules.json",
            json!([entry("x.Pooling", "")]),
            &["`[0].type`", "Pooling"],
        ),
        (
            "config_sentence_transformers.json",
            json!({"model_type": "CrossEncoder", "default_prompt_name": "query"}),
            &["`default_prompt_name`", "no prompt `query`"],
        ),
        (
            "config_sentence_transformers.json",
            json!({"model_type": "CrossEncoder", "activation_fn": "torch.os.system"}),
            &["`activation_fn`", "torch.os.system", "Identity"],
        ),
        (
            "sentence_bert_config.json",
            json!({"max_seq_length": -1}),
            &["sentence_bert_config.json"],
        ),
    ] {
        let directory = cross_encoder("distilbert");
        let path = directory.path().join(file);
        std::fs::write(&path, content.to_string()).unwrap();
        let error = cross_refusal(directory.path(), None);
        assert!(error.starts_with(path.to_str().unwrap()), "{error}");
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    for file in [
        "config.json",
        "modules.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
    ] {
        let directory = cross_encoder("distilbert");
        let path = directory.path().join(file);
        std::fs::write(&path, "{\"a\":".repeat(50_000)).unwrap();
        let error = cross_refusal(directory.path(), None);
        assert!(error.starts_with(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn weights_of_a_cross_encoder_are_checked() {
    // The last number of the last tensor is infinite; then half of the file is missing.
    let directory = cross_encoder("bert");
    let path = directory.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let error = cross_refusal(directory.path(), None);
    assert!(error.contains("NaN or infinite"), "{error}");
    std::fs::write(&path, &bytes[..end / 2]).unwrap();
    let error = cross_refusal(directory.path(), None);
    assert!(error.starts_with(path.to_str().unwrap()), "{error}");
}

#[test]
fn token_types_have_rows() {
    // A tokenizer of BERT's, whose second texts have type 1, before a network with one type.
    let directory = cross_encoder("xlm-roberta");
    let from = cross_encoder("bert");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(from.path().join(file), directory.path().join(file)).unwrap();
    }
    let device = Device::flex();
    let model = CrossEncoder::open(directory.path(), &CrossEncoderOptions::default(), &device);
    let error = model.unwrap().preprocess(&[("a boat", "a dog")]);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("token type 1 is beyond"), "{error}");
}

#[test]
fn templates_of_pairs_describe_their_tokens() {
    let directory = tempfile::tempdir().unwrap();
    let template = |pair: &str| {
        format!(
            r#"{{"model": {{"type": "WordLevel", "vocab": {{"a": 0}}, "unk_token": "a"}},
                "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
                "post_processor": {{"type": "TemplateProcessing",
                    "single": [{{"Sequence": {{"id": "A", "type_id": 0}}}}],
                    "pair": [{{"Sequence": {{"id": "A", "type_id": 0}}}}, {pair}],
                    "special_tokens": {{"a": {{"id": "a", "ids": [0], "tokens": ["a"]}}}}}}}}"#
        )
    };
    let open = |pair: &str| {
        std::fs::write(directory.path().join("tokenizer.json"), template(pair)).unwrap();
        TextTokenizer::open(directory.path(), 8, 1, None)
    };
    let error = open(r#"{"SpecialToken": {"id": "b", "type_id": 0}}"#).unwrap_err();
    assert!(
        error.to_string().contains("`b` is not described"),
        "{error}"
    );
    let second =
        r#"{"SpecialToken": {"id": "a", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}"#;
    let pairs = open(second).unwrap().into_pairs().unwrap();
    assert_eq!(pairs.encode(&[("a", "a")], "").unwrap()[0].ids, [0, 0, 0]);
}

#[test]
fn long_pairs_are_cut_without_all_that_is_cut_off() {
    // Tens of thousands of parts are cut off of either text, which would make as many combinations
    // as their product.
    let directory = cross_encoder("bert");
    let tokenizer = TextTokenizer::open(directory.path(), 8, usize::MAX, None).unwrap();
    let tokenizer = tokenizer.into_pairs().unwrap();
    let text = "a ".repeat(100_000);
    let found = counting::within_limits(100 * text.len(), || {
        tokenizer.encode(&[(&text, &text)], "").unwrap()
    });
    assert_eq!((found[0].ids.len(), found[0].truncated), (8, true));
}
