//! The catalogue as a table to read.

use std::fmt::Write;

use crate::catalogue::{Catalogue, ModelRow, Task};

const COLUMNS: [&str; 5] = ["name", "task", "output_dim", "architecture", "description"];

/// Prints a table of the embedded backbones of a task, or one for each task that has any, and
/// returns what it printed.
///
/// ```
/// let table = fin_registry::describe_models(Some(fin_registry::Task::TextToText));
/// assert!(table.contains("fin backbones: text-to-text"));
/// ```
pub fn describe_models(task: Option<Task>) -> String {
    let table = Catalogue::embedded().table(task);
    print!("{table}");
    table
}

impl Catalogue {
    /// A table of the backbones of a task, or one for each task that has any.
    pub fn table(&self, task: Option<Task>) -> String {
        let tasks = match task {
            Some(task) => vec![task],
            None => Task::ALL.to_vec(),
        };
        tasks
            .into_iter()
            .map(|task| (task, self.list(Some(task))))
            .filter(|(chosen, rows)| task == Some(*chosen) || !rows.is_empty())
            .map(|(task, rows)| table(&format!("fin backbones: {task}"), &rows))
            .collect()
    }
}

/// A titled table, cells aligned to the right.
fn table(title: &str, rows: &[&ModelRow]) -> String {
    let cells: Vec<[String; 5]> = rows
        .iter()
        .map(|row| {
            [
                row.name.clone(),
                row.task.to_string(),
                row.output_dim.to_string(),
                row.architecture.to_string(),
                row.description.clone(),
            ]
        })
        .collect();
    let mut widths = COLUMNS.map(str::len);
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let border = |[left, line, middle, right]: [&str; 4]| {
        let parts: Vec<String> = widths.iter().map(|width| line.repeat(width + 2)).collect();
        format!("{left}{}{right}", parts.join(middle))
    };
    let line = |bar: &str, row: [&str; 5]| {
        let parts: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!(" {cell:>width$} "))
            .collect();
        format!("{bar}{}{bar}", parts.join(bar))
    };
    let top = border(["┏", "━", "┳", "┓"]);
    let total = top.chars().count();
    let mut out = format!("{title:^total$}").trim_end().to_owned();
    out.push('\n');
    let mut push = |text: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{text}");
    };
    push(top);
    push(line("┃", COLUMNS));
    push(border(["┡", "━", "╇", "┩"]));
    for row in &cells {
        push(line("│", row.each_ref().map(String::as_str)));
    }
    push(border(["└", "─", "┴", "┘"]));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::list_models;

    #[test]
    fn every_line_is_as_wide_as_the_border() {
        let table = describe_models(Some(Task::TextToText));
        let mut lines = table.lines();
        assert_eq!(lines.next().unwrap().trim(), "fin backbones: text-to-text");
        let widths: Vec<usize> = lines.map(|line| line.chars().count()).collect();
        assert_eq!(widths.len(), 4 + list_models(Some(Task::TextToText)).len());
        assert!(
            widths.iter().all(|width| *width == widths[0]),
            "{widths:?}\n{table}"
        );
        assert!(table.contains("┃                   name ┃         task ┃ output_dim ┃"));
        assert!(table.contains("│       all-minilm-l6-v2 │ text-to-text │        384 │"));
    }

    #[test]
    fn without_a_task_each_that_has_models_has_a_table() {
        let table = describe_models(None);
        for task in Task::ALL {
            let title = format!("fin backbones: {task}");
            assert_eq!(
                table.contains(&title),
                !list_models(Some(task)).is_empty(),
                "{title}"
            );
        }
    }
}
