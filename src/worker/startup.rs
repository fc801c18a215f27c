//! The steps before a worker joins its fleet: its tables, its stream, and the binding of the one to the other.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use super::Error;
use crate::aws::clients::{Clients, ConfigError, SdkConfig};
use crate::aws::fleet_table::FleetTable;
use crate::aws::lease_table::{LeaseTable, Outcome};
use crate::aws::stream::{Described, FindError, Stream, find_stream};
use crate::aws::{self, TableError};
use crate::consumer::{Counters, FatalError, OnFailure};
use crate::coordination::{self, WorkerExit};
use crate::dead_letters::queue::PrepareError;
use crate::error::{Phase, Verdict, on_table_error};
use crate::model::backoff::Backoff;
use crate::model::checkpoint::Checkpoint;
use crate::model::filter::Layout;
use crate::model::lease::{Lease, ShardId};
use crate::model::worker_record::LeaderRecord;
use crate::options::{OnGap, StreamSelector, WorkerOptions};

/// The answers that prove an earlier stream of a table gone, and the pause between them.
const DENIALS: u32 = 4;
const DENIAL_PAUSE: Duration = Duration::from_millis(300);

/// The reason that an attempt to start failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The service may answer later.
    #[error("{0}")]
    Unavailable(Error),
    #[error(transparent)]
    Fatal(Error),
}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

impl StartError {
    fn of_table(error: TableError, may_create: bool) -> Self {
        match error {
            TableError::Missing { table, .. } if !may_create => Self::Fatal(Error::NoTable(table)),
            error if on_table_error(&error, Phase::Starting) == Verdict::Retry => {
                Self::Unavailable(Error::Fleet(error.into()))
            }
            error => Self::Fatal(Error::Fleet(error.into())),
        }
    }

    fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable(FindError::unavailable(reason).into())
    }
}

/// A stream that is gone and was not read to its end, with its unfinished leases.
pub(crate) struct LostStream {
    pub(crate) arn: String,
    pub(crate) unfinished: Vec<Lease>,
}

/// The stream that a worker is about to read.
pub(super) struct Ready {
    pub(super) stream: Stream,
    pub(super) layout: Layout,
    pub(super) leader: LeaderRecord,
}

/// The steps before a worker joins its fleet, retried until the services answer or the start timeout is over. A preflight
/// takes those that write nothing.
pub(crate) struct Startup<'a> {
    pub(super) options: Arc<WorkerOptions>,
    /// The configuration whose credentials are checked, unless they are the caller's.
    pub(super) credentials: Option<&'a SdkConfig>,
    pub(super) clients: &'a Clients,
    pub(super) counters: &'a Counters,
    pub(super) rng: Rng,
    /// Whether the worker has read no stream yet. It waits for the table's next one without a limit.
    pub(super) is_first: bool,
    /// The stream that is read to its end.
    pub(super) ended: Option<String>,
}

impl<'a> Startup<'a> {
    /// The steps of a worker that is not to start.
    #[cfg(feature = "cli")]
    pub(crate) fn for_preflight(options: Arc<WorkerOptions>, clients: &'a Clients, counters: &'a Counters) -> Self {
        Self { options, credentials: None, clients, counters, rng: Rng::with_seed(0), is_first: true, ended: None }
    }

    pub(super) async fn until_ready(&mut self) -> Result<Ready, Error> {
        let limit = self.options.start_timeout;
        let latest = Instant::now() + limit;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
        let mut has_warned = false;
        let mut reason: Error = FindError::unavailable("no answer, or the tables are not ready yet").into();
        let mut is_missing = false;
        loop {
            let attempt = match self.is_first {
                true => tokio::time::timeout_at(latest, self.prepare()).await,
                false => Ok(self.prepare().await),
            };
            match attempt {
                Ok(Ok(ready)) => return Ok(ready),
                Ok(Err(StartError::Unavailable(newest))) => (reason, is_missing) = (newest, false),
                Ok(Err(StartError::Fatal(Error::NoStream(error)))) if self.waits_for(&error) => {
                    (reason, is_missing) = (error.into(), true);
                }
                Ok(Err(StartError::Fatal(error))) => return Err(error),
                Err(_) => {} // cut off: the reason of the last complete attempt says more
            }
            if self.is_first && Instant::now() >= latest {
                return Err(match is_missing {
                    true => reason,
                    false => Error::Unreachable { waited: limit, source: Box::new(reason) },
                });
            }
            if !has_warned {
                has_warned = true;
                match self.is_first {
                    true if is_missing => {
                        tracing::info!(%reason, limit_s = limit.as_secs(), "waiting for the table and its stream");
                    }
                    true => tracing::warn!(%reason, limit_s = limit.as_secs(), "service not reachable yet, retrying"),
                    false => tracing::info!(%reason, "waiting for the table's next stream"),
                }
            }
            tokio::time::sleep(Duration::from_millis(50) + backoff.next(&mut self.rng)).await;
        }
    }

    /// Whether a stream that cannot be had may come to be.
    pub(crate) fn waits_for(&self, error: &FindError) -> bool {
        let is_missing = !matches!(error, FindError::Refused(_) | FindError::Unavailable(_));
        !self.is_first || (self.options.wait_for_table && is_missing)
    }

    /// Whether the worker looks for its table's next stream after it has left the stream `arn`.
    pub(super) async fn is_followed(&mut self, arn: &str, ending: &Result<WorkerExit, coordination::Error>) -> bool {
        if !matches!(self.options.stream, StreamSelector::Table(_)) {
            return false;
        }
        self.is_first = false;
        match ending {
            Ok(WorkerExit::Stopped) => return false,
            Ok(WorkerExit::CaughtUp) => {}
            Ok(WorkerExit::StreamEnded) => self.ended = Some(arn.to_owned()),
            Err(coordination::Error::OtherStream { .. }) => {}
            Err(coordination::Error::Consumer(FatalError::StreamGone(reason))) => {
                tracing::warn!(arn, reason, "the stream is gone");
            }
            Err(_) => return false,
        }
        // One that ends by itself reads the streams that are there by then.
        !self.options.until_caught_up || self.find_arn().await.is_ok_and(|newest| newest != arn)
    }

    async fn prepare(&self) -> Result<Ready, StartError> {
        if let Some(config) = self.credentials {
            aws::credentials::check(config).await.map_err(|error| match error {
                ConfigError::CredentialsUnavailable(_) => StartError::Unavailable(error.into()),
                error => Error::Config(error).into(),
            })?;
        }
        let leases = LeaseTable::new(self.clients.tables.clone(), &self.options.app);
        let fleet = FleetTable::new(self.clients.tables.clone(), &self.options.app);
        let create = self.options.create_tables;
        // Before any table is made: an --app that names somebody's table must leave nothing behind.
        let checked = tokio::try_join!(leases.check(), fleet.check());
        checked.map_err(|error| StartError::of_table(error, create))?;
        let newest = self.find_arn().await?;
        if self.ended.as_ref() == Some(&newest) {
            return Err(StartError::unavailable(format!("{newest} is read to its end, and there is no newer one")));
        }
        let of_table = |error| StartError::of_table(error, create);
        let (arn, lost) = self.stream_to_read(newest, &leases, &fleet).await?;
        if let Some(lost) = lost {
            self.end_lost_shards(&leases, lost).await?;
        }
        let stream = self.stream(arn);
        let dead_letters = async {
            match &self.options.failure.on_failure {
                OnFailure::DeadLetter(queue) => queue.prepare(create).await,
                _ => Ok(()),
            }
        };
        let (checked, leases_ready, fleet_ready, dead_letters_ready) =
            tokio::join!(self.check(&stream), leases.ensure(create), fleet.ensure(create), dead_letters);
        let layout = checked?.layout;
        leases_ready.map_err(of_table)?;
        fleet_ready.map_err(of_table)?;
        dead_letters_ready.map_err(|error| match error {
            PrepareError::Table(error) => of_table(error),
            error => Error::DeadLetters(error).into(),
        })?;
        match coordination::bind_stream(&leases, &fleet, &stream, &self.options).await {
            Ok(leader) => Ok(Ready { stream, layout, leader }),
            Err(coordination::Error::Table(error)) => Err(of_table(error)),
            Err(error) => Err(Error::Fleet(error).into()),
        }
    }

    /// The stream to read first: an older one of the same table, as long as it has records for this application. With
    /// it, the unfinished leases of a stream that is gone.
    ///
    /// Refuses a lease table of another stream, which no worker of this program has bound.
    pub(crate) async fn stream_to_read(
        &self,
        newest: String,
        leases: &LeaseTable,
        fleet: &FleetTable,
    ) -> Result<(String, Option<LostStream>), StartError> {
        let create = self.options.create_tables;
        let of_table = |error| StartError::of_table(error, create);
        let bound = if_there(fleet.leader().await).map_err(of_table)?.flatten().and_then(|leader| leader.stream_arn);
        if bound.as_ref() == Some(&newest) {
            return Ok((newest, None));
        }
        let mut rows = if_there(leases.scan().await).map_err(of_table)?.unwrap_or_default();
        rows.retain(|row| row.as_ref().map_or(true, |row| !row.is_finished()));
        let mut rows: Vec<Lease> = rows.into_iter().flatten().collect();
        rows.sort_by(|left, right| left.key.cmp(&right.key));
        let Some(first) = rows.first() else { return Ok((newest, None)) };
        let Some(bound) = bound else {
            let is_foreign = rows.iter().any(|row| row.key.as_str().contains(':'))
                || !self.lists_one_of(&self.stream(newest.clone()), &rows).await?;
            if is_foreign {
                let (app, lease) = (self.options.app.clone(), first.key.clone());
                return Err(Error::ForeignTable { app, lease, stream: newest }.into());
            }
            return Ok((newest, None));
        };
        if !self.is_gone(&self.stream(bound.clone())).await? {
            let table = |arn: &str| arn.split("/stream/").next().map(ToOwned::to_owned);
            let is_older = matches!(self.options.stream, StreamSelector::Table(_)) && table(&bound) == table(&newest);
            return Ok((if is_older { bound } else { newest }, None));
        }
        Ok((newest, Some(LostStream { arn: bound, unfinished: rows })))
    }

    /// Ends the leases of a stream that is gone and was not read to its end.
    async fn end_lost_shards(&self, leases: &LeaseTable, lost: LostStream) -> Result<(), StartError> {
        for row in lost.unfinished {
            if self.options.on_gap == OnGap::Stop {
                return Err(Error::Fleet(FatalError::Gap(row.key).into()).into());
            }
            let ended = row.reset(Checkpoint::ShardEnd, None);
            let applied = leases.apply(&ended).await;
            let applied = applied.map_err(|error| StartError::of_table(error, self.options.create_tables))?;
            if let Outcome::Applied(row) = applied {
                tracing::error!(shard = %row.key, stream = lost.arn, "gap: the stream is gone and was not read to its end");
                self.counters.gap("not_found");
            }
        }
        Ok(())
    }

    /// Whether a stream has one of the shards of `rows`, or a child of one.
    async fn lists_one_of(&self, stream: &Stream, rows: &[Lease]) -> Result<bool, StartError> {
        let keys: BTreeSet<&ShardId> = rows.iter().map(|row| &row.key).collect();
        let mut after = None;
        loop {
            let page = match stream.describe(after.as_ref()).await {
                Ok(page) => page,
                Err(aws::stream::Error::NotFound(_)) => return Ok(true), // no stream: `check` says so
                Err(error) => return Err(StartError::unavailable(error.to_string())),
            };
            if page
                .shards
                .iter()
                .any(|shard| [Some(&shard.id), shard.parent.as_ref()].into_iter().flatten().any(|id| keys.contains(id)))
            {
                return Ok(true);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(false),
            }
        }
    }

    /// Whether the service denies a stream that is not its table's newest, several times in a row.
    async fn is_gone(&self, stream: &Stream) -> Result<bool, StartError> {
        for _ in 0..DENIALS {
            match stream.describe(None).await {
                Ok(_) => return Ok(false),
                Err(aws::stream::Error::NotFound(_)) => tokio::time::sleep(DENIAL_PAUSE).await,
                Err(error) => return Err(StartError::unavailable(error.to_string())),
            }
        }
        Ok(true)
    }

    pub(crate) fn stream(&self, arn: String) -> Stream {
        Stream::new(self.clients.streams.clone(), arn)
    }

    pub(crate) async fn find_arn(&self) -> Result<String, StartError> {
        match &self.options.stream {
            StreamSelector::Arn(arn) => Ok(arn.clone()),
            StreamSelector::Table(table) => find_stream(self.clients, table).await.map_err(|error| match error {
                FindError::Unavailable(_) => StartError::Unavailable(error.into()),
                error => Error::NoStream(error).into(),
            }),
        }
    }

    /// Checks that the stream exists and that the filters can match its records. Returns its first page.
    async fn check(&self, stream: &Stream) -> Result<Described, StartError> {
        let described = self.describe(stream).await?;
        self.check_filters(stream, &described)?;
        Ok(described)
    }

    /// The stream's first page of shards.
    pub(crate) async fn describe(&self, stream: &Stream) -> Result<Described, StartError> {
        stream.describe(None).await.map_err(|error| match error {
            aws::stream::Error::NotFound(_) => Error::NoStream(FindError::NoSuchStream(stream.arn().to_owned())).into(),
            aws::stream::Error::Refused(reason) => Error::NoStream(FindError::Refused(reason)).into(),
            error => StartError::unavailable(error.to_string()),
        })
    }

    pub(crate) fn check_filters(&self, stream: &Stream, described: &Described) -> Result<(), Error> {
        let filters = self.options.filters.clone().for_stream(stream.arn());
        filters.check_for(&described.layout).map_err(Error::Filter)
    }
}

/// The answer of a table that may be missing.
fn if_there<T>(answer: Result<T, TableError>) -> Result<Option<T>, TableError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(TableError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
