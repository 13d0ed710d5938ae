//! The single-byte encodings that text is most often mistaken for, with no byte unassigned.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::tables::TABLES;

/// Encodings in the order in which they are tried (`CHARMAP_ENCODINGS` of ftfy).
const ORDER: [&str; 10] = [
    "latin-1",
    "sloppy-windows-1252",
    "sloppy-windows-1251",
    "sloppy-windows-1250",
    "sloppy-windows-1253",
    "sloppy-windows-1254",
    "sloppy-windows-1257",
    "iso-8859-2",
    "macroman",
    "cp437",
];

static ENCODINGS: LazyLock<Vec<Encoding>> =
    LazyLock::new(|| ORDER.iter().map(|name| Encoding::new(name)).collect());

/// Byte that stands for a character that was lost.
pub(super) const LOST: u8 = 0x1A;

/// A character for each byte and the reverse.
#[derive(Debug)]
pub(super) struct Encoding {
    name: &'static str,
    upper: Vec<char>,
    bytes: HashMap<char, u8>,
}

impl Encoding {
    fn new(name: &'static str) -> Self {
        let upper: Vec<char> = TABLES.encodings[name].chars().collect();
        let bytes = upper.iter().copied().zip(0x80u8..=0xFF).collect();
        Self { name, upper, bytes }
    }

    /// All, in the order in which they are tried.
    pub fn all() -> &'static [Self] {
        &ENCODINGS
    }

    /// What the Web reads text in that says to be Latin-1.
    pub fn windows_1252() -> &'static Self {
        &ENCODINGS[1]
    }

    /// Whether this is Latin-1.
    pub fn is_latin_1(&self) -> bool {
        self.name == "latin-1"
    }

    /// Whether this is the encoding of the older Macintosh.
    pub fn is_mac_roman(&self) -> bool {
        self.name == "macroman"
    }

    /// Whether [`LOST`] stands for U+FFFD in it.
    pub fn is_sloppy(&self) -> bool {
        self.name.starts_with("sloppy")
    }

    /// The bytes of a text; `None` where it has a character that is not in the encoding.
    pub fn encode(&self, text: &str) -> Option<Vec<u8>> {
        let byte = |c: char| match c {
            '\u{fffd}' if self.is_sloppy() => Some(LOST),
            '\x1a' if self.is_sloppy() => None,
            '\0'..='\x7f' => Some(c as u8),
            c => self.bytes.get(&c).copied(),
        };
        text.chars().map(byte).collect()
    }

    /// The character of a byte, U+001A for [`LOST`].
    pub fn character(&self, byte: u8) -> char {
        match byte {
            0x80.. => self.upper[usize::from(byte - 0x80)],
            byte => byte.into(),
        }
    }
}
