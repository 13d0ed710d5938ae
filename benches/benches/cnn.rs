//! Image networks at inference, from normalised pixels to pooled features, with random weights: the
//! work of `fin_core::encode` without decoding, 8 images at a time. `FIN_BENCH_DEVICE` chooses the
//! device (`flex` where unset).

use std::hint::black_box;
use std::time::Duration;

use burn::nn::DropoutConfig;
use burn::tensor::{Distribution, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput};
use fin_cnn::{Architecture, CnnNetwork};
use fin_core::{DeviceSpec, MapPooling};

const IMAGES: usize = 8;

/// Architecture, and height and width of its images.
const NETWORKS: [(&str, usize); 4] = [
    ("resnet50", 224),
    ("resnet152", 224),
    ("efficientnet_b4", 380),
    ("efficientnet_lite0", 224),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let spec: DeviceSpec = std::env::var("FIN_BENCH_DEVICE")
        .unwrap_or_else(|_| "flex".into())
        .parse()?;
    let device = spec.open()?;
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5))
        .configure_from_args();
    let mut group = criterion.benchmark_group("cnn");
    group.throughput(Throughput::Elements(IMAGES as u64));
    for (name, size) in NETWORKS {
        let config = Architecture::Named(name.into()).config()?;
        device.seed(1);
        let network = CnnNetwork {
            backbone: config.init(&device),
            dropout: DropoutConfig::new(config.dropout()).init(),
            projection: None,
            pooling: MapPooling::Mean,
            normalize: false,
        };
        let shape = [IMAGES, 3, size, size];
        let pixels = Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        // `fold` within, so that a filter by name does not wait for the others.
        let mut folded = None;
        let id = BenchmarkId::from_parameter(format!("{name}-{size}"));
        group.bench_function(id, |bencher| {
            let folded = folded.get_or_insert_with(|| network.fold());
            bencher.iter(|| black_box(folded.features(&pixels).into_data()));
        });
    }
    group.finish();
    criterion.final_summary();
    if let Some(peak) = fin_benches::peak_memory() {
        println!("peak resident memory, MiB: {peak}");
    }
    Ok(())
}
