//! Rows of comma- and tab-separated values.

use std::io::{self, Read};
use std::path::Path;

use csv::{ReaderBuilder, StringRecord};

use super::lines::{Lines, MAX_LINE_BYTES};
use crate::error::{Error, Result};

/// Rows of a delimited file, blank lines left out.
#[derive(Debug)]
pub(super) struct Rows {
    reader: csv::Reader<RowLines>,
    record: StringRecord,
}

impl Rows {
    /// Values as in RFC 4180, with this delimiter.
    pub(super) fn csv(lines: Lines, delimiter: u8) -> Self {
        Self::new(lines, ReaderBuilder::new().delimiter(delimiter))
    }

    /// Tab-separated values. Writers disagree on quotes in such files; here they are ordinary
    /// characters, so that no row spans lines.
    pub(super) fn tsv(lines: Lines) -> Self {
        Self::new(lines, ReaderBuilder::new().delimiter(b'\t').quoting(false))
    }

    fn new(lines: Lines, builder: &mut ReaderBuilder) -> Self {
        let lines = RowLines {
            lines,
            delivered: 0,
            row: 0,
            row_bytes: 0,
            ended: false,
        };
        Self {
            // Widths are checked where the header is known.
            reader: builder.has_headers(false).flexible(true).from_reader(lines),
            record: StringRecord::new(),
        }
    }

    /// Reads a row and the one-based number of the line it starts on; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Row`] where a quoted field is not closed, and the errors of [`Lines::advance`].
    pub(super) fn read(&mut self) -> Result<Option<(u64, Vec<String>)>> {
        self.reader.get_mut().row_bytes = 0;
        let found = self.reader.read_record(&mut self.record);
        if !found.map_err(|error| self.failed(error))? {
            return Ok(None);
        }
        let line = self.reader.get_ref().row;
        // Every line ends in `\n`, so only a quote keeps a row open until the end.
        if self.reader.get_ref().ended {
            let reason = "a quoted field of the row that starts here is not closed; close it, or \
                          double the quotes inside it and enclose the whole field in quotes";
            return Err(Error::row(self.path(), line, reason));
        }
        let fields = self.record.iter().map(str::to_owned).collect();
        Ok(Some((line, fields)))
    }

    /// The error of [`Lines::advance`] that the reader passed on.
    fn failed(&self, error: csv::Error) -> Error {
        let error = match error.into_kind() {
            csv::ErrorKind::Io(error) => error,
            kind => io::Error::other(format!("{kind:?}")),
        };
        let other = Error::io(self.path(), "read");
        error.downcast().unwrap_or_else(other)
    }

    /// What errors call the source.
    pub(super) fn path(&self) -> &Path {
        self.reader.get_ref().lines.path()
    }
}

/// The delimiter of rows that begin like this, cut off at the end of a line.
///
/// The comma, unless it does not split all rows into as many fields, at least two, and another of
/// `;`, the tab and `|` does; then that with most fields.
pub(super) fn delimiter_of(sample: &[u8]) -> u8 {
    let width = |delimiter: u8| {
        let mut builder = ReaderBuilder::new();
        builder.has_headers(false).flexible(true);
        let mut rows = builder.delimiter(delimiter).from_reader(sample);
        let mut widths = rows
            .byte_records()
            .map(|row| row.map_or(0, |row| row.len()));
        let first = widths.next().unwrap_or(0);
        let is_table = first > 1 && widths.all(|width| width == first);
        if is_table { first } else { 0 }
    };
    if width(b',') > 0 {
        return b',';
    }
    let mut best = (0, b',');
    for delimiter in [b';', b'\t', b'|'] {
        let width = width(delimiter);
        if width > best.0 {
            best = (width, delimiter);
        }
    }
    best.1
}

/// Checked lines as the source of a [`csv::Reader`].
///
/// Of itself that reader takes any bytes and rows of any length, and the position it gives a
/// record lies before the blank lines and the `\n` of a `\r\n` that precede it. Here a call
/// delivers one line at most, so the lines read since the last row are the row's own.
#[derive(Debug)]
struct RowLines {
    lines: Lines,
    /// Bytes of the current line that the reader has.
    delivered: usize,
    /// Number of the line on which the current row starts.
    row: u64,
    /// Bytes of the current row's lines; zero before the first that is not blank.
    row_bytes: usize,
    /// Whether the reader was told that there is no more.
    ended: bool,
}

impl Read for RowLines {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.delivered == self.lines.raw().len() {
            // A row over more bytes than a line may have is one whose quote is never closed.
            let more = self.row_bytes <= MAX_LINE_BYTES
                && self.lines.advance().map_err(io::Error::other)?;
            if !more {
                self.ended = true;
                return Ok(0);
            }
            self.delivered = 0;
            if self.row_bytes == 0 {
                self.row = self.lines.number();
            }
            if self.row_bytes > 0 || !self.lines.text().is_empty() {
                self.row_bytes += self.lines.raw().len();
            }
        }
        let read = (&self.lines.raw().as_bytes()[self.delivered..]).read(buffer)?;
        self.delivered += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::tests::lines;
    use super::*;

    fn all(mut rows: Rows) -> Result<Vec<(u64, Vec<String>)>> {
        std::iter::from_fn(|| rows.read().transpose()).collect()
    }

    fn row(line: u64, fields: &[&str]) -> (u64, Vec<String>) {
        (line, fields.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn quoted_commas_quotes_and_line_ends() {
        let text = "a,\"b,c\",\"d \"\"e\"\" f\"\r\n\"1\n2\r\n3\",,\"\"\r\nx,5\" pipe,z";
        let expected = [
            row(1, &["a", "b,c", "d \"e\" f"]),
            row(2, &["1\n2\r\n3", "", ""]),
            row(5, &["x", "5\" pipe", "z"]),
        ];
        assert_eq!(all(Rows::csv(lines(text), b',')).unwrap(), expected);
    }

    #[test]
    fn blank_lines_are_skipped_and_counted() {
        let text = "\n\r\na,b\r\n\r\n\n\"\n\n\",d\n\ne,f";
        let expected = [
            row(3, &["a", "b"]),
            row(6, &["\n\n", "d"]),
            row(10, &["e", "f"]),
        ];
        assert_eq!(all(Rows::csv(lines(text), b',')).unwrap(), expected);
        assert_eq!(
            all(Rows::csv(lines("\"\"\n"), b',')).unwrap(),
            [row(1, &[""])]
        );
        let expected = [row(2, &["a", "b"]), row(4, &["c", ""])];
        let text = "\na\tb\n\nc\t\n\n";
        assert_eq!(all(Rows::tsv(lines(text))).unwrap(), expected);
    }

    #[test]
    fn an_unclosed_quote_is_an_error_where_its_row_starts() {
        for text in [
            "a,b\n\nc,\"d\ne,f\n",
            "a,b\r\n\r\nc,\"d",
            "a,b\n\nc,\"",
            "a,b\n\nc,\"d\"\"\n",
        ] {
            let mut rows = Rows::csv(lines(text), b',');
            assert_eq!(rows.read().unwrap().unwrap(), row(1, &["a", "b"]));
            let error = rows.read().unwrap_err();
            assert!(
                matches!(error, Error::Row { line: 3, .. }),
                "{text:?}: {error}"
            );
            assert!(error.to_string().contains("not closed"), "{error}");
        }
    }

    #[test]
    fn an_unclosed_quote_does_not_fill_the_memory() {
        let line = "a".repeat(1 << 20) + "\n";
        let mut rows = Rows::csv(lines(format!("\n\"{}", line.repeat(80))), b',');
        let error = rows.read().unwrap_err();
        assert!(matches!(error, Error::Row { line: 2, .. }), "{error}");
        assert!(error.to_string().contains("not closed"), "{error}");
        assert!(rows.reader.get_ref().lines.number() < 70);
    }

    #[test]
    fn quotes_between_tabs_are_ordinary_characters() {
        let text = "\"a b\"\t\"say \"\"x\"\"\"\tc\r\n\"stray\td\t\"\n";
        let expected = [
            row(1, &["\"a b\"", "\"say \"\"x\"\"\"", "c"]),
            row(2, &["\"stray", "d", "\""]),
        ];
        assert_eq!(all(Rows::tsv(lines(text))).unwrap(), expected);
    }

    #[test]
    fn the_delimiter_is_found_where_it_is_not_the_comma() {
        for (sample, delimiter) in [
            ("a,b\nc,d\n", b','),
            ("a;b\nc, or d;e\n", b';'),
            ("a\tb\tc\nd, e\tf;g\th\n", b'\t'),
            ("a|b\nc|\"d|e, f\"\n", b'|'),
            // Decimal commas.
            ("a;b;c\nx;y;0,5\n", b';'),
            // Rows of another width are told as before, and one column stays one.
            ("a,b\nc,d,e\n", b','),
            ("text\nfirst; second\n", b','),
            ("a,b;c\nd,e;f\n", b','),
            ("", b','),
        ] {
            let found = delimiter_of(sample.as_bytes());
            assert_eq!(found as char, delimiter as char, "{sample}");
        }
    }

    #[test]
    fn rows_longer_than_the_buffer() {
        let long = "é\n".repeat(1 << 14);
        let text = format!("a,b\n\"{long}\",c\nd,e\n");
        let last = 3 + (1 << 14);
        let expected = [
            row(1, &["a", "b"]),
            row(2, &[&long, "c"]),
            row(last, &["d", "e"]),
        ];
        assert_eq!(all(Rows::csv(lines(text), b',')).unwrap(), expected);
    }
}
