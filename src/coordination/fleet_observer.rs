//! The fleet as one observer sees it: who is there, and whose heartbeat still changes.

use std::time::Duration;

use tokio::time::Instant;

use crate::aws::TableError;
use crate::aws::fleet_table::FleetTable;
use crate::model::fleet_view::{FleetView, Heartbeats};
use crate::model::lease::WorkerId;
use crate::model::worker_record::Fleet;

/// Reads the fleet table time after time, and remembers when each heartbeat changed.
///
/// Times are since the observer was made, on its own clock.
#[derive(Debug)]
pub struct FleetObserver {
    table: FleetTable,
    lease_duration: Duration,
    origin: Instant,
    heartbeats: Heartbeats,
    reads: u64,
    last_scan: (Duration, Duration),
}

impl FleetObserver {
    /// An observer of a fleet table whose workers have this lease duration.
    pub fn new(table: FleetTable, lease_duration: Duration) -> Self {
        let last_scan = (Duration::ZERO, Duration::ZERO);
        Self { table, lease_duration, origin: Instant::now(), heartbeats: Heartbeats::default(), reads: 0, last_scan }
    }

    /// Reads the fleet table once.
    ///
    /// # Errors
    /// When the table could not be read.
    pub async fn refresh(&mut self) -> Result<FleetView, TableError> {
        let sent = self.elapsed();
        let fleet = self.table.scan().await?;
        Ok(self.observe(fleet, sent))
    }

    /// Reads the fleet table once; one that isn't there, as beside another program's leases, is an empty fleet.
    ///
    /// # Errors
    /// When the table could not be read.
    pub async fn refresh_if_there(&mut self) -> Result<FleetView, TableError> {
        let sent = self.elapsed();
        let fleet = match self.table.scan().await {
            Err(TableError::Missing { .. }) => Fleet::default(),
            fleet => fleet?,
        };
        Ok(self.observe(fleet, sent))
    }

    fn observe(&mut self, fleet: Fleet, sent: Duration) -> FleetView {
        let arrived = self.elapsed();
        for member in &fleet.members {
            let value = (member.record.incarnation.clone(), member.record.heartbeat);
            self.heartbeats.observe(&member.id, value, sent, arrived);
        }
        self.heartbeats.retain(|id| fleet.members.iter().any(|member| member.id == *id));
        self.reads += 1;
        self.last_scan = (sent, arrived);
        FleetView::new(fleet, &self.heartbeats, self.lease_duration, self.reads)
    }

    pub(super) fn origin(&self) -> Instant {
        self.origin
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.origin.elapsed()
    }

    /// When the last read was sent and when its answer arrived.
    pub(super) fn last_scan(&self) -> (Duration, Duration) {
        self.last_scan
    }

    /// The moment at which a worker's heartbeat was first seen as it is now.
    pub(super) fn unchanged_since(&self, worker: &WorkerId) -> Option<Duration> {
        self.heartbeats.stale_at(worker, Duration::ZERO)
    }
}
