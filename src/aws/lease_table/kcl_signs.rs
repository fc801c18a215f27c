//! The signs of life that a KCL fleet of the application writes beside its leases: its workers' metrics and its leader's
//! lock. KCL 3.5 may keep both in the lease table; before, they have tables of their own.

use super::LeaseTable;
use crate::aws::item::{Item, count, text};
use crate::aws::own_table::OwnTable;
use crate::aws::{TableError, TableRole};
use crate::model::lease::WorkerId;

/// A KCL worker's or leader's sign of life, which changes while it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KclSign {
    pub writer: WorkerId,
    pub kind: KclSignKind,
    pub value: String,
    /// The time of the writing (ms since the epoch, by the writer's clock), where it tells.
    pub written_ms: Option<u64>,
}

/// The kind of a sign. A leader writes both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KclSignKind {
    WorkerMetrics,
    /// The leader's lock tells no time: left behind by a dead leader, it proves nothing until it changes.
    LeaderLock,
}

impl LeaseTable {
    /// The signs of life in KCL's own tables, as far as these exist.
    ///
    /// # Errors
    /// When a call failed for another reason than that there is no such table.
    pub async fn kcl_signs(&self) -> Result<Vec<KclSign>, TableError> {
        let mut signs = Vec::new();
        for table in self.kcl_tables() {
            match table.scan(|item| signs.extend(read_sign(&item))).await {
                Ok(()) | Err(TableError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(signs)
    }

    /// KCL's own tables.
    fn kcl_tables(&self) -> [OwnTable; 2] {
        ["-WorkerMetricStats", "-CoordinatorState"]
            .map(|suffix| (format!("{}{suffix}", self.table.name), self.table.client.clone()))
            .map(|(name, client)| OwnTable::new(client, name, TableRole::Kcl, &[]))
    }
}

/// The sign of life that an item is, if it is one.
pub(super) fn read_sign(item: &Item) -> Option<KclSign> {
    worker_sign(item).or_else(|| leader_sign(item))
}

fn worker_sign(item: &Item) -> Option<KclSign> {
    let written_s = count(item, "lut")?;
    let writer = text(item, "wid").or_else(|| text(item, "leaseKey"))?.into();
    let (kind, written_ms) = (KclSignKind::WorkerMetrics, Some(written_s.saturating_mul(1000)));
    Some(KclSign { writer, kind, value: written_s.to_string(), written_ms })
}

fn leader_sign(item: &Item) -> Option<KclSign> {
    let (writer, value) = (text(item, "ownerName")?.into(), text(item, "recordVersionNumber")?.to_owned());
    Some(KclSign { writer, kind: KclSignKind::LeaderLock, value, written_ms: None })
}
