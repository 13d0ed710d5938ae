//! Encoder forward pass with mean pooling. `FIN_BENCH_DEVICE` chooses the device (`flex` where unset).

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use fin_core::{DeviceSpec, EmbeddingNetwork};

/// `(items, tokens)`.
const SHAPES: [(usize, usize); 4] = [(32, 16), (32, 64), (32, 256), (16, 128)];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let spec: DeviceSpec = std::env::var("FIN_BENCH_DEVICE")
        .unwrap_or_else(|_| "flex".into())
        .parse()?;
    let device = spec.open()?;
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4))
        .configure_from_args();
    let models = [
        ("minilm", fin_benches::mini_lm_config(), SHAPES.as_slice()),
        ("bert-base", fin_benches::bert_base_config(), &SHAPES[3..]),
    ];
    for (name, config, shapes) in models {
        let network = fin_benches::network(&config, &device)?;
        let mut group = criterion.benchmark_group(format!("encode-{name}"));
        for &(items, tokens) in shapes {
            let batch = fin_benches::batch(items, tokens, &device);
            group.throughput(Throughput::Elements(items as u64));
            group.bench_function(
                BenchmarkId::from_parameter(format!("{items}x{tokens}")),
                |bencher| {
                    bencher.iter(|| black_box(network.embed(&batch).into_data()));
                },
            );
        }
        group.finish();
    }
    criterion.final_summary();
    Ok(())
}
