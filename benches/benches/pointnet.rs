//! PointNet++ at inference: queries of a batch and whole networks with random weights, on 16 clouds of
//! 2,048 points. `FIN_BENCH_CLOUDS` is a safetensors file with `clouds` `[16, 2048, 3]`, as
//! `scripts/reference/bench_pointnet.py` writes it, so that both see the same; without it, points of
//! a sphere. `FIN_BENCH_DEVICE` chooses the device (`flex` where unset).

use std::hint::black_box;
use std::time::Duration;

use burn::tensor::{Device, Distribution, Tensor, TensorData};
use criterion::{Criterion, Throughput};
use fin_core::DeviceSpec;
use fin_core::weights::Checkpoint;
use fin_pointnet::query::{self, Start};
use fin_pointnet::{Architecture, PointBackbone, PointNetwork, PointOutput};

const CLOUDS: usize = 16;
const POINTS: usize = 2048;

/// `[16, 2048, 3]`.
fn clouds(device: &Device) -> Result<Tensor<3>, Box<dyn std::error::Error>> {
    if let Some(path) = std::env::var_os("FIN_BENCH_CLOUDS") {
        let values = Checkpoint::open(path)?.read_f32("clouds")?;
        let data = TensorData::new(values, [CLOUDS, POINTS, 3]);
        return Ok(Tensor::from_data(data, device));
    }
    device.seed(2);
    let shape = [CLOUDS, POINTS, 3];
    let points = Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), device);
    let lengths = points.clone().square().sum_dim(2).sqrt();
    Ok(points / lengths)
}

/// Rows of `xyz` `[batch, points, 3]` that farthest point sampling chooses.
fn kept(xyz: &Tensor<3>, count: usize) -> Tensor<3> {
    let [batch, _, _] = xyz.dims();
    let chosen = query::farthest_points(xyz, count, Start::default());
    let index = chosen.reshape([batch, count, 1]).expand([batch, count, 3]);
    xyz.clone().gather(1, index)
}

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
    let mut group = criterion.benchmark_group("pointnet");
    group.throughput(Throughput::Elements(CLOUDS as u64));
    let xyz = clouds(&device)?;
    let first = kept(&xyz, 512);
    let second = kept(&first, 128);
    group.bench_function("farthest-2048-512", |bencher| {
        bencher.iter(|| black_box(query::farthest_points(&xyz, 512, Start::default()).into_data()));
    });
    group.bench_function("farthest-512-128", |bencher| {
        bencher
            .iter(|| black_box(query::farthest_points(&first, 128, Start::default()).into_data()));
    });
    group.bench_function("ball-0.2-32", |bencher| {
        bencher.iter(|| black_box(query::ball_query(&xyz, &first, 0.2, 32).into_data()));
    });
    group.bench_function("ball-0.4-64", |bencher| {
        bencher.iter(|| black_box(query::ball_query(&first, &second, 0.4, 64).into_data()));
    });
    for name in Architecture::NAMES {
        let config = Architecture::Named(name.into()).config()?;
        device.seed(1);
        let network = PointNetwork {
            backbone: PointBackbone::Full(config.init(false, &device)),
            projection: None,
            output: PointOutput::Embedding,
            relu: false,
            normalize: false,
        };
        let mut compiled = None;
        group.bench_function(name, |bencher| {
            let compiled = compiled.get_or_insert_with(|| network.compile());
            bencher.iter(|| black_box(compiled.features(&xyz).into_data()));
        });
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}
