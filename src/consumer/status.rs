//! What the consumer of one shard shows of itself while it runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::stopwatch::{Calls, Stopwatch};
use crate::core::lag::Lag;
use crate::core::sequence_number::SequenceNumber;
use crate::metrics;

/// What a consumer shows of itself while it runs.
#[derive(Debug, Default)]
pub struct ShardStatus {
    /// Everything in the shard that was created before this moment (ms since the epoch) is delivered and
    /// checkpointed; 0 while that isn't known.
    caught_up_to_ms: AtomicU64,
    /// See [`Lag`].
    lag: Mutex<Lag>,
    /// Whether the consumer waits for the shard's parents.
    blocked: AtomicBool,
    /// The processors' calls.
    pub(super) calls: Calls,
    /// The reader's waiting for the processor and for memory.
    pub(super) waits: Stopwatch,
    /// The records that keep failing, by the unit that they are in.
    halts: Mutex<BTreeMap<u64, Halt>>,
}

/// A record that keeps failing and is not given up, for which its shard, or at least what follows of its item, waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    /// Where the record stands in its shard.
    pub sequence_number: SequenceNumber,
    /// The service's id of the change.
    pub event_id: Option<String>,
    /// The item's key, as the service wrote it, cut to some hundred bytes.
    pub keys: String,
    /// What went wrong last, cut to some hundred bytes.
    pub error: String,
    /// How often the record was handed to the processor.
    pub attempts: u32,
    /// When it failed first (ms since the epoch).
    pub since_ms: u64,
}

impl ShardStatus {
    /// The shard's lag in milliseconds, as far as it is known.
    pub fn lag_ms(&self, now_ms: u64, idle_poll: Duration) -> Option<u64> {
        let idle_poll_ms = u64::try_from(idle_poll.as_millis()).unwrap_or(u64::MAX);
        self.lag.lock().unwrap_or_else(PoisonError::into_inner).read(now_ms, idle_poll_ms)
    }

    /// Notes something that the lag follows from.
    pub(super) fn note(&self, change: impl FnOnce(&mut Lag)) {
        change(&mut self.lag.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// See the field.
    pub fn caught_up_to_ms(&self) -> u64 {
        self.caught_up_to_ms.load(Ordering::Relaxed)
    }

    pub(super) fn set_caught_up(&self, moment_ms: u64) {
        self.caught_up_to_ms.fetch_max(moment_ms, Ordering::Relaxed);
    }

    /// How long the oldest call of a processor has lasted that is under way, if one is.
    pub fn call_lasts(&self) -> Option<Duration> {
        self.calls.runs_for()
    }

    /// For how long, in all, what was read has waited for the processor or for memory.
    pub fn waited(&self) -> Duration {
        self.waits.total()
    }

    /// Whether the shard waits for its parents.
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    pub(super) fn set_blocked(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
    }

    /// The record that the shard has waited for longest, if there is one.
    pub fn halt(&self) -> Option<Halt> {
        self.halts().values().min_by_key(|halt| halt.since_ms).cloned()
    }

    /// Shows that a unit waits for a record that keeps failing.
    pub(super) fn set_halt(&self, unit: u64, halt: Halt) {
        let mut halts = self.halts();
        if halts.is_empty() {
            ::metrics::gauge!(metrics::SHARDS_HALTED.name).increment(1.0);
        }
        halts.insert(unit, halt);
    }

    /// A unit waits no more.
    pub(super) fn clear_halt(&self, unit: u64) {
        let mut halts = self.halts();
        if halts.remove(&unit).is_some() && halts.is_empty() {
            ::metrics::gauge!(metrics::SHARDS_HALTED.name).decrement(1.0);
        }
    }

    /// Nothing of the shard is tried here any more.
    pub(super) fn clear_halts(&self) {
        if !std::mem::take(&mut *self.halts()).is_empty() {
            ::metrics::gauge!(metrics::SHARDS_HALTED.name).decrement(1.0);
        }
    }

    fn halts(&self) -> MutexGuard<'_, BTreeMap<u64, Halt>> {
        self.halts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
