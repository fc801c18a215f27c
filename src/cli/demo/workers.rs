//! The worker processes: this same program, with `run`.
//!
//! No worker outlives the demonstration, however that ends. Dropping a worker kills it. If the demonstration itself is
//! killed, a guard kills the workers: a shell that waits for the end of its standard input, which only the demonstration
//! holds open, and then kills the process group of the guard and all workers. The group also keeps a Ctrl-C on the
//! terminal from the workers, so that the demonstration decides when they stop.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::Context;
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

use super::phone::PhoneRecord;
use super::reorder::Delivery;
use super::table::{APP, TABLE};

/// The lines of a crashed worker's log that are shown.
const LAST_LINES: usize = 8;

/// All workers, in the order of their starts.
pub struct Workers {
    all: Vec<Worker>,
    service: SocketAddr,
    /// This program's path at the start: it may be rebuilt meanwhile.
    program: PathBuf,
    logs: PathBuf,
    /// The leader of the process group; none on a machine without a shell.
    guard: Option<Child>,
}

/// One worker process.
pub struct Worker {
    /// Its worker id.
    pub name: String,
    child: Child,
    /// Standard output, non-blocking, until its end was read.
    pipe: Option<File>,
    /// The start of a line whose end has not arrived.
    partial: Vec<u8>,
    log: PathBuf,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// It was asked to stop, or killed.
    Stopping,
    Ended,
}

/// A worker that ended without being asked to.
pub struct Crash {
    /// The worker's index.
    pub worker: usize,
    /// Its exit status.
    pub status: ExitStatus,
    /// The last lines of its log.
    pub last_lines: Vec<String>,
}

/// The output of all workers since the last sweep.
#[derive(Default)]
pub struct Sweep {
    /// The delivered records.
    pub deliveries: Vec<Delivery>,
    /// Lines that are no record of a phone, each with the worker's index.
    pub other_lines: Vec<(usize, String)>,
}

impl Workers {
    /// An empty set of workers for the service at this address. Makes a folder for their logs.
    ///
    /// # Errors
    /// When the folder cannot be made, or this program cannot be found.
    pub fn new(service: SocketAddr) -> Result<Self, anyhow::Error> {
        let logs = std::env::temp_dir().join(format!("shardkeeper-demo-{}", std::process::id()));
        fs::create_dir_all(&logs).with_context(|| format!("cannot make the folder {}", logs.display()))?;
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        Ok(Self { all: Vec::new(), service, program, logs, guard: start_guard() })
    }

    /// The folder of the workers' logs.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// All workers.
    pub fn all(&self) -> &[Worker] {
        &self.all
    }

    /// Starts another worker and returns its index.
    ///
    /// # Errors
    /// When the process cannot be started, or its log cannot be written.
    pub fn start(&mut self) -> Result<usize, anyhow::Error> {
        let index = self.all.len();
        let name = format!("worker-{}", index + 1);
        let log = self.logs.join(format!("{name}.log"));
        let stderr = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = self.command(&name);
        let mut child = command.stderr(stderr).spawn().with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take().context("the worker has no standard output")?;
        let pipe = stdout.into_owned_fd().context("cannot read the worker's standard output")?;
        rustix::io::ioctl_fionbio(&pipe, true).context("cannot read the worker's standard output")?;
        let pipe = Some(File::from(pipe));
        self.all.push(Worker { name, child, pipe, partial: Vec::new(), log, state: State::Running });
        Ok(index)
    }

    /// The worker to kill: the second running one, since the first is probably the leader, or else the first.
    pub fn worker_to_kill(&self) -> Option<usize> {
        let mut running = self.all.iter().enumerate().filter(|(_, worker)| worker.is_running()).map(|(index, _)| index);
        let first = running.next();
        running.next().or(first)
    }

    /// Kills a worker, as `kill -9` does.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn kill(&mut self, index: usize) -> io::Result<()> {
        let worker = &mut self.all[index];
        worker.state = State::Stopping;
        worker.child.start_kill()
    }

    /// The address of a worker's page, once its log tells it.
    pub fn page(&self, index: usize) -> Option<String> {
        let log = fs::read_to_string(&self.all.get(index)?.log).ok()?;
        let line = log.lines().find(|line| line.contains("serving /metrics"))?;
        let address = line.split_once("address=")?.1.split_whitespace().next()?;
        Some(format!("http://{address}/"))
    }

    /// Asks all running workers to stop (SIGTERM).
    pub fn stop(&mut self) {
        for worker in self.all.iter_mut().filter(|worker| worker.is_running()) {
            worker.state = State::Stopping;
            let pid = worker.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
            if let Some(pid) = pid {
                // A process that ended meanwhile needs no signal.
                let _ = rustix::process::kill_process(pid, Signal::TERM);
            }
        }
    }

    /// Kills all workers that have not ended, and returns their number.
    pub fn kill_all(&mut self) -> usize {
        let left = self.all.iter_mut().filter(|worker| worker.state != State::Ended);
        left.map(|worker| drop(worker.child.start_kill())).count()
    }

    /// Whether a worker runs that was not asked to stop.
    pub fn any_running(&self) -> bool {
        self.all.iter().any(Worker::is_running)
    }

    /// Whether all workers have ended and all of their output is read.
    pub fn all_ended(&self) -> bool {
        self.all.iter().all(|worker| worker.state == State::Ended && worker.pipe.is_none())
    }

    /// Reads every pipe until it is empty.
    pub fn sweep(&mut self) -> Sweep {
        let mut sweep = Sweep::default();
        for (index, worker) in self.all.iter_mut().enumerate() {
            for line in worker.read() {
                match PhoneRecord::read(&line) {
                    Some(record) => sweep.deliveries.push(Delivery { worker: index, record }),
                    None => sweep.other_lines.push((index, String::from_utf8_lossy(&line).into_owned())),
                }
            }
        }
        sweep
    }

    /// Reaps ended processes and returns those that crashed: that ended without being asked to, or failed when asked.
    pub fn crashes(&mut self) -> Vec<Crash> {
        let mut crashes = Vec::new();
        for (index, worker) in self.all.iter_mut().enumerate() {
            if worker.state == State::Ended {
                continue;
            }
            let Ok(Some(status)) = worker.child.try_wait() else { continue };
            let was_killed = worker.state == State::Stopping && status.code().is_none();
            if worker.is_running() || !(was_killed || status.success()) {
                crashes.push(Crash { worker: index, status, last_lines: last_lines(&worker.log) });
            }
            worker.state = State::Ended;
        }
        crashes
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        for (variable, _) in std::env::vars_os() {
            let shown = variable.to_string_lossy().to_ascii_uppercase();
            if shown.starts_with("AWS_") || shown.starts_with("SHARDKEEPER_") || shown.ends_with("_PROXY") {
                command.env_remove(variable);
            }
        }
        let endpoint = format!("http://{}", self.service);
        command
            .args(["run", "--table", TABLE, "--app", APP, "--worker-id", name, "--to", "stdout"])
            .args(["--log-format", "human", "--log-level", "info", "--metrics-addr", "127.0.0.1:0"])
            .envs([("AWS_ENDPOINT_URL", endpoint.as_str()), ("AWS_REGION", "us-east-1")])
            .envs([("AWS_ACCESS_KEY_ID", "demo"), ("AWS_SECRET_ACCESS_KEY", "demo")])
            // This machine's AWS profiles are not for this service.
            .envs([("AWS_CONFIG_FILE", "/dev/null"), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let group = self.guard.as_ref().and_then(Child::id).and_then(|id| i32::try_from(id).ok());
        command.process_group(group.unwrap_or(0));
        command
    }
}

impl Worker {
    /// Whether the worker runs and was not asked to stop.
    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// Reads the pipe until it is empty and returns the complete lines.
    fn read(&mut self) -> Vec<Vec<u8>> {
        let mut chunk = [0; 16 * 1024];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut chunk) {
                Ok(0) => self.pipe = None,
                Ok(length) => self.partial.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::warn!(worker = self.name, %error, "cannot read the worker's output");
                    self.pipe = None;
                }
            }
        }
        // The rest is the start of a line, or was cut off by SIGKILL: then its record was not delivered.
        let end = self.partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let rest = self.partial.split_off(end);
        let lines = std::mem::replace(&mut self.partial, rest);
        lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
    }
}

/// Starts the guard, if this machine has a shell.
fn start_guard() -> Option<Child> {
    Command::new("sh")
        .args(["-c", "read -r _; kill -9 0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .ok()
}

fn last_lines(log: &Path) -> Vec<String> {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].iter().map(ToString::to_string).collect()
}
