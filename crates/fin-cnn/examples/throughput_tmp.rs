use burn::tensor::{Distribution, Tensor};
use fin_cnn::Architecture;
use fin_core::{Backbone, DeviceSpec};
use std::time::Instant;
fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = s.rsplit(')').next().unwrap().split_whitespace().collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0
}
fn status(k: &str) -> String {
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    s.lines().find(|l| l.starts_with(k)).unwrap_or("").split_whitespace().nth(1).unwrap_or("").to_string()
}
fn main() {
    let device = DeviceSpec::Flex.open().unwrap();
    let args: Vec<String> = std::env::args().collect();
    let reps: usize = args[2].parse().unwrap();
    for (name, size) in [("resnet50", 224), ("resnet152", 224), ("efficientnet_b4", 380), ("efficientnet_lite0", 224)] {
        if !args[1].split(',').any(|a| a == name) { continue }
        let config = Architecture::Named(name.into()).config().unwrap();
        let model = config.init(&device);
        let x = Tensor::<4>::random([8, 3, size, size], Distribution::Normal(0.0, 1.0), &device);
        let forms = [("plain", model.fold()), ("blocked", model.compile())];
        let mut outs = vec![];
        println!("{name} after compile rss {} kB", status("VmRSS"));
        for (form, m) in forms {
            if args.get(3).is_some_and(|a| a != form) { continue }
            let out: Vec<f32> = m.forward(&x).into_data().try_into_vec().unwrap();
            outs.push(out);
            let (mut best, c) = (f64::MAX, cpu());
            for _ in 0..reps { let t = Instant::now(); std::hint::black_box(m.forward(&x).into_data()); best = best.min(t.elapsed().as_secs_f64()); }
            println!("{name} {form}: best {:.1} images/s, cpu {:.3} s a batch, rss {} peak {}", 8.0 / best, (cpu() - c) / reps as f64, status("VmRSS"), status("VmHWM"));
        }
        if outs.len() == 2 {
            let (mut d, mut n) = (0.0f64, 0.0f64);
            for (a, b) in outs[0].iter().zip(&outs[1]) { d += ((a - b) as f64).powi(2); n += (*a as f64).powi(2); }
            println!("  relative {:.2e}", (d / n).sqrt());
        }
    }
}
