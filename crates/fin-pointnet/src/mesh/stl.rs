//! STL, binary and text.
//!
//! A file is binary where its size is the one that a binary file's count of triangles asks for,
//! whether or not it begins with `solid` as text does. The format has triangles of three places
//! each; equal places become one vertex. Normals and attributes are left aside: the corners' order
//! says where outside is.

use std::path::Path;

use fin_core::Result;

use super::Mesh;
use super::build::{Parsed, Problem, claim, fault, finish, relative};
use super::text::{Lines, three, words};

/// Bytes before the first triangle of a binary file: a comment and the number of triangles.
const HEADER: usize = 84;
/// Bytes of a triangle: normal, corners, attributes.
const TRIANGLE: usize = 50;

pub(super) fn read(bytes: &[u8], path: &Path) -> Result<Mesh> {
    parse(bytes).map_err(|problem| problem.at(path))
}

fn parse(bytes: &[u8]) -> Parsed<Mesh> {
    let said = bytes[..]
        .get(80..HEADER)
        .and_then(|count| count.first_chunk())
        .map(|count| u64::from(u32::from_le_bytes(*count)));
    let needed = said.map(|count| HEADER as u64 + count * TRIANGLE as u64);
    if needed != Some(bytes.len() as u64) && is_text(bytes) {
        return text(bytes);
    }
    let Some((said, needed)) = said.zip(needed) else {
        return fault(format!(
            "{} bytes are neither text that begins with `solid` nor a binary STL file",
            bytes.len()
        ));
    };
    if needed != bytes.len() as u64 {
        return fault(format!(
            "the header says {said} triangle(s), which is a file of {needed} bytes, but this one has \
             {}; it is damaged or no STL file",
            bytes.len()
        ));
    }
    let corners = |i: usize| {
        let start = HEADER + i / 3 * TRIANGLE + 12 + i % 3 * 12;
        [0, 4, 8].map(|at| {
            let bytes = bytes[start + at..]
                .first_chunk()
                .expect("within the size checked");
            f32::from_le_bytes(*bytes)
        })
    };
    merged(bytes.len(), 0, said as usize, corners, [0.0; 3])
}

fn is_text(bytes: &[u8]) -> bool {
    let start = bytes
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(bytes)
        .trim_ascii_start();
    start.len() >= 5 && start[..5].eq_ignore_ascii_case(b"solid") && !bytes.contains(&0)
        || bytes.starts_with(b"\xff\xfe")
        || bytes.starts_with(b"\xfe\xff")
}

/// Loops of vertices; those of more than three are polygons.
fn text(bytes: &[u8]) -> Parsed<Mesh> {
    let mut triangles = 0_u64;
    loops(
        bytes,
        |corners, line| {
            triangles += match corners {
                0..3 => {
                    let reason = format!("a loop of {corners} vertices; a triangle has three");
                    return Err(Problem::Line(line, reason));
                }
                3.. => corners - 2,
            };
            Ok(())
        },
        |_, _| {},
    )?;
    claim(bytes.len(), 3 * triangles, 0)?;
    let mut corners: Vec<[f32; 3]> = Vec::with_capacity(3 * triangles as usize);
    let mut origin = None;
    loops(
        bytes,
        |_, _| Ok(()),
        |corner, position| {
            let position = relative(position, &mut origin);
            if corner > 2 {
                let first = corners.len() - 3;
                // A fan around the loop's first corner, which every triangle of it begins with.
                corners.extend([corners[first], corners[first + 2]]);
            }
            corners.push(position);
        },
    )?;
    let origin = origin.unwrap_or_default();
    let held = corners.len() as u64;
    merged(
        bytes.len(),
        held,
        triangles as usize,
        |i| corners[i],
        origin,
    )
}

/// Calls `vertex` with each vertex and its number in its loop, and `end` with each loop's length.
fn loops(
    bytes: &[u8],
    mut end: impl FnMut(u64, u64) -> Parsed,
    mut vertex: impl FnMut(u64, [f64; 3]),
) -> Parsed {
    let mut open: Option<u64> = None;
    for (line, content) in Lines::new(bytes)? {
        let mut words = words(content);
        let Some(word) = words.next() else { continue };
        let wrong = |reason: &str| Err(Problem::Line(line, reason.to_owned()));
        match word.to_ascii_lowercase().as_slice() {
            b"outer" if open.is_some() => return wrong("a loop begins within a loop"),
            b"outer" => open = Some(0),
            b"vertex" => {
                let Some(corner) = &mut open else {
                    return wrong("a vertex outside of `outer loop`");
                };
                vertex(*corner, three(&mut words, line, "a vertex")?);
                *corner += 1;
            }
            b"endloop" => match open.take() {
                Some(corners) => end(corners, line)?,
                None => return wrong("`endloop` without `outer loop`"),
            },
            _ => {}
        }
    }
    if open.is_some() {
        return fault("the file ends within a triangle");
    }
    Ok(())
}

/// A mesh of so many triangles in which equal corners are one vertex, numbered as they come; so many
/// vectors are in memory already.
fn merged(
    size: usize,
    held: u64,
    triangles: usize,
    corner: impl Fn(usize) -> [f32; 3],
    origin: [f64; 3],
) -> Parsed<Mesh> {
    if triangles == 0 {
        return fault("has no triangles");
    }
    let corners = 3 * triangles;
    if u32::try_from(corners).is_err() {
        return fault(format!("has {triangles} triangles, more than are read"));
    }
    // The order of the corners, and their vertices.
    claim(size, held, 2 * triangles as u64)?;
    // Zero is zero with either sign; bits order the same numbers next to each other.
    let key = |i: u32| corner(i as usize).map(|x| (x + 0.0).to_bits());
    let mut order: Vec<u32> = (0..corners as u32).collect();
    order.sort_unstable_by_key(|&i| (key(i), i));
    let mut indices = vec![[0_u32; 3]; triangles];
    let flat = indices.as_flattened_mut();
    let mut vertices = 0;
    for same in order.chunk_by(|&a, &b| key(a) == key(b)) {
        for &i in same {
            flat[i as usize] = same[0];
        }
        vertices += 1;
    }
    drop(order);
    claim(size, held + vertices, triangles as u64)?;
    let mut places = Vec::with_capacity(vertices as usize);
    for i in 0..corners {
        let first = flat[i] as usize;
        if first == i {
            flat[i] = places.len() as u32;
            places.push(corner(i));
        } else {
            flat[i] = flat[first];
        }
    }
    finish(Mesh {
        vertices: places,
        normals: None,
        triangles: indices,
        origin,
    })
}
