//! `shardkeeper run`: reads a stream until it is asked to stop.

use std::io;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::mistakes::Mistakes;
use super::run_config::{self, RunConfig, Sink, Source, StartAt};
use super::sink::http::{self, Handler};
use super::sink::{Lines, Null};
use super::{admin, output, signals};
use crate::consumer::{Checkpoints, OnGap, ProcessorFactory};
use crate::core::checkpoint::Checkpoint;
use crate::worker::{self, Options, Report, StreamSelector, Worker};

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
    let report = match &config.sink {
        Sink::Null => work(&config, |_: &_| Null, &stop, &closed).await?,
        Sink::Stdout => {
            let lines = Lines::new(io::stdout(), closed.clone()).context("cannot start the output thread")?;
            work(&config, move |_: &_| lines.clone(), &stop, &closed).await?
        }
        Sink::Http(target) => {
            let handler = Handler::new(target.clone())?;
            work(&config, move |shard: &_| handler.processor(shard), &stop, &closed).await?
        }
    };
    let totals = report.totals;
    tracing::info!(ending = ?report.ending, records = totals.records, filtered = totals.filtered, bytes = totals.bytes, gaps = totals.gaps, "done");
    if closed.is_cancelled() {
        return Err(output::Closed.into());
    }
    Ok(())
}

async fn work(
    config: &RunConfig,
    factory: impl ProcessorFactory,
    stop: &CancellationToken,
    closed: &CancellationToken,
) -> Result<Report, anyhow::Error> {
    let stopped = async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = closed.cancelled() => {}
        }
    };
    let worker = Worker::new(options(config), factory);
    admin::start(config, worker.board()).await?;
    worker.run(stopped).await.map_err(|error| match error {
        // What was configured cannot work on this stream, which could not be known before it was looked at.
        worker::Error::Filter(error) => Mistakes::one(error.to_string()).into(),
        error => error.into(),
    })
}

fn options(config: &RunConfig) -> Options {
    let stream = match &config.source {
        Source::Table(name) => StreamSelector::Table(name.clone()),
        Source::StreamArn(arn) => StreamSelector::Arn(arn.clone()),
    };
    let mut options = Options::new(&config.app, stream, &config.worker_id);
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
    options.kcl_failover_time = config.kcl_failover_time;
    if matches!(config.sink, Sink::Http(_)) {
        options.batch_size.get_or_insert(http::BATCH_SIZE);
    }
    options
}
