//! The processors of one shard: as many as work at once, made when they are first needed.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::processor::BoxError;

/// See the file's head.
pub(super) struct ProcessorPool<P> {
    idle: Mutex<Vec<PooledProcessor<P>>>,
    permits: Arc<Semaphore>,
}

/// A processor, and whether it is ready for records.
pub(super) struct PooledProcessor<P> {
    pub(super) processor: P,
    pub(super) is_initialized: bool,
}

/// A processor that is at work. It goes back to the others when this is dropped.
pub(super) struct ProcessorGuard<P> {
    slot: Option<PooledProcessor<P>>,
    slots: Arc<ProcessorPool<P>>,
    /// Given back after the processor.
    _permit: OwnedSemaphorePermit,
}

impl<P> ProcessorPool<P> {
    /// At most `limit` processors, at least one.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), permits: Arc::new(Semaphore::new(limit.max(1))) })
    }

    /// How many are free.
    pub(super) fn free(&self) -> usize {
        self.permits.available_permits()
    }

    /// Takes one, if one is free and nobody waits for it; made by `make` when all there are are at work.
    pub(super) fn try_take(self: &Arc<Self>, make: impl FnOnce() -> P) -> Option<ProcessorGuard<P>> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        Some(self.hand(permit, make))
    }

    /// Waits for one, in the order of asking.
    pub(super) async fn take(self: &Arc<Self>, make: impl FnOnce() -> P) -> ProcessorGuard<P> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        self.hand(permit.unwrap_or_else(|_| unreachable!("the semaphore is never closed")), make)
    }

    /// Waits until one is free, and leaves it so.
    pub(super) async fn freed(&self) {
        let _ = self.permits.acquire().await;
    }

    /// Takes all out that are not at work, for the end of their lives.
    pub(super) fn take_all(&self) -> Vec<PooledProcessor<P>> {
        std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts back what was taken out.
    pub(super) fn put_back(&self, slots: impl IntoIterator<Item = PooledProcessor<P>>) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(slots);
    }

    fn hand(self: &Arc<Self>, permit: OwnedSemaphorePermit, make: impl FnOnce() -> P) -> ProcessorGuard<P> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let slot = idle.unwrap_or_else(|| PooledProcessor { processor: make(), is_initialized: false });
        ProcessorGuard { slot: Some(slot), slots: Arc::clone(self), _permit: permit }
    }
}

impl<P> ProcessorGuard<P> {
    pub(super) fn slot(&mut self) -> &mut PooledProcessor<P> {
        self.slot.as_mut().expect("the processor is there until the drop")
    }
}

impl<P> Drop for ProcessorGuard<P> {
    fn drop(&mut self) {
        self.slots.put_back(self.slot.take());
    }
}

/// Turns a panic of a processor into an error, so that its records alone wait.
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
            let words = panic.downcast_ref::<&str>().map(ToString::to_string);
            let words = words.or_else(|| panic.downcast_ref::<String>().cloned());
            let words = words.unwrap_or_else(|| "no message".into());
            Err(BoxError::from(format!("the processor panicked: {words}")).into())
        }
    }
}
