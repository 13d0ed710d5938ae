//! Values and gradients of the fast forms against those of the portable ones.

use std::cell::Cell;

use burn::module::Module;
use burn::nn::DropoutConfig;
use burn::tensor::{Device, Gradients, Tensor, TensorData};

use super::super::testing::cases;
use super::super::{
    self as kernels, Activation, AttentionBias, MASKED_SCORE, is_trained, portable,
};
use super::{Drop, Heads, attention_of, dropout_of};

thread_local! {
    /// Of [`random`]. The device's own generator is shared with tests that run at the same time.
    static STATE: Cell<u32> = const { Cell::new(0) };
}

fn device(seed: u32) -> Device {
    STATE.set(seed);
    Device::flex().autodiff()
}

/// Values between -2.5 and 2.5, of which gradients are wanted.
fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    let next = || {
        let state = STATE
            .get()
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        STATE.set(state);
        ((state >> 8) as f32 / 8_388_608.0 - 1.0) * 2.5
    };
    let count = shape.iter().product();
    let values: Vec<f32> = std::iter::repeat_with(next).take(count).collect();
    let x = Tensor::from_data(TensorData::new(values, shape), device).require_grad();
    assert!(is_trained(&x));
    x
}

/// `‖a − b‖ / ‖b‖`, in double precision.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let pairs = a.iter().zip(b);
    let difference: f64 = pairs
        .map(|(a, b)| square(f64::from(*a) - f64::from(*b)))
        .sum();
    let norm: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    // Where all is zero, the difference itself must be small.
    (difference / norm.max(1e-12)).sqrt()
}

/// Values of a result and gradients of its products with fixed factors.
fn passed<const D: usize>(y: Tensor<D>) -> (Vec<f32>, Gradients) {
    let count = y.dims().iter().product::<usize>();
    let factors: Vec<f32> = (0..count).map(|i| (i as f32 * 0.37).sin()).collect();
    let factors = Tensor::<1>::from_floats(factors.as_slice(), &y.device()).reshape(y.dims());
    let values = y.clone().into_data().try_into_vec().unwrap();
    (values, (y * factors).sum().backward())
}

fn gradient<const D: usize>(x: &Tensor<D>, gradients: &Gradients) -> Vec<f32> {
    let gradient = x.grad(gradients).expect("no gradient");
    assert_eq!(gradient.dims(), x.dims());
    gradient.into_data().try_into_vec().unwrap()
}

fn close(what: &str, fast: &[f32], slow: &[f32], tolerance: f64) {
    let error = relative(fast, slow);
    assert!(error < tolerance, "{what}: {error:.2e}");
}

/// Rows of what has many alike.
const ROWS: usize = if cfg!(miri) { 4 } else { 50 };

const ACTIVATIONS: [Activation; 8] = [
    Activation::Identity,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Relu,
    Activation::Relu6,
    Activation::Silu,
    Activation::Tanh,
];

#[test]
fn linear() {
    let device = device(1);
    // One row and one piece; rows that are no multiple of a piece; several tiles and panels.
    let sizes = [(1, 7, 5), (45, 33, 65), (130, 128, 96)];
    for &(rows, inner, outer) in cases(&sizes, &[(2, 7, 17)]) {
        let x = random([2, rows, inner], &device);
        let w = random([outer, inner], &device);
        let b = random([outer], &device);
        for &activation in cases(&ACTIVATIONS, &[Activation::Gelu]) {
            for bias in [Some(b.clone()), None] {
                let what = format!("{activation:?} {rows}x{inner}x{outer} {}", bias.is_some());
                let fast = kernels::linear(x.clone(), w.clone(), bias.clone(), activation);
                let slow = portable::linear(x.clone(), w.clone(), bias.clone(), activation);
                let ((fast, fast_grads), (slow, slow_grads)) = (passed(fast), passed(slow));
                close(&what, &fast, &slow, 1e-6);
                let of = |grads: &Gradients| (gradient(&x, grads), gradient(&w, grads));
                let ((fx, fw), (sx, sw)) = (of(&fast_grads), of(&slow_grads));
                // Burn forms the slope of this one by several operations.
                let tolerance = match activation {
                    Activation::GeluTanh => 1e-5,
                    _ => 3e-6,
                };
                close(&format!("{what}: x"), &fx, &sx, tolerance);
                close(&format!("{what}: weight"), &fw, &sw, tolerance);
                if bias.is_some() {
                    let (fast, slow) = (gradient(&b, &fast_grads), gradient(&b, &slow_grads));
                    close(&format!("{what}: bias"), &fast, &slow, tolerance);
                }
            }
        }
    }
}

#[test]
fn layer_norm() {
    let device = device(2);
    for &width in cases(&[1, 5, 16, 31, 384], &[5]) {
        let x = random([3, ROWS, width], &device);
        let r = random([3, ROWS, width], &device);
        let w = random([width], &device);
        let b = random([width], &device);
        for residual in [Some(r.clone()), None] {
            let norm = |f: fn(_, _, _, _, _) -> Tensor<3>| {
                passed(f(
                    x.clone() + 3.0,
                    residual.clone(),
                    w.clone(),
                    b.clone(),
                    1e-5,
                ))
            };
            let (fast, fast_grads) = norm(kernels::layer_norm);
            let (slow, slow_grads) = norm(portable::layer_norm);
            close(&format!("{width}"), &fast, &slow, 3e-6);
            let of = |grads: &Gradients| {
                let mut found = vec![gradient(&w, grads), gradient(&b, grads)];
                // Of one value there is nothing but its own mean: the gradient is that of rounding.
                if width > 1 {
                    found.push(gradient(&x, grads));
                    if residual.is_some() {
                        found.push(gradient(&r, grads));
                    }
                }
                found
            };
            for (i, (fast, slow)) in of(&fast_grads).iter().zip(of(&slow_grads)).enumerate() {
                close(&format!("{width}: gradient {i}"), fast, &slow, 3e-6);
            }
        }
    }
}

#[test]
fn rms_norm() {
    let device = device(3);
    for &width in cases(&[1, 5, 16, 31, 384], &[5]) {
        let x = random([3, ROWS, width], &device);
        let w = random([width], &device);
        let (fast, fast_grads) = passed(kernels::rms_norm(x.clone() + 2.0, w.clone(), 1e-6));
        let (slow, slow_grads) = passed(portable::rms_norm(x.clone() + 2.0, w.clone(), 1e-6));
        close(&format!("{width}"), &fast, &slow, 1e-6);
        let (fast, slow) = (gradient(&w, &fast_grads), gradient(&w, &slow_grads));
        close(&format!("{width}: weight"), &fast, &slow, 2e-6);
        if width > 1 {
            let (fast, slow) = (gradient(&x, &fast_grads), gradient(&x, &slow_grads));
            close(&format!("{width}: x"), &fast, &slow, 2e-6);
        }
    }
}

#[test]
fn attention() {
    let device = device(4);
    let none = DropoutConfig::new(0.0).init();
    let shapes = [(1, 1, 1, 4), (2, 5, 3, 8), (3, 70, 2, 32)];
    for &(batch, seq, heads, head_dim) in cases(&shapes, &[(2, 3, 2, 4)]) {
        let hidden = heads * head_dim;
        let inputs = [(); 3].map(|()| random([batch, seq, hidden], &device));
        let key: Vec<f32> = (0..batch * seq)
            .map(|i| {
                if i % seq > seq / 2 + i / seq {
                    MASKED_SCORE
                } else {
                    0.0
                }
            })
            .collect();
        let key = Tensor::<1>::from_floats(key.as_slice(), &device).reshape([batch, seq]);
        let table = random([heads, seq, seq], &device);
        for (position, scale) in [(None, 0.3), (Some(table.clone()), 1.0)] {
            let bias = AttentionBias {
                key: key.clone(),
                position: position.clone(),
                lengths: None,
            };
            let run = |f: fn(_, _, _, &AttentionBias, _, _, &_) -> Tensor<3>| {
                let [q, k, v] = inputs.clone();
                passed(f(q, k, v, &bias, heads, scale, &none))
            };
            let (fast, fast_grads) = run(kernels::attention);
            let (slow, slow_grads) = run(portable::attention);
            let what = format!("{seq}, position {}", position.is_some());
            close(&what, &fast, &slow, 2e-6);
            for (i, x) in inputs.iter().enumerate() {
                // One key has the whole share whatever its score.
                if seq > 1 || i == 2 {
                    let (fast, slow) = (gradient(x, &fast_grads), gradient(x, &slow_grads));
                    close(&format!("{what}: input {i}"), &fast, &slow, 3e-6);
                }
            }
            if position.is_some() && seq > 1 {
                let (fast, slow) = (gradient(&table, &fast_grads), gradient(&table, &slow_grads));
                close(&format!("{what}: position"), &fast, &slow, 3e-6);
            }
        }
    }
}

#[test]
fn attention_with_dropout_has_the_gradient_of_what_it_computed() {
    let device = device(5);
    let [q, k, v] = [(); 3].map(|()| random([2, 6, 8], &device));
    let heads = Heads {
        count: 2,
        scale: 0.5,
        has_position: false,
        drop: Some(Drop::new(0.4, [3, 4])),
    };
    let run = |q: Tensor<3>| {
        let bias = AttentionBias {
            key: Tensor::zeros([2, 6], &device),
            position: None,
            lengths: None,
        };
        passed(attention_of(q, k.clone(), v.clone(), bias, heads))
    };
    let loss = |values: &[f32]| -> f64 {
        let terms = values.iter().enumerate();
        terms
            .map(|(i, y)| f64::from(*y) * f64::from((i as f32 * 0.37).sin()))
            .sum()
    };
    let (values, grads) = run(q.clone());
    let none = Heads {
        drop: None,
        ..heads
    };
    let bias = AttentionBias {
        key: Tensor::zeros([2, 6], &device),
        position: None,
        lengths: None,
    };
    let (whole, _) = passed(attention_of(q.clone(), k.clone(), v.clone(), bias, none));
    assert!(relative(&values, &whole) > 0.1, "nothing was left out");
    // Linear in the values: their gradient times them is the loss, if the same was left out both times.
    let given: Vec<f32> = v.to_data().try_into_vec().unwrap();
    let along: f64 = given
        .iter()
        .zip(gradient(&v, &grads))
        .map(|(v, g)| f64::from(*v) * f64::from(g))
        .sum();
    let expected = loss(&values);
    assert!(
        (along - expected).abs() < 1e-5 * expected.abs().max(1.0),
        "{along} {expected}"
    );
    // The gradient of queries against a difference quotient.
    let slope: f64 = gradient(&q, &grads).iter().map(|&x| f64::from(x)).sum();
    let quotient = (loss(&run(q.clone() + 0.01).0) - loss(&run(q.clone() - 0.01).0)) / 0.02;
    assert!(
        (slope - quotient).abs() < 1e-3 * slope.abs().max(1.0),
        "{slope} {quotient}"
    );
}

#[test]
fn dropout_leaves_the_same_out_of_the_gradient() {
    let device = device(6);
    let x = random([ROWS, 10], &device);
    let y = dropout_of(x.clone(), Drop::new(0.3, [1, 2]));
    let grads = y.clone().sum().backward();
    let gradient = gradient(&x, &grads);
    let x: Vec<f32> = x.to_data().try_into_vec().unwrap();
    let y: Vec<f32> = y.into_data().try_into_vec().unwrap();
    assert!(gradient.contains(&0.0) && gradient.iter().any(|g| *g > 1.0));
    for ((x, y), g) in x.iter().zip(&y).zip(&gradient) {
        assert_eq!(*y, x * g);
    }
    let layer = DropoutConfig::new(0.3).init();
    let ones = || Tensor::<1>::ones([40 * ROWS], &device);
    let drawn = || -> Vec<f32> {
        let y = kernels::dropout(ones(), &layer);
        y.into_data().try_into_vec().unwrap()
    };
    assert_ne!(drawn(), drawn(), "drawn anew every time");
    let frozen: Vec<f32> = kernels::dropout(ones(), &layer.freeze())
        .into_data()
        .try_into_vec()
        .unwrap();
    assert!(frozen.iter().all(|y| *y == 1.0));
}

#[test]
fn batch_norm() {
    let device = device(7);
    let all = [
        ([4, 3, 5, 7], Activation::Identity),
        ([4, 3, 25, 27], Activation::Relu6),
        ([4, 3, 5, 7], Activation::Silu),
        ([1, 6, 700, 1], Activation::Relu),
        ([5, 33, 1, 1], Activation::Identity),
        ([2, 2, 1, 1], Activation::Identity),
    ];
    for &(shape, activation) in cases(&all, &[([3, 2, 2, 3], Activation::Relu)]) {
        let channels = shape[1];
        let x = random(shape, &device);
        let w = random([channels], &device);
        let b = random([channels], &device);
        let (y, mean, variance) =
            kernels::batch_norm(x.clone() + 1.0, w.clone(), b.clone(), 1e-5, activation);
        let (fast, fast_grads) = passed(y);
        let (y, slow_mean, slow_variance) =
            portable::batch_norm(x.clone() + 1.0, w.clone(), b.clone(), 1e-5, activation);
        let (slow, slow_grads) = passed(y);
        let what = format!("{shape:?} {activation:?}");
        // Of two alike values, a difference is mostly rounding.
        let tolerance = if shape[0] == 2 { 1e-4 } else { 5e-6 };
        close(&what, &fast, &slow, tolerance);
        for (name, a, b) in [
            ("mean", mean, slow_mean),
            ("variance", variance, slow_variance),
        ] {
            let [a, b] = [a, b].map(|x| x.into_data().try_into_vec::<f32>().unwrap());
            close(&format!("{what}: {name}"), &a, &b, 2e-6);
        }
        let of = |grads: &Gradients| [gradient(&w, grads), gradient(&b, grads)];
        for (fast, slow) in of(&fast_grads).iter().zip(of(&slow_grads)) {
            close(&format!("{what}: parameter"), fast, &slow, tolerance);
        }
        if shape[0] != 2 {
            let (fast, slow) = (gradient(&x, &fast_grads), gradient(&x, &slow_grads));
            close(&format!("{what}: x"), &fast, &slow, tolerance);
        }
    }
}

#[test]
fn a_mean_far_from_zero_takes_no_digits_of_a_batch_norm() {
    const COUNT: usize = if cfg!(miri) { 64 } else { 4096 };
    let device = device(8);
    let values: Vec<f32> = (0..COUNT)
        .map(|i| 1000.0 + (i % 17) as f32 / 64.0)
        .collect();
    let exact: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
    let mean = exact.iter().sum::<f64>() / COUNT as f64;
    let variance = exact.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / COUNT as f64;
    let expected: Vec<f32> = exact
        .iter()
        .map(|x| ((x - mean) / (variance + 1e-5).sqrt()) as f32)
        .collect();
    let x = Tensor::<1>::from_floats(values.as_slice(), &device).reshape([1, 1, COUNT, 1]);
    let (y, ..) = kernels::batch_norm(
        x.require_grad(),
        Tensor::ones([1], &device),
        Tensor::zeros([1], &device),
        1e-5,
        Activation::Identity,
    );
    let found: Vec<f32> = y.into_data().try_into_vec().unwrap();
    close("standardised", &found, &expected, 1e-6);
}

#[test]
fn conv2d() {
    let device = device(9);
    // Kernel, stride, padding before and behind, channels in and out, groups; height and width.
    let all = [
        (1, 1, (0, 0), [5, 7], 1, [6, 9]),
        (1, 2, (0, 0), [5, 7], 1, [7, 10]),
        (3, 1, (1, 1), [4, 33], 1, [9, 17]),
        (3, 2, (0, 1), [3, 8], 1, [12, 10]),
        (7, 2, (3, 3), [3, 16], 1, [21, 23]),
        // So many values seen that rows are copied out a few at a time.
        (3, 1, (1, 1), [300, 6], 1, [40, 41]),
        (3, 1, (1, 1), [6, 6], 6, [8, 11]),
        (5, 1, (2, 2), [6, 6], 6, [70, 13]),
        (3, 2, (0, 1), [6, 6], 6, [8, 10]),
        (3, 2, (1, 1), [6, 6], 6, [9, 11]),
        (5, 2, (1, 2), [6, 6], 6, [14, 7]),
        (5, 2, (2, 2), [6, 6], 6, [3, 2]),
        // Neither of the fast forms.
        (3, 1, (1, 1), [4, 6], 2, [5, 5]),
    ];
    let few = [
        (1, 1, (0, 0), [2, 3], 1, [2, 3]),
        (3, 2, (0, 1), [2, 17], 1, [4, 5]),
        (3, 1, (1, 1), [2, 2], 2, [4, 3]),
    ];
    for &(kernel, stride, padding, [inputs, outputs], groups, [height, width]) in cases(&all, &few)
    {
        let x = random([3, inputs, height, width], &device);
        let w = random([outputs, inputs / groups, kernel, kernel], &device);
        let b = random([outputs], &device);
        let padding = [padding; 2];
        let what = format!("{kernel} {stride} {padding:?} {inputs}->{outputs} {height}x{width}");
        for bias in [Some(b.clone()), None] {
            let run = |f: fn(_, _, _, _, _, _) -> Tensor<4>| {
                passed(f(
                    x.clone(),
                    w.clone(),
                    bias.clone(),
                    stride,
                    padding,
                    groups,
                ))
            };
            let (fast_values, fast_grads) = run(kernels::conv2d);
            let (slow_values, slow_grads) = run(portable::conv2d);
            close(&what, &fast_values, &slow_values, 1e-6);
            let (fast, slow) = (gradient(&x, &fast_grads), gradient(&x, &slow_grads));
            close(&format!("{what}: x"), &fast, &slow, 2e-6);
            let (fast, slow) = (gradient(&w, &fast_grads), gradient(&w, &slow_grads));
            close(&format!("{what}: weight"), &fast, &slow, 3e-6);
            if bias.is_some() {
                // Sums of factors that nearly cancel: beside what was summed.
                let (fast, slow) = (gradient(&b, &fast_grads), gradient(&b, &slow_grads));
                let terms = fast_values.len() as f32 / outputs as f32;
                for (fast, slow) in fast.iter().zip(&slow) {
                    assert!((fast - slow).abs() < 1e-6 * terms, "{what}: bias");
                }
            }
        }
    }
}
