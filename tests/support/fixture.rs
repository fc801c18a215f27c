//! The surroundings of a process test: a local service, a folder, and workers.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::deliveries::Deliveries;
use crate::support::local_service::{LocalService, signal};
use crate::support::proxy::Proxy;
use crate::support::shardkeeper;
use crate::support::wait::wait_for;

/// The table that tests write to.
pub const TABLE: &str = "Things";

/// Flags that make workers quick enough for tests.
const QUICK: [(&str, &str); 3] =
    [("--lease-duration", "2s"), ("--idle-poll", "100ms"), ("--checkpoint-interval", "500ms")];

/// A service and a folder for what workers write. The folder stays when the test fails.
pub struct Fixture {
    pub service: LocalService,
    folder: PathBuf,
}

/// A worker's process. It is killed with this value, and its log is shown if the test failed.
pub struct Worker {
    child: Child,
    id: String,
    log: PathBuf,
}

impl Fixture {
    /// A service started with `flags`, with the table [`TABLE`] and its stream.
    pub fn new(flags: &str) -> Fixture {
        let fixture = Fixture::empty(flags);
        fixture.service.create_table(TABLE, true);
        fixture
    }

    /// A service without tables.
    pub fn empty(flags: &str) -> Fixture {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("processes-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).expect("a folder of the test's own");
        Fixture { service: LocalService::start(flags), folder }
    }

    /// A place for the deliveries of an application.
    pub fn deliveries(&self, app: &str) -> Deliveries {
        Deliveries::new(&self.folder.join(format!("{app}.jsonl")))
    }

    /// Starts a worker of the application `app` on [`TABLE`], with `flags` after those that suit tests.
    pub fn worker(&self, app: &str, id: &str, deliveries: &Deliveries, flags: &str) -> Worker {
        self.worker_on(&format!("--table {TABLE}"), app, id, deliveries.stdout(), flags)
    }

    /// Starts a worker whose calls go by proxies: one for the tables, one for the stream.
    pub fn proxied_worker(&self, app: &str, id: &str, out: &Deliveries, proxies: [&Proxy; 2], flags: &str) -> Worker {
        let [tables, stream] = proxies.map(Proxy::url);
        let flags = format!("--endpoint-url {tables} --streams-endpoint-url {stream} {flags}");
        self.worker(app, id, out, &flags)
    }

    /// Starts a worker on any stream with any standard output.
    pub fn worker_on(&self, source: &str, app: &str, id: &str, stdout: Stdio, flags: &str) -> Worker {
        let mut line = format!("run {source} --app {app} --worker-id {id} {flags}");
        if !flags.contains("--endpoint-url") {
            line.push_str(&format!(" --endpoint-url {}", self.service.url()));
        }
        for (flag, value) in QUICK {
            if !flags.contains(flag) {
                line.push_str(&format!(" {flag} {value}"));
            }
        }
        let mut command = shardkeeper();
        with_credentials(&mut command).args(line.split_whitespace()).stdout(stdout);
        Worker::start(&mut command, id, self.log(id))
    }

    /// Waits until an application's checkpoints stand at the last record of each shard of [`TABLE`].
    pub fn wait_for_checkpoints(&self, app: &str) {
        let shards = self.service.shards(TABLE);
        wait_for("everything to be checkpointed", || {
            let leases = self.service.leases(app);
            let is_at = |id: &String, last: &String| leases.get(id).is_some_and(|lease| lease.checkpoint == *last);
            shards.iter().all(|shard| shard.records.last().is_none_or(|last| is_at(&shard.id, last)))
        });
    }

    /// A new file for a process's log.
    pub fn log(&self, id: &str) -> PathBuf {
        let mut names = (0..).map(|n| self.folder.join(format!("{id}-{n}.log")));
        names.find(|path| !path.exists()).expect("there are enough numbers")
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

impl Worker {
    /// Starts a process that logs to `log`.
    pub fn start(command: &mut Command, id: &str, log: PathBuf) -> Worker {
        let stderr = File::create_new(&log).expect("a log of its own");
        let child = command.stderr(stderr).spawn().expect("the worker starts");
        Worker { child, id: id.to_owned(), log }
    }

    /// The log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("the log can be read")
    }

    /// Waits until its log holds `words`.
    pub fn wait_for_log(&self, words: &str) {
        wait_for(&format!("{} to log {words:?}", self.id), || self.log().contains(words));
    }

    /// The memory that the process holds.
    #[cfg(target_os = "linux")]
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// The process's id.
    #[cfg(target_os = "linux")]
    pub fn process_id(&self) -> String {
        self.child.id().to_string()
    }

    /// Whether the process still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// Waits for the process to end by itself, and returns its exit code.
    pub fn exit_code(&mut self) -> i32 {
        let mut status = None;
        wait_for(&format!("{} to exit", self.id), || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        status.and_then(|status| status.code()).expect("no signal ended it")
    }

    /// Checks that the process ends by itself with exit code 1 and an error that holds each of `words`.
    pub fn assert_fails(&mut self, words: &[&str]) {
        assert_eq!(self.exit_code(), 1, "{}", self.log());
        let log = self.log();
        let error = log.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("no error in {log}"));
        for word in words {
            assert!(error.contains(word), "no {word:?} in {error:?}");
        }
    }

    /// SIGTERM, and the exit code that follows.
    pub fn stop(&mut self) -> i32 {
        self.signal("TERM");
        self.exit_code()
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// SIGKILL: nothing of it runs any more when this returns.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }

    /// The process's standard output, if it is a pipe.
    pub fn take_stdout(&mut self) -> std::process::ChildStdout {
        self.child.stdout.take().expect("a pipe was asked for")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- log of {} ({})\n{}", self.id, self.log.display(), tail.join("\n"));
        }
    }
}

/// Adds credentials such as a local service takes.
pub fn with_credentials(command: &mut Command) -> &mut Command {
    command.env("AWS_ACCESS_KEY_ID", "local").env("AWS_SECRET_ACCESS_KEY", "local")
}
