//! safetensors files.
//!
//! The first byte says how the rest becomes a file: as it is; as a header and, after 0xFF, a
//! payload, with the length that belongs before them; or as a list of tensors that is written
//! out, with a few of its numbers bent.

#![no_main]

use std::fmt::Write;

use arbitrary::{Arbitrary, Unstructured};
use fin_fuzz::{exercise_checkpoint, parts, put, scratch};
use libfuzzer_sys::fuzz_target;

const DTYPES: [(&str, usize); 16] = [
    ("F32", 32),
    ("F16", 16),
    ("BF16", 16),
    ("F64", 64),
    ("I64", 64),
    ("I32", 32),
    ("I16", 16),
    ("I8", 8),
    ("U8", 8),
    ("BOOL", 8),
    ("U64", 64),
    ("F8_E4M3", 8),
    ("F4", 4),
    ("F6_E2M3", 6),
    ("C64", 64),
    ("F33", 33),
];

#[derive(Debug, Arbitrary)]
struct Tensor {
    name: Option<char>,
    dtype: u8,
    shape: Vec<u8>,
    bent: Bent,
}

/// What is wrong with a tensor; mostly nothing.
#[derive(Debug, Arbitrary)]
enum Bent {
    No,
    NoEither,
    NorThis,
    Start(i8),
    End(i8),
    Overlap,
    HugeDimension(u64),
    NegativeDimension(i64),
    HugeOffset(u64),
    ExtraField,
    MissingField,
}

#[derive(Debug, Arbitrary)]
struct File {
    tensors: Vec<Tensor>,
    metadata: Option<String>,
    length: Option<i64>,
    cut: Option<u16>,
}

impl File {
    fn bytes(&self) -> Vec<u8> {
        let mut header = String::from("{");
        if let Some(metadata) = &self.metadata {
            let _ = write!(header, "\"__metadata__\":{{\"format\":{metadata:?}}},");
        }
        let mut end = 0u64;
        for (i, tensor) in self.tensors.iter().enumerate() {
            let (dtype, bits) = DTYPES[tensor.dtype as usize % DTYPES.len()];
            let mut shape: Vec<String> = tensor.shape.iter().map(|n| n.to_string()).collect();
            let count: u64 = tensor
                .shape
                .iter()
                .fold(1, |count, n| count.saturating_mul(u64::from(*n)));
            // More than this is a file that says so and holds less.
            let size = (count.saturating_mul(bits as u64) / 8).min(1 << 16);
            let (mut start, mut stop) = (end, end + size);
            end = stop;
            match &tensor.bent {
                Bent::Start(n) => start = start.wrapping_add_signed(i64::from(*n)),
                Bent::End(n) => stop = stop.wrapping_add_signed(i64::from(*n)),
                Bent::Overlap => start = 0,
                Bent::HugeDimension(n) => shape.push(n.to_string()),
                Bent::NegativeDimension(n) => shape.push(n.to_string()),
                Bent::HugeOffset(n) => stop = *n,
                _ => {}
            }
            let name = tensor.name.map_or(format!("t{i}"), |name| name.to_string());
            let _ = write!(header, "{name:?}:{{\"dtype\":\"{dtype}\",");
            if matches!(tensor.bent, Bent::ExtraField) {
                header.push_str("\"strides\":[1],");
            }
            let _ = write!(header, "\"shape\":[{}]", shape.join(","));
            if !matches!(tensor.bent, Bent::MissingField) {
                let _ = write!(header, ",\"data_offsets\":[{start},{stop}]");
            }
            header.push_str("},");
        }
        if header.ends_with(',') {
            header.pop();
        }
        header.push('}');
        let length = (header.len() as u64).wrapping_add_signed(self.length.unwrap_or(0));
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        // The payload counts up, so that it holds every kind of float.
        bytes.extend((0..end).map(|i| (i * 37) as u8));
        if let Some(cut) = self.cut {
            bytes.truncate(bytes.len().saturating_sub(cut as usize));
        }
        bytes
    }
}

fuzz_target!(|data: &[u8]| {
    let [kind, rest @ ..] = data else { return };
    let bytes = match kind % 3 {
        0 => rest.to_vec(),
        1 => {
            let [header, payload] = parts(rest);
            let header = header.unwrap_or_default();
            let length = (header.len() as u64).to_le_bytes();
            [&length, header, payload.unwrap_or_default()].concat()
        }
        _ => match File::arbitrary(&mut Unstructured::new(rest)) {
            Ok(file) => file.bytes(),
            Err(_) => return,
        },
    };
    let path = scratch().join("model.safetensors");
    put(&path, &bytes);
    exercise_checkpoint(&path, bytes.len());
});
