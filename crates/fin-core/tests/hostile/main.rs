//! Files that ask for more than they hold, and what reading them allocates.
//!
//! The rule: no more than twice the file's size and 64 MiB at any time. `fuzz/` holds inputs of
//! all kinds to the same rule; here are the ones that mutation rarely comes upon.

mod counting;
mod pytorch;

use std::fmt::Write;
use std::path::Path;

use fin_core::Error;
use fin_core::weights::Checkpoint;
use pytorch::{Entry, PLAIN, Tensor, entries, legacy, pickle, saved, state_dict, text, zip};

/// Opens a file of these bytes and reads every tensor; holds both to the rule.
fn read(name: &str, bytes: &[u8]) -> Result<Vec<(String, Vec<f32>)>, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    read_path(&path, bytes.len())
}

fn read_path(path: &Path, size: usize) -> Result<Vec<(String, Vec<f32>)>, String> {
    let read = || -> Result<_, Error> {
        let checkpoint = Checkpoint::open(path)?;
        checkpoint.check_finite()?;
        let mut tensors = Vec::new();
        for (name, entry) in checkpoint.iter() {
            // Values are kept of the small ones alone: this is not the reader's memory.
            let values = checkpoint.read_f32(name)?;
            assert_eq!(values.len(), entry.shape().iter().product::<usize>());
            if values.len() < 100 && tensors.len() < 100 {
                tensors.push((name.to_string(), values));
            }
        }
        Ok(tensors)
    };
    counting::within_limits(size, read).map_err(|error| error.to_string())
}

fn assert_refused(bytes: &[u8], name: &str, reason: &str) {
    match read(name, bytes) {
        Ok(tensors) => panic!("{name} was read: {tensors:?}"),
        Err(error) => assert!(error.contains(reason) && error.contains(name), "{error}"),
    }
}

fn safetensors(header: &str, payload: &[u8]) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length, header.as_bytes(), payload].concat()
}

/// A header with this many tensors of no elements.
fn empty_tensors(n: usize) -> String {
    let mut header = String::from("{");
    for i in 0..n {
        let comma = if i == 0 { "" } else { "," };
        let info = r#"{"dtype":"I8","shape":[0],"data_offsets":[0,0]}"#;
        let _ = write!(header, "{comma}\"{i:x}\":{info}");
    }
    header.push('}');
    header
}

#[test]
fn safetensors_headers_are_held_to_the_size_of_the_file() {
    // As many as the format's largest header takes: 100 MB.
    let header = empty_tensors(1_700_000);
    assert!(header.len() > 95_000_000 && header.len() < 100_000_000);
    assert_refused(
        &safetensors(&header, b""),
        "many.safetensors",
        "describes more",
    );
    // What fits is opened; these have no elements, and no element type that is read.
    let file = safetensors(&empty_tensors(5_000), b"");
    assert_refused(&file, "few.safetensors", "stored as i8");
    let values = format!("{{\"a\":[{}0]}}", "0,".repeat(4 << 20));
    assert_refused(
        &safetensors(&values, b""),
        "values.safetensors",
        "describes more",
    );
    let values = format!("{{\"a\":[{}0]}}", "0,".repeat(200_000));
    assert_refused(
        &safetensors(&values, b""),
        "values.safetensors",
        "header is damaged",
    );
    let metadata: Vec<String> = (0..2_000_000).map(|i| format!("\"{i:x}\":\"\"")).collect();
    let header = format!("{{\"__metadata__\":{{{}}}}}", metadata.join(","));
    assert_refused(
        &safetensors(&header, b""),
        "metadata.safetensors",
        "describes more",
    );
}

#[test]
fn safetensors_headers_that_contradict_themselves_are_refused() {
    let info = |dtype: &str, shape: &str, offsets: &str| {
        format!("{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":{offsets}}}")
    };
    let deep = "[".repeat(100_000);
    for header in [
        format!("{{\"a\":{deep}"),
        format!("{{\"a\":{}", "{\"a\":".repeat(100_000)),
        // One name twice, with its own bytes each.
        format!(
            "{{\"a\":{0},\"a\":{1}}}",
            info("F32", "[1]", "[0,4]"),
            info("F32", "[1]", "[4,8]")
        ),
        format!("{{\"a\":{}}}", info("F32", "[-1]", "[0,8]")),
        format!(
            "{{\"a\":{}}}",
            info("F32", "[18446744073709551616]", "[0,8]")
        ),
        format!(
            "{{\"a\":{}}}",
            info("F32", "[9223372036854775808,2]", "[0,8]")
        ),
        format!(
            "{{\"a\":{}}}",
            info(
                "F32",
                "[9223372036854775808,9223372036854775808,0]",
                "[0,8]"
            )
        ),
        format!(
            "{{\"a\":{}}}",
            info("F32", "[2]", "[18446744073709551608,18446744073709551616]")
        ),
        format!(
            "{{\"a\":{}}}",
            info("F32", "[2]", "[18446744073709551615,7]")
        ),
        // Three elements of four bits end within a byte.
        format!("{{\"a\":{}}}", info("F4", "[3]", "[0,1]")),
    ] {
        assert_refused(
            &safetensors(&header, &[0; 8]),
            "bent.safetensors",
            "safetensors file",
        );
    }
    for length in [u64::MAX, u64::MAX - 7, 100_000_001, 3] {
        let mut file = safetensors("{}", b"");
        file[..8].copy_from_slice(&length.to_le_bytes());
        assert_refused(&file, "length.safetensors", "header claims more");
    }
}

#[test]
fn views_show_no_more_than_the_file_has() {
    let view = |shape, strides| {
        let tensor = Tensor {
            shape,
            strides,
            ..PLAIN
        };
        state_dict(&[tensor])
    };
    // A gibibyte of one float, and what still is within 64 MiB.
    for container in [saved, legacy] {
        let file = container(&view(&[1 << 14, 1 << 14], &[0, 0]));
        assert_refused(&file, "pytorch_model.bin", "repeats what is in the file");
    }
    let few = read("pytorch_model.bin", &saved(&view(&[3, 2], &[0, 1]))).unwrap();
    assert_eq!(few, [("w".to_string(), vec![0.0; 6])]);
    // Each is small; all are not.
    let names: Vec<String> = (0..100).map(|i| format!("w{i}")).collect();
    let tensors: Vec<Tensor> = names
        .iter()
        .map(|name| Tensor {
            name,
            shape: &[1 << 20],
            strides: &[0],
            ..PLAIN
        })
        .collect();
    assert_refused(
        &saved(&state_dict(&tensors)),
        "all.bin",
        "together with others",
    );
    // An element is looked up dimension by dimension.
    let ones = vec![1; 10_000];
    assert_refused(
        &saved(&view(&ones, &ones)),
        "rank.bin",
        "more than 16 dimensions",
    );
}

#[test]
fn tensors_outside_of_their_storage_are_refused() {
    let max = i64::MAX;
    let bent = |change: &dyn Fn(&mut Tensor<'static>)| {
        let mut tensor = PLAIN;
        change(&mut tensor);
        state_dict(&[tensor])
    };
    let pickles = [
        bent(&|t| t.offset = max),
        bent(&|t| t.offset = -1),
        bent(&|t| t.offset = 1),
        bent(&|t| (t.shape, t.strides) = (&[i64::MAX], &[i64::MAX])),
        bent(&|t| (t.shape, t.strides) = (&[2], &[i64::MAX])),
        bent(&|t| (t.shape, t.strides) = (&[2], &[-1])),
        bent(&|t| (t.shape, t.strides) = (&[1 << 32, 1 << 32], &[0, 0])),
        bent(&|t| (t.shape, t.strides) = (&[i64::MAX, i64::MAX, 0], &[0, 0, 0])),
        bent(&|t| (t.shape, t.strides) = (&[2, 1], &[1])),
        bent(&|t| t.storage = ("FloatStorage", max)),
        bent(&|t| t.storage = ("FloatStorage", -2)),
        bent(&|t| {
            t.storage = ("DoubleStorage", 1 << 60);
            t.offset = (1 << 60) - 2;
        }),
    ];
    for pickle in pickles {
        for container in [saved, legacy] {
            let error = read("pytorch_model.bin", &container(&pickle)).unwrap_err();
            assert!(error.contains("pytorch_model.bin"), "{error}");
        }
    }
}

#[test]
fn pickles_that_repeat_themselves_are_refused() {
    let huge = "k".repeat(1 << 16);
    let shape = pytorch::tensor(Tensor {
        shape: &[1; 50_000],
        strides: &[1; 50_000],
        ..PLAIN
    });
    let many = |opcodes: &[u8], n: usize| opcodes.repeat(n);
    let cases = [
        ("pairs", [b"K\x01", &many(b"2\x86", 60)[..]].concat()),
        (
            "memo",
            [b"K\x01q\0", &many(b"h\0h\0\x86q\0", 60)[..]].concat(),
        ),
        // A list of 30000, a thousand times.
        (
            "lists",
            [
                b"](",
                &many(b"N", 30_000)[..],
                b"eq\0(",
                &many(b"h\0", 1_000),
                b"t",
            ]
            .concat(),
        ),
        (
            "texts",
            [&text(&huge)[..], b"q\0(", &many(b"h\0", 900), b"t"].concat(),
        ),
        // A tensor's shape goes with every copy of it.
        (
            "shapes",
            [&shape[..], b"q\0(", &many(b"h\0", 2_000), b"t"].concat(),
        ),
        // Every tensor bears the names of what it is in.
        (
            "names",
            [
                b"}",
                &text(&huge)[..],
                b"](",
                &many(&pytorch::tensor(PLAIN), 1_000),
                b"es",
            ]
            .concat(),
        ),
        ("nothings", [b"(", &many(b"N", 400_000)[..], b"t"].concat()),
        ("marks", many(b"(", 4 << 20)),
        (
            "deep",
            [&many(b"]", 200_000)[..], &many(b"a", 199_999)].concat(),
        ),
    ];
    for (name, opcodes) in cases {
        let pickle = pickle(&opcodes);
        assert_refused(&pickle, &format!("{name}.bin"), "describes more");
        assert_refused(
            &saved(&pickle),
            &format!("{name}.zip.bin"),
            "describes more",
        );
        assert_refused(
            &legacy(&pickle),
            &format!("{name}.legacy.bin"),
            "describes more",
        );
    }
    // Python's own limit of nesting is about a thousand.
    let deep = pickle(&[many(b"]", 1_500), many(b"a", 1_499)].concat());
    assert_refused(&saved(&deep), "nested.bin", "nesting");
}

#[test]
fn a_state_dictionary_of_thousands_of_tensors_is_read() {
    let names: Vec<String> = (0..1_500).map(|i| format!("layers.{i}.weight")).collect();
    let tensors: Vec<Tensor> = names.iter().map(|name| Tensor { name, ..PLAIN }).collect();
    for container in [saved, legacy] {
        let read = read("pytorch_model.bin", &container(&state_dict(&tensors))).unwrap();
        assert_eq!(read[1], ("layers.1.weight".to_string(), vec![0.0; 2]));
    }
}

#[test]
fn archives_are_read_as_torch_writes_them_or_refused() {
    let whole = || entries(&state_dict(&[PLAIN]), &[0; 8]);
    let (file, directory) = pytorch::records(&whole());
    let (start, size) = (file.len() as u64, directory.len() as u64);
    let with = |end: &[u8]| [&file[..], &directory, end].concat();
    let valid = zip(&whole());
    assert_eq!(read("valid.bin", &valid).unwrap().len(), 1);
    // With the records for archives beyond 4 GiB, which torch writes with or without need.
    let large = with(&pytorch::end64(4, size, start, start + size));
    assert_eq!(read("large.bin", &large).unwrap().len(), 1);

    let bombs = [
        // More entries than the directory has room for.
        with(&pytorch::end64(1 << 40, size, start, start + size)),
        with(&pytorch::end64(u64::MAX, u64::MAX, start, start + size)),
        with(&pytorch::end64(4, size, u64::MAX, start + size)),
        with(&pytorch::end64(4, size, start, u64::MAX)),
        with(&pytorch::end64(4, size, start, 0)),
        with(&pytorch::end(5, size as u32, start as u32)),
        with(&pytorch::end(4, u32::MAX - 1, start as u32)),
        with(&pytorch::end(4, size as u32, u32::MAX - 1)),
        with(&pytorch::end(4, size as u32, 1)),
        // Something behind the end, in which another directory might be.
        [&valid[..], b"PK"].concat(),
        [&valid[..], &valid].concat(),
        valid[..valid.len() - 1].to_vec(),
        b"PK\x05\x06".to_vec(),
        b"PK\x03\x04".repeat(100_000),
        [&b"PK\x03\x04"[..], &b"PK\x06\x06".repeat(1 << 20)].concat(),
    ];
    for bomb in bombs {
        assert_refused(&bomb, "pytorch_model.bin", "archive's directory");
    }

    for compressed in [0, 2] {
        let mut entries = whole();
        entries[compressed].method = 8;
        assert_refused(&zip(&entries), "bomb.bin", "is compressed");
    }
    // What is beside the weights, as TorchScript's code is, may be.
    let mut entries = whole();
    entries.push(Entry {
        method: 8,
        ..Entry::new("archive/code/net.py", b"")
    });
    assert_eq!(read("script.bin", &zip(&entries)).unwrap().len(), 1);
    // Under a second name, an entry would be looked at as something else.
    let mut entries = whole();
    let name = b"archive/data.pkl";
    entries[3].extra = [&[0x75, 0x70, 21, 0, 1, 0, 0, 0, 0][..], name].concat();
    assert_refused(&zip(&entries), "renamed.bin", "two names");

    // Sixty thousand entries, or extra fields: a few bytes of the file each.
    let mut entries = whole();
    entries.extend((0..60_000).map(|_| Entry::new("", b"")));
    assert_refused(&zip(&entries), "entries.bin", "describes more");
    let mut entries = whole();
    entries.extend((0..20).map(|_| Entry {
        extra: [0xFF, 0xFF, 0, 0].repeat(16_000),
        ..Entry::new("", b"")
    }));
    assert_refused(&zip(&entries), "extra.bin", "describes more");
}

#[test]
fn only_regular_files_of_known_containers_are_opened() {
    let error = read_path(Path::new("/dev/zero"), 0).unwrap_err();
    assert!(error.contains("/dev/zero: not a regular file"), "{error}");
    let mut tar = vec![0; 1024];
    tar[..8].copy_from_slice(b"sys_info");
    tar[257..262].copy_from_slice(b"ustar");
    assert_refused(&tar, "old.pth", "TAR archive");
}

#[test]
fn shard_indices_are_held_to_their_size_and_directory() {
    let directory = tempfile::tempdir().unwrap();
    let index = directory.path().join("model.safetensors.index.json");
    let read_index = |text: &str| {
        std::fs::write(&index, text).unwrap();
        read_path(&index, text.len())
    };
    for name in [".", "..", "", "/", "a/..", "../a", "./a", "a/", "a\\0b"] {
        let text = format!("{{\"weight_map\":{{\"w\":\"{name}\"}}}}").replace("\\0", "\\u0000");
        let error = read_index(&text).unwrap_err();
        assert!(
            error.contains(directory.path().to_str().unwrap()),
            "{error}"
        );
    }
    let deep = format!("{{\"weight_map\":{{}},\"metadata\":{}", "[".repeat(100_000));
    let error = read_index(&deep).unwrap_err();
    assert!(error.contains("while parsing a list"), "{error}");
    let entries: Vec<String> = (0..2_000_000).map(|i| format!("\"{i:x}\":\"\"")).collect();
    let error = read_index(&format!("{{\"weight_map\":{{{}}}}}", entries.join(","))).unwrap_err();
    assert!(error.contains("too many values"), "{error}");

    // Caches keep a model's files as links to where they are.
    let elsewhere = tempfile::tempdir().unwrap();
    let info = r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let blob = elsewhere.path().join("blob");
    std::fs::write(&blob, safetensors(info, &1f32.to_le_bytes())).unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&blob, directory.path().join("a.safetensors")).unwrap();
        let read = read_index(r#"{"weight_map":{"w":"a.safetensors"}}"#).unwrap();
        assert_eq!(read, [("w".to_string(), vec![1.0])]);
    }
}
