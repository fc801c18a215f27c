//! The signs of life that a KCL fleet of the application writes beside its leases: its workers' metrics and its leader's
//! lock. KCL 3.5 may keep both in the lease table; before, they have tables of their own.

use super::LeaseTable;
use crate::aws::TableError;
use crate::aws::item::{Item, count, text};
use crate::aws::own_table::OwnTable;
use crate::model::lease::WorkerId;

/// A KCL worker's or leader's sign of life, which changes while it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KclSign {
    pub writer: WorkerId,
    pub value: String,
    /// The time of the writing (ms since the epoch, by the writer's clock), where it tells.
    pub written_ms: Option<u64>,
}

impl LeaseTable {
    /// The signs of life that are there.
    ///
    /// # Errors
    /// When a call failed for another reason than that there is no such table.
    pub async fn kcl_signs(&self) -> Result<Vec<KclSign>, TableError> {
        let mut signs = Vec::new();
        for suffix in ["", "-WorkerMetricStats", "-CoordinatorState"] {
            let table = OwnTable::new(self.0.client.clone(), format!("{}{suffix}", self.0.name), &[]);
            match table.scan(|item| signs.extend(worker_sign(&item).or_else(|| leader_sign(&item)))).await {
                Ok(()) | Err(TableError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(signs)
    }
}

fn worker_sign(item: &Item) -> Option<KclSign> {
    let written_s = count(item, "lut")?;
    let writer = text(item, "wid").or_else(|| text(item, "leaseKey"))?;
    Some(KclSign { writer: writer.into(), value: written_s.to_string(), written_ms: Some(written_s * 1000) })
}

/// The leader's lock tells no time: left behind by a dead leader, it proves nothing until it changes.
fn leader_sign(item: &Item) -> Option<KclSign> {
    let (owner, version) = (text(item, "ownerName")?, text(item, "recordVersionNumber")?);
    Some(KclSign { writer: owner.into(), value: version.to_owned(), written_ms: None })
}
