//! The configuration file read again while a worker runs: at SIGHUP, and when the file changes, if that is asked for.
//!
//! The new configuration is checked whole. If it is right, the options that may change are taken from it, and those
//! that need a restart stay as they are. If it is wrong, nothing changes.

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::args::run::RunArgs;
use super::config::{Mistakes, Sources};
use super::signals::HangUps;
use super::systemd::Notifier;
use super::{logs, read_configuration};
use crate::aws::with_causes;
use crate::consumer::{LiveOptions, OnFailure, WallClock};
use crate::dead_letters::queue::DeadLetterQueue;
use crate::dead_letters::target::DeadLetterTarget;
use crate::options::WorkerOptions;
use crate::telemetry::catalogue::{CONFIG_LAST_RELOAD_SUCCESSFUL, CONFIG_RELOADS};

/// Interval at which a watched file is read. It counts as changed when two readings agree: a file that is being written
/// is left alone.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The configuration in force, as /status shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Configuration {
    /// 1 at the start, and one more with each reload that changed something.
    pub version: u64,
    /// When it was read (ms since the epoch).
    pub read_at_ms: u64,
}

/// The [`Configuration`], shared with those who show it.
#[derive(Clone)]
pub struct Version(Arc<Mutex<Configuration>>);

impl Version {
    /// The configuration that the program starts with.
    pub fn first() -> Self {
        Self(Arc::new(Mutex::new(Configuration { version: 1, read_at_ms: WallClock::System.now_ms() })))
    }

    pub fn configuration(&self) -> Configuration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn advance(&self) -> u64 {
        let mut configuration = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        configuration.version += 1;
        configuration.read_at_ms = WallClock::System.now_ms();
        configuration.version
    }
}

/// Reloads the configuration of a running worker.
pub struct Reloader {
    /// The sources of the options in force.
    sources: Sources,
    live: LiveOptions,
    /// The dead letters' place that is open: a file is opened by one process once.
    letters: Option<(DeadLetterTarget, Arc<dyn DeadLetterQueue>)>,
    version: Version,
    manager: Notifier,
}

/// The outcome of a reload that was not refused.
struct Reloaded {
    /// The options that have changed, and those that need a restart, as the file names them.
    taken: Vec<String>,
    kept: Vec<String>,
}

impl Reloader {
    /// A reloader of a worker that starts with `options` from `sources`.
    pub fn new(
        sources: Sources,
        options: &WorkerOptions,
        target: Option<&DeadLetterTarget>,
        live: LiveOptions,
        version: Version,
        manager: Notifier,
    ) -> Self {
        CONFIG_LAST_RELOAD_SUCCESSFUL.set([], 1.0);
        let letters = match &options.failure.on_failure {
            OnFailure::DeadLetter(queue) => target.map(|target| (target.clone(), Arc::clone(queue))),
            OnFailure::Halt | OnFailure::Skip => None,
        };
        Self { sources, live, letters, version, manager }
    }

    /// Reloads whenever it is asked to, as soon as the worker has found its stream.
    pub async fn run(mut self, mut hang_ups: HangUps, is_watching: bool) -> Infallible {
        let files = self.sources.files();
        let mut watched = Watched { files: if is_watching { files.clone() } else { Vec::new() }, seen: Vec::new() };
        watched.seen = watched.read().await;
        loop {
            tokio::select! {
                () = hang_ups.next() => tracing::info!("asked to read the configuration again"),
                () = watched.changed() => tracing::info!("the configuration file has changed"),
            }
            let _reloading = self.manager.reloading();
            if files.is_empty() {
                tracing::info!("no configuration file is given, nothing to read again");
                continue;
            }
            self.live.started().await;
            watched.seen = watched.read().await;
            self.reload().await;
        }
    }

    async fn reload(&mut self) {
        let outcome = self.try_reload().await;
        CONFIG_LAST_RELOAD_SUCCESSFUL.set([], if outcome.is_ok() { 1.0 } else { 0.0 });
        let result = match outcome {
            Err(error) => {
                let mistakes = match error.downcast_ref::<Mistakes>() {
                    Some(mistakes) => mistakes.iter().collect::<Vec<_>>().join("; "),
                    None => with_causes(&*error),
                };
                tracing::error!(mistakes, "configuration refused, keeping the last one");
                "refused"
            }
            Ok(Reloaded { taken, kept }) => {
                if !kept.is_empty() {
                    let options = kept.join(", ");
                    tracing::warn!(options, "changed options need a restart, keeping their last values");
                }
                if taken.is_empty() {
                    tracing::info!("configuration read again, nothing changed");
                    "unchanged"
                } else {
                    let (version, options) = (self.version.advance(), taken.join(", "));
                    tracing::info!(version, options, "configuration reloaded");
                    "applied"
                }
            }
        };
        CONFIG_RELOADS.inc([result]);
    }

    async fn try_reload(&mut self) -> Result<Reloaded, anyhow::Error> {
        let (newer, newer_sources) = read_configuration()?;
        let Some(args) = newer.command.worker() else { unreachable!("the sub-command is the same") };
        let changed = self.sources.changed(&newer_sources);
        let (taken, kept): (Vec<String>, Vec<String>) = changed.into_iter().partition(|id| args.reloads(id));
        let (cli, sources) = self.sources.take(&newer_sources, |id| args.reloads(id))?;
        let Some(args) = cli.command.worker() else { unreachable!("the sub-command is the same") };
        let mut options = args.options();
        if let Some(target) = args.dead_letters() {
            options.failure.on_failure = OnFailure::DeadLetter(self.queue(target, args).await?);
        }
        self.live.update(&options)?;
        if let Some(logs) = cli.command.logs() {
            logs::set_filter(&logs.filter);
        }
        self.sources = sources;
        let names = |ids: Vec<String>| ids.iter().map(|id| id.replace('_', "-")).collect();
        Ok(Reloaded { taken: names(taken), kept: names(kept) })
    }

    /// The queue of dead letters at `target`, ready to take them.
    async fn queue(
        &mut self,
        target: &DeadLetterTarget,
        args: &RunArgs,
    ) -> Result<Arc<dyn DeadLetterQueue>, anyhow::Error> {
        if let Some((open, queue)) = &self.letters
            && open == target
        {
            return Ok(Arc::clone(queue));
        }
        let options = args.options();
        let queue = target.open(&options.app, &options.endpoints).await?;
        queue.prepare(options.create_tables).await?;
        self.letters = Some((target.clone(), Arc::clone(&queue)));
        Ok(queue)
    }
}

/// Files that are watched for changes.
struct Watched {
    files: Vec<String>,
    /// Their contents when they last counted.
    seen: Vec<Option<Vec<u8>>>,
}

impl Watched {
    async fn read(&self) -> Vec<Option<Vec<u8>>> {
        let files = self.files.clone();
        let read = move || files.iter().map(|file| std::fs::read(Path::new(file)).ok()).collect();
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    /// Waits until the contents have changed, and no longer change.
    async fn changed(&mut self) {
        if self.files.is_empty() {
            return std::future::pending().await;
        }
        let mut last = self.seen.clone();
        loop {
            tokio::time::sleep(WATCH_INTERVAL).await;
            let now = self.read().await;
            if now != self.seen && now == last && now.iter().all(Option::is_some) {
                return;
            }
            last = now;
        }
    }
}
