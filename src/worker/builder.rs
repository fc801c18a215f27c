//! The builder of a worker: its options with defaults, and the choice of what gets the records.

use std::time::Duration;

use super::{Worker, default_worker_id};
use crate::aws::clients::SdkConfig;
use crate::aws::transaction::Transaction;
use crate::consumer::{
    BoxError, FailurePolicy, ForEach, HandlerOutcome, ProcessorFactory, Projection, RecordProcessor, ShardContext,
    for_each,
};
use crate::model::filter::Filters;
use crate::model::record::{OwnedRecord, Record};
use crate::options::{Checkpoints, StartPosition, StreamSelector, WorkerOptions};

/// Builds a [`Worker`], whose metrics have the labels `app`, `table` and `worker`: begin with [`Worker::builder`], and end with [`for_each`](Self::for_each) or
/// [`processors`](Self::processors).
#[derive(Clone, Debug)]
pub struct WorkerBuilder {
    options: WorkerOptions,
    config: Option<SdkConfig>,
}

/// A [`WorkerBuilder`] with a state for its closure.
#[derive(Clone, Debug)]
pub struct WithState<S> {
    builder: WorkerBuilder,
    state: S,
}

impl WorkerBuilder {
    pub(super) fn new(app: String, stream: StreamSelector) -> Self {
        Self { options: WorkerOptions::new(app, stream, default_worker_id()), config: None }
    }

    /// Sets the worker's id, unique in the application (default: host name and process id). A process that restarts with
    /// the same id takes its leases back at once.
    #[must_use]
    pub fn worker_id(self, id: impl Into<String>) -> Self {
        self.configure(|options| options.worker_id = id.into())
    }

    /// Sets the position at which a new application begins (default: the oldest record).
    #[must_use]
    pub fn start(self, start: StartPosition) -> Self {
        self.configure(|options| options.start = start)
    }

    /// Lets the worker end by itself when everything that was in the stream at its start is delivered.
    #[must_use]
    pub fn until_caught_up(self) -> Self {
        self.configure(|options| options.until_caught_up = true)
    }

    /// Leaves checkpoints to the processors, which call their [`Checkpointer`](crate::Checkpointer).
    #[must_use]
    pub fn manual_checkpoints(self) -> Self {
        self.configure(|options| options.checkpoints = Checkpoints::Manual)
    }

    /// Sets what happens with records that fail (default: they are retried forever, while their shard waits).
    #[must_use]
    pub fn failure(self, policy: FailurePolicy) -> Self {
        self.configure(|options| options.failure = policy)
    }

    /// Sets the records that are delivered (default: all).
    #[must_use]
    pub fn filters(self, filters: Filters) -> Self {
        self.configure(|options| options.filters = filters)
    }

    /// Sets the most batches of one shard in progress at once (default: 1). Above 1, only the records of one item keep
    /// their order.
    #[must_use]
    pub fn shard_concurrency(self, most: usize) -> Self {
        self.configure(|options| options.shard_concurrency = most)
    }

    /// Sets the interval at which an idle processor is told so ([`RecordProcessor::idle`]; default: never).
    #[must_use]
    pub fn idle_interval(self, interval: Duration) -> Self {
        self.configure(|options| options.idle_interval = Some(interval))
    }

    /// Sets the URL of both services, such as a local one's (default: that of the AWS environment).
    #[must_use]
    pub fn endpoint_url(self, url: impl Into<String>) -> Self {
        self.configure(|options| options.endpoints.url = Some(url.into()))
    }

    /// Sets the AWS configuration, which is otherwise loaded from the environment. Its HTTP client makes every call.
    #[must_use]
    pub fn sdk_config(self, config: SdkConfig) -> Self {
        Self { config: Some(config), ..self }
    }

    /// Changes any of the options.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use shardkeeper::Worker;
    /// let builder = Worker::builder("phone-audit", "Phones").configure(|options| {
    ///     options.max_leases = Some(100);
    ///     options.drain_timeout = Duration::from_secs(60);
    /// });
    /// # drop(builder);
    /// ```
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut WorkerOptions)) -> Self {
        change(&mut self.options);
        self
    }

    /// Adds a state, of which each call of a closure gets a clone: a pool of connections, a client, an `Arc`.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::sync::atomic::{AtomicU64, Ordering};
    /// # use shardkeeper::{BoxError, OwnedRecord, Worker};
    /// async fn count(_record: OwnedRecord, count: Arc<AtomicU64>) -> Result<(), BoxError> {
    ///     count.fetch_add(1, Ordering::Relaxed);
    ///     Ok(())
    /// }
    ///
    /// let worker = Worker::builder("phone-audit", "Phones").with_state(Arc::default()).for_each(count);
    /// # drop(worker);
    /// ```
    pub fn with_state<S: Clone + Send + Sync + 'static>(self, state: S) -> WithState<S> {
        WithState { builder: self, state }
    }

    /// A worker that calls a closure with each record, as [`for_each`](crate::for_each) says.
    pub fn for_each<H, C>(self, handler: H) -> Worker<ForEach<H>>
    where
        H: Fn(OwnedRecord) -> C + Send + Sync + 'static,
        C: Future<Output: HandlerOutcome> + Send,
    {
        self.factory(for_each(handler))
    }

    /// A worker whose shards get each a processor of its own, or several, made by a closure.
    pub fn processors<M, P>(self, make: M) -> Worker<M>
    where
        M: Fn(&ShardContext) -> P + Send + Sync + 'static,
        P: RecordProcessor,
    {
        self.factory(make)
    }

    /// A worker that turns each record into writes to DynamoDB, which take effect once, however often the record is
    /// delivered: they are made in one transaction with the position behind it ([`Checkpointer::commit`]).
    ///
    /// The writes of many records share a transaction, up to its limits. The tables must be in the account and region of
    /// the application's.
    ///
    /// ```
    /// # use shardkeeper::Worker;
    /// let worker = Worker::builder("projection", "Phones").project(|record, tx| {
    ///     tx.copy("PhonesCopy", record)?;
    ///     tx.add("Changes", record.keys().into_attributes(), "count", 1);
    ///     Ok(())
    /// });
    /// # drop(worker);
    /// ```
    ///
    /// [`Checkpointer::commit`]: crate::Checkpointer::commit
    pub fn project<M>(self, map: M) -> Worker<Projection<M>>
    where
        M: Fn(&Record<'_>, &mut Transaction) -> Result<(), BoxError> + Clone + Send + Sync + 'static,
    {
        self.manual_checkpoints().factory(Projection::new(map))
    }

    /// A worker whose processors come from a factory of any type.
    pub fn factory<F: ProcessorFactory>(self, factory: F) -> Worker<F> {
        let (StreamSelector::Table(stream) | StreamSelector::Arn(stream)) = &self.options.stream;
        let (app, worker) = (self.options.app.clone(), self.options.worker_id.clone());
        let labels = [("app", app), ("table", table_of(stream).to_owned()), ("worker", worker)];
        let worker = Worker::new(self.options, factory).metric_labels(labels);
        match self.config {
            Some(config) => worker.sdk_config(config),
            None => worker,
        }
    }
}

/// The table's name in the ARN of a table or stream.
fn table_of(stream: &str) -> &str {
    stream.split_once(":table/").map_or(stream, |(_, path)| path.split('/').next().unwrap_or(path))
}

impl<S: Clone + Send + Sync + 'static> WithState<S> {
    /// A worker that calls a closure with each record and a clone of the state.
    pub fn for_each<H, C>(self, handler: H) -> Worker<impl ProcessorFactory>
    where
        H: Fn(OwnedRecord, S) -> C + Send + Sync + 'static,
        C: Future<Output: HandlerOutcome> + Send + 'static,
    {
        let state = self.state;
        self.builder.for_each(move |record| handler(record, state.clone()))
    }
}
