//! The watchdog over processors: it finds the leases to release because a call on their shard does not return, and keeps
//! them from coming straight back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::lease::ShardId;

/// The most leases released at once: their keys are shown in the fleet table, and a worker on which more calls hang
/// needs more help than this.
const MOST_STUCK: usize = 100;

/// The calls that hang.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// The longest time that a call may last, if there is one.
    limit: Option<Duration>,
    /// The leases to release, and those released for less than the limit.
    stuck: BTreeMap<ShardId, Stuck>,
    /// Those that no other worker could take, each logged once.
    without_taker: BTreeSet<ShardId>,
}

#[derive(Debug)]
struct Stuck {
    /// Whether the row no longer names this worker.
    is_released: bool,
    /// When its consumer ended.
    ended: Option<Instant>,
}

/// The watchdog's decision on a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing, or nothing more.
    Keep,
    /// Its consumer must stop delivering, and its lease be released.
    Release,
}

impl Watchdog {
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self { limit, stuck: BTreeMap::new(), without_taker: BTreeSet::new() }
    }

    /// Decides on a shard whose processor's call has lasted for `lasts`. `has_taker` says whether another worker could
    /// read it: without one nothing is gained by its release.
    pub(super) fn check(&mut self, key: &ShardId, lasts: Option<Duration>, has_taker: impl Fn() -> bool) -> Verdict {
        let lasts = lasts.unwrap_or_default();
        if self.limit.is_none_or(|limit| lasts < limit) {
            self.without_taker.remove(key);
            return Verdict::Keep;
        }
        if self.stuck.contains_key(key) || self.stuck.len() >= MOST_STUCK {
            return Verdict::Keep;
        }
        if !has_taker() {
            if self.without_taker.insert(key.clone()) {
                tracing::warn!(shard = %key, lasts_s = lasts.as_secs(), "the processor hangs, and no other worker can take the shard");
            }
            return Verdict::Keep;
        }
        tracing::warn!(shard = %key, lasts_s = lasts.as_secs(), "the processor hangs: the shard goes to another worker");
        self.without_taker.remove(key);
        self.stuck.insert(key.clone(), Stuck { is_released: false, ended: None });
        Verdict::Release
    }

    /// The leases that this worker does not want: those that it releases, and for as long again those that it has
    /// released.
    pub(super) fn stuck(&mut self) -> BTreeSet<ShardId> {
        let limit = self.limit.unwrap_or_default();
        self.stuck.retain(|_, stuck| !stuck.is_released || stuck.ended.is_none_or(|ended| ended.elapsed() < limit));
        self.stuck.keys().cloned().collect()
    }

    /// Whether a lease is among them.
    pub(super) fn is_stuck(&self, key: &ShardId) -> bool {
        self.stuck.contains_key(key)
    }

    /// The leases whose rows are still to be released.
    pub(super) fn to_release(&self) -> Vec<ShardId> {
        self.stuck.iter().filter(|(_, stuck)| !stuck.is_released).map(|(key, _)| key.clone()).collect()
    }

    /// Notes that the row of a lease no longer names this worker.
    pub(super) fn note_released(&mut self, key: &ShardId) {
        if let Some(stuck) = self.stuck.get_mut(key) {
            stuck.is_released = true;
        }
    }

    /// Notes that the row names this worker: a leader that did not know of the hanging call may have assigned it back.
    pub(super) fn note_owned(&mut self, key: &ShardId) {
        if let Some(stuck) = self.stuck.get_mut(key) {
            stuck.is_released = false;
        }
    }

    /// Notes that a consumer has ended. Returns whether its lease is among the stuck ones.
    pub(super) fn note_ended(&mut self, key: &ShardId) -> bool {
        self.without_taker.remove(key);
        let stuck = self.stuck.get_mut(key);
        stuck.is_some_and(|stuck| stuck.ended.replace(Instant::now()).is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn key() -> ShardId {
        "shardId-1".into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_lasts_too_long_costs_the_lease_once_and_for_as_long_again() {
        let mut watchdog = Watchdog::new(Some(LIMIT));
        assert_eq!(watchdog.check(&key(), None, || true), Verdict::Keep);
        assert_eq!(watchdog.check(&key(), Some(LIMIT / 2), || true), Verdict::Keep);
        assert_eq!(watchdog.check(&key(), Some(LIMIT), || true), Verdict::Release);
        assert_eq!(watchdog.check(&key(), Some(LIMIT * 2), || true), Verdict::Keep);
        assert!(watchdog.is_stuck(&key()) && watchdog.stuck().contains(&key()));
        watchdog.note_released(&key());
        assert!(watchdog.note_ended(&key()) && !watchdog.note_ended(&key()));
        tokio::time::advance(LIMIT / 2).await;
        assert!(watchdog.stuck().contains(&key()), "it goes to another worker first");
        tokio::time::advance(LIMIT / 2).await;
        assert!(watchdog.stuck().is_empty() && !watchdog.is_stuck(&key()));
    }

    #[test]
    fn a_lease_that_nobody_else_can_take_is_kept_until_somebody_can() {
        let mut watchdog = Watchdog::new(Some(LIMIT));
        assert_eq!(watchdog.check(&key(), Some(LIMIT), || false), Verdict::Keep);
        assert!(watchdog.stuck().is_empty());
        assert_eq!(watchdog.check(&key(), Some(LIMIT * 2), || true), Verdict::Release);
    }

    #[test]
    fn without_a_limit_calls_may_last() {
        assert_eq!(Watchdog::new(None).check(&key(), Some(LIMIT * 1000), || true), Verdict::Keep);
    }

    #[test]
    fn a_row_that_comes_back_too_early_is_released_again() {
        let mut watchdog = Watchdog::new(Some(LIMIT));
        watchdog.check(&key(), Some(LIMIT), || true);
        assert_eq!(watchdog.to_release(), [key()]);
        watchdog.note_released(&key());
        assert!(watchdog.to_release().is_empty());
        watchdog.note_owned(&key());
        assert_eq!(watchdog.to_release(), [key()]);
    }
}
