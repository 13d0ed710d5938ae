//! Wavefront OBJ.
//!
//! `v` and `f` statements make the mesh; indices count from 1, or from the last vertex backwards
//! where they are negative. `vn` are a point cloud's normals where there are as many as points and
//! no faces. Texture coordinates, the normals of corners, groups, materials, lines and points are
//! left aside; surfaces of curves (`surf`) are refused.

use std::path::Path;

use fin_core::Result;

use super::Mesh;
use super::build::{Builder, Parsed, Problem, build, fault};
use super::text::{Lines, shown, three, whole};

pub(super) fn read(bytes: &[u8], path: &Path) -> Result<Mesh> {
    build(path, bytes.len(), |builder| parse(bytes, builder))
}

fn parse(bytes: &[u8], builder: &mut Builder) -> Parsed {
    let mut lines = Lines::new(bytes)?;
    let mut surface = None;
    while let Some((line, statement)) = next_statement(&mut lines) {
        let mut words = words(statement);
        match words.next() {
            Some(b"v") => {
                let values = builder.wants_values();
                let position = if values {
                    three(&mut words, line, "a vertex")?
                } else {
                    [0.0; 3]
                };
                // What follows is a weight or a colour.
                builder.vertex(position);
            }
            Some(b"vn") => {
                let values = builder.wants_values();
                let normal = if values {
                    three(&mut words, line, "a normal")?
                } else {
                    [0.0; 3]
                };
                builder.normal(normal.map(|x| x as f32));
            }
            Some(b"f" | b"fo") => {
                for word in words {
                    let vertex = if builder.wants_values() {
                        index(word, builder.vertices(), line)?
                    } else {
                        0
                    };
                    builder
                        .corner(vertex)
                        .map_err(|reason| Problem::Line(line, reason))?;
                }
                builder.end_polygon();
            }
            Some(b"surf") => surface = Some(line),
            // Everything else; a byte of zero is in no text.
            Some(word) if word.contains(&0) => {
                return fault(format!("line {line} is not text; is this another format?"));
            }
            _ => {}
        }
    }
    match surface {
        Some(line) if !builder.has_polygons() => Err(Problem::Line(
            line,
            "free-form surfaces are not read; export the object as polygons".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// The next line without its comment, with the lines that a backslash at its end joins to it.
fn next_statement<'a>(lines: &mut Lines<'a>) -> Option<(u64, &'a [u8])> {
    let start = lines.consumed();
    let (number, line) = lines.next()?;
    if let Some(comment) = line.iter().position(|byte| *byte == b'#') {
        return Some((number, &line[..comment]));
    }
    let (mut statement, mut last) = (line, line);
    while last.ends_with(b"\\")
        && let Some((_, next)) = lines.next()
    {
        last = next;
        statement = lines.since(start);
    }
    Some((number, statement))
}

/// Words of a statement, in which a backslash is the end of a line.
fn words(statement: &[u8]) -> impl Iterator<Item = &[u8]> {
    statement
        .split(|byte| byte.is_ascii_whitespace() || *byte == b'\\')
        .filter(|word| !word.is_empty())
}

/// The vertex's number from 0 in a corner like `3`, `3/1`, `3//2`, `-1/-1/-1`.
fn index(word: &[u8], vertices: u64, line: u64) -> Parsed<u64> {
    let first = word.split(|byte| *byte == b'/').next().unwrap_or_default();
    let index = whole(first, line)?;
    if index > 0 {
        return Ok(index as u64 - 1);
    }
    let reason = if index == 0 {
        format!(
            "`{}` refers to vertex 0, but they are counted from 1",
            shown(word)
        )
    } else if let Some(vertex) = vertices.checked_sub(index.unsigned_abs()) {
        return Ok(vertex);
    } else {
        format!(
            "`{}` counts back beyond the first of the {vertices} vertices so far",
            shown(word)
        )
    };
    Err(Problem::Line(line, reason))
}
