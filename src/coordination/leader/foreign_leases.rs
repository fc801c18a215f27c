//! Leases whose owner is not in the fleet table: a KCL fleet may be at work on them, or they were left behind.
//!
//! A KCL worker renews each of its leases every few seconds: the counter rises, the checkpoint stays. One of ours may
//! be missing from the fleet table as well, when its record was lost. It raises a counter without moving the checkpoint
//! twice at most: it takes the lease back and claims it. A lease duration later it has stopped: at most a write that was
//! on its way by then still arrives, and the one by which it notices after a pause. An owner that writes more is KCL's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::checkpoint::Checkpoint;
use crate::model::lease::{Lease, ShardId, WorkerId};
use crate::model::liveness::Observations;

/// So many renewals, or so many writes after a lease duration, prove a KCL worker alive.
const PROOF: u64 = 3;

/// A leader's observations of such leases. Times are since any fixed moment of its clock.
#[derive(Debug, Default)]
pub(super) struct ForeignLeases {
    counters: Observations<ShardId, (WorkerId, u64)>,
    leases: BTreeMap<ShardId, ForeignLease>,
}

#[derive(Debug)]
struct ForeignLease {
    owner: WorkerId,
    counter: u64,
    checkpoint: Checkpoint,
    /// When the owner was first found to be missing.
    since: Duration,
    /// Writes that left the checkpoint where it was.
    renewals: u64,
    /// Reads that showed a write and began a lease duration after `since`, or later.
    late_writes: u64,
}

impl ForeignLeases {
    /// Notes a row with a foreign holder, read by a call that was sent and answered at these times.
    pub(super) fn observe(&mut self, row: &Lease, sent: Duration, arrived: Duration, lease_duration: Duration) {
        let Some(owner) = row.holder().cloned() else { return };
        self.counters.observe(&row.key, (owner.clone(), row.counter), sent, arrived);
        let (counter, checkpoint) = (row.counter, row.checkpoint.clone());
        let now = ForeignLease { owner, counter, checkpoint, since: arrived, renewals: 0, late_writes: 0 };
        match self.leases.get_mut(&row.key) {
            Some(known) if known.owner == now.owner => {
                let raised = now.counter.saturating_sub(known.counter);
                known.renewals += if now.checkpoint == known.checkpoint { raised } else { 0 };
                known.late_writes += u64::from(raised > 0 && sent >= known.since + lease_duration);
                (known.counter, known.checkpoint) = (now.counter, now.checkpoint);
            }
            _ => drop(self.leases.insert(row.key.clone(), now)),
        }
    }

    /// Forgets all leases but these: the others are finished or gone, or their owners are known again.
    pub(super) fn retain(&mut self, leases: &BTreeSet<ShardId>) {
        self.leases.retain(|key, _| leases.contains(key));
        self.counters.retain(|key| leases.contains(key));
    }

    /// A KCL worker that is proved to be alive, with a lease that it renews.
    pub(super) fn living(&self) -> Option<(&WorkerId, &ShardId)> {
        let is_living = |lease: &ForeignLease| lease.renewals >= PROOF || lease.late_writes >= PROOF;
        let living = self.leases.iter().find(|(_, lease)| is_living(lease));
        living.map(|(key, lease)| (&lease.owner, key))
    }

    /// Whether each of the leases has been unchanged for `limit`: then their owners are dead.
    pub(super) fn are_still(&self, limit: Duration) -> bool {
        self.leases.keys().all(|key| self.counters.is_stale(key, limit))
    }

    /// Whether a foreign lease has been unchanged for `limit`; one that was never read has not.
    pub(super) fn is_still(&self, lease: &ShardId, limit: Duration) -> bool {
        self.counters.is_stale(lease, limit)
    }

    /// The number of leases observed.
    pub(super) fn len(&self) -> usize {
        self.leases.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE_DURATION: Duration = Duration::from_secs(5);

    fn row(counter: u64, checkpoint: &str) -> Lease {
        let checkpoint = Checkpoint::parse(checkpoint).expect("a checkpoint");
        Lease { counter, ..Lease::new("s".into(), BTreeSet::new(), checkpoint).owned_by(&"kcl".into()) }
    }

    /// Looks at rows, each at its second.
    fn look(rows: &[(u64, u64, &str)]) -> ForeignLeases {
        let mut leases = ForeignLeases::default();
        for (second, counter, checkpoint) in rows {
            let at = Duration::from_secs(*second);
            leases.observe(&row(*counter, checkpoint), at, at, LEASE_DURATION);
        }
        leases
    }

    #[test]
    fn a_kcl_worker_that_renews_an_idle_lease_is_found_alive() {
        assert!(look(&[(0, 17, "4"), (3, 18, "4"), (6, 19, "4")]).living().is_none());
        let found = look(&[(0, 17, "4"), (3, 18, "4"), (6, 19, "4"), (10, 20, "4")]);
        assert_eq!(found.living(), Some((&"kcl".into(), &"s".into())));
    }

    #[test]
    fn a_kcl_worker_is_found_by_rare_looks_and_on_a_busy_lease_as_well() {
        assert!(look(&[(0, 17, "4"), (30, 26, "4")]).living().is_some());
        let busy = [(0, 17, "4"), (2, 19, "5"), (6, 21, "6"), (7, 22, "7"), (8, 23, "8")];
        assert!(look(&busy[..4]).living().is_none());
        assert!(look(&busy).living().is_some());
    }

    #[test]
    fn one_of_ours_that_lost_its_item_is_not_taken_for_kcl() {
        // It takes the lease back, claims it, checkpoints while it may; a last write is delayed for long, and another is
        // made when it resumes after a pause.
        let ours = [(0, 17, "4"), (1, 18, "4"), (2, 19, "4"), (3, 20, "5"), (4, 21, "6"), (50, 22, "7"), (60, 23, "8")];
        let seen = look(&ours);
        assert!(seen.living().is_none());
        assert!(!seen.are_still(Duration::from_secs(10)));
    }

    #[test]
    fn an_owner_whose_leases_never_change_is_dead() {
        assert!(look(&[(0, 17, "4"), (11, 17, "4")]).are_still(Duration::from_secs(10)));
        assert!(!look(&[(0, 17, "4"), (9, 17, "4")]).are_still(Duration::from_secs(10)));
        assert!(look(&[(0, 17, "4"), (11, 17, "4")]).is_still(&"s".into(), Duration::from_secs(10)));
        assert!(!look(&[]).is_still(&"s".into(), Duration::from_secs(10)), "never looked at");
        let mut left = look(&[(0, 17, "4")]);
        left.retain(&BTreeSet::new());
        assert!(left.are_still(Duration::from_secs(10)) && left.len() == 0);
    }
}
