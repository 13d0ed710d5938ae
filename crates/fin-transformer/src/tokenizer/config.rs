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
    model_max_length: Option<f64>,
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

    /// Largest number of tokens, where the file has one.
    pub(crate) fn max_length(&self) -> Option<usize> {
        // Beyond a million the field means that there is no limit.
        let limit = self.model_max_length.filter(|n| (1.0..1e6).contains(n))?;
        Some(limit as usize)
    }

    /// Whether token types are among what the tokenizer gives, where the file lists that.
    pub(super) fn has_token_types(&self) -> Option<bool> {
        let names = self.rest.get("model_input_names")?.as_array()?;
        Some(names.iter().any(|name| name == "token_type_ids"))
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
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub(super) struct TokenObject {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    /// Where it is not said, special tokens are found in a text as it is, others in normalised text.
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

impl TokenObject {
    fn new(content: String, special: bool) -> Self {
        Self {
            content,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: None,
            special,
        }
    }

    pub(super) fn into_token(self) -> AddedToken {
        AddedToken::from(self.content, self.special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized.unwrap_or(!self.special))
    }
}

/// A special token: as text alone, or with its flags.
///
/// Upstream keeps the two apart: one of each kind with the same text are not the same token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Special {
    Text(String),
    Full(TokenObject),
}

impl Special {
    /// `None` where the value is no token.
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::Text(text.clone())),
            Value::Object(_) => TokenObject::deserialize(value).ok().map(Self::Full),
            _ => None,
        }
    }

    fn content(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Full(token) => &token.content,
        }
    }

    fn into_object(self) -> TokenObject {
        match self {
            Self::Text(text) => TokenObject::new(text, true),
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
    added: BTreeMap<u32, TokenObject>,
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
        in_json: impl IntoIterator<Item = (u32, TokenObject)>,
    ) -> Result<Self> {
        let directory = source.directory;
        let config = source.config;
        let mut values = config.rest.clone();
        let mut additional = None;
        // The older name in the configuration stands for the newer one; elsewhere it does not.
        if let Some(old) = values.shift_remove("additional_special_tokens") {
            if values.get("extra_special_tokens").is_none_or(is_empty) {
                values.insert("extra_special_tokens".into(), old);
            } else {
                additional = tokens(&old);
            }
        }
        let mut own = take_own(&mut values);

        let mut added = BTreeMap::new();
        if let Some(decoder) = &config.added_tokens_decoder {
            added.clone_from(decoder);
        } else {
            let map: Option<Map<String, Value>> = read_if_present(directory, SPECIAL_TOKENS_MAP)?;
            let map = map.unwrap_or_default();
            let by_text: Option<BTreeMap<String, u32>> = read_if_present(directory, ADDED_TOKENS)?;
            let special = special_texts(&values, &map);
            for (text, id) in by_text.into_iter().flatten() {
                let special = special.contains(&text);
                let normalized = Some(!special);
                let token = TokenObject::new(text, special);
                added.insert(
                    id,
                    TokenObject {
                        normalized,
                        ..token
                    },
                );
            }
            added.extend(in_json);
            for (name, value) in map {
                match (name.as_str(), value) {
                    ("additional_special_tokens", value) => additional = tokens(&value),
                    ("extra_special_tokens", Value::Array(new)) => {
                        let old = values.get(&name).and_then(Value::as_array).cloned();
                        let all = [old.unwrap_or_default(), new].concat();
                        values.insert(name, Value::Array(all));
                    }
                    (_, mut value) => {
                        if let Value::Object(token) = &mut value
                            && name != "extra_special_tokens"
                        {
                            token.insert("special".into(), Value::Bool(true));
                        }
                        values.insert(name, value);
                    }
                }
            }
            own.extend(take_extra_own(&mut values));
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
        for (name, value) in values.iter().filter(|(name, _)| is_own(name)) {
            named.extend(Special::read(value).map(|token| (name.clone(), token)));
        }
        let names = named.iter().enumerate();
        let mut places: HashMap<String, usize> =
            names.map(|(i, (name, _))| (name.clone(), i)).collect();
        for (name, token) in own {
            match places.get(&name) {
                Some(place) => named[*place].1 = token,
                None => {
                    places.insert(name.clone(), named.len());
                    named.push((name, token));
                }
            }
        }
        // A value that is no list counts as an empty one.
        let extra = values.get("extra_special_tokens");
        Ok(Self {
            named,
            extra: extra.map(|list| tokens(list).unwrap_or_default()),
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

    /// Sets tokens that count where no extra ones are configured: texts that are found as they are,
    /// and whether they are special.
    pub(super) fn set_additional(&mut self, tokens: impl IntoIterator<Item = (String, bool)>) {
        let full = |(text, special)| {
            Special::Full(TokenObject {
                normalized: Some(false),
                ..TokenObject::new(text, special)
            })
        };
        self.additional = Some(tokens.into_iter().map(full).collect());
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

    /// The tokens to add to a tokenizer that has those of `present` already, in the order in which
    /// those that are new to its vocabulary get their ids. A text may occur more than once.
    pub(super) fn into_tokens(self, present: &[AddedToken]) -> Vec<AddedToken> {
        let added = self.added.values().map(|token| &token.content);
        let known: HashSet<String> = present
            .iter()
            .map(|token| &token.content)
            .chain(added)
            .cloned()
            .collect();
        let names: HashSet<String> = self
            .named
            .iter()
            .map(|(_, token)| token.content().to_string())
            .collect();
        let mut list: Vec<Special> = self.added.into_values().map(Special::Full).collect();
        let extra = self.extra.or(self.additional).unwrap_or_default();
        // There may be tens of thousands.
        let mut listed: HashSet<Special> = list.iter().cloned().collect();
        for token in self.named.into_iter().map(|(_, token)| token).chain(extra) {
            if !known.contains(token.content()) && listed.insert(token.clone()) {
                list.push(token);
            }
        }
        list.into_iter()
            .map(|token| {
                let mut token = token.into_object();
                token.special |= names.contains(&token.content);
                token.into_token()
            })
            .collect()
    }
}

/// Of tokens with one text the last counts, in the place of the first; special it stays.
pub(super) fn merge(tokens: impl IntoIterator<Item = AddedToken>) -> Vec<AddedToken> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut merged: Vec<AddedToken> = Vec::new();
    for mut token in tokens {
        if let Some(place) = places.get(&token.content) {
            token.special |= merged[*place].special;
            merged[*place] = token;
        } else {
            places.insert(token.content.clone(), merged.len());
            merged.push(token);
        }
    }
    merged
}

/// The tokens of a list; `None` where it is none.
fn tokens(value: &Value) -> Option<Vec<Special>> {
    let list = value.as_array()?;
    Some(list.iter().filter_map(Special::read).collect())
}

/// What counts as nothing in Python.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Whether this is the name of a special token, but of none of the roles.
fn is_own(name: &str) -> bool {
    name.ends_with("_token") && !ROLES.contains(&name)
}

/// Takes out the tokens that the configuration has under names of their own, as text.
fn take_own(values: &mut Map<String, Value>) -> Vec<(String, Special)> {
    let mut own = Vec::new();
    values.retain(|name, value| match value {
        Value::String(text) if is_own(name) => {
            own.push((name.clone(), Special::Text(text.clone())));
            false
        }
        _ => true,
    });
    own.extend(take_extra_own(values));
    own
}

/// Takes out the extra tokens where they have names.
fn take_extra_own(values: &mut Map<String, Value>) -> Vec<(String, Special)> {
    let Some(Value::Object(_)) = values.get("extra_special_tokens") else {
        return Vec::new();
    };
    let Some(Value::Object(names)) = values.shift_remove("extra_special_tokens") else {
        return Vec::new();
    };
    let token = |(name, value)| Some((name, Special::read(&value)?));
    names.into_iter().filter_map(token).collect()
}

/// Texts that `added_tokens.json` adds as special tokens: those with a role and the extra ones. Full
/// tokens of the configuration do not count, since upstream has not read them yet.
fn special_texts(config: &Map<String, Value>, map: &Map<String, Value>) -> HashSet<String> {
    let from_config = |value: &Value| value.as_str().map(str::to_string);
    let from_map = |value: &Value| Special::read(value).map(|token| token.content().to_string());
    let roles = ROLES.iter().filter_map(|role| match map.get(*role) {
        Some(value) => from_map(value),
        None => from_config(config.get(*role)?),
    });
    let list = |values: &Map<String, Value>| {
        let list = values.get("extra_special_tokens").and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let extra = list(config)
        .iter()
        .filter_map(from_config)
        .collect::<Vec<_>>();
    let in_map = list(map).iter().filter_map(from_map).collect::<Vec<_>>();
    roles.chain(extra).chain(in_map).collect()
}
