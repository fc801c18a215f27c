//! The lag of a whole application: over all its unfinished shards, read or not.
//!
//! Lease rows hold KCL's attributes alone, none of which is a time. So it is put together from what workers say of their
//! own shards with each heartbeat, and from what is remembered of that once no worker reports a shard:
//!
//! | a shard | counts from |
//! | --- | --- |
//! | whose live owner knows of it | what the owner says of its shards together |
//! | whose owner is dead, or doesn't know of it yet; which nobody owns | what was last said of it: what is checkpointed |
//! | that waits for its parent, or was never begun, or has no lease yet | its creation, which its id tells |
//! | of which nothing is known at all | when it was first seen |
//!
//! As in [`lag`](super::lag), all is moments, from which lags grow by themselves.

use std::collections::{BTreeMap, BTreeSet};

use super::checkpoint::Checkpoint;
use super::lease::{Lease, ShardId, WorkerId};
use super::shard_graph::unfinished_parents;

/// Records are trimmed after 24 hours (Developer Guide, "DynamoDB Streams").
pub const RETENTION_MS: u64 = 24 * 3_600 * 1_000;

/// A worker's report on its shards together, from its last heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerReport {
    /// Whether it is alive.
    pub is_alive: bool,
    /// Whether the shards that it knows to be its own are those that the rows say.
    pub knows_its_leases: bool,
    /// The moment from which its unprocessed changes count (ms since the epoch), once it is known of all its shards.
    pub unprocessed_since_ms: Option<u64>,
    /// The moment from which its changes that are not checkpointed count.
    pub unsaved_since_ms: Option<u64>,
}

/// The inputs at one moment.
#[derive(Clone, Copy, Debug)]
pub struct LagInputs<'a> {
    pub rows: &'a BTreeMap<ShardId, Lease>,
    /// Shards whose rows cannot be read, or that have none yet.
    pub without_row: &'a BTreeSet<ShardId>,
    pub reports: &'a BTreeMap<WorkerId, WorkerReport>,
    /// The time at which the application began to read the stream (ms since the epoch), which `LATEST` stands for.
    pub started_at_ms: u64,
    pub now_ms: u64,
}

/// The moments from which the lag of the application counts (ms since the epoch); `None` when no shard is unfinished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LagSince {
    /// The oldest change that is not yet processed.
    pub unprocessed_ms: Option<u64>,
    /// The oldest change that is not yet checkpointed.
    pub unsaved_ms: Option<u64>,
}

/// The lag of an application, with the memory that it takes between two updates.
#[derive(Clone, Debug, Default)]
pub struct AppLag {
    /// The last known moment from which a shard's changes that are not checkpointed count.
    known: BTreeMap<ShardId, u64>,
}

impl AppLag {
    /// Takes the inputs in and returns the moments from which the lag counts.
    pub fn update(&mut self, facts: &LagInputs) -> LagSince {
        let is_there = |key: &ShardId| {
            facts.without_row.contains(key) || facts.rows.get(key).is_some_and(|row| !row.is_finished())
        };
        self.known.retain(|key, _| is_there(key));
        let mut since = LagSince::default();
        for row in facts.rows.values().filter(|row| !row.is_finished()) {
            let (unprocessed, unsaved) = self.of_row(row, facts);
            since.note(unprocessed, unsaved);
        }
        for key in facts.without_row.iter().filter(|key| !facts.rows.contains_key(*key)) {
            let known = self.known_or(key, born_ms(key, &Checkpoint::TrimHorizon, facts), facts);
            since.note(known, known);
        }
        since
    }

    /// The moments from which the shard's changes may be unprocessed, and unsaved.
    fn of_row(&mut self, row: &Lease, facts: &LagInputs) -> (u64, u64) {
        if unfinished_parents(row, facts.rows).next().is_some() {
            let since = self.known_or(&row.key, born_ms(&row.key, &row.checkpoint, facts), facts);
            return (since, since);
        }
        let report = row.holder().and_then(|holder| facts.reports.get(holder)).copied().unwrap_or_default();
        match (report.unprocessed_since_ms, report.unsaved_since_ms) {
            (Some(unprocessed), Some(unsaved)) if report.is_alive && report.knows_its_leases => {
                self.known.insert(row.key.clone(), unsaved);
                (unprocessed, unsaved)
            }
            (_, unsaved) => {
                // A dead worker's last word is good as long as nobody else has read the shard.
                let born = || born_ms(&row.key, &row.checkpoint, facts);
                let last_word = unsaved.filter(|_| !report.is_alive);
                let since = self.known_or(&row.key, last_word.or_else(born), facts);
                (since, since)
            }
        }
    }

    fn known_or(&mut self, key: &ShardId, otherwise: Option<u64>, facts: &LagInputs) -> u64 {
        *self.known.entry(key.clone()).or_insert_with(|| otherwise.unwrap_or(facts.now_ms))
    }
}

impl LagSince {
    fn note(&mut self, unprocessed_ms: u64, unsaved_ms: u64) {
        let earlier = |before: Option<u64>, moment: u64| Some(before.map_or(moment, |before| before.min(moment)));
        self.unprocessed_ms = earlier(self.unprocessed_ms, unprocessed_ms);
        self.unsaved_ms = earlier(self.unsaved_ms, unsaved_ms);
    }
}

/// The moment from which the changes count in a shard that nobody has read: its creation, or what `LATEST` stands for,
/// but no earlier than the service keeps records.
pub fn unread_since_ms(key: &ShardId, checkpoint: &Checkpoint, started_at_ms: u64, now_ms: u64) -> Option<u64> {
    let created = key.created_ms().filter(|created| *created <= now_ms + RETENTION_MS)?;
    let since = if checkpoint.is_time() { created.max(started_at_ms) } else { created };
    Some(since.max(now_ms.saturating_sub(RETENTION_MS)))
}

/// Whether the service may have trimmed wanted records of a shard that nobody has read: they are wanted since the shard's
/// creation, but not from before the application's start or `since_ms` of the lease.
pub fn may_be_trimmed(
    key: &ShardId,
    checkpoint: &Checkpoint,
    since_ms: Option<u64>,
    started_at_ms: u64,
    now_ms: u64,
) -> bool {
    let wanted_since = |created: u64| created.max(since_ms.unwrap_or(started_at_ms));
    checkpoint.is_start() && key.created_ms().is_some_and(|created| wanted_since(created) + RETENTION_MS < now_ms)
}

fn born_ms(key: &ShardId, checkpoint: &Checkpoint, facts: &LagInputs) -> Option<u64> {
    unread_since_ms(key, checkpoint, facts.started_at_ms, facts.now_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_600_000;

    struct Scene {
        rows: BTreeMap<ShardId, Lease>,
        without_row: BTreeSet<ShardId>,
        reports: BTreeMap<WorkerId, WorkerReport>,
        memory: AppLag,
    }

    /// A shard that was created so many seconds before [`NOW`].
    fn shard(age_s: u64) -> ShardId {
        format!("shardId-{:020}-abc", NOW - age_s * 1_000).into()
    }

    fn report(is_alive: bool, knows_its_leases: bool, lag_s: u64) -> WorkerReport {
        let since = NOW - lag_s * 1_000;
        let unsaved = Some(since - 2_000);
        WorkerReport { is_alive, knows_its_leases, unprocessed_since_ms: Some(since), unsaved_since_ms: unsaved }
    }

    impl Scene {
        fn new() -> Self {
            let (rows, without_row, reports) = Default::default();
            Self { rows, without_row, reports, memory: AppLag::default() }
        }

        fn row(&mut self, age_s: u64, owner: Option<&str>, checkpoint: &str, parent: Option<u64>) {
            let checkpoint = Checkpoint::parse(checkpoint).expect("a checkpoint");
            let mut row = Lease::new(shard(age_s), parent.map(shard).into_iter().collect(), checkpoint);
            row.owner = owner.map(WorkerId::from);
            self.rows.insert(row.key.clone(), row);
        }

        fn says(&mut self, worker: &str, report: WorkerReport) {
            self.reports.insert(worker.into(), report);
        }

        /// The lag in seconds, so many seconds after [`NOW`].
        fn lag(&mut self, later_s: u64) -> Option<u64> {
            let now_ms = NOW + later_s * 1_000;
            let started_at_ms = NOW - 50_000;
            let (rows, without_row, reports) = (&self.rows, &self.without_row, &self.reports);
            let facts = LagInputs { rows, without_row, reports, started_at_ms, now_ms };
            let since = self.memory.update(&facts);
            since.unprocessed_ms.map(|since| now_ms.saturating_sub(since) / 1_000)
        }
    }

    #[test]
    fn the_owners_speak_for_shards_that_are_read() {
        let mut scene = Scene::new();
        scene.row(1_000, Some("a"), "1", None);
        scene.row(2_000, Some("b"), "1", None);
        scene.says("a", report(true, true, 3));
        scene.says("b", report(true, true, 7));
        assert_eq!(scene.lag(0), Some(7));
    }

    #[test]
    fn a_dead_owners_shards_count_from_its_last_word_and_grow() {
        let mut scene = Scene::new();
        scene.row(1_000, Some("a"), "1", None);
        scene.says("a", report(false, true, 3));
        assert_eq!((scene.lag(0), scene.lag(60)), (Some(5), Some(65)), "what it had not checkpointed waits too");
    }

    #[test]
    fn what_was_said_of_a_shard_is_remembered_when_nobody_owns_it() {
        let mut scene = Scene::new();
        scene.row(1_000, Some("a"), "1", None);
        scene.says("a", report(true, true, 3));
        scene.lag(0);
        scene.row(1_000, None, "1", None);
        scene.reports.clear();
        assert_eq!(scene.lag(10), Some(15));
        scene.row(1_000, Some("b"), "1", None);
        scene.says("b", report(true, false, 0));
        assert_eq!(scene.lag(11), Some(16), "its new owner doesn't know of it yet");
        scene.says("b", report(true, true, 0));
        assert_eq!(scene.lag(12), Some(12), "and now it does");
    }

    #[test]
    fn an_owner_that_cannot_tell_yet_leaves_it_at_what_is_remembered() {
        let mut scene = Scene::new();
        scene.row(1_000, Some("a"), "1", None);
        scene.says("a", report(true, true, 3));
        scene.lag(0);
        scene.says("a", WorkerReport { unprocessed_since_ms: None, unsaved_since_ms: None, ..report(true, true, 0) });
        assert_eq!(scene.lag(20), Some(25));
    }

    #[test]
    fn shards_that_wait_or_were_never_begun_count_from_their_creation() {
        let mut scene = Scene::new();
        scene.row(40, Some("a"), "1", None);
        scene.says("a", report(true, true, 1));
        scene.row(30, Some("a"), "TRIM_HORIZON", Some(40));
        assert_eq!(scene.lag(0), Some(30), "waits for its parent");
        scene.row(90, None, "TRIM_HORIZON", None);
        assert_eq!(scene.lag(0), Some(90), "nobody has begun it");
        scene.row(90, None, "LATEST", None);
        scene.memory = AppLag::default();
        assert_eq!(scene.lag(0), Some(50), "begins at the application's start");
        scene.without_row.insert(shard(70));
        assert_eq!(scene.lag(0), Some(70), "has no lease yet");
    }

    #[test]
    fn finished_shards_count_no_more_and_an_application_without_shards_has_no_lag() {
        let mut scene = Scene::new();
        scene.row(90, None, "SHARD_END", None);
        assert_eq!(scene.lag(0), None);
    }

    #[test]
    fn a_shard_of_which_nothing_is_known_counts_from_when_it_was_first_seen() {
        let mut scene = Scene::new();
        let row = Lease::new("odd".into(), BTreeSet::new(), Checkpoint::TrimHorizon);
        scene.rows.insert(row.key.clone(), row);
        assert_eq!((scene.lag(0), scene.lag(9)), (Some(0), Some(9)));
    }

    #[test]
    fn nothing_is_older_than_what_the_service_keeps() {
        let mut scene = Scene::new();
        scene.row(30 * 3_600, None, "TRIM_HORIZON", None);
        assert_eq!(scene.lag(0), Some(24 * 3_600));
    }
}
