//! Whether a table answers: noted with each call on it, looked at by whoever decides whether the worker gets on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What calls on a table have met lately; clones note and show the same.
#[derive(Clone, Debug, Default)]
pub struct TableHealth(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    last_good: Option<Instant>,
    failing_since: Option<Instant>,
    reason: String,
}

impl TableHealth {
    /// The table has answered.
    pub fn good(&self) {
        let mut state = self.lock();
        state.last_good = Some(Instant::now());
        state.failing_since = None;
    }

    /// A call went wrong, for a reason given in a word.
    pub fn failed(&self, reason: &str) {
        let mut state = self.lock();
        state.failing_since.get_or_insert_with(Instant::now);
        reason.clone_into(&mut state.reason);
    }

    /// How long ago the table last answered.
    pub fn silent_for(&self) -> Option<Duration> {
        self.lock().last_good.map(|at| at.elapsed())
    }

    /// For how long all calls have gone wrong, and how the last one did; nothing when the last one was answered.
    pub fn failing_for(&self) -> Option<(Duration, String)> {
        let state = self.lock();
        state.failing_since.map(|since| (since.elapsed(), state.reason.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_table_fails_from_the_first_bad_call_until_the_next_good_one() {
        let answers = TableHealth::default();
        assert_eq!((answers.failing_for(), answers.silent_for()), (None, None));
        answers.failed("throttled");
        tokio::time::advance(Duration::from_secs(2)).await;
        answers.failed("no_answer");
        assert_eq!(answers.failing_for(), Some((Duration::from_secs(2), "no_answer".into())));
        answers.good();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((answers.failing_for(), answers.silent_for()), (None, Some(Duration::from_secs(1))));
    }
}
