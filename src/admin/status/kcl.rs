//! The owners of leases that are not in the fleet table, as KCL's workers are, and what the tables tell of their lives.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::aws::lease_table::{KclSign, KclSignKind};
use crate::model::fleet_view::FleetView;
use crate::model::lease::{Lease, ShardId, WorkerId};

/// The age of a KCL worker's metrics up to which it counts as alive, as for KCL's own leader: two of its intervals.
const ALIVE_FOR_MS: u64 = 60_000;
/// The leases of an owner that are watched: KCL's workers renew all of theirs at the same time.
const WATCHED: usize = 3;

/// An outsider's knowledge of owners that are not in the fleet table.
#[derive(Clone, Debug, Default)]
pub struct KclInputs {
    /// The signs of life that KCL's workers write apart from their leases.
    pub signs: Vec<KclSign>,
    /// Owners that renewed a lease while the status was read.
    pub renewing: BTreeSet<WorkerId>,
}

/// A KCL worker, or the name that one left in a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KclWorkerStatus {
    /// Its id.
    pub id: String,
    /// Whether it wrote its metrics within the last minute, or renewed a lease while the status was read.
    pub is_alive: bool,
    /// Whether it was the last that led KCL's fleet.
    pub is_leader: bool,
    /// The time of its last metrics, by its own clock (ms since the epoch); KCL 3 writes them each 30 seconds.
    pub last_metrics_ms: Option<u64>,
    /// The unfinished shards whose leases it holds.
    pub shards: Vec<String>,
}

/// The departure of all workers, because a KCL worker was alive on the lease table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KclDeparture {
    /// The KCL worker.
    pub worker: String,
    /// The shard of a lease that it held.
    pub shard: String,
    /// The time of the departure (ms since the epoch).
    pub at_ms: Option<u64>,
}

/// The unfinished leases of each owner that is not in the fleet table.
pub fn foreign_leases<'a>(
    rows: impl IntoIterator<Item = &'a Lease>,
    view: &FleetView,
) -> BTreeMap<&'a WorkerId, Vec<&'a Lease>> {
    let mut foreign: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for row in rows.into_iter().filter(|row| !row.is_finished()) {
        if let Some(holder) = row.holder().filter(|holder| view.worker(holder).is_none()) {
            foreign.entry(holder).or_default().push(row);
        }
    }
    foreign
}

impl KclInputs {
    /// The workers, by id.
    pub(super) fn workers(&self, foreign: &BTreeMap<&WorkerId, Vec<&Lease>>, now_ms: u64) -> Vec<KclWorkerStatus> {
        let ids: BTreeSet<&WorkerId> =
            self.signs.iter().map(|sign| &sign.writer).chain(foreign.keys().copied()).collect();
        let status = |id: &WorkerId| KclWorkerStatus {
            id: id.to_string(),
            is_alive: self.is_alive(id, now_ms),
            is_leader: self.sign(id, KclSignKind::LeaderLock).is_some(),
            last_metrics_ms: self.last_metrics_ms(id),
            shards: foreign.get(id).into_iter().flatten().map(|row| row.key.to_string()).collect(),
        };
        ids.into_iter().map(status).collect()
    }

    pub(super) fn is_alive(&self, id: &WorkerId, now_ms: u64) -> bool {
        let is_young = |written: u64| now_ms.abs_diff(written) <= ALIVE_FOR_MS;
        self.renewing.contains(id) || self.last_metrics_ms(id).is_some_and(is_young)
    }

    /// Leases that show by a renewal whether their owners live, of owners of which nothing else shows it.
    pub fn to_watch(&self, foreign: &BTreeMap<&WorkerId, Vec<&Lease>>, now_ms: u64) -> BTreeSet<ShardId> {
        let unknown = foreign.iter().filter(|(owner, _)| !self.is_alive(owner, now_ms));
        unknown.flat_map(|(_, rows)| rows.iter().take(WATCHED)).map(|row| row.key.clone()).collect()
    }

    /// Notes a lease that was read again.
    pub fn observe(&mut self, row: &Lease, foreign: &BTreeMap<&WorkerId, Vec<&Lease>>) {
        let is_renewed = |before: &&Lease| before.key == row.key && before.counter < row.counter;
        let owner = row.holder().filter(|owner| foreign.get(owner).into_iter().flatten().any(is_renewed));
        self.renewing.extend(owner.cloned());
    }

    fn last_metrics_ms(&self, id: &WorkerId) -> Option<u64> {
        self.sign(id, KclSignKind::WorkerMetrics)?.written_ms
    }

    fn sign(&self, id: &WorkerId, kind: KclSignKind) -> Option<&KclSign> {
        self.signs.iter().find(|sign| sign.writer == *id && sign.kind == kind)
    }
}
