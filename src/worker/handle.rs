//! The handle of a worker that runs in a task of its own.

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Error, Report, Worker};
use crate::consumer::ProcessorFactory;
use crate::telemetry::{Health, WorkerTelemetry};

/// A worker in a task of its own. As with tokio's tasks, it runs on when its handle is dropped.
///
/// ```no_run
/// # use shardkeeper::Worker;
/// # async fn example() -> Result<(), shardkeeper::Error> {
/// let phones = Worker::builder("phones", "Phones").for_each(async |record| println!("{}", record.json())).spawn();
/// let orders = Worker::builder("orders", "Orders").for_each(async |record| println!("{}", record.json())).spawn();
/// // … the rest of the program …
/// let (phones, orders) = tokio::join!(phones.shutdown(), orders.shutdown());
/// println!("{} phones, {} orders", phones?.totals.records, orders?.totals.records);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the worker runs on without its handle"]
pub struct WorkerHandle {
    stop: CancellationToken,
    task: JoinHandle<Result<Report, Error>>,
    telemetry: WorkerTelemetry,
}

impl WorkerHandle {
    pub(super) fn spawn<F: ProcessorFactory>(worker: Worker<F>) -> Self {
        let (stop, telemetry) = (CancellationToken::new(), worker.telemetry());
        let task = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
        Self { stop, task, telemetry }
    }

    /// Asks the worker to stop, and waits for its end.
    ///
    /// # Errors
    /// Those of [`Worker::run`].
    pub async fn shutdown(self) -> Result<Report, Error> {
        self.stop.cancel();
        self.join().await
    }

    /// Waits for the worker's end.
    ///
    /// # Errors
    /// Those of [`Worker::run`].
    pub async fn join(self) -> Result<Report, Error> {
        match self.task.await {
            Ok(outcome) => outcome,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Error::Thread("the runtime has ended".into())),
        }
    }

    /// The worker's health; it says so when the worker has ended.
    pub fn health(&self) -> Health {
        self.telemetry.health()
    }

    /// The observer of the worker, which outlives it: for a server that shows its health, say.
    pub fn telemetry(&self) -> WorkerTelemetry {
        self.telemetry.clone()
    }
}
