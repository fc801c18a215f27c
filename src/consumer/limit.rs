//! A limit on what is under way at once, which may change meanwhile.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A limit. A lower one holds at once for what begins, and altogether when enough has ended.
#[derive(Debug)]
pub(super) struct Limit {
    permits: Arc<Semaphore>,
    count: Mutex<Count>,
}

#[derive(Debug)]
struct Count {
    most: usize,
    /// The permits beyond `most` that are in use.
    surplus: usize,
}

/// The right of one thing to be under way.
#[derive(Debug)]
pub(super) struct Permit {
    limit: Arc<Limit>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Limit {
    /// A limit of `most`, at least one.
    pub(super) fn new(most: usize) -> Arc<Self> {
        let most = within(most);
        let count = Mutex::new(Count { most, surplus: 0 });
        Arc::new(Self { permits: Arc::new(Semaphore::new(most)), count })
    }

    /// Changes the limit.
    pub(super) fn set(&self, most: usize) {
        let most = within(most);
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let more = most.saturating_sub(count.most);
        let fewer = count.most.saturating_sub(most);
        let kept = more.min(count.surplus);
        count.most = most;
        count.surplus = count.surplus - kept + fewer - self.permits.forget_permits(fewer);
        self.permits.add_permits(more - kept);
    }

    /// The number of things that may begin now.
    pub(super) fn free(&self) -> usize {
        self.permits.available_permits()
    }

    /// Takes a permit if one is free and nobody waits for it.
    pub(super) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        Some(Permit { limit: Arc::clone(self), permit: Some(permit) })
    }

    /// Waits for a permit, in the order of the calls.
    pub(super) async fn acquire(self: &Arc<Self>) -> Permit {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.unwrap_or_else(|_| unreachable!("the semaphore is never closed"));
        Permit { limit: Arc::clone(self), permit: Some(permit) }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut count = self.limit.count.lock().unwrap_or_else(PoisonError::into_inner);
        let permit = self.permit.take();
        if count.surplus > 0 {
            count.surplus -= 1;
            permit.into_iter().for_each(OwnedSemaphorePermit::forget);
        }
    }
}

fn within(most: usize) -> usize {
    most.clamp(1, Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(limit: &Arc<Limit>) -> Vec<Permit> {
        std::iter::from_fn(|| limit.try_acquire()).collect()
    }

    #[test]
    fn a_lower_limit_holds_for_what_begins_and_a_higher_one_at_once() {
        let limit = Limit::new(4);
        let mut permits = take_all(&limit);
        assert_eq!(permits.len(), 4);
        limit.set(2);
        permits.truncate(2);
        assert_eq!((limit.free(), take_all(&limit).len()), (0, 0));
        permits.truncate(1);
        assert_eq!(limit.free(), 1);
        limit.set(5);
        assert_eq!(limit.free(), 4);
        permits.extend(take_all(&limit));
        limit.set(1);
        limit.set(3);
        permits.truncate(2);
        assert_eq!(limit.free(), 1, "three of five, two of which are in use");
    }

    #[test]
    fn without_a_limit_a_later_one_counts_what_is_under_way() {
        let limit = Limit::new(usize::MAX);
        let mut permits: Vec<Permit> = (0..3).filter_map(|_| limit.try_acquire()).collect();
        limit.set(2);
        assert_eq!(limit.free(), 0);
        permits.clear();
        assert_eq!(limit.free(), 2);
        limit.set(usize::MAX);
        assert_eq!(limit.free(), Semaphore::MAX_PERMITS);
    }
}
