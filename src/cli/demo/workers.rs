//! The worker processes: this same program, with `run`.
//!
//! No worker outlives the demonstration, however that ends. Those that it still holds are killed when it drops them,
//! and should it be killed itself, a guard does it: a shell that waits for the end of its standard input, which only
//! the demonstration holds open, and then kills the process group that it and all workers are in. That group also
//! keeps a Ctrl-C on the terminal from the workers: the demonstration stops them in its own time.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::Context;
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

use super::arrivals::Delivery;
use super::phone::PhoneRecord;
use super::table::{APP, TABLE};

/// Lines of a dead worker's log that are shown.
const LAST_LINES: usize = 8;

/// All workers that were started, in that order, and where their logs are.
pub struct Workers {
    all: Vec<Worker>,
    service: SocketAddr,
    /// This program, as it was called at the start: it may be built anew meanwhile.
    program: PathBuf,
    folder: PathBuf,
    /// Its process id is the process group's; none on a machine without a shell.
    guard: Option<Child>,
}

/// One worker process.
pub struct Worker {
    /// Its worker id.
    pub name: String,
    child: Child,
    /// Standard output, until its end was read. Never waits: see [`Worker::read`].
    pipe: Option<File>,
    /// The start of a line whose end has not come yet.
    partial: Vec<u8>,
    log: PathBuf,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// It was asked to stop, or killed.
    WorkerExit,
    Ended,
}

/// A worker's end that nobody asked for.
pub struct Death {
    /// The worker, by its place among all.
    pub worker: usize,
    /// How it ended.
    pub status: ExitStatus,
    /// The last lines of its log.
    pub last_lines: Vec<String>,
}

/// What all pipes had to offer.
#[derive(Default)]
pub struct Sweep {
    /// The records that were delivered.
    pub deliveries: Vec<Delivery>,
    /// Lines that are no record of a phone.
    pub strange_lines: Vec<(usize, String)>,
}

impl Workers {
    /// No workers yet, for the service at this address, with a new folder for their logs.
    ///
    /// # Errors
    /// The folder cannot be made, or this program not be found.
    pub fn new(service: SocketAddr) -> Result<Self, anyhow::Error> {
        let folder = std::env::temp_dir().join(format!("shardkeeper-demo-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        Ok(Self { all: Vec::new(), service, program, folder, guard: start_guard() })
    }

    /// Where their logs are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All that were started.
    pub fn all(&self) -> &[Worker] {
        &self.all
    }

    /// Starts another worker and tells its place among all.
    ///
    /// # Errors
    /// The process or its log cannot be started.
    pub fn start(&mut self) -> Result<usize, anyhow::Error> {
        let index = self.all.len();
        let name = format!("worker-{}", index + 1);
        let log = self.folder.join(format!("{name}.log"));
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

    /// The running worker to be killed: the second, since the first is likely the leader, or else the first.
    pub fn victim(&self) -> Option<usize> {
        let mut running = self.all.iter().enumerate().filter(|(_, worker)| worker.is_running()).map(|(index, _)| index);
        let first = running.next();
        running.next().or(first)
    }

    /// Kills a worker, as `kill -9` does.
    ///
    /// # Errors
    /// The operating system refused.
    pub fn kill(&mut self, index: usize) -> io::Result<()> {
        let worker = &mut self.all[index];
        worker.state = State::WorkerExit;
        worker.child.start_kill()
    }

    /// Asks all that run to stop (SIGTERM).
    pub fn stop(&mut self) {
        for worker in self.all.iter_mut().filter(|worker| worker.is_running()) {
            worker.state = State::WorkerExit;
            let pid = worker.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
            if let Some(pid) = pid {
                // A process that ended meanwhile needs no signal.
                let _ = rustix::process::kill_process(pid, Signal::TERM);
            }
        }
    }

    /// Kills whatever still runs, and tells how many that were.
    pub fn kill_all(&mut self) -> usize {
        let left = self.all.iter_mut().filter(|worker| worker.state != State::Ended);
        left.map(|worker| drop(worker.child.start_kill())).count()
    }

    /// Whether any runs that was not asked to end.
    pub fn any_running(&self) -> bool {
        self.all.iter().any(Worker::is_running)
    }

    /// Whether all have ended and everything that they wrote is read.
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
                    None => sweep.strange_lines.push((index, String::from_utf8_lossy(&line).into_owned())),
                }
            }
        }
        sweep
    }

    /// Takes note of the ends of processes, and tells those that were not asked for: any while running, and any but a
    /// good one on SIGTERM.
    pub fn deaths(&mut self) -> Vec<Death> {
        let mut deaths = Vec::new();
        for (index, worker) in self.all.iter_mut().enumerate() {
            if worker.state == State::Ended {
                continue;
            }
            let Ok(Some(status)) = worker.child.try_wait() else { continue };
            let was_killed = worker.state == State::WorkerExit && status.code().is_none();
            if worker.is_running() || !(was_killed || status.success()) {
                deaths.push(Death { worker: index, status, last_lines: last_lines(&worker.log) });
            }
            worker.state = State::Ended;
        }
        deaths
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
            .args(["--log-format", "human"])
            .envs([("AWS_ENDPOINT_URL", endpoint.as_str()), ("AWS_REGION", "us-east-1")])
            .envs([("AWS_ACCESS_KEY_ID", "demo"), ("AWS_SECRET_ACCESS_KEY", "demo")])
            // Whatever this machine's AWS profiles say is not for this service.
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
    /// Whether it runs and was not asked to end.
    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// All whole lines that are there by now.
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
        // What follows the last line break is a line's start, or was cut off by SIGKILL: then it was not delivered.
        let end = self.partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let rest = self.partial.split_off(end);
        let lines = std::mem::replace(&mut self.partial, rest);
        lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
    }
}

/// Starts the guard. A machine without a shell goes without.
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
