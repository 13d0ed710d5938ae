//! Linear layers without an activation, at sizes of MiniLM's, BERT's and CLIP's; throughput is in
//! multiplications with additions. `FIN_BENCH_DEVICE` chooses the device (`flex` where unset).

use std::hint::black_box;
use std::time::Duration;

use burn::tensor::{Distribution, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput};
use fin_core::DeviceSpec;
use fin_core::kernels::{Activation, linear};

/// Rows, input and output features.
const SHAPES: [[usize; 3]; 8] = [
    [1, 384, 384],
    [8, 768, 768],
    [400, 768, 768],
    [400, 768, 3072],
    [400, 3072, 768],
    [2048, 384, 384],
    [2048, 384, 1536],
    [2048, 1536, 384],
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let spec: DeviceSpec = std::env::var("FIN_BENCH_DEVICE")
        .unwrap_or_else(|_| "flex".into())
        .parse()?;
    let device = spec.open()?;
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut group = criterion.benchmark_group("linear");
    for [rows, from, to] in SHAPES {
        let random = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let (x, weight) = (random([rows, from]), random([to, from]));
        group.throughput(Throughput::Elements((rows * from * to) as u64));
        group.bench_function(
            BenchmarkId::from_parameter(format!("{rows}x{from}x{to}")),
            |bencher| {
                bencher.iter(|| {
                    let y = linear(x.clone(), weight.clone(), None, Activation::Identity);
                    black_box(y.into_data())
                });
            },
        );
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}
