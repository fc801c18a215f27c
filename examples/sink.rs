//! A sink that takes some records of a batch and not others: those that it is too busy for are retried, those that it
//! refuses become dead letters at once, and the rest is done.
//!
//!     shardkeeper local &
//!     cargo run --example sink -- Phones http://127.0.0.1:8000

use std::sync::{Arc, Mutex};

use shardkeeper::{
    BatchError, FailurePolicy, OnFailure, ProcessRecordsInput, ProcessorFactory, RecordProcessor, Worker, WorkerBuilder,
};

/// The sink's content; an index or a queue in a real program.
pub type Stored = Arc<Mutex<Vec<String>>>;

struct Sink(Stored);

impl RecordProcessor for Sink {
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        let mut failures = BatchError::partial();
        for record in &input.records {
            match record.new_image_json() {
                None => failures.reject(record.position(), "there is no image to store"),
                Some(image) if image.contains("busy") && input.attempt == 0 => {
                    failures.retry(record.position(), "the sink is busy");
                }
                Some(image) => self.0.lock().expect("no panic").push(image.to_owned()),
            }
        }
        failures.into_result()
    }
}

/// A worker that fills `stored`.
pub fn worker(builder: WorkerBuilder, on_failure: OnFailure, stored: &Stored) -> Worker<impl ProcessorFactory> {
    let (policy, stored) = (FailurePolicy::default().attempts(5).on_failure(on_failure), Arc::clone(stored));
    builder.failure(policy).processors(move |_| Sink(Arc::clone(&stored)))
}

#[tokio::main]
async fn main() -> Result<(), shardkeeper::Error> {
    let table = std::env::args().nth(1).unwrap_or_else(|| "Phones".to_owned());
    let builder = std::env::args().nth(2).into_iter().fold(Worker::builder("sink", table), WorkerBuilder::endpoint_url);
    let worker = worker(builder, OnFailure::Skip, &Stored::default());
    worker.run(async { drop(tokio::signal::ctrl_c().await) }).await.map(drop)
}
