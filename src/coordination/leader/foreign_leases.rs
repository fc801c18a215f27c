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
    /// The row as last seen in this owner's name; none while it is in another's.
    seen: Option<(u64, Checkpoint)>,
    /// When the owner was first found to be missing.
    since: Duration,
    /// Writes that left the checkpoint where it was.
    renewals: u64,
    /// Reads that showed a write and began a lease duration after `since`, or later.
    late_writes: u64,
    /// The number of times that the owner took the lease from a worker of ours.
    takes: u64,
    /// Whether one of these counted the switch of owners.
    was_taken: bool,
    /// Whether it then still had the lease a lease duration later.
    keeps: bool,
}

impl ForeignLease {
    fn new(owner: WorkerId, since: Duration) -> Self {
        Self { owner, seen: None, since, renewals: 0, late_writes: 0, takes: 0, was_taken: false, keeps: false }
    }
}

impl ForeignLeases {
    /// Notes a row with a foreign holder, read by a call that was sent and answered at these times. `ours`: the row while
    /// a worker of ours still owned it, if this is the first one after.
    pub(super) fn observe(
        &mut self,
        row: &Lease,
        ours: Option<&Lease>,
        (sent, arrived): (Duration, Duration),
        lease_duration: Duration,
    ) {
        let Some(owner) = row.holder().cloned() else { return };
        self.counters.observe(&row.key, (owner.clone(), row.counter), sent, arrived);
        let new = || ForeignLease::new(owner.clone(), arrived);
        let known = self.leases.entry(row.key.clone()).or_insert_with(new);
        if known.owner != owner {
            *known = new();
        }
        match &known.seen {
            Some((counter, checkpoint)) => {
                let raised = row.counter.saturating_sub(*counter);
                known.renewals += if row.checkpoint == *checkpoint { raised } else { 0 };
                known.late_writes += u64::from(raised > 0 && sent >= known.since + lease_duration);
            }
            None => known.since = arrived,
        }
        if let Some(ours) = ours.filter(|ours| ours.counter < row.counter) {
            let is_counted = row.owner_switches > ours.owner_switches;
            // Otherwise, a write of ours may have raised the counter before somebody edited the row.
            known.takes += u64::from(is_counted || row.checkpoint == ours.checkpoint);
            known.was_taken |= is_counted;
        }
        known.keeps |= known.was_taken && sent >= known.since + lease_duration;
        known.seen = Some((row.counter, row.checkpoint.clone()));
    }

    /// Notes the leases that have foreign holders now, among all that there are. Others' owners are gone, or known again:
    /// they are forgotten if `is_ours` says so, but not for having lost the lease.
    pub(super) fn retain(
        &mut self,
        foreign: &BTreeSet<ShardId>,
        is_there: impl Fn(&ShardId) -> bool,
        is_ours: impl Fn(&WorkerId) -> bool,
    ) {
        self.leases.retain(|key, lease| foreign.contains(key) || is_there(key) && !is_ours(&lease.owner));
        self.leases.iter_mut().filter(|(key, _)| !foreign.contains(*key)).for_each(|(_, lease)| lease.seen = None);
        self.counters.retain(|key| foreign.contains(key));
    }

    /// A KCL worker that is proved to be alive, with a lease that it renews.
    pub(super) fn living(&self) -> Option<(&WorkerId, &ShardId)> {
        let is_living = |lease: &ForeignLease| {
            lease.renewals >= PROOF || lease.late_writes >= PROOF || lease.keeps || lease.takes >= 2
        };
        let living = self.leases.iter().find(|(_, lease)| is_living(lease));
        living.map(|(key, lease)| (&lease.owner, key))
    }

    /// Whether each of the leases has been unchanged for `limit`: then their owners are dead.
    pub(super) fn are_still(&self, limit: Duration) -> bool {
        self.held().all(|key| self.counters.is_stale(key, limit))
    }

    /// Whether a foreign lease has been unchanged for `limit`; one that was never read has not.
    pub(super) fn is_still(&self, lease: &ShardId, limit: Duration) -> bool {
        self.counters.is_stale(lease, limit)
    }

    /// The leases that have foreign holders now.
    pub(super) fn held(&self) -> impl Iterator<Item = &ShardId> {
        self.leases.iter().filter(|(_, lease)| lease.seen.is_some()).map(|(key, _)| key)
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
            leases.observe(&row(*counter, checkpoint), None, (at, at), LEASE_DURATION);
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
        left.retain(&BTreeSet::new(), |_| true, |_| true);
        assert!(left.are_still(Duration::from_secs(10)) && left.held().next().is_none());
    }

    /// The row of a worker of ours.
    fn ours(counter: u64) -> Lease {
        row(counter, "4").owned_by(&"ours".into())
    }

    #[test]
    fn an_owner_that_takes_quiet_leases_from_ours_again_and_again_is_found_alive() {
        let mut leases = ForeignLeases::default();
        for (second, counter) in [(53, 20), (113, 40)] {
            assert!(leases.living().is_none());
            let at = Duration::from_secs(second);
            leases.observe(&row(counter, "4"), Some(&ours(counter - 1)), (at, at), LEASE_DURATION);
            leases.retain(&BTreeSet::new(), |_| true, |_| false); // ours have it back
        }
        assert_eq!(leases.living(), Some((&"kcl".into(), &"s".into())));
    }

    #[test]
    fn an_owner_that_keeps_a_lease_which_it_took_from_ours_is_found_alive() {
        let mut leases = ForeignLeases::default();
        let before = ours(19);
        for (second, before) in [(0, Some(&before)), (1, None), (6, None)] {
            assert!(leases.living().is_none());
            let at = Duration::from_secs(second);
            let taken = Lease { owner_switches: 1, ..row(20, "4") };
            leases.observe(&taken, before, (at, at), LEASE_DURATION);
        }
        assert!(leases.living().is_some());
    }

    #[test]
    fn a_name_that_somebody_writes_into_a_row_is_nobodys() {
        let mut leases = ForeignLeases::default();
        for second in [0, 20, 40] {
            let at = Duration::from_secs(second);
            leases.observe(&row(19, "4"), Some(&ours(19)), (at, at), LEASE_DURATION);
            let later = at + LEASE_DURATION * 2;
            leases.observe(&row(19, "4"), None, (later, later), LEASE_DURATION);
            leases.retain(&BTreeSet::new(), |_| true, |_| false);
        }
        assert!(leases.living().is_none());
    }
}
