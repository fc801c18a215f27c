//! `shardkeeper run`: reads a stream until it is asked to stop.

use std::future::Future;
use std::io;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::delivery_config::OnFailure;
use super::mistakes::Mistakes;
use super::run_config::{self, RunConfig, Sink, Source, StartAt};
use super::sinks::http::{self, Handler, HttpTarget};
use super::sinks::{Lines, Null};
use super::{admin_server, output, signals};
use crate::consumer::{self, ProcessorFactory};
use crate::model::checkpoint::Checkpoint;
use crate::options::{Checkpoints, OnGap, StreamSelector, WorkerOptions};
use crate::worker::{self, Report, Worker};

/// Does what `shardkeeper run` is for, as `config` says.
///
/// # Errors
/// What ended the worker other than a wish to stop or the end of its work. [`output::Closed`] when standard output's
/// reader went away.
pub fn run(config: RunConfig) -> Result<(), anyhow::Error> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let outcome = runtime.block_on(read(config));
    // A processor that hangs must not keep the process from ending.
    runtime.shutdown_background();
    outcome
}

async fn read(config: RunConfig) -> Result<(), anyhow::Error> {
    let stop = CancellationToken::new();
    let signal = signals::first_stop().context("cannot listen for signals")?;
    let asked = stop.clone();
    tokio::spawn(async move {
        let signal = signal.await;
        tracing::info!(%signal, "asked to stop");
        asked.cancel();
    });
    let closed = CancellationToken::new();
    tracing::info!(app = config.app, worker = config.worker_id, "starting");
    let work = Work { config: &config, stop: &stop, closed: &closed };
    let report = with_processors(&config.sink, &closed, work).await?;
    let totals = report.totals;
    tracing::info!(ending = ?report.ending, records = totals.records, filtered = totals.filtered, bytes = totals.bytes, skipped = totals.skipped, dead_letters = totals.dead_lettered, gaps = totals.gaps, "done");
    if closed.is_cancelled() {
        return Err(output::Closed.into());
    }
    Ok(())
}

/// What is done with the processors of a sink, whatever their type is.
pub trait WithProcessors {
    /// What comes of it.
    type Output;

    /// Does it.
    fn call(self, factory: impl ProcessorFactory) -> impl Future<Output = Result<Self::Output, anyhow::Error>>;
}

/// Makes the processors that a sink stands for. When standard output's reader goes away, `closed` is cancelled.
///
/// # Errors
/// When the sink cannot be had, and what `job` fails with.
pub async fn with_processors<J: WithProcessors>(
    sink: &Sink,
    closed: &CancellationToken,
    job: J,
) -> Result<J::Output, anyhow::Error> {
    match sink {
        Sink::Null => job.call(|_: &_| Null).await,
        Sink::Stdout => {
            let lines = Lines::new(io::stdout(), closed.clone()).context("cannot start the output thread")?;
            job.call(move |_: &_| lines.clone()).await
        }
        Sink::Http(target) => {
            let handler = Handler::new(HttpTarget::clone(target))?;
            job.call(move |shard: &_| handler.processor(shard)).await
        }
    }
}

/// A worker's work.
struct Work<'a> {
    config: &'a RunConfig,
    stop: &'a CancellationToken,
    closed: &'a CancellationToken,
}

impl WithProcessors for Work<'_> {
    type Output = Report;

    async fn call(self, factory: impl ProcessorFactory) -> Result<Report, anyhow::Error> {
        let Self { config, stop, closed } = self;
        let stopped = async {
            tokio::select! {
                () = stop.cancelled() => {}
                () = closed.cancelled() => {}
            }
        };
        let mut options = options(config);
        options.failure = config.delivery.policy(match config.delivery.on_failure {
            OnFailure::Halt => consumer::OnFailure::Halt,
            OnFailure::Skip => consumer::OnFailure::Skip,
            OnFailure::DeadLetter => consumer::OnFailure::DeadLetter(
                config.delivery.dead_letters.open(&config.app, &config.aws.endpoints()).await?,
            ),
        });
        let worker = Worker::new(options, factory);
        admin_server::start(config, worker.telemetry()).await?;
        worker.run(stopped).await.map_err(|error| match error {
            // What was configured cannot work on this stream, which could not be known before it was looked at.
            worker::Error::Filter(error) => Mistakes::one(error.to_string()).into(),
            error => error.into(),
        })
    }
}

fn options(config: &RunConfig) -> WorkerOptions {
    let stream = match &config.source {
        Source::Table(name) => StreamSelector::Table(name.clone()),
        Source::StreamArn(arn) => StreamSelector::Arn(arn.clone()),
    };
    let mut options = WorkerOptions::new(&config.app, stream, &config.worker_id);
    options.endpoints = config.aws.endpoints();
    options.start = match config.start {
        StartAt::TrimHorizon => Checkpoint::TrimHorizon,
        StartAt::Latest => Checkpoint::Latest,
    };
    options.create_tables = config.create_tables;
    options.until_caught_up = config.until_caught_up;
    options.lease_duration = config.lease_duration;
    options.checkpoints = Checkpoints::Automatic { interval: config.checkpoint_interval };
    options.idle_poll = config.idle_poll;
    options.buffer_bytes = config.buffer_bytes;
    options.max_leases = config.max_leases.and_then(|limit| usize::try_from(limit.get()).ok());
    options.stuck_after = config.stuck_after;
    options.unready_after = config.unready_after;
    options.desired_workers = config.desired_workers;
    options.start_timeout = config.start_timeout;
    options.drain_timeout = config.drain_timeout;
    options.on_gap = match config.on_gap {
        run_config::OnGap::Continue => OnGap::Continue,
        run_config::OnGap::Stop => OnGap::Stop,
    };
    options.filters = config.filters.clone();
    config.delivery.apply(&mut options);
    options.kcl_failover_time = config.kcl_failover_time;
    if matches!(config.sink, Sink::Http(_)) {
        options.batch_size.get_or_insert(http::BATCH_SIZE);
    }
    options
}
