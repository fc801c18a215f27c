//! A worker with a processor that has its moods: the library, as an application would embed it.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, bail};
use shardkeeper::internals::aws::clients::Endpoints;
use shardkeeper::internals::consumer::BatchError;
use shardkeeper::{ProcessRecordsInput, RecordProcessor, ShardContext, StreamSelector, Worker, WorkerOptions};

use super::service::TABLE;

/// The first argument of this role.
pub const ROLE: &str = "as-embedded-worker";

/// The processor's behavior.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// It prints records, and takes its time for each record of the named shards.
    Slow { shard: String, each: Duration },
    /// It never returns from its first call.
    Stopped,
}

impl Behaviour {
    /// As [`run`] takes it.
    pub fn to_arguments(&self) -> Vec<String> {
        match self {
            Self::Slow { shard, each } => vec!["slow".to_owned(), shard.clone(), each.as_millis().to_string()],
            Self::Stopped => vec!["stopped".to_owned()],
        }
    }

    fn from_arguments(arguments: &[String]) -> Result<Self, anyhow::Error> {
        match arguments {
            [word, shard, each] if word == "slow" => {
                let each = Duration::from_millis(each.parse().context("the time is no number")?);
                Ok(Self::Slow { shard: shard.clone(), each })
            }
            [word] if word == "stopped" => Ok(Self::Stopped),
            _ => bail!("{ROLE} knows slow and stopped, not {arguments:?}"),
        }
    }
}

/// Runs until it is killed.
pub fn run(arguments: &[String]) -> Result<(), anyhow::Error> {
    let [url, app, rest @ ..] = arguments else { bail!("{ROLE} takes a URL, an application and a behaviour") };
    let behaviour = Behaviour::from_arguments(rest)?;
    let mut options = WorkerOptions::new(app.as_str(), StreamSelector::Table(TABLE.to_owned()), "worker-1");
    options.endpoints = Endpoints { url: Some(url.clone()), ..Endpoints::default() };
    let worker = Worker::new(options, move |shard: &ShardContext| Moody::new(&behaviour, shard));
    tokio::runtime::Runtime::new()?.block_on(worker.run(std::future::pending()))?;
    Ok(())
}

/// The processor of one shard.
struct Moody {
    /// The time that it takes for a record; `None` when it never ends.
    each: Option<Duration>,
}

impl Moody {
    fn new(behaviour: &Behaviour, context: &ShardContext) -> Self {
        let each = match behaviour {
            Behaviour::Slow { shard, each } if context.shard_id.as_str() == shard => Some(*each),
            Behaviour::Slow { .. } => Some(Duration::ZERO),
            Behaviour::Stopped => None,
        };
        Self { each }
    }
}

impl RecordProcessor for Moody {
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        let Some(each) = self.each else { return std::future::pending().await };
        let mut lines = Vec::new();
        for record in &input.records {
            if !each.is_zero() {
                tokio::time::sleep(each).await;
            }
            lines.extend_from_slice(if each.is_zero() { b"quick " } else { b"slow " });
            lines.extend_from_slice(record.json().as_bytes());
            lines.push(b'\n');
        }
        std::io::stdout().lock().write_all(&lines)?;
        Ok(())
    }
}
