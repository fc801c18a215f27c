//! The tasks of a worker's consumers, which end with the worker: at the end of its run, or when that is dropped.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::telemetry::scope::inherit;

/// The time that tasks get to be dropped: one that blocks its thread cannot be.
const END_LIMIT: Duration = Duration::from_secs(1);

/// Tracks tasks, and drops them when the worker ends.
#[derive(Clone, Debug, Default)]
pub struct Lifetime {
    ended: CancellationToken,
    tasks: TaskTracker,
}

impl Lifetime {
    /// A future for a task that ends with the worker; its output is then `None`.
    pub(crate) fn bind<F: Future>(&self, future: F) -> impl Future<Output = Option<F::Output>> + use<F> {
        // Boxed, as the wrappers would hold it several times over.
        let (ended, future) = (self.ended.clone(), Box::pin(inherit(future)));
        self.tasks.track_future(async move { ended.run_until_cancelled_owned(future).await })
    }

    /// Ends the tasks when the guard is dropped, without waiting for them.
    pub fn end_on_drop(&self) -> DropGuard {
        self.ended.clone().drop_guard()
    }

    /// Waits for the end.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Ends the tasks. Returns once they are dropped, but for those that block their threads.
    pub async fn end(&self) {
        self.ended.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(END_LIMIT, self.tasks.wait()).await;
    }
}
