//! A replay of what a stream still has: the plan of its writes, from the lease rows and a listing of the stream.
//!
//! The leader deletes the lease of a shard that was read, so going back in the leases that exist would bring back the last
//! generation of shards alone. A replay makes the others again.

use std::collections::BTreeMap;

use crate::model::checkpoint::Checkpoint;
use crate::model::lease::{Lease, ShardId, Transition};
use crate::model::shard_graph::{ShardGraph, Start};

/// A shard's children come to be at about its end: this far apart at the most.
const END_TOLERANCE_MS: u64 = 60_000;

/// A write of a replay.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplayWrite {
    /// Moves a lease back to the shard's oldest record.
    Reset(Transition),
    /// Makes the lease of a shard that was read and whose lease was deleted.
    Create(Lease),
}

/// The writes of a replay, and the shards that it leaves alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplayPlan {
    /// The writes, parents before their children.
    pub writes: Vec<ReplayWrite>,
    /// The number of leases that are at their shard's oldest record already.
    pub unchanged: usize,
    /// The number of listed shards that ended before the time.
    pub older: usize,
    /// The leases of shards that the stream no longer lists.
    pub trimmed: Vec<ShardId>,
}

impl ReplayPlan {
    /// Plans a replay of all listed shards with changes after `from_ms` (ms since the epoch). What is trimmed by `now_ms`
    /// is not wanted.
    pub fn new(rows: &BTreeMap<ShardId, Lease>, graph: &ShardGraph, from_ms: u64, now_ms: u64) -> Self {
        let mut plan = Self::default();
        for lease in graph.missing_leases(|_| false, &Start::TrimHorizon) {
            if ended_before(graph, &lease.key, from_ms) {
                plan.older += 1;
                continue;
            }
            match rows.get(&lease.key) {
                None => plan.writes.push(ReplayWrite::Create(Lease { since_ms: Some(now_ms), ..lease })),
                Some(row) if row.checkpoint == Checkpoint::TrimHorizon => plan.unchanged += 1,
                Some(row) => plan.writes.push(ReplayWrite::Reset(row.reset(Checkpoint::TrimHorizon, Some(now_ms)))),
            }
        }
        plan.trimmed = rows.keys().filter(|key| !graph.contains(key)).cloned().collect();
        plan
    }
}

fn ended_before(graph: &ShardGraph, shard: &ShardId, time_ms: u64) -> bool {
    let is_earlier = |child: &ShardId| child.created_ms().is_some_and(|ms| ms + END_TOLERANCE_MS < time_ms);
    let children = graph.children(shard);
    !children.is_empty() && children.iter().all(is_earlier)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::shard_graph::Shard;

    const HOUR_MS: u64 = 3_600_000;
    const T0: u64 = 1_700_000_000_000;

    fn id(hour: u64) -> ShardId {
        format!("shardId-{:020}-x", T0 + hour * HOUR_MS).into()
    }

    fn line(hours: &[u64]) -> ShardGraph {
        let parents = [None].into_iter().chain(hours.iter().map(|hour| Some(id(*hour))));
        hours
            .iter()
            .zip(parents)
            .map(|(hour, parent)| Shard { id: id(*hour), parent, closed: true, ending: None })
            .collect()
    }

    fn row(hour: u64, checkpoint: &str) -> (ShardId, Lease) {
        let checkpoint = Checkpoint::parse(checkpoint).expect("a checkpoint");
        (id(hour), Lease::new(id(hour), [].into(), checkpoint))
    }

    fn written(plan: &ReplayPlan) -> Vec<(&ShardId, bool)> {
        plan.writes
            .iter()
            .map(|write| match write {
                ReplayWrite::Reset(transition) => (&transition.after.key, false),
                ReplayWrite::Create(lease) => (&lease.key, true),
            })
            .collect()
    }

    #[test]
    fn every_listed_shard_is_replayed_also_without_a_lease_and_parents_come_first() {
        let rows = BTreeMap::from([row(0, "SHARD_END"), row(8, "SHARD_END"), row(12, "77"), row(16, "TRIM_HORIZON")]);
        let plan = ReplayPlan::new(&rows, &line(&[4, 8, 12, 16]), 0, T0 + 16 * HOUR_MS);
        assert_eq!(written(&plan), [(&id(4), true), (&id(8), false), (&id(12), false)]);
        assert_eq!((plan.unchanged, plan.older, plan.trimmed), (1, 0, vec![id(0)]));
    }

    #[test]
    fn shards_that_ended_before_the_time_are_left_alone() {
        let rows = BTreeMap::from([row(8, "SHARD_END"), row(12, "77")]);
        let plan = ReplayPlan::new(&rows, &line(&[4, 8, 12]), T0 + 9 * HOUR_MS, T0 + 16 * HOUR_MS);
        assert_eq!(written(&plan), [(&id(8), false), (&id(12), false)]);
        assert_eq!(plan.older, 1);
    }
}
