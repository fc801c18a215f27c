//! A closure with a state and errors of its own: keeps the newest change of each item in a map.
//!
//!     shardkeeper local &
//!     cargo run --example closure -- Phones http://127.0.0.1:8000

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use shardkeeper::{OwnedRecord, ProcessorFactory, Worker, WorkerBuilder};

/// The state: a pool of connections in a real program.
pub type Newest = Arc<Mutex<BTreeMap<String, String>>>;

#[derive(Debug, thiserror::Error)]
#[error("record {0} has no keys")]
struct NoKeys(String);

async fn keep(record: OwnedRecord, newest: Newest) -> Result<(), NoKeys> {
    let keys = record.keys_json().ok_or_else(|| NoKeys(record.sequence_number().to_owned()))?;
    let image = record.new_image_json().unwrap_or("deleted");
    newest.lock().expect("no panic").insert(keys.to_owned(), image.to_owned());
    Ok(())
}

/// A worker that keeps the newest changes in `newest`.
pub fn worker(builder: WorkerBuilder, newest: &Newest) -> Worker<impl ProcessorFactory> {
    builder.with_state(Arc::clone(newest)).for_each(keep)
}

#[tokio::main]
async fn main() -> Result<(), shardkeeper::Error> {
    let mut arguments = std::env::args().skip(1);
    let table = arguments.next().unwrap_or_else(|| "Phones".to_owned());
    let mut builder = Worker::builder("closure", table);
    if let Some(url) = arguments.next() {
        builder = builder.endpoint_url(url);
    }
    let newest = Newest::default();
    worker(builder, &newest).run(async { drop(tokio::signal::ctrl_c().await) }).await?;
    println!("{:#?}", newest.lock().expect("no panic"));
    Ok(())
}
