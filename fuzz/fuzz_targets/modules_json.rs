//! The small files of a model directory: `modules.json`, what its modules configure, and the
//! transformer's own `config.json`.
//!
//! The input is split at 0xFF into the files of [`FILES`]; an empty part is a file that is not
//! there.

#![no_main]

use fin_fuzz::{check_error, parts, put, scratch, within_limits};
use fin_transformer::{BackboneConfig, Layout};
use libfuzzer_sys::fuzz_target;

const FILES: [&str; 7] = [
    "modules.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "sentence_bert_config.json",
    "tokenizer_config.json",
    "config_sentence_transformers.json",
    "config.json",
];

fuzz_target!(|data: &[u8]| {
    let directory = scratch();
    let contents = parts::<7>(data);
    for (name, content) in FILES.iter().zip(contents) {
        let path = directory.join(name);
        match content.unwrap_or_default() {
            [] => {
                let _ = std::fs::remove_file(&path);
            }
            content => {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                put(&path, content);
            }
        }
    }
    within_limits(data.len(), || {
        let layout = match Layout::read(&directory) {
            Ok(layout) => layout,
            Err(error) => return check_error(&error),
        };
        assert!(!layout.pooling.is_empty());
        for place in layout
            .dense
            .iter()
            .map(|head| &head.directory)
            .chain([&layout.transformer])
        {
            assert!(place.starts_with(&directory), "{}", place.display());
        }
        match BackboneConfig::read(&layout.transformer.join("config.json")) {
            Ok(config) => {
                assert!(config.hidden_size() > 0 && config.vocab_size() > 0);
                assert!(config.max_tokens() != Some(0));
                assert!(!config.model_type().is_empty());
                let _ = (config.pad_token_id(), config.pretrained_tokens());
            }
            Err(error) => check_error(&error),
        }
    });
});
