//! The health of a table, noted with each call on it. `/ready` asks for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The outcome of the latest calls on a table. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct TableHealth(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    last_good: Option<Instant>,
    failing_since: Option<Instant>,
    reason: String,
}

impl TableHealth {
    /// Notes an answer.
    pub fn good(&self) {
        let mut state = self.lock();
        state.last_good = Some(Instant::now());
        state.failing_since = None;
    }

    /// Notes a failed call, with its reason in a word.
    pub fn failed(&self, reason: &str) {
        let mut state = self.lock();
        state.failing_since.get_or_insert_with(Instant::now);
        reason.clone_into(&mut state.reason);
    }

    /// The time since the last answer.
    pub fn silent_for(&self) -> Option<Duration> {
        self.lock().last_good.map(|at| at.elapsed())
    }

    /// The time for which all calls have failed, and the reason of the last one; `None` when the last one was answered.
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
