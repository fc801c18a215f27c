//! Observation of the fleet, and the election of its leader.
//!
//! Every worker reads the fleet table. When nobody leads, or the leader is dead, a worker writes its own name into the
//! leader's record, on the condition that the record is still the one it saw.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::coordination::{Deps, Error, FleetObserver, Notice};
use crate::model::fleet_view::FleetView;
use crate::model::lease::{ShardId, WorkerId};
use crate::model::liveness::Observations;
use crate::model::worker_record::{KclAlive, LeaderRecord, WorkerRecord};

/// Workers that observe as closely as the leader, so that one of them can follow it at once.
const STANDBYS: usize = 3;
/// Reads of the fleet table that a new worker makes closely, to learn whether it is a standby.
const FIRST_READS: u64 = 3;
/// The most departed workers that are remembered.
const DEPARTED_LIMIT: usize = 1000;

/// A worker's view of its fleet, and its candidacy.
pub(super) struct Election {
    pub(super) deps: Deps,
    pub(super) notices: mpsc::UnboundedSender<Notice>,
    pub(super) rng: Rng,
    pub(super) observer: FleetObserver,
    pub(super) view: FleetView,
    view_sender: watch::Sender<FleetView>,
    /// Leaders whose worker record is missing, by term.
    missing_leaders: Observations<u64, ()>,
    /// Workers whose records were there once: they are not foreign.
    departed: BTreeMap<WorkerId, Departure>,
    /// The term of the leader's record when this worker first read it: what was found out before is not about its fleet.
    first_term: Option<u64>,
}

/// A worker whose record has gone from the fleet table.
#[derive(Clone, Copy, Debug)]
struct Departure {
    last_seen: Instant,
    lease_duration: Duration,
    /// A worker that was leaving no longer holds anything.
    was_leaving: bool,
}

impl Election {
    pub(super) fn new(
        deps: Deps,
        view_sender: watch::Sender<FleetView>,
        notices: mpsc::UnboundedSender<Notice>,
        rng: Rng,
    ) -> Self {
        let observer = FleetObserver::new(deps.fleet.clone(), deps.options.lease_duration);
        Self {
            deps,
            notices,
            rng,
            observer,
            view: FleetView::default(),
            view_sender,
            missing_leaders: Observations::default(),
            departed: BTreeMap::new(),
            first_term: None,
        }
    }

    /// Reads the fleet table, and takes the lead if nobody has it. Returns whether this worker has just done so.
    pub(super) async fn observe(&mut self) -> Result<bool, Error> {
        let view = self.observer.refresh().await?;
        self.note_departures(&view);
        self.view = view;
        if let Some(leadership) = &self.view.leadership {
            let term = leadership.term;
            self.missing_leaders.retain(|seen| *seen == term);
            if leadership.worker.as_ref().is_some_and(|leader| self.view.worker(leader).is_none()) {
                let (sent, arrived) = self.observer.last_scan();
                self.missing_leaders.observe(&term, (), sent, arrived);
            }
        }
        let term = self.view.leadership.as_ref().map_or(0, |leadership| leadership.term);
        self.first_term.get_or_insert(term);
        if let Some(KclAlive { owner, lease, .. }) = self.kcl_alive().cloned() {
            let _ = self.notices.send(Notice::Failed(Error::KclAlive { owner, lease }));
        }
        self.publish_view();
        // Before the election: the lead of an application that follows the next stream is not for a worker of the last one.
        self.check_stream()?;
        let is_elected = self.kcl_alive().is_none()
            && self.is_vacant()
            && !self.deps.record.get().leaving
            && self.try_acquire_leadership().await?;
        self.publish_view();
        Ok(is_elected)
    }

    /// The KCL worker that a leader has found alive since this worker joined: the fleet leaves.
    pub(super) fn kcl_alive(&self) -> Option<&KclAlive> {
        let found = self.view.leadership.as_ref()?.kcl_alive.as_ref()?;
        self.first_term.is_some_and(|first| found.term > first).then_some(found)
    }

    /// Has all workers leave: a KCL worker is alive on the lease table.
    pub(super) async fn publish_kcl_alive(&mut self, owner: WorkerId, lease: ShardId) -> Result<(), Error> {
        let Some(seen) = self.view.leadership.clone() else { return Ok(()) };
        tracing::error!(%owner, shard = %lease, "a KCL worker is alive on the lease table; the fleet leaves");
        let (term, at_ms) = (seen.term + 1, Some(self.deps.options.clock.now_ms()));
        let kcl_alive = Some(KclAlive { owner: owner.clone(), lease: lease.clone(), term, at_ms });
        let wanted = LeaderRecord { term, kcl_alive, ..seen.clone() };
        if self.deps.fleet.write_leader(&wanted, Some(seen.term)).await? {
            self.view.leadership = Some(wanted);
            let _ = self.notices.send(Notice::Failed(Error::KclAlive { owner, lease }));
        }
        Ok(())
    }

    /// Shows the present view to the other tasks of this worker.
    pub(super) fn publish_view(&self) {
        self.view_sender.send_replace(self.view.clone());
    }

    fn note_departures(&mut self, view: &FleetView) {
        let term = |view: &FleetView| view.leadership.as_ref().map(|leadership| leadership.term);
        // Whoever empties the table removes workers that have not said goodbye.
        let was_emptied = term(view) < term(&self.view);
        for seen in &self.view.workers {
            if view.worker(&seen.member.id).is_none() {
                let record = &seen.member.record;
                let lease_duration = record.lease_duration(self.deps.options.lease_duration);
                let was_leaving = record.leaving && !was_emptied;
                let departure = Departure { last_seen: Instant::now(), lease_duration, was_leaving };
                self.departed.insert(seen.member.id.clone(), departure);
            }
        }
        self.departed.retain(|id, _| view.worker(id).is_none());
        while self.departed.len() > DEPARTED_LIMIT {
            let oldest = self.departed.iter().min_by_key(|(_, departure)| departure.last_seen);
            let Some(oldest) = oldest.map(|(id, _)| id.clone()) else { break };
            self.departed.remove(&oldest);
        }
    }

    /// Whether a worker may be delivering: its heartbeat lives, or its record vanished less than a lease duration ago
    /// though it was not leaving.
    pub(super) fn may_be_alive(&self, id: &WorkerId) -> bool {
        let lingers =
            |departure: &Departure| !departure.was_leaving && departure.last_seen.elapsed() < departure.lease_duration;
        self.view.is_alive(id) || self.departed.get(id).is_some_and(lingers)
    }

    /// The time that the old owner of a lease has, by its own settings, to drop a call that hangs before the new one gets
    /// the lease by force.
    pub(super) fn hand_off_timeout(&self, old_owner: &WorkerRecord) -> Duration {
        let own = &self.deps.options;
        old_owner.drain_timeout(own.drain_timeout) + old_owner.lease_duration(own.lease_duration)
    }

    /// The longest lease duration of this worker and all that it has seen: the one that counts for a worker whose own is
    /// gone with its record.
    pub(super) fn longest_lease_duration(&self) -> Duration {
        let seen = self.view.longest_lease_duration(self.deps.options.lease_duration);
        self.departed.values().map(|departure| departure.lease_duration).fold(seen, Duration::max)
    }

    /// The time without a change after which a lease of an owner outside the fleet table expires. The owner may be one of
    /// KCL's, or of ours.
    pub(super) fn foreign_lease_duration(&self) -> Duration {
        self.deps.options.kcl_failover_time.max(self.longest_lease_duration())
    }

    /// Whether a worker isn't in the fleet table and was not seen there before: one of KCL's, or one of ours whose
    /// record was lost.
    pub(super) fn is_foreign(&self, id: &WorkerId) -> bool {
        self.view.worker(id).is_none() && !self.departed.contains_key(id)
    }

    /// The time since a worker last gave a sign of life; nothing for one that this worker has never seen.
    pub(super) fn silent_for(&self, id: &WorkerId) -> Option<Duration> {
        match self.observer.unchanged_since(id) {
            Some(since) => Some(self.observer.elapsed().saturating_sub(since)),
            None => self.departed.get(id).map(|departure| departure.last_seen.elapsed()),
        }
    }

    pub(super) fn leads(&self) -> bool {
        let me = &self.deps.me;
        self.view.leadership.as_ref().is_some_and(|leadership| {
            leadership.worker.as_ref() == Some(&me.worker) && leadership.incarnation == me.incarnation
        })
    }

    /// Whether nobody leads: there is no leader's record, or one of a leader that left or died, or of this worker's
    /// last process.
    fn is_vacant(&self) -> bool {
        let Some(leadership) = &self.view.leadership else { return true };
        let Some(leader) = &leadership.worker else { return true };
        if *leader == self.deps.me.worker {
            return leadership.incarnation != self.deps.me.incarnation;
        }
        match self.view.worker(leader) {
            Some(seen) => !seen.is_alive || seen.member.record.incarnation != leadership.incarnation,
            None => self.missing_leaders.is_stale(&leadership.term, self.longest_lease_duration()),
        }
    }

    async fn try_acquire_leadership(&mut self) -> Result<bool, Error> {
        let seen = self.view.leadership.clone();
        let wanted = LeaderRecord {
            worker: Some(self.deps.me.worker.clone()),
            incarnation: self.deps.me.incarnation.clone(),
            term: seen.as_ref().map_or(0, |seen| seen.term + 1),
            stream_arn: Some(self.deps.stream.arn().to_owned()),
            ..seen.clone().unwrap_or_default()
        };
        if !self.deps.fleet.write_leader(&wanted, seen.as_ref().map(|seen| seen.term)).await? {
            return Ok(false);
        }
        let before = seen.as_ref().and_then(|seen| seen.worker.as_ref());
        tracing::info!(term = wanted.term, before = before.map(WorkerId::as_str), "this worker leads the fleet");
        self.view.leadership = Some(wanted);
        Ok(true)
    }

    fn check_stream(&self) -> Result<(), Error> {
        let bound = self.view.leadership.as_ref().and_then(|leadership| leadership.stream_arn.as_deref());
        match bound {
            Some(bound) if bound != self.deps.stream.arn() => Err(Error::OtherStream {
                app: self.deps.leases.name().to_owned(),
                other: bound.to_owned(),
                wanted: self.deps.stream.arn().to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// The first moment after now at which a read could prove a live worker dead.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let now = self.observer.elapsed();
        let own = self.deps.options.lease_duration;
        let expiries = self.view.live().filter_map(|seen| {
            Some(self.observer.unchanged_since(&seen.member.id)? + seen.member.record.lease_duration(own))
        });
        let next = expiries.filter(|at| *at > now).min()?;
        Some(self.observer.origin() + next + Duration::from_millis(1))
    }

    /// Whether this worker is among the first of those who would follow the leader.
    pub(super) fn is_standby(&self) -> bool {
        let leader = self.view.leader();
        let followers = self.view.live().map(|seen| &seen.member.id).filter(|id| Some(*id) != leader);
        self.view.reads < FIRST_READS || followers.take(STANDBYS).any(|id| *id == self.deps.me.worker)
    }
}
