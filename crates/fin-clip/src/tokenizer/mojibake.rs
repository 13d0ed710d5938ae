//! Text that was damaged on its way, mended as ftfy 6.3.1 mends it with its defaults.
//!
//! [`fix_text`] is `ftfy.fix_text` (Speer 2019, `ftfy/__init__.py`, `fixes.py`, `chardata.py` and
//! `badness.py`): HTML's entities in what is no HTML, text that was decoded in the wrong encoding,
//! C1 control characters, ligatures, full-width forms, curly quotes, line ends, terminal escapes,
//! control characters, and normalisation form C. Surrogates, which ftfy pairs, cannot be in a
//! Rust string. A text has the same result here, but for characters that the versions of Unicode
//! on the two sides know differently, and for CESU-8 that is cut off before the end of a line.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Regex, bytes};
use tokenizers::NormalizedString;

use super::encodings::Encoding;
use super::html::unescape_plain;
use super::tables::TABLES;

/// Longest part of a text that is mended at a time, in characters.
const MAX_SEGMENT: usize = 1_000_000;

/// `ftfy.fix_text`, line by line.
pub(super) fn fix_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut entities = true;
    for line in text.split_inclusive('\n') {
        let mut rest = line;
        while !rest.is_empty() {
            let end = rest.char_indices().nth(MAX_SEGMENT);
            let (segment, after) = rest.split_at(end.map_or(rest.len(), |(at, _)| at));
            rest = after;
            // From here on it is HTML.
            entities &= !segment.contains('<');
            out.push_str(&fix_segment(segment, entities));
        }
    }
    out
}

/// Mends a segment until nothing changes.
fn fix_segment(text: &str, entities: bool) -> String {
    let mut text = text.to_string();
    loop {
        let mut new = text.clone();
        if entities && new.contains('&') {
            new = unescape_plain(&new);
        }
        new = fix_encoding(new);
        // What follows leaves these characters alone.
        if !new
            .bytes()
            .all(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\n'))
        {
            new = replace_characters(&fix_c1_controls(&new));
            new = TERMINAL_ESCAPE.replace_all(&new, "").into_owned();
            new.retain(|c| !is_control(c));
            let mut normalized = NormalizedString::from(&*new);
            normalized.nfc();
            new = normalized.get().to_string();
        }
        if new == text {
            return text;
        }
        text = new;
    }
}

static TERMINAL_ESCAPE: LazyLock<Regex> = LazyLock::new(|| regex(r"\x1b\[(?:\d|;)*[a-zA-Z]"));

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the pattern belongs to the program and is valid")
}

fn byte_regex(pattern: &str) -> bytes::Regex {
    bytes::Regex::new(pattern).expect("the pattern belongs to the program and is valid")
}

/// Ligatures taken apart, widths made standard, quotes made straight, lines ended by line feeds.
fn replace_characters(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match TABLES.ligatures.get(&c) {
            Some(letters) => letters.chars().for_each(|c| push_replaced(c, &mut out)),
            None => push_replaced(c, &mut out),
        }
    }
    if out.contains('\r') {
        out = out.replace("\r\n", "\n").replace('\r', "\n");
    }
    out
}

fn push_replaced(c: char, out: &mut String) {
    match c {
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => out.push('\''),
        '\u{201c}'..='\u{201f}' => out.push('"'),
        '\u{2028}' | '\u{2029}' | '\u{85}' => out.push('\n'),
        '\u{3000}' | '\u{ff01}'..='\u{ffef}' => match TABLES.widths.get(&c) {
            Some(text) => out.push_str(text),
            None => out.push(c),
        },
        c => out.push(c),
    }
}

/// Control characters that nobody means to write.
fn is_control(c: char) -> bool {
    matches!(c,
        '\0'..='\x08' | '\x0b' | '\x0e'..='\x1f' | '\x7f'
        | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
}

/// C1 control characters stand for what Windows-1252 has in their place.
fn fix_c1_controls(text: &str) -> Cow<'_, str> {
    if !text.contains(is_c1) {
        return text.into();
    }
    let fix = |c: char| match c {
        c if is_c1(c) => Encoding::windows_1252().character(c as u8),
        c => c,
    };
    text.chars().map(fix).collect()
}

fn is_c1(c: char) -> bool {
    matches!(c, '\u{80}'..='\u{9f}')
}

/// Undoes decoding in the wrong encoding, however often it was done.
fn fix_encoding(mut text: String) -> String {
    while let Some(new) = fix_encoding_once(&text) {
        if new == text {
            break;
        }
        text = new;
    }
    text
}

/// The text with one decoding undone; `None` where there is none to undo.
fn fix_encoding_once(text: &str) -> Option<String> {
    if text.is_ascii() || !is_bad(text) {
        return None;
    }
    let mut latin_1 = None;
    for encoding in Encoding::all() {
        let Some(bytes) = encoding.encode(text) else {
            continue;
        };
        let mut restored = Cow::Borrowed(&bytes);
        if !encoding.is_mac_roman() && SPACE_FOR_A0.is_match(&bytes) {
            restored = Cow::Owned(restore_a0(&bytes));
        }
        if encoding.is_sloppy() {
            let replaced = LOST_IN_UTF8.replace_all(&restored, "\u{fffd}".as_bytes());
            restored = Cow::Owned(replaced.into_owned());
        }
        if let Some(text) = decode_utf8(&restored) {
            return Some(text);
        }
        if encoding.is_latin_1() {
            latin_1 = Some(bytes);
        }
    }
    if let Some(new) = fix_parts(text) {
        return Some(new);
    }
    // Latin-1 with control characters is Windows-1252, where that has a character for each.
    const UNASSIGNED: [u8; 5] = [0x81, 0x8D, 0x8F, 0x90, 0x9D];
    if let Some(bytes) = latin_1
        && !bytes.iter().any(|byte| UNASSIGNED.contains(byte))
        && bytes.iter().any(|byte| (0x80..0xA0).contains(byte))
    {
        let decode = |byte: &u8| Encoding::windows_1252().character(*byte);
        return Some(bytes.iter().map(decode).collect());
    }
    text.contains(is_c1)
        .then(|| fix_c1_controls(text).into_owned())
}

/// Decodes what looks like UTF-8 in text of another encoding.
fn fix_parts(text: &str) -> Option<String> {
    let mut out = String::new();
    let (mut done, mut at) = (0, 0);
    while let Some(found) = UTF8_PARTS.find_at(text, at) {
        let before = text[..found.start()].chars().next_back();
        if before.is_some_and(|c| CONTINUATION.is_match(c.encode_utf8(&mut [0; 4]))) {
            // Part of a larger muddle, of which this is not the beginning.
            let first = found.as_str().chars().next().map_or(1, char::len_utf8);
            at = found.start() + first;
            continue;
        }
        at = found.end();
        let part = found.as_str();
        if part.len() < text.len() && is_bad(part) {
            out.push_str(&text[done..found.start()]);
            out.push_str(&fix_encoding(part.to_string()));
            done = at;
        }
    }
    out.push_str(&text[done..]);
    (out != text).then_some(out)
}

static UTF8_PARTS: LazyLock<Regex> = LazyLock::new(|| {
    let class = |name: &str| format!("[{}]", TABLES.utf8[name]);
    let next = class("utf8_continuation");
    regex(&format!(
        "(?:{}{next}|{}{next}{{2}}|{}{next}{{3}})+",
        class("utf8_first_of_2"),
        class("utf8_first_of_3"),
        class("utf8_first_of_4"),
    ))
});

static CONTINUATION: LazyLock<Regex> =
    LazyLock::new(|| regex(&format!("[{}]", TABLES.utf8["utf8_continuation_strict"])));

/// UTF-8 in which a byte 0xA0 became a space.
static SPACE_FOR_A0: LazyLock<bytes::Regex> = LazyLock::new(|| {
    byte_regex(concat!(
        r"(?-u)[\xc2\xc3\xc5\xce\xd0\xd9] ",
        r"|[\xe2\xe3] [\x80-\x84\x86-\x9f\xa1-\xbf]",
        r"|[\xe0-\xe3][\x80-\x84\x86-\x9f\xa1-\xbf] ",
        r"|\xf0 [\x80-\xbf][\x80-\xbf]",
        r"|\xf0[\x80-\xbf] [\x80-\xbf]",
        r"|\xf0[\x80-\xbf][\x80-\xbf] ",
    ))
});

/// UTF-8 in which bytes were lost.
static LOST_IN_UTF8: LazyLock<bytes::Regex> = LazyLock::new(|| {
    byte_regex(concat!(
        r"(?-u)[\xc2-\xdf]\x1a",
        r"|[\xc2\xc3]\?",
        r"|\xed[\xa0-\xaf][\x1a?]\xed[\xb0-\xbf][\x1a?\x80-\xbf]",
        r"|\xed[\xa0-\xaf][\x1a?\x80-\xbf]\xed[\xb0-\xbf][\x1a?]",
        r"|[\xe0-\xef][\x1a?][\x1a\x80-\xbf]",
        r"|[\xe0-\xef][\x1a\x80-\xbf][\x1a?]",
        r"|[\xf0-\xf4][\x1a?][\x1a\x80-\xbf][\x1a\x80-\xbf]",
        r"|[\xf0-\xf4][\x1a\x80-\xbf][\x1a?][\x1a\x80-\xbf]",
        r"|[\xf0-\xf4][\x1a\x80-\xbf][\x1a\x80-\xbf][\x1a?]",
        r"|\x1a",
    ))
});

/// Puts 0xA0 back where a space is in its place. An `à` that is a word of its own keeps a space
/// after it.
fn restore_a0(bytes: &[u8]) -> Vec<u8> {
    const A_GRAVE: [u8; 2] = [0xC3, b' '];
    // Not a word of its own, but the beginning of a Portuguese one, or followed by a space.
    const BEGINNINGS: [&[u8]; 5] = [b" ", b"quele", b"quela", b"quilo", b"s "];
    let mut out = Vec::with_capacity(bytes.len() + 1);
    let mut rest = bytes;
    while let Some(byte) = rest.first() {
        match rest.strip_prefix(&A_GRAVE) {
            Some(after) if !BEGINNINGS.iter().any(|word| after.starts_with(word)) => {
                out.extend([0xC3, 0xA0, b' ']);
                rest = after;
            }
            _ => {
                out.push(*byte);
                rest = &rest[1..];
            }
        }
    }
    let restore = |found: &bytes::Captures| -> Vec<u8> {
        let byte = |byte: &u8| if *byte == b' ' { 0xA0 } else { *byte };
        found[0].iter().map(byte).collect()
    };
    SPACE_FOR_A0.replace_all(&out, restore).into_owned()
}

/// Decodes UTF-8, with characters as two surrogates (CESU-8) and zero as two bytes (Java) allowed.
fn decode_utf8(bytes: &[u8]) -> Option<String> {
    if !bytes.iter().any(|byte| matches!(byte, 0xC0 | 0xED)) {
        return std::str::from_utf8(bytes).ok().map(str::to_string);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(byte) = rest.first() {
        rest = match rest {
            [0xC0, 0x80, after @ ..] => {
                out.push(0);
                after
            }
            [
                0xED,
                a @ 0xA0..=0xAF,
                b @ 0x80..=0xBF,
                0xED,
                c @ 0xB0..=0xBF,
                d @ 0x80..=0xBF,
                after @ ..,
            ] => {
                let bits = |byte: &u8, mask: u8, shift: u32| u32::from(byte & mask) << shift;
                let value =
                    bits(a, 0x0F, 16) | bits(b, 0x3F, 10) | bits(c, 0x0F, 6) | bits(d, 0x3F, 0);
                let c = char::from_u32(value + 0x1_0000)?;
                out.extend(c.encode_utf8(&mut [0; 4]).bytes());
                after
            }
            _ => {
                out.push(*byte);
                &rest[1..]
            }
        };
    }
    String::from_utf8(out).ok()
}

/// Whether a text has neighbours that come of decoding in the wrong encoding (`badness.py`).
fn is_bad(text: &str) -> bool {
    BAD.is_match(text)
}

static BAD: LazyLock<Regex> = LazyLock::new(|| {
    let mut pattern = BAD_NEIGHBOURS.join("|");
    for (name, characters) in &TABLES.mojibake {
        pattern = pattern.replace(&format!("{{{name}}}"), characters);
    }
    regex(&pattern)
});

/// Alternatives of an expression, with `{name}` for characters of `mojibake` in the tables. White
/// space and letters are spelt out where Python's are others.
const BAD_NEIGHBOURS: [&str; 37] = [
    "[{c1}]",
    "[{bad}{lower_accented}{upper_accented}{box}{start_punctuation}{end_punctuation}{currency}{numeric}{law}][{bad}]",
    "[a-zA-Z][{lower_common}{upper_common}][{bad}]",
    "[{bad}][{lower_accented}{upper_accented}{box}{start_punctuation}{end_punctuation}{currency}{numeric}{law}]",
    "[{lower_accented}{lower_common}{box}{end_punctuation}{currency}{numeric}][{upper_accented}]",
    "[{box}{end_punctuation}{currency}{numeric}][{lower_accented}]",
    "[{lower_accented}{box}{end_punctuation}][{currency}]",
    r"[\s\x1c-\x1f][{upper_accented}][{currency}]",
    "[{upper_accented}{box}][{numeric}{law}]",
    "[{lower_accented}{upper_accented}{box}{currency}{end_punctuation}][{start_punctuation}][{numeric}]",
    "[{lower_accented}{upper_accented}{currency}{numeric}{box}{law}][{end_punctuation}][{start_punctuation}]",
    "[{currency}{numeric}{box}][{start_punctuation}]",
    "[a-z][{upper_accented}][{start_punctuation}{currency}]",
    "[{box}][{kaomoji}]",
    "[{lower_accented}{upper_accented}{currency}{numeric}{start_punctuation}{end_punctuation}{law}][{box}]",
    "[{box}][{end_punctuation}]",
    r"[{lower_accented}{upper_accented}][{start_punctuation}{end_punctuation}][\p{L}\p{N}_]",
    // The ligature œ, unless an unaccented letter follows.
    "[Œœ][^A-Za-z]",
    // A degree sign after a capital letter.
    "[{upper_accented}]°",
    // Windows-1252.
    "[ÂÃÎÐ][€œŠš¢£Ÿž\u{a0}\u{ad}®©°·»{start_punctuation}{end_punctuation}–—´]",
    "×[²³]",
    // Windows-1252 of Arabic, where common characters occur: two of them are needed.
    "[ØÙ][{common}{currency}{bad}{numeric}{start_punctuation}ŸŠ®°µ»][ØÙ][{common}{currency}{bad}{numeric}{start_punctuation}ŸŠ®°µ»]",
    // Windows-1252 of South Asian alphabets.
    "à[²µ¹¼½¾]",
    // Mac Roman.
    "√[±∂†≠®™´≤≥¥µø]",
    "≈[°¢]",
    "‚Ä[ìîïòôúùû†°¢π]",
    "‚[âó][àä°ê]",
    // Windows-1251 of punctuation, of Latin-1 and of Cyrillic.
    "вЂ",
    "[ВГРС][{c1}{bad}{start_punctuation}{end_punctuation}{currency}°µ][ВГРС]",
    "ГўВЂВ.[A-Za-z ]",
    // Windows-1252 of à, á and a space that does not break.
    "Ã[\u{a0}¡]",
    r"[a-z][\s\x1c-\x1f]?[ÃÂ] ",
    "^[ÃÂ] ",
    "[a-z.,?!{end_punctuation}]Â[ {start_punctuation}{end_punctuation}]",
    // Windows-1253 of punctuation, of Latin-1 and of Greek.
    "β€[™\u{a0}Ά\u{ad}®°]",
    "[ΒΓΞΟ][{c1}{bad}{start_punctuation}{end_punctuation}{currency}°][ΒΓΞΟ]",
    // Windows-1257 of punctuation.
    "ā€",
];
