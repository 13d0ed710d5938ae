//! The model that is part of the program.
#![cfg(feature = "tiny")]

use std::path::Path;

use fin_core::Embeddings;
use fin_core::weights::Checkpoint;
use fin_registry::{Catalogue, Locations, Model, ModelOptions, Registry};

const TEXTS: [&str; 4] = [
    "A dog is running on the grass.",
    "A puppy runs across a lawn.",
    "Shares of the bank fell on Monday.",
    "Stock prices of the lender dropped this week.",
];

fn open(name: &str, cache: &Path) -> Model {
    let registry = Registry {
        catalogue: Catalogue::embedded().clone(),
        // No hub: nothing can be downloaded.
        locations: Locations {
            by_name: vec![cache.to_path_buf()],
            ..Locations::default()
        },
    };
    registry
        .build_model(name, &ModelOptions::default())
        .unwrap()
}

fn encode(model: &Model) -> Embeddings {
    model.encode_text(&TEXTS.map(str::to_owned)).unwrap()
}

#[test]
fn the_embedded_model_opens_without_files_and_tells_topics_apart() {
    let cache = tempfile::tempdir().unwrap();
    let model = open("fin-tiny-en", cache.path());
    assert_eq!(model.contradictions, []);
    let embeddings = encode(&model);
    assert_eq!(embeddings.dim, 128);
    let rows: Vec<&[f32]> = embeddings.values.chunks(128).collect();
    let cosine =
        |i: usize, j: usize| -> f32 { rows[i].iter().zip(rows[j]).map(|(a, b)| a * b).sum() };
    assert!((cosine(0, 0) - 1.0).abs() < 1e-5);
    let near = cosine(0, 1).min(cosine(2, 3));
    let far = cosine(0, 2)
        .max(cosine(1, 3))
        .max(cosine(0, 3))
        .max(cosine(1, 2));
    assert!(near > far + 0.2, "{near} against {far}");
}

/// Weights in half precision are read as they are and computed with in single precision.
#[test]
fn half_precision_weights_give_the_bits_of_the_same_values_in_single() {
    let cache = tempfile::tempdir().unwrap();
    let half = encode(&open("fin-tiny-en", cache.path()));
    let source = cache.path().join("embedded/fin-tiny-en");
    let target = cache.path().join("single");
    std::fs::create_dir_all(target.join("1_Pooling")).unwrap();
    for name in [
        "config.json",
        "modules.json",
        "tokenizer_config.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
        "vocab.txt",
    ] {
        std::fs::copy(source.join(name), target.join(name)).unwrap();
    }
    let weights = Checkpoint::open(source.join("model.safetensors")).unwrap();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = weights
        .iter()
        .map(|(name, entry)| {
            assert_eq!(entry.dtype().size(), 2, "{name}");
            let shape = entry.shape().to_vec();
            let values = weights.read_f32(name).unwrap();
            let bytes = values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            (name.to_owned(), shape, bytes)
        })
        .collect();
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape, bytes) in &tensors {
        let start = end;
        end += bytes.len();
        let entry =
            serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    tensors.iter().for_each(|(_, _, bytes)| file.extend(bytes));
    std::fs::write(target.join("model.safetensors"), file).unwrap();

    let single = encode(&open(target.to_str().unwrap(), cache.path()));
    assert_eq!(single.values, half.values);
}
