//! Readers of rows hold a part of the file in memory, however long it is.

#[path = "hostile/counting.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod counting;

use std::fmt::Write;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use fin_core::input::{PairColumns, ReadOptions, open_pairs};
use parquet::arrow::ArrowWriter;

const ROWS: usize = 40_000;

/// Twenty megabytes of pairs, none of which is there twice.
fn pairs() -> impl Iterator<Item = [String; 2]> {
    (0..ROWS).map(|row| ["q", "a"].map(|side| format!("{side}{row} {}", "word ".repeat(50))))
}

/// One row group, as writers make it by default.
fn write_parquet(path: &Path) {
    let column = |side: usize| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(
            pairs().map(|pair| pair[side].clone()),
        ))
    };
    let columns = [("anchor", column(0)), ("positive", column(1))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    assert_eq!(writer.close().unwrap().row_groups().len(), 1);
}

#[test]
fn rows_of_every_format_are_read_in_a_part_of_the_files_size() {
    let dir = tempfile::tempdir().unwrap();
    let (mut csv, mut tsv, mut jsonl) = (
        String::from("anchor,positive\n"),
        String::new(),
        String::new(),
    );
    for [anchor, positive] in pairs() {
        writeln!(csv, "\"{anchor}\",{positive}").unwrap();
        writeln!(tsv, "{anchor}\t{positive}").unwrap();
        writeln!(
            jsonl,
            "{{\"anchor\": \"{anchor}\", \"positive\": \"{positive}\"}}"
        )
        .unwrap();
    }
    for (name, content) in [("a.csv", csv), ("a.tsv", tsv), ("a.jsonl", jsonl)] {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    write_parquet(&dir.path().join("a.parquet"));
    for name in ["a.csv", "a.tsv", "a.jsonl", "a.parquet"] {
        let options = ReadOptions {
            has_header: name == "a.csv",
            format: None,
        };
        let read = || {
            let rows = open_pairs(dir.path().join(name), &PairColumns::default(), options).unwrap();
            let mut expected = pairs();
            rows.map(|row| {
                let row = row.unwrap();
                assert_eq!(Some([row.anchor, row.positive]), expected.next());
            })
            .count()
        };
        let (rows, peak) = counting::peak(read);
        println!("{name}: {peak} bytes");
        assert_eq!(rows, ROWS, "{name}");
        assert!(peak < 8 << 20, "{name}: {peak} bytes");
    }
}
