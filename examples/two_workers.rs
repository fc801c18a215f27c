//! Two workers in a program that has other things to do: it shows their health meanwhile, and stops both in the end.
//!
//!     shardkeeper local &
//!     cargo run --example two_workers -- Phones Orders http://127.0.0.1:8000

use std::time::Duration;

use shardkeeper::{Error, EventName, Events, Filters, Report, StartPosition, Worker, WorkerBuilder, WorkerHandle};

/// Starts a worker for new phones, and one for orders from now on, each with a name of its own.
pub fn start(phones: WorkerBuilder, orders: WorkerBuilder) -> [WorkerHandle; 2] {
    let new_ones = phones.filters(Filters::new().events(Events::INSERT | Events::MODIFY));
    let phones = new_ones.for_each(async |record| println!("phone {}", record.json())).spawn();
    let orders = orders.start(StartPosition::Latest).shard_concurrency(8);
    let orders = orders.for_each(async |record| {
        if record.event_name() == EventName::Remove {
            return Err("orders are never deleted");
        }
        println!("order {}", record.json());
        Ok(())
    });
    [phones, orders.spawn()]
}

/// Stops both and returns their reports.
pub async fn shutdown([phones, orders]: [WorkerHandle; 2]) -> Result<[Report; 2], Error> {
    let (phones, orders) = tokio::join!(phones.shutdown(), orders.shutdown());
    Ok([phones?, orders?])
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |default: &str| arguments.next().unwrap_or_else(|| default.to_owned());
    let (phones, orders) = (argument("Phones"), argument("Orders"));
    let url = arguments.next();
    let builder = |app, table| {
        let builder = Worker::builder(app, table);
        url.iter().cloned().fold(builder, WorkerBuilder::endpoint_url)
    };
    let workers = start(builder("phones", phones), builder("orders", orders));
    let mut seconds = tokio::time::interval(Duration::from_secs(10));
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            _ = seconds.tick() => workers.iter().for_each(|worker| println!("{:?}", worker.health())),
        }
    }
    let reports = shutdown(workers).await?;
    println!("left undone: {:?}", reports.map(|report| report.undrained));
    Ok(())
}
