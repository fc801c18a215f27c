//! Looking at a fleet from outside: for programs that take no part in it.

use std::time::Duration;

use tokio::time::Instant;

use super::fleet_view::{FleetView, Heartbeats};
use crate::aws::TableError;
use crate::aws::fleet_table::FleetTable;
use crate::model::worker_record::Fleet;

/// Looks at the fleet table again and again, and remembers whose heartbeat changed.
#[derive(Debug)]
pub struct FleetObserver {
    /// None: there is no fleet table, only leases of another program's workers.
    table: Option<FleetTable>,
    lease_duration: Duration,
    origin: Instant,
    heartbeats: Heartbeats,
    reads: u64,
}

impl FleetObserver {
    /// A watcher of this fleet table, whose workers have this lease duration.
    pub fn new(table: FleetTable, lease_duration: Duration) -> Self {
        let table = Some(table);
        Self { table, lease_duration, origin: Instant::now(), heartbeats: Heartbeats::default(), reads: 0 }
    }

    /// Looks once. A fleet table that isn't there is an empty fleet.
    ///
    /// # Errors
    /// When the table could not be read.
    pub async fn look(&mut self) -> Result<FleetView, TableError> {
        let sent = self.origin.elapsed();
        let fleet = match &self.table {
            None => Fleet::default(),
            Some(table) => match table.scan().await {
                Err(TableError::Missing { .. }) => {
                    self.table = None;
                    Fleet::default()
                }
                fleet => fleet?,
            },
        };
        let arrived = self.origin.elapsed();
        for member in &fleet.members {
            let value = (member.record.incarnation.clone(), member.record.heartbeat);
            self.heartbeats.observe(&member.id, value, sent, arrived);
        }
        self.heartbeats.retain(|id| fleet.members.iter().any(|member| member.id == *id));
        self.reads += 1;
        Ok(FleetView::new(fleet, &self.heartbeats, self.lease_duration, self.reads))
    }
}
