//! The page's HTML.

use std::fmt::{self, Display, Formatter, Write};

use super::queries::queries;
use super::{Chart, Report};

const STYLE: &str = include_str!("style.css");

/// Stands for a number that is not defined.
pub const DASH: &str = "–";

/// Text with all that HTML would take for something else replaced, in elements and in quoted
/// attributes. Control characters, which HTML cannot hold, become U+FFFD.
pub struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            match char {
                '&' => f.write_str("&amp;"),
                '<' => f.write_str("&lt;"),
                '>' => f.write_str("&gt;"),
                '"' => f.write_str("&quot;"),
                '\'' => f.write_str("&#39;"),
                '\t' | '\n' | '\r' => f.write_char(' '),
                _ if char.is_control() => f.write_char('\u{fffd}'),
                _ => f.write_char(char),
            }?;
        }
        Ok(())
    }
}

/// Escaped, with leave to break the line after each part of a path.
pub fn breakable(text: &str) -> String {
    Escaped(text).to_string().replace('/', "/<wbr>")
}

/// A value or, with `signed`, a difference: four decimals, as on the terminal.
pub fn number(value: f64, signed: bool) -> String {
    if !value.is_finite() {
        return DASH.to_owned();
    }
    let digits = format!("{:.4}", value.abs());
    let is_zero = digits.bytes().all(|byte| matches!(byte, b'0' | b'.'));
    match (is_zero, value < 0.0) {
        (false, true) => format!("−{digits}"),
        (false, false) if signed => format!("+{digits}"),
        _ => digits,
    }
}

/// A cell with a value.
fn value_cell(value: f64) -> String {
    format!("<td>{}</td>", number(value, false))
}

/// A cell with a difference, coloured by its sign.
fn difference_cell(value: f64) -> String {
    let text = number(value, true);
    let class = match text.chars().next() {
        Some('+') => " class=\"up\"",
        Some('−') => " class=\"down\"",
        _ => "",
    };
    format!("<td{class}>{text}</td>")
}

/// Name and cut-off of a metric such as `map@10`.
fn at_cutoff(metric: &str) -> Option<(&str, usize)> {
    let (name, cutoff) = metric.rsplit_once('@')?;
    Some((name, cutoff.parse().ok()?))
}

/// Appends what is not there yet.
fn add_new<T: PartialEq>(list: &mut Vec<T>, value: T) {
    if !list.contains(&value) {
        list.push(value);
    }
}

/// A column of measured numbers.
type Column = (String, Vec<(String, f64)>);

/// The value of a metric in a column, NaN where it has none.
fn value_of(column: &Column, metric: &str) -> f64 {
    let found = column.1.iter().find(|(name, _)| name == metric);
    found.map_or(f64::NAN, |(_, value)| *value)
}

/// First and last of several columns, whose difference is shown.
fn ends(columns: &[Column]) -> Option<(&Column, &Column)> {
    match columns {
        [first, .., last] => Some((first, last)),
        _ => None,
    }
}

/// A report as HTML.
pub struct Page<'a>(pub &'a Report);

impl Display for Page<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let report = self.0;
        let title = Escaped(&report.title);
        write!(
            f,
            "<!doctype html>\n\
             <html lang=\"en\">\n\
             <head>\n\
             <meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" \
             content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n\
             <style>\n{STYLE}</style>\n\
             </head>\n\
             <body>\n\
             <main>\n\
             <h1 dir=\"auto\">{title}</h1>\n"
        )?;
        facts(f, &report.facts)?;
        if !report.settings.is_empty() {
            f.write_str("<h2>Settings</h2>\n")?;
            facts(f, &report.settings)?;
        }
        charts(f, &report.charts)?;
        metrics(f, &report.columns)?;
        // A run may have none to show; a search that has none says so.
        if report.charts.is_empty() || !report.queries.is_empty() {
            queries(f, report)?;
        }
        f.write_str("</main>\n</body>\n</html>\n")
    }
}

fn facts(f: &mut Formatter<'_>, facts: &[(String, String)]) -> fmt::Result {
    if facts.is_empty() {
        return Ok(());
    }
    f.write_str("<dl class=\"facts\">\n")?;
    for (name, value) in facts {
        let (name, value) = (Escaped(name), breakable(value));
        writeln!(f, "<dt>{name}</dt><dd dir=\"auto\">{value}</dd>")?;
    }
    f.write_str("</dl>\n")
}

fn charts(f: &mut Formatter<'_>, charts: &[Chart]) -> fmt::Result {
    let figures: String = charts.iter().map(Chart::html).collect();
    match figures.is_empty() {
        true => Ok(()),
        false => write!(
            f,
            "<h2>Course of training</h2>\n<div class=\"charts\">\n{figures}</div>\n"
        ),
    }
}

/// Metrics with cut-offs in one table, cut-offs along the top; the others in a second one.
fn metrics(f: &mut Formatter<'_>, columns: &[Column]) -> fmt::Result {
    let (mut names, mut cutoffs, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for (metric, _) in columns.iter().flat_map(|(_, values)| values) {
        match at_cutoff(metric) {
            Some((name, cutoff)) => {
                add_new(&mut names, name);
                add_new(&mut cutoffs, cutoff);
            }
            None => add_new(&mut whole, metric.as_str()),
        }
    }
    cutoffs.sort_unstable();
    if names.is_empty() && whole.is_empty() {
        return Ok(());
    }
    f.write_str("<h2>Metrics</h2>\n<div class=\"tables\">\n")?;
    let tables = [
        (!names.is_empty()).then(|| cutoff_table(columns, &names, &cutoffs)),
        (!whole.is_empty()).then(|| whole_table(columns, &whole)),
    ];
    let tables: String = tables.into_iter().flatten().collect();
    writeln!(f, "{tables}</div>")?;

    let mut notes = Vec::new();
    if let Some((first, last)) = ends(columns) {
        notes.push(format!(
            "Difference: {} − {}.",
            Escaped(&last.0),
            Escaped(&first.0)
        ));
    }
    if tables.contains(&format!(">{DASH}<")) {
        notes.push(format!("{DASH} stands for what is not defined here."));
    }
    if !notes.is_empty() {
        writeln!(f, "<p class=\"note\">{}</p>", notes.join(" "))?;
    }
    Ok(())
}

/// A line for each metric or, with several columns, a group of lines.
fn cutoff_table(columns: &[Column], names: &[&str], cutoffs: &[usize]) -> String {
    let cells = |cell: &dyn Fn(&str) -> String, name: &str| -> String {
        let metrics = cutoffs.iter().map(|cutoff| format!("{name}@{cutoff}"));
        metrics.map(|metric| cell(&metric)).collect()
    };
    let class = if columns.len() > 1 { "groups" } else { "lines" };
    let mut out = format!("<div class=\"card\">\n<table class=\"{class}\">\n");
    let mut corner = "<td></td>";
    match columns {
        [(label, _)] if !label.is_empty() => {
            out += &format!("<caption>{}</caption>\n", Escaped(label));
        }
        [_] => (),
        _ => corner = "<td colspan=\"2\"></td>",
    }
    out += &format!("<thead>\n<tr>{corner}");
    for cutoff in cutoffs {
        out += &format!("<th scope=\"col\">@{cutoff}</th>");
    }
    out += "</tr>\n</thead>\n";

    let Some((first, last)) = ends(columns) else {
        out += "<tbody>\n";
        for name in names {
            let value = |metric: &str| value_cell(value_of(&columns[0], metric));
            let (cells, name) = (cells(&value, name), Escaped(name));
            out += &format!("<tr><th scope=\"row\">{name}</th>{cells}</tr>\n");
        }
        return out + "</tbody>\n</table>\n</div>\n";
    };
    for name in names {
        let mut heading = format!(
            "<th scope=\"rowgroup\" rowspan=\"{}\">{}</th>",
            columns.len() + 1,
            Escaped(name)
        );
        out += "<tbody>\n";
        for column in columns {
            let value = |metric: &str| value_cell(value_of(column, metric));
            out += &format!(
                "<tr>{heading}<th class=\"sub\" scope=\"row\">{}</th>{}</tr>\n",
                Escaped(&column.0),
                cells(&value, name)
            );
            heading.clear();
        }
        let difference =
            |metric: &str| difference_cell(value_of(last, metric) - value_of(first, metric));
        out += &format!(
            "<tr><th class=\"sub\" scope=\"row\">difference</th>{}</tr>\n</tbody>\n",
            cells(&difference, name)
        );
    }
    out + "</table>\n</div>\n"
}

/// A line for each metric, with the columns along the top.
fn whole_table(columns: &[Column], metrics: &[&str]) -> String {
    let ends = ends(columns);
    let mut out = String::from("<div class=\"card\">\n<table class=\"lines\">\n");
    if columns.iter().any(|(label, _)| !label.is_empty()) {
        out += "<thead>\n<tr><td></td>";
        for (label, _) in columns {
            out += &format!("<th scope=\"col\">{}</th>", Escaped(label));
        }
        if ends.is_some() {
            out += "<th scope=\"col\">difference</th>";
        }
        out += "</tr>\n</thead>\n";
    }
    out += "<tbody>\n";
    for metric in metrics {
        out += &format!("<tr><th scope=\"row\">{}</th>", Escaped(metric));
        for column in columns {
            out += &value_cell(value_of(column, metric));
        }
        if let Some((first, last)) = ends {
            out += &difference_cell(value_of(last, metric) - value_of(first, metric));
        }
        out += "</tr>\n";
    }
    out + "</tbody>\n</table>\n</div>\n"
}

#[cfg(test)]
mod tests {
    use fin_core::image::RgbImage;

    use super::super::queries::{PATH_CHARS, TEXT_CHARS, beginning, ending, summary};
    use super::super::{Hit, Item, Query, Thumbnail};
    use super::*;

    const HOSTILE: &str = "</style></title>\"'><img src=x onerror=alert(1)>&lt;\0\n";
    const HARMLESS: &str = "&lt;/style&gt;&lt;/title&gt;&quot;&#39;&gt;&lt;img src=x \
                            onerror=alert(1)&gt;&amp;lt;\u{fffd} ";

    fn picture(side: usize) -> Option<Thumbnail> {
        let image = RgbImage::new(side, side, vec![90; side * side * 3]).unwrap();
        Some(Thumbnail::new(&image).unwrap())
    }

    fn item(caption: &str, label: Option<&str>, thumbnail: Option<Thumbnail>) -> Item {
        Item {
            caption: caption.to_owned(),
            label: label.map(str::to_owned),
            thumbnail,
        }
    }

    fn hit(rank: usize, is_right: bool, item: Item) -> Hit {
        Hit {
            item,
            rank,
            score: 1.0 - rank as f32 / 8.0,
            is_right,
        }
    }

    fn column(label: &str, values: &[(&str, f64)]) -> Column {
        let values = values.iter().map(|(name, value)| ((*name).into(), *value));
        (label.to_owned(), values.collect())
    }

    fn chart(words: &str) -> Chart {
        Chart {
            title: words.to_owned(),
            note: words.to_owned(),
            lines: vec![super::super::Line {
                name: words.to_owned(),
                points: vec![(0, 0.5), (10, 0.25)],
                is_faint: false,
            }],
            mark: Some((10, words.to_owned())),
        }
    }

    /// A page with pictures and one with texts.
    fn full(words: &str) -> [Report; 2] {
        [true, false].map(|pictures| {
            let thumbnail = || pictures.then(|| picture(32)).flatten();
            let item = || item(words, Some(words), thumbnail());
            Report {
                title: words.to_owned(),
                facts: vec![(words.to_owned(), words.to_owned())],
                settings: vec![(words.to_owned(), words.to_owned())],
                charts: vec![chart(words)],
                columns: vec![
                    column(words, &[("map@1", 0.5), (words, 0.25)]),
                    column(words, &[("map@1", 0.75), (words, 0.5)]),
                ],
                queries: vec![Query {
                    item: item(),
                    relevant: 2,
                    earlier: None,
                    hits: vec![hit(1, true, item()), hit(2, false, item())],
                }],
                selection: words.to_owned(),
            }
        })
    }

    /// The rows of a page's tables, with tags taken out and cells separated by `|`.
    fn rows(columns: Vec<Column>) -> Vec<String> {
        let report = Report {
            columns,
            ..Report::default()
        };
        let html = report.html();
        let rows = html.split("<tr>").skip(1);
        rows.map(|row| {
            let row = row.split("</tr>").next().unwrap();
            let cells = row
                .split("</t")
                .map(|cell| cell.rsplit('>').next().unwrap());
            let cells: Vec<&str> = cells.collect();
            cells[..cells.len() - 1].join("|")
        })
        .collect()
    }

    /// Every tag's name and every attribute's name, in order.
    fn markup(html: &str) -> Vec<String> {
        let (before, rest) = html.split_once("<style>").unwrap();
        let (_, after) = rest.split_once("</style>").unwrap();
        let mut names = Vec::new();
        for tag in [before, after].concat().split('<').skip(1) {
            let (tag, _) = tag.split_once('>').unwrap();
            let outside = tag.split('"').step_by(2).collect::<Vec<_>>().concat();
            names.extend(outside.split_whitespace().map(str::to_owned));
        }
        names
    }

    #[test]
    fn what_users_write_cannot_become_markup() {
        for (hostile, plain) in full(HOSTILE).iter().zip(&full("words")) {
            let html = hostile.html();
            assert!(html.contains(HARMLESS));
            assert!(!html.contains("<img src=x"));
            assert!(!html.contains('\0'));
            assert_eq!(html.matches("</style>").count(), 1);
            let plain = plain.html();
            let titles = |html: &str| html.matches("</title>").count();
            assert_eq!(titles(&html), titles(&plain));
            let without_breaks = html.replace("<wbr>", "");
            assert_eq!(markup(&without_breaks), markup(&plain));
        }
    }

    #[test]
    fn the_page_asks_for_nothing_else() {
        assert!(!STYLE.contains("url(") && !STYLE.contains("@import"));
        assert!(!STYLE.contains('<'));
        for report in full("words") {
            let html = report.html();
            assert!(html.contains("default-src 'none'; img-src data:; style-src 'unsafe-inline'"));
            for reference in [
                "http:", "https:", "//", "href", "<script", "<link", "<iframe",
            ] {
                let without_pictures: String = html
                    .split("src=\"data:")
                    .enumerate()
                    .map(|(i, part)| match i {
                        0 => part,
                        _ => part.split_once('"').unwrap().1,
                    })
                    .collect();
                assert!(!without_pictures.contains(reference), "{reference}");
            }
            let sources = html.matches(" src=").count();
            assert_eq!(
                html.matches(" src=\"data:image/png;base64,").count(),
                sources
            );
        }
    }

    #[test]
    fn right_and_wrong_are_told_by_sign_and_word() {
        for (report, sources) in full("words").iter().zip([3, 0]) {
            let html = report.html();
            let answers: Vec<&str> = html.split("<li class=\"hit ").skip(1).collect();
            assert_eq!(answers.len(), 2);
            for (answer, (word, sign, score)) in answers
                .iter()
                .zip([("right", '✓', "0.875"), ("wrong", '✗', "0.750")])
            {
                assert!(answer.starts_with(&format!("{word}\">")));
                let mark = format!("<span aria-hidden=\"true\">{sign}</span> {word}</span>");
                assert!(answer.contains(&mark), "{answer}");
                assert!(answer.contains(&format!("<p class=\"score\">{score}</p>")));
                assert!(answer.contains(">words</p>"));
            }
            assert_eq!(html.matches("<img ").count(), sources);
            assert!(html.contains("1 of 2 right answers among the first 2."));
        }
    }

    #[test]
    fn one_column_is_a_table_of_cutoffs() {
        let values = [
            ("hit@10", 1.0),
            ("hit@1", 0.5),
            ("mrr@10", f64::NAN),
            ("map@r", -0.25),
        ];
        assert_eq!(
            rows(vec![column("", &values)]),
            ["|@1|@10", "hit|0.5000|1.0000", "mrr|–|–", "map@r|−0.2500"]
        );
    }

    #[test]
    fn several_columns_are_compared() {
        let rows = rows(vec![
            column("before", &[("hit@1", 0.5), ("hit@5", 0.5), ("r", 0.5)]),
            column("half-way", &[("hit@5", 0.1), ("r", f64::INFINITY)]),
            column(
                "after",
                &[
                    ("hit@1", 0.25),
                    ("hit@5", 0.50001),
                    ("r", 0.75),
                    ("new", 1.0),
                ],
            ),
        ]);
        assert_eq!(
            rows,
            [
                "|@1|@5",
                "hit|before|0.5000|0.5000",
                "half-way|–|0.1000",
                "after|0.2500|0.5000",
                "difference|−0.2500|0.0000",
                "|before|half-way|after|difference",
                "r|0.5000|–|0.7500|+0.2500",
                "new|–|–|1.0000|–",
            ]
        );
    }

    #[test]
    fn differences_have_a_sign_and_a_colour() {
        assert_eq!(difference_cell(0.1), "<td class=\"up\">+0.1000</td>");
        assert_eq!(difference_cell(-0.1), "<td class=\"down\">−0.1000</td>");
        assert_eq!(difference_cell(-0.00001), "<td>0.0000</td>");
        assert_eq!(difference_cell(f64::NAN), "<td>–</td>");
    }

    #[test]
    fn what_is_empty_is_left_out_or_said() {
        let html = Report::default().html();
        for absent in ["<dl", "<table", "<article", "<h2>Metrics"] {
            assert!(!html.contains(absent), "{absent}");
        }
        assert!(html.contains("No queries are shown."));

        let nothing = Query {
            item: item("", None, None),
            relevant: 0,
            earlier: None,
            hits: Vec::new(),
        };
        let report = Report {
            columns: vec![column("before", &[])],
            queries: vec![nothing],
            ..Report::default()
        };
        let html = report.html();
        assert!(!html.contains("<table") && !html.contains("<ol"));
        assert!(html.contains("Nothing was found."));
    }

    #[test]
    fn answers_from_further_down_are_set_apart_and_not_counted() {
        let answer = || item("words", None, None);
        let mut query = Query {
            item: answer(),
            relevant: 1,
            earlier: None,
            hits: vec![hit(1, false, answer()), hit(2, false, answer())],
        };
        assert_eq!(
            summary(&query.hits, query.relevant),
            "The right answer is not among the first 2."
        );
        query.hits.push(hit(40, true, answer()));
        assert_eq!(
            summary(&query.hits, query.relevant),
            "The right answer is not among the first 2."
        );
        query.relevant = 0;
        assert_eq!(
            summary(&query.hits, query.relevant),
            "There is no right answer."
        );
        query.hits[1].is_right = true;
        query.relevant = 1;
        assert_eq!(
            summary(&query.hits, query.relevant),
            "The right answer is at place 2."
        );

        let report = Report {
            queries: vec![query],
            ..Report::default()
        };
        let html = report.html();
        let (first, further) = html.split_once("<li class=\"gap\">…</li>").unwrap();
        assert_eq!(first.matches("<li class=\"hit").count(), 2);
        assert!(further.contains("<span class=\"rank\">40</span>"));
    }

    #[test]
    fn a_run_shows_its_curves_and_answers_before_and_after() {
        let answer = || item("words", None, None);
        let mut report = Report {
            settings: vec![("epochs".into(), "3".into())],
            charts: vec![chart("loss")],
            ..Report::default()
        };
        let html = report.html();
        assert!(html.contains("<h2>Settings</h2>\n<dl class=\"facts\">\n<dt>epochs</dt>"));
        assert_eq!(html.matches("<svg ").count(), 1);
        assert!(!html.contains("<h2>Queries"));
        report.queries.push(Query {
            item: answer(),
            relevant: 1,
            earlier: Some(vec![hit(1, false, answer())]),
            hits: vec![hit(1, true, answer())],
        });
        let html = report.html();
        let (_, queries) = html.split_once("<h2>Queries").unwrap();
        let (before, after) = queries.split_once("<h4>After</h4>").unwrap();
        assert!(before.contains(
            "Before: The right answer is not among the first 1. After: The right answer is at \
             place 1."
        ));
        let (_, before) = before.split_once("<h4>Before</h4>").unwrap();
        assert!(before.contains("<li class=\"hit wrong\">") && !before.contains("hit right"));
        assert!(after.contains("<li class=\"hit right\">") && !after.contains("hit wrong"));
    }

    #[test]
    fn pictures_that_cannot_be_read_are_told_by_their_file() {
        let report = Report {
            queries: vec![Query {
                item: item("query.png", None, picture(200)),
                relevant: 2,
                earlier: None,
                hits: vec![
                    hit(1, true, item("a/1.png", None, picture(28))),
                    hit(2, true, item("a/2.png", Some("cat"), None)),
                ],
            }],
            ..Report::default()
        };
        let html = report.html();
        assert!(html.contains("<bdi>query.png</bdi>"));
        assert!(html.contains("width=\"96\" height=\"96\" alt=\"query.png\""));
        assert!(html.contains("<img class=\"magnified\""));
        assert!(html.contains("width=\"84\" height=\"84\" alt=\"a/1.png\""));
        assert!(html.contains("<div class=\"frame\"><p dir=\"auto\">a/<wbr>2.png</p></div>"));
        assert!(html.contains(">a/<wbr>1.png</p>") && html.contains(">cat</p>"));
    }

    #[test]
    fn long_words_are_cut_between_characters() {
        assert_eq!(beginning(&"é".repeat(TEXT_CHARS)), "é".repeat(TEXT_CHARS));
        let cut = beginning(&"é".repeat(TEXT_CHARS + 1));
        assert_eq!(cut, format!("{}…", "é".repeat(TEXT_CHARS)));
        assert_eq!(ending(&"é".repeat(PATH_CHARS)), "é".repeat(PATH_CHARS));
        let cut = ending(&"é".repeat(PATH_CHARS + 1));
        assert_eq!(cut, format!("…{}", "é".repeat(PATH_CHARS)));
        let path = "/home/somebody/pictures/of/many/animals/cat/0001.jpg";
        assert_eq!(ending(path), "…/pictures/of/many/animals/cat/0001.jpg");
    }
}
