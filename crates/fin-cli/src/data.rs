//! Evaluation data: which columns are read, and what is measured on them.

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::Device;
use clap::ValueEnum;
use fin_core::input::{
    Column, LabelledColumns, Pair, PairColumns, ReadOptions, ScoredPairColumns, read_pairs,
    read_scored_pairs, read_texts,
};
use fin_core::{Embedder, Error, Result};
use fin_train::Metrics;
use fin_train::evaluate::{Evaluator, RetrievalEvaluator, StsEvaluator};
use serde::{Deserialize, Serialize};

use crate::report;

/// What a model is measured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EvalTask {
    /// Whether the similarity of two texts goes with a score.
    Sts,
    /// How high the documents that belong to a query rank.
    Retrieval,
}

/// The columns of scored pairs: none chosen, or all three.
pub fn scored_columns(chosen: &[Column]) -> Result<ScoredPairColumns> {
    match chosen {
        [] => Ok(ScoredPairColumns::default()),
        [sentence1, sentence2, score] => Ok(ScoredPairColumns {
            sentence1: Some(sentence1.clone()),
            sentence2: Some(sentence2.clone()),
            score: Some(score.clone()),
        }),
        _ => Err(wrong_number("3 (text, text, score)", chosen)),
    }
}

/// The columns of pairs: none chosen, or anchor and positive and then any negatives.
pub fn pair_columns(chosen: &[Column]) -> Result<PairColumns> {
    match chosen {
        [] => Ok(PairColumns::default()),
        [anchor, positive, negatives @ ..] => Ok(PairColumns {
            anchor: Some(anchor.clone()),
            positive: Some(positive.clone()),
            negatives: Some(negatives.to_vec()),
        }),
        _ => Err(wrong_number(
            "2 (query, document) or more (further ones are negatives)",
            chosen,
        )),
    }
}

/// The columns of labelled texts: none chosen, or both.
pub fn labelled_columns(chosen: &[Column]) -> Result<LabelledColumns> {
    match chosen {
        [] => Ok(LabelledColumns::default()),
        [text, label] => Ok(LabelledColumns {
            text: Some(text.clone()),
            label: Some(label.clone()),
        }),
        _ => Err(wrong_number("2 (text, label)", chosen)),
    }
}

fn wrong_number(needed: &str, chosen: &[Column]) -> Error {
    let found = report::count(chosen.len(), "is", "are");
    Error::argument("columns", format!("{needed} are needed, {found} given"))
}

/// Where evaluation data comes from.
#[derive(Debug)]
pub struct EvalSource<'a> {
    pub data: &'a Path,
    pub task: EvalTask,
    pub columns: &'a [Column],
    pub read: ReadOptions,
    /// Further documents for retrieval, and their column.
    pub corpus: Option<&'a Path>,
    pub corpus_column: Option<&'a Column>,
    pub cutoffs: &'a [usize],
}

/// Evaluation data with what is measured on it.
#[derive(Debug, Clone)]
pub struct Evaluation {
    kind: Kind,
    name: String,
    /// Sizes of the data by name, as in `pairs`.
    pub sizes: Vec<(&'static str, usize)>,
}

#[derive(Debug, Clone)]
enum Kind {
    Sts(StsEvaluator<String>),
    Retrieval(RetrievalEvaluator<String>),
}

impl EvalSource<'_> {
    /// Reads the data.
    pub fn read(&self) -> Result<Evaluation> {
        let name = self.data.display().to_string();
        match self.task {
            EvalTask::Sts => self.read_sts(name),
            EvalTask::Retrieval => self.read_retrieval(name),
        }
    }

    fn read_sts(&self, name: String) -> Result<Evaluation> {
        if self.corpus.is_some() {
            let reason = "a corpus is for the task retrieval; the task sts has none";
            return Err(Error::argument("corpus", reason));
        }
        let rows = read_scored_pairs(self.data, &scored_columns(self.columns)?, self.read)?;
        if rows.len() < 2 {
            let reason = "holds one pair; a correlation needs at least 2";
            return Err(Error::invalid(self.data, reason));
        }
        let (mut first, mut second, mut scores) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            first.push(row.sentence1);
            second.push(row.sentence2);
            scores.push(f64::from(row.score));
        }
        let sizes = vec![("pairs", scores.len())];
        let kind = Kind::Sts(StsEvaluator::new(name.clone(), first, second, scores)?);
        Ok(Evaluation { kind, name, sizes })
    }

    fn read_retrieval(&self, name: String) -> Result<Evaluation> {
        let columns = PairColumns {
            negatives: Some(Vec::new()),
            ..pair_columns(self.columns)?
        };
        let rows = read_pairs(self.data, &columns, self.read)?;
        let further = match self.corpus {
            Some(path) => read_texts(path, self.corpus_column, self.read)?,
            None => Vec::new(),
        };
        let Relevance {
            queries,
            documents,
            relevant,
        } = Relevance::new(rows, further);
        let sizes = vec![("queries", queries.len()), ("documents", documents.len())];
        let evaluator = RetrievalEvaluator::new(name.clone(), queries, documents, relevant)?
            .with_cutoffs(self.cutoffs)?;
        let kind = Kind::Retrieval(evaluator);
        Ok(Evaluation { kind, name, sizes })
    }
}

/// Distinct queries and documents in order of their first occurrence, and which belong together.
#[derive(Debug, PartialEq)]
struct Relevance {
    queries: Vec<String>,
    documents: Vec<String>,
    /// Indices of the documents of each query.
    relevant: Vec<Vec<usize>>,
}

impl Relevance {
    fn new(rows: Vec<Pair>, further: Vec<String>) -> Self {
        let mut queries = Distinct::default();
        let mut documents = Distinct::default();
        let mut relevant: Vec<Vec<usize>> = Vec::new();
        for row in rows {
            let query = queries.index_of(row.anchor);
            let document = documents.index_of(row.positive);
            if query == relevant.len() {
                relevant.push(Vec::new());
            }
            if !relevant[query].contains(&document) {
                relevant[query].push(document);
            }
        }
        for text in further {
            documents.index_of(text);
        }
        Self {
            queries: queries.texts,
            documents: documents.texts,
            relevant,
        }
    }
}

/// Texts without repetitions.
#[derive(Default)]
struct Distinct {
    texts: Vec<String>,
    indices: HashMap<String, usize>,
}

impl Distinct {
    /// Index of a text, which is added where it is new.
    fn index_of(&mut self, text: String) -> usize {
        if let Some(&index) = self.indices.get(&text) {
            return index;
        }
        let index = self.texts.len();
        self.texts.push(text.clone());
        self.indices.insert(text, index);
        index
    }
}

impl<E: Embedder<Item = String>> Evaluator<E> for Evaluation {
    fn name(&self) -> &str {
        &self.name
    }

    fn evaluate(&self, embedder: &E, device: &Device) -> Result<Metrics> {
        let measured = match &self.kind {
            Kind::Sts(evaluator) => evaluator.evaluate(embedder, device)?,
            Kind::Retrieval(evaluator) => evaluator.evaluate(embedder, device)?,
        };
        let mut metrics = Metrics::default();
        for (name, value) in measured.iter() {
            // The share of queries with a hit goes by both names.
            metrics.insert(name.replace("accuracy@", "hit@"), value);
        }
        Ok(metrics)
    }
}

/// Metrics as rows of cells for [`report::columns`]: those at cut-offs in a row a metric and a
/// column a cut-off, others in a row each. `measured` has a label and metrics of the same names.
pub fn metric_rows(measured: &[(&str, &Metrics)]) -> Vec<Vec<String>> {
    let Some((_, first)) = measured.first() else {
        return Vec::new();
    };
    let number = |value: f64| {
        if value.is_finite() {
            format!("{value:.4}")
        } else {
            "-".to_owned()
        }
    };
    if measured.len() > 1 || first.iter().all(|(name, _)| !name.contains('@')) {
        let mut rows = Vec::new();
        if measured.len() > 1 {
            let labels = measured.iter().map(|(label, _)| (*label).to_owned());
            rows.push(std::iter::once(String::new()).chain(labels).collect());
        }
        for (name, _) in first.iter() {
            let values = measured
                .iter()
                .map(|(_, metrics)| number(metrics.get(name).unwrap_or(f64::NAN)));
            rows.push(std::iter::once(name.to_owned()).chain(values).collect());
        }
        return rows;
    }
    let mut rows: Vec<Vec<String>> = vec![vec![String::new()]];
    for (name, value) in first.iter() {
        let (metric, cutoff) = name.split_once('@').unwrap_or((name, ""));
        let column = format!("@{cutoff}");
        if !rows[0].contains(&column) {
            rows[0].push(column);
        }
        match rows.iter_mut().skip(1).find(|row| row[0] == metric) {
            Some(row) => row.push(number(value)),
            None => rows.push(vec![metric.to_owned(), number(value)]),
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(anchor: &str, positive: &str) -> Pair {
        Pair {
            line: 1,
            anchor: anchor.into(),
            positive: positive.into(),
            negatives: Vec::new(),
        }
    }

    #[test]
    fn equal_documents_are_one_and_a_query_can_have_several() {
        let rows = vec![
            pair("q", "a"),
            pair("r", "b"),
            pair("q", "b"),
            pair("q", "a"),
        ];
        let found = Relevance::new(rows, vec!["b".into(), "c".into(), "c".into()]);
        assert_eq!(found.queries, ["q", "r"]);
        assert_eq!(found.documents, ["a", "b", "c"]);
        assert_eq!(found.relevant, [vec![0, 1], vec![1]]);
    }

    #[test]
    fn cut_offs_become_columns() {
        let mut metrics = Metrics::default();
        for (name, value) in [
            ("hit@1", 0.5),
            ("hit@10", 1.0),
            ("mrr@1", 0.5),
            ("mrr@10", f64::NAN),
        ] {
            metrics.insert(name, value);
        }
        let rows = metric_rows(&[("", &metrics)]);
        assert_eq!(
            rows,
            [
                ["", "@1", "@10"],
                ["hit", "0.5000", "1.0000"],
                ["mrr", "0.5000", "-"]
            ]
        );
        let rows = metric_rows(&[("before", &metrics), ("after", &metrics)]);
        assert_eq!(rows[0], ["", "before", "after"]);
        assert_eq!(rows[2], ["hit@10", "1.0000", "1.0000"]);
    }

    #[test]
    fn columns_are_all_chosen_or_none() {
        let columns =
            |n: usize| -> Vec<Column> { (0..n).map(|i| Column::from(i.to_string())).collect() };
        assert!(scored_columns(&columns(3)).is_ok());
        let error = scored_columns(&columns(2)).unwrap_err().to_string();
        assert_eq!(
            error,
            "columns: 3 (text, text, score) are needed, 2 are given"
        );
        assert!(pair_columns(&columns(1)).is_err());
        let chosen = pair_columns(&columns(4)).unwrap();
        assert_eq!(chosen.negatives.unwrap().len(), 2);
        assert!(labelled_columns(&columns(3)).is_err());
    }
}
