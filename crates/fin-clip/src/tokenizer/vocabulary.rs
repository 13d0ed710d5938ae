//! `bpe_simple_vocab_16e6.txt.gz`, the vocabulary as OpenAI published it: merges alone.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use fin_core::{Error, Result};
use fin_transformer::BytePairVocabulary;
use flate2::bufread::GzDecoder;

use super::TokenizerDialect;
use super::simple::{SPECIAL, byte_characters};

/// Merges that are used; the file has more.
const MERGES: usize = 49_152 - 256 - 2;

/// Longest line that is read, in bytes. The longest that is published has 65.
const MAX_LINE: u64 = 256;

/// Reads a file of merges, one a line after a line that says what it is, compressed or not. Tokens
/// are the 256 bytes, the bytes at the end of a word, what the first 48,894 merges make, and the
/// start and end tokens under the names of `dialect`, in this order.
///
/// # Errors
/// [`Error::Io`] where the file cannot be read or decompressed, [`Error::InvalidFile`] where a line
/// is no merge; it names the line.
pub fn read_bpe(file: &Path, dialect: TokenizerDialect) -> Result<BytePairVocabulary> {
    let open = File::open(file).map_err(Error::io(file, "read"))?;
    let mut reader = BufReader::new(open);
    let start = reader.fill_buf().map_err(Error::io(file, "read"))?;
    let mut reader: Box<dyn BufRead> = if start.starts_with(&[0x1F, 0x8B]) {
        Box::new(BufReader::new(GzDecoder::new(reader)))
    } else {
        Box::new(reader)
    };
    // Bytes that can be seen come first.
    let mut bytes = byte_characters();
    bytes.sort_unstable();
    let mut tokens: Vec<String> = bytes.map(String::from).into();
    tokens.extend(bytes.map(|byte| format!("{byte}</w>")));
    let mut merges = Vec::new();
    for line in 1..=MERGES + 1 {
        let Some(text) = next_line(file, &mut reader, line)? else {
            break;
        };
        if line == 1 {
            continue;
        }
        let mut parts = text.split_whitespace();
        match (parts.next(), parts.next(), parts.next()) {
            (Some(first), Some(second), None) => {
                tokens.push(format!("{first}{second}"));
                merges.push((first.to_string(), second.to_string()));
            }
            _ => return Err(invalid(file, line, "is not two symbols to merge")),
        }
    }
    if merges.is_empty() {
        return Err(Error::invalid(
            file,
            "has no merges; expected two symbols a line",
        ));
    }
    tokens.extend(SPECIAL.map(|(ours, theirs)| match dialect {
        TokenizerDialect::OpenClip => ours.to_string(),
        TokenizerDialect::Transformers => theirs.to_string(),
    }));
    let ids = tokens.into_iter().zip(0..).collect();
    Ok(BytePairVocabulary::new(ids, merges))
}

/// The next line without its end; `None` after the last.
fn next_line(file: &Path, reader: &mut dyn BufRead, number: usize) -> Result<Option<String>> {
    let mut line = Vec::new();
    reader
        .take(MAX_LINE)
        .read_until(b'\n', &mut line)
        .map_err(Error::io(file, "read"))?;
    match line.pop() {
        None => return Ok(None),
        Some(b'\n') => {}
        Some(last) => line.push(last),
    }
    if line.len() as u64 >= MAX_LINE {
        return Err(invalid(file, number, "is too long for two symbols"));
    }
    String::from_utf8(line)
        .map(Some)
        .map_err(|_| invalid(file, number, "is not UTF-8"))
}

fn invalid(file: &Path, line: usize, reason: &str) -> Error {
    Error::invalid(
        file,
        format!("line {line} {reason}; expected a file of merges"),
    )
}
