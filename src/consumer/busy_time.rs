//! Stopwatches that others can read while they run.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How much time was spent on something, by one task at a time.
#[derive(Debug, Default)]
pub(super) struct BusyTime(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    total: Duration,
    since: Option<Instant>,
}

/// Runs the stopwatch until it is dropped.
pub(super) struct Running<'a>(&'a BusyTime);

impl BusyTime {
    /// Starts it.
    pub(super) fn start(&self) -> Running<'_> {
        self.lock().since = Some(Instant::now());
        Running(self)
    }

    /// The time so far, over all runs.
    pub(super) fn total(&self) -> Duration {
        let state = self.lock();
        state.total + state.since.map_or(Duration::ZERO, |since| since.elapsed())
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

/// The calls that are under way.
#[derive(Debug, Default)]
pub(crate) struct InFlightCalls(Mutex<UnderWay>);

#[derive(Debug, Default)]
struct UnderWay {
    /// When each began, in that order.
    began: BTreeMap<u64, Instant>,
    next: u64,
}

/// Counts as a call until it is dropped.
pub(crate) struct Call<'a> {
    calls: &'a InFlightCalls,
    number: u64,
}

impl InFlightCalls {
    /// A call begins.
    pub(crate) fn start(&self) -> Call<'_> {
        let mut under_way = self.lock();
        let number = under_way.next;
        under_way.next += 1;
        under_way.began.insert(number, Instant::now());
        Call { calls: self, number }
    }

    /// How long the oldest call has lasted that is under way, if one is.
    pub(super) fn runs_for(&self) -> Option<Duration> {
        self.lock().began.first_key_value().map(|(_, began)| began.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.calls.lock().began.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_counts_while_it_runs_and_only_then() {
        let stopwatch = BusyTime::default();
        let running = stopwatch.start();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(stopwatch.total(), Duration::from_secs(3));
        drop(running);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(stopwatch.total(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_calls_the_oldest_counts() {
        let calls = InFlightCalls::default();
        let oldest = calls.start();
        tokio::time::advance(Duration::from_secs(3)).await;
        let newest = calls.start();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(calls.runs_for(), Some(Duration::from_secs(4)));
        drop(oldest);
        assert_eq!(calls.runs_for(), Some(Duration::from_secs(1)));
        drop(newest);
        assert_eq!(calls.runs_for(), None);
    }
}
