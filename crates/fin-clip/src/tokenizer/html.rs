//! HTML's character references, as `html.unescape` of Python 3 resolves them.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::encodings::Encoding;
use super::tables::TABLES;

/// Longest name that is looked for.
const MAX_NAME: usize = 32;

/// Replaces every reference, by the rules of HTML 5 for valid and invalid ones
/// (`html/__init__.py` of Python): `&amp;`, `&#38;`, `&#x26;`, also where the semicolon is missing,
/// and where a name only begins with an entity's, `&notit;` for one.
pub fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match reference(rest) {
            Some((text, length)) => {
                out.push_str(&text);
                rest = &rest[length..];
            }
            None => out.push('&'),
        }
    }
    out.push_str(rest);
    out
}

/// What stands for the reference that follows a `&`, and how many bytes it takes.
fn reference(text: &str) -> Option<(String, usize)> {
    let Some(number) = text.strip_prefix('#') else {
        let mut length = text
            .char_indices()
            .take(MAX_NAME)
            .take_while(|(_, c)| !"\t\n\x0c <&#;".contains(*c))
            .map(|(at, c)| at + c.len_utf8())
            .last()?;
        length += usize::from(text[length..].starts_with(';'));
        return Some((named(&text[..length]), length));
    };
    let (digits, radix) = match number.strip_prefix(['x', 'X']) {
        Some(digits) => (digits, 16),
        None => (number, 10),
    };
    let count = digits
        .bytes()
        .take_while(|byte| char::from(*byte).is_digit(radix))
        .count();
    if count == 0 {
        return None;
    }
    let value = digits[..count]
        .chars()
        .filter_map(|digit| digit.to_digit(radix))
        .fold(0u32, |value, digit| {
            value.saturating_mul(radix).saturating_add(digit)
        });
    let semicolon = usize::from(digits[count..].starts_with(';'));
    let length = text.len() - digits.len() + count + semicolon;
    Some((numbered(value), length))
}

/// The character of a number.
fn numbered(value: u32) -> String {
    match value {
        0 => '\u{fffd}'.into(),
        0x0D => '\r'.into(),
        0x80..=0x9F => Encoding::windows_1252().character(value as u8).into(),
        0x01..=0x08 | 0x0B | 0x0E..=0x1F | 0x7F | 0xFDD0..=0xFDEF => String::new(),
        // The last two of every plane are no characters.
        value if value <= 0x10_FFFF && value & 0xFFFE == 0xFFFE => String::new(),
        value => char::from_u32(value).unwrap_or('\u{fffd}').into(),
    }
}

/// What a name stands for, or the longest entity that it begins with.
fn named(name: &str) -> String {
    if let Some(text) = TABLES.entities.get(name) {
        return text.clone();
    }
    let mut ends: Vec<usize> = name.char_indices().map(|(at, _)| at).skip(2).collect();
    ends.reverse();
    for end in ends {
        if let Some(text) = TABLES.entities.get(&name[..end]) {
            return format!("{text}{}", &name[end..]);
        }
    }
    format!("&{name}")
}

/// Replaces the references that cannot be meant otherwise: those that end in a semicolon, and some
/// in capitals (`unescape_html` of ftfy).
pub(super) fn unescape_plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = plain_reference(rest).unwrap_or(1);
        let (found, after) = rest.split_at(length);
        rest = after;
        match PLAIN.get(found) {
            Some(text) => out.push_str(text),
            None if found.starts_with("&#") => {
                let text = unescape(found);
                out.push_str(if text.contains(';') { found } else { &text });
            }
            None => out.push_str(found),
        }
    }
    out.push_str(rest);
    out
}

/// Length of `&name;` or `&#name;` at the beginning of a text, of a name with 1 to 24 letters and
/// digits.
fn plain_reference(text: &str) -> Option<usize> {
    let start = if text.starts_with("&#") { 2 } else { 1 };
    let letters = text.bytes().skip(start);
    let count = letters
        .take_while(|byte| byte.is_ascii_alphanumeric())
        .count();
    let closed = text.as_bytes().get(start + count) == Some(&b';');
    ((1..=24).contains(&count) && closed).then_some(start + count + 1)
}

/// References that end in a semicolon, `&` included, and the capitals of those in small letters
/// that are no others'.
static PLAIN: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
    let mut plain = HashMap::new();
    for (name, text) in &TABLES.entities {
        if !name.ends_with(';') {
            continue;
        }
        plain.insert(format!("&{name}"), text.clone());
        if *name == name.to_lowercase() {
            let upper = format!("&{}", name.to_uppercase());
            if unescape(&upper) == upper {
                plain.insert(upper, text.to_uppercase());
            }
        }
    }
    plain
});
