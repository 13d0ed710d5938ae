//! Token ids against those that open_clip and `transformers` give, from every file that a
//! vocabulary may be in; and vocabularies that are damaged.
//!
//! References come from `fixtures/clip-tokenizer/generate.py`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use fin_clip::tokenizer::{
    CONTEXT_LENGTH, ClipTokenizer, TokenizerDialect, clean_lower, clean_whitespace, unescape,
};
use fin_core::Error;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use safetensors::SafeTensors;
use serde_json::{Value, json};

const DIALECTS: [TokenizerDialect; 2] =
    [TokenizerDialect::Transformers, TokenizerDialect::OpenClip];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/clip-tokenizer")
}

fn read_json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Strings of all kinds, then those that cleaning changes.
fn strings() -> Vec<String> {
    let text = std::fs::read_to_string(fixtures().join("../tokenizers/strings.jsonl")).unwrap();
    let line = |line| serde_json::from_str::<Value>(line).unwrap()["text"].take();
    let mut texts: Vec<Value> = text.split_terminator('\n').map(line).collect();
    texts.extend(
        read_json(fixtures().join("damaged.json"))
            .as_array()
            .unwrap()
            .clone(),
    );
    let text = |text: Value| text.as_str().unwrap().to_string();
    texts.into_iter().map(text).collect()
}

struct Reference(Vec<u8>);

impl Reference {
    fn read() -> Self {
        Self(std::fs::read(fixtures().join("reference.safetensors")).unwrap())
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        tensors.tensor(name).unwrap().data().to_vec()
    }

    fn numbers(&self, name: &str) -> Vec<u32> {
        let bytes = self.bytes(name);
        let (chunks, []) = bytes.as_chunks() else {
            panic!("{name} is no list of numbers")
        };
        chunks
            .iter()
            .map(|bytes| u32::from_le_bytes(*bytes))
            .collect()
    }

    fn lists(&self, name: &str) -> Vec<Vec<u32>> {
        let bytes = self.bytes(&format!("{name}.ids"));
        let ids = bytes.as_chunks().0.iter();
        let ids: Vec<u32> = ids.map(|bytes| u16::from_le_bytes(*bytes).into()).collect();
        self.numbers(&format!("{name}.offsets"))
            .windows(2)
            .map(|ends| ids[ends[0] as usize..ends[1] as usize].to_vec())
            .collect()
    }

    /// Ids of the strings over the small vocabulary.
    fn ids(&self, dialect: TokenizerDialect) -> Vec<Vec<u32>> {
        let mut ids = self.lists("open_clip");
        if dialect == TokenizerDialect::Transformers {
            let others = self.lists("transformers");
            for (i, other) in self.numbers("transformers.texts").into_iter().zip(others) {
                ids[i as usize] = other;
            }
        }
        ids
    }
}

fn fingerprint(ids: &[u32]) -> u32 {
    ids.iter()
        .flat_map(|id| u16::try_from(*id).unwrap().to_le_bytes())
        .fold(0x811C_9DC5, |value: u32, byte| {
            (value ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        })
}

fn open(directory: &Path, dialect: TokenizerDialect) -> fin_core::Result<ClipTokenizer> {
    ClipTokenizer::open(directory, dialect, CONTEXT_LENGTH, usize::MAX)
}

fn compare(what: &str, tokenizer: &ClipTokenizer, texts: &[String], expected: &[Vec<u32>]) {
    assert_eq!(texts.len(), expected.len());
    let found = tokenizer.encode(texts).unwrap();
    let mut different = texts
        .iter()
        .zip(&found)
        .zip(expected)
        .filter(|((_, found), expected)| found.ids != **expected);
    if let Some(((text, found), expected)) = different.next() {
        panic!(
            "{what}: {} of {} strings have other ids, the first {text:?}\n cleaned {:?}\n found {:?}\n expected \
             {expected:?}",
            1 + different.count(),
            texts.len(),
            clean_lower(text),
            found.ids,
        );
    }
}

/// A directory with some of a fixture's files.
fn directory(files: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in files {
        std::fs::copy(
            fixtures().join("openai").join(name),
            directory.path().join(name),
        )
        .unwrap();
    }
    directory
}

fn merges() -> String {
    let mut text = String::new();
    let file = std::fs::File::open(fixtures().join("bpe.txt.gz")).unwrap();
    GzDecoder::new(file).read_to_string(&mut text).unwrap();
    text
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn clip_ids_are_those_of_both_references() {
    let texts = strings();
    assert!(texts.len() > 2_900, "{} strings", texts.len());
    let reference = Reference::read();
    let json = directory(&["tokenizer.json", "tokenizer_config.json"]);
    let unconfigured = directory(&["tokenizer.json"]);
    let files = directory(&["vocab.json", "merges.txt", "tokenizer_config.json"]);
    let bare = directory(&["vocab.json", "merges.txt"]);
    let merged = tempfile::tempdir().unwrap();
    let copy = merged.path().join("bpe_simple_vocab_16e6.txt.gz");
    std::fs::copy(fixtures().join("bpe.txt.gz"), copy).unwrap();
    let plain = tempfile::tempdir().unwrap();
    std::fs::write(plain.path().join("bpe_simple_vocab_16e6.txt"), merges()).unwrap();
    for dialect in DIALECTS {
        let expected = reference.ids(dialect);
        let cut = expected
            .iter()
            .filter(|ids| ids.len() == CONTEXT_LENGTH)
            .count();
        assert!(cut > 500, "{cut} strings are cut");
        for (from, directory) in [
            ("tokenizer.json", &json),
            ("tokenizer.json alone", &unconfigured),
            ("vocab.json", &files),
            ("vocab.json alone", &bare),
            ("compressed merges", &merged),
            ("merges", &plain),
        ] {
            let tokenizer = open(directory.path(), dialect).unwrap();
            compare(
                &format!("{dialect:?} from {from}"),
                &tokenizer,
                &texts,
                &expected,
            );
            assert_eq!(tokenizer.dialect(), dialect);
            let (start, end) = (tokenizer.start_id(), tokenizer.end_id());
            assert_eq!((start, end), (2012, 2013));
            let pad = match dialect {
                TokenizerDialect::Transformers => end,
                TokenizerDialect::OpenClip => 0,
            };
            assert_eq!(tokenizer.pad_id(), pad);
        }
    }
}

#[test]
fn short_contexts_keep_the_end() {
    let texts = strings();
    for dialect in DIALECTS {
        let whole = ClipTokenizer::open(&fixtures().join("openai"), dialect, 1 << 16, usize::MAX);
        let short = ClipTokenizer::open(&fixtures().join("openai"), dialect, 5, usize::MAX);
        let (whole, short) = (whole.unwrap(), short.unwrap());
        assert_eq!(short.context_length(), 5);
        let all = whole.encode(&texts).unwrap();
        for ((text, whole), short) in texts.iter().zip(all).zip(short.encode(&texts).unwrap()) {
            assert!(!whole.truncated);
            assert_eq!(short.truncated, whole.ids.len() > 5, "{text:?}");
            let mut expected = whole.ids;
            if short.truncated {
                expected.truncate(4);
                expected.push(2013);
            }
            assert_eq!(short.ids, expected, "{text:?}");
        }
    }
}

/// open_clip's own vocabulary, where its Python package is found.
fn whole_vocabulary() -> Option<PathBuf> {
    let cache = std::env::var_os("FIN_CACHE")
        .map(PathBuf::from)
        .or_else(|| {
            let home = PathBuf::from(std::env::var_os("HOME")?);
            Some(home.join(".cache/fin"))
        })?;
    let program = "import importlib.util as u, pathlib as p; \
                   print(p.Path(u.find_spec('open_clip').origin).with_name('bpe_simple_vocab_16e6.txt.gz'))";
    let pythons = [cache.join("libtorch-2.9.0/bin/python"), "python3".into()];
    pythons.iter().find_map(|python| {
        let output = Command::new(python).args(["-c", program]).output().ok()?;
        let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
        path.is_file().then_some(path)
    })
}

#[test]
fn ids_over_the_whole_clip_vocabulary() {
    let Some(file) = whole_vocabulary() else {
        println!("skipped: the Python package open_clip_torch is not found");
        return;
    };
    let reference = Reference::read();
    let stsb = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../shared/data/stsb");
    let stsb = stsb.join("stsb-en-test.csv");
    let mut parts = vec![("strings", strings())];
    if stsb.is_file() {
        let mut texts: Vec<String> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for row in read_csv(&std::fs::read_to_string(stsb).unwrap()) {
            for text in row.into_iter().take(2) {
                if seen.insert(text.clone()) {
                    texts.push(text);
                }
            }
        }
        parts.push(("stsb", texts));
    } else {
        println!("without STS-B: {} is not there", stsb.display());
    }
    for dialect in DIALECTS {
        let tokenizer = ClipTokenizer::from_bpe(&file, dialect, CONTEXT_LENGTH, 49_408).unwrap();
        assert_eq!((tokenizer.start_id(), tokenizer.end_id()), (49_406, 49_407));
        let library = match dialect {
            TokenizerDialect::Transformers => "transformers",
            TokenizerDialect::OpenClip => "open_clip",
        };
        for (name, texts) in &parts {
            let expected = reference.numbers(&format!("whole.{library}.{name}"));
            assert_eq!(expected.len(), texts.len(), "{name}");
            let found = tokenizer.encode(texts).unwrap();
            let different: Vec<&String> = texts
                .iter()
                .zip(found.iter().zip(&expected))
                .filter(|(_, (found, expected))| fingerprint(&found.ids) != **expected)
                .map(|(text, _)| text)
                .collect();
            assert!(
                different.is_empty(),
                "{library}, {name}: {} of {} differ, the first {:?}",
                different.len(),
                texts.len(),
                different[0],
            );
            println!("{library}, {name}: ids of {} texts are alike", texts.len());
        }
        let narrow = ClipTokenizer::from_bpe(&file, dialect, CONTEXT_LENGTH, 49_407)
            .and_then(|tokenizer| tokenizer.encode(&["a boat".to_string()]))
            .unwrap_err()
            .to_string();
        assert!(
            narrow.contains("49407 is beyond the model's vocabulary of 49407"),
            "{narrow}"
        );
    }
}

/// Fields of rows, quoted where they have commas.
fn read_csv(text: &str) -> Vec<Vec<String>> {
    let row = |line: &str| {
        let (mut fields, mut quoted) = (vec![String::new()], false);
        let mut characters = line.chars().peekable();
        while let Some(c) = characters.next() {
            let last = fields.len() - 1;
            match c {
                '"' if quoted && characters.peek() == Some(&'"') => {
                    characters.next();
                    fields[last].push('"');
                }
                '"' => quoted = !quoted,
                ',' if !quoted => fields.push(String::new()),
                c => fields[last].push(c),
            }
        }
        fields
    };
    text.lines().map(row).collect()
}

#[test]
fn references_of_html_are_resolved() {
    for (text, expected) in [
        ("&notit; &not; &no &notin; &notinx", "¬it; ¬ &no ∉ ¬inx"),
        ("&amp;amp; &ampamp; &AMP &", "&amp; &amp; & &"),
        ("&#233; &#xE9 &#XE9;x &#; &#x; &#xg", "é é éx &#; &#x; &#xg"),
        (
            "&#0;&#128;&#x9F;&#1;&#xFFFE;&#xD800;&#4294967296;",
            "\u{fffd}€Ÿ\u{fffd}\u{fffd}",
        ),
        ("&NotEqualTilde;&CounterClockwiseContourIntegral;", "≂̸∳"),
    ] {
        assert_eq!(unescape(text), expected);
    }
    assert_eq!(
        clean_whitespace(" schÃ¶n \t &amp;lt;B&gt;\u{a0}"),
        "schön <B>"
    );
    assert_eq!(clean_lower("ΟΔΥΣΣΕΥΣ İ"), "οδυσσευς i̇");
}

#[test]
fn damaged_clip_vocabularies_are_refused() {
    let text = merges();
    let write = |bytes: &[u8]| {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("bpe_simple_vocab_16e6.txt.gz"), bytes).unwrap();
        directory
    };
    let whole = std::fs::read(fixtures().join("bpe.txt.gz")).unwrap();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "has no merges"),
        (gzip(b"#version: 0.2"), "has no merges"),
        (gzip(format!("{text}\n").as_bytes()), ""),
        (
            gzip(format!("{text}\n\nx y").as_bytes()),
            "line 1502 is not two symbols",
        ),
        (
            gzip(format!("{text}\nx y z").as_bytes()),
            "line 1502 is not two symbols",
        ),
        (gzip(b"#\na b\n\xff\xfe c"), "line 3 is not UTF-8"),
        (gzip(&[b'a'; 1 << 16]), "line 1 is too long"),
        (whole[..whole.len() / 2].to_vec(), "cannot read"),
        (gzip(b"#\nlonger symbols"), "not a vocabulary of byte pairs"),
    ];
    for dialect in DIALECTS {
        for (bytes, expected) in &cases {
            let directory = write(bytes);
            let found = open(directory.path(), dialect);
            if expected.is_empty() {
                found.unwrap();
                continue;
            }
            let error = found.unwrap_err();
            assert!(
                matches!(error, Error::InvalidFile { .. } | Error::Io { .. }),
                "{error}"
            );
            let error = error.to_string();
            assert!(
                error.contains("bpe_simple_vocab") && error.contains(expected),
                "{error}"
            );
        }
        let error = open(tempfile::tempdir().unwrap().path(), dialect).unwrap_err();
        assert!(
            error.to_string().contains("merges.txt, bpe_simple_vocab"),
            "{error}"
        );
        let error = ClipTokenizer::open(&fixtures().join("openai"), dialect, 2, usize::MAX);
        assert!(error.unwrap_err().to_string().contains("2 leaves no room"));

        // Files of `transformers`.
        let folder = directory(&["vocab.json", "merges.txt"]);
        let at = |name: &str| folder.path().join(name);
        let good = read_json(at("vocab.json"));
        let error = |name: &str, content: &str| {
            let before = std::fs::read(at(name)).unwrap();
            std::fs::write(at(name), content).unwrap();
            let error = open(folder.path(), dialect).unwrap_err().to_string();
            std::fs::write(at(name), before).unwrap();
            error
        };
        let merges = std::fs::read_to_string(at("merges.txt")).unwrap();
        for content in [format!("{merges}a"), format!("{merges}a b c")] {
            let error = error("merges.txt", &content);
            assert!(error.contains("expected two symbols"), "{error}");
        }
        let found = error("merges.txt", &format!("{merges}zz qq"));
        assert!(found.contains("not a vocabulary of byte pairs"), "{found}");
        for content in ["", "[]", "{\"a\": -1}", "{\"a\": 4294967296}"] {
            let error = error("vocab.json", content);
            assert!(error.contains("vocab.json"), "{error}");
        }
        let mut lacking = good.clone();
        lacking
            .as_object_mut()
            .unwrap()
            .shift_remove("<|endoftext|>");
        let found = error("vocab.json", &lacking.to_string());
        assert!(found.contains("<|endoftext|>"), "{found}");
        std::fs::remove_file(at("merges.txt")).unwrap();
        let found = open(folder.path(), dialect).unwrap_err().to_string();
        assert!(found.contains("merges.txt: cannot read"), "{found}");
        std::fs::write(
            at("tokenizer.json"),
            json!({ "model": { "type": "Unigram" } }).to_string(),
        )
        .unwrap();
        assert!(open(folder.path(), dialect).is_err());
    }
}

#[test]
fn no_bytes_make_the_clip_tokenizer_panic() {
    let mut state = 0x9E37_79B9_u32;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as usize % below
    };
    let texts = ["&#xD83D; schÃ¶n it's <|endoftext|> 北京 \u{1}\u{ad}Â ".to_string()];
    let plain = merges().into_bytes();
    let json = std::fs::read(fixtures().join("openai/tokenizer.json")).unwrap();
    let mut opened = 0;
    for round in 0..80 {
        let good = if round % 2 == 0 { &plain } else { &json };
        let mut bytes = good[..good.len() - random(2) * random(good.len())].to_vec();
        for _ in 0..random(4) {
            let at = random(bytes.len());
            bytes[at] = random(256) as u8;
        }
        let name = ["bpe_simple_vocab_16e6.txt", "tokenizer.json"][round % 2];
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(name), &bytes).unwrap();
        for dialect in DIALECTS {
            if let Ok(tokenizer) = open(directory.path(), dialect) {
                opened += usize::from(tokenizer.encode(&texts).is_ok());
            }
        }
    }
    assert!(opened > 0);
    // Texts are cleaned whatever is in them.
    let pieces = [
        "Ã",
        "Â ",
        "â€",
        "\u{9d}",
        "&",
        "#x",
        "<",
        "í\u{a0}½í²©",
        "À\u{80}",
        "\u{fffd}",
        "ï¿½",
        "\n",
        "\x1b[",
        "ŉ",
    ];
    for _ in 0..3000 {
        let text: String = (0..random(12))
            .map(|_| pieces[random(pieces.len())])
            .collect();
        clean_lower(&text);
    }
}
