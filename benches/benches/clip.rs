//! CLIP's towers at inference, from normalised pixels or token ids to features, with random
//! weights: the work of `fin_core::encode` without decoding and tokenizing, 8 images or 32 texts of
//! 16 and of 77 tokens at a time. `FIN_BENCH_DEVICE` chooses the device (`flex` where unset).

use std::hint::black_box;
use std::time::Duration;

use burn::tensor::{Distribution, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput};
use fin_clip::config::{ClipTextConfig, EncoderConfig, TextConfig, TextPooling, VisionConfig};
use fin_core::DeviceSpec;
use fin_core::kernels::Activation;

const IMAGES: usize = 8;
const TEXTS: usize = 32;
const TOKENS: [usize; 2] = [16, 77];

fn encoder(hidden_size: usize, layers: usize) -> EncoderConfig {
    EncoderConfig {
        hidden_size,
        intermediate_size: 4 * hidden_size,
        layers,
        heads: hidden_size / 64,
        activation: Activation::QuickGelu,
        layer_norm_eps: 1e-5,
        attention_dropout: 0.0,
    }
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

    let mut group = criterion.benchmark_group("clip-image");
    group.throughput(Throughput::Elements(IMAGES as u64));
    for (name, width, layers, patch_size, projection) in [
        ("vit-b-32", 768, 12, 32, 512),
        ("vit-l-14", 1024, 24, 14, 768),
    ] {
        let config = VisionConfig {
            encoder: encoder(width, layers),
            image_size: 224,
            patch_size,
        };
        // Made within, so that a filter by name does not wait for the others.
        let mut made = None;
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            let (tower, pixels) = made.get_or_insert_with(|| {
                device.seed(1);
                let noise = Distribution::Normal(0.0, 1.0);
                let pixels = Tensor::<4>::random([IMAGES, 3, 224, 224], noise, &device);
                (config.init(projection, &device), pixels)
            });
            bencher.iter(|| black_box(tower.forward(pixels).into_data()));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("clip-text");
    group.throughput(Throughput::Elements(TEXTS as u64));
    let config = TextConfig::Clip(ClipTextConfig {
        encoder: encoder(512, 12),
        vocab_size: 49_408,
        context_length: 77,
        pooling: TextPooling::Argmax,
    });
    for tokens in TOKENS {
        let mut made = None;
        let id = BenchmarkId::new("vit-b-32", tokens);
        group.bench_function(id, |bencher| {
            let (tower, input) = made.get_or_insert_with(|| {
                device.seed(1);
                let ids: Vec<u32> = (0..tokens as u32).map(|i| 600 * i + 7).collect();
                let ids = vec![ids.as_slice(); TEXTS];
                let input = config.collate(&ids, 0, &device);
                (config.init(512, &device).expect("CLIP's own tower"), input)
            });
            bencher.iter(|| black_box(tower.forward(input).into_data()));
        });
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}
