//! What cleaning a text looks up: entities, single-byte encodings, kinds of characters.
//!
//! `tables.json` is written by `fixtures/clip-tokenizer/tables.py`.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use serde::Deserialize;

/// The tables, read when first needed.
pub(super) static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let text = include_str!("tables.json");
    serde_json::from_str(text).expect("tables.json belongs to the program and is whole")
});

/// Content of `tables.json`.
#[derive(Debug, Deserialize)]
pub(super) struct Tables {
    /// Characters of the bytes 0x80 to 0xFF, by encoding.
    pub encodings: HashMap<String, String>,
    /// Ligatures of Latin letters, taken apart.
    pub ligatures: HashMap<char, String>,
    /// Full-width and half-width forms, and what they stand for.
    pub widths: HashMap<char, String>,
    /// Kinds of characters that mojibake is made of, as the inside of a bracket expression.
    pub mojibake: BTreeMap<String, String>,
    /// Characters that bytes of UTF-8 become, in the same form.
    pub utf8: BTreeMap<String, String>,
    /// HTML's entities by name, with the semicolon where there is one.
    pub entities: HashMap<String, String>,
}
