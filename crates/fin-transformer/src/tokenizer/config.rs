//! What lies beside a vocabulary: `tokenizer_config.json`, and the older `special_tokens_map.json`
//! and `added_tokens.json`.
//!
//! Read as `transformers` 5 reads them (`tokenization_utils_base.py`, `_from_pretrained`;
//! `tokenization_utils_tokenizers.py`, `TokenizersBackend.__init__`), so that the same strings are
//! tokens, with the same ids.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use fin_core::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::Source;
use crate::config::read_json;

pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
const ADDED_TOKENS: &str = "added_tokens.json";

/// Special tokens with a role, in the order in which they are added to a vocabulary.
const ROLES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// `tokenizer_config.json`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct TokenizerConfig {
    pub(super) tokenizer_class: Option<String>,
    pub(super) do_lower_case: Option<bool>,
    pub(super) strip_accents: Option<bool>,
    pub(super) tokenize_chinese_chars: Option<bool>,
    pub(super) add_prefix_space: Option<bool>,
    /// Number of `<extra_id_…>` tokens of T5.
    pub(super) extra_ids: Option<u64>,
    /// Whether special tokens written out in a text are split like other text.
    pub(super) split_special_tokens: Option<bool>,
    /// Which end of a text is cut off: `right` or `left`.
    pub(super) truncation_side: Option<String>,
    /// Some checkpoints have 1e30 here, for "no limit".
    pub(crate) model_max_length: Option<f64>,
    /// Added tokens by id.
    added_tokens_decoder: Option<BTreeMap<u32, TokenObject>>,
    /// Special tokens under names of their own, among what is of no use here.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl TokenizerConfig {
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        read_if_present(directory, TOKENIZER_CONFIG).map(Option::unwrap_or_default)
    }
}

fn read_if_present<T: serde::de::DeserializeOwned>(
    directory: &Path,
    name: &str,
) -> Result<Option<T>> {
    let path = directory.join(name);
    if path.is_file() {
        read_json(&path).map(Some)
    } else {
        Ok(None)
    }
}

/// An added token as JSON has it; what is not said has the defaults of Python's `AddedToken`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct TokenObject {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

impl TokenObject {
    fn token(self, special: bool) -> AddedToken {
        AddedToken::from(self.content, special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized.unwrap_or(!special))
    }

    /// With the flag `special` that the object itself has.
    pub(super) fn into_token(self) -> AddedToken {
        let special = self.special;
        self.token(special)
    }
}

/// A special token: as text alone, or with what it does to the white space around it.
///
/// The two differ where tokens are merged: text never takes the place of a full token.
#[derive(Debug, Clone, PartialEq)]
enum Special {
    Text(String),
    Full(AddedToken),
}

impl Special {
    /// `None` where the value is no token.
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::Text(text.clone())),
            Value::Object(_) => {
                let object = TokenObject::deserialize(value).ok()?;
                Some(Self::Full(object.token(true)))
            }
            _ => None,
        }
    }

    fn content(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Full(token) => &token.content,
        }
    }

    fn into_token(self) -> AddedToken {
        match self {
            Self::Text(text) => AddedToken::from(text, true),
            Self::Full(token) => token,
        }
    }
}

/// Tokens that are found in a text before anything else is done to it.
#[derive(Debug, Default)]
pub(super) struct SpecialTokens {
    /// By role, in the order of [`ROLES`], then those under names of their own.
    named: Vec<(String, Special)>,
    /// `extra_special_tokens`, or the older `additional_special_tokens` of the configuration.
    extra: Option<Vec<Special>>,
    /// `additional_special_tokens` from elsewhere, which count where there are no extra ones.
    additional: Option<Vec<Special>>,
    /// Tokens added with an id, in the order of ids.
    added: BTreeMap<u32, AddedToken>,
}

impl SpecialTokens {
    /// Merges what the files of the directory say, over the `defaults` of the tokenizer's class.
    ///
    /// `in_json` are the added tokens of `tokenizer.json`, by id.
    ///
    /// # Errors
    /// Where one of the files is there, but cannot be read.
    pub(super) fn read(
        source: &Source,
        defaults: &[(&str, &str)],
        in_json: impl IntoIterator<Item = (u32, AddedToken)>,
    ) -> Result<Self> {
        let Source {
            directory, config, ..
        } = *source;
        let mut values = config.rest.clone();
        let mut additional = None;
        let mut added = BTreeMap::new();
        // The older name in the configuration stands for the newer one; elsewhere it does not.
        if let Some(old) = values.remove("additional_special_tokens") {
            let new = values.get("extra_special_tokens");
            if new.is_none_or(|new| new.is_null() || new.as_array().is_some_and(Vec::is_empty)) {
                values.insert("extra_special_tokens".into(), old);
            } else {
                additional = tokens(&old);
            }
        }
        if let Some(decoder) = &config.added_tokens_decoder {
            for (id, object) in decoder {
                added.insert(*id, object.clone().into_token());
            }
        } else {
            let map: Option<Map<String, Value>> = read_if_present(directory, SPECIAL_TOKENS_MAP)?;
            for (name, value) in map.into_iter().flatten() {
                match (name.as_str(), value) {
                    ("additional_special_tokens", value) => additional = tokens(&value),
                    ("extra_special_tokens", Value::Array(new)) => {
                        let old = values.remove(&name);
                        let mut all = old.and_then(|old| old.as_array().cloned());
                        all.get_or_insert_default().extend(new);
                        values.insert(name, Value::Array(all.unwrap_or_default()));
                    }
                    (_, value) => {
                        values.insert(name, value);
                    }
                }
            }
            let by_text: Option<BTreeMap<String, u32>> = read_if_present(directory, ADDED_TOKENS)?;
            let special: HashSet<String> = ROLES
                .iter()
                .filter_map(|role| Special::read(values.get(*role)?))
                .chain(
                    values
                        .get("extra_special_tokens")
                        .and_then(tokens)
                        .into_iter()
                        .flatten(),
                )
                .map(|token| token.content().to_string())
                .collect();
            for (text, id) in by_text.into_iter().flatten() {
                let special = special.contains(&text);
                added.insert(id, AddedToken::from(text, special));
            }
            added.extend(in_json);
        }

        let mut named = Vec::new();
        for role in ROLES {
            let default = defaults.iter().find(|(name, _)| *name == role);
            let token = match values.get(role) {
                Some(value) => Special::read(value),
                None => default.map(|(_, text)| Special::Text((*text).into())),
            };
            named.extend(token.map(|token| (role.to_string(), token)));
        }
        let own = values
            .iter()
            .filter(|(name, _)| name.ends_with("_token") && !ROLES.contains(&name.as_str()));
        // Names of their own may also be given as an object.
        let object = values
            .get("extra_special_tokens")
            .and_then(Value::as_object);
        for (name, value) in own.chain(object.into_iter().flatten()) {
            named.extend(Special::read(value).map(|token| (name.clone(), token)));
        }
        Ok(Self {
            named,
            extra: values.get("extra_special_tokens").and_then(tokens),
            additional,
            added,
        })
    }

    /// Text of the token with this role.
    pub(super) fn text(&self, role: &str) -> Option<&str> {
        self.named
            .iter()
            .find(|(name, _)| name == role)
            .map(|(_, token)| token.content())
    }

    /// Text of the token with this role, which the tokenizer cannot do without.
    ///
    /// # Errors
    /// Where the files say that there is none.
    pub(super) fn required(&self, source: &Source, role: &str) -> Result<&str> {
        self.text(role).ok_or_else(|| {
            Error::config(
                source.directory.join(TOKENIZER_CONFIG),
                role,
                "not a token; this tokenizer needs one",
            )
        })
    }

    /// Whether a file gives an id to this text.
    pub(super) fn is_added(&self, text: &str) -> bool {
        self.added.values().any(|token| token.content == text)
    }

    /// Sets tokens that count where no extra ones are configured.
    pub(super) fn set_additional(&mut self, tokens: impl IntoIterator<Item = AddedToken>) {
        self.additional = Some(tokens.into_iter().map(Special::Full).collect());
    }

    /// Texts of the tokens that count where no extra ones are configured.
    pub(super) fn additional(&self) -> Option<impl Iterator<Item = &str>> {
        let tokens = self.additional.as_ref()?;
        Some(tokens.iter().map(Special::content))
    }

    /// Adds to the tokens that count where no extra ones are configured.
    pub(super) fn extend_additional(&mut self, texts: impl IntoIterator<Item = String>) {
        let tokens = texts.into_iter().map(Special::Text);
        self.additional.get_or_insert_default().extend(tokens);
    }

    /// The tokens to add to a tokenizer that has `present` already, in the order in which those
    /// that are new to its vocabulary get their ids.
    pub(super) fn into_tokens(self, present: &HashSet<String>) -> Vec<AddedToken> {
        let mut known = present.clone();
        known.extend(self.added.values().map(|token| token.content.clone()));
        let names: HashSet<String> = self
            .named
            .iter()
            .map(|(_, token)| token.content().to_string())
            .collect();
        let mut list: Vec<Special> = self.added.into_values().map(Special::Full).collect();
        let extra = self.extra.or(self.additional).unwrap_or_default();
        for token in self.named.into_iter().map(|(_, token)| token).chain(extra) {
            if !known.contains(token.content()) && !list.contains(&token) {
                list.push(token);
            }
        }
        // Of tokens with one text the last counts, in the place of the first.
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut unique: Vec<AddedToken> = Vec::with_capacity(list.len());
        for token in list {
            let mut token = token.into_token();
            token.special |= names.contains(&token.content);
            match places.get(&token.content) {
                Some(place) => unique[*place] = token,
                None => {
                    places.insert(token.content.clone(), unique.len());
                    unique.push(token);
                }
            }
        }
        unique
    }
}

/// The tokens of a list; `None` where it is none.
fn tokens(value: &Value) -> Option<Vec<Special>> {
    let list = value.as_array()?;
    Some(list.iter().filter_map(Special::read).collect())
}
