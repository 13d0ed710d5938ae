//! Data sets of texts from files; errors name the file and the line.

use std::path::Path;

use fin_core::input::{
    LabelledColumns, PairColumns, ReadOptions, ScoredPairColumns, ScoredTripletColumns,
    read_labelled, read_pairs, read_scored_pairs, read_scored_triplets,
};
use fin_core::{Error, Result};

use super::{Dataset, ScoreRange, Targets};

/// [`Dataset::scored_pairs`] from a file; [`read_scored_pairs`] tells which columns are read.
///
/// # Errors
/// Those of [`read_scored_pairs`]; [`Error::Row`] where a score is out of range.
pub fn scored_pairs_from_file(
    path: impl AsRef<Path>,
    columns: &ScoredPairColumns,
    options: ReadOptions,
    range: ScoreRange,
) -> Result<Dataset<String>> {
    let path = path.as_ref();
    let rows = read_scored_pairs(path, columns, options)?;
    let (mut first, mut second, mut scores) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        scores.push(range.scale(row.score).map_err(|reason| {
            Error::row(
                path,
                row.line,
                format!("{reason}; give the range that the file's scores have"),
            )
        })?);
        first.push(row.sentence1);
        second.push(row.sentence2);
    }
    Dataset::new(vec![first, second], Targets::Scores(scores))
}

/// [`Dataset::pairs`] from a file; [`read_pairs`] tells which columns are read.
///
/// # Errors
/// Those of [`read_pairs`]; [`Error::Row`] where a row has another number of negatives than the
/// first.
pub fn pairs_from_file(
    path: impl AsRef<Path>,
    columns: &PairColumns,
    options: ReadOptions,
) -> Result<Dataset<String>> {
    let path = path.as_ref();
    let rows = read_pairs(path, columns, options)?;
    let count = rows.first().map_or(0, |row| row.negatives.len());
    let (mut anchors, mut positives, mut negatives) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        if row.negatives.len() != count {
            return Err(Error::row(
                path,
                row.line,
                format!(
                    "has {} negatives, the first row has {count}; every row needs as many",
                    row.negatives.len()
                ),
            ));
        }
        anchors.push(row.anchor);
        positives.push(row.positive);
        negatives.push(row.negatives);
    }
    Dataset::pairs(
        anchors,
        positives,
        if count == 0 { Vec::new() } else { negatives },
    )
}

/// Triplets with a margin each, as the loss `margin_mse` takes them, from a file;
/// [`read_scored_triplets`] tells which columns are read. Margins stay as they are.
///
/// # Errors
/// Those of [`read_scored_triplets`].
pub fn scored_triplets_from_file(
    path: impl AsRef<Path>,
    columns: &ScoredTripletColumns,
    options: ReadOptions,
) -> Result<Dataset<String>> {
    let mut parts: [Vec<String>; 3] = Default::default();
    let mut margins = Vec::new();
    for row in read_scored_triplets(path, columns, options)? {
        for (part, text) in parts
            .iter_mut()
            .zip([row.query, row.positive, row.negative])
        {
            part.push(text);
        }
        margins.push(row.margin);
    }
    Dataset::new(parts.into(), Targets::Scores(margins))
}

/// [`Dataset::labelled`] from a file; [`read_labelled`] tells which columns are read.
///
/// # Errors
/// Those of [`read_labelled`].
pub fn labelled_from_file(
    path: impl AsRef<Path>,
    columns: &LabelledColumns,
    options: ReadOptions,
) -> Result<Dataset<String>> {
    let rows = read_labelled(path, columns, options)?;
    let (items, labels): (Vec<_>, Vec<_>) =
        rows.into_iter().map(|row| (row.text, row.label)).unzip();
    Dataset::labelled(items, &labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, content: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        (dir, path)
    }

    #[test]
    fn scored_pairs_are_scaled_and_a_bad_score_names_its_line() {
        let read = |content| {
            let (_dir, path) = file("sts.tsv", content);
            scored_pairs_from_file(
                path,
                &Default::default(),
                ReadOptions::default(),
                "0..5".parse().unwrap(),
            )
        };
        let data = read("sentence1\tsentence2\tscore\na\tb\t5\nc\td\t2.5\n").unwrap();
        assert_eq!(data.columns(), [["a", "c"], ["b", "d"]]);
        assert_eq!(data.targets(), &Targets::Scores(vec![1.0, 0.5]));
        let error = read("sentence1\tsentence2\tscore\na\tb\t5\nc\td\t6\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 3") && error.contains("0..5"),
            "{error}"
        );
    }

    #[test]
    fn pairs_take_negatives_along_and_a_ragged_row_names_its_line() {
        let read = |content| {
            let (_dir, path) = file("pairs.jsonl", content);
            pairs_from_file(path, &Default::default(), ReadOptions::default())
        };
        let data =
            read("{\"anchor\":\"a\",\"positive\":\"b\",\"negative\":[\"c\",\"d\"]}\n").unwrap();
        assert_eq!(data.columns(), [["a"], ["b"], ["c"], ["d"]]);
        let error = read("[\"a\",\"b\",\"c\"]\n[\"a\",\"b\"]\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 2") && error.contains("has 0 negatives"),
            "{error}"
        );
        assert_eq!(read("[\"a\",\"b\"]\n").unwrap().columns().len(), 2);
    }

    #[test]
    fn margins_are_scores_of_three_columns_and_stay_as_they_are() {
        let content = "query,positive,negative,margin\nq,a,b,7.5\nr,c,d,-2\n";
        let (_dir, path) = file("margins.csv", content);
        let data =
            scored_triplets_from_file(path, &Default::default(), ReadOptions::default()).unwrap();
        assert_eq!(data.columns(), [["q", "r"], ["a", "c"], ["b", "d"]]);
        assert_eq!(data.targets(), &Targets::Scores(vec![7.5, -2.0]));
    }

    #[test]
    fn labels_keep_their_names() {
        let (_dir, path) = file("intents.csv", "text,label\nhi,greet\nbye,leave\n");
        let data = labelled_from_file(path, &Default::default(), ReadOptions::default()).unwrap();
        let names = vec!["greet".to_string(), "leave".to_string()];
        assert_eq!(
            data.targets(),
            &Targets::Labels {
                ids: vec![0, 1],
                names
            }
        );
    }
}
