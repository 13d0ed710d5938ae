//! Buffers, and the numbers in them.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path};

use fin_core::{Error, Result};

use super::beside;
use super::document::{Accessor, Document, get};
use crate::mesh::build::{Parsed, fault};

/// Content of all buffers.
pub(super) struct Buffers<'a> {
    buffers: Vec<Cow<'a, [u8]>>,
    read: usize,
    held: usize,
}

impl<'a> Buffers<'a> {
    pub(super) fn open(
        document: &'a Document<'a>,
        binary: Option<&'a [u8]>,
        path: &Path,
    ) -> Result<Self> {
        let (mut read, mut held) = (0, 0);
        let mut buffers = Vec::with_capacity(document.buffers.len());
        for (i, buffer) in document.buffers.iter().enumerate() {
            let content: Cow<'a, [u8]> = match &buffer.uri {
                // The place of what meshopt decompresses to has no content either; that shows where
                // it is used.
                None if i > 0 => Cow::Borrowed(&[]),
                None => Cow::Borrowed(binary.unwrap_or_default()),
                Some(uri) if uri.starts_with("data:") => {
                    let content = data(uri).map_err(|reason| beside(path, uri, reason))?;
                    held += content.len();
                    Cow::Owned(content)
                }
                Some(uri) => {
                    let content = external(uri, buffer.byte_length, path)?;
                    held += content.len();
                    read += content.len();
                    Cow::Owned(content)
                }
            };
            let length = usize::try_from(buffer.byte_length).unwrap_or(usize::MAX);
            if buffer.uri.is_some() && content.len() < length {
                return Err(Error::invalid(
                    path,
                    format!("buffer {i} says {length} bytes, but has {}", content.len()),
                ));
            }
            buffers.push(content);
        }
        Ok(Self {
            buffers,
            read,
            held,
        })
    }

    /// Bytes from other files.
    pub(super) fn read(&self) -> usize {
        self.read
    }

    /// Bytes in memory beside the file's content.
    pub(super) fn held(&self) -> usize {
        self.held
    }
}

/// What a `data:` URI holds.
fn data(uri: &str) -> std::result::Result<Vec<u8>, &'static str> {
    let (kind, content) = uri
        .split_once(',')
        .ok_or("is a `data:` URI without content")?;
    if !kind.ends_with(";base64") {
        return Err("is a `data:` URI that is not in base64");
    }
    base64::decode(content).map_err(|_| "is not valid base64")
}

/// The content of a file below the directory of this one.
fn external(uri: &str, length: u64, path: &Path) -> Result<Vec<u8>> {
    let name = percent_decoded(uri)
        .ok_or_else(|| beside(path, uri, "is not a name that can be decoded"))?;
    let relative = Path::new(&name);
    let inside = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
    if name.is_empty() || name.contains([':', '\\', '\0']) || !relative.components().all(inside) {
        let reason = "is not a file below the directory of this one, and is not read";
        return Err(beside(path, uri, reason));
    }
    let target = path.parent().unwrap_or(Path::new("")).join(relative);
    let file = File::open(&target).map_err(Error::io(&target, "read"))?;
    let metadata = file.metadata().map_err(Error::io(&target, "read"))?;
    if !metadata.is_file() || metadata.len() < length {
        let reason = format!(
            "has {} bytes, but {} says {length}",
            metadata.len(),
            path.display()
        );
        return Err(Error::invalid(&target, reason));
    }
    let mut content = Vec::with_capacity(length as usize);
    let mut file = file.take(length);
    file.read_to_end(&mut content)
        .map_err(Error::io(&target, "read"))?;
    Ok(content)
}

fn percent_decoded(uri: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(uri.len());
    let mut rest = uri.as_bytes();
    while let [byte, after @ ..] = rest {
        (rest, _) = match byte {
            b'%' => {
                let digits = std::str::from_utf8(after.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                (&after[2..], ())
            }
            _ => {
                bytes.push(*byte);
                (after, ())
            }
        };
    }
    String::from_utf8(bytes).ok()
}

/// A type of numbers, by the format's code.
#[derive(Clone, Copy)]
struct Number {
    code: u32,
    width: usize,
}

impl Number {
    fn new(code: u32) -> Parsed<Self> {
        let width = match code {
            5120 | 5121 => 1,
            5122 | 5123 => 2,
            5125 | 5126 => 4,
            _ => return fault(format!("an accessor has the component type {code}")),
        };
        Ok(Self { code, width })
    }

    fn value(self, bytes: &[u8], normalized: bool) -> f64 {
        let array = |i: usize| bytes.get(i).copied().unwrap_or_default();
        let two = [array(0), array(1)];
        let four = [array(0), array(1), array(2), array(3)];
        let (value, most): (f64, f64) = match self.code {
            5120 => (i8::from_le_bytes([array(0)]).into(), i8::MAX.into()),
            5121 => (array(0).into(), u8::MAX.into()),
            5122 => (i16::from_le_bytes(two).into(), i16::MAX.into()),
            5123 => (u16::from_le_bytes(two).into(), u16::MAX.into()),
            5125 => (u32::from_le_bytes(four).into(), u32::MAX.into()),
            _ => return f32::from_le_bytes(four).into(),
        };
        if normalized {
            (value / most).max(-1.0)
        } else {
            value
        }
    }
}

/// A part of a buffer with elements at equal distances.
struct Strided<'a> {
    bytes: &'a [u8],
    stride: usize,
    width: usize,
}

impl<'a> Strided<'a> {
    fn new(
        document: &Document,
        buffers: &'a Buffers,
        view: usize,
        offset: u64,
        count: u64,
        width: usize,
    ) -> Parsed<Self> {
        let index = view;
        let view = get(&document.buffer_views, index, "buffer view")?;
        if view.extensions.meshopt.is_some() {
            return fault("is compressed by EXT_meshopt_compression; save it without compression");
        }
        let buffer = get(&buffers.buffers, view.buffer, "buffer")?;
        let stride = if view.byte_stride == 0 {
            width as u64
        } else {
            view.byte_stride
        };
        let end = (count.saturating_sub(1))
            .checked_mul(stride)
            .and_then(|last| last.checked_add(width as u64)?.checked_add(offset));
        let inside = end.is_some_and(|end| end <= view.byte_length) && stride >= width as u64;
        if !inside {
            return fault(format!(
                "{count} elements of {width} bytes, {stride} apart from byte {offset}, are not in \
                 buffer view {index} of {} bytes",
                view.byte_length
            ));
        }
        let range = usize::try_from(view.byte_offset)
            .ok()
            .zip(usize::try_from(view.byte_length).ok())
            .and_then(|(start, length)| buffer.get(start..)?.get(..length));
        let Some(bytes) = range else {
            return fault(format!(
                "buffer view {index} is of {} bytes from byte {}, but buffer {} has {}",
                view.byte_length,
                view.byte_offset,
                view.buffer,
                buffer.len()
            ));
        };
        Ok(Self {
            bytes: &bytes[offset as usize..],
            stride: stride as usize,
            width,
        })
    }

    /// Element `i`, which is below the count that was checked.
    fn at(&self, i: u64) -> &'a [u8] {
        let start = i as usize * self.stride;
        &self.bytes[start..start + self.width]
    }
}

/// Values of a sparse accessor that are not those of its buffer view.
struct Replaced<'a> {
    count: u64,
    next: u64,
    indices: Strided<'a>,
    index_type: Number,
    values: Strided<'a>,
}

/// Elements of an accessor in order, `N` numbers each.
pub(super) struct Elements<'a, const N: usize> {
    component: Number,
    normalized: bool,
    count: u64,
    next: u64,
    base: Option<Strided<'a>>,
    replaced: Option<Replaced<'a>>,
}

impl<'a, const N: usize> Elements<'a, N> {
    /// Of an accessor whose elements must be of this kind.
    pub(super) fn new(
        document: &Document,
        buffers: &'a Buffers,
        accessor: &Accessor,
        kind: &str,
    ) -> Parsed<Self> {
        if accessor.kind != kind {
            return fault(format!(
                "an accessor is of type {} where {kind} is needed",
                accessor.kind
            ));
        }
        let component = Number::new(accessor.component_type)?;
        let (count, width) = (accessor.count, N * component.width);
        let strided = |view, offset, count, width| {
            Strided::new(document, buffers, view, offset, count, width)
        };
        let base = match accessor.buffer_view {
            Some(view) => Some(strided(view, accessor.byte_offset, count, width)?),
            None => None,
        };
        let replaced = match &accessor.sparse {
            None => None,
            Some(sparse) if sparse.count > count => {
                return fault(format!(
                    "a sparse accessor of {count} elements replaces {}",
                    sparse.count
                ));
            }
            Some(sparse) => {
                let (indices, values) = (&sparse.indices, &sparse.values);
                let index_type = Number::new(indices.component_type)?;
                Some(Replaced {
                    count: sparse.count,
                    next: 0,
                    index_type,
                    indices: strided(
                        indices.buffer_view,
                        indices.byte_offset,
                        sparse.count,
                        index_type.width,
                    )?,
                    values: strided(values.buffer_view, values.byte_offset, sparse.count, width)?,
                })
            }
        };
        Ok(Self {
            component,
            normalized: accessor.normalized,
            count,
            next: 0,
            base,
            replaced,
        })
    }
}

impl<const N: usize> Iterator for Elements<'_, N> {
    type Item = Parsed<[f64; N]>;

    fn next(&mut self) -> Option<Self::Item> {
        let i = self.next;
        if i >= self.count {
            // Every replacement had its turn, unless they are out of order or range.
            let left = self.replaced.take().is_some_and(|it| it.next < it.count);
            return left.then(|| {
                fault("the indices of a sparse accessor do not increase, or are out of range")
            });
        }
        self.next += 1;
        let mut bytes = self.base.as_ref().map(|base| base.at(i));
        if let Some(it) = &mut self.replaced
            && it.next < it.count
            && it.index_type.value(it.indices.at(it.next), false) == i as f64
        {
            bytes = Some(it.values.at(it.next));
            it.next += 1;
        }
        let width = self.component.width;
        Some(Ok(std::array::from_fn(|k| match bytes {
            Some(bytes) => self.component.value(&bytes[k * width..], self.normalized),
            None => 0.0,
        })))
    }
}
