//! `*.index.json`, and the shards it names.
//!
//! The input is split at 0xFF: the index, then the bytes of `a.safetensors` and `b.bin`. A shard
//! that the input lacks is a valid one.

#![no_main]

use fin_fuzz::{exercise_checkpoint, parts, put, scratch};
use libfuzzer_sys::fuzz_target;

/// Two tensors, `x` of shape `[2]` and `y` of shape `[]`.
const SHARD: &[u8] = b"\x70\0\0\0\0\0\0\0{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"y\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[8,10]}}     \0\0\0\0\0\0\0\0\0\0";

fuzz_target!(|data: &[u8]| {
    let directory = scratch();
    let [index, first, second] = parts(data);
    let index = index.unwrap_or_default();
    let shards = [
        ("a.safetensors", first.unwrap_or(SHARD)),
        ("b.bin", second.unwrap_or(SHARD)),
    ];
    for (name, bytes) in shards {
        put(&directory.join(name), bytes);
    }
    let path = directory.join("model.safetensors.index.json");
    put(&path, index);
    let size = index.len() + shards.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    exercise_checkpoint(&path, size);
});
