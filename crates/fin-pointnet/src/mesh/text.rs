//! Lines, words and numbers of text formats.

use super::build::{Parsed, Problem, fault};

/// Lines with their numbers from 1; they end in a line feed, a carriage return, or both.
#[derive(Debug, Clone)]
pub(super) struct Lines<'a> {
    text: &'a [u8],
    rest: &'a [u8],
    number: u64,
}

impl<'a> Lines<'a> {
    /// Lines of a text, after its byte order mark.
    pub(super) fn new(text: &'a [u8]) -> Parsed<Self> {
        if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
            return fault("is UTF-16 text; save it as UTF-8");
        }
        Ok(Self::after(without_mark(text), 0))
    }

    /// Lines of the rest of a text, after so many lines.
    pub(super) fn after(rest: &'a [u8], number: u64) -> Self {
        Self {
            text: rest,
            rest,
            number,
        }
    }

    /// Bytes of the lines so far, with what ends them.
    pub(super) fn consumed(&self) -> usize {
        self.text.len() - self.rest.len()
    }

    /// What was consumed since so much was.
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        &self.text[start..self.consumed()]
    }

    /// The next line that holds more than white space and what follows a `#`.
    pub(super) fn next_content(&mut self) -> Option<(u64, &'a [u8])> {
        self.find_map(|(number, line)| {
            let content = line.split(|byte| *byte == b'#').next()?.trim_ascii();
            (!content.is_empty()).then_some((number, content))
        })
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let end = self
            .rest
            .iter()
            .position(|byte| matches!(byte, b'\n' | b'\r'));
        let end = end.unwrap_or(self.rest.len());
        let (line, rest) = self.rest.split_at(end);
        self.rest = match rest {
            [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => rest,
            [] => rest,
        };
        self.number += 1;
        Some((self.number, line))
    }
}

/// The text after a byte order mark of UTF-8.
pub(super) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// Words between white space.
pub(super) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

/// A number as C and its kin print it.
pub(super) fn number(word: &[u8], line: u64) -> Parsed<f64> {
    std::str::from_utf8(word)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Problem::Line(line, format!("`{}` is not a number", shown(word))))
}

/// A whole number.
pub(super) fn whole(word: &[u8], line: u64) -> Parsed<i64> {
    std::str::from_utf8(word)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Problem::Line(line, format!("`{}` is not a whole number", shown(word))))
}

/// The next three numbers, those of `what`.
pub(super) fn three<'a>(
    words: &mut impl Iterator<Item = &'a [u8]>,
    line: u64,
    what: &str,
) -> Parsed<[f64; 3]> {
    let mut values = [0.0; 3];
    for (i, value) in values.iter_mut().enumerate() {
        let Some(word) = words.next() else {
            let reason = format!("{what} has {i} number(s) where three are needed");
            return Err(Problem::Line(line, reason));
        };
        *value = number(word, line)?;
    }
    Ok(values)
}

/// The beginning of a word, for a message.
pub(super) fn shown(word: &[u8]) -> String {
    const SHOWN: usize = 40;
    let mut text = String::from_utf8_lossy(&word[..word.len().min(SHOWN)]).into_owned();
    if word.len() > SHOWN {
        text.push('…');
    }
    text
}
