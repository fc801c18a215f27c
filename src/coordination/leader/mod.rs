//! The leader's work, and every worker's readiness to take it over.
//!
//! All workers watch the fleet table. The one whose name is on the leader's item, while its heartbeat lives, lists
//! the shards, makes missing leases, gives those of the dead to the living, evens out the rest and cleans up. A paused
//! leader that wakes up does no harm: each of its writes is conditional on the row it saw.

mod app_metrics;
mod assign;
mod foreign_leases;
mod state;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::state::LeaderState;
use super::fleet_view::{FleetView, Heartbeats};
use super::heartbeat::SharedWorkerRecord;
use super::{Error, Identity, Notice};
use crate::aws::fleet_table::FleetTable;
use crate::aws::lease_table::LeaseTable;
use crate::aws::stream::{self, Stream};
use crate::consumer::{FatalError, SpawnConsumer};
use crate::model::lease::WorkerId;
use crate::model::liveness::Observations;
use crate::model::worker_record::LeaderRecord;
use crate::options::WorkerOptions;
use crate::telemetry::{Loop, WorkerTelemetry};

/// A leader looks at leases that are being handed over this often.
const HAND_OFF_LOOK: Duration = Duration::from_millis(200);
/// Workers that watch closely, beside the leader, so that one of them follows it without having to look twice.
const STANDBYS: usize = 3;
/// How many workers that have left are remembered.
const DEPARTED_LIMIT: usize = 1000;

/// One worker's part in leading the fleet.
pub(super) struct Leader {
    me: Identity,
    options: Arc<WorkerOptions>,
    stream: Stream,
    leases: LeaseTable,
    fleet: FleetTable,
    presence: SharedWorkerRecord,
    view_sender: watch::Sender<FleetView>,
    notices: mpsc::UnboundedSender<Notice>,
    /// This worker's consumers, who may want to know what listings show.
    starter: Arc<dyn SpawnConsumer>,
    board: WorkerTelemetry,
    rng: Rng,
    /// The zero of all observations.
    origin: Instant,
    heartbeats: Heartbeats,
    /// Leaders whose worker item is missing, by term.
    missing_leaders: Observations<u64, ()>,
    reads: u64,
    view: FleetView,
    /// Workers whose items were there once: they are no strangers.
    departed: BTreeMap<WorkerId, Departure>,
    /// What this worker knows while it leads.
    state: Option<LeaderState>,
}

/// A worker whose item has gone from the fleet table.
#[derive(Clone, Copy, Debug)]
struct Departure {
    last_seen: Instant,
    /// Whether it was leaving: then it holds nothing any more.
    was_leaving: bool,
}

impl Leader {
    #[expect(clippy::too_many_arguments, reason = "one call, in the coordinator, which wires everything")]
    pub(super) fn new(
        me: Identity,
        options: Arc<WorkerOptions>,
        stream: Stream,
        leases: LeaseTable,
        fleet: FleetTable,
        presence: SharedWorkerRecord,
        view_sender: watch::Sender<FleetView>,
        notices: mpsc::UnboundedSender<Notice>,
        starter: Arc<dyn SpawnConsumer>,
        board: WorkerTelemetry,
        rng: Rng,
    ) -> Self {
        Self {
            me,
            options,
            stream,
            leases,
            fleet,
            presence,
            view_sender,
            notices,
            starter,
            board,
            rng,
            origin: Instant::now(),
            heartbeats: Heartbeats::default(),
            missing_leaders: Observations::default(),
            reads: 0,
            view: FleetView::default(),
            departed: BTreeMap::new(),
            state: None,
        }
    }

    /// Watches, and leads when it is this worker's turn, until something makes going on impossible.
    pub(super) async fn run(mut self) -> Error {
        loop {
            let started = Instant::now();
            let outcome = match self.watch().await {
                Ok(()) if self.leads() => self.lead().await,
                other => other,
            };
            match outcome {
                Ok(()) => {}
                Err(Error::Table(error)) if error.is_transient() => {
                    tracing::debug!(%error, "leading failed, trying again");
                }
                Err(error) => return error,
            }
            let next = self.next_look(started);
            self.board.beat(Loop::Leader, next);
            let arrived = async {
                match &mut self.state {
                    Some(state) if !state.lister.is_empty() => state.lister.join_next().await,
                    _ => std::future::pending().await,
                }
            };
            let listing = tokio::select! {
                biased;
                listing = arrived => listing,
                () = tokio::time::sleep_until(next) => continue,
            };
            if let (Some(state), Some(Ok(listing))) = (&mut self.state, listing) {
                match listing {
                    Ok(listing) => {
                        self.starter.note_listing(&listing.graph, listing.took);
                        state.note_listing(listing);
                    }
                    Err(stream::Error::NotFound(reason)) => return FatalError::StreamGone(reason).into(),
                    Err(error) => {
                        state.listed = Some(Instant::now());
                        tracing::error!(%error, "listing the stream's shards was refused");
                    }
                }
            }
        }
    }

    // Watching.

    async fn watch(&mut self) -> Result<(), Error> {
        let sent = self.origin.elapsed();
        let fleet = self.fleet.scan().await?;
        let arrived = self.origin.elapsed();
        for member in &fleet.members {
            let value = (member.record.incarnation.clone(), member.record.heartbeat);
            self.heartbeats.observe(&member.id, value, sent, arrived);
        }
        self.note_departures(&fleet.members);
        self.heartbeats.retain(|id| fleet.members.iter().any(|member| member.id == *id));
        self.reads += 1;
        self.view = FleetView::new(fleet, &self.heartbeats, self.options.lease_duration, self.reads);
        if let Some(leadership) = &self.view.leadership {
            let term = leadership.term;
            self.missing_leaders.retain(|seen| *seen == term);
            if leadership.worker.as_ref().is_some_and(|leader| self.view.worker(leader).is_none()) {
                self.missing_leaders.observe(&term, (), sent, arrived);
            }
        }
        if self.is_vacant() && !self.presence.get().leaving {
            self.try_acquire_leadership().await?;
        }
        if !self.leads() {
            if self.state.take().is_some() {
                let leader = self.view.leadership.as_ref().and_then(|leadership| leadership.worker.as_ref());
                tracing::info!(leader = ?leader, "this worker leads the fleet no more");
            }
            self.board.set_group(None);
        }
        self.view_sender.send_replace(self.view.clone());
        self.check_stream()
    }

    fn note_departures(&mut self, members: &[crate::model::worker_record::Member]) {
        let is_there = |id: &WorkerId| members.iter().any(|member| member.id == *id);
        for seen in &self.view.workers {
            if !is_there(&seen.member.id) {
                let was_leaving = seen.member.record.leaving;
                let departure = Departure { last_seen: Instant::now(), was_leaving };
                self.departed.insert(seen.member.id.clone(), departure);
            }
        }
        self.departed.retain(|id, _| !is_there(id));
        while self.departed.len() > DEPARTED_LIMIT {
            let oldest = self.departed.iter().min_by_key(|(_, departure)| departure.last_seen);
            let Some(oldest) = oldest.map(|(id, _)| id.clone()) else { break };
            self.departed.remove(&oldest);
        }
    }

    /// Whether a worker may be delivering: its heartbeat lives, or its item vanished less than a lease duration ago
    /// though it was not leaving.
    fn may_be_alive(&self, id: &WorkerId) -> bool {
        let lingers = |departure: &Departure| {
            !departure.was_leaving && departure.last_seen.elapsed() < self.options.lease_duration
        };
        self.view.is_alive(id) || self.departed.get(id).is_some_and(lingers)
    }

    /// Whether a worker isn't in the fleet table and was not seen there before: one of KCL's, or one of ours whose item
    /// was lost.
    fn is_stranger(&self, id: &WorkerId) -> bool {
        self.view.worker(id).is_none() && !self.departed.contains_key(id)
    }

    fn leads(&self) -> bool {
        self.view.leadership.as_ref().is_some_and(|leadership| self.is_mine(leadership))
    }

    fn is_mine(&self, leadership: &LeaderRecord) -> bool {
        leadership.worker.as_ref() == Some(&self.me.worker) && leadership.incarnation == self.me.incarnation
    }

    /// Whether nobody leads: no leader's item, a leader that left or died, or one that was this worker's last process.
    fn is_vacant(&self) -> bool {
        let Some(leadership) = &self.view.leadership else { return true };
        let Some(leader) = &leadership.worker else { return true };
        if *leader == self.me.worker {
            return leadership.incarnation != self.me.incarnation;
        }
        match self.view.worker(leader) {
            Some(seen) => !seen.is_alive || seen.member.record.incarnation != leadership.incarnation,
            None => self.missing_leaders.is_stale(&leadership.term, self.options.lease_duration),
        }
    }

    async fn try_acquire_leadership(&mut self) -> Result<(), Error> {
        let seen = self.view.leadership.clone();
        let wanted = LeaderRecord {
            worker: Some(self.me.worker.clone()),
            incarnation: self.me.incarnation.clone(),
            term: seen.as_ref().map_or(0, |seen| seen.term + 1),
            stream_arn: Some(self.stream.arn().to_owned()),
            ..seen.clone().unwrap_or_default()
        };
        if self.fleet.write_leader(&wanted, seen.as_ref().map(|seen| seen.term)).await? {
            let before = seen.as_ref().and_then(|seen| seen.worker.as_ref());
            tracing::info!(term = wanted.term, before = ?before, "this worker leads the fleet");
            self.view.leadership = Some(wanted);
            self.state = None;
        }
        Ok(())
    }

    fn check_stream(&self) -> Result<(), Error> {
        let bound = self.view.leadership.as_ref().and_then(|leadership| leadership.stream_arn.as_deref());
        match bound {
            Some(bound) if bound != self.stream.arn() => Err(Error::OtherStream {
                app: self.leases.name().to_owned(),
                other: bound.to_owned(),
                wanted: self.stream.arn().to_owned(),
            }),
            _ => Ok(()),
        }
    }

    fn next_look(&self, last: Instant) -> Instant {
        let lease_duration = self.options.lease_duration;
        let interval = match &self.state {
            Some(state) if !state.hand_offs.is_empty() => HAND_OFF_LOOK.min(lease_duration / 10),
            Some(_) => lease_duration / 10,
            None if self.is_standby() => lease_duration / 10,
            None => lease_duration,
        };
        // A worker's death is proved by the first look after its time: not a moment later than needed.
        let now = self.origin.elapsed();
        let deaths = self.view.live().filter_map(|seen| self.heartbeats.stale_at(&seen.member.id, lease_duration));
        let next_death = deaths.filter(|at| *at > now).min().map(|at| self.origin + at + Duration::from_millis(1));
        (last + interval).min(next_death.unwrap_or(last + interval)).max(last + HAND_OFF_LOOK / 4)
    }

    /// Whether this worker is among the first of those who would follow the leader.
    fn is_standby(&self) -> bool {
        let leader = self.view.leader();
        let followers = self.view.live().map(|seen| &seen.member.id).filter(|id| Some(*id) != leader);
        self.view.reads < 3 || followers.take(STANDBYS).any(|id| *id == self.me.worker)
    }
}
