//! Memory aligned to the lines of the cache.

use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};

/// One line of a cache, and one vector of AVX-512.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Floats that start on a line of the cache. The kernels take slices of any alignment; vectors
/// that straddle two lines cost them time.
#[derive(Clone)]
pub struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

impl Buffer {
    /// `len` zeros.
    pub fn new(len: usize) -> Self {
        let lines = vec![Line([0.0; 16]); len.div_ceil(16)];
        Self { lines, len }
    }

    /// The length up to which [`Buffer::resize`] keeps the memory.
    pub fn capacity(&self) -> usize {
        self.lines.len() * 16
    }

    /// Makes the length `len`; what stands there afterwards is of no meaning.
    pub fn resize(&mut self, len: usize) {
        if len > self.lines.len() * 16 {
            self.lines = vec![Line([0.0; 16]); len.div_ceil(16)];
        }
        self.len = len;
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: a line is 16 floats without gaps, and `len` is at most 16 times the lines.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: a line is 16 floats without gaps, and `len` is at most 16 times the lines.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// `len` floats that `write` gives their values, without zeros before.
///
/// # Safety
/// `write` writes to every one of them.
pub(in crate::kernels) unsafe fn filled(
    len: usize,
    write: impl FnOnce(&mut [MaybeUninit<f32>]),
) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    write(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: by the contract.
    unsafe { values.set_len(len) };
    values
}

/// A pointer for tasks that write to separate parts of one slice.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Shared(*mut f32);

// SAFETY: the pointer is only an address; whoever writes through it says why nobody else does.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(in crate::kernels) fn new(slice: &mut [f32]) -> Self {
        Self(slice.as_mut_ptr())
    }

    /// To what has no value yet.
    pub(in crate::kernels) fn unwritten(slice: &mut [MaybeUninit<f32>]) -> Self {
        Self(slice.as_mut_ptr().cast())
    }

    pub(in crate::kernels) fn get(self) -> *mut f32 {
        self.0
    }
}
