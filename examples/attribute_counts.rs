//! A processor with KCL's whole life cycle and checkpoints by hand. It counts the attribute names in new images, shard by
//! shard, and prints the counts before each checkpoint.
//!
//!     shardkeeper local &
//!     cargo run --example attribute_counts -- Phones http://127.0.0.1:8000
//!
//! The first argument is the table, the second the endpoint. Without an endpoint it reads from AWS.

use std::collections::BTreeMap;

use shardkeeper::{
    BatchError, BoxError, Checkpointer, Checkpoints, ProcessRecordsInput, RecordProcessor, ShardContext,
    StreamSelector, Worker, WorkerOptions,
};

/// The number of records after which a shard is checkpointed.
const RECORDS_A_CHECKPOINT: usize = 100;

#[derive(Default)]
struct AttributeCounts {
    shard: String,
    counts: BTreeMap<String, u64>,
    since_checkpoint: usize,
}

impl RecordProcessor for AttributeCounts {
    async fn initialize(&mut self, shard: &ShardContext) -> Result<(), BoxError> {
        self.shard = shard.shard_id.to_string();
        eprintln!("{}: reading from {}", self.shard, shard.checkpoint);
        Ok(())
    }

    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        for record in input.records.iter() {
            for (name, _) in record.new_image()?.iter().flat_map(|image| image.iter()) {
                *self.counts.entry(name.to_owned()).or_default() += 1;
            }
        }
        self.since_checkpoint += input.records.len();
        if self.since_checkpoint >= RECORDS_A_CHECKPOINT {
            self.flush(&input.checkpointer).await?;
        }
        Ok(())
    }

    async fn lease_lost(&mut self) {
        eprintln!("{}: another worker continues, and counts what was not flushed here", self.shard);
    }

    async fn shard_ended(&mut self, checkpointer: &Checkpointer) -> Result<(), BoxError> {
        self.flush(checkpointer).await
    }

    async fn shutdown_requested(&mut self, checkpointer: &Checkpointer) {
        if let Err(error) = self.flush(checkpointer).await {
            eprintln!("{}: {error}", self.shard);
        }
    }
}

impl AttributeCounts {
    /// Makes the counts durable, and only then checkpoints. Here printing stands for durable storage.
    async fn flush(&mut self, checkpointer: &Checkpointer) -> Result<(), BoxError> {
        println!("{}: {:?}", self.shard, self.counts);
        checkpointer.checkpoint().await?;
        self.since_checkpoint = 0;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), shardkeeper::Error> {
    let mut arguments = std::env::args().skip(1);
    let table = arguments.next().unwrap_or_else(|| "Phones".to_owned());
    let mut options = WorkerOptions::new("attribute-counts", StreamSelector::Table(table), "counter-1");
    options.endpoints.url = arguments.next();
    options.checkpoints = Checkpoints::Manual;
    let worker = Worker::new(options, |_: &ShardContext| AttributeCounts::default());
    let report = worker.run(async { drop(tokio::signal::ctrl_c().await) }).await?;
    eprintln!("{} records", report.totals.records);
    Ok(())
}
