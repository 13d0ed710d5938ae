//! PLY, the Polygon File Format, as text and in both binary orders.
//!
//! `ply-rs` reads the header, after it was put into the form that it takes. What follows is read
//! here, because `ply-rs` keeps every element in allocations of its own, several times the file's
//! size together, loops as often as a header says over elements without properties, and reads no
//! `1.` or `nan` in text.

use std::path::Path;

use fin_core::Result;
use ply_rs::parser::{Parser, Reader};
use ply_rs::ply::{DefaultElement, Encoding, Header, PropertyType, ScalarType};

use super::Mesh;
use super::build::{Builder, Parsed, Problem, build, fault};
use super::text::{Lines, number, shown, without_mark, words};

/// Longest header that is read.
const MAX_HEADER: usize = 1 << 20;

/// Names of the list of a face's vertices.
const INDICES: [&str; 2] = ["vertex_indices", "vertex_index"];

pub(super) fn read(bytes: &[u8], path: &Path) -> Result<Mesh> {
    let layout = Layout::read(bytes).map_err(|problem| problem.at(path))?;
    build(path, bytes.len(), |builder| match layout.encoding {
        Encoding::Ascii => layout.text(&bytes[layout.start..], builder),
        order => {
            let little = order == Encoding::BinaryLittleEndian;
            let cursor = Cursor {
                bytes,
                at: layout.start,
                little,
            };
            layout.binary(cursor, builder)
        }
    })
}

/// What a header says.
struct Layout {
    encoding: Encoding,
    elements: Vec<Element>,
    /// Where the content begins, in bytes and in lines.
    start: usize,
    lines: u64,
}

struct Element {
    name: String,
    count: u64,
    kind: Kind,
    properties: Vec<PropertyType>,
}

/// What elements are for.
enum Kind {
    /// The properties of x, y and z, and of the normal where there is one.
    Vertex {
        position: [usize; 3],
        normal: Option<[usize; 3]>,
        /// Whether a coordinate is of more than single precision, as text always is.
        precise: bool,
    },
    /// The property that lists the vertices of a polygon, or of strips with -1 between them.
    Face(usize),
    Strip(usize),
    Other,
}

impl Layout {
    fn read(bytes: &[u8]) -> Parsed<Self> {
        let (header, start, lines) = header(bytes)?;
        let ascii = header.encoding == Encoding::Ascii;
        let mut elements = Vec::new();
        for (name, element) in &header.elements {
            let find = |name: &str| element.properties.get_index_of(name);
            let find_three = |names: [&str; 3]| {
                let [x, y, z] = names.map(find);
                Some([x?, y?, z?])
            };
            let kind = match name.as_str() {
                "vertex" => {
                    let Some(position) = find_three(["x", "y", "z"]) else {
                        let names: Vec<_> = element.properties.keys().map(String::as_str).collect();
                        return fault(format!(
                            "its vertices have no x, y and z; their properties are: {}",
                            names.join(", ")
                        ));
                    };
                    let is_scalar = |&i: &usize| {
                        matches!(element.properties[i].data_type, PropertyType::Scalar(_))
                    };
                    if !position.iter().all(is_scalar) {
                        return fault("x, y or z of its vertices is a list");
                    }
                    let is_precise = |&i: &usize| {
                        use ScalarType::{Double, Int, UInt};
                        matches!(
                            element.properties[i].data_type,
                            PropertyType::Scalar(Double | Int | UInt)
                        )
                    };
                    let normal = find_three(["nx", "ny", "nz"]);
                    Kind::Vertex {
                        position,
                        normal: normal.filter(|normal| normal.iter().all(is_scalar)),
                        precise: ascii || position.iter().any(is_precise),
                    }
                }
                "face" | "tristrips" => {
                    let indices = INDICES.iter().find_map(|name| find(name));
                    let is_list = |&i: &usize| {
                        matches!(element.properties[i].data_type, PropertyType::List(..))
                    };
                    match (indices.filter(is_list), name.as_str()) {
                        (Some(indices), "face") => Kind::Face(indices),
                        (Some(indices), _) => Kind::Strip(indices),
                        (None, _) if element.count == 0 => Kind::Other,
                        (None, _) => {
                            return fault(format!(
                                "element `{name}` has no list `vertex_indices` or `vertex_index`"
                            ));
                        }
                    }
                }
                _ => Kind::Other,
            };
            elements.push(Element {
                name: name.clone(),
                count: element.count as u64,
                kind,
                properties: element
                    .properties
                    .values()
                    .map(|property| property.data_type.clone())
                    .collect(),
            });
        }
        Ok(Self {
            encoding: header.encoding,
            elements,
            start,
            lines,
        })
    }

    /// An element a line.
    fn text(&self, bytes: &[u8], builder: &mut Builder) -> Parsed {
        let mut lines = Lines::after(bytes, self.lines);
        for element in &self.elements {
            if element.properties.is_empty() {
                continue;
            }
            for done in 0..element.count {
                let Some((line, content)) = lines.find(|(_, line)| !line.trim_ascii().is_empty())
                else {
                    return fault(format!(
                        "the header says {} of element `{}`, but the file ends after {done}",
                        element.count, element.name
                    ));
                };
                if matches!(element.kind, Kind::Other) {
                    continue;
                }
                let mut words = Words {
                    words: words(content),
                    line,
                };
                element.take(&mut words, builder)?;
                if let Some(word) = words.words.next() {
                    let reason = format!("`{}` is after the last property", shown(word));
                    return Err(Problem::Line(line, reason));
                }
            }
        }
        Ok(())
    }

    fn binary(&self, mut cursor: Cursor, builder: &mut Builder) -> Parsed {
        for element in &self.elements {
            let smallest: u64 = element.properties.iter().map(smallest).sum();
            let needed = smallest.checked_mul(element.count);
            let left = (cursor.bytes.len() - cursor.at) as u64;
            if needed.is_none_or(|needed| needed > left) {
                return fault(format!(
                    "the header says {} of element `{}`, of {smallest} bytes or more each, but {left} \
                     bytes are left from byte {}",
                    element.count, element.name, cursor.at
                ));
            }
            let has_lists = element
                .properties
                .iter()
                .any(|property| matches!(property, PropertyType::List(..)));
            if matches!(element.kind, Kind::Other) && !has_lists {
                cursor.at += (smallest * element.count) as usize;
                continue;
            }
            for _ in 0..element.count {
                element.take(&mut cursor, builder)?;
            }
        }
        Ok(())
    }
}

impl Element {
    /// Reads one and hands it to the builder.
    fn take(&self, source: &mut impl Source, builder: &mut Builder) -> Parsed {
        let (mut point, mut direction) = ([0.0; 3], [0.0; 3]);
        for (i, property) in self.properties.iter().enumerate() {
            match (property, &self.kind) {
                (PropertyType::Scalar(scalar), kind) => {
                    let value = source.next(scalar)?;
                    if let Kind::Vertex {
                        position, normal, ..
                    } = kind
                    {
                        for axis in 0..3 {
                            if position[axis] == i {
                                point[axis] = value;
                            }
                            if normal.is_some_and(|normal| normal[axis] == i) {
                                direction[axis] = value;
                            }
                        }
                    }
                }
                (PropertyType::List(count, item), kind) => {
                    let count = source.next(count)?;
                    let Some(count) = whole(count).and_then(|count| u64::try_from(count).ok())
                    else {
                        return Err(source.problem(format!("a list has {count} entries")));
                    };
                    match kind {
                        Kind::Face(list) if *list == i => {
                            take_polygon(source, count, item, builder)?;
                        }
                        Kind::Strip(list) if *list == i => {
                            take_strips(source, count, item, builder)?;
                        }
                        _ => {
                            for _ in 0..count {
                                source.next(item)?;
                            }
                        }
                    }
                }
            }
        }
        if let Kind::Vertex {
            normal, precise, ..
        } = self.kind
        {
            if precise {
                builder.vertex(point);
            } else {
                builder.vertex_f32(point.map(|x| x as f32));
            }
            if normal.is_some() {
                builder.normal(direction.map(|x| x as f32));
            }
        }
        Ok(())
    }
}

fn take_polygon(
    source: &mut impl Source,
    count: u64,
    item: &ScalarType,
    builder: &mut Builder,
) -> Parsed {
    for _ in 0..count {
        let index = source.next(item)?;
        let corner = match whole(index).and_then(|index| u64::try_from(index).ok()) {
            Some(index) => builder.corner(index),
            None => Err(format!("a face refers to vertex {index}")),
        };
        corner.map_err(|reason| source.problem(reason))?;
    }
    builder.end_polygon();
    Ok(())
}

/// Strips of triangles, each with the next vertex and the two before it, every other one turned.
fn take_strips(
    source: &mut impl Source,
    count: u64,
    item: &ScalarType,
    builder: &mut Builder,
) -> Parsed {
    let mut before = [0; 2];
    let mut length = 0_u64;
    for _ in 0..count {
        let index = source.next(item)?;
        let index = match whole(index) {
            Some(-1) => {
                length = 0;
                continue;
            }
            Some(index) if index >= 0 => index as u64,
            _ => return Err(source.problem(format!("a strip refers to vertex {index}"))),
        };
        if length >= 2 {
            let [a, b] = before;
            let corners = if length.is_multiple_of(2) {
                [a, b, index]
            } else {
                [b, a, index]
            };
            for corner in corners {
                let corner = builder.corner(corner);
                corner.map_err(|reason| source.problem(reason))?;
            }
            builder.end_polygon();
        }
        before = [before[1], index];
        length += 1;
    }
    Ok(())
}

fn whole(value: f64) -> Option<i64> {
    (value.fract() == 0.0 && value.abs() < 1e15).then_some(value as i64)
}

/// Bytes of a property at least.
fn smallest(property: &PropertyType) -> u64 {
    match property {
        PropertyType::Scalar(scalar) => width(scalar) as u64,
        PropertyType::List(count, _) => width(count) as u64,
    }
}

fn width(scalar: &ScalarType) -> usize {
    match scalar {
        ScalarType::Char | ScalarType::UChar => 1,
        ScalarType::Short | ScalarType::UShort => 2,
        ScalarType::Int | ScalarType::UInt | ScalarType::Float => 4,
        ScalarType::Double => 8,
    }
}

/// Where values come from, one after the other.
trait Source {
    fn next(&mut self, scalar: &ScalarType) -> Parsed<f64>;

    /// What is wrong with the last value.
    fn problem(&self, reason: String) -> Problem;
}

struct Words<I> {
    words: I,
    line: u64,
}

impl<'a, I: Iterator<Item = &'a [u8]>> Source for Words<I> {
    fn next(&mut self, _: &ScalarType) -> Parsed<f64> {
        match self.words.next() {
            Some(word) => number(word, self.line),
            None => Err(self.problem("fewer values than the header says".to_owned())),
        }
    }

    fn problem(&self, reason: String) -> Problem {
        Problem::Line(self.line, reason)
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    little: bool,
}

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let Some(bytes) = self.bytes[self.at..].first_chunk::<N>() else {
            let reason = "the file ends within an element".to_owned();
            return Err(self.problem(reason));
        };
        self.at += N;
        let mut bytes = *bytes;
        if !self.little {
            bytes.reverse();
        }
        Ok(bytes)
    }
}

impl Source for Cursor<'_> {
    fn next(&mut self, scalar: &ScalarType) -> Parsed<f64> {
        Ok(match scalar {
            ScalarType::Char => i8::from_le_bytes(self.take()?).into(),
            ScalarType::UChar => u8::from_le_bytes(self.take()?).into(),
            ScalarType::Short => i16::from_le_bytes(self.take()?).into(),
            ScalarType::UShort => u16::from_le_bytes(self.take()?).into(),
            ScalarType::Int => i32::from_le_bytes(self.take()?).into(),
            ScalarType::UInt => u32::from_le_bytes(self.take()?).into(),
            ScalarType::Float => f32::from_le_bytes(self.take()?).into(),
            ScalarType::Double => f64::from_le_bytes(self.take()?),
        })
    }

    fn problem(&self, reason: String) -> Problem {
        Problem::File(format!("{reason}, at byte {}", self.at))
    }
}

/// The header, with where it ends in bytes and lines.
fn header(bytes: &[u8]) -> Parsed<(Header, usize, u64)> {
    let content = without_mark(bytes);
    let mut lines = Lines::after(&content[..content.len().min(MAX_HEADER)], 0);
    let (mut text, mut elements, mut properties) = (String::new(), 0, 0);
    let end = loop {
        let Some((number, line)) = lines.next() else {
            return fault("has no line `end_header`");
        };
        let line = String::from_utf8_lossy(line.trim_ascii());
        if number == 1 && line != "ply" {
            return fault("does not begin with a line `ply`");
        }
        // Whatever else there is counts as a comment, as some writers forget to say.
        let line = match line.split_ascii_whitespace().next() {
            Some("element") => {
                elements += 1;
                line
            }
            Some("property") => {
                properties += 1;
                line
            }
            Some("ply" | "format" | "end_header") => line,
            _ => "comment".into(),
        };
        text.push_str(&line);
        text.push('\n');
        if line == "end_header" {
            break number;
        }
    };
    let start = bytes.len() - content.len() + lines.consumed();
    let mut reader = Reader::new(text.as_bytes());
    let header = Parser::<DefaultElement>::new()
        .read_header(&mut reader)
        .map_err(|error| {
            let Some(line) = error.line().map(|line| line as u64) else {
                return Problem::File(format!("the header is not one of PLY: {error}"));
            };
            let text = text.lines().nth(line as usize - 1).unwrap_or_default();
            let reason = format!("`{}` has no place in a PLY header", shown(text.as_bytes()));
            Problem::Line(line, reason)
        })?;
    let kept: usize = header.elements.values().map(|e| e.properties.len()).sum();
    if (header.elements.len(), kept) != (elements, properties) {
        return fault("an element, or a property of one, is in the header twice");
    }
    Ok((header, start, end))
}
