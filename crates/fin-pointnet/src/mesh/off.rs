//! OFF, the Object File Format of Geomview.
//!
//! `OFF`, `COFF`, `NOFF` and their combinations with `ST` are read, as text, and files that begin
//! with the counts at once; so are the files of ModelNet whose keyword and first count are one word
//! (`OFF490 926 0`). Comments begin with `#`. Colours and texture coordinates are left aside. Other
//! dimensions (`4OFF`, `nOFF`) and `BINARY` files are refused.

use std::path::Path;

use fin_core::Result;

use super::Mesh;
use super::build::{Builder, Parsed, Problem, build, fault};
use super::text::{Lines, shown, three, whole, words};

pub(super) fn read(bytes: &[u8], path: &Path) -> Result<Mesh> {
    build(path, bytes.len(), |builder| parse(bytes, builder))
}

/// What follows the keyword at the beginning, where there is one, and whether it has an `N`.
pub(super) fn keyword(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = line.windows(3).take(6).position(|part| part == b"OFF")?;
    let (prefix, rest) = (&line[..end], &line[end + 3..]);
    let known = prefix.iter().all(|letter| b"STCN4n".contains(letter));
    let whole = rest
        .first()
        .is_none_or(|b| b.is_ascii_whitespace() || b.is_ascii_digit());
    (known && whole).then_some((prefix, rest))
}

fn parse(bytes: &[u8], builder: &mut Builder) -> Parsed {
    let mut lines = Lines::new(bytes)?;
    let Some((mut line, mut content)) = lines.next_content() else {
        return fault("is empty");
    };
    let mut has_normals = false;
    if let Some((prefix, rest)) = keyword(content) {
        if prefix.iter().any(|letter| b"4n".contains(letter)) {
            let reason = "has vertices of another dimension than three";
            return Err(Problem::Line(line, reason.to_owned()));
        }
        if words(rest).next() == Some(b"BINARY") {
            return fault("is a binary OFF file; save it as text, or as PLY");
        }
        has_normals = prefix.contains(&b'N');
        content = rest.trim_ascii();
        if content.is_empty() {
            let Some(next) = lines.next_content() else {
                return fault("ends after its keyword");
            };
            (line, content) = next;
        }
    }
    let mut counts = words(content);
    let [vertices, faces] = ["vertices", "faces"].map(|what| {
        let Some(word) = counts.next() else {
            return Err(Problem::Line(line, format!("has no number of {what}")));
        };
        let count = whole(word, line)?;
        u64::try_from(count)
            .map_err(|_| Problem::Line(line, format!("`{}` is no number of {what}", shown(word))))
    });
    let (vertices, faces) = (vertices?, faces?);
    let mut next = |what: &str, done: u64, of: u64| {
        lines.next_content().ok_or_else(|| {
            Problem::File(format!(
                "the header says {of} {what}, but the file ends after {done}"
            ))
        })
    };
    for done in 0..vertices {
        let (line, content) = next("vertices", done, vertices)?;
        if builder.wants_values() {
            let mut words = words(content);
            builder.vertex(three(&mut words, line, "a vertex")?);
            if has_normals {
                let normal = three(&mut words, line, "a normal")?;
                builder.normal(normal.map(|x| x as f32));
            }
        } else {
            builder.vertex([0.0; 3]);
            if has_normals {
                builder.normal([0.0; 3]);
            }
        }
    }
    for done in 0..faces {
        let (line, content) = next("faces", done, faces)?;
        let mut words = words(content);
        let corners = whole(words.next().unwrap_or_default(), line)?;
        for found in 0..corners {
            let Some(word) = words.next() else {
                let reason = format!("a face of {corners} corners has only {found}");
                return Err(Problem::Line(line, reason));
            };
            let vertex = if builder.wants_values() {
                whole(word, line)?
            } else {
                0
            };
            let corner = u64::try_from(vertex)
                .map_err(|_| format!("a face refers to vertex {vertex}"))
                .and_then(|vertex| builder.corner(vertex));
            corner.map_err(|reason| Problem::Line(line, reason))?;
        }
        // What follows is a colour.
        builder.end_polygon();
    }
    Ok(())
}
