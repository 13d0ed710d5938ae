//! Data sets of texts from files; errors name the file and the line.
//!
//! [`each_pair`] and the like hand on row by row and hold nothing but the targets; the data sets are
//! collected from them.

use std::path::Path;

use fin_core::input::{
    LabelledColumns, PairColumns, ReadOptions, ScoredPairColumns, ScoredTripletColumns,
    open_labelled, open_pairs, open_scored_pairs, open_scored_triplets,
};
use fin_core::{Error, Result};

use super::{Classes, Columns, Dataset, ScoreRange, Targets};

/// Hands on the two texts of every scored pair of a file and returns the scores: scaled to `[0, 1]`
/// where a range is given, else as they stand in the file.
///
/// # Errors
/// Those of [`open_scored_pairs`]; [`Error::Row`] where a score is out of range; those of `row`.
pub fn each_scored_pair(
    path: impl AsRef<Path>,
    columns: &ScoredPairColumns,
    options: ReadOptions,
    range: Option<ScoreRange>,
    mut row: impl FnMut(Vec<String>) -> Result<()>,
) -> Result<Vec<f32>> {
    let path = path.as_ref();
    let mut scores = Vec::new();
    for found in open_scored_pairs(path, columns, options)? {
        let found = found?;
        let scale = |range: ScoreRange| {
            range.scale(found.score).map_err(|reason| {
                let reason = format!("{reason}; give the range that the file's scores have");
                Error::row(path, found.line, reason)
            })
        };
        scores.push(range.map_or(Ok(found.score), scale)?);
        row(vec![found.sentence1, found.sentence2])?;
    }
    Ok(scores)
}

/// Hands on the anchor, the positive and any negatives of every pair of a file.
///
/// # Errors
/// Those of [`open_pairs`]; [`Error::Row`] where a row has another number of negatives than the
/// first; those of `row`.
pub fn each_pair(
    path: impl AsRef<Path>,
    columns: &PairColumns,
    options: ReadOptions,
    mut row: impl FnMut(Vec<String>) -> Result<()>,
) -> Result<()> {
    let path = path.as_ref();
    let mut first = None;
    for found in open_pairs(path, columns, options)? {
        let found = found?;
        let count = *first.get_or_insert(found.negatives.len());
        if found.negatives.len() != count {
            return Err(Error::row(
                path,
                found.line,
                format!(
                    "has {} negatives, the first row has {count}; every row needs as many",
                    found.negatives.len()
                ),
            ));
        }
        let mut texts = vec![found.anchor, found.positive];
        texts.extend(found.negatives);
        row(texts)?;
    }
    Ok(())
}

/// Hands on the query, the positive and the negative of every triplet of a file and returns the
/// margins as they stand in it.
///
/// # Errors
/// Those of [`open_scored_triplets`] and of `row`.
pub fn each_scored_triplet(
    path: impl AsRef<Path>,
    columns: &ScoredTripletColumns,
    options: ReadOptions,
    mut row: impl FnMut(Vec<String>) -> Result<()>,
) -> Result<Vec<f32>> {
    let mut margins = Vec::new();
    for found in open_scored_triplets(path, columns, options)? {
        let found = found?;
        margins.push(found.margin);
        row(vec![found.query, found.positive, found.negative])?;
    }
    Ok(margins)
}

/// Hands on every text of a file of labelled ones and returns the classes.
///
/// # Errors
/// Those of [`open_labelled`] and of `row`.
pub fn each_labelled(
    path: impl AsRef<Path>,
    columns: &LabelledColumns,
    options: ReadOptions,
    mut row: impl FnMut(Vec<String>) -> Result<()>,
) -> Result<Targets> {
    let mut classes = Classes::default();
    for found in open_labelled(path, columns, options)? {
        let found = found?;
        classes.push(&found.label);
        row(vec![found.text])?;
    }
    Ok(classes.targets())
}

/// [`Dataset::scored_pairs`] from a file;
/// [`read_scored_pairs`](fin_core::input::read_scored_pairs) tells which columns are read.
///
/// # Errors
/// Those of [`each_scored_pair`].
pub fn scored_pairs_from_file(
    path: impl AsRef<Path>,
    columns: &ScoredPairColumns,
    options: ReadOptions,
    range: ScoreRange,
) -> Result<Dataset<String>> {
    let mut rows = Columns::default();
    let scores = each_scored_pair(path, columns, options, Some(range), |row| rows.push(row))?;
    rows.with_targets(Targets::Scores(scores))
}

/// [`Dataset::pairs`] from a file; [`read_pairs`](fin_core::input::read_pairs) tells which columns
/// are read.
///
/// # Errors
/// Those of [`each_pair`].
pub fn pairs_from_file(
    path: impl AsRef<Path>,
    columns: &PairColumns,
    options: ReadOptions,
) -> Result<Dataset<String>> {
    let mut rows = Columns::default();
    each_pair(path, columns, options, |row| rows.push(row))?;
    rows.with_targets(Targets::None)
}

/// Triplets with a margin each, as the loss `margin_mse` takes them, from a file;
/// [`read_scored_triplets`](fin_core::input::read_scored_triplets) tells which columns are read.
/// Margins stay as they are.
///
/// # Errors
/// Those of [`each_scored_triplet`].
pub fn scored_triplets_from_file(
    path: impl AsRef<Path>,
    columns: &ScoredTripletColumns,
    options: ReadOptions,
) -> Result<Dataset<String>> {
    let mut rows = Columns::default();
    let margins = each_scored_triplet(path, columns, options, |row| rows.push(row))?;
    rows.with_targets(Targets::Scores(margins))
}

/// [`Dataset::labelled`] from a file; [`read_labelled`](fin_core::input::read_labelled) tells which
/// columns are read.
///
/// # Errors
/// Those of [`each_labelled`].
pub fn labelled_from_file(
    path: impl AsRef<Path>,
    columns: &LabelledColumns,
    options: ReadOptions,
) -> Result<Dataset<String>> {
    let mut rows = Columns::default();
    let targets = each_labelled(path, columns, options, |row| rows.push(row))?;
    rows.with_targets(targets)
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
