//! Limits that all shards of a worker share: bytes held, and calls under way.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit of the byte budget: a semaphore counts no further than four billion on all platforms.
const UNIT_BYTES: u64 = 1024;
/// What a page takes as long as its size is not known: the service's limit (GetRecords, 1 MB).
pub const PAGE_BYTES: u64 = 1024 * 1024;

/// The budget for records held in memory, and for calls under way.
#[derive(Clone, Debug)]
pub struct Budget {
    bytes: Arc<Semaphore>,
    units: u32,
    calls: Arc<Semaphore>,
}

/// Bytes taken out of the budget until this is dropped.
#[derive(Debug)]
pub struct Reservation(OwnedSemaphorePermit);

impl Budget {
    /// A budget of `bytes` (at least a page) and `calls` at once.
    pub fn new(bytes: u64, calls: usize) -> Self {
        let units = u32::try_from(bytes.max(PAGE_BYTES) / UNIT_BYTES).unwrap_or(u32::MAX);
        let units = units.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Self { bytes: Arc::new(Semaphore::new(units as usize)), units, calls: Arc::new(Semaphore::new(calls)) }
    }

    /// Waits until `bytes` are free, in the order of asking, and takes them.
    pub async fn reserve(&self, bytes: u64) -> Reservation {
        let permit = Arc::clone(&self.bytes).acquire_many_owned(self.units_for(bytes)).await;
        Reservation(permit.unwrap_or_else(|_| unreachable!("the semaphore is never closed")))
    }

    /// Waits until a call may start; it counts until the permit is dropped.
    pub async fn call(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.calls).acquire_owned().await;
        permit.unwrap_or_else(|_| unreachable!("the semaphore is never closed"))
    }

    /// Bytes taken now.
    pub fn held_bytes(&self) -> u64 {
        (u64::from(self.units) - self.bytes.available_permits() as u64) * UNIT_BYTES
    }

    /// The most bytes that may be taken.
    pub fn limit_bytes(&self) -> u64 {
        u64::from(self.units) * UNIT_BYTES
    }

    /// Gives back what of a reservation is beyond `bytes`. When more was needed than reserved, the difference is
    /// taken if it is free, and otherwise goes uncounted: the page is here already.
    pub fn settle(&self, reservation: &mut Reservation, bytes: u64) {
        let (have, need) = (reservation.0.num_permits(), self.units_for(bytes) as usize);
        if need < have {
            drop(reservation.0.split(have - need));
        } else if let Ok(more) =
            Arc::clone(&self.bytes).try_acquire_many_owned(u32::try_from(need - have).unwrap_or(u32::MAX))
        {
            reservation.0.merge(more);
        }
    }

    /// No more than the whole budget, so that a single large page can always be read.
    fn units_for(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_reserved_is_given_back_in_parts_and_whole() {
        let budget = Budget::new(4 * PAGE_BYTES, 1);
        let mut reservation = budget.reserve(PAGE_BYTES).await;
        assert_eq!(budget.held_bytes(), PAGE_BYTES);
        budget.settle(&mut reservation, 10 * UNIT_BYTES);
        assert_eq!(budget.held_bytes(), 10 * UNIT_BYTES);
        budget.settle(&mut reservation, 2 * PAGE_BYTES);
        assert_eq!(budget.held_bytes(), 2 * PAGE_BYTES);
        drop(reservation);
        assert_eq!(budget.held_bytes(), 0);
    }

    #[tokio::test]
    async fn a_full_budget_holds_the_next_page_up_and_a_page_above_the_budget_still_fits() {
        let budget = Budget::new(PAGE_BYTES, 1);
        let first = budget.reserve(100 * PAGE_BYTES).await;
        let mut second = Box::pin(budget.reserve(UNIT_BYTES));
        assert!(futures_ready(&mut second).await.is_none());
        drop(first);
        assert!(futures_ready(&mut second).await.is_some());
    }

    async fn futures_ready<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = std::future::ready(()) => None,
        }
    }
}
