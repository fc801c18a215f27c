//! `shardkeeper run`: reads a stream until it is asked to stop.

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::args::run::RunArgs;
use super::config::{Mistakes, Sources};
#[cfg(feature = "otlp")]
use super::otlp::Otlp;
use super::output::Closed;
use super::reload::Reloader;
use super::signals::{self, HangUps};
use super::sinks::multilang::Children;
use super::systemd::Notifier;
use super::{admin_server, reload};
use crate::aws::with_causes;
use crate::consumer::OnFailure;
use crate::worker::{Error, Worker};

/// Runs a worker with the options of `sources`.
///
/// # Errors
/// Any end of the worker other than a request to stop or the end of its work.
pub fn run(args: &RunArgs, sources: Sources) -> Result<(), anyhow::Error> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let outcome = runtime.block_on(read(args, sources));
    // A processor that hangs must not keep the process from ending.
    runtime.shutdown_background();
    // Besides the line for people: a search by level in a log of JSON lines must find why the worker is gone.
    if let Err(error) = &outcome
        && !error.is::<Closed>()
    {
        tracing::error!(error = with_causes(error.as_ref()), "the worker ended with a failure");
    }
    outcome
}

async fn read(args: &RunArgs, sources: Sources) -> Result<(), anyhow::Error> {
    let hang_ups = HangUps::install().context("cannot listen for signals")?;
    let stop = CancellationToken::new();
    let signal = signals::first_stop().context("cannot listen for signals")?;
    let manager = Notifier::from_environment();
    let (asked, told) = (stop.clone(), manager.clone());
    tokio::spawn(async move {
        let signal = signal.await;
        tracing::info!(%signal, "asked to stop");
        told.stopping();
        asked.cancel();
    });
    let closed = stop.child_token();
    let mut options = args.options();
    tracing::info!(app = options.app, worker = options.worker_id, "starting");
    if let Some(target) = args.dead_letters() {
        options.failure.on_failure = OnFailure::DeadLetter(target.open(&options.app, &options.endpoints).await?);
    }
    let children = Children::default();
    let sink = args.sink.open(&closed, args.handler_timeout(), &children)?;
    let worker = Worker::new(options.clone(), sink);
    let version = reload::Version::first();
    // The admin server's address was asked for, so that the worker cannot do without.
    let needs_admin = sources.is_given("metrics_addr");
    let telemetry = worker.telemetry();
    #[cfg(feature = "otlp")]
    let (export, also) = Otlp::start(&options, &telemetry, args.admin.metrics_per_shard);
    #[cfg(not(feature = "otlp"))]
    let also = None;
    admin_server::start(&args.admin, &options, needs_admin, telemetry.clone(), version.clone(), also).await?;
    let reloader =
        Reloader::new(sources, &options, args.dead_letters(), worker.live_options(), version, manager.clone());
    tokio::spawn(reloader.run(hang_ups, args.program.watch_config));
    tokio::spawn(manager.clone().follow(telemetry));
    let outcome = worker.run(closed.cancelled_owned()).await;
    manager.stopping();
    #[cfg(feature = "otlp")]
    export.end().await;
    children.end(args.sink.end_timeout()).await;
    let report = outcome.map_err(|error| match error {
        // The filters cannot work on this stream, which is known only now.
        Error::Filter(error) => Mistakes::one(error.to_string()).into(),
        error => anyhow::Error::from(error),
    })?;
    let totals = report.totals;
    tracing::info!(
        ending = report.ending.as_str(),
        records = totals.records,
        filtered = totals.filtered,
        bytes = totals.bytes,
        skipped = totals.skipped,
        dead_letters = totals.dead_lettered,
        gaps = totals.gaps,
        "done"
    );
    Ok(())
}
