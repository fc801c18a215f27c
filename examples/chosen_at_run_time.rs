//! A processor chosen when the program runs, by a box: prints records, or counts them. It reads what is there and ends.
//!
//!     shardkeeper local &
//!     cargo run --example chosen_at_run_time -- count Phones http://127.0.0.1:8000

use shardkeeper::{BatchError, BoxProcessor, ProcessRecordsInput, ProcessorFactory, RecordProcessor, ShardContext};
use shardkeeper::{ShardId, Worker, WorkerBuilder};

struct Print;

impl RecordProcessor for Print {
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        input.records.iter().for_each(|record| println!("{}", record.json()));
        Ok(())
    }
}

struct Count {
    shard: ShardId,
    records: usize,
}

impl RecordProcessor for Count {
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        self.records += input.records.len();
        println!("{}: {} records", self.shard, self.records);
        Ok(())
    }
}

fn processor(counts: bool, shard: &ShardContext) -> BoxProcessor {
    if counts {
        BoxProcessor::new(Count { shard: shard.shard_id.clone(), records: 0 })
    } else {
        BoxProcessor::new(Print)
    }
}

/// A worker that counts or prints the records that are there.
pub fn worker(builder: WorkerBuilder, counts: bool) -> Worker<impl ProcessorFactory> {
    builder.until_caught_up().processors(move |shard| processor(counts, shard))
}

#[tokio::main]
async fn main() -> Result<(), shardkeeper::Error> {
    let mut arguments = std::env::args().skip(1);
    let counts = arguments.next().as_deref() == Some("count");
    let builder = Worker::builder("chosen", arguments.next().unwrap_or_else(|| "Phones".to_owned()));
    let builder = arguments.next().into_iter().fold(builder, WorkerBuilder::endpoint_url);
    worker(builder, counts).run(std::future::pending()).await.map(drop)
}
