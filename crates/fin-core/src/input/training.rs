//! Training data: pairs, scored pairs and labelled texts.

use std::path::Path;

use serde_json::Value;

use super::negatives::Negatives;
use super::reader::RowReader;
use super::record::{Key, Record, Records, kind};
use super::{Column, ReadOptions};
use crate::error::{Error, Result};

/// A text, one that should lie close to it and any that should not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// One-based line number in the file.
    pub line: u64,
    /// Query, question or first sentence.
    pub anchor: String,
    /// Text that should lie close to the anchor.
    pub positive: String,
    /// Texts that should lie farther from the anchor than the positive (hard negatives).
    pub negatives: Vec<String>,
}

/// Two texts and how similar they are.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredPair {
    /// One-based line number in the file.
    pub line: u64,
    /// First text.
    pub sentence1: String,
    /// Second text.
    pub sentence2: String,
    /// Similarity as written in the file, finite, in whatever range the file has.
    pub score: f32,
}

/// A text and its class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledText {
    /// One-based line number in the file.
    pub line: u64,
    /// Text.
    pub text: String,
    /// Class as written in the file.
    pub label: String,
}

/// Where the parts of a [`Pair`] stand. [`read_pairs`] tells what stands in for `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairColumns {
    /// Column of the anchors.
    pub anchor: Option<Column>,
    /// Column of the positives.
    pub positive: Option<Column>,
    /// Columns of the negatives; an empty list for none.
    pub negatives: Option<Vec<Column>>,
}

/// Where the parts of a [`ScoredPair`] stand. [`read_scored_pairs`] tells what stands in for
/// `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScoredPairColumns {
    /// Column of the first texts.
    pub sentence1: Option<Column>,
    /// Column of the second texts.
    pub sentence2: Option<Column>,
    /// Column of the scores.
    pub score: Option<Column>,
}

/// Where the parts of a [`LabelledText`] stand. [`read_labelled`] tells what stands in for
/// `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelledColumns {
    /// Column of the texts.
    pub text: Option<Column>,
    /// Column of the labels.
    pub label: Option<Column>,
}

/// Reads anchors, positives and negatives from a file, or from stdin for `-`.
///
/// In `.csv` and `.tsv` files the columns are by default the first and the second, or `anchor`
/// and `positive` where the header has both. Negatives are by default the columns named
/// `negative`, `negatives` or `negative_…`; where no column is so named and anchors and positives
/// go by position, all columns after the second. An empty negative is left out.
///
/// In `.jsonl` files the keys of objects are by default `anchor` and `positive`, and each row's
/// keys `negative`, `negatives` or `negative_…`; arrays hold anchor, positive and negatives in
/// this order. Negatives can be a string, `null` or an array of strings.
///
/// # Errors
/// [`Error::Io`] where the file cannot be read; [`Error::InvalidFile`] where its extension is
/// unknown or it holds no rows; [`Error::Column`] where a column does not exist; [`Error::Row`]
/// where a row lacks a column or a value is not a text; [`Error::Argument`] where the choice of
/// one column leaves another without.
pub fn read_pairs(
    path: impl AsRef<Path>,
    columns: &PairColumns,
    options: ReadOptions,
) -> Result<Vec<Pair>> {
    open_pairs(path, columns, options)?.collect()
}

/// [`read_pairs`], one row at a time.
///
/// # Errors
/// As [`read_pairs`], those about a row where it is read.
pub fn open_pairs(
    path: impl AsRef<Path>,
    columns: &PairColumns,
    options: ReadOptions,
) -> Result<RowReader<Pair>> {
    let records = Records::open(path.as_ref(), options)?;
    let roles = [
        (columns.anchor.as_ref(), "anchor"),
        (columns.positive.as_ref(), "positive"),
    ];
    let keys = records.keys(&roles)?;
    let negatives = Negatives::new(&records, &roles, columns.negatives.as_deref())?;
    Ok(RowReader::new(records, move |path, record| {
        Ok(Pair {
            line: record.line,
            anchor: record.text(path, &keys[0])?,
            positive: record.text(path, &keys[1])?,
            negatives: negatives.texts(path, &record)?,
        })
    }))
}

/// Reads pairs of texts with a similarity score from a file, or from stdin for `-`.
///
/// In `.csv` and `.tsv` files the columns are by default the first three, or `sentence1`,
/// `sentence2` and `score` where the header has them all. In `.jsonl` files these names are the
/// keys of objects, and arrays hold the three in this order. A score is a finite number, in JSON
/// also one written as a string.
///
/// # Errors
/// As [`read_pairs`]; [`Error::Row`] also where a score is not a finite number.
pub fn read_scored_pairs(
    path: impl AsRef<Path>,
    columns: &ScoredPairColumns,
    options: ReadOptions,
) -> Result<Vec<ScoredPair>> {
    open_scored_pairs(path, columns, options)?.collect()
}

/// [`read_scored_pairs`], one row at a time.
///
/// # Errors
/// As [`read_scored_pairs`], those about a row where it is read.
pub fn open_scored_pairs(
    path: impl AsRef<Path>,
    columns: &ScoredPairColumns,
    options: ReadOptions,
) -> Result<RowReader<ScoredPair>> {
    let records = Records::open(path.as_ref(), options)?;
    let keys = records.keys(&[
        (columns.sentence1.as_ref(), "sentence1"),
        (columns.sentence2.as_ref(), "sentence2"),
        (columns.score.as_ref(), "score"),
    ])?;
    Ok(RowReader::new(records, move |path, record| {
        let score = score(path, &record, &keys[2])?;
        let sentence1 = record.text(path, &keys[0])?;
        let sentence2 = record.text(path, &keys[1])?;
        Ok(ScoredPair {
            line: record.line,
            sentence1,
            sentence2,
            score,
        })
    }))
}

/// Reads texts with a class label from a file, or from stdin for `-`.
///
/// In `.csv` and `.tsv` files the columns are by default the first two, or `text` and `label`
/// where the header has both. In `.jsonl` files these names are the keys of objects, and arrays
/// hold the two in this order. In JSON a label is a string, a number or a boolean.
///
/// # Errors
/// As [`read_pairs`].
pub fn read_labelled(
    path: impl AsRef<Path>,
    columns: &LabelledColumns,
    options: ReadOptions,
) -> Result<Vec<LabelledText>> {
    open_labelled(path, columns, options)?.collect()
}

/// [`read_labelled`], one row at a time.
///
/// # Errors
/// As [`read_labelled`], those about a row where it is read.
pub fn open_labelled(
    path: impl AsRef<Path>,
    columns: &LabelledColumns,
    options: ReadOptions,
) -> Result<RowReader<LabelledText>> {
    let records = Records::open(path.as_ref(), options)?;
    let keys = records.keys(&[
        (columns.text.as_ref(), "text"),
        (columns.label.as_ref(), "label"),
    ])?;
    Ok(RowReader::new(records, move |path, record| {
        let label = match record.value(path, &keys[1])? {
            Value::String(label) => label,
            value @ (Value::Number(_) | Value::Bool(_)) => value.to_string(),
            value => {
                let name = &keys[1].name;
                let reason = format!("column `{name}`: expected a label, found {}", kind(&value));
                return Err(Error::row(path, record.line, reason));
            }
        };
        let text = record.text(path, &keys[0])?;
        Ok(LabelledText {
            line: record.line,
            text,
            label,
        })
    }))
}

/// The finite number in a column, which is one or a text that spells one.
pub(super) fn score(path: &Path, record: &Record, key: &Key) -> Result<f32> {
    let value = record.value(path, key)?;
    let score: Option<f32> = match &value {
        Value::Number(number) => number.to_string().parse().ok(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    score.filter(|score| score.is_finite()).ok_or_else(|| {
        let value = match &value {
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        let reason = format!("column `{}`: `{value}` is not a finite number", key.name);
        Error::row(path, record.line, reason)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMED: ReadOptions = ReadOptions {
        has_header: true,
        format: None,
    };
    const BARE: ReadOptions = ReadOptions {
        has_header: false,
        format: None,
    };

    fn with_file<T>(name: &str, content: &str, read: impl FnOnce(&Path) -> T) -> T {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        read(&path)
    }

    fn column(name: &str) -> Option<Column> {
        Some(Column::from(name))
    }

    fn pairs(
        name: &str,
        content: &str,
        columns: &PairColumns,
        options: ReadOptions,
    ) -> Result<Vec<Pair>> {
        with_file(name, content, |path| read_pairs(path, columns, options))
    }

    fn pair(line: u64, anchor: &str, positive: &str, negatives: &[&str]) -> Pair {
        Pair {
            line,
            anchor: anchor.into(),
            positive: positive.into(),
            negatives: negatives.iter().map(ToString::to_string).collect(),
        }
    }

    fn scored(
        name: &str,
        content: &str,
        columns: &ScoredPairColumns,
        options: ReadOptions,
    ) -> Result<Vec<ScoredPair>> {
        with_file(name, content, |path| {
            read_scored_pairs(path, columns, options)
        })
    }

    fn labelled(
        name: &str,
        content: &str,
        columns: &LabelledColumns,
        options: ReadOptions,
    ) -> Result<Vec<LabelledText>> {
        with_file(name, content, |path| read_labelled(path, columns, options))
    }

    #[test]
    fn pairs_by_position() {
        let default = PairColumns::default();
        let content = "query,answer\nq,a\n\"q\n2\",b\nr,c\n";
        let expected = [
            pair(2, "q", "a", &[]),
            pair(3, "q\n2", "b", &[]),
            pair(5, "r", "c", &[]),
        ];
        assert_eq!(pairs("a.csv", content, &default, NAMED).unwrap(), expected);
        let content = "q\ta\tx\ty\nr\tb\t\tz\n";
        let expected = [pair(1, "q", "a", &["x", "y"]), pair(2, "r", "b", &["z"])];
        assert_eq!(pairs("a.tsv", content, &default, BARE).unwrap(), expected);
        let content = "[\"q\", \"a\", \"x\", [\"y\", \"z\"]]\n[\"r\", \"b\"]\n";
        let expected = [pair(1, "q", "a", &["x", "y", "z"]), pair(2, "r", "b", &[])];
        assert_eq!(
            pairs("a.jsonl", content, &default, NAMED).unwrap(),
            expected
        );
    }

    #[test]
    fn pairs_by_name() {
        let default = PairColumns::default();
        let content = "id,positive,negative_1,anchor,negative_2\n1,a,x,q,y\n";
        let expected = [pair(2, "q", "a", &["x", "y"])];
        assert_eq!(pairs("a.csv", content, &default, NAMED).unwrap(), expected);
        let content = "{\"positive\": \"a\", \"anchor\": \"q\", \"negative\": [\"x\", \"y\"], \"id\": 1}\n\
                       {\"anchor\": \"r\", \"positive\": \"b\", \"negatives\": null}\n";
        let expected = [pair(1, "q", "a", &["x", "y"]), pair(2, "r", "b", &[])];
        assert_eq!(
            pairs("a.jsonl", content, &default, NAMED).unwrap(),
            expected
        );
    }

    #[test]
    fn pairs_by_choice() {
        let content = "id,answer,query,wrong\n1,a,q,x\n";
        let mut columns = PairColumns {
            anchor: column("query"),
            positive: column("1"),
            negatives: None,
        };
        assert_eq!(
            pairs("a.csv", content, &columns, NAMED).unwrap(),
            [pair(2, "q", "a", &[])]
        );
        columns.negatives = Some(vec![Column::from("wrong")]);
        assert_eq!(
            pairs("a.csv", content, &columns, NAMED).unwrap(),
            [pair(2, "q", "a", &["x"])]
        );
        let none = PairColumns {
            negatives: Some(Vec::new()),
            ..PairColumns::default()
        };
        assert_eq!(
            pairs("a.csv", "q,a,x\n", &none, BARE).unwrap(),
            [pair(1, "q", "a", &[])]
        );
        // The same column twice: pairs that only dropout tells apart.
        let twice = PairColumns {
            anchor: column("0"),
            positive: column("0"),
            negatives: None,
        };
        assert_eq!(
            pairs("a.csv", "q,a\n", &twice, BARE).unwrap(),
            [pair(1, "q", "q", &[])]
        );
        let json = "{\"query\": \"q\", \"pos\": \"a\", \"negative\": \"x\"}\n";
        let columns = PairColumns {
            anchor: column("query"),
            positive: column("pos"),
            negatives: None,
        };
        assert_eq!(
            pairs("a.jsonl", json, &columns, NAMED).unwrap(),
            [pair(1, "q", "a", &["x"])]
        );
    }

    #[test]
    fn pairs_that_cannot_be_used() {
        let default = PairColumns::default();
        for (name, content, line, expected) in [
            (
                "a.csv",
                "query\nq\n",
                2,
                "expected at least 2 columns (anchor, positive), found 1 column",
            ),
            (
                "a.txt",
                "q\n",
                1,
                "expected at least 2 columns (anchor, positive), found 1 column",
            ),
            (
                "a.csv",
                "query,answer\nq,a\nr\n",
                3,
                "expected 2 columns, found 1 column",
            ),
            (
                "a.jsonl",
                "[\"q\"]\n",
                1,
                "expected at least 2 columns (anchor, positive), found 1 column",
            ),
            (
                "a.jsonl",
                "[\"q\", \"a\"]\n[\"r\"]\n",
                2,
                "expected at least 2 columns, found 1 column",
            ),
            (
                "a.jsonl",
                "\"q\"\n",
                1,
                "expected an object or an array, found a string",
            ),
            (
                "a.jsonl",
                "[\"q\", null]\n",
                1,
                "column `1`: expected a string, found null",
            ),
            (
                "a.jsonl",
                "[\"q\", \"a\", {}]\n",
                1,
                "column `2`: expected a string, found an object",
            ),
            (
                "a.jsonl",
                "{\"anchor\": \"q\", \"positive\": \"a\"}\n{\"anchor\": \"r\"}\n",
                2,
                "no field `positive`; the fields are: anchor",
            ),
            (
                "a.jsonl",
                "{\"anchor\": \"q\", \"positive\": \"a\", \"negative\": [1]}\n",
                1,
                "column `negative`: expected a string, found a number",
            ),
        ] {
            let error = pairs(name, content, &default, NAMED).unwrap_err();
            assert!(
                matches!(error, Error::Row { line: l, .. } if l == line),
                "{error}"
            );
            assert!(error.to_string().contains(expected), "{error}");
        }
        let error = pairs(
            "a.jsonl",
            "{\"query\": \"q\", \"answer\": \"a\"}\n",
            &default,
            NAMED,
        )
        .unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("no column `anchor`; the columns are: query, answer"),
            "{error}"
        );
        let columns = PairColumns {
            negatives: Some(vec![Column::from("wrong")]),
            ..default
        };
        let error = pairs("a.csv", "query,answer\nq,a\n", &columns, NAMED).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("no column `wrong`; the columns are: query, answer"),
            "{error}"
        );
    }

    #[test]
    fn a_column_that_a_choice_takes_from_another_role() {
        let columns = PairColumns {
            anchor: column("1"),
            ..PairColumns::default()
        };
        let error = pairs("a.csv", "answer,query\na,q\n", &columns, NAMED).unwrap_err();
        assert!(matches!(error, Error::Argument { .. }), "{error}");
        let expected =
            "positive: column `query` is in use as `anchor`; choose a column for `positive` too";
        assert_eq!(error.to_string(), expected);
        // The header's own name for the role goes before its position.
        let found = pairs("a.csv", "positive,query\na,q\n", &columns, NAMED).unwrap();
        assert_eq!(found, [pair(2, "q", "a", &[])]);
    }

    #[test]
    fn scored_pairs() {
        let default = ScoredPairColumns::default();
        let pair = |line, sentence1: &str, sentence2: &str, score| ScoredPair {
            line,
            sentence1: sentence1.into(),
            sentence2: sentence2.into(),
            score,
        };
        let content = "\"a, b\",c,4.75\nd,e,  5e-1 \n";
        let expected = [pair(1, "a, b", "c", 4.75), pair(2, "d", "e", 0.5)];
        assert_eq!(scored("a.csv", content, &default, BARE).unwrap(), expected);
        let content = "score,sentence2,sentence1\n-1,b,a\n";
        assert_eq!(
            scored("a.csv", content, &default, NAMED).unwrap(),
            [pair(2, "a", "b", -1.0)]
        );
        let content = "{\"sentence1\": \"a\", \"sentence2\": \"b\", \"score\": 3}\n\
                       {\"score\": \"0.1\", \"sentence1\": \"c\", \"sentence2\": \"d\"}\n";
        let expected = [pair(1, "a", "b", 3.0), pair(2, "c", "d", 0.1)];
        assert_eq!(
            scored("a.jsonl", content, &default, NAMED).unwrap(),
            expected
        );
        let columns = ScoredPairColumns {
            sentence1: column("left"),
            sentence2: column("right"),
            score: column("gold"),
        };
        let content = "gold\tleft\tright\n2.5\ta\tb\n";
        assert_eq!(
            scored("a.tsv", content, &columns, NAMED).unwrap(),
            [pair(2, "a", "b", 2.5)]
        );
    }

    #[test]
    fn scores_that_cannot_be_used() {
        let default = ScoredPairColumns::default();
        for value in [
            "high",
            "",
            "4,75",
            "nan",
            "NaN",
            "inf",
            "-infinity",
            "1e39",
            "0x1",
        ] {
            let content = format!("s,t,gold\na,b,1\nc,d,\"{value}\"\n");
            let error = scored("a.csv", &content, &default, NAMED).unwrap_err();
            assert!(matches!(error, Error::Row { line: 3, .. }), "{error}");
            let expected = format!("column `gold`: `{value}` is not a finite number");
            assert!(error.to_string().ends_with(&expected), "{error}");
        }
        for value in ["null", "true", "1e39", "[1]", "\"x\""] {
            let content = format!("[\"a\", \"b\", {value}]\n");
            let error = scored("a.jsonl", &content, &default, NAMED)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("line 1: column `2`: `")
                    && error.ends_with("is not a finite number"),
                "{error}"
            );
        }
        let error = scored("a.csv", "a,b\n", &default, BARE)
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with(
                "expected at least 3 columns (sentence1, sentence2, score), found 2 columns"
            ),
            "{error}"
        );
    }

    #[test]
    fn labelled_texts() {
        let default = LabelledColumns::default();
        let item = |line, text: &str, label: &str| LabelledText {
            line,
            text: text.into(),
            label: label.into(),
        };
        assert_eq!(
            labelled("a.csv", "a,x\nb,7\n", &default, BARE).unwrap(),
            [item(1, "a", "x"), item(2, "b", "7")]
        );
        assert_eq!(
            labelled("a.csv", "label,text\nx,a\n", &default, NAMED).unwrap(),
            [item(2, "a", "x")]
        );
        let content = "{\"text\": \"a\", \"label\": 7}\n{\"text\": \"b\", \"label\": true}\n";
        assert_eq!(
            labelled("a.jsonl", content, &default, NAMED).unwrap(),
            [item(1, "a", "7"), item(2, "b", "true")]
        );
        let columns = LabelledColumns {
            text: column("body"),
            label: None,
        };
        assert_eq!(
            labelled("a.csv", "label,body\nx,a\n", &columns, NAMED).unwrap(),
            [item(2, "a", "x")]
        );
        let error = labelled(
            "a.jsonl",
            "{\"text\": \"a\", \"label\": null}\n",
            &default,
            NAMED,
        )
        .unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("line 1: column `label`: expected a label, found null"),
            "{error}"
        );
        let error = labelled("a.csv", "text\na\n", &default, NAMED)
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("line 2: expected at least 2 columns (text, label), found 1 column"),
            "{error}"
        );
    }
}
