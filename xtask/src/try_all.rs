//! Trials beside each other, a line for each, and every failure at the end.

use std::{sync::Mutex, time::Instant};

use anyhow::{Result, ensure};

/// Runs `trial` on every item, as many at once as there are cores, and prints what each says of itself; `plural` names
/// the items.
///
/// # Errors
/// Lists all failures.
pub fn try_all<T: Sync>(
    plural: &str,
    items: &[T],
    name: impl Fn(&T) -> &str + Sync,
    trial: impl Fn(&T) -> Result<String> + Sync,
) -> Result<()> {
    let queue = Mutex::new(items.iter());
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(item) = queue.lock().expect("no thread panics").next() else { return };
                    let (name, started) = (name(item), Instant::now());
                    let outcome = trial(item);
                    match outcome {
                        Ok(said) => println!("{name:<22} {said}, {:.1} s", started.elapsed().as_secs_f64()),
                        Err(error) => {
                            println!("{name:<22} FAILED");
                            failures.lock().expect("no thread panics").push(format!("{name}: {error:#}"));
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no thread panics");
    let (failed, total) = (failures.len(), items.len());
    ensure!(failures.is_empty(), "{failed} of {total} {plural} failed\n\n{}", failures.join("\n\n"));
    Ok(())
}
