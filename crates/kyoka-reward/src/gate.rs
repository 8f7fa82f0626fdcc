//! How many may do something at the same time.

use std::sync::{Condvar, Mutex, PoisonError};

/// Lets so many in at once; others wait.
#[derive(Debug)]
pub(crate) struct Gate {
    most: usize,
    inside: Mutex<usize>,
    left: Condvar,
}

impl Gate {
    pub fn new(most: usize) -> Self {
        Self { most, inside: Mutex::new(0), left: Condvar::new() }
    }

    /// Does `work` once there is room.
    pub fn pass<R>(&self, work: impl FnOnce() -> R) -> R {
        let lock = || self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let inside = lock();
        *self
            .left
            .wait_while(inside, |inside| *inside >= self.most)
            .unwrap_or_else(PoisonError::into_inner) += 1;
        // Whatever becomes of the work, its place is free again.
        struct Leave<'a>(&'a Gate);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                *self.0.inside.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
                self.0.left.notify_one();
            }
        }
        let _leave = Leave(self);
        work()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn no_more_than_so_many_are_inside() {
        let (gate, inside, most) = (Gate::new(2), AtomicUsize::new(0), AtomicUsize::new(0));
        kyoka_core::on_threads((0..16).collect(), |_: usize| {
            gate.pass(|| {
                most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_millis(3));
                inside.fetch_sub(1, Ordering::SeqCst);
            });
        });
        assert_eq!(most.into_inner(), 2);
    }
}
