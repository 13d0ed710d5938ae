//! Emoji with words for them in several languages, and a small CLIP whose text tower reads them all.
//!
//! The graphics are Twemoji's (CC-BY 4.0), in npm's package `emoji-datasource-twitter`, names and
//! keywords the Unicode CLDR's (Unicode licence), in `cldr-annotations-full`.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde_json::{Value, json};

use super::Request;
use super::material::{Material, clip};
use crate::demo::clip::{
    HELD_OUT, SIDE, WORDS, make, on_white, pictures, plain, read, tidy, write_rows,
};
use crate::make_tiny::random::Random;
use crate::{Outcome, cache, root};

/// Packages with what is taken from them.
const PACKAGES: [(&str, &str, &[&str]); 2] = [
    (
        "emoji-datasource-twitter",
        "16.0.0",
        &["package/emoji.json", "package/img/twitter/64"],
    ),
    (
        "cldr-annotations-full",
        "48.2.0",
        &[
            "package/annotations/de",
            "package/annotations/en",
            "package/annotations/es",
            "package/annotations/fr",
            "package/annotations/ru",
        ],
    ),
];

const LANGUAGES: [&str; 5] = ["de", "en", "es", "fr", "ru"];

/// Tokens of a text, and the size of the vocabulary of fixtures/tokenizers/unigram-xlm-roberta.
const LENGTH: usize = 48;
const VOCABULARY: usize = 4002;

pub fn material(request: &Request) -> Result<Material, String> {
    let data = match &request.data {
        Some(data) => data.clone(),
        None => cache()?.join("emoji-multilingual"),
    };
    let held_out = LANGUAGES.map(|language| data.join(format!("{language}.csv")));
    if !held_out.iter().all(|path| path.is_file()) {
        make(&data, &PACKAGES, |source, target| {
            rows(source, target)?;
            configuration(&target.join("configuration"))
        })?;
    }
    clip(request, &data, held_out.to_vec())
}

/// Words for every emoji in a language: its name, and then keywords; none twice.
fn words(source: &Path, language: &str) -> Result<HashMap<String, Vec<String>>, String> {
    let path = source.join(format!("package/annotations/{language}/annotations.json"));
    let found = read(&path)?;
    let found = found["annotations"]["annotations"]
        .as_object()
        .ok_or_else(|| format!("{}: no annotations", path.display()))?;
    let of = |entry: &Value| {
        let mut kept = Vec::new();
        for list in ["tts", "default"] {
            let list = entry[list].as_array().into_iter().flatten();
            for word in list.filter_map(Value::as_str).map(tidy) {
                if !word.is_empty() && !kept.contains(&word) {
                    kept.push(word);
                }
            }
        }
        kept
    };
    Ok(found
        .iter()
        .map(|(emoji, entry)| (plain(emoji), of(entry)))
        .filter(|(_, words)| !words.is_empty())
        .collect())
}

/// Writes `images/`, `train.csv` and a file a language of other emoji. In training every emoji has two
/// captions a language, its name and some of its words; those held out have one with all words.
fn rows(source: &Path, target: &Path) -> Outcome {
    let images = target.join("images");
    std::fs::create_dir_all(&images).map_err(|e| format!("{}: {e}", images.display()))?;
    let mut tables = Vec::new();
    for language in LANGUAGES {
        tables.push(words(source, language)?);
    }
    let mut emoji: Vec<(String, Vec<&Vec<String>>)> = Vec::new();
    for (characters, image) in pictures(source)? {
        let characters = plain(&characters);
        let found: Option<Vec<_>> = tables.iter().map(|table| table.get(&characters)).collect();
        if let Some(found) = found {
            emoji.push((image, found));
        }
    }
    if emoji.len() < 2 * HELD_OUT {
        return Err(format!("only {} emoji were found", emoji.len()));
    }
    let mut random = Random::new(7);
    random.shuffle(&mut emoji);
    for (image, _) in &emoji {
        let from = source.join("package/img/twitter/64").join(image);
        on_white(&from, &images.join(image))?;
    }
    let (held_out, train) = emoji.split_at(HELD_OUT);
    for (number, language) in LANGUAGES.iter().enumerate() {
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        for (image, words) in held_out {
            let caption = words[number].join(", ");
            // Two with the same words could not be told apart.
            if seen.insert(caption.clone()) {
                found.push((caption, image.as_str()));
            }
        }
        write_rows(&target.join(format!("{language}.csv")), &found)?;
    }
    let mut found = Vec::new();
    for (image, words) in train {
        for words in words {
            let mut some = (*words).clone();
            random.shuffle(&mut some);
            some.truncate(2 + random.below(WORDS - 1));
            let some = some.join(", ");
            found.push((words[0].clone(), image.as_str()));
            if some != words[0] {
                found.push((some, image.as_str()));
            }
        }
    }
    println!("{} emoji, {} rows to train on", emoji.len(), found.len());
    write_rows(&target.join("train.csv"), &found)
}

/// A model directory in the form of open_clip, without weights.
fn configuration(target: &Path) -> Outcome {
    std::fs::create_dir_all(target).map_err(|e| format!("{}: {e}", target.display()))?;
    let tokenizer = root().join("fixtures/tokenizers/unigram-xlm-roberta");
    for name in [
        "sentencepiece.bpe.model",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        let path = target.join(name);
        std::fs::copy(tokenizer.join(name), &path)
            .map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let files = [
        (
            "open_clip_config.json",
            json!({
                "model_cfg": {
                    "embed_dim": 128,
                    "quick_gelu": true,
                    "vision_cfg": {
                        "image_size": SIDE,
                        "layers": 3,
                        "width": 128,
                        "head_width": 32,
                        "patch_size": 16,
                        "mlp_ratio": 4.0,
                    },
                    "text_cfg": {
                        "context_length": LENGTH,
                        "hf_model_name": "xlm-roberta-emoji",
                        "hf_tokenizer_name": "xlm-roberta-emoji",
                        "hf_proj_type": "mlp",
                        "hf_pooler_type": "mean_pooler",
                    },
                },
                "preprocess_cfg": {
                    "mean": [0.48145466, 0.4578275, 0.40821073],
                    "std": [0.26862954, 0.26130258, 0.27577711],
                    "interpolation": "bicubic",
                    "resize_mode": "shortest",
                },
            }),
        ),
        (
            "config.json",
            json!({
                "architectures": ["XLMRobertaModel"],
                "model_type": "xlm-roberta",
                "vocab_size": VOCABULARY,
                "hidden_size": 128,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "intermediate_size": 512,
                "hidden_act": "gelu",
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
                // Positions begin after that of the padding token.
                "max_position_embeddings": LENGTH + 2,
                "type_vocab_size": 1,
                "layer_norm_eps": 1e-5,
                "pad_token_id": 1,
                "bos_token_id": 0,
                "eos_token_id": 2,
            }),
        ),
    ];
    for (name, content) in files {
        let path = target.join(name);
        std::fs::write(&path, format!("{content:#}\n"))
            .map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}
