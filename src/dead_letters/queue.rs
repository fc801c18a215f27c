//! The interface between a worker and the place that keeps its dead letters.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;

use super::letter::DeadLetter;
use crate::aws::TableError;

/// The future of a call to a [`DeadLetterQueue`].
pub type QueueFuture<'a, E = Box<dyn Error + Send + Sync>> = Pin<Box<dyn Future<Output = Result<(), E>> + Send + 'a>>;

/// Keeps dead letters.
///
/// ```
/// use shardkeeper::{DeadLetter, DeadLetterQueue, FailurePolicy, OnFailure, QueueFuture};
///
/// /// Prints letters, and so keeps them only as long as the log.
/// struct Printer;
///
/// impl DeadLetterQueue for Printer {
///     fn put<'a>(&'a self, letter: &'a DeadLetter) -> QueueFuture<'a> {
///         Box::pin(async move {
///             eprintln!("{letter:?}");
///             Ok(())
///         })
///     }
/// }
///
/// let mut policy = FailurePolicy::default();
/// policy.on_failure = OnFailure::dead_letter(Printer);
/// policy.attempts = Some(5);
/// # drop(policy);
/// ```
pub trait DeadLetterQueue: Send + Sync + 'static {
    /// Checks that letters can be kept, before the worker reads anything. With `create`, makes what is missing.
    ///
    /// # Errors
    /// [`PrepareError`]. The worker retries one that is transient, up to its limit for starting; any other ends it.
    fn prepare(&self, create: bool) -> QueueFuture<'_, PrepareError> {
        let _ = create;
        Box::pin(async { Ok(()) })
    }

    /// Keeps a letter. When this returns, the letter is durable; put again, it is still one letter.
    ///
    /// # Errors
    /// Any. The worker waits and puts the letter again; until that succeeds, its record stays unacknowledged.
    fn put<'a>(&'a self, letter: &'a DeadLetter) -> QueueFuture<'a>;
}

/// A [`DeadLetterQueue`] that cannot keep letters.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// A DynamoDB table is missing, refused a call or did not answer; only the last of these is transient.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Any other cause; not transient.
    #[error(transparent)]
    Other(Box<dyn Error + Send + Sync>),
}
