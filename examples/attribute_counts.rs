//! A processor with a state, checkpoints by hand and a flush of quiet shards: counts the attribute names in new images.
//!
//!     shardkeeper local &
//!     cargo run --example attribute_counts -- Phones http://127.0.0.1:8000

use std::collections::BTreeMap;
use std::time::Duration;

use shardkeeper::{BatchError, BoxError, Checkpointer, ProcessRecordsInput, RecordProcessor, Worker};

/// The counts of a shard.
#[derive(Debug, Default)]
pub struct AttributeCounts {
    /// The images with each attribute.
    pub counts: BTreeMap<String, u64>,
}

impl RecordProcessor for AttributeCounts {
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        for record in &input.records {
            if input.is_cancelled() {
                return Err(input.done_before(&record));
            }
            for (name, _) in record.new_image()?.iter().flat_map(|image| image.iter()) {
                *self.counts.entry(name.to_owned()).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Makes the counts durable, and only then checkpoints. Here printing stands for durable storage.
    async fn idle(&mut self, checkpointer: &Checkpointer) -> Result<(), BoxError> {
        println!("{:?}", self.counts);
        Ok(checkpointer.checkpoint().await?)
    }

    async fn shard_ended(&mut self, checkpointer: &Checkpointer) -> Result<(), BoxError> {
        self.idle(checkpointer).await
    }

    async fn shutdown_requested(&mut self, checkpointer: &Checkpointer) {
        if let Err(error) = self.idle(checkpointer).await {
            eprintln!("not checkpointed, so it is counted again: {error}");
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), shardkeeper::Error> {
    let mut arguments = std::env::args().skip(1);
    let table = arguments.next().unwrap_or_else(|| "Phones".to_owned());
    let mut builder = Worker::builder("attribute-counts", table).manual_checkpoints();
    if let Some(url) = arguments.next() {
        builder = builder.endpoint_url(url);
    }
    let worker = builder.idle_interval(Duration::from_secs(1)).processors(|_| AttributeCounts::default());
    worker.run(async { drop(tokio::signal::ctrl_c().await) }).await?;
    Ok(())
}
