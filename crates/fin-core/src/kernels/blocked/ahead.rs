//! Asking for weights before they are wanted.
//!
//! A processor foresees what is read next within a page of memory, of which a panel of weights has many. Where few
//! rows or pixels are multiplied by weights that come from memory, they would wait at every page: of one text of 16
//! tokens, a T5 of 75 MB took 8.0 milliseconds so and takes under 4 with the next panel asked for meanwhile.

use super::vector::Vector;

/// Floats of a line of the cache.
const LINE: usize = 16;

/// What tiles ask for, each a part, while they multiply.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Ahead {
    /// Never read, so that it may lie anywhere.
    next: *const f32,
    /// Steps, less one, after which two lines more are asked for; these are a power of two.
    mask: usize,
}

impl Ahead {
    /// Nothing is wanted.
    pub(in crate::kernels) const NOTHING: Self = Self {
        next: std::ptr::null(),
        mask: usize::MAX,
    };

    /// What lies from `next` on, so many bytes, over as many steps of one tile or several. Tiles that are so many that
    /// none comes to a line of its own ask for nothing: they have time to wait.
    pub(in crate::kernels) fn new<T>(next: *const T, bytes: usize, steps: usize) -> Self {
        let pairs = (bytes / (2 * LINE * size_of::<f32>())).max(1);
        let every = (steps / pairs).max(1);
        Self {
            next: next.cast(),
            mask: (1 << every.ilog2()) - 1,
        }
    }

    /// To be called at every step of a tile, which are counted from 0.
    #[inline(always)]
    pub(in crate::kernels) fn step<V: Vector>(&mut self, step: usize) {
        if step & self.mask == self.mask {
            V::prefetch(self.next);
            V::prefetch(self.next.wrapping_add(LINE));
            self.next = self.next.wrapping_add(2 * LINE);
        }
    }

    /// What is left after a tile of so many steps.
    pub(in crate::kernels) fn after(self, steps: usize) -> Self {
        Self {
            next: self
                .next
                .wrapping_add(steps / (self.mask.saturating_add(1)) * 2 * LINE),
            mask: self.mask,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vector::Portable;
    use super::*;

    #[test]
    fn tiles_together_ask_for_everything() {
        for (bytes, steps, tiles) in [(1 << 16, 512, 1), (1 << 16, 512, 2), (98_304, 768, 5)] {
            let memory = vec![0u8; bytes];
            let mut ahead = Ahead::new(memory.as_ptr(), bytes, steps * tiles);
            for _ in 0..tiles {
                let mut within = ahead;
                (0..steps).for_each(|step| within.step::<Portable>(step));
                ahead = ahead.after(steps);
                assert_eq!(ahead.next, within.next);
            }
            // Rounded to a power of two, it may be up to twice as much.
            let asked = ahead.next.addr() - memory.as_ptr().addr();
            assert!((bytes..2 * bytes).contains(&asked), "{asked} of {bytes}");
        }
    }

    #[test]
    fn nothing_stays_nothing() {
        let mut ahead = Ahead::NOTHING;
        (0..100).for_each(|step| ahead.step::<Portable>(step));
        assert!(ahead.after(100).next.is_null());
    }
}
