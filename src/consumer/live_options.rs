//! The options of a worker that may change while it runs.
//!
//! A reload replaces the whole [`WorkerOptions`], but only with others in the fields of [`LiveOptions::update`]. What
//! reads one of those fields asks [`LiveOptions::now`] each time: a batch task before an attempt and after a failure,
//! a delivery between two pages. All other fields may be read from the options that the worker began with.

use std::sync::Arc;

use tokio::sync::watch;

use super::limit::Limit;
#[cfg(feature = "cli")]
use crate::model::filter;
use crate::model::filter::Layout;
#[cfg(feature = "cli")]
use crate::options::OptionsError;
use crate::options::WorkerOptions;

/// A worker's options, for all parts of it.
#[derive(Clone, Debug)]
pub struct LiveOptions {
    options: watch::Sender<Arc<WorkerOptions>>,
    /// The stream that is read, which filters must suit.
    stream: watch::Sender<Option<(String, Layout)>>,
    /// Limits the processor calls of all shards together.
    calls: Arc<Limit>,
    /// Limits those that hang, and those with records whose calls hung before, which do not count among the others.
    hung_calls: Arc<Limit>,
}

/// The reason that new options are refused.
#[cfg(feature = "cli")]
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpdateError {
    #[error(transparent)]
    Options(#[from] OptionsError),
    #[error(transparent)]
    Filter(#[from] filter::Error),
}

impl LiveOptions {
    /// The options that a worker begins with.
    pub fn new(options: Arc<WorkerOptions>) -> Self {
        let limit = || Limit::new(options.concurrency.unwrap_or(usize::MAX));
        let (calls, hung_calls) = (limit(), limit());
        Self { options: watch::Sender::new(options), stream: watch::Sender::new(None), calls, hung_calls }
    }

    /// The options that count now.
    pub fn now(&self) -> Arc<WorkerOptions> {
        Arc::clone(&self.options.borrow())
    }

    /// Receives the options whenever they change.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<WorkerOptions>> {
        self.options.subscribe()
    }

    pub(super) fn calls(&self) -> &Arc<Limit> {
        &self.calls
    }

    pub(super) fn hung_calls(&self) -> &Arc<Limit> {
        &self.hung_calls
    }

    /// Notes the stream that the worker reads from now on.
    pub(crate) fn set_stream(&self, arn: &str, layout: Layout) {
        self.stream.send_replace(Some((arn.to_owned(), layout)));
    }

    /// Waits until the worker has found its stream.
    #[cfg(feature = "cli")]
    pub(crate) async fn started(&self) {
        // The sender lives as long as this value.
        let _ = self.stream.subscribe().wait_for(Option::is_some).await;
    }

    /// Replaces filters, batches, concurrency and the failure policy by those of `wanted`. All further pages, batches
    /// and attempts follow them.
    ///
    /// # Errors
    /// When they make no sense together, or on this stream. Nothing has changed then.
    #[cfg(feature = "cli")]
    pub(crate) fn update(&self, wanted: &WorkerOptions) -> Result<(), UpdateError> {
        let options = WorkerOptions {
            filters: wanted.filters.clone(),
            batch_size: wanted.batch_size,
            batch_bytes: wanted.batch_bytes,
            batch_window: wanted.batch_window,
            concurrency: wanted.concurrency,
            shard_concurrency: wanted.shard_concurrency,
            failure: wanted.failure.clone(),
            ..WorkerOptions::clone(&self.now())
        };
        options.validate()?;
        if let Some((arn, layout)) = &*self.stream.borrow() {
            options.filters.clone().for_stream(arn).check_for(layout)?;
        }
        for limit in [&self.calls, &self.hung_calls] {
            limit.set(options.concurrency.unwrap_or(usize::MAX));
        }
        self.options.send_replace(Arc::new(options));
        Ok(())
    }
}
