//! WordNet's files (`wndb(5WN)`, `senseidx(5WN)`).

use std::collections::HashMap;
use std::path::Path;

/// What is read of WordNet.
pub struct WordNet {
    pub synsets: Vec<Synset>,
    /// Frequent single words whose commonest sense is in a lexicographer file, by its number
    /// (`lexnames(5WN)`), the most frequent first.
    words: HashMap<u8, Vec<String>>,
    /// Frequent verbs, the most frequent first.
    pub verbs: Vec<Verb>,
}

pub struct Synset {
    pub words: Vec<String>,
    pub definition: String,
    pub examples: Vec<String>,
}

/// A verb in the forms that sentences need.
#[derive(Clone)]
pub struct Verb {
    pub base: String,
    pub past: String,
    pub gerund: String,
    /// Whether its commonest sense takes a thing as its object.
    pub transitive: bool,
    /// Whether its commonest sense goes without an object.
    pub intransitive: bool,
}

impl WordNet {
    /// Reads the directory in which the package `wordnet-base` has the files.
    pub fn read(directory: &Path) -> Result<Self, String> {
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read(&path)
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .map_err(|e| format!("{}: {e}", path.display()))
        };
        let mut synsets = Vec::new();
        let mut frames = HashMap::new();
        for part in ["noun", "verb", "adj", "adv"] {
            let data = read(&format!("data.{part}"))?;
            for line in data.lines().filter(|line| !line.starts_with(' ')) {
                let Some((fields, gloss)) = line.split_once(" | ") else {
                    continue;
                };
                let fields: Vec<&str> = fields.split(' ').collect();
                if part == "verb" {
                    frames.insert(fields[0].to_owned(), verb_frames(&fields));
                }
                synsets.push(Synset::new(&fields, gloss));
            }
        }
        let counted = counts(&read("cntlist.rev")?);
        let mut words: HashMap<u8, Vec<String>> = HashMap::new();
        for (word, file) in &counted {
            words.entry(*file).or_default().push(word.clone());
        }
        let exceptions = read("verb.exc")?;
        let first_sense: HashMap<String, String> = read("index.verb")?
            .lines()
            .filter(|line| !line.starts_with(' '))
            .filter_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                let senses: usize = fields.get(2)?.parse().ok()?;
                let offset = fields.get(fields.len().checked_sub(senses)?)?;
                Some((fields[0].to_owned(), (*offset).to_owned()))
            })
            .collect();
        let mut irregular: HashMap<&str, Vec<&str>> = HashMap::new();
        for line in exceptions.lines() {
            if let Some((form, base)) = line.split_once(' ') {
                irregular.entry(base).or_default().push(form);
            }
        }
        let verbs = counted
            .iter()
            .filter(|(_, file)| (29..=43).contains(file))
            .filter_map(|(word, _)| {
                let frames = frames.get(first_sense.get(word)?)?;
                Some(Verb::new(word, irregular.get(word.as_str()), frames))
            })
            .collect();
        Ok(Self {
            synsets,
            words,
            verbs,
        })
    }

    /// The `most` commonest words of some lexicographer files.
    pub fn words(&self, files: &[u8], most: usize) -> Vec<String> {
        files
            .iter()
            .flat_map(|file| self.words.get(file).into_iter().flatten().take(most))
            .cloned()
            .collect()
    }
}

impl Synset {
    fn new(fields: &[&str], gloss: &str) -> Self {
        let count = fields
            .get(3)
            .and_then(|count| usize::from_str_radix(count, 16).ok())
            .unwrap_or_default();
        let words = fields.iter().skip(4).step_by(2).take(count);
        let words = words
            .map(|word| word.split('(').next().unwrap_or(word).replace('_', " "))
            .collect();
        let mut quoted = gloss.split('"');
        let definition = quoted.next().unwrap_or_default();
        Self {
            words,
            definition: definition.trim().trim_end_matches(';').trim().to_owned(),
            examples: quoted
                .step_by(2)
                .filter(|text| text.contains(' '))
                .map(|text| text.trim().to_owned())
                .collect(),
        }
    }
}

/// The numbers of a verb synset's frames that hold for all of its words.
fn verb_frames(fields: &[&str]) -> Vec<u8> {
    fields
        .windows(3)
        .filter(|window| window[0] == "+" && window[2] == "00")
        .filter_map(|window| window[1].parse().ok())
        .collect()
}

/// Single lower-case words whose first sense is tagged at least twice in the concordance, with the
/// lexicographer file of that sense, the most frequent first.
fn counts(text: &str) -> Vec<(String, u8)> {
    let mut counted: Vec<(usize, String, u8)> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (key, sense, count) = (fields.next()?, fields.next()?, fields.next()?);
            let (word, key) = key.split_once('%')?;
            let file = key.split(':').nth(1)?.parse().ok()?;
            let count: usize = count.parse().ok()?;
            let plain = word.len() > 2 && word.bytes().all(|b| b.is_ascii_lowercase());
            (plain && sense == "1" && count >= 2).then(|| (count, word.to_owned(), file))
        })
        .collect();
    counted.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let words = counted.into_iter();
    words.map(|(_, word, file)| (word, file)).collect()
}

impl Verb {
    fn new(base: &str, irregular: Option<&Vec<&str>>, frames: &[u8]) -> Self {
        let forms = || irregular.into_iter().flatten().copied();
        let vowel = |c: u8| b"aeiou".contains(&c);
        let bytes = base.as_bytes();
        let end = bytes.len() - 1;
        let stem = match bytes {
            [.., before, b'e'] if *before != b'e' => &base[..end],
            _ => base,
        };
        let gerund = forms()
            .find(|form| form.ends_with("ing"))
            .map_or_else(|| format!("{stem}ing"), str::to_owned);
        let past = forms()
            .find(|form| !form.ends_with("ing") && !form.ends_with('s'))
            .map_or_else(
                || match bytes {
                    [.., b'e'] => format!("{base}d"),
                    [.., before, b'y'] if !vowel(*before) => format!("{}ied", &base[..end]),
                    _ => format!("{base}ed"),
                },
                str::to_owned,
            );
        Self {
            base: base.to_owned(),
            past,
            gerund,
            // "Somebody ----s something"; "Something ----s" and "Somebody ----s".
            transitive: frames.contains(&8),
            intransitive: frames.contains(&1) || frames.contains(&2),
        }
    }
}
