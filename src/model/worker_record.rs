//! A worker's heartbeat record, the leader's record, and the fleet that they make up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::blocked_record::{BlockedRecord, RunningCall, Stall};
use super::fnv1a;
use super::lease::{ShardId, WorkerId};

/// A worker's report on itself, written with each heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerRecord {
    /// Raised by each heartbeat.
    pub heartbeat: u64,
    /// A random name of the process: tells one process under a worker id from the next.
    pub incarnation: String,
    /// Whether the worker is releasing its leases.
    pub leaving: bool,
    /// The program's version.
    pub version: String,
    /// The number of leases that the worker knows itself to own.
    pub leases: u64,
    /// The [`digest`] of their keys.
    pub digest: u64,
    /// Everything created before this moment (ms since the epoch) in the worker's shards is delivered and
    /// checkpointed; absent while that isn't known.
    pub caught_up_to_ms: Option<u64>,
    /// The moment from which unprocessed changes count, over all the worker's shards (ms since the epoch; see
    /// [`Lag`](crate::model::lag::Lag)); absent while that isn't known.
    pub unprocessed_since_ms: Option<u64>,
    /// The moment from which changes that are not checkpointed count.
    pub unsaved_since_ms: Option<u64>,
    /// The worker's throughput in KiB a second.
    pub kbps: u64,
    /// GetRecords calls an hour on the worker's shards without records, at their present intervals.
    pub idle_polls_per_hour: u64,
    /// The most leases that the worker will hold.
    pub max_leases: Option<u64>,
    /// Whether the worker's processors cannot keep up, so that it should get nothing new.
    pub overloaded: bool,
    /// Leases that the worker released because its processor hangs on their shards, and that it must not get back yet.
    pub stuck: BTreeSet<ShardId>,
    /// Shards blocked by a record that keeps failing: some of them, if there are many.
    pub blocked: BTreeMap<ShardId, BlockedRecord>,
    /// Shards whose processor call has lasted for [`LONG_CALL`], or has made the worker unready: some of them, if there
    /// are many.
    pub calls: BTreeMap<ShardId, RunningCall>,
    /// Shards without progress: some of them, if there are many.
    pub stalls: BTreeMap<ShardId, Stall>,
    /// The lease duration that the worker runs with; absent in reports of older versions.
    pub lease_duration_ms: Option<u64>,
    /// The longest time for which the worker finishes what it has when it gives a lease away; absent like the one before.
    pub drain_timeout_ms: Option<u64>,
    /// The time of this report by the worker's clock (ms since the epoch). It is for people, and decides nothing.
    pub written_ms: Option<u64>,
}

impl WorkerRecord {
    /// The time without a heartbeat that proves the worker dead to an observer with a lease duration of its own: the
    /// larger of both. While settings are rolled out, a fleet has two.
    pub fn lease_duration(&self, observers: Duration) -> Duration {
        self.lease_duration_ms.map_or(observers, |theirs| observers.max(Duration::from_millis(theirs)))
    }

    /// The worker's drain timeout, or an observer's own if the worker doesn't tell.
    pub fn drain_timeout(&self, observers: Duration) -> Duration {
        self.drain_timeout_ms.map_or(observers, Duration::from_millis)
    }
}

/// The duration from which a processor call is reported: longer than nearly all calls, and short for a person who waits.
pub const LONG_CALL: Duration = Duration::from_secs(10);

/// One worker's item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The worker's id.
    pub id: WorkerId,
    /// Its last heartbeat.
    pub record: WorkerRecord,
    /// Lease rows that it should read again.
    pub inbox: Hints,
    /// Another process that wants this worker's id, and waits for an answer that it is taken.
    pub challenger: Option<String>,
    /// Leases that an operator gave to it, which the leader leaves there for a while.
    pub placed: BTreeSet<ShardId>,
}

/// Lease rows for a worker to read again, because somebody has changed them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    pub keys: BTreeSet<ShardId>,
    /// Whether all rows are to be read.
    pub everything: bool,
}

impl Hints {
    /// Whether no row is to be read.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.everything
    }
}

/// The leader's item.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderRecord {
    /// The leader; `None` after it has left.
    pub worker: Option<WorkerId>,
    /// The incarnation of the leader's process.
    pub incarnation: String,
    /// Raised by each change of leader.
    pub term: u64,
    /// The stream that the application reads.
    pub stream_arn: Option<String>,
    /// The moment at which the application begins to read that stream, unless it begins at its oldest record (ms since
    /// the epoch, by the service's clock): what `LATEST` and `AT_TIMESTAMP` stand for in its leases.
    pub started_at_ms: u64,
    /// Whether a first complete listing has given all shards their leases.
    pub initial_sync_done: bool,
    /// A KCL worker that a leader has found alive on the lease table.
    pub kcl_alive: Option<KclAlive>,
}

/// A KCL worker at work on the lease table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KclAlive {
    /// The worker.
    pub owner: WorkerId,
    /// A lease of its.
    pub lease: ShardId,
    /// The leader's term in which it was found.
    pub term: u64,
    /// The time of that (ms since the epoch, by the leader's clock); for people.
    pub at_ms: Option<u64>,
}

/// The end of a worker's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerEnd {
    /// The worker.
    pub worker: String,
    /// The time of the end (ms since the epoch); of a worker that was found dead, its last report's.
    pub at_ms: Option<u64>,
    /// Whether others found it dead, instead of it ending by itself.
    pub was_found_dead: bool,
    /// The number of leases that it had then.
    pub leases: u64,
    /// The reason: an ending such as `stopped`, an error, or the silence by which it was found.
    pub reason: String,
}

/// The least lag that counts as one: the service tells its time in whole seconds, and a flowing shard is polled less often
/// than written to.
const LEAST_LAG_MS: u64 = 1_500;

/// The number of ends that the fleet table keeps.
pub const KEPT_ENDS: usize = 10;

/// The contents of the fleet table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// The workers, by id.
    pub members: Vec<Member>,
    /// The leader's item; absent before the first leader.
    pub leadership: Option<LeaderRecord>,
    /// The last ends of workers, oldest first.
    pub ends: Vec<WorkerEnd>,
}

/// A worker as seen by another.
#[derive(Clone, Debug)]
pub struct ObservedWorker {
    pub member: Member,
    /// Whether its heartbeat has changed within the lease duration.
    pub is_alive: bool,
    /// Whether its heartbeat was seen to change: proof that it was alive since the observation began.
    pub has_changed: bool,
    /// The time for which its heartbeat is known to be unchanged.
    pub still_for: Duration,
}

impl ObservedWorker {
    /// Whether its heartbeat is late by half an interval, by its own lease duration or the observer's, if that is longer.
    pub fn is_overdue(&self, lease_duration: Duration) -> bool {
        self.still_for >= overdue_after(self.member.record.lease_duration(lease_duration))
    }

    /// The moment from which the worker's unprocessed changes count; one far ahead while there are none. A worker without
    /// lag says so with each heartbeat, and not in between: its moment counts by the time of the heartbeat until the next
    /// one is overdue, by an observer's `lease_duration` if it reports none.
    pub fn unprocessed_since_ms(&self, lease_duration: Duration) -> Option<u64> {
        let record = &self.member.record;
        let since_ms = record.unprocessed_since_ms?;
        let had_lag = record.written_ms.is_none_or(|written_ms| written_ms > since_ms.saturating_add(LEAST_LAG_MS));
        Some(if had_lag || self.is_overdue(lease_duration) { since_ms } else { u64::MAX })
    }
}

/// A digest of a set of lease keys that does not depend on their order: their FNV-1a hashes, combined by exclusive or.
pub fn digest<'a>(keys: impl IntoIterator<Item = &'a ShardId>) -> u64 {
    keys.into_iter().fold(0, |digest, key| digest ^ fnv1a(key.as_str()))
}

/// The interval between heartbeats of a worker with this lease duration.
pub fn heartbeat_interval(lease_duration: Duration) -> Duration {
    lease_duration / 5
}

/// The part of the lease duration that a worker counts on: clocks may differ in their rate.
const CLOCK_RATE_MARGIN: f64 = 0.98;

/// The time for which a heartbeat proves a worker alive, from when it was sent.
pub fn proved_for(lease_duration: Duration) -> Duration {
    lease_duration.mul_f64(CLOCK_RATE_MARGIN)
}

/// The time without a heartbeat after which it is overdue.
pub fn overdue_after(lease_duration: Duration) -> Duration {
    heartbeat_interval(lease_duration).mul_f64(1.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_tell_sets_apart_and_ignore_order() {
        let ids: Vec<ShardId> = (0..50).map(|number| format!("shardId-{number}").into()).collect();
        assert_eq!(digest(&ids), digest(ids.iter().rev()));
        assert_ne!(digest(&ids), digest(&ids[1..]));
        assert_ne!(digest(&ids[..1]), digest(&ids[1..2]));
    }

    #[test]
    fn a_worker_without_lag_has_none_between_two_heartbeats_and_a_lag_counts_however_long_its_lease_duration() {
        let lease_duration = Duration::from_secs(600);
        let seen = |since_ms, still_s| {
            let record = WorkerRecord {
                unprocessed_since_ms: Some(since_ms),
                written_ms: Some(100_000),
                ..WorkerRecord::default()
            };
            let (inbox, placed) = (Hints::default(), BTreeSet::new());
            let member = Member { id: "w".into(), record, inbox, challenger: None, placed };
            let still_for = Duration::from_secs(still_s);
            ObservedWorker { member, is_alive: true, has_changed: true, still_for }.unprocessed_since_ms(lease_duration)
        };
        assert_eq!(seen(99_000, 170), Some(u64::MAX), "it says so until the next heartbeat is overdue");
        assert_eq!(seen(99_000, 180), Some(99_000));
        assert_eq!(seen(40_000, 10), Some(40_000), "a minute's lag");
    }
}
