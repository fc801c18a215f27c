//! Durations that other tasks can read while they run: time spent waiting, calls in flight, streaks of failures.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::blocked_record::shown;

/// The time that one task has spent on something.
#[derive(Debug, Default)]
pub(super) struct BusyTime(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    total: Duration,
    since: Option<Instant>,
}

/// Counts as busy until it is dropped.
pub(super) struct Busy<'a>(&'a BusyTime);

impl BusyTime {
    pub(super) fn start(&self) -> Busy<'_> {
        self.lock().since = Some(Instant::now());
        Busy(self)
    }

    /// The time so far, the current wait included.
    pub(super) fn total(&self) -> Duration {
        let state = self.lock();
        state.total + state.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The duration of the current wait.
    pub(super) fn lasts(&self) -> Option<Duration> {
        self.lock().since.map(|since| since.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if let Some(since) = state.since.take() {
            state.total += since.elapsed();
        }
    }
}

/// The calls in flight, each with a description.
#[derive(Debug)]
pub(crate) struct InFlightCalls<T = ()>(Mutex<Calls<T>>);

#[derive(Debug)]
struct Calls<T> {
    /// The start of each call, oldest first.
    started: BTreeMap<u64, (Instant, T)>,
    /// The start of the first call since one returned.
    silent_since: Option<Instant>,
    next: u64,
    longest: Duration,
}

/// A call in flight until it is dropped.
pub(crate) struct InFlightCall<'a, T = ()> {
    calls: &'a InFlightCalls<T>,
    number: u64,
}

impl<T> Default for InFlightCalls<T> {
    fn default() -> Self {
        Self(Mutex::new(Calls { started: BTreeMap::new(), silent_since: None, next: 0, longest: Duration::ZERO }))
    }
}

impl<T> InFlightCalls<T> {
    pub(crate) fn start(&self, call: T) -> InFlightCall<'_, T> {
        let mut calls = self.lock();
        let number = calls.next;
        calls.next += 1;
        let now = Instant::now();
        calls.started.insert(number, (now, call));
        calls.silent_since.get_or_insert(now);
        InFlightCall { calls: self, number }
    }

    /// The age of the oldest call in flight.
    pub(super) fn oldest(&self) -> Option<Duration> {
        self.lock().started.first_key_value().map(|(_, (started, _))| started.elapsed())
    }

    /// The time for which calls were made and none has returned; zero while there are none.
    pub(super) fn silence(&self) -> Duration {
        let calls = self.lock();
        calls.silent_since.filter(|_| !calls.started.is_empty()).map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Notes that a call with records has returned, or that nothing waits for those that were dropped.
    pub(super) fn end_silence(&self) {
        let mut calls = self.lock();
        calls.silent_since = (!calls.started.is_empty()).then(Instant::now);
    }

    /// The oldest call in flight, if it has lasted for `limit`.
    pub(super) fn oldest_beyond(&self, limit: Duration) -> Option<T>
    where
        T: Clone,
    {
        let calls = self.lock();
        let (_, (started, call)) = calls.started.first_key_value()?;
        (started.elapsed() >= limit).then(|| call.clone())
    }

    /// The duration of the longest call that has ended.
    pub(super) fn longest(&self) -> Duration {
        self.lock().longest
    }

    fn lock(&self) -> MutexGuard<'_, Calls<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> InFlightCall<'_, T> {
    /// Ends the call, which has returned. A silence that is older than the call continues.
    pub(super) fn returned(self) {
        let calls = self.calls;
        let was_first = {
            let calls = calls.lock();
            calls.started.get(&self.number).map(|(started, _)| *started) == calls.silent_since
        };
        drop(self);
        if was_first {
            calls.end_silence();
        }
    }
}

impl<T> Drop for InFlightCall<'_, T> {
    fn drop(&mut self) {
        let mut calls = self.calls.lock();
        let lasted = calls.started.remove(&self.number).map(|(started, _)| started.elapsed());
        calls.longest = calls.longest.max(lasted.unwrap_or_default());
    }
}

/// Calls that fail one after the other: since when, and the last error.
#[derive(Debug, Default)]
pub(super) struct FailureStreak(Mutex<Option<(Instant, String)>>);

impl FailureStreak {
    /// Notes the outcome of a call, by its error.
    pub(super) fn note<E: Display>(&self, error: Option<&E>) {
        let mut streak = self.lock();
        let since = streak.as_ref().map(|(since, _)| *since);
        *streak = error.map(|error| (since.unwrap_or_else(Instant::now), shown(&error.to_string())));
    }

    pub(super) fn clear(&self) {
        *self.lock() = None;
    }

    pub(super) fn lasts(&self) -> Option<Duration> {
        self.lock().as_ref().map(|(since, _)| since.elapsed())
    }

    pub(super) fn last_error(&self) -> Option<String> {
        self.lock().as_ref().map(|(_, error)| error.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn busy_time_counts_while_it_runs_and_only_then() {
        let busy = BusyTime::default();
        let running = busy.start();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(busy.total(), Duration::from_secs(3));
        drop(running);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(busy.total(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silence_lasts_over_calls_that_are_dropped_and_ends_with_the_call_that_began_it() {
        let calls = InFlightCalls::default();
        drop(calls.start(()));
        assert_eq!(calls.silence(), Duration::ZERO, "no call waits");
        tokio::time::advance(Duration::from_secs(3)).await;
        let retry = calls.start(());
        calls.start(()).returned();
        assert_eq!(calls.silence(), Duration::from_secs(3));
        calls.end_silence();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(calls.silence(), Duration::from_secs(1));
        drop(retry);
        calls.end_silence();
        let only = calls.start(());
        tokio::time::advance(Duration::from_secs(1)).await;
        only.returned();
        let _next = calls.start(());
        assert_eq!(calls.silence(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_of_several_calls_counts() {
        let calls = InFlightCalls::default();
        let first = calls.start(1);
        tokio::time::advance(Duration::from_secs(3)).await;
        let second = calls.start(2);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(calls.oldest(), Some(Duration::from_secs(4)));
        assert_eq!(calls.oldest_beyond(Duration::from_secs(4)), Some(1));
        assert_eq!(calls.oldest_beyond(Duration::from_secs(5)), None);
        drop(first);
        assert_eq!(calls.oldest(), Some(Duration::from_secs(1)));
        drop(second);
        assert_eq!(calls.oldest(), None);
    }
}
