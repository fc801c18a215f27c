//! Records to child processes, one a shard, by the protocol of KCL's MultiLangDaemon (`model/multilang`).
//!
//! - [`Processor`]: a shard's child, its checkpoints, and what the next child needs when this one dies.
//! - [`child`]: the process and the exchange of messages. [`launcher`]: its start. [`lines`]: its output.
//!
//! The position moves by the child's checkpoints alone. A child that dies is followed by another one, which begins at
//! the last checkpoint: it gets again what its predecessor got and did not checkpoint. So the processor keeps those
//! batches; when they are too many, the shard is read again.

mod child;
pub mod launcher;
mod lines;

use std::collections::VecDeque;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use tokio::task::JoinHandle;

pub use self::child::Children;
use self::child::{Checkpoints, Child};
use crate::cli::args::run::READING;
use crate::cli::args::value::{HOUR, MINUTE, SECOND, duration, one_of};
use crate::consumer::{
    BatchError, BoxError, CheckpointError, Checkpointer, ProcessRecordsInput, ReadAgain, RecordProcessor, ShardContext,
};
use crate::model::checkpoint::Checkpoint;
use crate::model::multilang::{self, Action, CheckpointMessage, CheckpointRefusal, Wanted};
use crate::model::record::RecordBatch;
use crate::model::sequence_number::SequenceNumber;

/// The most bytes of batches kept for a next child, for each shard.
const KEPT_BYTES: usize = 8 << 20;

#[derive(Args)]
#[command(next_help_heading = READING)]
pub struct MultiLangArgs {
    /// For a child process: a batch whose answer comes before a checkpoint of its last record is done all the same, as
    /// with KCL, or has failed.
    #[arg(long, value_name = "accept|fail", default_value = "accept", env = "SHARDKEEPER_UNACKNOWLEDGED",
        value_parser = one_of(&[("accept", Unacknowledged::Accept), ("fail", Unacknowledged::Fail)]))]
    unacknowledged: Unacknowledged,
    /// For a child process: time without records, all of them checkpointed, after which it is ended until the next
    /// record: 1s to 1h.
    #[arg(long, value_name = "DURATION", value_parser = duration(SECOND..=HOUR), default_value = "5m",
        env = "SHARDKEEPER_CHILD_IDLE_TIMEOUT")]
    child_idle_timeout: Duration,
    /// For a child process: time to exit after its standard input has ended, and again after SIGTERM, before it is
    /// killed: up to 1m.
    #[arg(long, value_name = "DURATION", value_parser = duration(Duration::ZERO..=MINUTE), default_value = "5s",
        env = "SHARDKEEPER_CHILD_GRACE")]
    child_grace: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unacknowledged {
    Accept,
    Fail,
}

/// A command as KCL's `executableName` has it: words with blanks between them, without quotes.
#[derive(Clone, Debug)]
pub struct ChildCommand(Arc<[String]>);

impl FromStr for ChildCommand {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        if words.is_empty() { Err("a command is missing after multilang:".into()) } else { Ok(Self(words.into())) }
    }
}

/// The settings that the processors of all shards share.
#[derive(Clone)]
pub struct Settings {
    command: ChildCommand,
    children: Children,
    must_acknowledge: bool,
    idle_timeout: Duration,
    grace: Duration,
    /// The limit of each answer.
    timeout: Option<Duration>,
}

impl MultiLangArgs {
    pub fn settings(&self, command: ChildCommand, timeout: Option<Duration>, children: Children) -> Settings {
        Settings {
            command,
            children,
            must_acknowledge: self.unacknowledged == Unacknowledged::Fail,
            idle_timeout: self.child_idle_timeout,
            grace: self.child_grace,
            timeout,
        }
    }

    /// The time that children may take to end, all told.
    pub fn end_timeout(&self) -> Duration {
        self.child_grace * 2 + SECOND
    }
}

pub struct Processor {
    settings: Settings,
    shard: ShardContext,
    /// The child between two calls. A call takes it out, so that one that is dropped halfway kills it.
    idle: Arc<Mutex<Option<Child>>>,
    idle_timer: Option<JoinHandle<()>>,
    progress: Progress,
}

/// The positions of a shard, and the batches between them.
struct Progress {
    saved: Checkpoint,
    /// The last record that the present child got.
    delivered: Option<SequenceNumber>,
    /// The batches that a child got and did not checkpoint, oldest first.
    kept: VecDeque<RecordBatch>,
    kept_bytes: usize,
    /// The end of the last such batch that was not kept.
    dropped_through: Option<SequenceNumber>,
    /// Whether the child has checkpointed the end of the shard.
    is_ended: bool,
}

impl Processor {
    pub fn new(settings: Settings, shard: &ShardContext) -> Self {
        let progress = Progress {
            saved: shard.checkpoint.clone(),
            delivered: None,
            kept: VecDeque::new(),
            kept_bytes: 0,
            dropped_through: None,
            is_ended: false,
        };
        Self { settings, shard: shard.clone(), idle: Arc::default(), idle_timer: None, progress }
    }

    fn take_child(&mut self) -> Option<Child> {
        if let Some(timer) = self.idle_timer.take() {
            timer.abort();
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put_back(&mut self, child: Child) {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        if !self.progress.is_checkpointed() {
            return;
        }
        let (idle, settings) = (Arc::clone(&self.idle), self.settings.clone());
        self.idle_timer = Some(tokio::spawn(async move {
            tokio::time::sleep(settings.idle_timeout).await;
            if let Some(child) = idle.lock().unwrap_or_else(PoisonError::into_inner).take() {
                child.end(settings.grace);
            }
        }));
    }

    /// Starts a child and brings it to where the last one was.
    async fn start(&mut self, checkpointer: &Checkpointer) -> Result<Child, BoxError> {
        let timeout = self.settings.timeout;
        let mut child = Child::start(&self.settings.command.0, &self.shard.shard_id, &self.settings.children)?;
        self.progress.delivered = self.progress.saved.sequence_number().cloned();
        self.progress.is_ended = false;
        let first = multilang::initialize(self.shard.shard_id.as_str(), &self.progress.saved);
        let mut session = Session { progress: &mut self.progress, checkpointer, ends_shard: false };
        child.ask(Action::Initialize, &first, &mut session, timeout).await?;
        for batch in session.progress.kept.clone() {
            let batch = match session.progress.saved.sequence_number() {
                Some(saved) => batch.skip_through(saved),
                None => batch,
            };
            if !batch.is_empty() {
                session.progress.delivered = through(&batch);
                let request = multilang::process_records(&batch, None);
                child.ask(Action::ProcessRecords, &request, &mut session, timeout).await?;
            }
        }
        Ok(child)
    }

    /// Sends a request without members to the child, if there is one, and returns the child.
    async fn tell(&mut self, action: Action, checkpointer: Option<&Checkpointer>) -> Option<Child> {
        let mut child = self.take_child()?;
        let limit = match checkpointer {
            Some(_) => self.settings.timeout,
            None => Some(self.settings.timeout.unwrap_or(self.settings.grace)),
        };
        let asked = match checkpointer {
            Some(checkpointer) => {
                let mut session = Session { progress: &mut self.progress, checkpointer, ends_shard: false };
                child.ask(action, &action.request(), &mut session, limit).await
            }
            None => child.ask(action, &action.request(), &mut NoCheckpoints, limit).await,
        };
        match asked {
            Ok(()) => Some(child),
            Err(error) => {
                let (shard, call) = (&self.shard.shard_id, action.as_str());
                tracing::warn!(%shard, call, %error, "child process failed while leaving its shard");
                None
            }
        }
    }
}

impl RecordProcessor for Processor {
    async fn prepare(&mut self, checkpointer: &Checkpointer) -> Result<(), BoxError> {
        let child = match self.take_child() {
            Some(mut child) => match child.exited() {
                None => Some(child),
                Some(status) => {
                    tracing::warn!(shard = %self.shard.shard_id, status, "child process ended by itself, starting another");
                    None
                }
            },
            None => None,
        };
        let child = match child {
            Some(child) => child,
            None if self.progress.has_dropped() => {
                tracing::warn!(
                    shard = %self.shard.shard_id,
                    "the child process checkpointed too little of what it got, reading the shard again"
                );
                return Err(ReadAgain.into());
            }
            None => self.start(checkpointer).await?,
        };
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        let Some(mut child) = self.take_child() else { return Err("the child process is gone".into()) };
        let behind_ms = input.age.and_then(|age| u64::try_from(age.as_millis()).ok());
        let request = multilang::process_records(&input.records, behind_ms);
        self.progress.delivered = through(&input.records);
        let mut session =
            Session { progress: &mut self.progress, checkpointer: &input.checkpointer, ends_shard: false };
        if let Err(error) = child.ask(Action::ProcessRecords, &request, &mut session, self.settings.timeout).await {
            let shard = &self.shard.shard_id;
            tracing::warn!(%shard, %error, "child process failed at a batch, starting another");
            return Err(error.into());
        }
        let last = input.records.last().and_then(|record| record.sequence_number().parse().ok());
        let is_acknowledged = last.is_none_or(|last| self.progress.saved >= Checkpoint::At(last));
        if is_acknowledged || !self.settings.must_acknowledge {
            self.progress.keep(input.records);
            self.put_back(child);
            return Ok(());
        }
        self.put_back(child);
        Err("the child process answered processRecords without a checkpoint of the last record".into())
    }

    async fn lease_lost(&mut self) {
        if let Some(child) = self.tell(Action::LeaseLost, None).await {
            child.end(self.settings.grace);
        }
    }

    async fn shard_ended(&mut self, checkpointer: &Checkpointer) -> Result<(), BoxError> {
        let Some(mut child) = self.take_child() else { return Err("the child process is gone".into()) };
        let timeout = self.settings.timeout;
        let mut session = Session { progress: &mut self.progress, checkpointer, ends_shard: true };
        child.ask(Action::ShardEnded, &Action::ShardEnded.request(), &mut session, timeout).await?;
        child.end(self.settings.grace);
        match self.progress.is_ended {
            true => Ok(()),
            false => Err("the child process answered shardEnded without a checkpoint of the shard's end".into()),
        }
    }

    async fn shutdown_requested(&mut self, checkpointer: &Checkpointer) {
        // KCL sends leaseLost once the lease is released; the child may checkpoint no longer then.
        if let Some(child) = self.tell(Action::ShutdownRequested, Some(checkpointer)).await {
            self.put_back(child);
            self.lease_lost().await;
        }
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        self.take_child();
    }
}

impl Progress {
    /// Whether the child has checkpointed all that it got.
    fn is_checkpointed(&self) -> bool {
        self.delivered.as_ref().is_none_or(|delivered| self.saved >= Checkpoint::At(delivered.clone()))
    }

    fn has_dropped(&self) -> bool {
        self.dropped_through.as_ref().is_some_and(|dropped| self.saved < Checkpoint::At(dropped.clone()))
    }

    /// Keeps a batch that the child got, unless it is checkpointed.
    fn keep(&mut self, batch: RecordBatch) {
        self.kept_bytes += batch.memory_bytes();
        self.kept.push_back(batch);
        while let Some(oldest) = self.kept.front() {
            let end = through(oldest);
            let is_saved = end.as_ref().is_none_or(|end| self.saved >= Checkpoint::At(end.clone()));
            if !is_saved && self.kept_bytes <= KEPT_BYTES {
                break;
            }
            if !is_saved {
                self.dropped_through = end;
            }
            self.kept_bytes = self.kept_bytes.saturating_sub(oldest.memory_bytes());
            self.kept.pop_front();
        }
    }
}

/// The checkpoints of a child during an exchange.
struct Session<'a> {
    progress: &'a mut Progress,
    checkpointer: &'a Checkpointer,
    /// Whether everything means the end of the shard.
    ends_shard: bool,
}

impl Checkpoints for Session<'_> {
    async fn checkpoint(&mut self, message: &CheckpointMessage) -> Result<(), CheckpointRefusal> {
        let delivered = self.progress.delivered.clone();
        let position = match message.wanted() {
            Wanted::Nonsense => return Err(CheckpointRefusal::IllegalArgument),
            Wanted::Everything if self.ends_shard => {
                // The shard's end is written with its children's leases.
                self.progress.is_ended = true;
                return Ok(());
            }
            Wanted::Everything => match delivered.clone() {
                Some(position) => position,
                None => return Ok(()),
            },
            Wanted::At(position) if delivered.as_ref().is_none_or(|delivered| position > *delivered) => {
                return Err(CheckpointRefusal::IllegalArgument);
            }
            Wanted::At(position) => position,
        };
        self.checkpointer.checkpoint_at(&position).await.map_err(|error| match error {
            CheckpointError::OutOfRange { .. } => CheckpointRefusal::IllegalArgument,
            CheckpointError::LeaseLost => CheckpointRefusal::Shutdown,
            _ => CheckpointRefusal::Dependency,
        })?;
        self.progress.is_ended |= self.ends_shard && delivered.as_ref() == Some(&position);
        self.progress.saved = self.progress.saved.clone().max(Checkpoint::At(position));
        Ok(())
    }
}

struct NoCheckpoints;

impl Checkpoints for NoCheckpoints {
    async fn checkpoint(&mut self, _: &CheckpointMessage) -> Result<(), CheckpointRefusal> {
        Err(CheckpointRefusal::InvalidState)
    }
}

fn through(records: &RecordBatch) -> Option<SequenceNumber> {
    records.through().and_then(|through| through.parse().ok())
}
