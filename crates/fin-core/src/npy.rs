//! Headers of NumPy's arrays (`numpy.lib.format`, versions 1 to 3).

use std::io::Read;

/// Begins every file.
pub const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Longest header that is read; one of a matrix is far shorter.
const MAX_HEADER_BYTES: usize = 1 << 16;

/// What the header of a `.npy` file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NpyHeader {
    /// Type of the elements, as in `<f4`.
    pub descr: String,
    /// Whether the first index changes fastest.
    pub fortran_order: bool,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Bytes before the elements.
    pub length: usize,
}

impl NpyHeader {
    /// Reads a header, or says why this is none.
    ///
    /// # Errors
    /// Those of the source; that it ends is no error of its own.
    pub fn read(source: &mut impl Read) -> std::io::Result<Result<Self, String>> {
        let mut prefix = Vec::with_capacity(8);
        source.by_ref().take(8).read_to_end(&mut prefix)?;
        if !prefix.starts_with(MAGIC) || prefix.len() < 8 {
            return Ok(Err("not a .npy file".to_owned()));
        }
        let length_bytes = match prefix[6..] {
            [1, 0] => 2,
            [2 | 3, 0] => 4,
            _ => {
                return Ok(Err(format!(
                    "version {}.{} of the .npy format is unknown",
                    prefix[6], prefix[7]
                )));
            }
        };
        let truncated = || Ok(Err("the file ends within its header".to_owned()));
        let mut header_length = [0; 4];
        if !read_exact(source, &mut header_length[..length_bytes])? {
            return truncated();
        }
        let header_length = u32::from_le_bytes(header_length) as usize;
        if header_length > MAX_HEADER_BYTES {
            return Ok(Err(format!(
                "a header of {header_length} bytes is not one of a matrix"
            )));
        }
        let mut header = vec![0; header_length];
        if !read_exact(source, &mut header)? {
            return truncated();
        }
        let Ok(text) = std::str::from_utf8(&header) else {
            return Ok(Err("the header is not text".to_owned()));
        };
        let Some(dictionary) = Dictionary::parse(text) else {
            return Ok(Err(format!(
                "the header is not in NumPy's form: {:?}",
                text.trim_end()
            )));
        };
        Ok(Ok(Self {
            descr: dictionary.descr.to_owned(),
            fortran_order: dictionary.fortran_order,
            shape: dictionary.shape,
            length: 8 + length_bytes + header_length,
        }))
    }
}

/// As [`Read::read_exact`], but false where the source ends.
fn read_exact(source: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<bool> {
    match source.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Fields of the dictionary in a header.
#[derive(Debug, PartialEq)]
struct Dictionary<'a> {
    descr: &'a str,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl<'a> Dictionary<'a> {
    /// Parses a Python dictionary with exactly these three keys.
    fn parse(text: &'a str) -> Option<Self> {
        let mut rest = token(text, "{")?;
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        loop {
            if let Some(end) = token(rest, "}") {
                return end.trim().is_empty().then_some(Self {
                    descr: descr?,
                    fortran_order: fortran_order?,
                    shape: shape?,
                });
            }
            let (key, after) = string(rest)?;
            let value = token(after, ":")?;
            rest = match key {
                "descr" => {
                    let (value, after) = string(value)?;
                    descr.replace(value).is_none().then_some(after)
                }
                "fortran_order" => {
                    let (value, after) = match token(value, "True") {
                        Some(after) => (true, after),
                        None => (false, token(value, "False")?),
                    };
                    fortran_order.replace(value).is_none().then_some(after)
                }
                "shape" => {
                    let (value, after) = token(value, "(")?.split_once(')')?;
                    shape.replace(dimensions(value)?).is_none().then_some(after)
                }
                _ => None,
            }?;
            match token(rest, ",") {
                Some(after) => rest = after,
                None => _ = token(rest, "}")?,
            }
        }
    }
}

/// What follows a token at the start of the text.
fn token<'a>(text: &'a str, token: &str) -> Option<&'a str> {
    text.trim_start().strip_prefix(token)
}

/// A quoted string without escapes and what follows it.
fn string(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let quote = text
        .chars()
        .next()
        .filter(|quote| matches!(quote, '\'' | '"'))?;
    text[1..].split_once(quote)
}

/// The numbers of a tuple between its parentheses.
fn dimensions(text: &str) -> Option<Vec<usize>> {
    let text = text.trim();
    let text = text.strip_suffix(',').unwrap_or(text);
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(',')
        .map(|number| number.trim().parse().ok())
        .collect()
}
