//! The leader's work, and every worker's readiness to take it over.
//!
//! All workers watch the fleet table. The one whose name is on the leader's item, while its heartbeat lives, lists
//! the shards, makes missing leases, gives those of the dead to the living, evens out the rest and cleans up. A paused
//! leader that wakes up does no harm: each of its writes is conditional on the row it saw.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::discovery::{self, Listing};
use super::membership::SharedPresence;
use super::view::{FleetView, Heartbeats};
use super::{Error, Notice, Options};
use crate::aws::TableError;
use crate::aws::fleet_table::{FleetTable, Hints, Leadership, digest};
use crate::aws::lease_table::{LeaseTable, Outcome};
use crate::aws::stream::{self, Stream};
use crate::consumer::Failure;
use crate::core::assignment::{self, LeaseToPlace, Member, Move};
use crate::core::checkpoint::Checkpoint;
use crate::core::lease::{Lease, ShardId, Transition, WorkerId};
use crate::core::liveness::Observations;
use crate::core::rng::Rng;
use crate::core::shard_graph::unfinished_parents;

/// A leader looks at leases that are being handed over this often.
const HAND_OFF_LOOK: Duration = Duration::from_millis(200);
/// How many leases may be handed over at once.
const HAND_OFFS_AT_ONCE: usize = 64;
/// Calls of the leader under way at once.
const CALLS_AT_ONCE: usize = 16;
/// Workers that watch closely, beside the leader, so that one of them follows it without having to look twice.
const DEPUTIES: usize = 3;
/// How many rows a second the leader's scans of the lease table read, on average.
const SCANNED_ROWS_A_SECOND: u32 = 250;
const SHORTEST_SCAN_INTERVAL: Duration = Duration::from_secs(1);
const LONGEST_SCAN_INTERVAL: Duration = Duration::from_secs(30);
/// How often the shards are listed when nothing calls for it.
const LISTING_INTERVAL: Duration = Duration::from_secs(60);
/// How often they are listed while a finished shard has no known child.
const URGENT_LISTING_INTERVAL: Duration = Duration::from_secs(2);
/// For how long an owner that isn't in the fleet table must renew before it counts as a KCL worker: one of ours that
/// lost its item has joined again by then.
const FOREIGN_PROOF: Duration = Duration::from_secs(2);
/// How many workers that have left are remembered.
const DEPARTED_LIMIT: usize = 1000;
/// How often rows are written again at once that turned out to be younger than thought.
const PLACING_ROUNDS: usize = 3;
/// How often a worker that keeps its leases wrong is told to look at all of them, in scans.
const WRONG_SCANS: u32 = 3;

/// One worker's part in leading the fleet.
pub(super) struct Leader {
    options: Options,
    stream: Stream,
    leases: LeaseTable,
    fleet: FleetTable,
    presence: SharedPresence,
    view_sender: watch::Sender<FleetView>,
    notices: mpsc::UnboundedSender<Notice>,
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
    office: Option<Office>,
}

/// A worker whose item has gone from the fleet table.
#[derive(Clone, Copy, Debug)]
struct Departure {
    last_seen: Instant,
    /// Whether it was leaving: then it holds nothing any more.
    was_leaving: bool,
}

/// What a leader knows of the leases and shards.
struct Office {
    /// The rows, as last read or written.
    rows: BTreeMap<ShardId, Lease>,
    scanned: Option<Instant>,
    scan_interval: Duration,
    /// The counters of leases whose owner isn't in the fleet table.
    foreign: Observations<ShardId, (WorkerId, u64)>,
    foreign_since: BTreeMap<ShardId, Instant>,
    /// Since when leases are being handed over.
    hand_offs: BTreeMap<ShardId, Instant>,
    /// Per worker, in how many scans its leases differed from what it knows.
    wrong: BTreeMap<WorkerId, (u64, u32)>,
    /// Leases that cannot be read: they and their children are left alone.
    bad: BTreeSet<ShardId>,
    /// A complete listing that was not yet acted upon.
    listing: Option<Listing>,
    /// When the last listing came in, how long it took, and whether the stream was switched off.
    listed: Option<Instant>,
    listing_took: Duration,
    is_disabled: bool,
    lister: JoinSet<Result<Listing, stream::Error>>,
    /// Whether leases may be made and given away: not while a KCL worker may be alive.
    is_clear: bool,
}

impl Leader {
    #[expect(clippy::too_many_arguments, reason = "one call, in the coordinator, which wires everything")]
    pub(super) fn new(
        options: Options,
        stream: Stream,
        leases: LeaseTable,
        fleet: FleetTable,
        presence: SharedPresence,
        view_sender: watch::Sender<FleetView>,
        notices: mpsc::UnboundedSender<Notice>,
        rng: Rng,
    ) -> Self {
        Self {
            options,
            stream,
            leases,
            fleet,
            presence,
            view_sender,
            notices,
            rng,
            origin: Instant::now(),
            heartbeats: Heartbeats::default(),
            missing_leaders: Observations::default(),
            reads: 0,
            view: FleetView::default(),
            departed: BTreeMap::new(),
            office: None,
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
            let arrived = async {
                match &mut self.office {
                    Some(office) if !office.lister.is_empty() => office.lister.join_next().await,
                    _ => std::future::pending().await,
                }
            };
            let listing = tokio::select! {
                biased;
                listing = arrived => listing,
                () = tokio::time::sleep_until(next) => continue,
            };
            if let (Some(office), Some(Ok(listing))) = (&mut self.office, listing) {
                match listing {
                    Ok(listing) => office.note_listing(listing),
                    Err(stream::Error::NotFound(reason)) => return Failure::StreamGone(reason).into(),
                    Err(error) => {
                        office.listed = Some(Instant::now());
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
            let value = (member.presence.incarnation.clone(), member.presence.heartbeat);
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
            self.stand_for_leader().await?;
        }
        if !self.leads() {
            self.office = None;
        }
        self.view_sender.send_replace(self.view.clone());
        self.check_stream()
    }

    fn note_departures(&mut self, members: &[crate::aws::fleet_table::Member]) {
        let is_there = |id: &WorkerId| members.iter().any(|member| member.id == *id);
        for seen in &self.view.workers {
            if !is_there(&seen.member.id) {
                let was_leaving = seen.member.presence.leaving;
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

    fn leads(&self) -> bool {
        self.view.leadership.as_ref().is_some_and(|leadership| self.is_mine(leadership))
    }

    fn is_mine(&self, leadership: &Leadership) -> bool {
        leadership.worker.as_ref() == Some(&self.options.worker) && leadership.incarnation == self.options.incarnation
    }

    /// Whether nobody leads: no leader's item, a leader that left or died, or one that was this worker's last process.
    fn is_vacant(&self) -> bool {
        let Some(leadership) = &self.view.leadership else { return true };
        let Some(leader) = &leadership.worker else { return true };
        if *leader == self.options.worker {
            return leadership.incarnation != self.options.incarnation;
        }
        match self.view.worker(leader) {
            Some(seen) => !seen.is_alive || seen.member.presence.incarnation != leadership.incarnation,
            None => self.missing_leaders.is_stale(&leadership.term, self.options.lease_duration),
        }
    }

    async fn stand_for_leader(&mut self) -> Result<(), Error> {
        let seen = self.view.leadership.clone();
        let wanted = Leadership {
            worker: Some(self.options.worker.clone()),
            incarnation: self.options.incarnation.clone(),
            term: seen.as_ref().map_or(0, |seen| seen.term + 1),
            stream_arn: Some(self.stream.arn().to_owned()),
            ..seen.clone().unwrap_or_default()
        };
        if self.fleet.write_leadership(&wanted, seen.map(|seen| seen.term)).await? {
            tracing::info!(term = wanted.term, "this worker leads the fleet");
            self.view.leadership = Some(wanted);
            self.office = None;
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
        let interval = match &self.office {
            Some(office) if !office.hand_offs.is_empty() => HAND_OFF_LOOK.min(lease_duration / 10),
            Some(_) => lease_duration / 10,
            None if self.is_deputy() => lease_duration / 10,
            None => lease_duration,
        };
        // A worker's death is proved by the first look after its time: not a moment later than needed.
        let now = self.origin.elapsed();
        let deaths = self.view.live().filter_map(|seen| self.heartbeats.stale_at(&seen.member.id, lease_duration));
        let next_death = deaths.filter(|at| *at > now).min().map(|at| self.origin + at + Duration::from_millis(1));
        (last + interval).min(next_death.unwrap_or(last + interval)).max(last + HAND_OFF_LOOK / 4)
    }

    /// Whether this worker is among the first of those who would follow the leader.
    fn is_deputy(&self) -> bool {
        let leader = self.view.leader();
        let followers = self.view.live().map(|seen| &seen.member.id).filter(|id| Some(*id) != leader);
        self.view.reads < 3 || followers.take(DEPUTIES).any(|id| *id == self.options.worker)
    }

    // Leading.

    async fn lead(&mut self) -> Result<(), Error> {
        let mut office = self.office.take().unwrap_or_else(Office::new);
        let outcome = self.lead_from(&mut office).await;
        self.office = Some(office);
        outcome
    }

    async fn lead_from(&mut self, office: &mut Office) -> Result<(), Error> {
        let now = Instant::now();
        let should_list = office.should_list(now);
        if should_list && office.lister.is_empty() {
            let (stream, mut rng) = (self.stream.clone(), self.rng.fork());
            office.lister.spawn(async move { discovery::list(&stream, &mut rng).await });
        }
        if office.scanned.is_none_or(|at| at + office.scan_interval <= now) {
            self.scan(office).await?;
        } else {
            self.refresh_hand_offs(office).await?;
        }
        self.watch_for_kcl(office)?;
        if !office.is_clear {
            return Ok(());
        }
        let mut hints = BTreeMap::new();
        if let Some(listing) = office.listing.take() {
            // Until this listing is acted upon no lease is deleted, and then no more by it: an old listing would make
            // a shard look new whose lease was deleted since.
            office.listed = None;
            self.make_missing(office, &listing, &mut hints).await?;
            self.clean_up(office, &listing).await?;
            office.listed = Some(Instant::now());
        }
        let mut placed = Ok(true);
        for _ in 0..PLACING_ROUNDS {
            placed = self.place(office, &mut hints).await;
            if !matches!(placed, Ok(true)) {
                break;
            }
        }
        self.send_hints(hints).await;
        placed?;
        self.forget_the_dead(office).await?;
        self.end_of_stream(office)
    }

    async fn scan(&mut self, office: &mut Office) -> Result<(), Error> {
        let sent = self.origin.elapsed();
        let rows = self.leases.scan().await?;
        let arrived = self.origin.elapsed();
        office.bad = rows.iter().filter_map(|row| row.as_ref().err()).map(|bad| bad.key.clone()).collect();
        office.rows = rows.into_iter().flatten().map(|row| (row.key.clone(), row)).collect();
        let count = u32::try_from(office.rows.len()).unwrap_or(u32::MAX);
        office.scan_interval = (Duration::from_secs(1) * count / SCANNED_ROWS_A_SECOND)
            .clamp(SHORTEST_SCAN_INTERVAL, LONGEST_SCAN_INTERVAL);
        office.scanned = Some(Instant::now());
        let mut strangers = BTreeSet::new();
        for row in office.rows.values().filter(|row| !row.is_finished()) {
            let is_stranger = |id: &&WorkerId| self.view.worker(id).is_none() && !self.departed.contains_key(*id);
            if let Some(holder) = row.holder().filter(is_stranger) {
                office.foreign.observe(&row.key, (holder.clone(), row.counter), sent, arrived);
                office.foreign_since.entry(row.key.clone()).or_insert_with(Instant::now);
                strangers.insert(&row.key);
            }
        }
        // A lease that is finished or deleted by now is waited for no more.
        office.foreign_since.retain(|key, _| strangers.contains(key));
        let foreign = &office.foreign_since;
        office.foreign.retain(|key| foreign.contains_key(key));
        self.remind(office).await;
        Ok(())
    }

    /// Reads the leases that are on their way again: when they have arrived, others may go.
    async fn refresh_hand_offs(&self, office: &mut Office) -> Result<(), Error> {
        let moving: BTreeSet<ShardId> = office.hand_offs.keys().cloned().collect();
        if moving.is_empty() {
            return Ok(());
        }
        for row in self.leases.read_many(&moving).await?.into_iter().flatten() {
            office.rows.insert(row.key.clone(), row);
        }
        Ok(())
    }

    /// Holds everything back while an owner that isn't one of us may be alive, and stops when it is.
    fn watch_for_kcl(&mut self, office: &mut Office) -> Result<(), Error> {
        for (key, since) in &office.foreign_since {
            if office.foreign.has_changed(key) && since.elapsed() >= FOREIGN_PROOF {
                let owner = office.rows.get(key).and_then(Lease::holder).cloned();
                let owner = owner.unwrap_or_else(|| self.options.worker.clone());
                return Err(Error::KclAlive { owner, lease: key.clone() });
            }
        }
        let limit = self.options.kcl_failover_time;
        let is_clear = office.foreign_since.keys().all(|key| office.foreign.is_stale(key, limit));
        if !is_clear && office.is_clear {
            tracing::info!(
                leases = office.foreign_since.len(),
                wait = ?limit,
                "leases name owners that are not in the fleet table: waiting whether they are alive"
            );
        }
        office.is_clear = is_clear;
        Ok(())
    }

    /// Makes the leases that the last listing calls for, each with its first owner where it can start at once.
    async fn make_missing(
        &mut self,
        office: &mut Office,
        listing: &Listing,
        hints: &mut BTreeMap<WorkerId, Hints>,
    ) -> Result<(), Error> {
        let Some(leadership) = self.view.leadership.clone() else { return Ok(()) };
        let start = if leadership.listed { Checkpoint::TrimHorizon } else { self.options.start.clone() };
        let mut missing = listing.graph.missing_leases(&office.rows, &start);
        missing.retain(|lease| !office.bad.contains(&lease.key));
        if !missing.is_empty() {
            tracing::info!(leases = missing.len(), shards = listing.graph.len(), "making leases");
            let mut all = office.rows.clone();
            all.extend(missing.iter().map(|lease| (lease.key.clone(), lease.clone())));
            for step in self.plan(&all, office) {
                if let Move::Assign { lease, to } = step
                    && let Some(row) = missing.iter_mut().find(|row| row.key == lease)
                {
                    row.owner = Some(to);
                }
            }
        }
        // Generation by generation, so that a child's lease never exists without its parent's.
        while !missing.is_empty() {
            let keys: BTreeSet<ShardId> = missing.iter().map(|lease| lease.key.clone()).collect();
            let (ready, rest): (Vec<_>, Vec<_>) =
                missing.into_iter().partition(|lease| lease.parents.is_disjoint(&keys));
            if ready.is_empty() {
                break; // a ring in the listing
            }
            missing = rest;
            let leases = self.leases.clone();
            let made = concurrently(ready, move |lease| {
                let leases = leases.clone();
                async move { leases.create(&lease).await }
            });
            for outcome in made.await {
                match outcome? {
                    Outcome::Applied(row) => {
                        if let Some(owner) = &row.owner {
                            hints.entry(owner.clone()).or_default().keys.insert(row.key.clone());
                        }
                        office.rows.insert(row.key.clone(), row);
                    }
                    Outcome::Conflict(Some(row)) => drop(office.rows.insert(row.key.clone(), row)),
                    Outcome::Conflict(None) => {}
                }
            }
        }
        if !leadership.listed {
            let wanted = Leadership { listed: true, term: leadership.term + 1, ..leadership.clone() };
            if self.fleet.write_leadership(&wanted, Some(leadership.term)).await? {
                self.view.leadership = Some(wanted);
                self.view_sender.send_replace(self.view.clone());
            }
        }
        Ok(())
    }

    /// Gives unowned leases away and evens out the rest. Says whether some rows turned out to be younger than thought.
    async fn place(&mut self, office: &mut Office, hints: &mut BTreeMap<WorkerId, Hints>) -> Result<bool, Error> {
        let mut transitions = Vec::new();
        let mut plan = self.plan(&office.rows, office);
        let takes_over = |step: &Move| match step {
            Move::Assign { lease, .. } => office.rows.get(lease).is_some_and(|row| row.holder().is_some()),
            Move::HandOff { .. } => false,
        };
        if plan.iter().any(takes_over) {
            // A holder that was dead when this worker last looked may have come back and taken its lease up before the
            // row was read. Only a look that comes after the row proves that nobody delivers on it.
            self.watch().await?;
            if !self.leads() {
                return Ok(false);
            }
            plan = self.plan(&office.rows, office);
        }
        for step in plan {
            let (Move::Assign { lease, .. } | Move::HandOff { lease, .. }) = &step;
            let Some(row) = office.rows.get(lease) else { continue };
            match &step {
                Move::Assign { to, .. } => {
                    let from = row.holder();
                    tracing::info!(shard = %lease, %to, from = ?from, "assigning a lease");
                    transitions.push(row.assign(to));
                }
                Move::HandOff { from, to, .. } => match row.hand_off(to) {
                    Ok(transition) => {
                        tracing::info!(shard = %lease, %from, %to, "handing a lease over");
                        transitions.push(transition);
                    }
                    Err(error) => tracing::debug!(%error, "not handed over"),
                },
            }
        }
        transitions.extend(self.overdue_hand_offs(office));
        let leases = self.leases.clone();
        let applied = concurrently(transitions, move |transition: Transition| {
            let leases = leases.clone();
            async move { leases.apply(&transition).await.map(|outcome| (transition, outcome)) }
        });
        let (mut failed, mut met_younger) = (None, false);
        for outcome in applied.await {
            match outcome {
                Ok((_, Outcome::Applied(row))) => {
                    for worker in [&row.owner, &row.checkpoint_owner].into_iter().flatten() {
                        hints.entry(worker.clone()).or_default().keys.insert(row.key.clone());
                    }
                    office.rows.insert(row.key.clone(), row);
                }
                Ok((_, Outcome::Conflict(Some(row)))) => {
                    met_younger = true;
                    office.rows.insert(row.key.clone(), row);
                }
                Ok((transition, Outcome::Conflict(None))) => drop(office.rows.remove(&transition.before.key)),
                Err(error) => {
                    office.scanned = None; // what happened is in the table
                    failed = Some(error);
                }
            }
        }
        office.note_hand_offs();
        failed.map_or(Ok(met_younger), |error| Err(error.into()))
    }

    fn plan(&self, rows: &BTreeMap<ShardId, Lease>, office: &Office) -> Vec<Move> {
        let is_open = |row: &&Lease| {
            !row.is_finished() && row.parents.is_disjoint(&office.bad) && unfinished_parents(row, rows).next().is_none()
        };
        let mut stuck: BTreeMap<&ShardId, Vec<WorkerId>> = BTreeMap::new();
        for seen in self.view.live() {
            for key in &seen.member.presence.stuck {
                stuck.entry(key).or_default().push(seen.member.id.clone());
            }
        }
        let leases: Vec<LeaseToPlace> = rows
            .values()
            .filter(is_open)
            .map(|row| LeaseToPlace {
                weight: row.throughput_kbps,
                avoid: stuck.get(&row.key).cloned().unwrap_or_default(),
                key: row.key.clone(),
                owner: row.owner.clone().filter(|_| row.holder().is_some_and(|holder| self.may_be_alive(holder))),
                moving: row.holder().is_some_and(|holder| {
                    let is_leaving_unseen = self.view.worker(holder).is_none();
                    self.may_be_alive(holder) && (row.is_handed_over() || is_leaving_unseen)
                }),
            })
            .collect();
        let members: Vec<Member> = self
            .view
            .live()
            .map(|seen| Member {
                id: seen.member.id.clone(),
                leaving: seen.member.presence.leaving || self.is_leaving(&seen.member.id),
                overloaded: seen.member.presence.overloaded,
                max_leases: seen.member.presence.max_leases.and_then(|limit| usize::try_from(limit).ok()),
            })
            .collect();
        debug_assert!(office.is_clear, "nothing is placed while a KCL worker may be alive");
        assignment::plan(&leases, &members, HAND_OFFS_AT_ONCE)
    }

    /// Whether this is the leader itself, about to leave, before its item says so.
    fn is_leaving(&self, id: &WorkerId) -> bool {
        *id == self.options.worker && self.presence.get().leaving
    }

    /// Hand-offs whose old owner lives but does not let go: the new owner gets the lease without waiting any longer.
    fn overdue_hand_offs(&self, office: &Office) -> Vec<Transition> {
        let limit = self.options.drain_timeout + self.options.lease_duration;
        let overdue = office.hand_offs.iter().filter(|(_, since)| since.elapsed() >= limit);
        overdue
            .filter_map(|(key, _)| {
                let row = office.rows.get(key)?;
                let owner = row.owner.as_ref()?;
                tracing::warn!(shard = %key, from = ?row.checkpoint_owner, to = %owner, "forcing a hand-off that hangs");
                Some(row.assign(owner))
            })
            .collect()
    }

    async fn send_hints(&self, mut hints: BTreeMap<WorkerId, Hints>) {
        if let Some(mine) = hints.remove(&self.options.worker) {
            let _ = self.notices.send(Notice::Look(mine));
        }
        let fleet = self.fleet.clone();
        let sent = concurrently(hints.into_iter().collect(), move |(worker, hints): (WorkerId, Hints)| {
            let fleet = fleet.clone();
            async move { fleet.hint(&worker, &hints).await }
        });
        for error in sent.await.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "a hint was lost");
        }
    }

    /// Tells workers whose idea of their leases has been wrong for some scans to look at all rows: a hint was lost.
    async fn remind(&self, office: &mut Office) {
        let mut hints = BTreeMap::new();
        for seen in self.view.live() {
            let id = &seen.member.id;
            let owned = office.rows.values().filter(|row| row.owner.as_ref() == Some(id) && !row.is_finished());
            let owned = digest(owned.map(|row| &row.key));
            let entry = office.wrong.entry(id.clone()).or_default();
            if owned == seen.member.presence.digest {
                *entry = (owned, 0);
                continue;
            }
            *entry = if entry.0 == owned { (owned, entry.1 + 1) } else { (owned, 1) };
            if entry.1 >= WRONG_SCANS {
                entry.1 = 0;
                tracing::debug!(worker = %id, "a worker doesn't know its leases, reminding it");
                hints.insert(id.clone(), Hints { everything: true, ..Hints::default() });
            }
        }
        let view = &self.view;
        office.wrong.retain(|id, _| view.worker(id).is_some());
        self.send_hints(hints).await;
    }

    /// Puts late children on their parents' rows, and deletes finished leases that nobody needs any more.
    async fn clean_up(&mut self, office: &mut Office, listing: &Listing) -> Result<(), Error> {
        if !office.bad.is_empty() {
            return Ok(()); // a row that cannot be read may be somebody's parent
        }
        let late: Vec<Transition> = listing
            .graph
            .unknown_children(&office.rows)
            .filter(|(_, children)| children.iter().all(|child| office.rows.contains_key(child)))
            .map(|(row, children)| row.with_children(&children))
            .collect();
        for transition in late {
            if let Outcome::Applied(row) = self.leases.apply(&transition).await? {
                office.rows.insert(row.key.clone(), row);
            }
        }
        for key in listing.graph.deletable(&office.rows) {
            let Some(row) = office.rows.get(&key) else { continue };
            if self.leases.delete(row).await? {
                tracing::debug!(shard = %key, "finished lease deleted");
            }
            office.rows.remove(&key);
        }
        Ok(())
    }

    /// Removes the items of dead workers that no unfinished lease names any more.
    async fn forget_the_dead(&mut self, office: &Office) -> Result<(), Error> {
        for seen in self.view.workers.iter().filter(|seen| !seen.is_alive) {
            let id = &seen.member.id;
            let is_named = |row: &Lease| row.owner.as_ref() == Some(id) || row.checkpoint_owner.as_ref() == Some(id);
            if office.rows.values().any(|row| !row.is_finished() && is_named(row)) {
                continue;
            }
            let presence = &seen.member.presence;
            if self.fleet.remove(id, &presence.incarnation, presence.heartbeat).await? {
                tracing::info!(worker = %id, "dead worker removed from the fleet");
            }
        }
        Ok(())
    }

    /// Nothing comes any more from a stream that is switched off and read to its end.
    fn end_of_stream(&self, office: &Office) -> Result<(), Error> {
        let is_listed = self.view.leadership.as_ref().is_some_and(|leadership| leadership.listed);
        if office.is_disabled && is_listed && !office.rows.is_empty() && office.rows.values().all(Lease::is_finished) {
            tracing::warn!("the stream is switched off and everything in it is delivered");
            let _ = self.notices.send(Notice::StreamEnded);
        }
        Ok(())
    }
}

impl Office {
    fn new() -> Self {
        Self {
            rows: BTreeMap::new(),
            scanned: None,
            scan_interval: SHORTEST_SCAN_INTERVAL,
            foreign: Observations::default(),
            foreign_since: BTreeMap::new(),
            hand_offs: BTreeMap::new(),
            wrong: BTreeMap::new(),
            bad: BTreeSet::new(),
            listing: None,
            listed: None,
            listing_took: Duration::ZERO,
            is_disabled: false,
            lister: JoinSet::new(),
            is_clear: true,
        }
    }

    fn should_list(&self, now: Instant) -> bool {
        let Some(listed) = self.listed else { return self.listing.is_none() };
        // A finished shard without a child, while the stream is on: its child has yet to appear.
        let is_incomplete =
            !self.is_disabled && self.rows.values().any(|row| row.is_finished() && row.children.is_empty());
        let interval = if is_incomplete { URGENT_LISTING_INTERVAL } else { LISTING_INTERVAL };
        now >= listed + interval.max(self.listing_took * 5)
    }

    fn note_hand_offs(&mut self) {
        let rows = &self.rows;
        let is_moving = |key: &ShardId| rows.get(key).is_some_and(|row| row.is_handed_over() && !row.is_finished());
        self.hand_offs.retain(|key, _| is_moving(key));
        for row in rows.values().filter(|row| row.is_handed_over() && !row.is_finished()) {
            self.hand_offs.entry(row.key.clone()).or_insert_with(Instant::now);
        }
    }

    fn note_listing(&mut self, listing: Listing) {
        self.listing_took = listing.took;
        self.is_disabled = listing.is_disabled;
        self.listed = Some(Instant::now());
        self.listing = Some(listing);
        self.scanned = None; // acted upon with rows that are younger than the listing
    }
}

/// Makes a call for each item, some at once, and returns the results in any order.
async fn concurrently<I, T, C>(items: Vec<I>, call: impl Fn(I) -> C) -> Vec<Result<T, TableError>>
where
    T: Send + 'static,
    C: Future<Output = Result<T, TableError>> + Send + 'static,
{
    let mut results = Vec::with_capacity(items.len());
    let mut calls = JoinSet::new();
    for item in items {
        while calls.len() >= CALLS_AT_ONCE {
            results.extend(calls.join_next().await.and_then(Result::ok));
        }
        calls.spawn(call(item));
    }
    while let Some(result) = calls.join_next().await {
        results.extend(result.ok());
    }
    results
}
