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
    shared: Pool,
    /// A quarter, for shards that hold nothing: shards that wait for their processors cannot take all of it.
    first_pages: Pool,
    calls: Arc<Semaphore>,
}

/// A part of the budget.
#[derive(Clone, Debug)]
struct Pool {
    free: Arc<Semaphore>,
    units: u32,
}

/// The pages that one shard holds.
#[derive(Clone, Debug, Default)]
pub struct HeldPages(Arc<()>);

/// Bytes of the budget, which return to it when this is dropped.
#[derive(Debug)]
pub struct Reservation {
    permit: OwnedSemaphorePermit,
    _held: HeldPages,
}

impl Pool {
    fn new(units: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Takes `units`, or all if the pool has less, so that a single large page can always be read.
    async fn take(&self, units: u32) -> OwnedSemaphorePermit {
        if self.units == 0 {
            std::future::pending().await
        }
        let permit = Arc::clone(&self.free).acquire_many_owned(units.min(self.units)).await;
        permit.unwrap_or_else(|_| unreachable!("the semaphore is never closed"))
    }

    fn held(&self) -> u64 {
        u64::from(self.units) - self.free.available_permits() as u64
    }
}

impl Budget {
    /// A budget of `bytes` (at least a page) and `calls` in flight.
    pub fn new(bytes: u64, calls: usize) -> Self {
        let units = u32::try_from(bytes.max(PAGE_BYTES) / UNIT_BYTES).unwrap_or(u32::MAX);
        let units = units.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        let page_units = units_for(PAGE_BYTES);
        let first_pages = units / 4 / page_units * page_units;
        Self {
            shared: Pool::new(units - first_pages),
            first_pages: Pool::new(first_pages),
            calls: Arc::new(Semaphore::new(calls)),
        }
    }

    /// Waits until `bytes` are free, in the order of the calls, and takes them.
    pub async fn reserve(&self, bytes: u64, held: &HeldPages) -> Reservation {
        let units = units_for(bytes);
        let holds_nothing = Arc::strong_count(&held.0) == 1;
        let permit = tokio::select! {
            biased;
            permit = self.shared.take(units) => permit,
            permit = self.first_pages.take(units), if holds_nothing => permit,
        };
        Reservation { permit, _held: held.clone() }
    }

    /// Waits until a call may start. It counts until the permit is dropped.
    pub async fn call(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.calls).acquire_owned().await;
        permit.unwrap_or_else(|_| unreachable!("the semaphore is never closed"))
    }

    /// The bytes reserved now.
    pub fn held_bytes(&self) -> u64 {
        (self.shared.held() + self.first_pages.held()) * UNIT_BYTES
    }

    /// The size of the budget.
    pub fn limit_bytes(&self) -> u64 {
        (u64::from(self.shared.units) + u64::from(self.first_pages.units)) * UNIT_BYTES
    }

    /// Resizes a reservation to `bytes`. A growth that is not free is left uncounted: the page is in memory already.
    pub fn settle(reservation: &mut Reservation, bytes: u64) {
        let permit = &mut reservation.permit;
        let (have, need) = (permit.num_permits(), units_for(bytes) as usize);
        if need < have {
            drop(permit.split(have - need));
        } else if let Ok(more) =
            Arc::clone(permit.semaphore()).try_acquire_many_owned(u32::try_from(need - have).unwrap_or(u32::MAX))
        {
            permit.merge(more);
        }
    }
}

fn units_for(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reservation_returns_to_the_budget_in_parts_and_whole() {
        let budget = Budget::new(4 * PAGE_BYTES, 1);
        let mut reservation = budget.reserve(PAGE_BYTES, &HeldPages::default()).await;
        assert_eq!(budget.held_bytes(), PAGE_BYTES);
        Budget::settle(&mut reservation, 10 * UNIT_BYTES);
        assert_eq!(budget.held_bytes(), 10 * UNIT_BYTES);
        Budget::settle(&mut reservation, 2 * PAGE_BYTES);
        assert_eq!(budget.held_bytes(), 2 * PAGE_BYTES);
        drop(reservation);
        assert_eq!(budget.held_bytes(), 0);
    }

    #[tokio::test]
    async fn a_full_budget_delays_the_next_page_and_a_page_above_the_budget_still_fits() {
        let budget = Budget::new(PAGE_BYTES, 1);
        let (one, other) = (HeldPages::default(), HeldPages::default());
        let first = budget.reserve(100 * PAGE_BYTES, &one).await;
        let mut second = Box::pin(budget.reserve(UNIT_BYTES, &other));
        assert!(futures_ready(&mut second).await.is_none());
        drop(first);
        assert!(futures_ready(&mut second).await.is_some());
    }

    #[tokio::test]
    async fn a_shard_that_holds_nothing_gets_a_page_when_others_hold_all_that_they_may() {
        let budget = Budget::new(8 * PAGE_BYTES, 1);
        let (greedy, modest) = (HeldPages::default(), HeldPages::default());
        let mut pages = Vec::new();
        while let Some(page) = futures_ready(&mut Box::pin(budget.reserve(PAGE_BYTES, &greedy))).await {
            pages.push(page);
        }
        assert_eq!(pages.len(), 6);
        let first = futures_ready(&mut Box::pin(budget.reserve(PAGE_BYTES, &modest))).await;
        assert!(first.is_some());
        assert!(futures_ready(&mut Box::pin(budget.reserve(PAGE_BYTES, &modest))).await.is_none(), "one for each");
        assert_eq!(budget.held_bytes(), 7 * PAGE_BYTES);
    }

    async fn futures_ready<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = std::future::ready(()) => None,
        }
    }
}
