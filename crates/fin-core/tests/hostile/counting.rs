//! An allocator that counts, and the rule that readers of untrusted files are held to. Tests of
//! other crates and the fuzz targets use this file too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, counting what each thread allocates.
struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn grown(size: usize) {
    LIVE.set(LIVE.get() + size as isize);
    PEAK.set(PEAK.get().max(LIVE.get()));
}

fn shrunk(size: usize) {
    LIVE.set(LIVE.get() - size as isize);
}

// SAFETY: every call is handed on to the system's allocator unchanged; counting allocates
// nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promises are those of this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        shrunk(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both blocks exist while the content is copied.
        grown(size);
        shrunk(layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs something on this thread; what it gives, and the most bytes that it has allocated at a time.
pub fn peak<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let result = run();
    (result, usize::try_from(PEAK.get() - before).unwrap_or(0))
}

/// Runs a reader over `size` bytes of files on this thread and panics where it has more than
/// twice as many bytes and 64 MiB allocated at any time.
pub fn within_limits<T>(size: usize, run: impl FnOnce() -> T) -> T {
    let (result, peak) = peak(run);
    assert!(
        peak <= 2 * size + (64 << 20),
        "{peak} bytes allocated for {size} bytes of files"
    );
    result
}
