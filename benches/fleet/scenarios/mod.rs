//! The scenarios.

mod backlog;
pub mod call;
mod changes;
mod http;
mod many;
mod processors;
mod start;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::progress::Progress;
use super::report::Outcome;
use super::service::{Client, Stats};

/// A scenario.
pub struct Scenario {
    /// The name on the command line.
    pub name: &'static str,
    /// A description in a few words.
    pub title: &'static str,
    /// Carries it out.
    pub run: fn(&Stage) -> Result<Outcome, anyhow::Error>,
}

/// All scenarios, in the order in which they run.
pub const ALL: &[Scenario] = &[
    call::CALL,
    backlog::SMALL,
    backlog::BOTH_IMAGES,
    backlog::KEYS_ONLY,
    http::HANDLER,
    changes::LIVE,
    changes::CHANGES,
    many::BACKLOG,
    many::IDLE,
    many::TEN_THOUSAND,
    start::START,
    processors::SLOW,
    processors::STOPPED,
];

/// The surroundings of a scenario.
pub struct Stage {
    /// Whether loads are small.
    pub quick: bool,
    /// Says how far it is.
    pub progress: Progress,
    folder: PathBuf,
}

/// The names of the scenarios, with what they are.
pub fn list() -> String {
    ALL.iter().map(|scenario| format!("{:16}{}\n", scenario.name, scenario.title)).collect()
}

impl Stage {
    /// A stage with a folder of its own, which goes away with it.
    pub fn new(scenario: &'static str, quick: bool) -> Result<Self, anyhow::Error> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fleet-{}-{scenario}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { quick, progress: Progress::new(scenario), folder })
    }

    /// A folder for logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// One or the other, for small loads and for large ones.
    pub fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Lets a time pass in which something is measured.
    pub fn let_pass(&self, what: &str, time: Duration) {
        self.progress.step(&format!("{what} ({} s)", time.as_secs()));
        let start = Instant::now();
        while start.elapsed() < time {
            self.progress.part(what, start.elapsed().as_millis() as u64, time.as_millis() as u64);
            std::thread::sleep(Duration::from_millis(100).min(time - start.elapsed().min(time)));
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Waits until `is_so`, looking each `pause`.
fn wait_until(
    what: &str,
    limit: Duration,
    pause: Duration,
    mut is_so: impl FnMut() -> Result<bool, anyhow::Error>,
) -> Result<Duration, anyhow::Error> {
    let start = Instant::now();
    while !is_so()? {
        if start.elapsed() > limit {
            bail!("{what}: not within {limit:?}");
        }
        std::thread::sleep(pause);
    }
    Ok(start.elapsed())
}

/// Waits until the unfinished shards of an application, all so many of them, belong to these workers and none moves any
/// more, each worker has some, and `is_new` says yes to each shard. TableHealth how long it took until the last one moved.
/// (The loads are even then, not the counts: shards are divided by what they deliver.)
fn wait_for_rest(
    client: &mut Client,
    app: &str,
    workers: &[&str],
    shards: usize,
    is_new: impl Fn(&str) -> bool,
) -> Result<Duration, anyhow::Error> {
    let start = Instant::now();
    let (mut known, mut moved) = (BTreeMap::new(), Duration::ZERO);
    wait_until("the shards are divided", REST_LIMIT, Duration::from_millis(50), || {
        let Ok(owners) = client.owners(app) else { return Ok(false) }; // no table yet
        if owners != known {
            (known, moved) = (owners, start.elapsed());
        }
        let has_some = |worker: &&str| known.values().any(|owner| owner == worker);
        let is_in_place = |(shard, owner): (&String, &String)| workers.contains(&owner.as_str()) && is_new(shard);
        let all_are = known.len() == shards && workers.iter().all(has_some) && known.iter().all(is_in_place);
        Ok(all_are && start.elapsed() - moved >= REST)
    })?;
    Ok(moved)
}

/// The service's counts between two readings, a second.
struct Rates {
    seconds: f64,
    from: Stats,
    to: Stats,
}

impl Rates {
    fn calls(&self, operation: &str) -> f64 {
        (self.to.calls(operation) - self.from.calls(operation)) as f64 / self.seconds
    }

    /// Read and write units of the lease table and the fleet table together.
    fn units(&self, app: &str) -> (f64, f64) {
        let fleet = format!("{app}-Fleet");
        let sum = |stats: &Stats| {
            let ((lease_reads, lease_writes), (reads, writes)) = (stats.units(app), stats.units(&fleet));
            (lease_reads + reads, lease_writes + writes)
        };
        let (from, to) = (sum(&self.from), sum(&self.to));
        ((to.0 - from.0) / self.seconds, (to.1 - from.1) / self.seconds)
    }
}

/// Lets a time pass and answers what the service counted in it.
fn rates(stage: &Stage, client: &mut Client, what: &str, time: Duration) -> Result<Rates, anyhow::Error> {
    let (from, start) = (client.stats()?, Instant::now());
    stage.let_pass(what, time);
    Ok(Rates { to: client.stats()?, seconds: start.elapsed().as_secs_f64(), from })
}

const MIB: f64 = 1024.0 * 1024.0;
/// No fleet takes this long to divide its shards.
const REST_LIMIT: Duration = Duration::from_secs(90);
/// A fleet in which no shard moved for this long is at rest.
const REST: Duration = Duration::from_secs(2);
