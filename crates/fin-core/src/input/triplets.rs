//! Training data: triplets with a teacher's margin.

use std::path::Path;

use super::reader::RowReader;
use super::record::Records;
use super::training::score;
use super::{Column, ReadOptions};
use crate::error::Result;

/// A query, two texts, and by how much a teacher scores the first above the second.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredTriplet {
    /// One-based line number in the file.
    pub line: u64,
    /// Query.
    pub query: String,
    /// Text that should lie closer to the query.
    pub positive: String,
    /// Text that should lie farther from the query.
    pub negative: String,
    /// Score of the positive less that of the negative, finite, in the teacher's own units.
    pub margin: f32,
}

/// Where the parts of a [`ScoredTriplet`] stand. [`read_scored_triplets`] tells what stands in for
/// `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScoredTripletColumns {
    /// Column of the queries.
    pub query: Option<Column>,
    /// Column of the positives.
    pub positive: Option<Column>,
    /// Column of the negatives.
    pub negative: Option<Column>,
    /// Column of the margins.
    pub margin: Option<Column>,
}

/// Reads triplets with a margin from a file, or from stdin for `-`: what distillation by margins
/// trains on (Hofstätter et al. 2020; Wang et al. 2022, "GPL").
///
/// In `.csv` and `.tsv` files the columns are by default the first four, or `query`, `positive`,
/// `negative` and `margin` where the header has them all. In `.jsonl` files these names are the
/// keys of objects, and arrays hold the four in this order. A margin is a finite number, in JSON
/// also one written as a string.
///
/// # Errors
/// As [`read_pairs`](super::read_pairs); [`Error::Row`](crate::Error::Row) also where a margin is
/// not a finite number.
pub fn read_scored_triplets(
    path: impl AsRef<Path>,
    columns: &ScoredTripletColumns,
    options: ReadOptions,
) -> Result<Vec<ScoredTriplet>> {
    open_scored_triplets(path, columns, options)?.collect()
}

/// [`read_scored_triplets`], one row at a time.
///
/// # Errors
/// As [`read_scored_triplets`], those about a row where it is read.
pub fn open_scored_triplets(
    path: impl AsRef<Path>,
    columns: &ScoredTripletColumns,
    options: ReadOptions,
) -> Result<RowReader<ScoredTriplet>> {
    let records = Records::open(path.as_ref(), options)?;
    let keys = records.keys(&[
        (columns.query.as_ref(), "query"),
        (columns.positive.as_ref(), "positive"),
        (columns.negative.as_ref(), "negative"),
        (columns.margin.as_ref(), "margin"),
    ])?;
    Ok(RowReader::new(records, move |path, record| {
        Ok(ScoredTriplet {
            line: record.line,
            query: record.text(path, &keys[0])?,
            positive: record.text(path, &keys[1])?,
            negative: record.text(path, &keys[2])?,
            margin: score(path, &record, &keys[3])?,
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn read(
        name: &str,
        content: &str,
        columns: &ScoredTripletColumns,
        has_header: bool,
    ) -> Result<Vec<ScoredTriplet>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let options = ReadOptions {
            has_header,
            format: None,
        };
        read_scored_triplets(&path, columns, options)
    }

    fn triplet(line: u64, margin: f32) -> ScoredTriplet {
        ScoredTriplet {
            line,
            query: "q".into(),
            positive: "a".into(),
            negative: "b".into(),
            margin,
        }
    }

    #[test]
    fn by_position_by_name_and_by_choice() {
        let default = ScoredTripletColumns::default();
        for (name, content, has_header, line) in [
            ("a.csv", "q,a,b,-0.5\n", false, 1),
            ("a.csv", "one,two,three,four\nq,a,b,-0.5\n", true, 2),
            (
                "a.csv",
                "margin,id,negative,positive,query\n-0.5,7,b,a,q\n",
                true,
                2,
            ),
            ("a.tsv", "q\ta\tb\t-0.5\n", false, 1),
            ("a.jsonl", "[\"q\", \"a\", \"b\", -0.5]\n", true, 1),
            (
                "a.jsonl",
                "{\"margin\": \"-0.5\", \"query\": \"q\", \"negative\": \"b\", \"positive\": \"a\"}\n",
                true,
                1,
            ),
        ] {
            let found = read(name, content, &default, has_header).unwrap();
            assert_eq!(found, [triplet(line, -0.5)], "{content}");
        }
        let column = |name: &str| Some(Column::from(name));
        let columns = ScoredTripletColumns {
            query: column("question"),
            positive: column("2"),
            negative: column("wrong"),
            margin: column("gap"),
        };
        let content = "gap,question,right,wrong\n4,q,a,b\n";
        assert_eq!(
            read("a.csv", content, &columns, true).unwrap(),
            [triplet(2, 4.0)]
        );
    }

    #[test]
    fn margins_that_cannot_be_used_name_their_line() {
        let default = ScoredTripletColumns::default();
        for value in ["wide", "", "nan", "inf"] {
            let content = format!("q,a,b,1\nq,a,b,{value}\n");
            let error = read("a.csv", &content, &default, false).unwrap_err();
            assert!(matches!(error, Error::Row { line: 2, .. }), "{error}");
            let expected = format!("column `3`: `{value}` is not a finite number");
            assert!(error.to_string().ends_with(&expected), "{error}");
        }
        let error = read("a.csv", "q,a,b\n", &default, false).unwrap_err();
        assert!(
            error.to_string().ends_with(
                "expected at least 4 columns (query, positive, negative, margin), found 3 columns"
            ),
            "{error}"
        );
    }
}
