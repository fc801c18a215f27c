//! Destinations of records. A sink has a file of its own, a name in [`Sink`], and an arm wherever that is matched.

pub(in crate::cli) mod http;
pub mod multilang;
mod stdout;

use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;

use self::http::{Handler, HttpArgs, HttpUrl};
use self::multilang::{ChildCommand, Children, MultiLangArgs};
use self::stdout::Lines;
use super::args::run::READING;
use crate::consumer::{BatchError, BoxError, Checkpointer, ProcessRecordsInput, RecordProcessor, ShardContext};

#[derive(Args)]
#[command(next_help_heading = READING)]
pub struct SinkArgs {
    /// Destination of records: a line of JSON each on standard output, as the service sent it; nowhere but the count; or
    /// a handler at an http:// or https:// URL, which gets a batch a POST, in the shape of a Lambda function's event; or,
    /// after multilang:, the command of child processes that speak the protocol of KCL's MultiLangDaemon.
    #[arg(long, value_name = "stdout|null|URL|multilang:COMMAND", default_value = "stdout", env = "SHARDKEEPER_TO")]
    to: Sink,
    #[command(flatten)]
    http: HttpArgs,
    #[command(flatten)]
    multilang: MultiLangArgs,
}

#[derive(Clone)]
enum Sink {
    Stdout,
    Null,
    Http(HttpUrl),
    MultiLang(ChildCommand),
}

impl FromStr for Sink {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stdout" => Ok(Self::Stdout),
            "null" => Ok(Self::Null),
            text if text.starts_with("multilang:") => text["multilang:".len()..].parse().map(Self::MultiLang),
            url if url.contains("://") => HttpUrl::parse(url).map(Self::Http),
            other => Err(format!(
                "{other:?} is not one of: stdout, null, a handler's URL (http://…, https://…), or multilang: and a command"
            )),
        }
    }
}

/// Processor of the records of a shard.
pub enum SinkProcessor {
    Null,
    Stdout(Lines),
    Http(http::Processor),
    MultiLang(Box<multilang::Processor>),
}

impl RecordProcessor for SinkProcessor {
    async fn prepare(&mut self, checkpointer: &Checkpointer) -> Result<(), BoxError> {
        match self {
            Self::MultiLang(child) => child.prepare(checkpointer).await,
            _ => Ok(()),
        }
    }

    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        match self {
            Self::Null => Ok(()),
            Self::Stdout(lines) => lines.process_records(input).await,
            Self::Http(handler) => handler.process_records(input).await,
            Self::MultiLang(child) => child.process_records(input).await,
        }
    }

    async fn lease_lost(&mut self) {
        if let Self::MultiLang(child) = self {
            child.lease_lost().await;
        }
    }

    async fn shard_ended(&mut self, checkpointer: &Checkpointer) -> Result<(), BoxError> {
        match self {
            Self::MultiLang(child) => child.shard_ended(checkpointer).await,
            _ => Ok(()),
        }
    }

    async fn shutdown_requested(&mut self, checkpointer: &Checkpointer) {
        if let Self::MultiLang(child) = self {
            child.shutdown_requested(checkpointer).await;
        }
    }
}

/// Factory of the processors of all shards.
pub type SinkFactory = Box<dyn Fn(&ShardContext) -> SinkProcessor + Send + Sync>;

impl SinkArgs {
    /// Whether the records themselves go to standard output.
    pub fn is_stdout(&self) -> bool {
        matches!(self.to, Sink::Stdout)
    }

    /// Whether the processors checkpoint by hand, so that their shard's progress is one position.
    pub fn checkpoints_by_hand(&self) -> bool {
        matches!(self.to, Sink::MultiLang(_))
    }

    /// The time that the sink may take to end after the worker.
    pub fn end_timeout(&self) -> Duration {
        self.multilang.end_timeout()
    }

    /// The most records of a batch when the user sets no other number.
    pub fn default_batch_size(&self) -> Option<usize> {
        matches!(self.to, Sink::Http(_)).then_some(http::BATCH_SIZE)
    }

    /// The most bytes of a batch when the user sets no other number.
    pub fn default_batch_bytes(&self) -> Option<usize> {
        matches!(self.to, Sink::Http(_)).then_some(http::BATCH_BYTES)
    }

    /// The limit of a delivery when the user sets no other one.
    pub fn default_handler_timeout(&self) -> Option<Duration> {
        matches!(self.to, Sink::Http(_)).then_some(http::TIMEOUT)
    }

    /// Calls a handler with an event without records; none: the sink has no handler.
    pub async fn probe(&self, limit: Duration) -> Option<Result<(), anyhow::Error>> {
        let Sink::Http(url) = &self.to else { return None };
        let handler = match Handler::new(self.http.target(url.clone())) {
            Ok(handler) => handler,
            Err(error) => return Some(Err(error)),
        };
        let answer = tokio::time::timeout(limit, handler.probe()).await;
        Some(answer.unwrap_or_else(|_| Err(anyhow::anyhow!("{url} did not answer within {} s", limit.as_secs()))))
    }

    /// Opens the sink. When standard output's reader goes away, `closed` is cancelled. `timeout` limits each answer of
    /// the child processes, which `children` keeps.
    ///
    /// # Errors
    /// When the sink cannot be had.
    pub fn open(
        &self,
        closed: &CancellationToken,
        timeout: Option<Duration>,
        children: &Children,
    ) -> Result<SinkFactory, anyhow::Error> {
        Ok(match &self.to {
            Sink::Null => Box::new(|_| SinkProcessor::Null),
            Sink::Stdout => {
                let lines = Lines::new(closed.clone()).context("cannot start the output thread")?;
                Box::new(move |_| SinkProcessor::Stdout(lines.clone()))
            }
            Sink::Http(url) => {
                let handler = Handler::new(self.http.target(url.clone()))?;
                Box::new(move |shard| SinkProcessor::Http(handler.processor(shard)))
            }
            Sink::MultiLang(command) => {
                let settings = self.multilang.settings(command.clone(), timeout, children.clone());
                Box::new(move |shard| {
                    SinkProcessor::MultiLang(Box::new(multilang::Processor::new(settings.clone(), shard)))
                })
            }
        })
    }
}
