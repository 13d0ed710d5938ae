//! Duplicates and contradictions in data, and what it shares with data that is held out.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;

use fin_core::{Error, Result};
use serde::Serialize;
use unicode_normalization::UnicodeNormalization;

/// Items, label and bits of the score of a row.
type RowKey<'a> = (Vec<&'a str>, Option<&'a str>, Option<u32>);

/// What a row of data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// A query, a document that belongs to it, and any that do not.
    Pairs,
    /// Two items and how similar they are; their order says nothing.
    ScoredPairs,
    /// A query, two documents, and by how much one is scored above the other.
    Margins,
    /// An item and its class.
    Labelled,
}

impl Form {
    /// All forms with their names.
    pub const ALL: [(Self, &str); 4] = [
        (Self::Pairs, "pairs"),
        (Self::ScoredPairs, "scored_pairs"),
        (Self::Margins, "margins"),
        (Self::Labelled, "labelled"),
    ];

    /// Names of its columns.
    pub const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Pairs => &["anchor", "positive"],
            Self::ScoredPairs => &["sentence1", "sentence2", "score"],
            Self::Margins => &["query", "positive", "negative", "margin"],
            Self::Labelled => &["text", "label"],
        }
    }

    /// The form that a file with these column names has; [`Form::Pairs`] where they are none that
    /// tell.
    pub fn of_columns(names: &[String]) -> Self {
        let has = |form: &Self| {
            let mut needed = form.columns().iter();
            needed.all(|needed| names.iter().any(|name| name == needed))
        };
        let telling = [Self::Margins, Self::ScoredPairs, Self::Labelled];
        telling.into_iter().find(has).unwrap_or(Self::Pairs)
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(form, _)| form == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

impl FromStr for Form {
    type Err = Error;

    /// # Errors
    /// [`Error::Argument`] listing the accepted names.
    fn from_str(text: &str) -> Result<Self> {
        let known = Self::ALL.iter().find(|(_, name)| *name == text);
        known.map(|(form, _)| *form).ok_or_else(|| {
            let names = Self::ALL.map(|(_, name)| name).join(", ");
            Error::argument("form", format!("`{text}` is unknown; accepted are {names}"))
        })
    }
}

/// An item as it is compared with others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Compared {
    /// As it stands in the data.
    pub text: String,
    /// What is equal for items that are alike.
    pub key: String,
}

impl Compared {
    /// A text, which is like another one where both are equal in normalisation form KC (Unicode
    /// Standard Annex 15), in lower case, without space at the ends and with one in place of
    /// several.
    pub fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        let lower = text.nfkc().collect::<String>().to_lowercase();
        let words: Vec<&str> = lower.split_whitespace().collect();
        let key = words.join(" ");
        Self { text, key }
    }

    /// An item with a key that says what it is like, a file with a digest of its content say.
    pub fn with_key(text: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            key: key.into(),
        }
    }
}

/// A row of data as it is compared with others.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Example {
    /// The item, or the two that are a pair, the query first.
    pub items: Vec<Compared>,
    /// Items that do not belong to the first.
    pub negatives: Vec<Compared>,
    /// Similarity or margin.
    pub score: Option<f32>,
    /// Class.
    pub label: Option<String>,
}

/// What can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// A row is equal to an earlier one.
    DuplicateRow,
    /// A row is equal to an earlier one but for case, space, Unicode form or, of scored pairs, order;
    /// a file by its content.
    NearDuplicateRow,
    /// Items that are alike have another score than in an earlier row.
    OtherScore,
    /// An item that is alike has another label than in an earlier row.
    OtherLabel,
    /// A negative of a query is a positive of it in some row.
    PositiveIsNegative,
    /// A row, scores and labels aside, is in the held-out data as well.
    SharedRow,
    /// A query is one of the held-out data.
    SharedQuery,
    /// A document that belongs to a query is one of the held-out data.
    SharedDocument,
    /// An item is in the held-out data.
    SharedItem,
}

impl FindingKind {
    /// In words, for one and for several.
    pub const fn words(self) -> [&'static str; 2] {
        match self {
            Self::DuplicateRow => ["duplicate row", "duplicate rows"],
            Self::NearDuplicateRow => [
                "row that is like an earlier one",
                "rows that are like an earlier one",
            ],
            Self::OtherScore => [
                "row with another score than an equal pair",
                "rows with another score than an equal pair",
            ],
            Self::OtherLabel => [
                "row with another label than an equal item",
                "rows with another label than an equal item",
            ],
            Self::PositiveIsNegative => [
                "negative that is a positive of the query",
                "negatives that are positives of the query",
            ],
            Self::SharedRow => ["row in the held-out data", "rows in the held-out data"],
            Self::SharedQuery => [
                "row with a query of the held-out data",
                "rows with a query of the held-out data",
            ],
            Self::SharedDocument => [
                "row with a document of the held-out data",
                "rows with a document of the held-out data",
            ],
            Self::SharedItem => [
                "row with an item of the held-out data",
                "rows with an item of the held-out data",
            ],
        }
    }
}

/// One occurrence of a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Index of the row.
    pub row: usize,
    /// Index of the row that it is compared with, of the held-out data where it is about that.
    pub other: usize,
    /// The item, or the first of the pair.
    pub text: String,
}

/// All occurrences of a finding, of which there is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// Where, in the order of rows.
    pub cases: Vec<Case>,
}

/// What [`check`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// Number of rows.
    pub rows: usize,
    /// What was found, nothing of what was not.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// Number of occurrences.
    pub fn count(&self, kind: FindingKind) -> usize {
        let finding = self.findings.iter().find(|finding| finding.kind == kind);
        finding.map_or(0, |finding| finding.cases.len())
    }
}

/// Looks for duplicates and contradictions in rows of this form and, where there is held-out data,
/// for what both share. Items are alike where their keys are equal; see [`Compared`].
///
/// ```
/// use fin_train::dataset::{Compared, Example, FindingKind, Form, check};
///
/// let row = |text: &str, label: &str| Example {
///     items: vec![Compared::text(text)],
///     label: Some(label.into()),
///     ..Example::default()
/// };
/// let rows = [row("Hello  there", "greet"), row("hello there", "leave")];
/// let report = check(Form::Labelled, &rows, None);
/// assert_eq!(report.count(FindingKind::OtherLabel), 1);
/// ```
pub fn check(form: Form, rows: &[Example], held_out: Option<&[Example]>) -> CheckReport {
    let mut cases: Vec<(FindingKind, Case)> = Vec::new();
    let mut add = |kind, row: usize, other, text: &Compared| {
        let text = text.text.clone();
        cases.push((kind, Case { row, other, text }));
    };
    let mut exact: HashMap<RowKey, usize> = HashMap::new();
    let mut alike: HashMap<RowKey, usize> = HashMap::new();
    let mut targets: HashMap<Vec<&str>, usize> = HashMap::new();
    for (i, row) in rows.iter().enumerate() {
        let Some(first) = row.items.first() else {
            continue;
        };
        let label = row.label.as_deref();
        let score = row.score.map(f32::to_bits);
        let earlier = *exact.entry((texts(row), label, score)).or_insert(i);
        let like = *alike.entry((keys(form, row), label, score)).or_insert(i);
        if earlier < i {
            add(FindingKind::DuplicateRow, i, earlier, first);
        } else if like < i {
            add(FindingKind::NearDuplicateRow, i, like, first);
        }
        let other = *targets.entry(keys(form, row)).or_insert(i);
        if rows[other].score != row.score {
            add(FindingKind::OtherScore, i, other, first);
        }
        if rows[other].label != row.label {
            add(FindingKind::OtherLabel, i, other, first);
        }
    }
    let mut positives: HashMap<[&str; 2], usize> = HashMap::new();
    for (i, row) in rows.iter().enumerate() {
        if let [query, positive] = &row.items[..] {
            positives.entry([&query.key, &positive.key]).or_insert(i);
        }
    }
    for (i, row) in rows.iter().enumerate() {
        for (query, negative) in row.items.iter().take(1).flat_map(|query| {
            let negatives = row.negatives.iter();
            negatives.map(move |negative| (query, negative))
        }) {
            if let Some(&other) = positives.get(&[query.key.as_str(), &negative.key]) {
                add(FindingKind::PositiveIsNegative, i, other, negative);
            }
        }
    }
    if let Some(held_out) = held_out {
        shared(form, rows, held_out, &mut add);
    }
    let mut findings: Vec<Finding> = Vec::new();
    for (kind, case) in cases {
        match findings.iter_mut().find(|finding| finding.kind == kind) {
            Some(finding) => finding.cases.push(case),
            None => findings.push(Finding {
                kind,
                cases: vec![case],
            }),
        }
    }
    findings.sort_by_key(|finding| finding.kind);
    CheckReport {
        rows: rows.len(),
        findings,
    }
}

/// What rows share with held-out ones.
fn shared(
    form: Form,
    rows: &[Example],
    held_out: &[Example],
    add: &mut impl FnMut(FindingKind, usize, usize, &Compared),
) {
    let mut whole: HashMap<Vec<&str>, usize> = HashMap::new();
    // By place: queries and documents apart, items of scored pairs not.
    let mut items: HashMap<(usize, &str), usize> = HashMap::new();
    let is_ordered = matches!(form, Form::Pairs | Form::Margins);
    let place = |position: usize| if is_ordered { position } else { 0 };
    for (i, row) in held_out.iter().enumerate() {
        whole.entry(pair_keys(form, row)).or_insert(i);
        for (position, item) in row.items.iter().enumerate() {
            items.entry((place(position), &item.key)).or_insert(i);
        }
    }
    for (i, row) in rows.iter().enumerate() {
        let Some(first) = row.items.first() else {
            continue;
        };
        if row.items.len() > 1
            && let Some(&other) = whole.get(&pair_keys(form, row))
        {
            add(FindingKind::SharedRow, i, other, first);
        }
        let mut kinds = HashSet::new();
        for (position, item) in row.items.iter().enumerate() {
            let kind = match (is_ordered, position) {
                (true, 0) => FindingKind::SharedQuery,
                (true, _) => FindingKind::SharedDocument,
                (false, _) => FindingKind::SharedItem,
            };
            if let Some(&other) = items.get(&(place(position), item.key.as_str()))
                && kinds.insert(kind)
            {
                add(kind, i, other, item);
            }
        }
    }
}

fn texts(row: &Example) -> Vec<&str> {
    let items = row.items.iter().chain(&row.negatives);
    items.map(|item| item.text.as_str()).collect()
}

/// Keys of all items, those of a pair without order in alphabetical order.
fn keys(form: Form, row: &Example) -> Vec<&str> {
    let mut keys = pair_keys(form, row);
    keys.extend(row.negatives.iter().map(|item| item.key.as_str()));
    keys
}

fn pair_keys(form: Form, row: &Example) -> Vec<&str> {
    let mut keys: Vec<&str> = row.items.iter().map(|item| item.key.as_str()).collect();
    if form == Form::ScoredPairs {
        keys.sort_unstable();
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(items: &[&str], negatives: &[&str]) -> Example {
        let compared = |texts: &[&str]| texts.iter().map(|text| Compared::text(*text)).collect();
        Example {
            items: compared(items),
            negatives: compared(negatives),
            ..Example::default()
        }
    }

    fn found(report: &CheckReport) -> Vec<(FindingKind, Vec<(usize, usize)>)> {
        let findings = report.findings.iter();
        findings
            .map(|finding| {
                let cases = finding.cases.iter().map(|case| (case.row, case.other));
                (finding.kind, cases.collect())
            })
            .collect()
    }

    #[test]
    fn texts_are_alike_but_for_case_space_and_unicode_form() {
        let key = |text: &str| Compared::text(text).key;
        // A combining accent, a ligature, full-width letters and a no-break space.
        assert_eq!(key("Cafe\u{301}  au\tlait "), key("caf\u{e9} AU lait"));
        assert_eq!(key("\u{fb01}n\u{a0}\u{ff21}"), "fin a");
        assert_ne!(key("a b"), key("ab"));
        assert_eq!(Compared::text(" A ").text, " A ");
    }

    #[test]
    fn duplicates_of_rows() {
        let rows = [
            row(&["q", "a"], &["n"]),
            row(&["q", "a"], &["m"]),
            row(&["q", "a"], &["n"]),
            row(&["Q", "a "], &["n"]),
            row(&["a", "q"], &["n"]),
        ];
        let report = check(Form::Pairs, &rows, None);
        let expected = [
            (FindingKind::DuplicateRow, vec![(2, 0)]),
            (FindingKind::NearDuplicateRow, vec![(3, 0)]),
        ];
        assert_eq!(found(&report), expected);
        assert_eq!(
            (report.rows, report.findings[1].cases[0].text.as_str()),
            (5, "Q")
        );
        assert_eq!(report.count(FindingKind::OtherScore), 0);
    }

    #[test]
    fn scores_and_labels_that_contradict() {
        let scored = |a: &str, b: &str, score| Example {
            score: Some(score),
            ..row(&[a, b], &[])
        };
        let rows = [
            scored("a", "b", 1.0),
            scored("B", "A", 0.5),
            scored("b", "a", 1.0),
            scored("a", "c", 0.5),
        ];
        let expected = [
            (FindingKind::NearDuplicateRow, vec![(2, 0)]),
            (FindingKind::OtherScore, vec![(1, 0)]),
        ];
        assert_eq!(found(&check(Form::ScoredPairs, &rows, None)), expected);

        let margin = |negative: &str, score| Example {
            score: Some(score),
            ..row(&["q", "a"], &[negative])
        };
        let rows = [margin("n", 1.0), margin("m", 2.0), margin("n", 3.0)];
        let expected = [(FindingKind::OtherScore, vec![(2, 0)])];
        assert_eq!(found(&check(Form::Margins, &rows, None)), expected);

        let labelled = |text: &str, label: &str| Example {
            label: Some(label.into()),
            ..row(&[text], &[])
        };
        let rows = [labelled("a", "x"), labelled("a", "y"), labelled("a", "x")];
        let expected = [
            (FindingKind::DuplicateRow, vec![(2, 0)]),
            (FindingKind::OtherLabel, vec![(1, 0)]),
        ];
        assert_eq!(found(&check(Form::Labelled, &rows, None)), expected);
    }

    #[test]
    fn a_positive_of_another_row_as_a_negative() {
        let rows = [
            row(&["q", "a"], &["B", "x"]),
            row(&["q", "b"], &[]),
            row(&["r", "x"], &["a"]),
        ];
        let report = check(Form::Pairs, &rows, None);
        let expected = [(FindingKind::PositiveIsNegative, vec![(0, 1)])];
        assert_eq!(found(&report), expected);
        assert_eq!(report.findings[0].cases[0].text, "B");
    }

    #[test]
    fn what_is_shared_with_held_out_data() {
        let rows = [
            row(&["q", "a"], &[]),
            row(&["r", "b"], &[]),
            row(&["b", "r"], &[]),
            row(&["s", "s"], &[]),
        ];
        let held_out = [
            row(&["Q", "a"], &[]),
            row(&["t", "b"], &[]),
            row(&["s", "u"], &[]),
        ];
        let expected = [
            (FindingKind::SharedRow, vec![(0, 0)]),
            (FindingKind::SharedQuery, vec![(0, 0), (3, 2)]),
            (FindingKind::SharedDocument, vec![(0, 0), (1, 1)]),
        ];
        assert_eq!(found(&check(Form::Pairs, &rows, Some(&held_out))), expected);
        let expected = [
            (FindingKind::SharedRow, vec![(0, 0)]),
            (
                FindingKind::SharedItem,
                vec![(0, 0), (1, 1), (2, 1), (3, 2)],
            ),
        ];
        let report = check(Form::ScoredPairs, &rows, Some(&held_out));
        let shared: Vec<_> = found(&report)
            .into_iter()
            .filter(|(kind, _)| *kind >= FindingKind::SharedRow)
            .collect();
        assert_eq!(shared, expected);
    }

    #[test]
    fn the_form_of_a_file() {
        let form = |names: &[&str]| {
            Form::of_columns(&names.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(form(&["label", "text", "id"]), Form::Labelled);
        assert_eq!(
            form(&["query", "positive", "negative", "margin"]),
            Form::Margins
        );
        assert_eq!(
            form(&["score", "sentence1", "sentence2"]),
            Form::ScoredPairs
        );
        assert_eq!(form(&["query", "answer"]), Form::Pairs);
        for (form, name) in Form::ALL {
            assert_eq!(
                (name.parse::<Form>().unwrap(), form.to_string().as_str()),
                (form, name)
            );
        }
        let error = "pair".parse::<Form>().unwrap_err().to_string();
        assert!(
            error.contains("`pair`") && error.contains("scored_pairs"),
            "{error}"
        );
    }
}
