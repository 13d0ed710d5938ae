//! The texts that the student learns on: freely licensed English from packages fetched by name.
//!
//! | source | package | licence | texts |
//! | --- | --- | --- | --- |
//! | glosses and examples of WordNet 3.0 | Debian `wordnet-base` | WordNet | definitions, short sentences |
//! | conversations of strangers | PyPI `chitchat-dataset` | MIT | everyday sentences and questions |
//! | questions and answers of a chat bot | PyPI `chatterbot-corpus` | BSD-3-Clause | help and trivia |
//! | one-line descriptions of Debian's packages | the package index | free software | phrases of computing |
//! | sentences from patterns | `templates.rs`, over WordNet's words | | captions, reports, questions |

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;

use super::random::Random;
use super::templates;
use super::wordnet::WordNet;

/// Most texts of each source; which ones is drawn by the seed.
const EXAMPLES: usize = 26_000;
const CONVERSATION: usize = 38_000;
const GLOSSES: usize = 18_000;
const NAMED: usize = 6_000;
const WORDS: usize = 10_000;
const PACKAGES: usize = 8_000;
const PATTERNS: usize = 26_000;
const JOINED: usize = 3_000;

/// Directories of the unpacked packages, and what `apt-cache dumpavail` prints.
pub struct Sources<'a> {
    pub wordnet: &'a Path,
    pub chitchat: &'a Path,
    pub chatterbot: &'a Path,
    pub available: &'a str,
}

/// The texts, each once, in random order.
pub fn collect(sources: &Sources<'_>, seed: u64) -> Result<Vec<String>, String> {
    let mut random = Random::new(seed);
    let wordnet = WordNet::read(sources.wordnet)?;
    let mut glosses: Vec<String> = Vec::new();
    let mut named: Vec<String> = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut examples: Vec<String> = Vec::new();
    for synset in &wordnet.synsets {
        glosses.push(synset.definition.clone());
        if let Some(word) = synset.words.first() {
            named.push(format!("{}: {}", word, synset.definition));
        }
        words.extend(synset.words.iter().cloned());
        examples.extend(synset.examples.iter().cloned());
    }
    let chat = conversations(sources.chitchat)?;
    let joined = pairs_of(&chat, &examples, JOINED, &mut random);

    let mut parts = vec![bot(sources.chatterbot)?];
    for (mut texts, most) in [
        (examples, EXAMPLES),
        (chat, CONVERSATION),
        (glosses, GLOSSES),
        (named, NAMED),
        (words, WORDS),
        (descriptions(sources.available), PACKAGES),
        (
            templates::sentences(&wordnet, PATTERNS, &mut random),
            PATTERNS,
        ),
        (joined, JOINED),
    ] {
        random.shuffle(&mut texts);
        texts.truncate(most);
        parts.push(texts);
    }
    let mut seen = HashSet::new();
    let mut texts: Vec<String> = parts
        .into_iter()
        .flatten()
        .filter_map(|text| clean(&text))
        .filter(|text| seen.insert(text.to_lowercase()))
        .collect();
    random.shuffle(&mut texts);
    Ok(texts)
}

/// One line of printable ASCII of a usable length; `None` of anything else.
fn clean(text: &str) -> Option<String> {
    let text = text
        .replace(['\u{2018}', '\u{2019}'], "'")
        .replace(['\u{201c}', '\u{201d}'], "\"");
    let words: Vec<&str> = text.split_whitespace().take(48).collect();
    let text = words.join(" ");
    let letters = text.bytes().filter(u8::is_ascii_alphabetic).count();
    let usable = text.is_ascii() && letters >= 3 && 2 * letters >= text.len() && text.len() <= 400;
    (usable && !text.contains("http")).then_some(text)
}

/// The messages of the conversations that have four words or more.
fn conversations(directory: &Path) -> Result<Vec<String>, String> {
    let path = directory.join("dataset.json");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let data: Value =
        serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let conversations = data.as_object().into_iter().flatten();
    let turns = conversations.flat_map(|(_, one)| one["messages"].as_array().into_iter().flatten());
    let messages = turns.flat_map(|turn| turn.as_array().into_iter().flatten());
    Ok(messages
        .filter_map(|message| message["text"].as_str())
        .filter(|text| text.split_whitespace().count() >= 4)
        .map(str::to_owned)
        .collect())
}

/// The English lines of the chat bot's files, which are lists of lists of strings in YAML.
fn bot(directory: &Path) -> Result<Vec<String>, String> {
    let directory = directory.join("data/english");
    let mut files: Vec<_> = std::fs::read_dir(&directory)
        .map_err(|e| format!("{}: {e}", directory.display()))?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    let mut texts = Vec::new();
    for file in files {
        let text =
            std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        for line in text
            .lines()
            .skip_while(|line| !line.starts_with("conversations"))
        {
            let line = line.trim_start_matches([' ', '-']);
            if line.split(' ').count() >= 3 {
                texts.push(line.trim_matches(['\'', '"']).to_owned());
            }
        }
    }
    Ok(texts)
}

/// The one-line descriptions in Debian's index; packages of parts of one program share theirs.
fn descriptions(available: &str) -> Vec<String> {
    available
        .lines()
        .filter_map(|line| line.strip_prefix("Description: "))
        .map(|line| line.split(" (").next().unwrap_or(line))
        .filter(|line| line.split(' ').count() >= 4)
        .map(str::to_owned)
        .collect()
}

/// Two texts one after the other, for longer inputs.
fn pairs_of(first: &[String], second: &[String], count: usize, random: &mut Random) -> Vec<String> {
    (0..count)
        .map(|_| {
            let mut one = || match random.below(2) {
                0 => random.choose(first).clone(),
                _ => random.choose(second).clone(),
            };
            let (left, right) = (one(), one());
            let stop = if left.ends_with(['.', '?', '!']) {
                ""
            } else {
                "."
            };
            format!("{left}{stop} {right}")
        })
        .collect()
}
