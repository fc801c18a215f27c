//! Assignment: the leases of the dead go to the living, and the rest is evened out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::app_metrics::note_failover;
use super::concurrently;
use super::election::Election;
use super::state::LeaderState;
use crate::aws::lease_table::Outcome;
use crate::coordination::{Error, Notice};
use crate::model::assignment::{self, LeaseToPlace, Member, Move};
use crate::model::lease::{Lease, ShardId, Transition, WorkerId};
use crate::model::shard_graph::unfinished_parents;
use crate::model::worker_record::{Hints, WorkerEnd, digest};

/// The time for which a worker keeps its leases to which an operator gave one.
const PLACED_FOR: Duration = Duration::from_secs(600);
/// The most leases that each worker hands over at once.
const HAND_OFFS_AT_ONCE: usize = 64;
/// Scans in a row that show a worker at odds with the rows before it is told to read all of them.
const WRONG_SCANS: u32 = 3;

impl LeaderState {
    /// Assigns unowned leases and evens out the rest. Returns whether some rows turned out to be younger than thought.
    pub(super) async fn assign(
        &mut self,
        election: &mut Election,
        hints: &mut BTreeMap<WorkerId, Hints>,
    ) -> Result<bool, Error> {
        self.refresh_placed(election).await?;
        let mut transitions = Vec::new();
        let mut plan = self.plan(election, &self.rows);
        let takes_over = |step: &Move| match step {
            Move::Assign { lease, .. } => self.rows.get(lease).is_some_and(|row| row.holder().is_some()),
            Move::HandOff { .. } => false,
        };
        if plan.iter().any(takes_over) {
            // A holder that was dead at the last read of the fleet table may have come back and taken up its lease
            // before the row was read. Only a read of the fleet table after that of the row proves that nobody
            // delivers on it.
            election.observe().await?;
            if !election.leads() {
                return Ok(false);
            }
            plan = self.plan(election, &self.rows);
        }
        for step in plan {
            let (Move::Assign { lease, .. } | Move::HandOff { lease, .. }) = &step;
            let Some(row) = self.rows.get(lease) else { continue };
            match &step {
                Move::Assign { to, .. } => {
                    let from = row.holder();
                    tracing::info!(shard = %lease, %to, from = from.map(WorkerId::as_str), "assigning a lease");
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
        transitions.extend(self.overdue_hand_offs(election));
        let leases = election.deps.leases.clone();
        let applied = concurrently(transitions, move |transition: Transition| {
            let leases = leases.clone();
            async move { leases.apply(&transition).await.map(|outcome| (transition, outcome)) }
        });
        let (mut failed, mut met_younger) = (None, false);
        for outcome in applied.await {
            match outcome {
                Ok((transition, Outcome::Applied(row))) => {
                    note_failover(election, &transition);
                    for worker in [&row.owner, &row.checkpoint_owner].into_iter().flatten() {
                        hints.entry(worker.clone()).or_default().keys.insert(row.key.clone());
                    }
                    self.rows.insert(row.key.clone(), row);
                }
                Ok((_, Outcome::Conflict(Some(row)))) => {
                    met_younger = true;
                    self.rows.insert(row.key.clone(), row);
                }
                Ok((transition, Outcome::Conflict(None))) => drop(self.rows.remove(&transition.before.key)),
                Err(error) => {
                    self.scanned = None; // what happened is in the table
                    failed = Some(error);
                }
            }
        }
        self.note_hand_offs();
        failed.map_or(Ok(met_younger), |error| Err(error.into()))
    }

    /// Takes up the leases that an operator placed, and forgets those placed long ago.
    async fn refresh_placed(&mut self, election: &Election) -> Result<(), Error> {
        let (now, mut before) = (Instant::now(), std::mem::take(&mut self.placed));
        for seen in election.view.live() {
            let id = &seen.member.id;
            let mut expired = BTreeSet::new();
            for key in &seen.member.placed {
                let place = (id.clone(), key.clone());
                let since = before.remove(&place).unwrap_or(now);
                if now - since >= PLACED_FOR {
                    expired.insert(key);
                }
                self.placed.insert(place, since);
            }
            if !expired.is_empty() {
                election.deps.fleet.unplace(id, expired).await?;
            }
        }
        Ok(())
    }

    /// Plans who reads what among the live workers, given these rows.
    pub(super) fn plan(&self, election: &Election, rows: &BTreeMap<ShardId, Lease>) -> Vec<Move> {
        let is_open = |row: &&Lease| {
            !row.is_finished() && row.parents.is_disjoint(&self.bad) && unfinished_parents(row, rows).next().is_none()
        };
        let mut stuck: BTreeMap<&ShardId, Vec<WorkerId>> = BTreeMap::new();
        for seen in election.view.live() {
            for key in &seen.member.record.stuck {
                stuck.entry(key).or_default().push(seen.member.id.clone());
            }
        }
        // Another lease in its place would undo the operator's choice as well.
        let recent = self.placed.iter().filter(|(_, since)| since.elapsed() < PLACED_FOR);
        let chosen: BTreeSet<&WorkerId> = recent.map(|((worker, _), _)| worker).collect();
        let leases: Vec<LeaseToPlace> = rows
            .values()
            .filter(is_open)
            .map(|row| LeaseToPlace {
                placed: row.owner.as_ref().is_some_and(|owner| chosen.contains(owner)),
                weight: row.throughput_kbps,
                avoid: stuck.get(&row.key).cloned().unwrap_or_default(),
                key: row.key.clone(),
                owner: row.owner.clone().filter(|_| self.may_be_held(election, row)),
                moving: row.holder().cloned().filter(|holder| {
                    let is_unseen = election.view.worker(holder).is_none();
                    self.may_be_held(election, row) && (row.is_handed_over() || is_unseen)
                }),
            })
            .collect();
        let members: Vec<Member> = election
            .view
            .live()
            .map(|seen| Member {
                id: seen.member.id.clone(),
                leaving: seen.member.record.leaving || election.is_leaving(&seen.member.id),
                overloaded: seen.member.record.overloaded,
                max_leases: seen.member.record.max_leases.and_then(|limit| usize::try_from(limit).ok()),
            })
            .collect();
        debug_assert!(self.is_clear, "nothing is assigned while a KCL worker may be alive");
        assignment::plan(&leases, &members, HAND_OFFS_AT_ONCE)
    }

    /// Whether somebody may be delivering on a lease: a live worker, or a foreign one whose lease has changed too lately.
    /// A row that was met by a write may name one that no scan has shown yet.
    fn may_be_held(&self, election: &Election, row: &Lease) -> bool {
        row.holder().is_some_and(|holder| {
            let is_recent = || !self.foreign.is_still(&row.key, election.foreign_lease_duration());
            election.may_be_alive(holder) || (election.is_foreign(holder) && is_recent())
        })
    }

    /// Hand-offs whose old owner lives, but says that a call which it cannot drop keeps it from letting go: the new owner
    /// gets the lease.
    fn overdue_hand_offs(&self, election: &Election) -> Vec<Transition> {
        self.hand_offs
            .iter()
            .filter_map(|(key, since)| {
                let row = self.rows.get(key)?;
                let owner = row.owner.as_ref()?;
                let old_owner = &election.view.worker(row.holder()?)?.member.record;
                if !old_owner.stuck.contains(key) || since.elapsed() < election.hand_off_timeout(old_owner) {
                    return None;
                }
                tracing::warn!(shard = %key, from = row.checkpoint_owner.as_ref().map(WorkerId::as_str), to = %owner, "forcing a hand-off that hangs");
                Some(row.assign(owner))
            })
            .collect()
    }

    /// Tells workers that were at odds with the rows at some scans in a row to read all of them: a hint was lost, or so
    /// much changes that some row always is unknown, which does not rule it out. At a leader's first scan it tells them of
    /// theirs at once: the last leader may have gone with its hints unsent. Old owners are reminded of hand-offs that last:
    /// one without a consumer on the shard does not miss the lease.
    pub(super) async fn resend_hints(&mut self, election: &Election) {
        let is_first = self.wrong.is_empty();
        let mut hints: BTreeMap<WorkerId, Hints> = BTreeMap::new();
        let lease_duration = election.deps.options.lease_duration;
        for (key, _) in self.hand_offs.iter().filter(|(_, since)| since.elapsed() >= lease_duration) {
            if let Some(holder) = self.rows.get(key).and_then(Lease::holder) {
                hints.entry(holder.clone()).or_default().keys.insert(key.clone());
            }
        }
        for seen in election.view.live() {
            let id = &seen.member.id;
            let owned = self.rows.values().filter(|row| row.owner.as_ref() == Some(id) && !row.is_finished());
            let keys: BTreeSet<&ShardId> = owned.map(|row| &row.key).collect();
            let scans = self.wrong.entry(id.clone()).or_default();
            if digest(keys.iter().copied()) == seen.member.record.digest {
                *scans = 0;
                continue;
            }
            *scans += 1;
            if is_first {
                hints.entry(id.clone()).or_default().keys.extend(keys.into_iter().cloned());
            } else if *scans >= WRONG_SCANS {
                *scans = 0;
                tracing::debug!(worker = %id, "a worker does not know its leases, resending its hints");
                hints.entry(id.clone()).or_default().everything = true;
            }
        }
        let view = &election.view;
        self.wrong.retain(|id, _| view.worker(id).is_some());
        election.send_hints(hints).await;
    }

    /// Removes the records of dead workers that no unfinished lease names any longer.
    pub(super) async fn forget_the_dead(&self, election: &Election) -> Result<(), Error> {
        for seen in election.view.workers.iter().filter(|seen| !seen.is_alive) {
            let id = &seen.member.id;
            let is_named = |row: &Lease| row.owner.as_ref() == Some(id) || row.checkpoint_owner.as_ref() == Some(id);
            if self.rows.values().any(|row| !row.is_finished() && is_named(row)) {
                continue;
            }
            let record = &seen.member.record;
            if election.deps.fleet.remove(id, &record.incarnation, record.heartbeat).await? {
                tracing::warn!(
                    worker = %id, leases = record.leases, still_s = seen.still_for.as_secs(),
                    "dead worker removed from the fleet"
                );
                let said_why = |end: &WorkerEnd| end.worker == id.as_str() && end.at_ms >= record.written_ms;
                if election.view.ends.iter().any(said_why) {
                    continue;
                }
                let end = WorkerEnd {
                    worker: id.to_string(),
                    at_ms: record.written_ms,
                    was_found_dead: true,
                    leases: record.leases,
                    reason: format!("no heartbeat for {:.1} s", seen.still_for.as_secs_f64()),
                };
                if let Err(error) = election.deps.fleet.keep_end(&end).await {
                    tracing::debug!(%error, "keeping a dead worker's end failed");
                }
            }
        }
        Ok(())
    }
}

impl Election {
    /// Whether this is the leader itself, about to leave, before its record in the table says so.
    fn is_leaving(&self, id: &WorkerId) -> bool {
        *id == self.deps.me.worker && self.deps.record.get().leaving
    }

    pub(super) async fn send_hints(&self, mut hints: BTreeMap<WorkerId, Hints>) {
        if let Some(mine) = hints.remove(&self.deps.me.worker) {
            let _ = self.notices.send(Notice::LeasesChanged(mine));
        }
        let fleet = self.deps.fleet.clone();
        let sent = concurrently(hints.into_iter().collect(), move |(worker, hints): (WorkerId, Hints)| {
            let fleet = fleet.clone();
            async move { fleet.hint(&worker, &hints).await }
        });
        for error in sent.await.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "a hint was lost");
        }
    }
}
