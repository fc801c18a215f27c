//! A child process and the exchange of messages with it, one request at a time.
//!
//! Nothing of a child is left behind: it has a process group of its own, which is killed when its value is dropped. When
//! this process is killed, the system kills the child (Linux), and its standard input ends.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::lines::{Lines, shown};
use crate::model::lease::ShardId;
use crate::model::multilang::{Action, CheckpointMessage, CheckpointRefusal, Line, checkpoint_answer};

/// The messages that a child may send before it has read a request.
const MOST_PENDING: usize = 1000;
/// The wait for the exit status of a child that has closed its standard output.
const EXIT_WAIT: Duration = Duration::from_secs(1);

/// The reason that an exchange failed. The child is of no use afterwards.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("cannot start the child process: {0}")]
    Start(io::Error),
    #[error("the child process ended before it answered {action}: {status}{last_words}")]
    Ended { action: &'static str, status: String, last_words: String },
    #[error("the child process answered {action} with the status of {answered}")]
    WrongAnswer { action: &'static str, answered: String },
    #[error("the child process sent {MOST_PENDING} messages and reads none")]
    Deaf,
    #[error("the child process did not answer {action} within {}", humantime(*.limit))]
    Late { action: &'static str, limit: Duration },
    #[error("the pipes of the child process failed: {0}")]
    Pipe(#[from] io::Error),
}

fn humantime(duration: Duration) -> String {
    crate::cli::args::value::format_duration(duration)
}

/// The processor's side of checkpoints.
pub trait Checkpoints {
    async fn checkpoint(&mut self, message: &CheckpointMessage) -> Result<(), CheckpointRefusal>;
}

/// All children of this process.
#[derive(Clone, Default)]
pub struct Children {
    groups: Arc<Mutex<BTreeSet<u32>>>,
    /// The children that were asked to end.
    pub ending: TaskTracker,
}

impl Children {
    /// Waits until the children that were asked to end have done so, for at most `limit`, and kills what is left.
    pub async fn end(&self, limit: Duration) {
        self.ending.close();
        let _ = timeout(limit, self.ending.wait()).await;
        let groups = std::mem::take(&mut *self.groups());
        groups.into_iter().for_each(|group| signal(group, Signal::Kill));
    }

    fn groups(&self) -> std::sync::MutexGuard<'_, BTreeSet<u32>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct Child {
    shard: ShardId,
    process: tokio::process::Child,
    /// The id of the process and of its group.
    group: u32,
    children: Children,
    stdin: Option<ChildStdin>,
    stdout: Lines<ChildStdout>,
    /// Messages that came while a request was written.
    pending: VecDeque<Line>,
    /// Lines on standard output that are no messages.
    foreign: u64,
    last_words: Arc<Mutex<String>>,
}

impl Child {
    pub fn start(command: &[String], shard: &ShardId, children: &Children) -> Result<Self, ChildError> {
        let program = super::launcher::command(command).map_err(ChildError::Start)?;
        let mut command = Command::from(program);
        // These name this process alone.
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        let mut process = command.spawn().map_err(ChildError::Start)?;
        let piped = "all three are pipes";
        let (stdin, stdout) = (process.stdin.take().expect(piped), process.stdout.take().expect(piped));
        let group = process.id().expect("nobody has waited for it");
        children.groups().insert(group);
        let last_words = Arc::new(Mutex::new(String::new()));
        let mut stderr = Lines::new(process.stderr.take().expect(piped));
        let (words, of_shard) = (Arc::clone(&last_words), shard.clone());
        tokio::spawn(async move {
            while let Ok(Some(line)) = stderr.next().await {
                let line = shown(&line);
                tracing::info!(shard = %of_shard, line, "standard error of the child process");
                if !line.trim().is_empty() {
                    *words.lock().unwrap_or_else(PoisonError::into_inner) = line;
                }
            }
        });
        tracing::debug!(%shard, pid = group, "child process started");
        Ok(Self {
            shard: shard.clone(),
            process,
            group,
            children: children.clone(),
            stdin: Some(stdin),
            stdout: Lines::new(stdout),
            pending: VecDeque::new(),
            foreign: 0,
            last_words,
        })
    }

    /// The exit of a child that ended by itself, in words.
    pub fn exited(&mut self) -> Option<String> {
        self.process.try_wait().ok().flatten().map(|status| self.describe(Some(status)))
    }

    /// Sends a request and answers the child's checkpoints until its status comes.
    ///
    /// # Errors
    /// When the child ends, answers wrongly, or not within `limit`.
    pub async fn ask(
        &mut self,
        action: Action,
        request: &[u8],
        checkpoints: &mut impl Checkpoints,
        limit: Option<Duration>,
    ) -> Result<(), ChildError> {
        let exchange = self.exchange(action, request, checkpoints);
        let Some(limit) = limit else { return exchange.await };
        timeout(limit, exchange).await.unwrap_or(Err(ChildError::Late { action: action.as_str(), limit }))
    }

    async fn exchange(
        &mut self,
        action: Action,
        request: &[u8],
        checkpoints: &mut impl Checkpoints,
    ) -> Result<(), ChildError> {
        self.send(action, request).await?;
        loop {
            let line = match self.pending.pop_front() {
                Some(line) => line,
                None => self.receive(action).await?,
            };
            match line {
                Line::Answered => return Ok(()),
                Line::Checkpoint(message) => {
                    let refusal = match action.allows_checkpoints() {
                        true => checkpoints.checkpoint(&message).await.err(),
                        false => Some(CheckpointRefusal::InvalidState),
                    };
                    self.send(action, &checkpoint_answer(&message, refusal)).await?;
                }
                Line::Wrong(answered) => {
                    return Err(ChildError::WrongAnswer { action: action.as_str(), answered });
                }
                Line::Foreign | Line::Blank => {}
            }
        }
    }

    /// Writes a message. What the child writes meanwhile is read, so that neither waits for the other's full pipe.
    async fn send(&mut self, action: Action, message: &[u8]) -> Result<(), ChildError> {
        let Some(mut stdin) = self.stdin.take() else { return Err(self.ended(action).await) };
        let written = {
            let mut write = std::pin::pin!(async { stdin.write_all(message).await });
            loop {
                tokio::select! {
                    biased;
                    written = &mut write => break written,
                    line = self.receive(action) => {
                        self.pending.push_back(line?);
                        if self.pending.len() > MOST_PENDING {
                            return Err(ChildError::Deaf);
                        }
                    }
                }
            }
        };
        self.stdin = Some(stdin);
        match written {
            Ok(()) => Ok(()),
            Err(_) => Err(self.ended(action).await),
        }
    }

    /// The child's next message.
    async fn receive(&mut self, action: Action) -> Result<Line, ChildError> {
        loop {
            let Some(line) = self.stdout.next().await? else { return Err(self.ended(action).await) };
            match Line::parse(&line, action) {
                Line::Blank => {}
                Line::Foreign => {
                    self.foreign += 1;
                    if self.foreign.is_power_of_two() {
                        let (line, lines) = (shown(&line), self.foreign);
                        tracing::warn!(shard = %self.shard, line, lines, "child process printed a line that is no message");
                    }
                }
                message => return Ok(message),
            }
        }
    }

    async fn ended(&mut self, action: Action) -> ChildError {
        let status = timeout(EXIT_WAIT, self.process.wait()).await.ok().and_then(Result::ok);
        let last_words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let last_words = if last_words.is_empty() { last_words } else { format!("; its last words: {last_words}") };
        ChildError::Ended { action: action.as_str(), status: self.describe(status), last_words }
    }

    fn describe(&self, status: Option<ExitStatus>) -> String {
        match status {
            Some(status) => status.to_string(),
            None => format!("process {} closed its pipes and still runs", self.group),
        }
    }

    /// Ends the child, outside of the caller's time: closes its standard input, and after `grace` sends SIGTERM, and after
    /// another one SIGKILL.
    pub fn end(mut self, grace: Duration) {
        let tracker = self.children.ending.clone();
        tracker.spawn(async move {
            self.stdin = None;
            if self.exits_within(grace).await {
                return;
            }
            signal(self.group, Signal::Terminate);
            if !self.exits_within(grace).await {
                tracing::warn!(shard = %self.shard, pid = self.group, "child process did not end when asked to, killed");
            }
        });
    }

    async fn exits_within(&mut self, limit: Duration) -> bool {
        let Self { process, stdout, .. } = self;
        let drained = async {
            while let Ok(Some(_)) = stdout.next().await {}
            std::future::pending::<()>().await;
        };
        tokio::select! {
            exited = timeout(limit, process.wait()) => exited.is_ok(),
            () = drained => false,
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // A child that has exited may have left others in its group.
        if self.children.groups().remove(&self.group) {
            signal(self.group, Signal::Kill);
        }
    }
}

#[derive(Clone, Copy)]
enum Signal {
    Terminate,
    Kill,
}

/// Signals the processes of a group; one that is gone needs none.
#[cfg(unix)]
fn signal(group: u32, signal: Signal) {
    use rustix::process::{Pid, kill_process_group};
    let signal = match signal {
        Signal::Terminate => rustix::process::Signal::TERM,
        Signal::Kill => rustix::process::Signal::KILL,
    };
    if let Some(group) = i32::try_from(group).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, signal);
    }
}

/// Elsewhere the child is killed with its value.
#[cfg(not(unix))]
fn signal(_: u32, _: Signal) {}
