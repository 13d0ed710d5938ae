//! A model of the catalogue at inference, with random weights at its real size, from token ids,
//! normalised pixels or points to embeddings. Prints a line of JSON a shape: the median of the
//! milliseconds of a batch, items a second, and the peak memory of the process so far.
//!
//! ```sh
//! cargo bench --package fin-benches --bench models -- resnet-base --batch 1,8
//! ```
//!
//! `--mixed` gives texts of all lengths up to `--length`, with padding. `--batch`, `--length` (tokens) and `--points` take
//! lists, which are tried in every combination; `--length-where-taken` is `--length` without what is too long for the
//! model. A process has one model, so that its peak memory is the model's. With `FIN_BENCH_DUMP`, a
//! directory, nothing is timed: weights, inputs and embeddings go there for
//! `scripts/reference/bench_peers.py`. `FIN_BENCH_DEVICE` chooses the device (`flex` where unset),
//! `FIN_BENCH_PRECISION` what weights are held in (`f32`, `f16`, `bf16`, `int8`), `FIN_BENCH_SECONDS` for how long a shape
//! is repeated (10). Criterion is not used here: it wants ten
//! batches at least, which take minutes of the largest models.

use std::hint::black_box;
use std::process::ExitCode;

use fin_benches::dump::{self, Dump};
use fin_benches::models::{Network, Sizes, check_length, most_tokens, shapes};
use fin_benches::{Outcome, forget_peak, measure, peak_memory, shape_name, summary};
use fin_core::Precision;
use fin_registry::Task;
use serde_json::json;

fn list(name: &str, text: &str) -> Outcome<Vec<usize>> {
    let number = |part: &str| match part.trim().parse::<usize>() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{name}: `{part}` is not a number above 0").into()),
    };
    text.split(',').map(number).collect()
}

fn main() -> ExitCode {
    fin_benches::end(run())
}

fn run() -> Outcome<()> {
    let mut model = None;
    let mut sizes = Sizes::default();
    let mut where_taken = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let into = match argument.as_str() {
            // From cargo.
            "--bench" => continue,
            "--batch" => &mut sizes.batch,
            "--length" => &mut sizes.length,
            "--length-where-taken" => {
                where_taken = true;
                &mut sizes.length
            }
            "--points" => &mut sizes.points,
            "--mixed" => {
                sizes.mixed = true;
                continue;
            }
            option if option.starts_with('-') => {
                let known = "--batch, --length, --length-where-taken, --points, --mixed";
                return Err(format!("unknown option `{option}`; known: {known}").into());
            }
            _ if model.is_some() => return Err("one model a process".into()),
            _ => {
                model = Some(argument);
                continue;
            }
        };
        let value = arguments
            .next()
            .ok_or(format!("{argument} needs a value"))?;
        *into = list(&argument, &value)?;
    }
    let Some(model) = model else {
        // A plain `cargo bench` of everything.
        println!("models: name one of the catalogue");
        return Ok(());
    };
    let row = fin_registry::find(&model)?;
    if where_taken && let Some(most) = most_tokens(row)? {
        sizes.length.retain(|length| *length <= most);
    }
    let shapes = shapes(row, &sizes);
    check_length(row, &sizes)?;
    if sizes.mixed && row.task != Task::TextToText {
        let reason = "--mixed is for models of texts alone";
        println!("{}", json!({ "skipped": reason }));
        return Ok(());
    }
    let name = |shape: &[usize]| match sizes.mixed {
        true => format!("{} mixed", shape_name(shape)),
        false => shape_name(shape),
    };
    let device = fin_benches::device()?;
    let network = Network::new(row, &device)?;
    let precision: Precision = match std::env::var("FIN_BENCH_PRECISION") {
        Ok(name) => name.parse()?,
        Err(_) => Precision::F32,
    };
    if precision == Precision::Int8 && !network.has_int8() {
        println!("{}", json!({"skipped": "int8 is not for point networks"}));
        return Ok(());
    }
    let mut network = match precision {
        Precision::F32 | Precision::Int8 => network,
        Precision::F16 | Precision::Bf16 => network.cast(precision, &device)?,
    };
    if let Some(directory) = dump::directory() {
        let dump = Dump::create(&directory, &model)?;
        let reference = network.dump(row, &dump)?;
        // After the weights were read, which puts them back into their first order.
        network.prepare(precision, &device)?;
        let mut entries = Vec::new();
        for (kind, shape) in shapes {
            let (values, batch) = network.batch(kind, &shape, sizes.mixed, &device)?;
            let found = network.embed(&batch)?;
            let width = found.dims().to_vec();
            let items = shape[0];
            let name = name(&shape);
            let expected = ("expected", width, dump::values(found)?);
            let inputs = (kind.name(), shape, values);
            entries.push(dump.shape(&name, items, [inputs, expected])?);
        }
        return dump.finish(false, &reference, &entries);
    }
    network.prepare(precision, &device)?;
    forget_peak();
    for (kind, shape) in shapes {
        let (values, batch) = network.batch(kind, &shape, sizes.mixed, &device)?;
        drop(values);
        let times = measure(|| {
            black_box(network.embed(&batch)?.into_data());
            Ok(())
        })?;
        let mut row = summary(&times, shape[0]);
        row["model"] = json!(model);
        row["shape"] = json!(name(&shape));
        row["peak_mib"] = json!(peak_memory());
        println!("{row}");
    }
    Ok(())
}
