//! PyTorch files, written byte by byte.

/// Arguments of a tensor's rebuilding.
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    pub name: &'a str,
    /// Storage type of `torch`, and the storage's elements as the pickle has them.
    pub storage: (&'a str, i64),
    pub offset: i64,
    pub shape: &'a [i64],
    pub strides: &'a [i64],
}

/// Two floats.
pub const PLAIN: Tensor = Tensor {
    name: "w",
    storage: ("FloatStorage", 2),
    offset: 0,
    shape: &[2],
    strides: &[1],
};

pub fn text(text: &str) -> Vec<u8> {
    let length = (text.len() as u32).to_le_bytes();
    [b"X", &length[..], text.as_bytes()].concat()
}

fn int(n: i64) -> Vec<u8> {
    [b"\x8a\x08", &n.to_le_bytes()[..]].concat()
}

fn ints(ns: &[i64]) -> Vec<u8> {
    let ns: Vec<u8> = ns.iter().flat_map(|n| int(*n)).collect();
    [b"(", &ns[..], b"t"].concat()
}

/// The opcodes of a tensor on storage `0`.
pub fn tensor(tensor: Tensor) -> Vec<u8> {
    let (storage, numel) = tensor.storage;
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        &text("storage")[..],
        format!("ctorch\n{storage}\n").as_bytes(),
        &text("0"),
        &text("cpu"),
        &int(numel),
        b"tQ",
        &int(tensor.offset),
        &ints(tensor.shape),
        &ints(tensor.strides),
        b"\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}

/// A pickle of these opcodes.
pub fn pickle(opcodes: &[u8]) -> Vec<u8> {
    [b"\x80\x02", opcodes, b"."].concat()
}

/// The pickle of a state dictionary.
pub fn state_dict(tensors: &[Tensor]) -> Vec<u8> {
    let items = tensors.iter();
    let items = items.flat_map(|item| [text(item.name), tensor(*item)].concat());
    pickle(&[b"}(", &items.collect::<Vec<u8>>()[..], b"u"].concat())
}

/// An entry of an archive, its content stored.
pub struct Entry {
    pub name: String,
    pub content: Vec<u8>,
    /// Compression as its header has it.
    pub method: u16,
    /// Extra field of the directory.
    pub extra: Vec<u8>,
}

impl Entry {
    pub fn new(name: &str, content: &[u8]) -> Self {
        Self {
            name: name.into(),
            content: content.into(),
            method: 0,
            extra: Vec::new(),
        }
    }
}

/// What `torch.save` writes around a pickle and the storage `0`.
pub fn entries(pickle: &[u8], storage: &[u8]) -> Vec<Entry> {
    vec![
        Entry::new("archive/data.pkl", pickle),
        Entry::new("archive/byteorder", b"little"),
        Entry::new("archive/data/0", storage),
        Entry::new("archive/version", b"3\n"),
    ]
}

/// Local headers with contents, and the directory that belongs to them.
pub fn records(entries: &[Entry]) -> (Vec<u8>, Vec<u8>) {
    let mut file = Vec::new();
    let mut directory = Vec::new();
    for entry in entries {
        let offset = (file.len() as u32).to_le_bytes();
        let size = (entry.content.len() as u32).to_le_bytes();
        let name = (entry.name.len() as u16).to_le_bytes();
        // Version, flags, method, time and date, no checksum, sizes.
        let method = entry.method.to_le_bytes();
        let common = [b"\x14\0\0\0", &method[..], &[0; 8], &size, &size, &name].concat();
        file.extend([b"PK\x03\x04", &common[..], &[0; 2]].concat());
        file.extend(entry.name.bytes());
        file.extend(&entry.content);
        let extra = (entry.extra.len() as u16).to_le_bytes();
        directory.extend([b"PK\x01\x02\x14\0", &common[..], &extra, &[0; 10], &offset].concat());
        directory.extend(entry.name.bytes());
        directory.extend(&entry.extra);
    }
    (file, directory)
}

/// The record at the end of an archive.
pub fn end(entries: u16, size: u32, start: u32) -> Vec<u8> {
    let entries = entries.to_le_bytes();
    [
        b"PK\x05\x06\0\0\0\0",
        &entries[..],
        &entries,
        &size.to_le_bytes(),
        &start.to_le_bytes(),
        &[0; 2],
    ]
    .concat()
}

/// The records at the end of an archive that needs 64 bits.
pub fn end64(entries: u64, size: u64, start: u64, at: u64) -> Vec<u8> {
    let entries = entries.to_le_bytes();
    [
        b"PK\x06\x06",
        &44u64.to_le_bytes()[..],
        &[0x2d, 0, 0x2d, 0],
        &[0; 8],
        &entries,
        &entries,
        &size.to_le_bytes(),
        &start.to_le_bytes(),
        b"PK\x06\x07\0\0\0\0",
        &at.to_le_bytes(),
        &1u32.to_le_bytes(),
        &end(u16::MAX, u32::MAX, u32::MAX),
    ]
    .concat()
}

pub fn zip(entries: &[Entry]) -> Vec<u8> {
    let (mut file, directory) = records(entries);
    let start = file.len() as u32;
    file.extend(&directory);
    file.extend(end(entries.len() as u16, directory.len() as u32, start));
    file
}

/// A zip archive of this pickle and two floats.
pub fn saved(pickle: &[u8]) -> Vec<u8> {
    zip(&entries(pickle, &[0; 8]))
}

/// The container of PyTorch 1.5 and before, around this pickle and two floats.
pub fn legacy(pickle: &[u8]) -> Vec<u8> {
    let mut file = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.".to_vec();
    file.extend(b"\x80\x02}(U\x10protocol_versionM\xe9\x03U\rlittle_endian\x88u.");
    file.extend(pickle);
    file.extend(b"\x80\x02]U\x010a.");
    file.extend(2i64.to_le_bytes());
    file.extend([0; 8]);
    file
}
