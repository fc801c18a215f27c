//! The lease manager's calls of the tables, under way beside its loop.

use std::collections::BTreeSet;
use std::sync::Arc;

use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Deps;
use crate::aws::TableError;
use crate::aws::fleet_table::FleetTable;
use crate::aws::lease_table::{BadRow, LeaseTable, Outcome};
use crate::error::Refusals;
use crate::model::backoff::Backoff;
use crate::model::lease::{Lease, ShardId, Transition, WorkerId};
use crate::model::worker_record::Hints;
use crate::retry::retry;
use crate::telemetry::scope::inherit;

/// A lease table's answer.
pub(super) enum Answer {
    /// Some rows, as far as they are there. `are_children`: of a shard that has ended here.
    Rows { keys: BTreeSet<ShardId>, rows: Vec<Result<Lease, BadRow>>, are_children: bool },
    /// All rows, read after `asked`.
    All { asked: Instant, rows: Vec<Result<Lease, BadRow>> },
    /// The outcome of a write.
    Written { key: ShardId, outcome: Outcome },
}

/// The calls that are under way, each retried until it is answered.
pub(super) struct Calls {
    leases: LeaseTable,
    fleet: FleetTable,
    answers: JoinSet<Result<Answer, TableError>>,
    /// The read of rows that are due, one at a time.
    poll: JoinSet<Result<Answer, TableError>>,
    scan: JoinSet<Result<Answer, TableError>>,
    hints: JoinSet<()>,
    refusals: Arc<Refusals>,
    rng: Rng,
}

impl Calls {
    pub(super) fn new(deps: &Deps, rng: Rng) -> Self {
        Self {
            leases: deps.leases.clone(),
            fleet: deps.fleet.clone(),
            answers: JoinSet::new(),
            poll: JoinSet::new(),
            scan: JoinSet::new(),
            hints: JoinSet::new(),
            refusals: Arc::default(),
            rng,
        }
    }

    /// The next answer; never, while nothing is asked.
    pub(super) async fn next(&mut self) -> Result<Answer, TableError> {
        loop {
            let answered = tokio::select! {
                Some(answered) = self.answers.join_next() => answered,
                Some(answered) = self.poll.join_next() => answered,
                Some(answered) = self.scan.join_next() => answered,
                Some(_) = self.hints.join_next() => continue,
                else => std::future::pending().await,
            };
            if let Ok(answer) = answered {
                return answer;
            }
        }
    }

    /// Reads some rows.
    pub(super) fn read(&mut self, keys: BTreeSet<ShardId>) {
        let read = self.rows(keys, false);
        self.answers.spawn(inherit(read));
    }

    /// Reads the rows of a finished shard's children that had owners before.
    pub(super) fn read_children(&mut self, keys: BTreeSet<ShardId>) {
        let read = self.rows(keys, true);
        self.answers.spawn(inherit(read));
    }

    /// Reads rows that are due, unless the last such read is still under way.
    pub(super) fn poll(&mut self, keys: BTreeSet<ShardId>) {
        if self.poll.is_empty() {
            let read = self.rows(keys, false);
            self.poll.spawn(inherit(read));
        }
    }

    fn rows(
        &mut self,
        keys: BTreeSet<ShardId>,
        are_children: bool,
    ) -> impl Future<Output = Result<Answer, TableError>> + use<> {
        let (leases, retries) = (self.leases.clone(), self.retries());
        async move {
            let rows = retries.answer(|| leases.read_many(&keys)).await?;
            Ok(Answer::Rows { keys, rows, are_children })
        }
    }

    /// Reads all rows, unless that is under way. Returns whether it began.
    pub(super) fn scan(&mut self) -> bool {
        let begins = self.scan.is_empty();
        if begins {
            let (leases, retries) = (self.leases.clone(), self.retries());
            self.scan.spawn(inherit(async move {
                let asked = Instant::now();
                Ok(Answer::All { asked, rows: retries.answer(|| leases.scan()).await? })
            }));
        }
        begins
    }

    /// Writes a row that no consumer holds.
    pub(super) fn write(&mut self, transition: Transition) {
        let (leases, retries) = (self.leases.clone(), self.retries());
        self.answers.spawn(inherit(async move {
            let outcome = retries.answer(|| leases.apply(&transition)).await?;
            Ok(Answer::Written { key: transition.before.key, outcome })
        }));
    }

    /// Tells a worker to read rows. A hint may get lost.
    pub(super) fn hint(&mut self, worker: &WorkerId, hints: Hints) {
        let (fleet, worker) = (self.fleet.clone(), worker.clone());
        self.hints.spawn(inherit(async move {
            if let Err(error) = fleet.hint(&worker, &hints).await {
                tracing::debug!(%worker, %error, "a hint was lost");
            }
        }));
    }

    fn retries(&mut self) -> Retries {
        Retries { refusals: Arc::clone(&self.refusals), rng: self.rng.fork() }
    }

    /// Waits until the hints are sent.
    pub(super) async fn hints_sent(&mut self) {
        while self.hints.join_next().await.is_some() {}
    }
}

/// The retries of one call.
struct Retries {
    refusals: Arc<Refusals>,
    rng: Rng,
}

impl Retries {
    /// The call's answer, or the error that the worker ends with.
    async fn answer<T, C>(mut self, call: impl FnMut() -> C) -> Result<T, TableError>
    where
        C: Future<Output = Result<T, TableError>>,
    {
        let is_retried = |error: &TableError| {
            let is_retried = self.refusals.allow(error);
            if is_retried {
                tracing::debug!(%error, "a call of the lease manager failed, retrying");
            }
            is_retried
        };
        retry(Backoff::default(), &mut self.rng, is_retried, call).await
    }
}
