//! A stopwatch that others can read while it runs.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How much time was spent on something, by one task at a time.
#[derive(Debug, Default)]
pub(crate) struct Stopwatch(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    total: Duration,
    since: Option<Instant>,
}

/// Runs the stopwatch until it is dropped.
pub(crate) struct Running<'a>(&'a Stopwatch);

impl Stopwatch {
    /// Starts it.
    pub(crate) fn start(&self) -> Running<'_> {
        self.lock().since = Some(Instant::now());
        Running(self)
    }

    /// The time so far, over all runs.
    pub(super) fn total(&self) -> Duration {
        let state = self.lock();
        state.total + state.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// How long it has been running now, if it is.
    pub(super) fn runs_for(&self) -> Option<Duration> {
        self.lock().since.map(|since| since.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if let Some(since) = state.since.take() {
            state.total += since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_counts_while_it_runs_and_only_then() {
        let stopwatch = Stopwatch::default();
        let running = stopwatch.start();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!((stopwatch.total(), stopwatch.runs_for()), (Duration::from_secs(3), Some(Duration::from_secs(3))));
        drop(running);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!((stopwatch.total(), stopwatch.runs_for()), (Duration::from_secs(3), None));
    }
}
