//! Lines of UTF-8 text, one at a time.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, stdin};
use std::path::{Path, PathBuf};

use super::{STDIN, stdin_name};
use crate::error::{Error, Result};

/// Longest line, and longest row over several lines, in bytes. Anything longer is not a file of texts.
pub(super) const MAX_LINE_BYTES: usize = 64 << 20;

/// Bytes of a sample.
const SAMPLE_BYTES: usize = 1 << 16;

/// A reader of lines that holds one line at a time.
pub(super) struct Lines {
    reader: Box<dyn BufRead + Send>,
    path: PathBuf,
    number: u64,
    text: String,
}

impl Lines {
    /// Opens a file, or stdin for `-`.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be opened.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if path == Path::new(STDIN) {
            return Ok(Self::new(BufReader::new(stdin()), stdin_name()));
        }
        let file = File::open(path).map_err(Error::io(path, "read"))?;
        Ok(Self::new(
            BufReader::with_capacity(1 << 16, file),
            path.to_path_buf(),
        ))
    }

    /// Lines of `reader`, which errors call `path`.
    pub(super) fn new(reader: impl BufRead + Send + 'static, path: PathBuf) -> Self {
        Self {
            reader: Box::new(reader),
            path,
            number: 0,
            text: String::new(),
        }
    }

    /// Moves to the next line; false at the end.
    ///
    /// # Errors
    /// [`Error::Io`] where reading fails, [`Error::Row`] where the line is not UTF-8 or longer
    /// than [`MAX_LINE_BYTES`].
    pub(super) fn advance(&mut self) -> Result<bool> {
        let mut bytes = std::mem::take(&mut self.text).into_bytes();
        bytes.clear();
        let read = (&mut self.reader)
            .take(MAX_LINE_BYTES as u64 + 1)
            .read_until(b'\n', &mut bytes)
            .map_err(Error::io(&self.path, "read"))?;
        if read == 0 {
            return Ok(false);
        }
        self.number += 1;
        if bytes.len() > MAX_LINE_BYTES && !bytes.ends_with(b"\n") {
            let reason = format!(
                "longer than {} MiB; is this a text file?",
                MAX_LINE_BYTES >> 20
            );
            return Err(self.error(reason));
        }
        self.text = String::from_utf8(bytes).map_err(|error| {
            let offset = error.utf8_error().valid_up_to();
            self.error(not_utf8(self.number, error.as_bytes(), offset))
        })?;
        if self.number == 1 && self.text.starts_with('\u{feff}') {
            self.text.drain(..'\u{feff}'.len_utf8());
            // A byte order mark alone is an empty file, not an empty line.
            if self.text.is_empty() {
                return Ok(false);
            }
        }
        if !self.text.ends_with('\n') {
            self.text.push('\n');
        }
        Ok(true)
    }

    /// The lines that the next [`SAMPLE_BYTES`] hold whole, or all there are; they are still to come.
    ///
    /// # Errors
    /// [`Error::Io`] where reading fails.
    pub(super) fn sample(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        (&mut self.reader)
            .take(SAMPLE_BYTES as u64)
            .read_to_end(&mut bytes)
            .map_err(Error::io(&self.path, "read"))?;
        let rest = std::mem::replace(&mut self.reader, Box::new(std::io::empty()));
        self.reader = Box::new(Cursor::new(bytes.clone()).chain(rest));
        if bytes.len() == SAMPLE_BYTES {
            let end = bytes.iter().rposition(|&byte| byte == b'\n');
            bytes.truncate(end.map_or(0, |end| end + 1));
        }
        Ok(bytes)
    }

    /// The line with its end, which is `\n` where the last line has none.
    pub(super) fn raw(&self) -> &str {
        &self.text
    }

    /// The line without its `\n` or `\r\n`.
    pub(super) fn text(&self) -> &str {
        let text = self.text.strip_suffix('\n').unwrap_or(&self.text);
        text.strip_suffix('\r').unwrap_or(text)
    }

    /// One-based number of the line.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// What errors call the source.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// [`Error::Row`] at this line.
    pub(super) fn error(&self, reason: impl fmt::Display) -> Error {
        Error::row(&self.path, self.number, reason)
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines")
            .field("path", &self.path)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

fn not_utf8(line: u64, bytes: &[u8], offset: usize) -> String {
    if line == 1 && (bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff])) {
        return "byte 0xff or 0xfe at offset 0 of the line marks UTF-16; convert the file to \
                UTF-8, as with `iconv -f UTF-16 -t UTF-8`"
            .to_owned();
    }
    format!(
        "byte {:#04x} at offset {offset} of the line is not valid UTF-8; convert the file to \
         UTF-8, as with `iconv -f WINDOWS-1252 -t UTF-8`",
        bytes[offset]
    )
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{Cursor, repeat};

    use super::*;

    /// Lines of bytes in memory, called `data`.
    pub(in super::super) fn lines(bytes: impl AsRef<[u8]>) -> Lines {
        Lines::new(Cursor::new(bytes.as_ref().to_vec()), "data".into())
    }

    fn all(bytes: &[u8]) -> Result<Vec<String>> {
        let mut lines = lines(bytes);
        let mut found = Vec::new();
        while lines.advance()? {
            found.push(lines.text().to_owned());
            assert_eq!(lines.number(), found.len() as u64);
        }
        assert!(!lines.advance()?);
        Ok(found)
    }

    #[test]
    fn line_ends() {
        assert_eq!(all(b"a\r\n\nb\r\r\nc").unwrap(), ["a", "", "b\r", "c"]);
        assert_eq!(all(b"a\n").unwrap(), ["a"]);
        assert_eq!(all(b"\n\n").unwrap(), ["", ""]);
        assert!(all(b"").unwrap().is_empty());
    }

    #[test]
    fn the_byte_order_mark_is_skipped_at_the_start_alone() {
        assert_eq!(
            all(b"\xef\xbb\xbfa\n\xef\xbb\xbfb").unwrap(),
            ["a", "\u{feff}b"]
        );
        assert_eq!(all(b"\xef\xbb\xbf\na").unwrap(), ["", "a"]);
        assert!(all(b"\xef\xbb\xbf").unwrap().is_empty());
    }

    #[test]
    fn invalid_utf8_names_line_offset_and_fix() {
        let error = all("gut\nschön\nna\n".as_bytes()).map(|lines| lines.len());
        assert_eq!(error.unwrap(), 3);
        let error = all(b"gut\nsch\xf6n\nna\n").unwrap_err();
        assert!(matches!(error, Error::Row { line: 2, .. }), "{error}");
        let error = error.to_string();
        assert!(
            error.starts_with("data: line 2: byte 0xf6 at offset 3 of the line"),
            "{error}"
        );
        assert!(error.contains("convert the file to UTF-8"), "{error}");
        // A sequence that the end of the line cuts off is not completed by the next line.
        let error = all(b"ab\xc3\n\xb6").unwrap_err().to_string();
        assert!(error.contains("line 1: byte 0xc3 at offset 2"), "{error}");
    }

    #[test]
    fn utf16_is_recognised() {
        for bytes in [&b"\xff\xfea\0\n\0"[..], b"\xfe\xff\0a\0\n"] {
            let error = all(bytes).unwrap_err().to_string();
            assert!(
                error.contains("line 1") && error.contains("UTF-16"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::new(BufReader::new(repeat(b'a')), "data".into());
        let error = lines.advance().unwrap_err();
        assert!(matches!(error, Error::Row { line: 1, .. }), "{error}");
        assert!(error.to_string().contains("longer than 64 MiB"), "{error}");
    }
}
