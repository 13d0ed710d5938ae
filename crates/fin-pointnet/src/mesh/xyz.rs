//! Point clouds as columns of numbers, a point a line: x, y and z first.
//!
//! Columns are parted by white space, commas or semicolons. Of six columns or more, the next three
//! are a normal where they are of unit length, to a hundredth, in every line; otherwise, and where
//! the extension is `xyzrgb`, they are a colour and left aside, as is everything after them. What
//! follows `#` or `//` is a comment. The first line may hold the columns' names, or the number of
//! points, as in `pts` files.

use std::ffi::OsStr;
use std::path::Path;

use fin_core::Result;

use super::Mesh;
use super::build::{Builder, Parsed, Problem, build};
use super::text::{Lines, number, shown};

pub(super) fn read(bytes: &[u8], path: &Path) -> Result<Mesh> {
    let has_colours = path
        .extension()
        .and_then(OsStr::to_str)
        .is_some_and(|extension| extension.eq_ignore_ascii_case("xyzrgb"));
    let mut normals = !has_colours;
    let check = points(bytes, |row, line| {
        normals = normals && row.next_three(line)?.is_some_and(is_unit);
        Ok(())
    });
    check.map_err(|problem| problem.at(path))?;
    build(path, bytes.len(), |builder| parse(bytes, normals, builder))
}

fn parse(bytes: &[u8], normals: bool, builder: &mut Builder) -> Parsed {
    points(bytes, |row, line| {
        builder.vertex(row.position);
        if normals && let Some(normal) = row.next_three(line)? {
            builder.normal(normal.map(|x| x as f32));
        }
        Ok(())
    })
}

fn is_unit(v: [f64; 3]) -> bool {
    (super::dot(v, v).sqrt() - 1.0).abs() <= 0.01
}

/// A line's position, and the words after it.
struct Row<'a> {
    position: [f64; 3],
    columns: usize,
    rest: &'a mut dyn Iterator<Item = &'a [u8]>,
}

impl Row<'_> {
    /// The three numbers after the position, where there are as many.
    fn next_three(&mut self, line: u64) -> Parsed<Option<[f64; 3]>> {
        if self.columns < 6 {
            return Ok(None);
        }
        super::text::three(&mut self.rest, line, "a normal").map(Some)
    }
}

/// Calls `take` with each point and the number of its line.
fn points(bytes: &[u8], mut take: impl FnMut(&mut Row, u64) -> Parsed) -> Parsed {
    let (mut columns, mut said, mut points) = (None::<usize>, None, 0_u64);
    let mut is_first = true;
    for (line, text) in Lines::new(bytes)? {
        let content = text.split(|byte| *byte == b'#').next().unwrap_or_default();
        let comment = content.windows(2).position(|two| two == b"//");
        let content = &content[..comment.unwrap_or(content.len())];
        let words = || {
            content
                .split(|byte| byte.is_ascii_whitespace() || b",;".contains(byte))
                .filter(|word| !word.is_empty())
        };
        let count = words().count();
        if count == 0 {
            continue;
        }
        if std::mem::take(&mut is_first) {
            if count == 1
                && let Some(Ok(value)) = words().next().map(|word| number(word, line))
            {
                said = Some((value, line));
                continue;
            }
            if words().all(|word| number(word, line).is_err() && word[0].is_ascii_alphabetic()) {
                continue;
            }
        }
        if count < 3 || columns.is_some_and(|columns| columns != count) {
            let expected = columns.map_or("three or more".to_owned(), |n| n.to_string());
            return Err(Problem::Line(
                line,
                format!(
                    "{count} column(s), as in `{}`, where {expected} are expected",
                    shown(content)
                ),
            ));
        }
        columns = Some(count);
        let mut words = words();
        let position = super::text::three(&mut words, line, "a point")?;
        points += 1;
        let mut row = Row {
            position,
            columns: count,
            rest: &mut words,
        };
        take(&mut row, line)?;
    }
    match said {
        Some((said, line)) if said != points as f64 => Err(Problem::Line(
            line,
            format!("says that there are {said} points, but there are {points}"),
        )),
        _ => Ok(()),
    }
}
