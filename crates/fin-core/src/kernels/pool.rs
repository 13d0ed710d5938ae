//! One hand-over to the threads of a pool for a whole network, not one for every operation.

use std::sync::{Mutex, TryLockError};

use burn::tensor::Device;

/// Held by whoever has a network on the pool. A thread of the pool that waits for others takes up what else there is
/// to do; a second network would have to end before the first went on, and more of them would fill its stack.
static NETWORK: Mutex<()> = Mutex::new(());

/// What `f` gives, which is called on a thread of rayon's pool where `device` is `flex` outside of autodiff.
///
/// An operation that is called from a thread of the program is handed to the pool, and that thread sleeps until it is
/// done; from within the pool, the others are at hand. A batch of one short text has some hundred operations, which
/// takes half of its time. Where a network is on the pool already, and on other devices, `f` is called here.
pub fn on_pool<T: Send>(device: &Device, f: impl FnOnce() -> T + Send) -> T {
    if !crate::device::is_plain_flex(device) || rayon::current_thread_index().is_some() {
        return f();
    }
    // What a panic has left behind is nothing.
    let lock = match NETWORK.try_lock() {
        Ok(lock) => lock,
        Err(TryLockError::Poisoned(lock)) => lock.into_inner(),
        Err(TryLockError::WouldBlock) => return f(),
    };
    let value = rayon::scope(|_| f());
    drop(lock);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_at_a_time_is_on_the_pool() {
        let device = Device::flex();
        let within = || rayon::current_thread_index().is_some();
        let [outer, nested, beside] = on_pool(&device, || {
            let beside = std::thread::scope(|s| s.spawn(|| on_pool(&device, within)).join());
            [within(), on_pool(&device, within), beside.unwrap()]
        });
        assert!(outer && nested && !beside);
        let failed = std::panic::catch_unwind(|| on_pool(&Device::flex(), || panic!("as asked")));
        assert!(failed.is_err());
        assert!(on_pool(&device, within), "free again");
        assert!(!on_pool(&device.autodiff(), within));
    }
}
