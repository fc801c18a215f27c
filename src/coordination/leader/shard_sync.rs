//! Leases for the stream's shards: made when a listing shows a shard without one, deleted when nobody needs them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use super::concurrently;
use super::election::Election;
use super::state::LeaderState;
use crate::aws::lease_table::Outcome;
use crate::coordination::{Error, Notice, discovery};
use crate::model::assignment::Move;
use crate::model::checkpoint::Checkpoint;
use crate::model::lease::{Lease, ShardId, Transition, WorkerId};
use crate::model::shard_directory::Listing;
use crate::model::shard_graph::{Shard, ShardGraph, Start};
use crate::model::worker_record::{Hints, LeaderRecord};
use crate::options::StartPosition;
use crate::telemetry::scope::inherit;

/// The age, in milliseconds, of a shard whose parent is trimmed by now: the retention, and an hour for wrong clocks.
const TRIMMED_ABOVE_MS: u64 = 25 * 3600 * 1000;

impl LeaderState {
    pub(super) fn begin_listing(&mut self, election: &mut Election) {
        let known = self.rows.values().flat_map(|row| row.parents.iter().chain([&row.key]));
        let known: BTreeSet<ShardId> = known.chain(&self.bad).cloned().collect();
        let (directory, stream) = (election.deps.directory.clone(), election.deps.stream.clone());
        let is_new = !election.view.initial_sync_done() && self.rows.is_empty() && self.bad.is_empty();
        self.first_pages = (is_new || self.first_pages.is_some()).then(ShardGraph::default);
        let mut rng = election.rng.fork();
        let list = async move { discovery::list_whole(&directory, &stream, &known, &mut rng).await };
        self.lister.spawn(inherit(list));
    }

    /// Acts upon a listing that has come in. Returns the owners of new leases, who are to be told.
    pub(super) async fn sync_shards(&mut self, election: &mut Election) -> Result<BTreeMap<WorkerId, Hints>, Error> {
        let mut hints = BTreeMap::new();
        if let Some(listing) = self.listing.take() {
            let is_new = self.first_pages.take().is_some();
            let before = self.last_listing.replace(Arc::clone(&listing));
            // No lease is deleted until this listing is acted upon, nor by this listing afterwards: an old listing would
            // make a shard look new whose lease was deleted since.
            self.rests_since = None;
            self.make_missing(election, &listing, before.as_deref(), is_new, &mut hints).await?;
            if election.view.initial_sync_done() {
                self.clean_up(election, &listing).await?;
            }
            self.rests_since = Some(Instant::now());
        } else if let Some(pages) = &self.first_pages {
            let Some(leadership) = &election.view.leadership else { return Ok(hints) };
            let now_ms = election.deps.options.clock.now_ms();
            let is_trimmed_above = |id: &ShardId| id.created_ms().is_some_and(|ms| ms + TRIMMED_ABOVE_MS <= now_ms);
            let is_root = |shard: &Shard| shard.parent.is_none() || is_trimmed_above(&shard.id);
            let start = start_of(election.deps.options.start, leadership.started_at_ms);
            let missing = pages.certain_part(&start, is_root).missing_leases(|id| self.rows.contains_key(id), &start);
            self.make(election, missing, &mut hints).await?;
        }
        Ok(hints)
    }

    /// Makes the leases that a complete listing calls for.
    ///
    /// While its pages were read, a whole family may have been trimmed, the root after its page, its descendants before
    /// theirs: then a shard that was read long ago looks new. The listing `before` shows such descendants, which were
    /// old by then and outlived it, as the root did. A leader's first listing has none before it, so what no listing of this
    /// worker has shown waits for the second one, unless the lease table knows nothing of this stream.
    ///
    /// `is_new`: the application had no lease when the listing began, and has only those that its pages called for.
    async fn make_missing(
        &mut self,
        election: &mut Election,
        listing: &Listing,
        before: Option<&Listing>,
        is_new: bool,
        hints: &mut BTreeMap<WorkerId, Hints>,
    ) -> Result<(), Error> {
        let Some(leadership) = election.view.leadership.clone() else { return Ok(()) };
        // Rows of other shards are of an earlier stream, which this one continues.
        let continues = || !is_new && self.rows.keys().any(|key| !listing.graph.contains(key));
        let start = match leadership.initial_sync_done || continues() {
            true => Start::TrimHorizon,
            false => start_of(election.deps.options.start, leadership.started_at_ms),
        };
        // A stale listing may hide a shard's child; the child's lease still says that the shard was read.
        let parents: BTreeSet<&ShardId> = self.rows.values().flat_map(|row| &row.parents).collect();
        let has_lease = |id: &ShardId| self.rows.contains_key(id) || self.bad.contains(id);
        let had_lease = |id: &ShardId| !is_new && (has_lease(id) || parents.contains(id));
        let is_known = || leadership.initial_sync_done || listing.graph.ids().any(had_lease);
        let lineage = before.map_or_else(|| listing.graph.clone(), |before| listing.graph.joined_with(&before.graph));
        let mut newcomers = BTreeSet::new();
        if before.is_none() && is_known() {
            newcomers = listing.graph.newcomers(had_lease);
            newcomers.retain(|shard| listing.is_first_with(shard));
        }
        let mut missing = lineage.missing_leases(had_lease, &start);
        missing.retain(|lease| {
            listing.graph.contains(&lease.key) && !has_lease(&lease.key) && !newcomers.contains(&lease.key)
        });
        self.holds_back = !newcomers.is_empty();
        self.make(election, missing, hints).await?;
        if !leadership.initial_sync_done && !self.holds_back {
            let wanted = LeaderRecord { initial_sync_done: true, term: leadership.term + 1, ..leadership.clone() };
            if election.deps.fleet.write_leader(&wanted, Some(leadership.term)).await? {
                election.view.leadership = Some(wanted);
                election.publish_view();
            }
        }
        Ok(())
    }

    /// Makes leases, each with its first owner where it can start at once.
    async fn make(
        &mut self,
        election: &Election,
        mut missing: Vec<Lease>,
        hints: &mut BTreeMap<WorkerId, Hints>,
    ) -> Result<(), Error> {
        if !missing.is_empty() {
            tracing::info!(leases = missing.len(), "making leases");
            for lease in missing.iter_mut().filter(|lease| lease.checkpoint == Checkpoint::AtTimestamp) {
                lease.since_ms = election.view.leadership.as_ref().map(|leadership| leadership.started_at_ms);
            }
            let mut all = self.rows.clone();
            all.extend(missing.iter().map(|lease| (lease.key.clone(), lease.clone())));
            let mut owners: BTreeMap<ShardId, WorkerId> = BTreeMap::new();
            owners.extend(self.plan(election, &all).into_iter().filter_map(|step| match step {
                Move::Assign { lease, to } => Some((lease, to)),
                Move::HandOff { .. } => None,
            }));
            missing.iter_mut().for_each(|row| row.owner = owners.remove(&row.key));
        }
        // Generation by generation, so that a child's lease never exists without its parent's.
        while !missing.is_empty() {
            let keys: BTreeSet<ShardId> = missing.iter().map(|lease| lease.key.clone()).collect();
            let (ready, rest): (Vec<_>, Vec<_>) =
                missing.into_iter().partition(|lease| lease.parents.is_disjoint(&keys));
            if ready.is_empty() {
                break; // the listing has a cycle
            }
            missing = rest;
            let leases = election.deps.leases.clone();
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
                        self.rows.insert(row.key.clone(), row);
                    }
                    Outcome::Conflict(Some(row)) => drop(self.rows.insert(row.key.clone(), row)),
                    Outcome::Conflict(None) => {}
                }
            }
        }
        Ok(())
    }

    /// Puts late children on their parents' rows, and deletes finished leases that nobody needs any longer.
    async fn clean_up(&mut self, election: &Election, listing: &Listing) -> Result<(), Error> {
        if !self.bad.is_empty() {
            return Ok(()); // a row that cannot be read may be somebody's parent
        }
        let late: Vec<Transition> = listing
            .graph
            .unknown_children(&self.rows)
            .filter(|(_, children)| children.iter().all(|child| self.rows.contains_key(child)))
            .map(|(row, children)| row.with_children(&children))
            .collect();
        for transition in late {
            if let Outcome::Applied(row) = election.deps.leases.apply(&transition).await? {
                self.rows.insert(row.key.clone(), row);
            }
        }
        for key in listing.graph.deletable(&self.rows) {
            let Some(row) = self.rows.get(&key).filter(|row| self.had_settled(&row.key)) else { continue };
            if election.deps.leases.delete(row).await? {
                tracing::debug!(shard = %key, "finished lease deleted");
            }
            self.rows.remove(&key);
        }
        Ok(())
    }

    /// Ends the fleet's work when the stream is switched off and read to its end.
    ///
    /// The last shard of each line was finished without a child only by a settled listing, so all shards that came
    /// before are in a listing that began after the last end.
    pub(super) fn check_end_of_stream(&self, election: &Election) {
        let is_off = self.disabled_since.is_some_and(|since| self.is_settled(since));
        let is_synced = election.view.initial_sync_done() && self.listing.is_none() && !self.holds_back;
        let is_read = !self.rows.is_empty() && self.rows.keys().all(|key| self.is_end_listed(key));
        if is_off && is_synced && is_read {
            tracing::warn!("the stream is switched off and everything in it is delivered");
            let _ = election.notices.send(Notice::StreamEnded);
        }
    }
}

fn start_of(start: StartPosition, moment_ms: u64) -> Start {
    let checkpoint = match start {
        StartPosition::TrimHorizon => return Start::TrimHorizon,
        StartPosition::Latest => Checkpoint::Latest,
        StartPosition::At(_) => Checkpoint::AtTimestamp,
    };
    Start::Since { checkpoint, moment_ms }
}
