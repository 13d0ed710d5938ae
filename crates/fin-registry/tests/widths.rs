//! Every row's `output_dim` against the width of the model that is built for it.
//!
//! The models have upstream's widths, heads and modules, one narrow layer and a vocabulary of six
//! tokens; the full size is checked by `cargo xtask parity --family text`.
#![cfg(feature = "flex")]

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use fin_core::kernels::Activation;
use fin_core::nn::LinearConfig;
use fin_core::weights::{self, Names};
use fin_registry::{Catalogue, Locations, ModelOptions, Registry, Task};
use fin_transformer::Dense;
use fin_transformer::bert::{Bert, BertConfig};
use fin_transformer::distilbert::{DistilBert, DistilBertConfig};
use fin_transformer::t5::{T5Config, T5Encoder};
use serde_json::{Value, json};

const TOKENS: [&str; 6] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "boat"];

/// What upstream's `config.json` says of the widths of a row, and its modules after the
/// transformer.
fn upstream(name: &str) -> (Value, &'static [&'static str]) {
    let bert = |hidden_size, heads| {
        json!({
            "model_type": "bert", "vocab_size": 6, "hidden_size": hidden_size,
            "num_hidden_layers": 1, "num_attention_heads": heads, "intermediate_size": 4,
            "max_position_embeddings": 512,
        })
    };
    let distilbert = json!({
        "model_type": "distilbert", "vocab_size": 6, "dim": 768, "n_layers": 1, "n_heads": 12,
        "hidden_dim": 4, "max_position_embeddings": 512,
    });
    let t5 = |d_model, heads| {
        json!({
            "model_type": "t5", "vocab_size": 6, "d_model": d_model, "d_kv": 64, "d_ff": 4,
            "num_layers": 1, "num_heads": heads, "n_positions": 512,
        })
    };
    match name {
        "jina-embedding-t-en-v1" => (bert(312, 12), &["Pooling"]),
        "jina-embedding-s-en-v1" => (t5(512, 8), &["Pooling"]),
        "jina-embedding-b-en-v1" => (t5(768, 12), &["Pooling"]),
        "jina-embedding-l-en-v1" => (t5(1024, 16), &["Pooling"]),
        "bert-base-en" | "bert-base-multi" => (bert(768, 12), &[]),
        "distiluse-base-multi" => (distilbert, &["Pooling", "Dense"]),
        "sbert-base-en" => (distilbert, &["Pooling"]),
        "all-minilm-l6-v2" => (bert(384, 12), &["Pooling", "Normalize"]),
        other => panic!("what are the widths of `{other}`?"),
    }
}

fn write(path: &Path, value: &Value) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, value.to_string()).unwrap();
}

/// Writes the directory of a row with new weights.
fn make(directory: &Path, name: &str, max_length: usize, device: &Device) {
    let (config, tail) = upstream(name);
    write(&directory.join("config.json"), &config);
    fs::write(directory.join("vocab.txt"), TOKENS.join("\n")).unwrap();
    let tensors = match config["model_type"].as_str().unwrap() {
        "bert" => {
            let config: BertConfig = serde_json::from_value(config).unwrap();
            weights::state_dict(&config.init(true, device).unwrap(), &Bert::names())
        }
        "distilbert" => {
            let config: DistilBertConfig = serde_json::from_value(config).unwrap();
            weights::state_dict(&config.init(device).unwrap(), &DistilBert::names())
        }
        _ => {
            let config: T5Config = serde_json::from_value(config).unwrap();
            weights::state_dict(&config.init(device).unwrap(), &T5Encoder::names())
        }
    };
    weights::save(directory.join("model.safetensors"), &tensors).unwrap();
    if tail.is_empty() {
        return;
    }
    let mut modules = vec![json!({ "type": "sentence_transformers.models.Transformer" })];
    for (i, kind) in tail.iter().enumerate() {
        let part = format!("{}_{kind}", i + 1);
        let sub = directory.join(&part);
        let class = format!("sentence_transformers.models.{kind}");
        modules.push(json!({ "path": part, "type": class }));
        match *kind {
            "Pooling" => {
                let config = json!({ "pooling_mode_mean_tokens": true });
                write(&sub.join("config.json"), &config);
            }
            "Dense" => {
                let dense = Dense {
                    linear: LinearConfig::new(768, 512).init(device),
                    activation: Activation::Tanh,
                };
                let config = json!({
                    "in_features": 768, "out_features": 512, "bias": true,
                    "activation_function": "torch.nn.modules.activation.Tanh",
                });
                write(&sub.join("config.json"), &config);
                let tensors = weights::state_dict(&dense, &Names::default());
                weights::save(sub.join("model.safetensors"), &tensors).unwrap();
            }
            _ => {}
        }
    }
    write(&directory.join("modules.json"), &Value::from(modules));
    let length = json!({ "max_seq_length": max_length });
    write(&directory.join("sentence_bert_config.json"), &length);
}

#[test]
fn the_built_models_are_as_wide_as_their_rows_say() {
    let scratch = tempfile::tempdir().unwrap();
    let registry = Registry {
        catalogue: Catalogue::embedded().clone(),
        locations: Locations {
            by_name: vec![scratch.path().to_path_buf()],
            ..Locations::default()
        },
    };
    let device = Device::flex();
    let rows = registry.catalogue.list(Some(Task::TextToText));
    assert_eq!(rows.len(), 10);
    for row in rows.into_iter().filter(|row| !row.is_embedded()) {
        let directory = scratch.path().join(&row.name);
        make(&directory, &row.name, row.max_length.unwrap(), &device);
        let options = ModelOptions::default();
        let model = registry.build_model(&row.name, &options).unwrap();
        assert_eq!(model.contradictions, [], "{}", row.name);
        let embeddings = model.encode_text(&["boat".to_string()]).unwrap();
        assert_eq!(embeddings.values.len(), row.output_dim, "{}", row.name);
    }
}
