//! PCD, the format of the Point Cloud Library: text, binary, and binary compressed by LZF.
//!
//! The fields `x`, `y` and `z` are read, and `normal_x`, `normal_y` and `normal_z` where there are
//! all three. The viewpoint is left aside: points stay as they are in the file. What compression
//! unfolds to may be at most eight times the file and 64 MiB, points included.

mod lzf;

use std::path::Path;

use fin_core::Result;

use super::Mesh;
use super::build::{Builder, Parsed, Problem, build, fault};
use super::text::{Lines, number, shown, whole, words};

/// Longest header that is read.
const MAX_HEADER: usize = 1 << 16;
/// Bytes that a byte of a compressed file may unfold to, points included, beside those that any file
/// may claim.
const UNFOLDED: usize = 8;
/// Of those that any file may claim, the ones to unfold to.
const SMALL: usize = 2 << 20;

pub(super) fn read(bytes: &[u8], path: &Path) -> Result<Mesh> {
    let at = |problem: Problem| problem.at(path);
    let header = Header::read(bytes).map_err(at)?;
    let rest = &bytes[header.start..];
    match header.data {
        Data::Text => build(path, bytes.len(), |builder| header.text(rest, builder)),
        Data::Binary => build(path, bytes.len(), |builder| {
            header.check(rest.len())?;
            header.binary(rest, false, builder);
            Ok(())
        }),
        Data::Compressed => {
            let unfolded = header.unfold(bytes.len(), rest).map_err(at)?;
            let size = bytes.len().saturating_mul(UNFOLDED);
            let size = size.saturating_sub(unfolded.len());
            build(path, size, |builder| {
                header.check(unfolded.len())?;
                header.binary(&unfolded, true, builder);
                Ok(())
            })
        }
    }
}

/// Whether content begins as this format does.
pub(super) fn is_pcd(bytes: &[u8]) -> bool {
    bytes.starts_with(b"# .PCD")
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Data {
    Text,
    Binary,
    Compressed,
}

/// A number of a field, or several.
#[derive(Debug, Clone, Copy)]
struct Field {
    kind: u8,
    size: usize,
    count: usize,
    /// Bytes of the fields before it.
    offset: usize,
    /// Numbers of the fields before it.
    column: usize,
}

struct Header {
    points: u64,
    data: Data,
    position: [Field; 3],
    normal: Option<[Field; 3]>,
    /// Bytes and numbers of a point.
    stride: usize,
    columns: usize,
    /// Where the content begins, in bytes and in lines.
    start: usize,
    lines: u64,
}

impl Header {
    fn read(bytes: &[u8]) -> Parsed<Self> {
        let mut lines = Lines::new(&bytes[..bytes.len().min(MAX_HEADER)])?;
        let (mut names, mut sizes, mut kinds, mut counts) = (vec![], vec![], vec![], vec![]);
        let (mut width, mut height, mut points) = (None, None, None);
        let (line, data) = loop {
            let Some((line, content)) = lines.next_content() else {
                return fault("has no line `DATA`, as PCD files have");
            };
            let mut words = words(content);
            let Some(keyword) = words.next() else {
                continue;
            };
            let mut count = || -> Parsed<u64> {
                let word = words.next().unwrap_or_default();
                let count = whole(word, line)?;
                u64::try_from(count)
                    .map_err(|_| Problem::Line(line, format!("`{}` is no count", shown(word))))
            };
            match keyword {
                b"FIELDS" | b"COLUMNS" => names = words.collect(),
                b"SIZE" => sizes = words.collect(),
                b"TYPE" => kinds = words.collect(),
                b"COUNT" => counts = words.collect(),
                b"WIDTH" => width = Some(count()?),
                b"HEIGHT" => height = Some(count()?),
                b"POINTS" => points = Some(count()?),
                b"VERSION" | b"VIEWPOINT" => {}
                b"DATA" => break (line, words.next().unwrap_or_default()),
                other => {
                    let reason = format!("`{}` has no place in a PCD header", shown(other));
                    return Err(Problem::Line(line, reason));
                }
            }
        };
        let data = match data {
            b"ascii" => Data::Text,
            b"binary" => Data::Binary,
            b"binary_compressed" => Data::Compressed,
            other => {
                let reason = format!(
                    "DATA is `{}`; ascii, binary and binary_compressed are read",
                    shown(other)
                );
                return Err(Problem::Line(line, reason));
            }
        };
        let product = match (width, height) {
            (Some(width), height) => match width.checked_mul(height.unwrap_or(1)) {
                Some(product) => Some(product),
                None => {
                    return fault(format!(
                        "WIDTH times HEIGHT, {width} times {}, is no number of points",
                        height.unwrap_or(1)
                    ));
                }
            },
            _ => None,
        };
        let points = match (points, product) {
            (Some(points), Some(product)) if points != product => {
                return fault(format!(
                    "the header says {points} POINTS, but WIDTH times HEIGHT is {product}"
                ));
            }
            (Some(points), _) | (None, Some(points)) => points,
            (None, None) => return fault("the header says neither POINTS nor WIDTH"),
        };
        let fields = fields(&names, &sizes, &kinds, &counts)?;
        let find = |name: &str| {
            let found = names.iter().position(|field| *field == name.as_bytes());
            found.map(|i| fields[i]).filter(|field| field.count == 1)
        };
        let three = |names: [&str; 3]| {
            let [x, y, z] = names.map(find);
            Some([x?, y?, z?])
        };
        let Some(position) = three(["x", "y", "z"]) else {
            let names: Vec<_> = names.iter().map(|name| shown(name)).collect();
            return fault(format!(
                "has no fields x, y and z, but {}",
                names.join(", ")
            ));
        };
        let last = fields.last().copied();
        Ok(Self {
            points,
            data,
            position,
            normal: three(["normal_x", "normal_y", "normal_z"]),
            stride: last.map_or(0, |last| last.offset + last.size * last.count),
            columns: last.map_or(0, |last| last.column + last.count),
            start: bytes.len() - super::text::without_mark(bytes).len() + lines.consumed(),
            lines: line,
        })
    }

    fn text(&self, bytes: &[u8], builder: &mut Builder) -> Parsed {
        let mut lines = Lines::after(bytes, self.lines);
        for done in 0..self.points {
            let Some((line, content)) = lines.next_content() else {
                return fault(format!(
                    "the header says {} points, but the file ends after {done}",
                    self.points
                ));
            };
            let (mut position, mut normal) = ([0.0; 3], [0.0; 3]);
            let mut count = 0;
            for word in words(content) {
                let put = |fields: &[Field; 3], values: &mut [f64; 3]| -> Parsed {
                    for (field, value) in fields.iter().zip(values) {
                        if field.column == count {
                            *value = number(word, line)?;
                        }
                    }
                    Ok(())
                };
                put(&self.position, &mut position)?;
                if let Some(fields) = &self.normal {
                    put(fields, &mut normal)?;
                }
                count += 1;
            }
            if count != self.columns {
                let reason = format!("{count} values where the fields take {}", self.columns);
                return Err(Problem::Line(line, reason));
            }
            builder.vertex(position);
            if self.normal.is_some() {
                builder.normal(normal.map(|x| x as f32));
            }
        }
        if let Some((line, _)) = lines.next_content() {
            let reason = format!("is after the last of {} points", self.points);
            return Err(Problem::Line(line, reason));
        }
        Ok(())
    }

    /// Whether the points are in so many bytes.
    fn check(&self, bytes: usize) -> Parsed {
        let needed = self.points.checked_mul(self.stride as u64);
        if needed.is_none_or(|needed| needed > bytes as u64) {
            return fault(format!(
                "the header says {} points of {} bytes, but there are {bytes} bytes of them",
                self.points, self.stride
            ));
        }
        Ok(())
    }

    /// Points one after the other, or `by_field` all values of a field one after the other.
    fn binary(&self, bytes: &[u8], by_field: bool, builder: &mut Builder) {
        let points = self.points as usize;
        for i in 0..points {
            let value = |field: Field| {
                let start = match by_field {
                    true => field.offset * points + i * field.size * field.count,
                    false => i * self.stride + field.offset,
                };
                field.value(&bytes[start..start + field.size])
            };
            let position = self.position.map(value);
            match self
                .position
                .iter()
                .all(|field| field.kind == b'F' && field.size == 4)
            {
                true => builder.vertex_f32(position.map(|x| x as f32)),
                false => builder.vertex(position),
            }
            if let Some(normal) = self.normal {
                builder.normal(normal.map(|field| value(field) as f32));
            }
        }
    }

    /// What the compressed bytes of a file of `size` bytes unfold to.
    fn unfold(&self, size: usize, bytes: &[u8]) -> Parsed<Vec<u8>> {
        let number = |at: usize| {
            let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk());
            bytes.map(|bytes| u32::from_le_bytes(*bytes))
        };
        let Some((compressed, unfolded)) = number(0).zip(number(4)) else {
            return fault("the file ends before its compressed points");
        };
        let Some(content) = bytes[8..].get(..compressed as usize) else {
            return fault(format!(
                "says that its points are {compressed} bytes compressed, but {} follow",
                bytes.len() - 8
            ));
        };
        self.check(unfolded as usize)?;
        let most = size.saturating_mul(UNFOLDED).saturating_add(SMALL);
        if unfolded as usize > most.min(lzf::most(content.len())) {
            return fault(format!(
                "says that {compressed} bytes unfold to {unfolded}, which is more than is read; save it \
                 without compression"
            ));
        }
        match lzf::unfold(content, unfolded as usize) {
            Some(points) => Ok(points),
            None => fault(format!(
                "its compressed points are damaged, or are not the {unfolded} bytes that it says"
            )),
        }
    }
}

impl Field {
    fn value(self, bytes: &[u8]) -> f64 {
        let mut wide = [0; 8];
        wide[..self.size].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(wide);
        match (self.kind, self.size) {
            (b'F', 4) => f32::from_bits(bits as u32).into(),
            (b'F', _) => f64::from_bits(bits),
            (b'I', size) => {
                let unused = 64 - 8 * size as u32;
                ((bits << unused) as i64 >> unused) as f64
            }
            _ => bits as f64,
        }
    }
}

fn fields(
    names: &[&[u8]],
    sizes: &[&[u8]],
    kinds: &[&[u8]],
    counts: &[&[u8]],
) -> Parsed<Vec<Field>> {
    let n = names.len();
    if n == 0 || sizes.len() != n || kinds.len() != n || ![0, n].contains(&counts.len()) {
        return fault(format!(
            "the header has {n} FIELDS, {} SIZEs, {} TYPEs and {} COUNTs",
            sizes.len(),
            kinds.len(),
            counts.len()
        ));
    }
    let (mut offset, mut column) = (0_usize, 0_usize);
    let mut fields = Vec::with_capacity(n);
    for i in 0..n {
        let count = match counts.get(i) {
            Some(count) => parsed(count),
            None => Some(1),
        };
        let kind = kinds[i];
        let size = parsed(sizes[i]);
        let (Some(size @ (1 | 2 | 4 | 8)), [kind @ (b'F' | b'I' | b'U')], Some(count)) =
            (size, kind, count)
        else {
            return fault(format!(
                "field `{}` has the size `{}`, the type `{}` and the count `{}`",
                shown(names[i]),
                shown(sizes[i]),
                shown(kind),
                shown(counts.get(i).copied().unwrap_or(b"1"))
            ));
        };
        if *kind == b'F' && size < 4 {
            return fault(format!(
                "field `{}` is of type F and size {size}",
                shown(names[i])
            ));
        }
        fields.push(Field {
            kind: *kind,
            size,
            count,
            offset,
            column,
        });
        let end = count
            .checked_mul(size)
            .and_then(|bytes| offset.checked_add(bytes));
        let columns = column.checked_add(count);
        let (Some(end), Some(columns)) = (end.filter(|end| *end < 1 << 32), columns) else {
            return fault(format!(
                "field `{}` has {count} values a point",
                shown(names[i])
            ));
        };
        (offset, column) = (end, columns);
    }
    Ok(fields)
}

fn parsed(word: &[u8]) -> Option<usize> {
    std::str::from_utf8(word).ok()?.parse().ok()
}
