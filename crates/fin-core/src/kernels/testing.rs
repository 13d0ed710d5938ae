//! Numbers and cases for the tests of kernels.

use std::mem::MaybeUninit;

/// Values of -1 to 1, the same for a seed everywhere.
pub(super) fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// `all` cases, but `few` under Miri, to which a multiplication takes as long as ten thousand.
pub(super) fn cases<'a, T>(all: &'a [T], few: &'a [T]) -> &'a [T] {
    if cfg!(miri) { few } else { all }
}

/// What `write` makes of values that are not numbers: what stands in an output must not matter.
pub(super) fn over_nan(len: usize, write: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut values = vec![f32::NAN; len];
    // SAFETY: every float is one that may have no value, and `write` can only give them values.
    write(unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), len) });
    values
}
