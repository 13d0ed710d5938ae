//! Evaluation data: which columns are read, and what is measured on them.

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::Device;
use clap::ValueEnum;
use fin_core::input::{
    Column, LabelledColumns, Pair, PairColumns, ReadOptions, ScoredPairColumns,
    ScoredTripletColumns, read_labelled, read_pairs, read_scored_pairs,
};
use fin_core::{Embedder, Error, Result};
use fin_train::Metrics;
use fin_train::evaluate::{
    Evaluator, LabelledEvaluator, Rankings, RetrievalEvaluator, StsEvaluator,
};
use serde::{Deserialize, Serialize};

use crate::family::{Family, Item, Kind as ItemKind, Reading, base_of};
use crate::report;

/// What a model is measured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EvalTask {
    /// Whether the similarity of two items goes with a score.
    Sts,
    /// How high the documents that belong to a query rank; in a directory with a directory a class,
    /// how high the others of an item's class rank.
    Retrieval,
    /// How high the others of an item's class rank.
    Labelled,
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

/// The columns of triplets with a margin: none chosen, or all four.
pub fn triplet_columns(chosen: &[Column]) -> Result<ScoredTripletColumns> {
    match chosen {
        [] => Ok(ScoredTripletColumns::default()),
        [query, positive, negative, margin] => Ok(ScoredTripletColumns {
            query: Some(query.clone()),
            positive: Some(positive.clone()),
            negative: Some(negative.clone()),
            margin: Some(margin.clone()),
        }),
        _ => Err(wrong_number(
            "4 (query, positive, negative, margin)",
            chosen,
        )),
    }
}

/// The columns of labelled items: none chosen, or both.
pub fn labelled_columns(chosen: &[Column]) -> Result<LabelledColumns> {
    match chosen {
        [] => Ok(LabelledColumns::default()),
        [text, label] => Ok(LabelledColumns {
            text: Some(text.clone()),
            label: Some(label.clone()),
        }),
        _ => Err(wrong_number("2 (item, label)", chosen)),
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
pub struct Evaluation<I> {
    kind: Kind<I>,
    name: String,
    /// Sizes of the data by name, as in `pairs`.
    pub sizes: Vec<(&'static str, usize)>,
}

#[derive(Debug, Clone)]
enum Kind<I> {
    Sts(StsEvaluator<I>),
    Retrieval(RetrievalEvaluator<I>),
    /// Images by texts, and texts by images.
    BothWays(Box<[RetrievalEvaluator<I>; 2]>),
    Labelled(LabelledEvaluator<I>, Vec<String>),
}

/// What the metrics of [`Kind::BothWays`] begin with.
const WAYS: [&str; 2] = ["text-to-image ", "image-to-text "];

/// A query with what was found for it.
pub struct Found<'a, I> {
    pub item: &'a I,
    pub label: Option<&'a str>,
    /// Number of items that belong to it.
    pub relevant: usize,
    /// What was found, best first: item, label, similarity, and whether it belongs to the query.
    pub hits: Vec<(&'a I, Option<&'a str>, f32, bool)>,
}

impl EvalSource<'_> {
    /// Reads the data.
    pub fn read<F: Family>(&self) -> Result<Evaluation<F::Item>> {
        let name = self.data.display().to_string();
        let classes = match self.task {
            EvalTask::Sts => None,
            EvalTask::Retrieval => F::by_class(self.data).transpose()?,
            EvalTask::Labelled => match F::by_class(self.data).transpose()? {
                Some(classes) => Some(classes),
                None => Some(labelled_items::<F>(self.data, self.columns, self.read)?),
            },
        };
        if self.corpus.is_some() && (self.task == EvalTask::Sts || classes.is_some()) {
            let reason = "a corpus is for the task retrieval on pairs; this data has none";
            return Err(Error::argument("corpus", reason));
        }
        match classes {
            Some(classes) => self.labelled(name, classes),
            None if self.task == EvalTask::Sts => self.read_sts::<F>(name),
            None => self.read_retrieval::<F>(name),
        }
    }

    fn labelled<I: Item>(&self, name: String, items: Vec<(I, String)>) -> Result<Evaluation<I>> {
        if !self.columns.is_empty() && self.data.is_dir() {
            let reason = "are for files; a directory has none";
            return Err(Error::argument("columns", reason));
        }
        Evaluation::labelled(name, items, self.cutoffs).map_err(|error| match error {
            Error::Argument { name, reason } if name == "cutoffs" => {
                Error::Argument { name, reason }
            }
            other => about(self.data, other),
        })
    }

    fn read_sts<F: Family>(&self, name: String) -> Result<Evaluation<F::Item>> {
        let base = base_of(self.data);
        let item = |cell| F::Item::from_cell(cell, &base, None);
        let rows = read_scored_pairs(self.data, &scored_columns(self.columns)?, self.read)?;
        if rows.len() < 2 {
            let reason = "holds one pair; a correlation needs at least 2";
            return Err(Error::invalid(self.data, reason));
        }
        let (mut first, mut second, mut scores) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            first.push(item(row.sentence1));
            second.push(item(row.sentence2));
            scores.push(f64::from(row.score));
        }
        Evaluation::sts(name, first, second, scores)
    }

    fn read_retrieval<F: Family>(&self, name: String) -> Result<Evaluation<F::Item>> {
        let columns = PairColumns {
            negatives: Some(Vec::new()),
            ..pair_columns(self.columns)?
        };
        let rows = read_pairs(self.data, &columns, self.read)?;
        let further = match self.corpus {
            Some(path) => {
                let reading = Reading {
                    column: self.corpus_column,
                    options: self.read,
                    kind: None,
                };
                F::read(path, reading)?.collect::<Result<_>>()?
            }
            None => Vec::new(),
        };
        let base = base_of(self.data);
        let item = |cell| F::Item::from_cell(cell, &base, None);
        let rows = rows.into_iter().map(
            |Pair {
                 anchor, positive, ..
             }| (item(anchor), item(positive)),
        );
        let rows: Vec<(F::Item, F::Item)> = rows.collect();
        let mut mixed = Mixed::default();
        rows.iter().for_each(|(a, b)| mixed.look_at(a, b));
        mixed.note(self.data);
        Evaluation::retrieval(name, rows, further, self.cutoffs)
    }
}

/// Puts the text of rows of a text and an image first, and says whether all rows are of this kind.
fn text_first<I: Item>(rows: &mut [(I, I)]) -> bool {
    let kinds = |(a, b): &(I, I)| (a.kind(), b.kind());
    let (text, image) = (Some(ItemKind::Text), Some(ItemKind::Image));
    let is_mixed = |row| [(text, image), (image, text)].contains(&kinds(row));
    let is_all_mixed = !rows.is_empty() && rows.iter().all(is_mixed);
    if is_all_mixed {
        for row in rows.iter_mut().filter(|row| row.0.kind() == image) {
            std::mem::swap(&mut row.0, &mut row.1);
        }
    }
    is_all_mixed
}

/// Looks for rows of two items of a kind among such of a text and an image, which are seldom meant:
/// what is not known as the name of an image is a text.
#[derive(Debug)]
pub struct Mixed<I> {
    rows: usize,
    alike: usize,
    example: Option<(I, I)>,
}

impl<I> Default for Mixed<I> {
    fn default() -> Self {
        Self {
            rows: 0,
            alike: 0,
            example: None,
        }
    }
}

impl<I: Item> Mixed<I> {
    /// Looks at a row.
    pub fn look_at(&mut self, first: &I, second: &I) {
        self.rows += 1;
        if first.kind() == second.kind() {
            self.alike += 1;
            if self.example.is_none() {
                self.example = Some((first.clone(), second.clone()));
            }
        }
    }

    /// Says so where there are both.
    pub fn note(&self, path: &Path) {
        if let Some((a, b)) = &self.example
            && self.alike < self.rows
        {
            report::note!(
                "warning: {} of {} of {} hold no text and image but two of a kind, such as `{}` and `{}`",
                self.alike,
                report::count(self.rows, "row", "rows"),
                path.display(),
                a.key(),
                b.key()
            );
        }
    }
}

/// Distinct queries and documents in order of their first occurrence, and which belong together.
#[derive(Debug, PartialEq)]
struct Relevance<I> {
    queries: Vec<I>,
    documents: Vec<I>,
    /// Indices of the documents of each query.
    relevant: Vec<Vec<usize>>,
}

impl<I: Item> Relevance<I> {
    fn new(rows: Vec<(I, I)>, further: Vec<I>) -> Self {
        let mut queries = Distinct::default();
        let mut documents = Distinct::default();
        let mut relevant: Vec<Vec<usize>> = Vec::new();
        for (query, document) in rows {
            let query = queries.index_of(query);
            let document = documents.index_of(document);
            if query == relevant.len() {
                relevant.push(Vec::new());
            }
            if !relevant[query].contains(&document) {
                relevant[query].push(document);
            }
        }
        for item in further {
            documents.index_of(item);
        }
        Self {
            queries: queries.items,
            documents: documents.items,
            relevant,
        }
    }
}

/// Items without repetitions.
pub struct Distinct<I> {
    pub items: Vec<I>,
    indices: HashMap<I, usize>,
}

impl<I> Default for Distinct<I> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            indices: HashMap::new(),
        }
    }
}

impl<I: Item> Distinct<I> {
    /// Index of an item, which is added where it is new.
    pub fn index_of(&mut self, item: I) -> usize {
        if let Some(&index) = self.indices.get(&item) {
            return index;
        }
        let index = self.items.len();
        self.items.push(item.clone());
        self.indices.insert(item, index);
        index
    }

    /// Index of an item, where there is one that is equal.
    pub fn find(&self, item: &I) -> Option<usize> {
        self.indices.get(item).copied()
    }
}

impl<I: Item> Evaluation<I> {
    /// Correlation of similarities with scores.
    pub fn sts(name: String, first: Vec<I>, second: Vec<I>, scores: Vec<f64>) -> Result<Self> {
        let sizes = vec![("pairs", scores.len())];
        let kind = Kind::Sts(StsEvaluator::new(name.clone(), first, second, scores)?);
        Ok(Self { kind, name, sizes })
    }

    /// Ranks of the others of an item's class.
    pub fn labelled(name: String, items: Vec<(I, String)>, cutoffs: &[usize]) -> Result<Self> {
        let (items, labels): (Vec<I>, Vec<String>) = items.into_iter().unzip();
        let classes: std::collections::HashSet<&String> = labels.iter().collect();
        let sizes = vec![("items", items.len()), ("classes", classes.len())];
        let evaluator =
            LabelledEvaluator::new(name.clone(), items, &labels)?.with_cutoffs(cutoffs)?;
        let kind = Kind::Labelled(evaluator, labels);
        Ok(Self { kind, name, sizes })
    }

    /// Ranks of the documents that belong to queries, among them and `further` ones; both ways where
    /// all rows are of a text and an image.
    pub fn retrieval(
        name: String,
        mut rows: Vec<(I, I)>,
        further: Vec<I>,
        cutoffs: &[usize],
    ) -> Result<Self> {
        let is_both_ways = text_first(&mut rows);
        if is_both_ways && !further.is_empty() {
            let reason = "further documents have one kind, but rows of texts and images are \
                          searched both ways; leave them out";
            return Err(Error::argument("corpus", reason));
        }
        let evaluator = |rows, further| {
            let Relevance {
                queries,
                documents,
                relevant,
            } = Relevance::new(rows, further);
            RetrievalEvaluator::new(name.clone(), queries, documents, relevant)?
                .with_cutoffs(cutoffs)
        };
        if is_both_ways {
            let reversed = rows
                .iter()
                .map(|(text, image)| (image.clone(), text.clone()));
            let images_to_texts = evaluator(reversed.collect(), Vec::new())?;
            let texts_to_images = evaluator(rows, Vec::new())?;
            let sizes = vec![
                ("texts", texts_to_images.queries().len()),
                ("images", images_to_texts.queries().len()),
            ];
            let kind = Kind::BothWays(Box::new([texts_to_images, images_to_texts]));
            return Ok(Self { kind, name, sizes });
        }
        let evaluator = evaluator(rows, further)?;
        let sizes = vec![
            ("queries", evaluator.queries().len()),
            ("documents", evaluator.corpus().len()),
        ];
        let kind = Kind::Retrieval(evaluator);
        Ok(Self { kind, name, sizes })
    }

    /// The rankings that the metrics are of; there are none of scored pairs.
    pub fn rank<E: Embedder<Item = I>>(
        &self,
        embedder: &E,
        device: &Device,
    ) -> Result<Vec<Rankings>> {
        match &self.kind {
            Kind::Sts(_) => Ok(Vec::new()),
            Kind::Retrieval(evaluator) => Ok(vec![evaluator.rank(embedder, device)?]),
            Kind::BothWays(evaluators) => {
                // The same items are embedded once.
                let [texts_to_images, images_to_texts] = &**evaluators;
                let (texts, images, dim) = texts_to_images.embed(embedder, device)?;
                Ok(vec![
                    texts_to_images.rank_embedded(&texts, &images, dim)?,
                    images_to_texts.rank_embedded(&images, &texts, dim)?,
                ])
            }
            Kind::Labelled(evaluator, _) => Ok(vec![evaluator.rank(embedder, device)?]),
        }
    }

    /// The metrics of these rankings, or of scored pairs.
    pub fn measure<E: Embedder<Item = I>>(
        &self,
        rankings: &[Rankings],
        embedder: &E,
        device: &Device,
    ) -> Result<Metrics> {
        let mut metrics = Metrics::default();
        let mut add = |prefix: &str, measured: Metrics| {
            for (name, value) in measured.iter() {
                // The share of queries with a hit goes by both names.
                let name = name.replace("accuracy@", "hit@");
                metrics.insert(format!("{prefix}{name}"), value);
            }
        };
        match (&self.kind, rankings) {
            (Kind::Sts(evaluator), _) => add("", evaluator.evaluate(embedder, device)?),
            (Kind::Retrieval(evaluator), [rankings]) => add("", evaluator.measure(rankings)?),
            (Kind::Labelled(evaluator, _), [rankings]) => add("", evaluator.measure(rankings)?),
            (Kind::BothWays(evaluators), rankings) if rankings.len() == WAYS.len() => {
                for ((way, evaluator), rankings) in WAYS.iter().zip(&**evaluators).zip(rankings) {
                    add(way, evaluator.measure(rankings)?);
                }
            }
            _ => {
                let rankings = self.rank(embedder, device)?;
                return self.measure(&rankings, embedder, device);
            }
        }
        Ok(metrics)
    }

    /// Queries that something belongs to, at most `queries` and spread evenly over all of them, with
    /// the first `k` items that were found for each; and how many such queries there are. Of texts
    /// and images, the queries are the texts.
    pub fn examples<'a>(
        &'a self,
        rankings: &Rankings,
        queries: usize,
        k: usize,
    ) -> (Vec<Found<'a, I>>, usize) {
        let (items, found, labels): (&[I], &[I], Option<&[String]>) = match &self.kind {
            Kind::Sts(_) => return (Vec::new(), 0),
            Kind::Retrieval(evaluator) => (evaluator.queries(), evaluator.corpus(), None),
            Kind::BothWays(evaluators) => (evaluators[0].queries(), evaluators[0].corpus(), None),
            Kind::Labelled(evaluator, labels) => {
                (evaluator.items(), evaluator.items(), Some(labels))
            }
        };
        let mut sizes: HashMap<&str, usize> = HashMap::new();
        for label in labels.into_iter().flatten() {
            *sizes.entry(label).or_default() += 1;
        }
        let label = |i: usize| labels.map(|labels| labels[i].as_str());
        let relevant = |query: usize| match &self.kind {
            Kind::Sts(_) => 0,
            Kind::Retrieval(evaluator) => evaluator.relevant()[query].len(),
            Kind::BothWays(evaluators) => evaluators[0].relevant()[query].len(),
            Kind::Labelled(..) => label(query).map_or(0, |label| sizes[label] - 1),
        };
        let belongs = |query: usize, other: usize| match &self.kind {
            Kind::Sts(_) => false,
            Kind::Retrieval(evaluator) => evaluator.relevant()[query].contains(&other),
            Kind::BothWays(evaluators) => evaluators[0].relevant()[query].contains(&other),
            Kind::Labelled(..) => label(query) == label(other),
        };
        let usable: Vec<usize> = (0..items.len().min(rankings.len()))
            .filter(|&query| relevant(query) > 0)
            .collect();
        let shown = queries.min(usable.len());
        let chosen = (0..shown).map(|i| usable[i * usable.len() / shown]);
        let examples = chosen.map(|query| Found {
            item: &items[query],
            label: label(query),
            relevant: relevant(query),
            hits: rankings[query]
                .iter()
                .take(k)
                .map(|&(other, score)| (&found[other], label(other), score, belongs(query, other)))
                .collect(),
        });
        (examples.collect(), usable.len())
    }
}

impl<I: Item, E: Embedder<Item = I>> Evaluator<E> for Evaluation<I> {
    fn name(&self) -> &str {
        &self.name
    }

    fn evaluate(&self, embedder: &E, device: &Device) -> Result<Metrics> {
        self.measure(&self.rank(embedder, device)?, embedder, device)
    }
}

/// Items with a label each of a file, paths being relative to its directory.
pub fn labelled_items<F: Family>(
    path: &Path,
    columns: &[Column],
    read: ReadOptions,
) -> Result<Vec<(F::Item, String)>> {
    let base = base_of(path);
    let rows = read_labelled(path, &labelled_columns(columns)?, read)?;
    let item = |cell| F::Item::from_cell(cell, &base, None);
    Ok(rows
        .into_iter()
        .map(|row| (item(row.text), row.label))
        .collect())
}

/// An error about a list of items, about the file that they are from.
pub fn about(path: &Path, error: Error) -> Error {
    match error {
        Error::Argument { reason, .. } => Error::invalid(path, reason),
        other => other,
    }
}

/// Metrics as rows of cells for [`report::columns`]: those at cut-offs in a row a metric and a
/// column a cut-off, others in a row each after them. `measured` has a label and metrics of the same names.
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
    let cutoff = |name: &str| -> Option<(String, String)> {
        let (metric, cutoff) = name.split_once('@')?;
        cutoff.parse::<usize>().ok()?;
        Some((metric.to_owned(), format!("@{cutoff}")))
    };
    if measured.len() > 1 || first.iter().all(|(name, _)| cutoff(name).is_none()) {
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
    let mut others = Vec::new();
    for (name, value) in first.iter() {
        let Some((metric, column)) = cutoff(name) else {
            others.push(vec![name.to_owned(), number(value)]);
            continue;
        };
        if !rows[0].contains(&column) {
            rows[0].push(column);
        }
        match rows.iter_mut().skip(1).find(|row| row[0] == metric) {
            Some(row) => row.push(number(value)),
            None => rows.push(vec![metric, number(value)]),
        }
    }
    rows.extend(others);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(anchor: &str, positive: &str) -> (String, String) {
        (anchor.into(), positive.into())
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
            ("r_precision", 0.25),
            ("map@r", 0.125),
        ] {
            metrics.insert(name, value);
        }
        let rows = metric_rows(&[("", &metrics)]);
        assert_eq!(
            rows,
            [
                vec!["", "@1", "@10"],
                vec!["hit", "0.5000", "1.0000"],
                vec!["mrr", "0.5000", "-"],
                vec!["r_precision", "0.2500"],
                vec!["map@r", "0.1250"],
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
        assert!(triplet_columns(&columns(4)).is_ok());
        let error = triplet_columns(&columns(3)).unwrap_err().to_string();
        assert!(
            error.contains("4 (query, positive, negative, margin)"),
            "{error}"
        );
    }
}
