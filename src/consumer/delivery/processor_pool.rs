//! The processors of one shard: made when they are first needed, as many as work at once.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::limit::{Limit, Permit};
use super::super::processor::BoxError;

/// The idle processors of a shard, and a limit on all.
pub(super) struct ProcessorPool<P> {
    idle: Mutex<Vec<PooledProcessor<P>>>,
    limit: Arc<Limit>,
}

/// A processor that is made once and used for many batches.
pub(super) struct PooledProcessor<P> {
    /// `None` until it is made.
    pub(super) processor: Option<P>,
    pub(super) is_initialized: bool,
}

/// A processor at work. It returns to the pool when this is dropped.
pub(super) struct ProcessorGuard<P> {
    processor: Option<PooledProcessor<P>>,
    pool: Arc<ProcessorPool<P>>,
    // Declared last, so that it is released after the processor has returned.
    permit: Permit,
}

impl<P> ProcessorPool<P> {
    /// A pool of at most `limit` processors, at least one.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), limit: Limit::new(limit) })
    }

    /// Changes the number of processors that may work at once.
    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.set(limit);
    }

    /// The number of processors that may begin to work now.
    pub(super) fn free(&self) -> usize {
        self.limit.free()
    }

    /// Takes a processor if one is free and nobody waits for it.
    pub(super) fn try_take(self: &Arc<Self>) -> Option<ProcessorGuard<P>> {
        Some(self.take_with(self.limit.try_acquire()?))
    }

    /// Takes all processors that were made, if none is at work.
    pub(super) fn try_take_all(self: &Arc<Self>, limit: usize) -> Option<Vec<ProcessorGuard<P>>> {
        let made = self.idle.lock().unwrap_or_else(PoisonError::into_inner).len();
        if made == 0 || self.free() < limit {
            return None;
        }
        (0..made).map(|_| self.try_take()).collect()
    }

    /// Waits for a processor, in the order of the calls.
    pub(super) async fn take(self: &Arc<Self>) -> ProcessorGuard<P> {
        self.take_with(self.limit.acquire().await)
    }

    /// Takes a processor beyond the limit, with the permit of another one.
    pub(super) fn take_with(self: &Arc<Self>, permit: Permit) -> ProcessorGuard<P> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let processor = idle.unwrap_or_else(|| PooledProcessor { processor: None, is_initialized: false });
        ProcessorGuard { processor: Some(processor), pool: Arc::clone(self), permit }
    }

    /// Waits until a processor is free, without taking it.
    pub(super) async fn freed(&self) {
        drop(self.limit.acquire().await);
    }

    /// Removes all idle processors, for the end of their lives.
    pub(super) fn take_all(&self) -> Vec<PooledProcessor<P>> {
        std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn put_back(&self, processors: impl IntoIterator<Item = PooledProcessor<P>>) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(processors);
    }
}

impl<P> ProcessorGuard<P> {
    pub(super) fn get(&mut self) -> &mut PooledProcessor<P> {
        self.parts().0
    }

    /// The processor, and the permit that it works with.
    pub(super) fn parts(&mut self) -> (&mut PooledProcessor<P>, &mut Permit) {
        (self.processor.as_mut().expect("the processor is there until the drop"), &mut self.permit)
    }
}

impl<P> Drop for ProcessorGuard<P> {
    fn drop(&mut self) {
        self.pool.put_back(self.processor.take());
    }
}

/// Turns a panic of a processor into an error, so that only its records wait.
pub(in crate::consumer) async fn catch_panic<E: From<BoxError>>(
    call: impl Future<Output = Result<(), E>>,
) -> Result<(), E> {
    let mut call = Box::pin(call);
    let polled = std::future::poll_fn(|context| {
        match std::panic::catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => std::task::Poll::Ready(Err(panic)),
        }
    });
    match polled.await {
        Ok(outcome) => outcome,
        Err(panic) => {
            let message = panic.downcast_ref::<&str>().map(ToString::to_string);
            let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
            let message = message.unwrap_or_else(|| "no message".into());
            Err(BoxError::from(format!("the processor panicked: {message}")).into())
        }
    }
}
