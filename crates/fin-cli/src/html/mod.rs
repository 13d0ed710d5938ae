//! A retrieval evaluation or a training run as one HTML page: settings, curves, metrics, and queries
//! with their nearest neighbours.
//!
//! The page is a single file that asks for nothing else: thumbnails are `data:` addresses, the
//! style is part of it, there is no script, and its content security policy forbids the browser
//! to load anything. Whatever comes from the user is escaped.

mod chart;
mod page;
mod queries;
mod thumbnail;

pub use chart::{Chart, Line, smoothed};
pub use thumbnail::Thumbnail;

use crate::data::Found;
use crate::family::{Family, Item as _};

/// What a page shows.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Heading, and title of the window.
    pub title: String,
    /// Names and values, such as the model, the data and their sizes.
    pub facts: Vec<(String, String)>,
    /// Names and values of settings, below a heading of their own.
    pub settings: Vec<(String, String)>,
    /// Curves over the steps of a run.
    pub charts: Vec<Chart>,
    /// Measured numbers, in columns with a label such as "before". Larger is better. With several
    /// columns, the difference of the last and the first is shown too.
    pub columns: Vec<(String, Vec<(String, f64)>)>,
    /// Queries, in the order in which they are shown.
    pub queries: Vec<Query>,
    /// A sentence: which queries are shown, of how many.
    pub selection: String,
}

/// A query and what was found for it.
#[derive(Debug, Clone)]
pub struct Query {
    /// What was looked for.
    pub item: Item,
    /// How many right answers there are, found or not.
    pub relevant: usize,
    /// The same as `hits` of the model before, where both are shown.
    pub earlier: Option<Vec<Hit>>,
    /// The first of the ranking, best first. Answers from further down, such as the first right
    /// one, may follow: where a rank is left out, the page shows a gap.
    pub hits: Vec<Hit>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Hit {
    /// What was found.
    pub item: Item,
    /// Its place in the ranking, from 1.
    pub rank: usize,
    /// Its similarity to the query.
    pub score: f32,
    /// Whether it is one of the right answers.
    pub is_right: bool,
}

/// A text or a picture.
#[derive(Debug, Clone, Default)]
pub struct Item {
    /// The text, or the picture's path.
    pub caption: String,
    /// The class, where there is one.
    pub label: Option<String>,
    /// The picture. One that cannot be read is shown by its caption.
    pub thumbnail: Option<Thumbnail>,
}

/// A query for the page, with what items look like.
pub fn query<F: Family>(found: Found<'_, F::Item>, max_pixels: u64) -> Query {
    let item = |item: &F::Item, label: Option<&str>| Item {
        caption: item.key(),
        label: label.map(str::to_owned),
        // One that cannot be read any more is shown by its path.
        thumbnail: F::picture(item, max_pixels).and_then(|image| Thumbnail::new(&image).ok()),
    };
    let query = item(found.item, found.label);
    let hits = (1..).zip(found.hits);
    let hits = hits.map(|(rank, (other, label, score, is_right))| Hit {
        item: item(other, label),
        rank,
        score,
        is_right,
    });
    Query {
        hits: hits.collect(),
        item: query,
        relevant: found.relevant,
        earlier: None,
    }
}

impl Report {
    /// The page.
    pub fn html(&self) -> String {
        page::Page(self).to_string()
    }
}
