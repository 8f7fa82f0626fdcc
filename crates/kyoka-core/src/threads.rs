//! Work that waits for others more than it computes.

use std::sync::{Mutex, PoisonError};

/// Most threads at once: what they wait for may be a process or a connection each.
const MAX_THREADS: usize = 64;

/// Does `work` on every item, as many as 64 at the same time, each on a thread of its own; the results stand in the items' order.
/// For work that waits, as environments and judges do: what computes belongs on a pool.
///
/// ```
/// let waited = kyoka_core::on_threads(vec![3, 1, 2], |number| {
///     std::thread::sleep(std::time::Duration::from_millis(number));
///     10 * number
/// });
/// assert_eq!(waited, [30, 10, 20]);
/// ```
///
/// # Panics
/// If `work` does.
pub fn on_threads<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    on_threads_at_most(MAX_THREADS, items, work)
}

/// [`on_threads`], no more than `most` of them at the same time; with 1 of them on this thread.
///
/// # Panics
/// If `work` does.
pub fn on_threads_at_most<T: Send, R: Send>(
    most: usize,
    items: Vec<T>,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    if items.len().min(most) < 2 {
        return items.into_iter().map(work).collect();
    }
    let (count, threads) = (items.len(), items.len().min(most).min(MAX_THREADS));
    let left = Mutex::new(items.into_iter().enumerate());
    let mut results: Vec<Option<R>> = (0..count).map(|_| None).collect();
    let done: Vec<Vec<(usize, R)>> = std::thread::scope(|scope| {
        let worker = || {
            let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
            std::iter::from_fn(next).map(|(place, item)| (place, work(item))).collect()
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, _>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().map(join).collect()
    });
    done.into_iter().flatten().for_each(|(place, result)| results[place] = Some(result));
    results.into_iter().map(|result| result.expect("every item was taken by a thread")).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn items_wait_side_by_side_and_results_keep_their_order() {
        let (waiting, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let results = on_threads((0..200).collect(), |item: usize| {
            let now = waiting.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            std::thread::sleep(std::time::Duration::from_millis(2));
            waiting.fetch_sub(1, Ordering::SeqCst);
            item * item
        });
        assert_eq!(results, (0..200).map(|item| item * item).collect::<Vec<_>>());
        assert!((2..=MAX_THREADS).contains(&most.into_inner()));
        assert!(on_threads(Vec::<u8>::new(), |item| item).is_empty());
    }
}
