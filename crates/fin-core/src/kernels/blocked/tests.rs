//! Every kernel against plain loops in double precision, for every instruction set at hand.

use super::super::Activation;
pub(super) use super::super::testing::cases;
use super::vector::Isa;
use super::*;

/// Numbers from -1 to 1 (Marsaglia's xorshift).
pub(super) struct Random(pub(super) u64);

impl Random {
    fn number(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(super) fn numbers(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.number()).collect()
    }
}

pub(super) fn shape(batch: usize, channels: usize, height: usize, width: usize) -> Shape {
    Shape {
        batch,
        channels,
        height,
        width,
    }
}

pub(super) fn blocked(x: &[f32], shape: Shape) -> Buffer {
    let mut y = Buffer::new(shape.blocked_len());
    y.fill(f32::NAN);
    to_blocked(x, shape, &mut y);
    y
}

/// Back to `[batch, channels, height, width]`, where what fills up the last block is zero.
pub(super) fn plain(x: &[f32], shape: Shape) -> Vec<f32> {
    let mut y = vec![f32::NAN; shape.plain_len()];
    from_blocked(x, shape, &mut y);
    let fill = shape.channels % BLOCK;
    if fill > 0 {
        let planes = x.chunks_exact(shape.plane() * BLOCK);
        for plane in planes.skip(shape.blocks() - 1).step_by(shape.blocks()) {
            for pixel in plane.chunks_exact(BLOCK) {
                assert!(pixel[fill..].iter().all(|x| *x == 0.0), "{shape:?}");
            }
        }
    }
    y
}

/// Norm of the difference over the norm.
pub(super) fn error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let (mut difference, mut norm) = (0.0, 0.0);
    for (f, e) in found.iter().zip(expected) {
        difference += (f64::from(*f) - e).powi(2);
        norm += e * e;
    }
    (difference / f64::max(norm, 1e-30)).sqrt()
}

pub(super) fn activate(x: f64, activation: Activation) -> f64 {
    match activation {
        Activation::Identity => x,
        Activation::Relu => x.max(0.0),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
        _ => unreachable!(),
    }
}

/// Convolution of `[batch, in, height, width]` with `[out, in / groups, kh, kw]`.
pub(super) struct Reference<'a> {
    pub(super) x: &'a [f32],
    pub(super) shape: Shape,
    pub(super) weight: &'a [f32],
    pub(super) bias: &'a [f32],
    pub(super) kernel: [usize; 2],
    pub(super) window: Window,
    pub(super) depthwise: bool,
    pub(super) residual: Option<&'a [f32]>,
    pub(super) activation: Activation,
}

impl Reference<'_> {
    pub(super) fn compute(&self) -> Vec<f64> {
        let Self { shape, window, .. } = self;
        let [kh, kw] = self.kernel;
        let [height, width] = window.output(shape.height, shape.width, self.kernel);
        let mut y = Vec::new();
        for n in 0..shape.batch {
            for (o, bias) in self.bias.iter().enumerate() {
                let from = if self.depthwise { 1 } else { shape.channels };
                for (row, column) in (0..height).flat_map(|r| (0..width).map(move |c| (r, c))) {
                    let mut sum = f64::from(*bias);
                    for i in 0..from {
                        let channel = if self.depthwise { o } else { i };
                        for r in 0..kh {
                            for c in 0..kw {
                                let down = row * window.stride + r;
                                let right = column * window.stride + c;
                                let (Some(down), Some(right)) = (
                                    down.checked_sub(window.padding[0].0),
                                    right.checked_sub(window.padding[1].0),
                                ) else {
                                    continue;
                                };
                                if down >= shape.height || right >= shape.width {
                                    continue;
                                }
                                let at = (n * shape.channels + channel) * shape.height + down;
                                let w = self.weight[((o * from + i) * kh + r) * kw + c];
                                sum += f64::from(self.x[at * shape.width + right]) * f64::from(w);
                            }
                        }
                    }
                    if let Some(residual) = self.residual {
                        sum += f64::from(residual[y.len()]);
                    }
                    y.push(activate(sum, self.activation));
                }
            }
        }
        y
    }
}

pub(super) const ACTIVATIONS: [Activation; 4] = [
    Activation::Identity,
    Activation::Relu,
    Activation::Relu6,
    Activation::Silu,
];

fn check_dense(shape: Shape, out: usize, kernel: [usize; 2], window: Window, seed: usize) {
    let mut random = Random(seed as u64 + 0x9e37_79b9_7f4a_7c15);
    let x = random.numbers(shape.plain_len());
    let weight = random.numbers(out * shape.channels * kernel[0] * kernel[1]);
    let bias = random.numbers(out);
    let [height, width] = window.output(shape.height, shape.width, kernel);
    let to = Shape {
        channels: out,
        height,
        width,
        ..shape
    };
    let residual = random.numbers(to.plain_len());
    let scale = random.numbers(shape.batch * shape.channels);
    let activation = ACTIVATIONS[seed % 4];
    let (with_residual, with_scale) = (seed % 3 == 1, seed % 5 == 2);

    let scaled: Vec<f32> = if with_scale {
        let planes = x.chunks_exact(shape.plane()).zip(&scale);
        planes
            .flat_map(|(x, s)| x.iter().map(move |x| x * s))
            .collect()
    } else {
        x.clone()
    };
    let expected = Reference {
        x: &scaled,
        shape,
        weight: &weight,
        bias: &bias,
        kernel,
        window,
        depthwise: false,
        residual: with_residual.then_some(&residual[..]),
        activation,
    }
    .compute();
    let blocks = blocked(&x, shape);
    let residual = blocked(&residual, to);
    let packed = pack(
        &weight,
        Some(&bias),
        out,
        shape.channels,
        kernel[0],
        kernel[1],
    );
    let mut fused = Fused::new(activation);
    if with_residual {
        fused = fused.with_residual(&residual);
    }
    if with_scale {
        fused = fused.with_scale(&scale);
    }
    for isa in Isa::available() {
        let what = format!("{isa:?} {shape:?} to {out}, {kernel:?}, {window:?}, {fused:?}");
        let mut y = Buffer::new(to.blocked_len());
        y.fill(f32::NAN);
        assert_eq!(
            dense::run(isa, &blocks, shape, &packed.0, window, fused, &mut y),
            to
        );
        let found = plain(&y, to);
        let error = error(&found, &expected);
        assert!(error < 1e-6, "{error:e}: {}", &what[..what.len().min(300)]);
        if with_residual {
            let mut fused = Fused::new(activation).onto();
            fused.scale = with_scale.then_some(&scale);
            y.copy_from_slice(&residual);
            dense::run(isa, &blocks, shape, &packed.0, window, fused, &mut y);
            assert_eq!(plain(&y, to), found, "onto the residual");
        }
        if kernel == [3, 3] && window.stride == 1 && !with_scale {
            y.fill(f32::NAN);
            winograd::run(isa, &blocks, shape, &packed.0, window, fused, to, &mut y);
            let found = plain(&y, to);
            let error = self::error(&found, &expected);
            assert!(
                error < 1e-6,
                "winograd: {error:e}: {}",
                &what[..what.len().min(300)]
            );
            if with_residual {
                y.copy_from_slice(&residual);
                let fused = Fused::new(activation).onto();
                winograd::run(isa, &blocks, shape, &packed.0, window, fused, to, &mut y);
                assert_eq!(plain(&y, to), found, "onto the residual");
            }
        }
    }
    if with_scale || with_residual {
        return;
    }
    let packed = pack_stem(
        &weight,
        Some(&bias),
        out,
        shape.channels,
        kernel[0],
        kernel[1],
    );
    for isa in Isa::available() {
        let mut y = Buffer::new(to.blocked_len());
        y.fill(f32::NAN);
        dense::run(isa, &x, shape, &packed.0, window, fused, &mut y);
        let error = error(&plain(&y, to), &expected);
        assert!(
            error < 1e-6,
            "stem {isa:?} {shape:?} {kernel:?} {window:?}: {error:e}"
        );
    }
}

/// Sizes that no tile divides, one pixel, and rows longer than a tile.
const SIZES: [[usize; 2]; 7] = [[1, 1], [2, 3], [7, 7], [5, 14], [9, 8], [13, 29], [4, 17]];

/// Those that a kernel fits.
pub(super) fn sizes(window: Window, kernel: usize) -> impl Iterator<Item = [usize; 2]> {
    let sizes = cases(&SIZES, &[[2, 3], [4, 5]]).iter().copied();
    sizes.filter(move |size| fits(window, *size, kernel))
}

/// One of these numbers of channels; under Miri of the first two.
pub(super) fn one_of(all: &[usize], seed: usize) -> usize {
    let some = cases(all, &all[..2]);
    some[seed % some.len()]
}

pub(super) fn windows(kernel: usize) -> impl Iterator<Item = Window> {
    let half = kernel / 2;
    let pads = [
        (half, half),
        (kernel - 1, 0),
        (half.saturating_sub(1), half),
    ];
    let windows = pads.map(|rows| {
        let padding = [rows, (rows.1, rows.0)];
        [1, 2, 3].map(|stride| Window { stride, padding })
    });
    let windows = windows.into_iter().flatten();
    windows.step_by(if cfg!(miri) { 4 } else { 1 })
}

fn fits(window: Window, [height, width]: [usize; 2], kernel: usize) -> bool {
    let [rows, columns] = window.padding;
    height + rows.0 + rows.1 >= kernel && width + columns.0 + columns.1 >= kernel
}

#[test]
fn dense_convolutions_agree_with_plain_loops() {
    let mut seed = 0;
    for &kernel in cases(&[1, 3, 5, 7], &[1, 3]) {
        for window in windows(kernel) {
            for size in sizes(window, kernel) {
                for &batch in cases(&[1, 3], &[2]) {
                    // Every pair of channels comes, though not with every other choice.
                    let from = one_of(&[3, 17, 24, 32, 40], seed);
                    let out = one_of(&[17, 3, 40, 24, 32, 70, 16], seed);
                    let shape = shape(batch, from, size[0], size[1]);
                    check_dense(shape, out, [kernel; 2], window, seed);
                    seed += 1;
                }
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too large")]
fn wide_and_oblong_convolutions_agree_with_plain_loops() {
    let three = Window::new(1, 1);
    check_dense(shape(3, 144, 7, 7), 144, [3, 3], three, 0);
    check_dense(shape(1, 144, 12, 12), 40, [1, 1], Window::POINT, 1);
    check_dense(shape(3, 40, 19, 21), 144, [1, 1], Window::POINT, 3);
    check_dense(shape(2, 144, 12, 12), 24, [1, 1], Window::POINT, 2);
    check_dense(shape(2, 20, 9, 11), 33, [3, 1], Window::new(2, 1), 4);
    check_dense(shape(2, 20, 9, 11), 33, [1, 5], Window::new(1, 2), 5);
    check_dense(shape(4, 512, 7, 7), 32, [1, 1], Window::new(2, 0), 7);
    // Factors on the weights of every image, and on the input.
    check_dense(shape(3, 20, 13, 29), 17, [1, 1], Window::POINT, 22);
    check_dense(shape(2, 336, 19, 21), 56, [1, 1], Window::POINT, 12);
    check_dense(shape(3, 40, 5, 6), 144, [1, 1], Window::POINT, 22);
    // More than one task, and images split into rows.
    check_dense(shape(1, 64, 56, 56), 64, [3, 3], three, 8);
    check_dense(shape(1, 3, 60, 60), 64, [7, 7], Window::new(2, 3), 9);
}

#[test]
#[cfg_attr(miri, ignore = "too large")]
fn an_image_has_the_same_bits_alone_and_in_a_batch() {
    let (from, out, window) = (40, 70, Window::new(1, 1));
    let mut random = Random(7);
    for [height, width] in [[13, 14], [57, 30], [5, 5]] {
        let all = shape(3, from, height, width);
        let x = random.numbers(all.plain_len());
        let packed = pack(&random.numbers(out * from * 9), None, out, from, 3, 3);
        let fused = Fused::new(Activation::Relu);
        let run = |x: &[f32], batch| {
            let shape = shape(batch, from, height, width);
            let to = Shape {
                channels: out,
                ..shape
            };
            let few = [height, width] == [5, 5];
            assert_eq!(winograd::fits(&packed.0, window, &fused, to), !few);
            let mut y = Buffer::new(to.blocked_len());
            conv(&blocked(x, shape), shape, &packed, window, fused, &mut y);
            plain(&y, to)
        };
        let together = run(&x, 3);
        let images = x.chunks_exact(x.len() / 3);
        let alone: Vec<f32> = images.flat_map(|x| run(x, 1)).collect();
        assert!(together == alone, "{height} x {width}");
    }
}

/// The smallest and the largest value of every plane, zero among them.
pub(super) fn channel_extents(y: &[f32], shape: Shape) -> Vec<Range> {
    let range = |y: &[f32]| Range {
        low: y.iter().copied().fold(0.0, f32::min),
        high: y.iter().copied().fold(0.0, f32::max),
    };
    y.chunks_exact(shape.plane()).map(range).collect()
}

fn check_depthwise(shape: Shape, kernel: [usize; 2], window: Window, seed: usize) {
    let mut random = Random(seed as u64 + 0x2545_f491_4f6c_dd1d);
    let x = random.numbers(shape.plain_len());
    let weight = random.numbers(shape.channels * kernel[0] * kernel[1]);
    let bias = random.numbers(shape.channels);
    let activation = ACTIVATIONS[seed % 4];
    let expected = Reference {
        x: &x,
        shape,
        weight: &weight,
        bias: &bias,
        kernel,
        window,
        depthwise: true,
        residual: None,
        activation,
    }
    .compute();
    let [height, width] = window.output(shape.height, shape.width, kernel);
    let to = Shape {
        height,
        width,
        ..shape
    };
    let planes = expected.chunks_exact(to.plane());
    let expected_means: Vec<f64> = planes
        .map(|plane| plane.iter().sum::<f64>() / to.plane() as f64)
        .collect();
    let x = blocked(&x, shape);
    let packed = pack_depthwise(&weight, Some(&bias), shape.channels, kernel[0], kernel[1]);
    for isa in Isa::available() {
        for with_means in [false, true] {
            let mut y = Buffer::new(to.blocked_len());
            y.fill(f32::NAN);
            let mut means = vec![f32::NAN; shape.batch * shape.channels];
            let mut extents = vec![Range::EMPTY; means.len()];
            let summary = Summary {
                means: with_means.then_some(&mut means[..]),
                extents: with_means.then_some(&mut extents[..]),
            };
            let f = finish(activation);
            assert_eq!(
                depthwise::run(isa, &x, shape, &packed, window, f, summary, &mut y),
                to
            );
            let e = error(&plain(&y, to), &expected);
            assert!(e < 1e-6, "{isa:?} {shape:?} {kernel:?} {window:?}: {e:e}");
            if with_means {
                assert_eq!(extents, channel_extents(&plain(&y, to), to), "{isa:?}");
                let e = error(&means, &expected_means);
                assert!(e < 3e-6, "means of {isa:?} {shape:?} {window:?}: {e:e}");
            }
        }
    }
}

#[test]
fn depthwise_convolutions_agree_with_plain_loops() {
    let mut seed = 0;
    for &kernel in cases(&[1, 3, 5, 7], &[1, 3]) {
        for window in windows(kernel) {
            for size in sizes(window, kernel) {
                for &batch in cases(&[1, 3], &[2]) {
                    let channels = one_of(&[3, 17, 24, 32, 40, 144], seed);
                    let shape = shape(batch, channels, size[0], size[1]);
                    check_depthwise(shape, [kernel; 2], window, seed);
                    seed += 1;
                }
            }
        }
    }
    if cfg!(miri) {
        return;
    }
    check_depthwise(shape(1, 16, 9, 9), [5, 3], Window::new(1, 2), 3);
    check_depthwise(shape(1, 16, 80, 90), [3, 3], Window::new(1, 1), 3);
    check_depthwise(shape(1, 20, 90, 80), [5, 5], Window::new(2, 2), 1);
}

fn check_inverted(shape: Shape, wide: usize, kernel: [usize; 2], window: Window, seed: usize) {
    let mut random = Random(seed as u64 + 0x1234_5678_9abc_def1);
    let x = random.numbers(shape.plain_len());
    let expand = random.numbers(wide * shape.channels);
    let weight = random.numbers(wide * kernel[0] * kernel[1]);
    let bias = random.numbers(wide);
    let (inner, outer) = (ACTIVATIONS[seed % 4], ACTIVATIONS[seed / 4 % 4]);
    let between = Shape {
        channels: wide,
        ..shape
    };
    let [height, width] = window.output(shape.height, shape.width, kernel);
    let to = Shape {
        height,
        width,
        ..between
    };
    let first = Reference {
        x: &x,
        shape,
        weight: &expand,
        bias: &bias,
        kernel: [1, 1],
        window: Window::POINT,
        depthwise: false,
        residual: None,
        activation: inner,
    }
    .compute();
    let first: Vec<f32> = first.into_iter().map(|x| x as f32).collect();
    let expected = Reference {
        x: &first,
        shape: between,
        weight: &weight,
        bias: &bias,
        kernel,
        window,
        depthwise: true,
        residual: None,
        activation: outer,
    }
    .compute();
    let planes = expected.chunks_exact(to.plane());
    let expected_means: Vec<f64> = planes
        .map(|plane| plane.iter().sum::<f64>() / to.plane() as f64)
        .collect();
    let x = blocked(&x, shape);
    let expand = pack(&expand, Some(&bias), wide, shape.channels, 1, 1);
    let packed = pack_depthwise(&weight, Some(&bias), wide, kernel[0], kernel[1]);
    let finishes = [inner, outer].map(finish);
    for isa in Isa::available() {
        for with_means in [false, true] {
            let mut y = Buffer::new(to.blocked_len());
            y.fill(f32::NAN);
            let mut means = vec![f32::NAN; to.batch * wide];
            let mut extents = vec![Range::EMPTY; means.len()];
            let summary = Summary {
                means: with_means.then_some(&mut means[..]),
                extents: with_means.then_some(&mut extents[..]),
            };
            let expand = inverted::Expand::Float(&expand.0, tile::Kernels::blocked(isa), &x);
            let found = inverted::run(
                isa, &x, shape, &expand, &packed, window, finishes, summary, &mut y,
            );
            assert_eq!(found, to);
            let e = error(&plain(&y, to), &expected);
            assert!(e < 2e-6, "{isa:?} {shape:?} {kernel:?} {window:?}: {e:e}");
            if with_means {
                assert_eq!(extents, channel_extents(&plain(&y, to), to), "{isa:?}");
                let e = error(&means, &expected_means);
                assert!(e < 5e-6, "means of {isa:?} {shape:?} {window:?}: {e:e}");
            }
        }
    }
}

#[test]
fn inverted_bottlenecks_agree_with_plain_loops() {
    let mut seed = 0;
    for &kernel in cases(&[1, 3, 5, 7], &[1, 3]) {
        for window in windows(kernel) {
            for size in sizes(window, kernel) {
                let from = one_of(&[3, 17, 24, 32], seed);
                let wide = one_of(&[40, 17, 96, 3, 70], seed);
                let shape = shape([1, 3][seed % 2], from, size[0], size[1]);
                check_inverted(shape, wide, [kernel; 2], window, seed);
                seed += 1;
            }
        }
    }
    if cfg!(miri) {
        return;
    }
    // Planes in pieces, with rows that two pieces need.
    check_inverted(shape(1, 20, 75, 190), 40, [3, 3], Window::new(1, 1), 15);
    check_inverted(shape(1, 20, 75, 190), 40, [5, 5], Window::new(2, 2), 15);
    check_inverted(shape(2, 3, 6, 2000), 33, [3, 3], Window::new(2, 1), 0);
    check_inverted(shape(1, 3, 5, 9000), 33, [5, 3], Window::new(1, 2), 3);
}

#[test]
fn silu_is_exact_to_rounding() {
    const STEP: usize = if cfg!(miri) { 100 } else { 1 };
    // One input and weight of 1 make the activation itself visible.
    let x: Vec<f32> = (-4000..4000)
        .step_by(STEP)
        .map(|i| i as f32 / 40.0)
        .collect();
    let shape = shape(1, 1, 1, x.len());
    let packed = pack(&[1.0], None, 1, 1, 1, 1);
    let blocks = blocked(&x, shape);
    for isa in Isa::available() {
        let mut y = Buffer::new(shape.blocked_len());
        let fused = Fused::new(Activation::Silu);
        dense::run(isa, &blocks, shape, &packed.0, Window::POINT, fused, &mut y);
        for (x, y) in x.iter().zip(plain(&y, shape)) {
            let expected = activate(f64::from(*x), Activation::Silu);
            let difference = (f64::from(y) - expected).abs();
            assert!(
                difference <= 1e-6 * expected.abs().max(1e-6),
                "{isa:?} silu({x}) = {y}, not {expected}"
            );
        }
    }
}

#[test]
fn a_nan_is_not_lost() {
    let shape = shape(1, 1, 1, 1);
    let x = blocked(&[f32::NAN], shape);
    let packed = pack(&[1.0], None, 1, 1, 1, 1);
    for isa in Isa::available() {
        for activation in ACTIVATIONS {
            let mut y = Buffer::new(shape.blocked_len());
            let fused = Fused::new(activation);
            dense::run(isa, &x, shape, &packed.0, Window::POINT, fused, &mut y);
            assert!(y[0].is_nan(), "{isa:?} {activation:?}");
        }
    }
}

#[test]
fn pooling_and_scaling_agree_with_plain_loops() {
    let mut random = Random(77);
    let shapes = [(1, 3, 1, 1), (2, 17, 7, 6), (3, 32, 12, 9)];
    for &(batch, channels, height, width) in cases(&shapes, &[(2, 17, 4, 5)]) {
        let shape = shape(batch, channels, height, width);
        let plane = shape.plane();
        let x = random.numbers(shape.plain_len());
        let blocks = blocked(&x, shape);
        assert_eq!(plain(&blocks, shape), x);

        for (kernel, window) in [
            (3, Window::new(2, 1)),
            (2, Window::new(1, 1)),
            (1, Window::POINT),
        ] {
            let [h, w] = window.output(height, width, [kernel; 2]);
            let to = Shape {
                height: h,
                width: w,
                ..shape
            };
            let mut y = Buffer::new(to.blocked_len());
            y.fill(f32::NAN);
            assert_eq!(max_pool(&blocks, shape, kernel, window, &mut y), to);
            let pad = window.padding[0].0;
            for (i, y) in plain(&y, to).into_iter().enumerate() {
                let (row, column) = (i / w % h * window.stride, i % w * window.stride);
                let mut most = f32::NEG_INFINITY;
                for r in row.max(pad)..(row + kernel).min(height + pad) {
                    for c in column.max(pad)..(column + kernel).min(width + pad) {
                        most = most.max(x[i / (h * w) * plane + (r - pad) * width + c - pad]);
                    }
                }
                assert_eq!(y, most, "{shape:?} {kernel} {window:?}");
            }
        }

        let mut means = vec![f32::NAN; batch * channels];
        global_mean(&blocks, shape, &mut means);
        for (mean, x) in means.iter().zip(x.chunks_exact(plane)) {
            let expected = x.iter().map(|x| f64::from(*x)).sum::<f64>() / plane as f64;
            assert!((f64::from(*mean) - expected).abs() < 1e-6);
        }

        let mut scaled = blocks.clone();
        scale_channels(&mut scaled, shape, &means);
        let scaled_plain = plain(&scaled, shape);
        for (i, y) in scaled_plain.iter().enumerate() {
            assert_eq!(*y, x[i] * means[i / plane]);
        }
        add(&mut scaled, &blocks);
        for (i, y) in plain(&scaled, shape).into_iter().enumerate() {
            assert_eq!(y, scaled_plain[i] + x[i]);
        }
    }
}

#[test]
fn wrong_lengths_are_refused() {
    let shape = shape(1, 16, 4, 4);
    let packed = pack(&[0.5; 16 * 16], None, 16, 16, 1, 1);
    let narrow = pack(&[0.5; 16 * 8], None, 16, 8, 1, 1);
    let right = vec![1.0; shape.blocked_len()];
    let attempt = |x: &[f32], packed: &PackedConv, window, fused, len| {
        let mut y = vec![0.0; len];
        let call = std::panic::AssertUnwindSafe(|| conv(x, shape, packed, window, fused, &mut y));
        std::panic::catch_unwind(call).is_err()
    };
    let plain = Fused::new(Activation::Identity);
    let point = Window::POINT;
    assert!(!attempt(&right, &packed, point, plain, right.len()));
    assert!(attempt(&right[1..], &packed, point, plain, right.len()));
    assert!(attempt(&right, &packed, point, plain, right.len() - 1));
    assert!(attempt(&right, &narrow, point, plain, right.len()));
    assert!(attempt(
        &right,
        &packed,
        Window::new(0, 0),
        plain,
        right.len()
    ));
    let gelu = Fused::new(Activation::Gelu);
    assert!(attempt(&right, &packed, point, gelu, right.len()));
    let residual = plain.with_residual(&right[1..]);
    assert!(attempt(&right, &packed, point, residual, right.len()));
    let scale = plain.with_scale(&right[..15]);
    assert!(attempt(&right, &packed, point, scale, right.len()));
}
