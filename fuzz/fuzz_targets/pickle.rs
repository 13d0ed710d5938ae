//! PyTorch files.
//!
//! The first byte says how the rest becomes a file: as it is; as a pickle that is put into a
//! valid zip archive or legacy container; as opcodes with operands; or as a state dictionary
//! with a few of its numbers bent. Two bytes of the file may then be changed, counted from its
//! end, where an archive has its directory.

#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use fin_fuzz::pickle::{Op, Pickle, StateDict, Storage, legacy, zip};
use fin_fuzz::{exercise_checkpoint, put, scratch};
use libfuzzer_sys::fuzz_target;

fn storages(payload: &[u8]) -> Vec<Storage> {
    let (first, second) = payload.split_at(payload.len() / 2);
    [first, second]
        .iter()
        .enumerate()
        .map(|(i, bytes)| (i.to_string(), bytes.len() / 4, bytes.to_vec()))
        .collect()
}

fn file(data: &[u8]) -> Option<Vec<u8>> {
    let [kind, rest @ ..] = data else { return None };
    let container = if kind & 0x80 == 0 { zip } else { legacy };
    let mut bytes = match kind & 3 {
        0 => return Some(rest.to_vec()),
        1 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
            let (pickle, payload) = rest.split_at(length);
            container(pickle, &storages(payload))
        }
        2 => {
            let (payload, ops) =
                <([u8; 16], Vec<Op>)>::arbitrary_take_rest(Unstructured::new(rest)).ok()?;
            let mut pickle = Pickle::new();
            for op in &ops {
                pickle.op(op);
            }
            container(&pickle.finish(), &storages(&payload))
        }
        _ => {
            let state = StateDict::arbitrary_take_rest(Unstructured::new(rest)).ok()?;
            let (pickle, storages) = state.pickle();
            container(&pickle, &storages)
        }
    };
    if let (true, [.., a, b, c, d]) = (kind & 0x40 != 0, rest) {
        for (from_end, value) in [(*a, *b), (*c, *d)] {
            let at = bytes.len().checked_sub(1 + usize::from(from_end))?;
            bytes[at] = value;
        }
    }
    Some(bytes)
}

fuzz_target!(|data: &[u8]| {
    let Some(bytes) = file(data) else { return };
    let path = scratch().join("pytorch_model.bin");
    put(&path, &bytes);
    exercise_checkpoint(&path, bytes.len());
});
