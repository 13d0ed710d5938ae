//! Tokenizers: `tokenizer.json` and the vocabularies that stand in for one, with the
//! configurations around them.
//!
//! The first byte says which architecture the model has and which file the vocabulary is in; the
//! rest is split at 0xFF into the files of [`FILES`] and, last, the vocabulary, which may hold
//! that byte.

#![no_main]

use fin_fuzz::{check_error, parts, put, scratch, within_limits};
use fin_transformer::TextTokenizer;
use libfuzzer_sys::fuzz_target;

const FILES: [&str; 3] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

const VOCABULARIES: [&str; 4] = [
    "tokenizer.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
];

const ARCHITECTURES: [&str; 4] = ["bert", "t5", "xlm-roberta", "distilbert"];

/// Of every script, with what normalisers change, and nothing.
const TEXTS: [&str; 5] = [
    "",
    "A boat waits at the pier, isn't it?  <unk>[MASK]</s>",
    "Ça coûte 5 € — ﬁn\u{0} e\u{301}\u{301}\t\u{200d}",
    "東京の天気は? 한국어 ภาษาไทย עִבְרִית 👩‍👩‍👧",
    "▁▁ <extra_id_0>\u{feff}\u{fffd}\u{10ffff}",
];

fuzz_target!(|data: &[u8]| {
    let [kind, rest @ ..] = data else { return };
    let directory = scratch();
    let contents = parts::<4>(rest);
    let vocabulary = VOCABULARIES[usize::from(kind % 4)];
    let names = FILES.iter().chain(&VOCABULARIES);
    for name in names {
        let content = match FILES.iter().position(|file| file == name) {
            Some(i) => contents[i],
            None => contents[3].filter(|_| *name == vocabulary),
        };
        match content.unwrap_or_default() {
            [] => {
                let _ = std::fs::remove_file(directory.join(name));
            }
            content => put(&directory.join(name), content),
        }
    }
    let architecture = ARCHITECTURES[usize::from(kind / 4 % 4)];
    let config = format!("{{\"model_type\": \"{architecture}\"}}");
    put(&directory.join("config.json"), config.as_bytes());
    within_limits(data.len(), || {
        let tokenizer = match TextTokenizer::open(&directory, 32, 1 << 16, None) {
            Ok(tokenizer) => tokenizer,
            Err(error) => return check_error(&error),
        };
        for text in TEXTS {
            match tokenizer.encode(&[text.to_string()], "") {
                Ok(ids) => assert!(ids[0].ids.len() <= 32),
                Err(error) => check_error(&error),
            }
        }
    });
});
