//! Queries with what was found for them, as HTML.

use std::fmt::{self, Formatter};

use super::page::{DASH, Escaped, breakable};
use super::{Hit, Item, Query, Report};

/// Characters of a text that are shown.
pub const TEXT_CHARS: usize = 600;

/// Characters of a picture's path that are shown, the last ones.
pub const PATH_CHARS: usize = 40;

/// The beginning of a text.
pub fn beginning(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.to_owned(),
    }
}

/// The end of a path, which tells more than its beginning: whole parts of it where that is possible.
pub fn ending(path: &str) -> String {
    match path.char_indices().rev().nth(PATH_CHARS - 1) {
        Some((start, _)) if start > 0 => {
            let end = &path[start..];
            format!("…{}", &end[end.find(['/', '\\']).unwrap_or(0)..])
        }
        _ => path.to_owned(),
    }
}

/// The queries of a report with what was found for them.
pub fn queries(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    f.write_str("<h2>Queries</h2>\n")?;
    if !report.selection.is_empty() {
        let selection = Escaped(&report.selection);
        writeln!(f, "<p class=\"note\" dir=\"auto\">{selection}</p>")?;
    }
    if report.queries.is_empty() {
        return f.write_str("<p>No queries are shown.</p>\n");
    }
    f.write_str(
        "<p class=\"note\">The nearest come first, each with its place and its similarity to the \
         query.</p>\n",
    )?;
    for (i, query) in report.queries.iter().enumerate() {
        self::query(f, i + 1, query)?;
    }
    Ok(())
}

fn query(f: &mut Formatter<'_>, n: usize, query: &Query) -> fmt::Result {
    let mut all = query.hits.iter().chain(query.earlier.iter().flatten());
    let pictures = all.any(|hit| hit.item.thumbnail.is_some());
    let class = if pictures { "pictures" } else { "texts" };
    let item = &query.item;
    write!(
        f,
        "<article class=\"query card {class}\">\n<div class=\"ask\">\n"
    )?;
    if item.thumbnail.is_some() {
        frame(f, item)?;
    }
    write!(
        f,
        "<div class=\"about\">\n<h3><span class=\"number\">Query {n}</span> "
    )?;
    // The heading is the label of a picture, and the words of a text.
    let caption = match item.thumbnail {
        Some(_) => ending(&item.caption),
        None => beginning(&item.caption),
    };
    let (heading, below) = match (&item.thumbnail, &item.label) {
        (Some(_), Some(label)) => (label, Some(&caption)),
        (_, label) => (&caption, label.as_ref()),
    };
    writeln!(f, "<bdi>{}</bdi></h3>", breakable(heading))?;
    if let Some(below) = below {
        writeln!(f, "<p class=\"note\" dir=\"auto\">{}</p>", breakable(below))?;
    }
    let summary = match &query.earlier {
        Some(earlier) => format!(
            "Before: {} After: {}",
            summary(earlier, query.relevant),
            summary(&query.hits, query.relevant)
        ),
        None => summary(&query.hits, query.relevant),
    };
    writeln!(f, "<p class=\"summary\">{summary}</p>\n</div>\n</div>")?;
    match &query.earlier {
        Some(earlier) => {
            f.write_str("<div class=\"stages\">\n")?;
            for (stage, hits) in [("Before", earlier), ("After", &query.hits)] {
                writeln!(f, "<h4>{stage}</h4>")?;
                self::hits(f, hits, pictures)?;
            }
            f.write_str("</div>\n")?;
        }
        None => hits(f, &query.hits, pictures)?,
    }
    f.write_str("</article>\n")
}

/// A list of answers; nothing where there are none.
fn hits(f: &mut Formatter<'_>, hits: &[Hit], pictures: bool) -> fmt::Result {
    if hits.is_empty() {
        return Ok(());
    }
    f.write_str("<ol class=\"hits\" role=\"list\">\n")?;
    let mut before = 0;
    for hit in hits {
        if hit.rank > before + 1 {
            f.write_str("<li class=\"gap\">…</li>\n")?;
        }
        before = hit.rank;
        self::hit(f, hit, pictures)?;
    }
    f.write_str("</ol>\n")
}

/// How well it went, in a sentence.
pub fn summary(hits: &[Hit], relevant: usize) -> String {
    // Answers from further down do not count as found.
    let places = hits.iter().zip(1..);
    let first: Vec<&Hit> = places
        .take_while(|(hit, place)| hit.rank == *place)
        .map(|(hit, _)| hit)
        .collect();
    let found = first.iter().filter(|hit| hit.is_right).count();
    let n = first.len();
    match (n, relevant) {
        (0, _) => "Nothing was found.".to_owned(),
        (_, 0) => "There is no right answer.".to_owned(),
        (_, 1) => match first.iter().find(|hit| hit.is_right) {
            Some(hit) => format!("The right answer is at place {}.", hit.rank),
            None => format!("The right answer is not among the first {n}."),
        },
        (_, all) => format!("{found} of {all} right answers among the first {n}."),
    }
}

fn hit(f: &mut Formatter<'_>, hit: &Hit, pictures: bool) -> fmt::Result {
    let item = &hit.item;
    let (class, symbol) = if hit.is_right {
        ("right", '✓')
    } else {
        ("wrong", '✗')
    };
    writeln!(f, "<li class=\"hit {class}\">")?;
    if pictures {
        frame(f, item)?;
    }
    let score = match hit.score {
        score if score.is_finite() => format!("{score:.3}").replace('-', "−"),
        _ => DASH.to_owned(),
    };
    write!(
        f,
        "<p class=\"mark\"><span><span aria-hidden=\"true\">{symbol}</span> {class}</span> \
         <span class=\"rank\">{}</span></p>\n\
         <p class=\"score\">{score}</p>\n",
        hit.rank
    )?;
    if pictures {
        // A picture without a label is told by its file.
        let file = || ending(&item.caption);
        let text = item.label.clone().unwrap_or_else(file);
        writeln!(f, "<p class=\"told\" dir=\"auto\">{}</p>", breakable(&text))?;
    } else {
        let text = beginning(&item.caption);
        writeln!(f, "<p class=\"told\" dir=\"auto\">{}</p>", Escaped(&text))?;
        if let Some(label) = &item.label {
            let label = Escaped(label);
            writeln!(f, "<p class=\"told note\" dir=\"auto\">{label}</p>")?;
        }
    }
    f.write_str("</li>\n")
}

/// A picture, or the words where there is none.
fn frame(f: &mut Formatter<'_>, item: &Item) -> fmt::Result {
    let Some(thumbnail) = &item.thumbnail else {
        let text = ending(&item.caption);
        let text = breakable(&text);
        return writeln!(f, "<div class=\"frame\"><p dir=\"auto\">{text}</p></div>");
    };
    let (width, height) = thumbnail.shown_size();
    let class = if thumbnail.is_magnified() {
        " class=\"magnified\""
    } else {
        ""
    };
    let caption = Escaped(&item.caption);
    writeln!(
        f,
        "<div class=\"frame\"><img{class} src=\"{}\" width=\"{width}\" height=\"{height}\" \
         alt=\"{caption}\" title=\"{caption}\"></div>",
        thumbnail.address()
    )
}
