//! Convolutions in 8 bits against their formula in double precision, for every instruction set at hand.

use super::super::tests::{
    ACTIVATIONS, Random, Reference, activate, blocked, cases, channel_extents, error, one_of,
    plain, shape, sizes, windows,
};
use super::super::{Summary, depthwise, inverted, pack_depthwise};
use super::*;
use crate::kernels::Activation;

/// The extent of every image of `[batch, channels, height, width]`, zero among it.
fn extents(x: &[f32], batch: usize) -> Vec<Range> {
    let images = x.chunks_exact(x.len() / batch);
    let range = |x: &[f32]| Range {
        low: x.iter().copied().fold(0.0, f32::min),
        high: x.iter().copied().fold(0.0, f32::max),
    };
    images.map(range).collect()
}

/// Integers of a row of values, and what they stand for.
fn integers(x: &[f32], inverse: f32) -> Vec<f32> {
    x.iter().map(|x| (x * inverse).round_ties_even()).collect()
}

/// A convolution and what belongs to it, all of it random.
struct Case {
    shape: Shape,
    to: Shape,
    kernel: [usize; 2],
    window: Window,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    residual: Option<Vec<f32>>,
    scale: Option<Vec<f32>>,
    activation: Activation,
}

impl Case {
    fn new(shape: Shape, out: usize, kernel: [usize; 2], window: Window, seed: usize) -> Self {
        let mut random = Random(seed as u64 + 0x9e37_79b9_7f4a_7c15);
        let [height, width] = window.output(shape.height, shape.width, kernel);
        let to = Shape {
            channels: out,
            height,
            width,
            ..shape
        };
        let mut x = random.numbers(shape.plain_len());
        let image = x.len() / shape.batch;
        // Images of unlike extent, some of them without anything below or above zero.
        for (i, x) in x.chunks_exact_mut(image).enumerate() {
            let (factor, offset) = [(1.0, 0.0), (0.1, 2.0), (3.0, -3.5)][(seed + i) % 3];
            x.iter_mut().for_each(|x| *x = *x * factor + offset);
        }
        let residual = random.numbers(to.plain_len());
        let scale = random.numbers(shape.batch * shape.channels);
        Self {
            shape,
            to,
            kernel,
            window,
            x,
            weight: random.numbers(out * shape.channels * kernel[0] * kernel[1]),
            bias: random.numbers(out),
            residual: (seed % 3 == 1).then_some(residual),
            scale: (seed % 5 == 2).then_some(scale),
            activation: ACTIVATIONS[seed % 4],
        }
    }

    /// The input times its factors.
    fn scaled(&self) -> Vec<f32> {
        let Some(scale) = &self.scale else {
            return self.x.clone();
        };
        let planes = self.x.chunks_exact(self.shape.plane()).zip(scale);
        planes
            .flat_map(|(x, s)| x.iter().map(move |x| x * s))
            .collect()
    }

    /// What the formula gives, in double precision.
    fn expected(&self) -> Vec<f64> {
        let x = self.scaled();
        let (mut q, mut scales) = (Vec::new(), Vec::new());
        for (x, range) in x
            .chunks_exact(x.len() / self.shape.batch)
            .zip(extents(&x, self.shape.batch))
        {
            let scale = range.high / 255.0 - range.low / 255.0;
            let zero = (-range.low * (1.0 / scale)).round_ties_even();
            let integers = integers(x, 1.0 / scale);
            q.extend(integers.iter().map(|q| (q + zero).min(255.0) - zero));
            scales.push(scale);
        }
        let (mut w, mut steps) = (Vec::new(), Vec::new());
        for row in self
            .weight
            .chunks_exact(self.weight.len() / self.to.channels)
        {
            let largest = row.iter().fold(0.0f32, |max, w| max.max(w.abs()));
            w.extend(integers(row, 127.0 / largest));
            steps.push(largest / 127.0);
        }
        // Sums of integers, exactly.
        let sums = Reference {
            x: &q,
            shape: self.shape,
            weight: &w,
            bias: &vec![0.0; self.to.channels],
            kernel: self.kernel,
            window: self.window,
            depthwise: false,
            residual: None,
            activation: Activation::Identity,
        }
        .compute();
        let value = |(i, sum): (usize, f64)| {
            let plane = i / self.to.plane();
            let (image, channel) = (plane / self.to.channels, plane % self.to.channels);
            let step = f64::from(scales[image]) * f64::from(steps[channel]);
            let residual = self.residual.as_ref().map_or(0.0, |r| f64::from(r[i]));
            let y = sum * step + f64::from(self.bias[channel]) + residual;
            activate(y, self.activation)
        };
        sums.into_iter().enumerate().map(value).collect()
    }

    fn packed(&self) -> PackedInt8 {
        let [kh, kw] = self.kernel;
        let [out, from] = [self.to.channels, self.shape.channels];
        pack_int8(&self.weight, Some(&self.bias), out, from, kh, kw)
    }

    /// Blocked output and its ranges, of blocked `x`.
    fn run(&self, isa: Isa, x: &[f32], onto: bool) -> (Buffer, Vec<Range>) {
        let residual = self.residual.as_ref().map(|r| blocked(r, self.to));
        let mut fused = Fused::new(self.activation);
        fused.scale = self.scale.as_deref();
        let mut y = Buffer::new(self.to.blocked_len());
        y.fill(f32::NAN);
        match &residual {
            Some(residual) if onto => {
                y.copy_from_slice(residual);
                fused = fused.onto();
            }
            Some(residual) => fused = fused.with_residual(residual),
            None => {}
        }
        let ranges = ranges(x, self.shape, self.scale.as_deref());
        let mut found = vec![Range::EMPTY; self.shape.batch];
        let (shape, window, packed) = (self.shape, self.window, self.packed());
        let slot = Some(&mut found[..]);
        let to = super::run(isa, x, shape, &ranges, &packed, window, fused, &mut y, slot);
        assert_eq!(to, self.to);
        (y, found)
    }
}

fn check(shape: Shape, out: usize, kernel: [usize; 2], window: Window, seed: usize) {
    let case = Case::new(shape, out, kernel, window, seed);
    let expected = case.expected();
    let x = blocked(&case.x, shape);
    let mut first: Option<Vec<f32>> = None;
    for isa in Isa::available() {
        let what = format!(
            "{isa:?} {shape:?} to {out}, {kernel:?}, {window:?}, {:?}",
            case.activation
        );
        let (y, found) = case.run(isa, &x, false);
        let y = plain(&y, case.to);
        let error = error(&y, &expected);
        assert!(error < 1e-6, "{error:e}: {what}");
        assert_eq!(found, extents(&y, shape.batch), "{what}");
        if case.residual.is_some() {
            assert_eq!(
                plain(&case.run(isa, &x, true).0, case.to),
                y,
                "onto: {what}"
            );
        }
        // SiLU is rounded in as many ways as there are instructions for it.
        if case.activation != Activation::Silu {
            assert_eq!(first.get_or_insert_with(|| y.clone()), &y, "{what}");
        }
    }
}

#[test]
fn every_instruction_set_gives_the_products_of_the_integers() {
    let mut seed = 0;
    for &kernel in cases(&[1, 3, 5], &[1, 3]) {
        for window in windows(kernel) {
            for size in sizes(window, kernel) {
                for &batch in cases(&[1, 3], &[2]) {
                    // Every pair of channels comes, though not with every other choice.
                    let from = one_of(&[3, 17, 24, 32, 40], seed);
                    let out = one_of(&[17, 3, 40, 24, 32, 70, 16], seed);
                    let shape = shape(batch, from, size[0], size[1]);
                    check(shape, out, [kernel; 2], window, seed);
                    seed += 1;
                }
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too large")]
fn wide_and_oblong_convolutions_agree_with_the_formula() {
    let three = Window::new(1, 1);
    check(shape(3, 144, 7, 7), 144, [3, 3], three, 0);
    check(shape(1, 144, 12, 12), 40, [1, 1], Window::POINT, 1);
    check(shape(3, 40, 19, 21), 144, [1, 1], Window::POINT, 3);
    check(shape(2, 20, 9, 11), 33, [3, 1], Window::new(2, 1), 4);
    check(shape(2, 20, 9, 11), 33, [1, 5], Window::new(1, 2), 5);
    check(shape(4, 512, 7, 7), 32, [1, 1], Window::new(2, 0), 7);
    check(shape(2, 336, 19, 21), 56, [1, 1], Window::POINT, 12);
    // Images split into rows and pixels, and tasks into output channels.
    check(shape(1, 64, 56, 56), 64, [3, 3], three, 8);
    check(shape(1, 256, 40, 41), 70, [1, 1], Window::POINT, 10);
}

#[test]
#[cfg_attr(miri, ignore = "too large")]
fn close_to_the_convolution_that_is_quantised() {
    let case = Case::new(shape(2, 64, 9, 9), 48, [3, 3], Window::new(1, 1), 0);
    let exact = Reference {
        x: &case.x,
        shape: case.shape,
        weight: &case.weight,
        bias: &case.bias,
        kernel: case.kernel,
        window: case.window,
        depthwise: false,
        residual: None,
        activation: case.activation,
    }
    .compute();
    let (y, _) = case.run(Isa::detect(), &blocked(&case.x, case.shape), false);
    // Steps of 2/255 and 1/127 are off by a twelfth of their square on average.
    let error = error(&plain(&y, case.to), &exact);
    assert!((1e-5..0.01).contains(&error), "{error}");
}

#[test]
#[cfg_attr(miri, ignore = "too large")]
fn any_number_of_threads_gives_the_same_bits() {
    for (shape, kernel, window, seed) in [
        (shape(2, 64, 30, 31), [3, 3], Window::new(1, 1), 0),
        (shape(3, 160, 17, 19), [1, 1], Window::POINT, 12),
        (shape(5, 96, 14, 14), [1, 1], Window::new(2, 0), 7),
    ] {
        let case = Case::new(shape, 150, kernel, window, seed);
        let x = blocked(&case.x, shape);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let (y, found) = pool.unwrap().install(|| case.run(Isa::detect(), &x, false));
            let bits: Vec<u32> = y.iter().map(|y| y.to_bits()).collect();
            (bits, found)
        };
        let expected = run(1);
        for threads in [2, 3, 7] {
            assert!(run(threads) == expected, "{threads} threads, {shape:?}");
        }
    }
}

#[test]
fn ranges_are_those_of_the_values() {
    let [height, width] = cases(&[[47, 61]], &[[3, 4]])[0];
    let shape = shape(4, 19, height, width);
    let mut random = Random(5);
    let mut x = random.numbers(shape.plain_len());
    let image = x.len() / shape.batch;
    x[image..2 * image].iter_mut().for_each(|x| *x += 3.0);
    x[2 * image..3 * image].iter_mut().for_each(|x| *x -= 3.0);
    x[3 * image..].fill(0.0);
    assert_eq!(ranges(&blocked(&x, shape), shape, None), extents(&x, 4));
    let scale = random.numbers(4 * 19);
    let planes = x.chunks_exact(shape.plane()).zip(&scale);
    let scaled: Vec<f32> = planes
        .flat_map(|(x, s)| x.iter().map(move |x| x * s))
        .collect();
    assert_eq!(
        ranges(&blocked(&x, shape), shape, Some(&scale)),
        extents(&scaled, 4)
    );
    let channels = channel_extents(&x, shape);
    for (i, expected) in extents(&scaled, 4).into_iter().enumerate() {
        let part = i * shape.channels..(i + 1) * shape.channels;
        let found = Range::of_channels(&channels[part.clone()], Some(&scale[part]));
        assert_eq!(found, expected, "image {i}");
    }
}

/// Back to `[batch, channels, height, width]`, whatever fills up the last block.
fn values(y: &[f32], shape: Shape) -> Vec<f32> {
    let mut values = vec![0.0; shape.plain_len()];
    super::super::from_blocked(y, shape, &mut values);
    values
}

#[test]
#[cfg_attr(miri, ignore = "too large")]
fn what_is_not_finite_takes_its_image_along_and_no_other() {
    for (wrong, kernel, window) in [
        (f32::INFINITY, [3, 3], Window::new(1, 1)),
        (f32::NEG_INFINITY, [1, 1], Window::POINT),
        (f32::NAN, [1, 1], Window::new(2, 0)),
        (-f32::NAN, [3, 3], Window::new(2, 1)),
    ] {
        let mut case = Case::new(shape(3, 35, 7, 7), 33, kernel, window, 1);
        for isa in Isa::available() {
            let clean = case.run(isa, &blocked(&case.x, case.shape), false);
            let image = case.x.len() / 3;
            let kept = std::mem::replace(&mut case.x[image + 5], wrong);
            let (y, found) = case.run(isa, &blocked(&case.x, case.shape), false);
            case.x[image + 5] = kept;
            let (y, kept) = (values(&y, case.to), values(&clean.0, case.to));
            for (i, (y, clean)) in y.iter().zip(&kept).enumerate() {
                let lost = i / (case.to.plain_len() / 3) == 1;
                assert!(
                    if lost { y.is_nan() } else { y == clean },
                    "{isa:?} {i}: {y}"
                );
            }
            assert!(found[1].bytes().scale.is_nan(), "{isa:?}: {:?}", found[1]);
            assert_eq!([found[0], found[2]], [clean.1[0], clean.1[2]]);
        }
        case.weight[35 * kernel[0] * kernel[1]] = wrong;
        let (y, _) = case.run(Isa::detect(), &blocked(&case.x, case.shape), false);
        for (i, y) in values(&y, case.to).iter().enumerate() {
            let channel = i / case.to.plane() % case.to.channels;
            assert_eq!(y.is_nan(), channel == 1, "{i}: {y}");
        }
    }
}

#[test]
fn numbers_too_small_for_a_step_count_as_zero() {
    let mut case = Case::new(shape(1, 16, 3, 3), 16, [1, 1], Window::POINT, 0);
    case.x.fill(1e-41);
    for isa in Isa::available() {
        let (y, _) = case.run(isa, &blocked(&case.x, case.shape), false);
        for (i, y) in plain(&y, case.to).iter().enumerate() {
            assert_eq!(*y, case.bias[i / 9], "{isa:?}");
        }
    }
}

#[test]
fn an_expansion_in_bytes_is_the_two_convolutions_one_after_the_other() {
    let all = [
        (shape(3, 24, 13, 9), 70, [3, 3], Window::new(1, 1), 1),
        (shape(2, 17, 8, 29), 40, [5, 5], Window::new(2, 2), 2),
        // Planes in pieces, with rows that two pieces need.
        (shape(1, 20, 75, 190), 40, [3, 3], Window::new(1, 1), 3),
    ];
    let few = [(shape(2, 3, 4, 5), 17, [3, 3], Window::new(1, 1), 1)];
    for &(shape, wide, kernel, window, seed) in cases(&all, &few) {
        let mut case = Case::new(shape, wide, [1, 1], Window::POINT, 15 * seed);
        case.activation = Activation::Silu;
        let x = blocked(&case.x, shape);
        let ranges = ranges(&x, shape, None);
        let mut random = Random(seed as u64);
        let weight = random.numbers(wide * kernel[0] * kernel[1]);
        let bias = random.numbers(wide);
        let packed = pack_depthwise(&weight, Some(&bias), wide, kernel[0], kernel[1]);
        for isa in Isa::available() {
            let (between, _) = case.run(isa, &x, false);
            let [height, width] = window.output(shape.height, shape.width, kernel);
            let to = Shape {
                height,
                width,
                ..case.to
            };
            let mut y = [(); 2].map(|()| Buffer::new(to.blocked_len()));
            let mut means = [(); 2].map(|()| vec![f32::NAN; to.batch * wide]);
            let finishes = [case.activation, Activation::Relu].map(finish);
            let [y_found, y_expected] = &mut y;
            let [means_found, means_expected] = &mut means;
            let from = case.to;
            let (floats, last) = (floats(isa), finishes[1]);
            let summary = |means| Summary {
                means: Some(means),
                extents: None,
            };
            let slot = summary(means_expected);
            depthwise::run(
                floats, &between, from, &packed, window, last, slot, y_expected,
            );
            let slot = summary(means_found);
            let expand = case.packed();
            let shape = inverted::run_int8(
                isa, &x, shape, &ranges, &expand, &packed, window, finishes, slot, y_found,
            );
            assert_eq!(shape, to);
            let expected: Vec<f64> = plain(y_expected, to).into_iter().map(f64::from).collect();
            assert!(
                error(&plain(y_found, to), &expected) < 1e-6,
                "{isa:?} {shape:?}"
            );
            let expected: Vec<f64> = means_expected.iter().copied().map(f64::from).collect();
            assert!(
                error(means_found, &expected) < 1e-6,
                "means of {isa:?} {shape:?}"
            );
        }
    }
}

#[test]
fn extents_tell_of_what_is_not_finite() {
    let shape = shape(2, 20, 6, 7);
    let packed = pack_depthwise(&[1.0; 20 * 9], None, 20, 3, 3);
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = vec![0.5; shape.plain_len()];
        x[3 * shape.plane() + 11] = wrong;
        for isa in Isa::available() {
            let mut y = Buffer::new(shape.blocked_len());
            let mut extents = vec![Range::EMPTY; 40];
            let summary = Summary {
                means: None,
                extents: Some(&mut extents),
            };
            let (window, last) = (Window::new(1, 1), finish(Activation::Identity));
            let x = blocked(&x, shape);
            depthwise::run(
                floats(isa),
                &x,
                shape,
                &packed,
                window,
                last,
                summary,
                &mut y,
            );
            for (i, extent) in extents.iter().enumerate() {
                let finite = extent.low.is_finite() && extent.high.is_finite();
                assert_eq!(finite, i != 3, "{wrong} {isa:?}, channel {i}: {extent:?}");
            }
            let [first, second] = [&extents[..20], &extents[20..]];
            assert!(Range::of_channels(first, None).bytes().scale.is_nan());
            let clean = Range {
                low: 0.0,
                high: 4.5,
            };
            assert_eq!(Range::of_channels(second, None), clean);
        }
    }
}
