//! Charts as SVG.

use std::fmt::Write as _;

/// Fills of bars and lines, in order: those of Okabe and Ito 2008, which people with any colour
/// vision tell apart.
const COLOURS: [&str; 7] = [
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999",
];

const WIDTH: f64 = 860.0;
const MARGIN: f64 = 16.0;

/// A bar of a chart.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Bars of a group follow each other and have a scale of their own.
    pub group: String,
    pub label: String,
    pub value: f64,
    /// Written after the bar.
    pub text: String,
}

/// A line of a chart.
#[derive(Debug, Clone)]
pub struct Line {
    pub label: String,
    /// `x` above 0 and `y`, in the order of `x`.
    pub points: Vec<(f64, f64)>,
}

/// Horizontal bars, the longest of each group as long as there is room.
pub fn bars(title: &str, caption: &str, all: &[Bar]) -> String {
    const LABELS: f64 = 110.0;
    const TEXTS: f64 = 150.0;
    let room = WIDTH - 2.0 * MARGIN - LABELS - TEXTS;
    let mut body = String::new();
    let mut y = 56.0;
    let mut labels: Vec<&str> = Vec::new();
    let mut group = None;
    for bar in all {
        if group != Some(&bar.group) {
            y += if group.is_some() { 14.0 } else { 0.0 };
            text(&mut body, MARGIN, y + 12.0, "start", 600, &bar.group);
            y += 20.0;
            group = Some(&bar.group);
        }
        let same = all.iter().filter(|other| other.group == bar.group);
        let most = same.map(|other| other.value).fold(0.0, f64::max);
        let length = if most > 0.0 {
            room * bar.value / most
        } else {
            0.0
        };
        let number = labels.iter().position(|label| *label == bar.label);
        let number = number.unwrap_or_else(|| {
            labels.push(&bar.label);
            labels.len() - 1
        });
        let x = MARGIN + LABELS;
        text(&mut body, x - 6.0, y + 12.0, "end", 400, &bar.label);
        let _ = writeln!(
            body,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{length:.1}" height="15" fill="{}"/>"#,
            COLOURS[number % COLOURS.len()]
        );
        text(
            &mut body,
            x + length + 6.0,
            y + 12.0,
            "start",
            400,
            &bar.text,
        );
        y += 19.0;
    }
    page(title, caption, y, &body)
}

/// Lines over an axis whose marks double.
pub fn lines(title: &str, caption: &str, axes: [&str; 2], all: &[Line]) -> String {
    const LEFT: f64 = 76.0;
    const LEGEND: f64 = 200.0;
    const TOP: f64 = 60.0;
    const HEIGHT: f64 = 320.0;
    let points = || all.iter().flat_map(|line| &line.points);
    let width = WIDTH - LEFT - LEGEND - MARGIN;
    let least = points().map(|point| point.0).fold(f64::INFINITY, f64::min);
    let largest = points().map(|point| point.0).fold(0.0, f64::max);
    let span = (largest / least).log2().max(1e-9);
    let (step, most) = scale(points().map(|point| point.1).fold(0.0, f64::max));
    let place = |(x, y): (f64, f64)| {
        let x = LEFT + width * (x / least).log2() / span;
        (x, TOP + HEIGHT * (1.0 - y / most))
    };
    let mut body = String::new();
    let mut mark = 0.0;
    while mark <= most * 1.001 {
        let (_, y) = place((least, mark));
        let right = LEFT + width;
        let _ = writeln!(
            body,
            r##"<line x1="{LEFT}" y1="{y:.1}" x2="{right}" y2="{y:.1}" stroke="#dddddd"/>"##
        );
        let label = mark.to_string();
        text(&mut body, LEFT - 6.0, y + 4.0, "end", 400, &label);
        mark += step;
    }
    let mut marks: Vec<f64> = points().map(|point| point.0).collect();
    marks.sort_by(f64::total_cmp);
    marks.dedup();
    for mark in marks {
        let (x, y) = place((mark, 0.0));
        text(&mut body, x, y + 18.0, "middle", 400, &mark.to_string());
    }
    let bottom = TOP + HEIGHT;
    text(
        &mut body,
        LEFT + width / 2.0,
        bottom + 40.0,
        "middle",
        400,
        axes[0],
    );
    text(&mut body, MARGIN, TOP - 12.0, "start", 400, axes[1]);
    for (number, line) in all.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let placed: Vec<(f64, f64)> = line.points.iter().map(|point| place(*point)).collect();
        let path: Vec<String> = placed
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let _ = writeln!(
            body,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
            path.join(" ")
        );
        for (x, y) in placed {
            let _ = writeln!(
                body,
                r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"/>"#
            );
        }
        let y = TOP + 20.0 * number as f64;
        let x = WIDTH - LEGEND;
        let _ = writeln!(
            body,
            r#"<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/>"#
        );
        text(&mut body, x + 18.0, y + 10.0, "start", 400, &line.label);
    }
    page(title, caption, bottom + 56.0, &body)
}

/// Distance of marks, 1, 2 or 5 times a power of ten, and the last one, for values up to `most`.
fn scale(most: f64) -> (f64, f64) {
    if !(most > 0.0 && most.is_finite()) {
        return (1.0, 1.0);
    }
    let power = 10f64.powf((most / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let step = step.into_iter().find(|step| most / step <= 6.0);
    let step = step.unwrap_or(10.0 * power);
    (step, step * (most / step).ceil())
}

fn text(body: &mut String, x: f64, y: f64, anchor: &str, weight: u32, words: &str) {
    let words = escape(words);
    let _ = writeln!(
        body,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-weight="{weight}">{words}</text>"#
    );
}

fn escape(words: &str) -> String {
    words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// The whole file: title above, machine below.
fn page(title: &str, caption: &str, bottom: f64, body: &str) -> String {
    let height = bottom + 40.0;
    let (title, caption) = (escape(title), escape(caption));
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="{MARGIN}" y="28" font-size="16" font-weight="600">{title}</text>
{body}<text x="{MARGIN}" y="{:.1}" font-size="10" fill="#555555">{caption}</text>
</svg>
"##,
        height - 14.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widths(svg: &str) -> Vec<f64> {
        let rects = svg.split("<rect x=").skip(1);
        let widths = rects.map(|rect| rect.split("width=\"").nth(1).unwrap());
        widths
            .map(|rest| rest.split('"').next().unwrap().parse().unwrap())
            .collect()
    }

    #[test]
    fn bars_are_in_proportion_within_a_group() {
        let bar = |group: &str, label: &str, value| Bar {
            group: group.into(),
            label: label.into(),
            value,
            text: "1 < 2".into(),
        };
        let all = [
            bar("a", "flex", 2.0),
            bar("a", "torch", 1.0),
            bar("b", "flex", 0.1),
        ];
        let svg = bars("t", "c & d", &all);
        let widths = widths(&svg);
        assert_eq!(widths.len(), 3);
        assert!((widths[0] - 2.0 * widths[1]).abs() < 0.2, "{widths:?}");
        assert_eq!(widths[0], widths[2]);
        assert!(
            svg.contains("1 &lt; 2") && svg.contains("c &amp; d"),
            "{svg}"
        );
        // A side has one colour throughout.
        assert_eq!(svg.matches(COLOURS[0]).count(), 2);
        assert_eq!(svg.matches(COLOURS[1]).count(), 1);
    }

    #[test]
    fn doubling_is_a_step_to_the_right_and_more_is_higher() {
        let line = Line {
            label: "one".into(),
            points: vec![(1.0, 0.0), (2.0, 50.0), (8.0, 100.0)],
        };
        let svg = lines("t", "c", ["x", "y"], &[line]);
        let path = svg
            .split("points=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        let points: Vec<Vec<f64>> = path
            .split(' ')
            .map(|point| point.split(',').map(|n| n.parse().unwrap()).collect())
            .collect();
        let (first, second) = (points[1][0] - points[0][0], points[2][0] - points[1][0]);
        assert!((2.0 * first - second).abs() < 0.3, "{points:?}");
        assert!(
            (points[0][1] - 2.0 * points[1][1] + points[2][1]).abs() < 0.3,
            "{points:?}"
        );
        assert!(points[2][1] < points[0][1]);
    }

    #[test]
    fn marks_of_an_axis() {
        assert_eq!(scale(100.0), (20.0, 100.0));
        assert_eq!(scale(7.0), (2.0, 8.0));
        assert_eq!(scale(0.0), (1.0, 1.0));
    }
}
