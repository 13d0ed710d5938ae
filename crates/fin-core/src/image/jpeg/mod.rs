//! JPEG files to the pixels that libjpeg-turbo, and so Pillow, gives with its default settings.
//!
//! The standards (ITU-T T.81 and T.871) leave open how the transform is rounded and how components
//! of lower resolution are brought to the picture's: libraries differ by up to a hundred levels at
//! edges between saturated colours. Networks are trained on libjpeg's pixels, so this is its
//! arithmetic: the accurate integer transform, interpolation of halved components, and colours in
//! fixed point of 16 bits.
//!
//! Read are baseline, extended sequential and progressive files with Huffman codes and 8 bits, of
//! one, three or four components and any whole ratio of resolutions. A progressive file with scans
//! left out shows its blocks, which libjpeg would smooth. Damage within the coded data is passed
//! over as libjpeg does.

mod colour;
mod entropy;
mod idct;

use colour::{Colour, Plane};
use entropy::{Bits, Block, Huffman, Progress, ZIGZAG, next_marker};

/// More scans are no picture but a way to keep the reader busy; encoders make ten or so.
const MOST_SCANS: usize = 100;

/// Why a file is not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// It ends within a segment or before the picture is there.
    CutShort,
    /// It contradicts itself or the standard.
    Damaged(String),
    /// It is sound, as far as can be told, and not read.
    Unsupported(String),
}

impl Problem {
    fn damaged(reason: impl Into<String>) -> Self {
        Self::Damaged(reason.into())
    }
}

/// A component of the frame. Pairs are across and down.
struct Component {
    id: u8,
    factors: [usize; 2],
    /// Samples that belong to the picture.
    size: [usize; 2],
    /// Blocks that hold them.
    blocks: [usize; 2],
    /// Blocks with those that fill up the last units.
    padded: [usize; 2],
    ratio: [usize; 2],
    /// Number of its quantisation table.
    table: usize,
    /// The table at its first scan.
    quantisation: Option<Block>,
}

struct Frame {
    progressive: bool,
    size: [usize; 2],
    /// Units of interleaved scans.
    units: [usize; 2],
    components: Vec<Component>,
}

impl Frame {
    /// A frame from its header.
    fn new(marker: u8, segment: &[u8]) -> Result<Self, Problem> {
        let &[bits, h1, h0, w1, w0, count, ref rest @ ..] = segment else {
            return Err(Problem::damaged("its frame header is too short"));
        };
        if !matches!(marker, 0xc0..=0xc2) {
            let kind = match marker {
                0xc3 => "lossless",
                0xc9..=0xcb => "with arithmetic coding",
                _ => "hierarchical",
            };
            return Err(Problem::Unsupported(format!(
                "{kind}; baseline and progressive files with Huffman codes are"
            )));
        }
        if bits != 8 {
            let reason = format!("{bits} bits a sample; 8 are");
            return Err(Problem::Unsupported(reason));
        }
        if !matches!(count, 1 | 3 | 4) {
            let reason = format!("{count} components; 1, 3 and 4 are");
            return Err(Problem::Unsupported(reason));
        }
        if rest.len() != 3 * usize::from(count) {
            return Err(Problem::damaged(format!(
                "its frame header has {} bytes for {count} components",
                rest.len()
            )));
        }
        let size = [[w1, w0], [h1, h0]].map(|pair| usize::from(u16::from_be_bytes(pair)));
        let factors = |entry: &[u8]| [entry[1] >> 4, entry[1] & 15].map(usize::from);
        let mut most = [1, 1];
        for entry in rest.chunks_exact(3) {
            let factors = factors(entry);
            if factors.iter().any(|factor| !(1..=4).contains(factor)) || entry[2] > 3 {
                let reason = "its frame header has sampling factors or tables that cannot be";
                return Err(Problem::damaged(reason));
            }
            most = [0, 1].map(|i| most[i].max(factors[i]));
        }
        let units = [0, 1].map(|i| size[i].div_ceil(8 * most[i]));
        let component = |entry: &[u8]| {
            let factors = factors(entry);
            if (0..2).any(|i| most[i] % factors[i] != 0) {
                let reason = format!(
                    "a component of {} × {} samples where another has {} × {}; whole ratios are",
                    factors[0], factors[1], most[0], most[1]
                );
                return Err(Problem::Unsupported(reason));
            }
            let size = [0, 1].map(|i| (size[i] * factors[i]).div_ceil(most[i]));
            Ok(Component {
                id: entry[0],
                factors,
                size,
                blocks: size.map(|size| size.div_ceil(8)),
                padded: [0, 1].map(|i| units[i] * factors[i]),
                ratio: [0, 1].map(|i| most[i] / factors[i]),
                table: usize::from(entry[2]),
                quantisation: None,
            })
        };
        Ok(Self {
            progressive: marker == 0xc2,
            size,
            units,
            components: rest
                .chunks_exact(3)
                .map(component)
                .collect::<Result<_, _>>()?,
        })
    }
}

/// A component's part in a scan: its place in the frame and its Huffman tables.
struct Part {
    component: usize,
    dc: usize,
    ac: usize,
}

struct Scan {
    parts: Vec<Part>,
    progress: Progress,
}

/// What is carried from block to block and begins anew at a restart.
#[derive(Default)]
struct Running {
    last_dc: [i32; 4],
    ended: u32,
}

/// A file of which the header is read.
pub(super) struct Jpeg<'a> {
    data: &'a [u8],
    at: usize,
    frame: Frame,
    colour: Colour,
    tables: Tables,
    exif: Option<&'a [u8]>,
}

#[derive(Default)]
struct Tables {
    quantisation: [Option<Block>; 4],
    dc: [Option<Huffman>; 4],
    ac: [Option<Huffman>; 4],
    /// Units from one restart marker to the next, or 0.
    restart: usize,
}

impl Tables {
    /// Takes a segment if it has tables.
    fn read(&mut self, marker: u8, segment: &[u8]) -> Result<(), Problem> {
        match marker {
            0xc4 => self.huffman(segment),
            0xdb => self.quantisation(segment),
            0xdd => {
                let restart = segment.try_into().map(u16::from_be_bytes);
                self.restart = restart
                    .map_err(|_| Problem::damaged("its restart interval is not of two bytes"))?
                    .into();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn huffman(&mut self, mut segment: &[u8]) -> Result<(), Problem> {
        while let Some((&kind, rest)) = segment.split_first() {
            let cut = || Problem::damaged("a Huffman table is cut short");
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or_else(cut)?;
            let count: usize = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(count).ok_or_else(cut)?;
            let group = if kind & 16 == 0 {
                &mut self.dc
            } else {
                &mut self.ac
            };
            let Some(place) = group.get_mut(usize::from(kind & !16)) else {
                let reason = format!("a Huffman table has the number {kind}");
                return Err(Problem::damaged(reason));
            };
            *place = Some(Huffman::new(counts, symbols)?);
            segment = rest;
        }
        Ok(())
    }

    fn quantisation(&mut self, mut segment: &[u8]) -> Result<(), Problem> {
        while let Some((&kind, rest)) = segment.split_first() {
            let bytes = if kind >> 4 == 0 { 1 } else { 2 };
            let cut = || Problem::damaged("a quantisation table is cut short");
            let (values, rest) = rest.split_at_checked(64 * bytes).ok_or_else(cut)?;
            let Some(place) = self.quantisation.get_mut(usize::from(kind & 15)) else {
                let reason = format!("a quantisation table has the number {kind}");
                return Err(Problem::damaged(reason));
            };
            let mut table = [0; 64];
            for (value, at) in values.chunks_exact(bytes).zip(ZIGZAG) {
                let value = value
                    .iter()
                    .fold(0, |value, &byte| value << 8 | u16::from(byte));
                table[usize::from(at)] = value as i16;
            }
            *place = Some(table);
            segment = rest;
        }
        Ok(())
    }
}

/// The segment behind a marker and the place behind it.
fn segment(data: &[u8], at: usize) -> Result<(&[u8], usize), Problem> {
    let length = data.get(at..).and_then(<[u8]>::first_chunk);
    let length = usize::from(u16::from_be_bytes(*length.ok_or(Problem::CutShort)?));
    if length < 2 {
        return Err(Problem::damaged("a segment is shorter than its own length"));
    }
    let segment = data.get(at + 2..at + length).ok_or(Problem::CutShort)?;
    Ok((segment, at + length))
}

impl<'a> Jpeg<'a> {
    /// Reads all that comes before the first scan.
    pub(super) fn open(data: &'a [u8]) -> Result<Self, Problem> {
        let mut at = 2;
        let mut tables = Tables::default();
        let mut frame = None;
        let (mut exif, mut jfif, mut adobe) = (None, false, None);
        let frame: Frame = loop {
            let (marker, after) = next_marker(data, at).ok_or(Problem::CutShort)?;
            at = after;
            match marker {
                0x01 | 0xd0..=0xd7 => continue,
                0xd8 | 0xd9 => return Err(Problem::damaged("it ends before its first scan")),
                0xda => break frame.ok_or(Problem::damaged("it has no frame header"))?,
                _ => {}
            }
            let (content, after) = segment(data, at)?;
            at = after;
            match marker {
                0xc4 | 0xc8 | 0xcc => tables.read(marker, content)?,
                0xc0..=0xcf if frame.is_some() => {
                    return Err(Problem::damaged("it has two frame headers"));
                }
                0xc0..=0xcf => frame = Some(Frame::new(marker, content)?),
                0xe0 => jfif |= content.len() >= 14 && content.starts_with(b"JFIF\0"),
                0xe1 if exif.is_none() => exif = content.strip_prefix(b"Exif\0\0"),
                0xee if content.len() >= 12 && content.starts_with(b"Adobe") => {
                    adobe = Some(content[11]);
                }
                _ => tables.read(marker, content)?,
            }
        };
        let ids: Vec<u8> = frame
            .components
            .iter()
            .map(|component| component.id)
            .collect();
        let colour = match (ids.len(), adobe) {
            (1, _) => Colour::Grey,
            (4, None | Some(0)) => Colour::Cmyk,
            (4, _) => Colour::Ycck,
            (_, Some(0)) if !jfif => Colour::Rgb,
            (_, None) if !jfif && ids == *b"RGB" => Colour::Rgb,
            _ => Colour::Ycc,
        };
        Ok(Self {
            data,
            at,
            frame,
            colour,
            tables,
            exif,
        })
    }

    /// Width and height.
    pub(super) fn size(&self) -> [usize; 2] {
        self.frame.size
    }

    /// EXIF data, if any, from their TIFF header on.
    pub(super) fn exif(&self) -> Option<&[u8]> {
        self.exif
    }

    /// Row-major `[height, width, 3]`. The size must have been checked: neither side 0, and not
    /// more pixels than memory is to be taken for (up to 12 bytes for each).
    pub(super) fn decode(mut self) -> Result<Vec<u8>, Problem> {
        let scan = self.scan()?;
        let planes = if self.frame.progressive || scan.parts.len() < self.frame.components.len() {
            self.several(scan)?
        } else {
            self.single(&scan)?
        };
        let [width, height] = self.frame.size;
        let mut pixels = vec![0; width * height * 3];
        let room = |plane: &Plane| vec![0; plane.width * plane.ratio[0]];
        let mut rows: Vec<Vec<u8>> = planes.iter().map(room).collect();
        let mut sums = vec![0; width];
        for (y, pixels) in pixels.chunks_exact_mut(3 * width).enumerate() {
            for (plane, row) in planes.iter().zip(&mut rows) {
                plane.upsample(y, &mut sums, row);
            }
            colour::convert(self.colour, &rows, pixels);
        }
        Ok(pixels)
    }

    /// Reads a scan's header and keeps the quantisation tables that count from now on.
    fn scan(&mut self) -> Result<Scan, Problem> {
        let (segment, after) = segment(self.data, self.at)?;
        self.at = after;
        let bad = || Problem::damaged("a scan header is not of its length");
        let (&count, rest) = segment.split_first().ok_or_else(bad)?;
        let (entries, rest) = rest
            .split_at_checked(2 * usize::from(count))
            .ok_or_else(bad)?;
        let &[first, last, bits] = rest else {
            return Err(bad());
        };
        let mut parts: Vec<Part> = Vec::new();
        for entry in entries.chunks_exact(2) {
            let mut components = self.frame.components.iter();
            let component = components.position(|component| component.id == entry[0]);
            let new = component.filter(|&at| parts.iter().all(|part| part.component != at));
            let [dc, ac] = [entry[1] >> 4, entry[1] & 15].map(usize::from);
            match new {
                Some(component) if dc < 4 && ac < 4 => parts.push(Part { component, dc, ac }),
                _ => {
                    let reason = "a scan names a component or table that is not there";
                    return Err(Problem::damaged(reason));
                }
            }
        }
        let (high, low) = (bits >> 4, bits & 15);
        let progress = Progress {
            band: [first, last].map(usize::from),
            refines: high != 0,
            bit: u32::from(low),
        };
        let blocks = |part: &Part| -> usize {
            self.frame.components[part.component]
                .factors
                .iter()
                .product()
        };
        let crowded = parts.len() > 1 && parts.iter().map(blocks).sum::<usize>() > 10;
        let band = match first {
            0 => last == 0,
            _ => first <= last && last < 64 && parts.len() == 1,
        };
        let bit = low <= 13 && (high == 0 || high == low + 1);
        if parts.is_empty() || crowded || self.frame.progressive && !(band && bit) {
            let reason = "a scan header has values that do not go together";
            return Err(Problem::damaged(reason));
        }
        for part in &parts {
            let component = &mut self.frame.components[part.component];
            if component.quantisation.is_none() {
                component.quantisation = self.tables.quantisation[component.table];
            }
            if component.quantisation.is_none() {
                return Err(Problem::damaged("a quantisation table is missing"));
            }
        }
        Ok(Scan { parts, progress })
    }

    /// Calls `visit` for every block of a scan, with its component's place in the scan and its own
    /// in the component.
    fn blocks(
        &self,
        scan: &Scan,
        mut visit: impl FnMut(&mut Bits<'_>, &mut Running, usize, [usize; 2]),
    ) -> usize {
        let components: Vec<&Component> = scan
            .parts
            .iter()
            .map(|part| &self.frame.components[part.component])
            .collect();
        // A scan of one component has no units of several blocks.
        let (units, alone) = match components[..] {
            [one] => (one.blocks, true),
            _ => (self.frame.units, false),
        };
        let mut bits = Bits::new(self.data, self.at);
        let mut running = Running::default();
        let (mut left, mut expected) = (self.tables.restart, 0);
        for unit_y in 0..units[1] {
            for unit_x in 0..units[0] {
                if self.tables.restart > 0 {
                    if left == 0 {
                        bits.restart(expected);
                        expected = (expected + 1) % 8;
                        running = Running::default();
                        left = self.tables.restart;
                    }
                    left -= 1;
                }
                if bits.empty() {
                    if self.tables.restart == 0 {
                        return bits.position();
                    }
                    continue;
                }
                for (part, component) in components.iter().enumerate() {
                    let [across, down] = if alone { [1, 1] } else { component.factors };
                    for y in 0..down {
                        for x in 0..across {
                            let place = [unit_x * across + x, unit_y * down + y];
                            visit(&mut bits, &mut running, part, place);
                        }
                    }
                }
            }
        }
        bits.position()
    }

    fn plane(component: &Component) -> Plane {
        let [across, down] = component.padded;
        Plane {
            // What a block without coefficients gives.
            samples: vec![128; 64 * across * down],
            stride: 8 * across,
            width: component.size[0],
            height: component.size[1],
            ratio: component.ratio,
        }
    }

    fn dc(&self, part: &Part) -> Result<&Huffman, Problem> {
        let table = self.tables.dc[part.dc].as_ref();
        table
            .filter(|table| table.is_dc())
            .ok_or_else(|| Problem::damaged("a Huffman table is missing"))
    }

    fn ac(&self, part: &Part) -> Result<&Huffman, Problem> {
        let table = self.tables.ac[part.ac].as_ref();
        table.ok_or_else(|| Problem::damaged("a Huffman table is missing"))
    }

    /// The tables of a scan's parts in sequential coding.
    fn both<'s>(&'s self, scan: &Scan) -> Result<Vec<(&'s Huffman, &'s Huffman)>, Problem> {
        let both = |part| Ok((self.dc(part)?, self.ac(part)?));
        scan.parts.iter().map(both).collect()
    }

    /// A picture in one scan, block by block.
    fn single(&mut self, scan: &Scan) -> Result<Vec<Plane>, Problem> {
        let components = &self.frame.components;
        let mut planes: Vec<Plane> = components.iter().map(Self::plane).collect();
        let tables = self.both(scan)?;
        self.blocks(scan, |bits, running, part, [x, y]| {
            let at = scan.parts[part].component;
            let (dc, ac) = tables[part];
            let mut block = [0; 64];
            let any = bits.sequential(dc, ac, &mut running.last_dc[part], &mut block);
            let plane = &mut planes[at];
            let out = &mut plane.samples[8 * (y * plane.stride + x)..];
            if let Some(quantisation) = &components[at].quantisation {
                if any {
                    idct::transform(&block, quantisation, out, plane.stride);
                } else {
                    idct::flat(&block, quantisation, out, plane.stride);
                }
            }
        });
        Ok(planes)
    }

    /// A picture in several scans, whose coefficients are gathered first.
    fn several(&mut self, first: Scan) -> Result<Vec<Plane>, Problem> {
        let room = |component: &Component| {
            let [across, down] = component.padded;
            vec![[0; 64]; across * down]
        };
        let mut blocks: Vec<Vec<Block>> = self.frame.components.iter().map(room).collect();
        let mut next = Some(first);
        let mut count = 0;
        while let Some(scan) = next {
            count += 1;
            if count > MOST_SCANS {
                let reason = format!("more than {MOST_SCANS} scans");
                return Err(Problem::Unsupported(reason));
            }
            self.at = self.gather(&scan, &mut blocks)?;
            next = self.following()?;
        }
        let mut planes = Vec::new();
        for (component, blocks) in self.frame.components.iter().zip(blocks) {
            let Some(quantisation) = &component.quantisation else {
                return Err(Problem::damaged("a component is in no scan"));
            };
            let mut plane = Self::plane(component);
            for (at, block) in blocks.iter().enumerate() {
                let [x, y] = [at % component.padded[0], at / component.padded[0]];
                let out = &mut plane.samples[8 * (y * plane.stride + x)..];
                if block[1..].iter().all(|&value| value == 0) {
                    idct::flat(block, quantisation, out, plane.stride);
                } else {
                    idct::transform(block, quantisation, out, plane.stride);
                }
            }
            planes.push(plane);
        }
        Ok(planes)
    }

    /// Adds one scan's coefficients. Returns where to look for the next marker.
    fn gather(&self, scan: &Scan, blocks: &mut [Vec<Block>]) -> Result<usize, Problem> {
        let progress = scan.progress;
        let component = |part: usize| scan.parts[part].component;
        let at = |part: usize, [x, y]: [usize; 2]| {
            y * self.frame.components[component(part)].padded[0] + x
        };
        if !self.frame.progressive {
            let tables = self.both(scan)?;
            return Ok(self.blocks(scan, |bits, running, part, place| {
                let block = &mut blocks[component(part)][at(part, place)];
                *block = [0; 64];
                let (dc, ac) = tables[part];
                bits.sequential(dc, ac, &mut running.last_dc[part], block);
            }));
        }
        if progress.band[0] > 0 {
            let blocks = &mut blocks[component(0)];
            let table = self.ac(&scan.parts[0])?;
            return Ok(self.blocks(scan, |bits, running, part, place| {
                let block = &mut blocks[at(part, place)];
                if progress.refines {
                    bits.ac_refined(table, progress, &mut running.ended, block);
                } else {
                    bits.ac_first(table, progress, &mut running.ended, block);
                }
            }));
        }
        if progress.refines {
            return Ok(self.blocks(scan, |bits, _, part, place| {
                bits.dc_refined(progress.bit, &mut blocks[component(part)][at(part, place)]);
            }));
        }
        let tables = scan.parts.iter().map(|part| self.dc(part));
        let tables = tables.collect::<Result<Vec<_>, _>>()?;
        Ok(self.blocks(scan, |bits, running, part, place| {
            let block = &mut blocks[component(part)][at(part, place)];
            bits.dc_first(
                tables[part],
                progress.bit,
                &mut running.last_dc[part],
                block,
            );
        }))
    }

    /// The next scan, or none at the end of the picture.
    fn following(&mut self) -> Result<Option<Scan>, Problem> {
        loop {
            let (marker, after) = next_marker(self.data, self.at).ok_or(Problem::CutShort)?;
            self.at = after;
            match marker {
                0x01 | 0xd0..=0xd7 => continue,
                0xd9 => return Ok(None),
                0xda => return self.scan().map(Some),
                0xd8 | 0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                    return Err(Problem::damaged("a second picture begins within the first"));
                }
                _ => {}
            }
            let (content, after) = segment(self.data, self.at)?;
            self.tables.read(marker, content)?;
            self.at = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASELINE: &str = "ycc-420-baseline-17x7.jpg";
    const PROGRESSIVE: &str = "ycc-420-progressive-17x7.jpg";

    fn file(name: &str) -> Vec<u8> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/images/jpeg/");
        std::fs::read(format!("{folder}{name}")).unwrap()
    }

    fn read(data: &[u8]) -> Result<Vec<u8>, Problem> {
        let jpeg = Jpeg::open(data)?;
        let [width, height] = jpeg.size();
        if width * height == 0 || width * height > 1 << 20 {
            return Err(Problem::damaged("size"));
        }
        jpeg.decode()
    }

    fn place(data: &[u8], marker: u8) -> usize {
        let mut pairs = data.windows(2);
        pairs.position(|pair| pair == [0xff, marker]).unwrap()
    }

    #[test]
    fn kinds_that_are_not_read_are_named() {
        let data = file(BASELINE);
        let frame = place(&data, 0xc0);
        let changes = [
            (1, 0xc3, "lossless"),
            (1, 0xc9, "arithmetic"),
            (1, 0xc5, "hierarchical"),
            (4, 12, "12 bits"),
            (9, 2, "2 components"),
            (11, 0x32, "whole ratios"),
        ];
        for (at, value, reason) in changes {
            let mut changed = data.clone();
            changed[frame + at] = value;
            // Of three columns in a unit, another component has two.
            if value == 0x32 {
                changed[frame + 14] = 0x22;
            }
            match read(&changed) {
                Err(Problem::Unsupported(found)) => assert!(found.contains(reason), "{found}"),
                other => panic!("{reason}: {other:?}"),
            }
        }
    }

    #[test]
    fn headers_that_contradict_themselves_are_refused() {
        let data = file(BASELINE);
        let (frame, scan) = (place(&data, 0xc0), place(&data, 0xda));
        let changes = [
            // A factor of 0, a quantisation table that cannot be and one that is not there.
            (frame + 11, 0x20, "sampling factors or tables"),
            (frame + 12, 4, "sampling factors or tables"),
            (frame + 12, 3, "quantisation table is missing"),
            // A component that is not there, one twice, and a Huffman table that is not there.
            (scan + 5, 9, "component or table"),
            (scan + 7, 1, "component or table"),
            (scan + 6, 0x33, "Huffman table is missing"),
            (scan + 4, 9, "not of its length"),
        ];
        for (at, value, reason) in changes {
            let mut changed = data.clone();
            changed[at] = value;
            match read(&changed) {
                Err(Problem::Damaged(found)) => assert!(found.contains(reason), "{found}"),
                other => panic!("{reason}: {other:?}"),
            }
        }
        let header = &data[frame..scan];
        let twice = [&data[..frame], header, &data[frame..]].concat();
        assert_eq!(
            read(&twice),
            Err(Problem::damaged("it has two frame headers"))
        );
    }

    #[test]
    fn scans_are_counted() {
        let data = file(PROGRESSIVE);
        let end = data.len() - 2;
        let mut last = end - 1;
        while data[last..last + 2] != [0xff, 0xda] {
            last -= 1;
        }
        let repeated =
            |times| [&data[..end], &data[last..end].repeat(times), &data[end..]].concat();
        assert!(read(&repeated(20)).is_ok());
        let problem = Problem::Unsupported("more than 100 scans".to_owned());
        assert_eq!(read(&repeated(100)), Err(problem));
    }

    #[test]
    fn exif_data_are_found_before_the_picture_alone() {
        let data = file(BASELINE);
        assert_eq!(Jpeg::open(&data).unwrap().exif(), None);
        let exif = b"\xff\xe1\x00\x0aExif\0\0II";
        let before = [&data[..2], exif, &data[2..]].concat();
        assert_eq!(Jpeg::open(&before).unwrap().exif(), Some(&b"II"[..]));
        assert_eq!(read(&before), read(&data));
    }

    #[test]
    fn no_cut_and_no_changed_byte_panics() {
        for name in [BASELINE, PROGRESSIVE, "cmyk-422-progressive-1x1.jpg"] {
            let data = file(name);
            let whole = read(&data).unwrap().len();
            for cut in 0..data.len() {
                if let Ok(pixels) = read(&data[..cut]) {
                    assert_eq!(pixels.len(), whole);
                }
                for bit in [0, 3, 7] {
                    let mut changed = data.clone();
                    changed[cut] ^= 1 << bit;
                    let _ = read(&changed);
                }
            }
        }
    }
}
