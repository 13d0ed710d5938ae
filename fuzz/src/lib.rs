//! What the targets share: memory that is counted, scratch files in memory, and the walk over
//! everything that an opened checkpoint offers.

pub mod pickle;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use fin_core::Error;
use fin_core::weights::{Checkpoint, DType};

/// The system's allocator, with counts of what is live, its peak, and the largest request.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

fn grown(size: usize) {
    let live = LIVE.fetch_add(size, Relaxed) + size;
    PEAK.fetch_max(live, Relaxed);
    LARGEST.fetch_max(size, Relaxed);
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
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both blocks exist while the content is copied.
        grown(size);
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that may be allocated beyond twice the size of what is read.
pub const SLACK: usize = 64 << 20;

/// Runs a reader over `size` bytes of input and holds it to the allocation rule: what is live at
/// any time, and every single request, stays within twice the input and [`SLACK`].
pub fn within_limits<T>(size: usize, run: impl FnOnce() -> T) -> T {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    LARGEST.store(0, Relaxed);
    let result = run();
    let peak = PEAK.load(Relaxed).saturating_sub(before);
    let largest = LARGEST.load(Relaxed);
    let limit = 2 * size + SLACK;
    assert!(
        peak.max(largest) <= limit,
        "{size} bytes of input: {peak} bytes live at once, {largest} in one request; {limit} are \
         allowed"
    );
    result
}

/// A directory in memory that is this process's own, made once.
pub fn scratch() -> PathBuf {
    let parent = Path::new("/dev/shm");
    let parent = if parent.is_dir() {
        parent
    } else {
        Path::new("/tmp")
    };
    let directory = parent.join(format!("fin-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a scratch directory");
    directory
}

/// Writes a scratch file in place of what it held.
pub fn put(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a scratch file");
}

/// Opens a checkpoint of `size` bytes and reads all there is in it.
pub fn exercise_checkpoint(path: &Path, size: usize) {
    within_limits(size, || {
        let checkpoint = match Checkpoint::open(path) {
            Ok(checkpoint) => checkpoint,
            Err(error) => return check_error(&error),
        };
        assert!(!checkpoint.is_empty());
        assert_eq!(checkpoint.len(), checkpoint.iter().count());
        for (name, entry) in checkpoint.iter() {
            assert!(checkpoint.has_prefix(name));
            let read = checkpoint.read_f32(name);
            match (entry.dtype(), read) {
                (DType::I64 | DType::Other(_), read) => check_error(&read.unwrap_err()),
                (_, Ok(values)) => {
                    assert_eq!(
                        values.len(),
                        entry.shape().iter().product::<usize>(),
                        "{name}"
                    );
                }
                (_, Err(error)) => check_error(&error),
            }
        }
        if let Err(error) = checkpoint.check_finite() {
            check_error(&error);
        }
    });
}

/// Errors can be printed, and are for the user: they say something.
pub fn check_error(error: &Error) {
    assert!(error.to_string().len() > 10);
}

/// Splits at the byte 0xFF, which no UTF-8 text holds; missing parts are `None`.
pub fn parts<const N: usize>(data: &[u8]) -> [Option<&[u8]>; N] {
    let mut parts = data.splitn(N, |byte| *byte == 0xFF);
    std::array::from_fn(|_| parts.next())
}
