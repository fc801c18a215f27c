//! A projection: copies a table into another one, change by change, and counts the changes of each item in a third.
//! Every change counts once, however often workers are killed and records are delivered again.
//!
//! One transaction holds the writes for some records and the position after them: all of it happens, or nothing.
//!
//!     shardkeeper local &
//!     cargo run --example effectively_once -- Phones PhonesCopy PhonesCounts http://127.0.0.1:8000
//!
//! The arguments are the table, whose stream must have new images; the copy and the counts, which must exist and have the
//! table's key; and the endpoint. Without an endpoint it uses AWS.

use shardkeeper::{ProcessorFactory, Worker, WorkerBuilder};

/// A worker that copies into `copy` and counts in `counts`.
pub fn worker(builder: WorkerBuilder, copy: String, counts: String) -> Worker<impl ProcessorFactory> {
    builder.project(move |record, tx| {
        tx.copy(&copy, record)?;
        tx.add(&counts, record.keys().into_attributes(), "changes", 1);
        Ok(())
    })
}

#[tokio::main]
async fn main() -> Result<(), shardkeeper::Error> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |default: &str| arguments.next().unwrap_or_else(|| default.to_owned());
    let (table, copy, counts) = (argument("Phones"), argument("PhonesCopy"), argument("PhonesCounts"));
    let mut builder = Worker::builder("effectively-once", table);
    if let Some(url) = arguments.next() {
        builder = builder.endpoint_url(url);
    }
    let worker = worker(builder, copy, counts);
    let report = worker.run(async { drop(tokio::signal::ctrl_c().await) }).await?;
    println!("{} records", report.totals.records);
    Ok(())
}
