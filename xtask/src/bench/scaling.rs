//! Throughput against the size of the batch, the length of texts, and the number of threads.

use super::chart::{Line, lines};
use super::options::Options;
use super::report::{Machine, digits, record};
use super::{Programs, Timed, write};
use crate::Outcome;

const BATCHES: &str = "1,2,4,8,16,32,64";
const LENGTHS: &str = "8,16,32,64,128,256,512";
/// Tokens of a text where the batch changes.
const LENGTH: &str = "64";
/// Texts of a batch where the length changes.
const TEXTS: &str = "8";

/// What changes: the first number of a shape as a bench names it, or the second.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Axis {
    Batch,
    Length,
}

impl Axis {
    fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Length => "length",
        }
    }

    fn of(self, shape: &str) -> Option<f64> {
        let place = self as usize;
        shape.split('x').nth(place)?.parse().ok()
    }
}

pub fn run(options: &Options, programs: &Programs, machine: &Machine) -> Outcome {
    let mut csv = String::from(
        "model,axis,shape,threads,backend,items_per_second,ms,date,machine,versions\n",
    );
    let counts: Vec<usize> = (0..)
        .map(|power| 1 << power)
        .take_while(|threads| *threads <= options.threads)
        .collect();
    let mut charts = Vec::new();
    for model in &options.models {
        for axis in [Axis::Batch, Axis::Length] {
            // Images and clouds have no length.
            let is_text = |shape: &str| shape.split('x').count() == 2;
            let mut texts = Vec::new();
            let mut others = Vec::new();
            for (backend, threads) in sides(options, &counts) {
                println!(
                    "{model} by {} on {backend}, threads: {threads} …",
                    axis.name()
                );
                let asked = Options {
                    shapes: shapes(options, axis),
                    models: Vec::new(),
                    backends: Vec::new(),
                    precisions: Vec::new(),
                    peers: Vec::new(),
                    write: None,
                    ..*options
                };
                let bench = programs.command(&asked, model, backend, threads);
                let Timed::Rows(rows) = programs.time(bench, model, backend)? else {
                    continue;
                };
                let mut points = [Vec::new(), Vec::new()];
                for row in &rows {
                    let text = is_text(&row.shape);
                    if axis == Axis::Length && !text {
                        continue;
                    }
                    println!("  {}: {} items/s", row.shape, digits(row.items_per_second));
                    csv += &record(&[
                        model.clone(),
                        axis.name().into(),
                        row.shape.clone(),
                        threads.to_string(),
                        backend.into(),
                        row.items_per_second.to_string(),
                        row.ms.to_string(),
                        machine.date.clone(),
                        machine.processor.clone(),
                        machine.versions.join(", "),
                    ]);
                    let x = axis.of(&row.shape);
                    let x = x.ok_or_else(|| format!("{}: no {}", row.shape, axis.name()))?;
                    points[usize::from(!text)].push((x, row.items_per_second));
                }
                let label = format!("{backend}, threads: {threads}");
                for (points, curves) in points.into_iter().zip([&mut texts, &mut others]) {
                    if !points.is_empty() {
                        let label = label.clone();
                        curves.push(Line { label, points });
                    }
                }
            }
            let has_texts = !texts.is_empty();
            // A model of texts and images has a chart of either.
            let both = has_texts && !others.is_empty();
            for (curves, kind) in [(texts, ""), (others, if both { "-images" } else { "" })] {
                if !curves.is_empty() {
                    charts.push((format!("{model}{kind}"), axis, curves));
                }
            }
            if !has_texts {
                break;
            }
        }
    }
    if let Some(name) = &options.write {
        write(&format!("{name}.csv"), &csv)?;
        for (model, axis, curves) in charts {
            let (title, x) = match axis {
                Axis::Batch => (format!("{model} by items of a batch"), "items of a batch"),
                Axis::Length => (format!("{model} by tokens of a text"), "tokens of a text"),
            };
            let chart = lines(&title, &machine.line(), [x, "items a second"], &curves);
            write(&format!("{name}-{model}-{}.svg", axis.name()), &chart)?;
        }
    }
    Ok(())
}

/// Every backend with every number of threads.
fn sides<'a>(options: &'a Options, counts: &'a [usize]) -> impl Iterator<Item = (&'a str, usize)> {
    let backends = options.backends.iter();
    backends.flat_map(|backend| {
        counts
            .iter()
            .map(move |threads| (backend.as_str(), *threads))
    })
}

/// Options of the bench: the usual sizes of what changes, or those asked for.
fn shapes(options: &Options, axis: Axis) -> Vec<(String, String)> {
    let given = |name: &str| {
        let found = options.shapes.iter().find(|(option, _)| option == name);
        found.map(|(_, value)| value.clone())
    };
    let owned = |option: &str, value: &str| (option.to_string(), value.to_string());
    let mut found = match (axis, given("--length")) {
        (Axis::Batch, _) => vec![
            owned("--batch", given("--batch").as_deref().unwrap_or(BATCHES)),
            owned("--length", LENGTH),
        ],
        (Axis::Length, Some(length)) => vec![owned("--batch", TEXTS), owned("--length", &length)],
        (Axis::Length, None) => vec![
            owned("--batch", TEXTS),
            owned("--length-where-taken", LENGTHS),
        ],
    };
    if let Some(points) = given("--points") {
        found.push(("--points".into(), points));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_size_changes_at_a_time() {
        let options = Options::parse(&["--scaling", "--batch", "3,5"].map(String::from)).unwrap();
        let values = |axis| shapes(&options, axis).into_iter().map(|(_, v)| v);
        assert_eq!(values(Axis::Batch).collect::<Vec<_>>(), ["3,5", LENGTH]);
        assert_eq!(values(Axis::Length).collect::<Vec<_>>(), [TEXTS, LENGTHS]);
        assert_eq!(Axis::Batch.of("8x64"), Some(8.0));
        assert_eq!(Axis::Length.of("8x64"), Some(64.0));
    }
}
