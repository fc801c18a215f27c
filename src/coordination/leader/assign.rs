//! What a leader does: it makes leases, gives them away, evens out, and cleans up.

use std::collections::{BTreeMap, BTreeSet};

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Leader;
use super::state::LeaderState;
use crate::aws::TableError;
use crate::aws::lease_table::Outcome;
use crate::coordination::discovery::{self, Listing};
use crate::coordination::{Error, Notice};
use crate::model::assignment::{self, LeaseToPlace, Member, Move};
use crate::model::checkpoint::Checkpoint;
use crate::model::lease::{Lease, ShardId, Transition, WorkerId};
use crate::model::shard_graph::unfinished_parents;
use crate::model::worker_record::{Hints, LeaderRecord, digest};

/// How many leases may be handed over at once.
const HAND_OFFS_AT_ONCE: usize = 64;
/// Calls of the leader under way at once.
const CALLS_AT_ONCE: usize = 16;
/// How often rows are written again at once that turned out to be younger than thought.
const PLACING_ROUNDS: usize = 3;
/// How often a worker that keeps its leases wrong is told to look at all of them, in scans.
const WRONG_SCANS: u32 = 3;

impl Leader {
    pub(super) async fn lead(&mut self) -> Result<(), Error> {
        let mut state = self.state.take().unwrap_or_else(LeaderState::new);
        let outcome = self.lead_from(&mut state).await;
        self.measure(&mut state);
        self.state = Some(state);
        outcome
    }

    async fn lead_from(&mut self, state: &mut LeaderState) -> Result<(), Error> {
        let now = Instant::now();
        if state.scanned.is_none_or(|at| at + state.scan_interval <= now) {
            self.scan(state).await?;
        } else {
            self.refresh_hand_offs(state).await?;
        }
        if state.should_list(now) && state.lister.is_empty() {
            self.begin_listing(state);
        }
        self.watch_for_kcl(state)?;
        if !state.is_clear {
            return Ok(());
        }
        let mut hints = BTreeMap::new();
        if let Some(listing) = state.listing.take() {
            // Until this listing is acted upon no lease is deleted, and then no more by it: an old listing would make
            // a shard look new whose lease was deleted since.
            state.listed = None;
            self.make_missing(state, &listing, &mut hints).await?;
            self.clean_up(state, &listing).await?;
            state.listed = Some(Instant::now());
        }
        let mut placed = Ok(true);
        for _ in 0..PLACING_ROUNDS {
            placed = self.place(state, &mut hints).await;
            if !matches!(placed, Ok(true)) {
                break;
            }
        }
        self.send_hints(hints).await;
        placed?;
        self.forget_the_dead(state).await?;
        self.end_of_stream(state)
    }

    fn begin_listing(&mut self, state: &mut LeaderState) {
        state.begin_listing();
        let known = state.rows.values().flat_map(|row| row.parents.iter().chain([&row.key]));
        let known: BTreeSet<ShardId> = known.chain(&state.bad).cloned().collect();
        let (stream, mut rng) = (self.stream.clone(), self.rng.fork());
        state.lister.spawn(async move { discovery::list_whole(&stream, &known, &mut rng).await });
    }

    async fn scan(&mut self, state: &mut LeaderState) -> Result<(), Error> {
        let sent = self.origin.elapsed();
        let rows = self.leases.scan().await?;
        let arrived = self.origin.elapsed();
        state.bad = rows.iter().filter_map(|row| row.as_ref().err()).map(|bad| bad.key.clone()).collect();
        state.rows = rows.into_iter().flatten().map(|row| (row.key.clone(), row)).collect();
        state.set_scan_interval();
        state.note_finished();
        state.scanned = Some(Instant::now());
        let mut strangers = BTreeSet::new();
        for row in state.rows.values().filter(|row| !row.is_finished()) {
            if row.holder().is_some_and(|holder| self.is_stranger(holder)) {
                state.strangers.observe(row, sent, arrived, self.options.lease_duration);
                strangers.insert(row.key.clone());
            }
        }
        state.strangers.retain(&strangers);
        self.remind(state).await;
        Ok(())
    }

    /// Reads the leases that are on their way again: when they have arrived, others may go.
    async fn refresh_hand_offs(&self, state: &mut LeaderState) -> Result<(), Error> {
        let moving: BTreeSet<ShardId> = state.hand_offs.keys().cloned().collect();
        if moving.is_empty() {
            return Ok(());
        }
        for row in self.leases.read_many(&moving).await?.into_iter().flatten() {
            state.rows.insert(row.key.clone(), row);
        }
        Ok(())
    }

    /// Holds everything back while an owner that isn't one of us may be alive, and stops when it is.
    fn watch_for_kcl(&mut self, state: &mut LeaderState) -> Result<(), Error> {
        if let Some((owner, lease)) = state.strangers.living() {
            return Err(Error::KclAlive { owner: owner.clone(), lease: lease.clone() });
        }
        let limit = self.options.kcl_failover_time;
        let is_clear = state.strangers.are_still(limit);
        if !is_clear && state.is_clear {
            tracing::info!(
                leases = state.strangers.len(),
                wait = ?limit,
                "leases name owners that are not in the fleet table: waiting whether they are alive"
            );
        }
        state.is_clear = is_clear;
        Ok(())
    }

    /// Makes the leases that the last listing calls for, each with its first owner where it can start at once.
    async fn make_missing(
        &mut self,
        state: &mut LeaderState,
        listing: &Listing,
        hints: &mut BTreeMap<WorkerId, Hints>,
    ) -> Result<(), Error> {
        let Some(leadership) = self.view.leadership.clone() else { return Ok(()) };
        let start = if leadership.initial_sync_done { Checkpoint::TrimHorizon } else { self.options.start.clone() };
        // A stale listing may hide a shard's child; the child's lease still says that the shard was read.
        let parents: BTreeSet<&ShardId> = state.rows.values().flat_map(|row| &row.parents).collect();
        let had_lease = |id: &ShardId| state.rows.contains_key(id) || state.bad.contains(id) || parents.contains(id);
        let mut missing = listing.graph.missing_leases(had_lease, &start);
        state.newcomers = if leadership.initial_sync_done {
            hold_back(&mut missing, &listing.graph.newcomers(had_lease), &state.newcomers)
        } else {
            BTreeSet::new() // all are new
        };
        if !missing.is_empty() {
            tracing::info!(leases = missing.len(), shards = listing.graph.len(), "making leases");
            let mut all = state.rows.clone();
            all.extend(missing.iter().map(|lease| (lease.key.clone(), lease.clone())));
            for step in self.plan(&all, state) {
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
                        state.rows.insert(row.key.clone(), row);
                    }
                    Outcome::Conflict(Some(row)) => drop(state.rows.insert(row.key.clone(), row)),
                    Outcome::Conflict(None) => {}
                }
            }
        }
        if !leadership.initial_sync_done {
            let wanted = LeaderRecord { initial_sync_done: true, term: leadership.term + 1, ..leadership.clone() };
            if self.fleet.write_leader(&wanted, Some(leadership.term)).await? {
                self.view.leadership = Some(wanted);
                self.view_sender.send_replace(self.view.clone());
            }
        }
        Ok(())
    }

    /// Gives unowned leases away and evens out the rest. Says whether some rows turned out to be younger than thought.
    async fn place(&mut self, state: &mut LeaderState, hints: &mut BTreeMap<WorkerId, Hints>) -> Result<bool, Error> {
        let mut transitions = Vec::new();
        let mut plan = self.plan(&state.rows, state);
        let takes_over = |step: &Move| match step {
            Move::Assign { lease, .. } => state.rows.get(lease).is_some_and(|row| row.holder().is_some()),
            Move::HandOff { .. } => false,
        };
        if plan.iter().any(takes_over) {
            // A holder that was dead when this worker last looked may have come back and taken its lease up before the
            // row was read. Only a look that comes after the row proves that nobody delivers on it.
            self.watch().await?;
            if !self.leads() {
                return Ok(false);
            }
            plan = self.plan(&state.rows, state);
        }
        for step in plan {
            let (Move::Assign { lease, .. } | Move::HandOff { lease, .. }) = &step;
            let Some(row) = state.rows.get(lease) else { continue };
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
        transitions.extend(self.overdue_hand_offs(state));
        let leases = self.leases.clone();
        let applied = concurrently(transitions, move |transition: Transition| {
            let leases = leases.clone();
            async move { leases.apply(&transition).await.map(|outcome| (transition, outcome)) }
        });
        let (mut failed, mut met_younger) = (None, false);
        for outcome in applied.await {
            match outcome {
                Ok((transition, Outcome::Applied(row))) => {
                    self.note_failover(&transition);
                    for worker in [&row.owner, &row.checkpoint_owner].into_iter().flatten() {
                        hints.entry(worker.clone()).or_default().keys.insert(row.key.clone());
                    }
                    state.rows.insert(row.key.clone(), row);
                }
                Ok((_, Outcome::Conflict(Some(row)))) => {
                    met_younger = true;
                    state.rows.insert(row.key.clone(), row);
                }
                Ok((transition, Outcome::Conflict(None))) => drop(state.rows.remove(&transition.before.key)),
                Err(error) => {
                    state.scanned = None; // what happened is in the table
                    failed = Some(error);
                }
            }
        }
        state.note_hand_offs();
        failed.map_or(Ok(met_younger), |error| Err(error.into()))
    }

    fn plan(&self, rows: &BTreeMap<ShardId, Lease>, state: &LeaderState) -> Vec<Move> {
        let is_open = |row: &&Lease| {
            !row.is_finished() && row.parents.is_disjoint(&state.bad) && unfinished_parents(row, rows).next().is_none()
        };
        let mut stuck: BTreeMap<&ShardId, Vec<WorkerId>> = BTreeMap::new();
        for seen in self.view.live() {
            for key in &seen.member.record.stuck {
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
                owner: row.owner.clone().filter(|_| self.may_be_held(row, state)),
                moving: row.holder().is_some_and(|holder| {
                    let is_unseen = self.view.worker(holder).is_none();
                    self.may_be_held(row, state) && (row.is_handed_over() || is_unseen)
                }),
            })
            .collect();
        let members: Vec<Member> = self
            .view
            .live()
            .map(|seen| Member {
                id: seen.member.id.clone(),
                leaving: seen.member.record.leaving || self.is_leaving(&seen.member.id),
                overloaded: seen.member.record.overloaded,
                max_leases: seen.member.record.max_leases.and_then(|limit| usize::try_from(limit).ok()),
            })
            .collect();
        debug_assert!(state.is_clear, "nothing is placed while a KCL worker may be alive");
        assignment::plan(&leases, &members, HAND_OFFS_AT_ONCE)
    }

    /// Whether somebody may be delivering on a lease: a worker that lives, or a stranger whose lease has not stood still
    /// for long enough. A row that was met by a write may name one that no scan has shown yet.
    fn may_be_held(&self, row: &Lease, state: &LeaderState) -> bool {
        row.holder().is_some_and(|holder| {
            let is_watched = || !state.strangers.is_still(&row.key, self.options.kcl_failover_time);
            self.may_be_alive(holder) || (self.is_stranger(holder) && is_watched())
        })
    }

    /// Whether this is the leader itself, about to leave, before its item says so.
    fn is_leaving(&self, id: &WorkerId) -> bool {
        *id == self.me.worker && self.presence.get().leaving
    }

    /// ProcessorGuard-offs whose old owner lives but does not let go: the new owner gets the lease without waiting any longer.
    fn overdue_hand_offs(&self, state: &LeaderState) -> Vec<Transition> {
        let limit = self.options.drain_timeout + self.options.lease_duration;
        let overdue = state.hand_offs.iter().filter(|(_, since)| since.elapsed() >= limit);
        overdue
            .filter_map(|(key, _)| {
                let row = state.rows.get(key)?;
                let owner = row.owner.as_ref()?;
                tracing::warn!(shard = %key, from = ?row.checkpoint_owner, to = %owner, "forcing a hand-off that hangs");
                Some(row.assign(owner))
            })
            .collect()
    }

    async fn send_hints(&self, mut hints: BTreeMap<WorkerId, Hints>) {
        if let Some(mine) = hints.remove(&self.me.worker) {
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

    /// Tells workers whose idea of their leases has been wrong for some scans to look at all rows: a hint was lost. With
    /// a leader's first scan they are told of theirs at once: the leader before may have gone with its hints unsent.
    async fn remind(&self, state: &mut LeaderState) {
        let is_first = state.wrong.is_empty();
        let mut hints = BTreeMap::new();
        for seen in self.view.live() {
            let id = &seen.member.id;
            let owned = state.rows.values().filter(|row| row.owner.as_ref() == Some(id) && !row.is_finished());
            let keys: BTreeSet<&ShardId> = owned.map(|row| &row.key).collect();
            let owned = digest(keys.iter().copied());
            let entry = state.wrong.entry(id.clone()).or_default();
            if owned == seen.member.record.digest {
                *entry = (owned, 0);
                continue;
            }
            *entry = if entry.0 == owned { (owned, entry.1 + 1) } else { (owned, 1) };
            if is_first {
                hints.insert(id.clone(), Hints { keys: keys.into_iter().cloned().collect(), everything: false });
            } else if entry.1 >= WRONG_SCANS {
                entry.1 = 0;
                tracing::debug!(worker = %id, "a worker doesn't know its leases, reminding it");
                hints.insert(id.clone(), Hints { everything: true, ..Hints::default() });
            }
        }
        let view = &self.view;
        state.wrong.retain(|id, _| view.worker(id).is_some());
        self.send_hints(hints).await;
    }

    /// Puts late children on their parents' rows, and deletes finished leases that nobody needs any more.
    async fn clean_up(&mut self, state: &mut LeaderState, listing: &Listing) -> Result<(), Error> {
        if !state.bad.is_empty() {
            return Ok(()); // a row that cannot be read may be somebody's parent
        }
        let late: Vec<Transition> = listing
            .graph
            .unknown_children(&state.rows)
            .filter(|(_, children)| children.iter().all(|child| state.rows.contains_key(child)))
            .map(|(row, children)| row.with_children(&children))
            .collect();
        for transition in late {
            if let Outcome::Applied(row) = self.leases.apply(&transition).await? {
                state.rows.insert(row.key.clone(), row);
            }
        }
        for key in listing.graph.deletable(&state.rows) {
            let Some(row) = state.rows.get(&key).filter(|row| state.had_settled(&row.key)) else { continue };
            if self.leases.delete(row).await? {
                tracing::debug!(shard = %key, "finished lease deleted");
            }
            state.rows.remove(&key);
        }
        Ok(())
    }

    /// Removes the items of dead workers that no unfinished lease names any more.
    async fn forget_the_dead(&mut self, state: &LeaderState) -> Result<(), Error> {
        for seen in self.view.workers.iter().filter(|seen| !seen.is_alive) {
            let id = &seen.member.id;
            let is_named = |row: &Lease| row.owner.as_ref() == Some(id) || row.checkpoint_owner.as_ref() == Some(id);
            if state.rows.values().any(|row| !row.is_finished() && is_named(row)) {
                continue;
            }
            let presence = &seen.member.record;
            if self.fleet.remove(id, &presence.incarnation, presence.heartbeat).await? {
                tracing::info!(worker = %id, "dead worker removed from the fleet");
            }
        }
        Ok(())
    }

    /// Nothing comes any more from a stream that is switched off and read to its end.
    fn end_of_stream(&self, state: &LeaderState) -> Result<(), Error> {
        let is_listed = self.view.leadership.as_ref().is_some_and(|leadership| leadership.initial_sync_done);
        if state.is_disabled && is_listed && !state.rows.is_empty() && state.rows.values().all(Lease::is_finished) {
            tracing::warn!("the stream is switched off and everything in it is delivered");
            let _ = self.notices.send(Notice::StreamEnded);
        }
        Ok(())
    }
}

/// Holds the leases of shards back that continue no known one, and of those below them, until a second listing shows
/// them too. While the pages of the first were read, a whole family may have been trimmed, the root after its page,
/// its descendants before theirs: then a shard that was read long ago looks new. `seen` are those that the listing
/// before this one showed; returns those held back.
fn hold_back(missing: &mut Vec<Lease>, newcomers: &BTreeSet<ShardId>, seen: &BTreeSet<ShardId>) -> BTreeSet<ShardId> {
    let mut held_back = BTreeSet::new();
    // Parents come before their children here.
    missing.retain(|lease| {
        let waits =
            newcomers.contains(&lease.key) && !seen.contains(&lease.key) || !lease.parents.is_disjoint(&held_back);
        if waits {
            held_back.insert(lease.key.clone());
        }
        !waits
    });
    held_back
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

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(key: &str, parent: Option<&str>) -> Lease {
        Lease::new(key.into(), parent.into_iter().map(ShardId::from).collect(), Checkpoint::TrimHorizon)
    }

    fn ids(names: &[&str]) -> BTreeSet<ShardId> {
        names.iter().map(|name| ShardId::from(*name)).collect()
    }

    #[test]
    fn a_shard_that_continues_nothing_gets_its_lease_when_a_second_listing_shows_it() {
        let missing = vec![lease("root", None), lease("follower", Some("leased")), lease("child", Some("root"))];
        let newcomers = ids(&["root", "child"]);
        let mut first = missing.clone();
        assert_eq!(hold_back(&mut first, &newcomers, &ids(&[])), newcomers);
        assert_eq!(first, [lease("follower", Some("leased"))], "what continues a leased shard waits for nothing");
        let mut second = missing.clone();
        assert_eq!(hold_back(&mut second, &newcomers, &newcomers), ids(&[]));
        assert_eq!(second, missing);
    }

    #[test]
    fn no_lease_is_made_below_one_that_is_held_back() {
        let mut missing = vec![lease("root", None), lease("child", Some("root"))];
        hold_back(&mut missing, &ids(&["root", "child"]), &ids(&["child"]));
        assert_eq!(missing, []);
    }
}
