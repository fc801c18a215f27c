//! The tables of an application and its stream, for sub-commands that read a fleet from outside.

use std::time::Duration;

use anyhow::anyhow;

use crate::aws::clients::{self, Clients, Endpoints};
use crate::aws::fleet_table::FleetTable;
use crate::aws::lease_table::{BadRow, KclSign, LeaseTable};
use crate::aws::stream::Stream;
use crate::aws::{TableError, credentials};
use crate::model::lease::Lease;

/// The clients and tables of an application.
pub struct Connection {
    /// The clients.
    pub clients: Clients,
    /// The lease table.
    pub leases: LeaseTable,
    /// The fleet table.
    pub fleet: FleetTable,
}

impl Connection {
    /// Loads the AWS environment, and checks that the application's tables, if they are there, are its own.
    ///
    /// # Errors
    /// When there is no region, there are no credentials, a table is another program's, or the service does not answer.
    pub async fn new(app: &str, endpoints: &Endpoints, lease_duration: Duration) -> Result<Self, anyhow::Error> {
        let config = clients::load(endpoints).await?;
        credentials::check(&config).await?;
        let clients = clients::clients(&config, endpoints, clients::table_timeout(lease_duration), "operator");
        let leases = LeaseTable::new(clients.tables.clone(), app);
        let fleet = FleetTable::new(clients.tables.clone(), app);
        tokio::try_join!(leases.check(), fleet.check())?;
        Ok(Self { clients, leases, fleet })
    }

    /// All rows of the lease table.
    ///
    /// # Errors
    /// When the table does not exist, or cannot be read.
    pub async fn rows(&self) -> Result<Vec<Result<Lease, BadRow>>, anyhow::Error> {
        Ok(self.rows_with_signs().await?.0)
    }

    /// All rows of the lease table, and the signs of life that KCL 3.5 keeps among them.
    ///
    /// # Errors
    /// As [`Connection::rows`].
    pub async fn rows_with_signs(&self) -> Result<(Vec<Result<Lease, BadRow>>, Vec<KclSign>), anyhow::Error> {
        self.leases.scan_with_signs().await.map_err(|error| match error {
            TableError::Missing { table, .. } => anyhow!(
                "there is no application \"{table}\" here: table {table} does not exist. Check --app, and the region \
                 and endpoint in use"
            ),
            error => error.into(),
        })
    }

    /// The stream with this ARN.
    pub fn stream(&self, arn: &str) -> Stream {
        Stream::new(self.clients.streams.clone(), arn)
    }
}
