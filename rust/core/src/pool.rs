//! A private pool of threads, started at first use, kept for the next call, safe across a fork.

use std::sync::Arc;
use std::thread::available_parallelism;

use arc_swap::ArcSwapOption;
pub use rayon::ThreadPool as Pool;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::CallError;

/// Batches of so many rows have work enough in their columns to spread it over threads.
pub(crate) const SPREAD: usize = 1 << 14;

/// Both, side by side where a pool is given.
pub(crate) fn join<A: Send, B: Send>(
    pool: Option<&ThreadPool>,
    a: impl FnOnce() -> A + Send,
    b: impl FnOnce() -> B + Send,
) -> (A, B) {
    match pool {
        Some(pool) => pool.join(a, b),
        None => (a(), b()),
    }
}

struct Kept {
    process: u32,
    threads: usize,
    pool: Arc<ThreadPool>,
}

/// The pool of the last call. Reading and swapping it takes no lock, since a lock that another
/// thread held at the time of a fork would never be released in the child.
static KEPT: ArcSwapOption<Kept> = ArcSwapOption::const_empty();

/// A pool of `threads` threads: the last call's, if it has as many and belongs to this process.
///
/// # Errors
/// The operating system starts no more threads.
pub fn with_threads(threads: usize) -> Result<Arc<ThreadPool>, CallError> {
    let process = std::process::id();
    if let Some(kept) = KEPT.load().as_ref()
        && kept.process == process
        && kept.threads == threads
    {
        return Ok(Arc::clone(&kept.pool));
    }
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("arrowquant-{index}"))
        .build()
        .map(Arc::new)
        .map_err(|error| CallError::Threads(format!("{threads} threads did not start: {error}")))?;
    let kept = Kept { process, threads, pool: Arc::clone(&pool) };
    if let Some(old) = KEPT.swap(Some(Arc::new(kept)))
        && old.process != process
    {
        // After a fork the old pool's threads do not exist, and ending it would wait for them.
        std::mem::forget(old);
    }
    Ok(pool)
}

/// The thread count to use: `asked`, else ARROWQUANT_NUM_THREADS, else OMP_NUM_THREADS (which Spark
/// and Ray set for their workers), else as many as this process may run on.
///
/// # Errors
/// `asked` or ARROWQUANT_NUM_THREADS is not a positive number, or more than a pool can have.
/// OMP_NUM_THREADS is not ours to complain about: its first number counts, and anything else is
/// passed over.
pub fn thread_count(asked: Option<i64>) -> Result<usize, CallError> {
    let most = rayon::max_num_threads();
    let possible = |count: &usize| (1..=most).contains(count);
    let positive = |text: &str| text.trim().parse::<usize>().ok().filter(possible);
    if let Some(asked) = asked {
        return positive(&asked.to_string()).ok_or_else(|| {
            let why =
                if asked > 0 { format!(" A pool has {most} at most.") } else { String::new() };
            CallError::Threads(format!("threads must be a positive number, got {asked}.{why}"))
        });
    }
    if let Ok(own) = std::env::var("ARROWQUANT_NUM_THREADS") {
        return positive(&own).ok_or_else(|| {
            let found = format!("ARROWQUANT_NUM_THREADS must be a positive number, got '{own}'.");
            CallError::Threads(found)
        });
    }
    let omp = std::env::var("OMP_NUM_THREADS").ok();
    let omp = omp.and_then(|value| positive(value.split(',').next()?));
    Ok(omp.unwrap_or_else(|| available_parallelism().map_or(1, usize::from)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_kept_while_the_count_stays() {
        let first = with_threads(2).unwrap();
        assert!(Arc::ptr_eq(&first, &with_threads(2).unwrap()));
        assert_eq!(with_threads(3).unwrap().current_num_threads(), 3);
    }

    #[test]
    fn counts_that_no_pool_has_are_refused() {
        assert!(thread_count(Some(0)).is_err());
        assert!(thread_count(Some(-1)).is_err());
        assert!(thread_count(Some(1 << 40)).is_err());
        assert_eq!(thread_count(Some(5)).unwrap(), 5);
    }
}
