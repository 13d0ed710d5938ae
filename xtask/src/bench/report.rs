//! Rows of a run as a table, as CSV and as a chart, with the machine they are from.

use std::fmt::Write as _;

use serde_json::Value;

use super::chart::{Bar, bars};
use crate::{capture, command};

/// A model at a shape on one side: a backend of fin or another library.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub model: String,
    pub shape: String,
    pub side: String,
    pub items_per_second: f64,
    /// The median of the batches.
    pub ms: f64,
    /// The shortest of the batches: on a machine that is shared, what disturbs it least.
    pub best_ms: f64,
    /// Largest resident memory of the side's process for this model.
    pub peak_mib: Option<f64>,
    /// Throughput by that of the first side.
    pub ratio: Option<f64>,
    /// From fin's output, of another library.
    pub difference: Option<f64>,
}

impl Row {
    /// A row as a bench or `bench_peers.py` prints it.
    pub fn read(row: &Value, side: &str) -> Result<Self, String> {
        let text = |field: &str| row[field].as_str().map(String::from);
        let number = |field: &str| row[field].as_f64();
        let missing = |field: &str| format!("no `{field}` from {side} in {row}");
        Ok(Self {
            model: text("model").ok_or_else(|| missing("model"))?,
            shape: text("shape").ok_or_else(|| missing("shape"))?,
            side: side.into(),
            items_per_second: number("items_per_second")
                .ok_or_else(|| missing("items_per_second"))?,
            ms: number("ms").ok_or_else(|| missing("ms"))?,
            best_ms: number("min_ms").ok_or_else(|| missing("min_ms"))?,
            peak_mib: number("peak_mib"),
            ratio: None,
            difference: number("relative_difference"),
        })
    }
}

/// What figures depend on.
#[derive(Debug, Clone)]
pub struct Machine {
    pub processor: String,
    pub threads: usize,
    pub versions: Vec<String>,
    pub date: String,
}

impl Machine {
    /// This machine, today.
    pub fn of(threads: usize) -> Result<Self, String> {
        let rustc = capture(command("rustc").arg("--version"))?;
        let version = rustc.split_whitespace().nth(1).unwrap_or("unknown");
        Ok(Self {
            processor: processor(),
            threads,
            versions: vec![format!("rustc {version}")],
            date: capture(command("date").args(["-u", "+%F"]))?.trim().into(),
        })
    }

    /// Adds those of a library, once.
    pub fn add_versions(&mut self, versions: &Value) {
        for (name, version) in versions.as_object().into_iter().flatten() {
            let version = format!("{name} {}", version.as_str().unwrap_or("unknown"));
            if !self.versions.contains(&version) {
                self.versions.push(version);
            }
        }
    }

    /// In a line.
    pub fn line(&self) -> String {
        format!(
            "{}; {} thread{}; {}; {}",
            self.processor,
            self.threads,
            if self.threads == 1 { "" } else { "s" },
            self.versions.join(", "),
            self.date
        )
    }
}

/// One row for those of several rounds, in the order of the first.
fn rounds(rows: Vec<Row>) -> Vec<Row> {
    let mut groups: Vec<Vec<Row>> = Vec::new();
    for row in rows {
        let same =
            |group: &&mut Vec<Row>| (&group[0].shape, &group[0].side) == (&row.shape, &row.side);
        match groups.iter_mut().find(same) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    let one = |mut group: Vec<Row>| {
        let most = |value: fn(&Row) -> Option<f64>| group.iter().filter_map(value).reduce(f64::max);
        let (peak_mib, difference) = (most(|row| row.peak_mib), most(|row| row.difference));
        let best_ms = group
            .iter()
            .map(|row| row.best_ms)
            .fold(f64::INFINITY, f64::min);
        group.sort_by(|a, b| a.ms.total_cmp(&b.ms));
        Row {
            peak_mib,
            difference,
            best_ms,
            ..group.swap_remove(group.len() / 2)
        }
    };
    groups.into_iter().map(one).collect()
}

/// The rows of a run.
#[derive(Debug)]
pub struct Report {
    pub machine: Machine,
    pub rows: Vec<Row>,
    /// What was not measured, and why.
    pub skipped: Vec<String>,
}

impl Report {
    pub fn new(machine: Machine) -> Self {
        Self {
            machine,
            rows: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// Says once what was not measured.
    pub fn skip(&mut self, what: String) {
        if !self.skipped.contains(&what) {
            self.skipped.push(what);
        }
    }

    /// Brings the rows of a model, those from `first` on, in the order of shapes, and sets ratios to
    /// the side that came first. A process's memory is that of all its shapes. Of several rounds there remain
    /// the median of the medians and the shortest of all batches.
    pub fn compare(&mut self, first: usize) {
        let mut found = rounds(self.rows.split_off(first));
        let mut peaks: Vec<(String, f64)> = Vec::new();
        for row in &found {
            let Some(peak) = row.peak_mib else { continue };
            match peaks.iter_mut().find(|(side, _)| *side == row.side) {
                Some((_, most)) => *most = most.max(peak),
                None => peaks.push((row.side.clone(), peak)),
            }
        }
        for row in &mut found {
            let peak = peaks.iter().find(|(side, _)| *side == row.side);
            row.peak_mib = peak.map(|(_, most)| *most);
        }
        while let Some(leader) = found.first().cloned() {
            let (same, others): (Vec<Row>, Vec<Row>) =
                found.into_iter().partition(|row| row.shape == leader.shape);
            self.rows.extend(same.into_iter().map(|row| Row {
                ratio: Some(row.items_per_second / leader.items_per_second),
                ..row
            }));
            found = others;
        }
    }

    /// A table for people.
    pub fn markdown(&self) -> String {
        let mut out = String::from(
            "| model | shape | side | items/s | ms/batch | best | peak MiB | ratio | difference |\n\
             | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        );
        for row in &self.rows {
            let shown = |number: Option<f64>, digits: usize| {
                number.map_or("-".into(), |number| format!("{number:.digits$}"))
            };
            let difference = row.difference.map_or("-".into(), |d| format!("{d:.1e}"));
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {difference} |",
                row.model,
                row.shape,
                row.side,
                digits(row.items_per_second),
                digits(row.ms),
                digits(row.best_ms),
                shown(row.peak_mib, 0),
                shown(row.ratio, 2),
            );
        }
        for skipped in &self.skipped {
            let _ = writeln!(out, "\nNot measured: {skipped}.");
        }
        let _ = writeln!(out, "\n{}", self.machine.line());
        out
    }

    /// The same with the machine in every row.
    pub fn csv(&self) -> String {
        let mut out = String::from(
            "model,shape,side,items_per_second,ms,best_ms,peak_mib,ratio,relative_difference,threads,date,\
             machine,versions\n",
        );
        let optional = |number: Option<f64>| number.map_or(String::new(), |n| n.to_string());
        for row in &self.rows {
            let fields = [
                row.model.clone(),
                row.shape.clone(),
                row.side.clone(),
                row.items_per_second.to_string(),
                row.ms.to_string(),
                row.best_ms.to_string(),
                optional(row.peak_mib),
                optional(row.ratio),
                optional(row.difference),
                self.machine.threads.to_string(),
                self.machine.date.clone(),
                self.machine.processor.clone(),
                self.machine.versions.join(", "),
            ];
            out += &record(&fields);
        }
        out
    }

    /// Bars of every model and shape.
    pub fn chart(&self) -> String {
        let bar = |row: &Row| Bar {
            group: format!("{}, {}", row.model, row.shape),
            label: row.side.clone(),
            value: row.items_per_second,
            text: format!("{} items/s", digits(row.items_per_second)),
        };
        let all: Vec<Bar> = self.rows.iter().map(bar).collect();
        bars(
            "Items a second; bars of a model beside each other",
            &self.machine.line(),
            &all,
        )
    }
}

/// A line of CSV, with quotes where they are needed.
pub fn record(fields: &[String]) -> String {
    let quote = |field: &String| match field.contains([',', '"', '\n']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.clone(),
    };
    let fields: Vec<String> = fields.iter().map(quote).collect();
    fields.join(",") + "\n"
}

/// Three significant digits, and all before the point.
pub fn digits(number: f64) -> String {
    let digits = match number {
        n if n >= 100.0 => 0,
        n if n >= 10.0 => 1,
        n if n >= 1.0 => 2,
        _ => 3,
    };
    format!("{number:.digits$}")
}

/// The processor's name and instruction sets that matter here, as Linux tells them.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split(':').nth(1))
            .unwrap_or("")
            .trim()
            .to_string()
    };
    let flags = field("flags");
    let has = |flag: &str| flags.split(' ').any(|f| f == flag);
    let vectors = if has("avx512f") {
        "AVX-512"
    } else if has("avx2") {
        "AVX2"
    } else {
        "no AVX2"
    };
    format!(
        "{} (family {} model {}), {vectors}",
        field("model name"),
        field("cpu family"),
        field("model\t")
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(shape: &str, side: &str, speed: f64, peak: f64) -> Row {
        let row = json!({
            "model": "m", "shape": shape, "items_per_second": speed, "ms": 1.0, "min_ms": 0.5,
            "peak_mib": peak,
        });
        Row::read(&row, side).unwrap()
    }

    fn report() -> Report {
        let machine = Machine {
            processor: "a \"chip\", fast".into(),
            threads: 2,
            versions: vec!["rustc 1".into()],
            date: "2026-01-02".into(),
        };
        let mut report = Report::new(machine);
        report.rows = vec![
            row("8x8", "flex", 200.0, 10.0),
            row("8x64", "flex", 50.0, 30.0),
            row("8x8", "torch", 100.0, 50.0),
            row("8x64", "torch", 75.0, 40.0),
        ];
        report.compare(0);
        report
    }

    #[test]
    fn ratios_are_to_the_first_side_of_a_shape() {
        let found: Vec<_> = report()
            .rows
            .iter()
            .map(|row| (row.shape.clone(), row.side.clone(), row.ratio, row.peak_mib))
            .collect();
        let expected = [
            ("8x8", "flex", 1.0, 30.0),
            ("8x8", "torch", 0.5, 50.0),
            ("8x64", "flex", 1.0, 30.0),
            ("8x64", "torch", 1.5, 50.0),
        ];
        let expected = expected.map(|(shape, side, ratio, peak)| {
            (shape.to_string(), side.to_string(), Some(ratio), Some(peak))
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn of_rounds_the_middle_one_and_the_shortest_batch_remain() {
        let mut report = report();
        report.rows.clear();
        for (ms, best, torch) in [(3.0, 2.0, 9.0), (1.0, 0.9, 6.0), (2.0, 0.5, 4.0)] {
            for (side, ms, best) in [("flex", ms, best), ("torch", torch, torch)] {
                report.rows.push(Row {
                    ms,
                    best_ms: best,
                    ..row("8x8", side, 12.0 / ms, ms)
                });
            }
        }
        report.compare(0);
        let found: Vec<_> = report
            .rows
            .iter()
            .map(|row| {
                (
                    row.side.as_str(),
                    row.ms,
                    row.best_ms,
                    row.peak_mib,
                    row.ratio,
                )
            })
            .collect();
        let expected = [
            ("flex", 2.0, 0.5, Some(3.0), Some(1.0)),
            ("torch", 6.0, 4.0, Some(9.0), Some(2.0 / 6.0)),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn csv_has_a_record_a_row_and_quotes_what_needs_it() {
        let csv = report().csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 5);
        assert_eq!(
            lines[2],
            "m,8x8,torch,100,1,0.5,50,0.5,,2,2026-01-02,\"a \"\"chip\"\", fast\",rustc 1"
        );
    }

    #[test]
    fn a_row_without_times_is_an_error() {
        let error = Row::read(&json!({ "model": "m", "shape": "1x1" }), "onnx").unwrap_err();
        assert!(
            error.contains("items_per_second") && error.contains("onnx"),
            "{error}"
        );
    }
}
