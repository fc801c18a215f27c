//! The limits that all shards of a worker share: bytes of records in memory, and GetRecords calls in flight.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit of the byte budget: on some platforms a semaphore counts only to some hundred million.
const UNIT_BYTES: u64 = 1024;
/// The bytes reserved for a page of unknown size: the service's limit (API reference, GetRecords).
pub const PAGE_BYTES: u64 = 1024 * 1024;

/// A worker's budget of bytes and calls.
#[derive(Clone, Debug)]
pub struct Budget {
    bytes: Arc<Semaphore>,
    units: u32,
    calls: Arc<Semaphore>,
}

/// Bytes of the budget, which return to it when this is dropped.
#[derive(Debug)]
pub struct Reservation(OwnedSemaphorePermit);

impl Budget {
    /// A budget of `bytes` (at least a page) and `calls` in flight.
    pub fn new(bytes: u64, calls: usize) -> Self {
        let units = u32::try_from(bytes.max(PAGE_BYTES) / UNIT_BYTES).unwrap_or(u32::MAX);
        let units = units.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Self { bytes: Arc::new(Semaphore::new(units as usize)), units, calls: Arc::new(Semaphore::new(calls)) }
    }

    /// Waits until `bytes` are free, in the order of the calls, and takes them.
    pub async fn reserve(&self, bytes: u64) -> Reservation {
        let permit = Arc::clone(&self.bytes).acquire_many_owned(self.units_for(bytes)).await;
        Reservation(permit.unwrap_or_else(|_| unreachable!("the semaphore is never closed")))
    }

    /// Waits until a call may start. It counts until the permit is dropped.
    pub async fn call(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.calls).acquire_owned().await;
        permit.unwrap_or_else(|_| unreachable!("the semaphore is never closed"))
    }

    /// The bytes reserved now.
    pub fn held_bytes(&self) -> u64 {
        (u64::from(self.units) - self.bytes.available_permits() as u64) * UNIT_BYTES
    }

    /// The size of the budget.
    pub fn limit_bytes(&self) -> u64 {
        u64::from(self.units) * UNIT_BYTES
    }

    /// Resizes a reservation to `bytes`. A growth that is not free is left uncounted: the page is in memory already.
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

    /// The units for `bytes`; at most the whole budget, so that a single large page can always be read.
    fn units_for(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reservation_returns_to_the_budget_in_parts_and_whole() {
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
    async fn a_full_budget_delays_the_next_page_and_a_page_above_the_budget_still_fits() {
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
