//! Curves over the steps of a run, as SVG within the page.

use std::fmt::Write;

use super::page::{Escaped, number};

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 84.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 40.0;

/// Ticks along an axis, at most.
const TICKS: f64 = 6.0;

/// Lines that look different from each other.
const LOOKS: usize = 6;

/// Points of a line that are marked each, at most.
const MARKED: usize = 60;

/// Distance between the names at the ends of lines.
const NAME_HEIGHT: f64 = 14.0;

/// A chart of lines over steps.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chart {
    /// Heading.
    pub title: String,
    /// What there is to know about it, in a sentence.
    pub note: String,
    /// The lines.
    pub lines: Vec<Line>,
    /// A step that is marked, with a word for it.
    pub mark: Option<(usize, String)>,
}

/// A line of a chart.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Line {
    /// Name at its end; none where it is empty.
    pub name: String,
    /// Steps and values, in order. Values that are not finite are left out, and the line is broken
    /// there.
    pub points: Vec<(usize, f64)>,
    /// Whether it is drawn faintly, behind the others.
    pub is_faint: bool,
}

/// Numbers of at least 1, 2 or 5 times a power of ten apart that divide a range into parts, at most
/// six of them, and the decimals that tell them apart. The range is at least `least` apart.
fn ticks(low: f64, high: f64, least: f64) -> (Vec<f64>, usize) {
    let rough = ((high - low) / TICKS).max(least);
    let power = rough.log10().floor();
    let unit = 10f64.powf(power);
    let factors = [1.0, 2.0, 5.0, 10.0];
    let factor = factors
        .iter()
        .find(|factor| **factor * unit >= rough * 0.999_999);
    let step = factor.unwrap_or(&10.0) * unit;
    let (first, last) = ((low / step).floor(), (high / step).ceil());
    let count = (last - first).clamp(1.0, 4.0 * TICKS) as usize;
    let ticks = (0..=count).map(|i| (first + i as f64) * step).collect();
    let decimals = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
    (ticks, decimals)
}

/// The smallest and the largest finite value.
fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = values.filter(|value| value.is_finite());
    finite.fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((low, high)) => Some((value.min(low), value.max(high))),
    })
}

/// A number at a tick.
fn label(value: f64, decimals: usize) -> String {
    let text = match value.abs() {
        size if size >= 1e6 || (size > 0.0 && size < 1e-6) => format!("{size:.0e}"),
        size => format!("{size:.decimals$}"),
    };
    match value < 0.0 {
        true => format!("−{text}"),
        false => text,
    }
}

/// The running mean of a line with weights that fall off over about `window` points, begun without a
/// bias, as TensorBoard smooths. What is not finite is passed over.
pub fn smoothed(points: &[(usize, f64)], window: usize) -> Vec<(usize, f64)> {
    let kept = 1.0 - 2.0 / (window.max(1) as f64 + 1.0);
    let (mut mean, mut weight) = (0.0, 0.0);
    let finite = points.iter().filter(|(_, value)| value.is_finite());
    finite
        .map(|&(step, value)| {
            mean = kept * mean + (1.0 - kept) * value;
            weight = kept * weight + (1.0 - kept);
            (step, mean / weight)
        })
        .collect()
}

/// From steps and values to the drawing's coordinates.
struct Scale {
    x: (f64, f64),
    y: (f64, f64),
}

impl Scale {
    fn x(&self, step: f64) -> f64 {
        let (low, high) = self.x;
        LEFT + (step - low) / (high - low) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let (low, high) = self.y;
        HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
    }
}

impl Chart {
    /// The chart as a figure. Nothing where no value is finite.
    pub fn html(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let finite = points().filter(|(_, value)| value.is_finite());
        let steps = range(finite.map(|(step, _)| *step as f64));
        let (Some((_, last)), Some((mut low, mut high))) =
            (steps, range(points().map(|(_, value)| *value)))
        else {
            return String::new();
        };
        if high - low <= 1e-9 * high.abs().max(low.abs()) {
            // A level line is in the middle.
            let room = if high == 0.0 { 1.0 } else { high.abs() / 10.0 };
            (low, high) = (low - room, high + room);
        }
        let (rows, decimals) = ticks(low, high, f64::MIN_POSITIVE);
        let (columns, _) = ticks(0.0, last.max(1.0), 1.0);
        let (first_row, last_row) = (rows[0], rows[rows.len() - 1]);
        let scale = Scale {
            x: (0.0, last.max(1.0)),
            y: (first_row, last_row),
        };
        let title = Escaped(&self.title);
        let mut out = format!(
            "<figure class=\"card chart\">\n<figcaption dir=\"auto\">{title}</figcaption>\n\
             <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
            Escaped(&self.description())
        );
        let (left, right) = (LEFT, WIDTH - RIGHT);
        let (top, bottom) = (TOP, HEIGHT - BOTTOM);
        // Writing to a string does not fail.
        for row in rows {
            let y = scale.y(row);
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{left:.1}\" y1=\"{y:.1}\" x2=\"{right:.1}\" y2=\"{y:.1}\"/>\n\
                 <text class=\"tick end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                left - 8.0,
                y + 4.0,
                label(row, decimals)
            );
        }
        for column in columns.into_iter().filter(|column| *column <= scale.x.1) {
            let x = scale.x(column);
            let _ = writeln!(
                out,
                "<line class=\"axis\" x1=\"{x:.1}\" y1=\"{bottom:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\"/>\n\
                 <text class=\"tick middle\" x=\"{x:.1}\" y=\"{:.1}\">{column:.0}</text>",
                bottom + 5.0,
                bottom + 18.0
            );
        }
        let _ = writeln!(
            out,
            "<line class=\"axis\" x1=\"{left:.1}\" y1=\"{bottom:.1}\" x2=\"{right:.1}\" y2=\"{bottom:.1}\"/>\n\
             <text class=\"tick middle\" x=\"{:.1}\" y=\"{:.1}\">step</text>",
            (left + right) / 2.0,
            bottom + 34.0
        );
        if let Some((step, word)) = &self.mark {
            let x = scale.x(*step as f64);
            let _ = writeln!(
                out,
                "<line class=\"mark\" x1=\"{x:.1}\" y1=\"{top:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/>\n\
                 <text class=\"tick middle\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                top - 3.0,
                Escaped(word)
            );
        }
        let mut names: Vec<(f64, usize)> = Vec::new();
        let mut looks = 0..;
        let mut classes = Vec::new();
        for (i, line) in self.lines.iter().enumerate() {
            let class = match line.is_faint {
                true => "faint".to_owned(),
                false => format!("look-{}", looks.next().unwrap_or(0) % LOOKS),
            };
            line.draw(&mut out, &scale, &class);
            classes.push(class);
            let last = line.points.iter().rfind(|(_, value)| value.is_finite());
            if let (Some((_, value)), false) = (last, line.name.is_empty()) {
                names.push((scale.y(*value), i));
            }
        }
        for (y, i) in apart(names) {
            let line = &self.lines[i];
            let _ = writeln!(
                out,
                "<text class=\"name {}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                classes[i],
                right + 8.0,
                y + 4.0,
                Escaped(&line.name)
            );
        }
        out.push_str("</svg>\n");
        if !self.note.is_empty() {
            let _ = writeln!(out, "<p class=\"note\">{}</p>", Escaped(&self.note));
        }
        out + "</figure>\n"
    }

    /// The chart in words: where its lines begin and end.
    fn description(&self) -> String {
        let mut out = format!("{} by step", self.title);
        for line in self.lines.iter().filter(|line| !line.is_faint) {
            let is_finite = |point: &&(usize, f64)| point.1.is_finite();
            let ends = (
                line.points.iter().find(is_finite),
                line.points.iter().rfind(is_finite),
            );
            if let (Some(first), Some(last)) = ends {
                let name = match line.name.as_str() {
                    "" => String::new(),
                    name => format!(" {name}"),
                };
                let _ = write!(
                    out,
                    ";{name} from {} at {} to {} at {}",
                    number(first.1, false),
                    first.0,
                    number(last.1, false),
                    last.0
                );
            }
        }
        out
    }
}

impl Line {
    fn draw(&self, out: &mut String, scale: &Scale, class: &str) {
        for part in self.points.split(|(_, value)| !value.is_finite()) {
            if part.is_empty() {
                continue;
            }
            let places: Vec<(f64, f64)> = part
                .iter()
                .map(|&(step, value)| (scale.x(step as f64), scale.y(value)))
                .collect();
            let mut path = String::new();
            for (i, (x, y)) in thinned(&places).iter().enumerate() {
                let _ = write!(path, "{}{x:.1} {y:.1}", if i == 0 { "M" } else { "L" });
            }
            let _ = writeln!(out, "<path class=\"curve {class}\" d=\"{path}\"/>");
        }
        if self.is_faint || self.points.len() > MARKED {
            return;
        }
        for &(step, value) in self.points.iter().filter(|(_, value)| value.is_finite()) {
            let _ = writeln!(
                out,
                "<circle class=\"point {class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>step {step}: {}</title></circle>",
                scale.x(step as f64),
                scale.y(value),
                number(value, false)
            );
        }
    }
}

/// Of the points in each column of the drawing, the lowest and the highest, in order.
fn thinned(places: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut out: Vec<(f64, f64)> = Vec::new();
    for column in places.chunk_by(|a, b| a.0.floor() == b.0.floor()) {
        let by_height = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let ends = [
            column.iter().min_by(by_height),
            column.iter().max_by(by_height),
        ];
        let mut ends: Vec<(f64, f64)> = ends.into_iter().flatten().copied().collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends.dedup();
        out.extend(ends);
    }
    out
}

/// Moves names apart that would be on top of each other.
fn apart(mut names: Vec<(f64, usize)>) -> Vec<(f64, usize)> {
    names.sort_by(|a, b| a.0.total_cmp(&b.0));
    for i in 1..names.len() {
        names[i].0 = names[i].0.max(names[i - 1].0 + NAME_HEIGHT);
    }
    // Back up, where the last ones are now below the axis.
    let mut lowest = HEIGHT - BOTTOM + 4.0;
    for name in names.iter_mut().rev() {
        name.0 = name.0.min(lowest);
        lowest = name.0 - NAME_HEIGHT;
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, values: &[f64]) -> Line {
        Line {
            name: name.to_owned(),
            points: (1..).zip(values.iter().copied()).collect(),
            is_faint: false,
        }
    }

    fn chart(lines: Vec<Line>) -> Chart {
        Chart {
            title: "loss".into(),
            lines,
            ..Chart::default()
        }
    }

    /// The texts of elements of a class.
    fn texts(html: &str, class: &str) -> Vec<String> {
        let element = format!("<text class=\"tick {class}\"");
        html.split(&element)
            .skip(1)
            .map(|part| {
                let (_, rest) = part.split_once('>').unwrap();
                rest.split_once('<').unwrap().0.to_owned()
            })
            .collect()
    }

    /// Checks that elements are closed in order, attributes quoted, and nothing stands for markup.
    pub fn expect_well_formed(xml: &str) {
        let mut open = Vec::new();
        for tag in xml.split('<').skip(1) {
            let (tag, text) = tag.split_once('>').unwrap_or_else(|| panic!("<{tag}"));
            assert!(!text.contains('>'), "{text}");
            for (i, _) in tag.match_indices('&').chain(text.match_indices('&')) {
                let rest = tag.get(i..).into_iter().chain(text.get(i..));
                let is_entity = |rest: &str| {
                    ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"]
                        .iter()
                        .any(|entity| rest.starts_with(entity))
                };
                assert!(rest.into_iter().any(is_entity), "{tag}>{text}");
            }
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name.to_owned()), "{tag}");
                continue;
            }
            let name = tag.split([' ', '/']).next().unwrap().to_owned();
            let parts: Vec<&str> = tag.split('"').collect();
            assert_eq!(parts.len() % 2, 1, "{tag}");
            for attribute in parts[..parts.len() - 1].iter().step_by(2) {
                assert!(attribute.trim_start().ends_with('='), "{tag}");
            }
            if !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert_eq!(open, Vec::<String>::new());
    }

    #[test]
    fn ticks_are_round_numbers_around_the_values() {
        for (low, high, least, expected, decimals) in [
            (0.0, 1.0, 0.0, vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0], 1),
            (0.31, 0.74, 0.0, vec![0.3, 0.4, 0.5, 0.6, 0.7, 0.8], 1),
            (2.0, 2.04, 0.0, vec![2.0, 2.01, 2.02, 2.03, 2.04], 2),
            (-3.0, 7.0, 0.0, vec![-4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0], 0),
            (0.0, 3.0, 1.0, vec![0.0, 1.0, 2.0, 3.0], 0),
            (0.0, 135.0, 1.0, vec![0.0, 50.0, 100.0, 150.0], 0),
        ] {
            let (found, places) = ticks(low, high, least);
            assert_eq!(places, decimals, "{low} to {high}");
            assert_eq!(found.len(), expected.len(), "{found:?} {expected:?}");
            for (a, b) in found.iter().zip(&expected) {
                assert!((a - b).abs() < 1e-9, "{found:?} {expected:?}");
            }
        }
        for (low, high) in [(0.0, 1e-300), (-1e38, 1e38), (1e9, 1e9 + 1.0), (0.1, 3e7)] {
            let (found, _) = ticks(low, high, f64::MIN_POSITIVE);
            assert!(found.len() >= 2 && found.len() <= 10, "{found:?}");
            assert!(
                found[0] <= low && found[found.len() - 1] >= high,
                "{found:?}"
            );
        }
        assert_eq!(label(-0.25, 2), "−0.25");
        assert_eq!(label(2e38, 0), "2e38");
    }

    #[test]
    fn a_chart_is_well_formed_whatever_is_in_it() {
        let hostile = "</svg><script>\"'&\0";
        let mut chart = Chart {
            title: hostile.into(),
            note: hostile.into(),
            lines: vec![
                line(
                    hostile,
                    &[0.5, f64::NAN, 0.25, f64::INFINITY, f64::NEG_INFINITY, 0.75],
                ),
                line("b", &[f64::NAN]),
                line("c", &[]),
            ],
            mark: Some((3, hostile.into())),
        };
        chart.lines[2].is_faint = true;
        let html = chart.html();
        expect_well_formed(&html);
        assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
        // The line is in three parts with a point a value.
        assert_eq!(html.matches("<path class=\"curve look-0\"").count(), 3);
        assert_eq!(html.matches("<circle").count(), 3);
        assert_eq!(html.matches("class=\"curve look-1\"").count(), 0);
        assert!(html.contains("from 0.5000 at 1 to 0.7500 at 6"));

        for values in [&[][..], &[f64::NAN], &[f64::INFINITY, f64::NAN]] {
            assert_eq!(
                super::Chart::html(&self::chart(vec![line("a", values)])),
                ""
            );
        }
        for value in [0.0, -2.0, 1e-30, 1e30] {
            let html = self::chart(vec![line("", &[value, value])]).html();
            expect_well_formed(&html);
            assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
        }
    }

    #[test]
    fn the_axes_are_labelled_with_their_ticks() {
        let html = chart(vec![line("a", &[4.0, 3.0, 1.2])]).html();
        assert_eq!(
            texts(&html, "end"),
            ["1.0", "1.5", "2.0", "2.5", "3.0", "3.5", "4.0"]
        );
        assert_eq!(texts(&html, "middle"), ["0", "1", "2", "3", "step"]);
        // Values lie between the lines of the ticks that they are between.
        let heights: Vec<f64> = html
            .split("<circle")
            .skip(1)
            .map(|part| {
                let (_, rest) = part.split_once("cy=\"").unwrap();
                rest.split_once('"').unwrap().0.parse().unwrap()
            })
            .collect();
        let (top, bottom) = (TOP, HEIGHT - BOTTOM);
        assert!((heights[0] - top).abs() < 0.06, "{heights:?}");
        let third = bottom - (3.0 - 1.0) / 3.0 * (bottom - top);
        assert!((heights[1] - third).abs() < 0.06, "{heights:?}");
    }

    #[test]
    fn long_lines_are_thinned_and_keep_their_extremes() {
        let values: Vec<f64> = (0..100_000)
            .map(|i| if i == 54_321 { 9.0 } else { f64::from(i % 7) })
            .collect();
        let mut whole = chart(vec![line("", &values), line("", &[1.0])]);
        whole.lines[0].is_faint = true;
        // The first of the lines that are not faint has the first look.
        let html = whole.html();
        assert!(html.contains("\"curve look-0\"") && !html.contains("look-1"));
        assert!(html.len() < 30_000, "{}", html.len());
        assert_eq!(html.matches("<circle").count(), 1);
        let (_, path) = html.split_once(" d=\"").unwrap();
        let path = path.split_once('"').unwrap().0;
        let heights = path[1..].split('L').map(|place| {
            let (_, y) = place.split_once(' ').unwrap();
            y.parse::<f64>().unwrap()
        });
        // The ticks end at 10.
        let highest = HEIGHT - BOTTOM - 0.9 * (HEIGHT - TOP - BOTTOM);
        let found = heights.fold(f64::INFINITY, f64::min);
        assert!((found - highest).abs() < 0.06, "{found} {highest}");
    }

    #[test]
    fn smoothing_begins_at_the_first_value_and_follows_slowly() {
        let points: Vec<(usize, f64)> = vec![(1, 4.0), (2, f64::NAN), (3, 1.0), (4, 1.0)];
        let found = smoothed(&points, 3);
        // Weights 1, 1/2, 1/4, begun without a bias.
        let expected = [(1, 4.0), (3, 2.0), (4, 10.0 / 7.0)];
        assert_eq!(found.len(), 3);
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(found.0, expected.0);
            assert!(
                (found.1 - expected.1).abs() < 1e-12,
                "{found:?} {expected:?}"
            );
        }
    }

    #[test]
    fn names_do_not_cover_each_other() {
        let found = apart(vec![(198.0, 0), (199.0, 1), (197.5, 2), (20.0, 3)]);
        let order: Vec<usize> = found.iter().map(|(_, i)| *i).collect();
        assert_eq!(order, [3, 2, 0, 1]);
        for pair in found.windows(2) {
            assert!(pair[1].0 - pair[0].0 >= NAME_HEIGHT - 1e-9, "{found:?}");
        }
        assert!(found[3].0 <= HEIGHT - BOTTOM + 4.0);
    }
}
