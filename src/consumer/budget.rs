//! The limits that all shards of a worker share: bytes of records in memory, GetRecords calls in flight, and shards whose
//! empty pages are read at full pace.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The unit of the byte budget: on some platforms a semaphore counts only to some hundred million.
const UNIT_BYTES: u64 = 1024;
/// The bytes reserved for a page of unknown size: the service's limit (API reference, GetRecords).
pub const PAGE_BYTES: u64 = 1024 * 1024;
/// The least pages for shards that hold nothing. With one alone, the little that a single waiting shard holds of it would
/// leave no room for another page.
const LEAST_FIRST_PAGES: u32 = 4;

/// The shards of a worker that read empty pages at full pace at once. Thousands would take all of its CPU.
const FULL_PACE_SHARDS: usize = 2;

/// A worker's budget of bytes and calls.
#[derive(Clone, Debug)]
pub struct Budget {
    shared: Pool,
    /// A quarter or more, for shards that hold nothing: shards that wait for their processors cannot take all of it.
    first_pages: Pool,
    calls: Arc<Semaphore>,
    full_pace: Arc<Semaphore>,
}

/// A part of the budget.
#[derive(Clone, Debug)]
struct Pool {
    free: Arc<Semaphore>,
    units: u32,
}

/// The number of pages that one shard holds.
#[derive(Clone, Debug, Default)]
pub struct HeldPages(watch::Sender<usize>);

/// Bytes of the budget, which return to it when this is dropped.
#[derive(Debug)]
pub struct Reservation {
    permit: OwnedSemaphorePermit,
    held: HeldPages,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.held.0.send_modify(|pages| *pages -= 1);
    }
}

impl Pool {
    fn new(units: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Takes `units`, or all if the pool has less, so that a single large page can always be read.
    async fn take(&self, units: u32) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.free).acquire_many_owned(units.min(self.units)).await;
        permit.unwrap_or_else(|_| unreachable!("the semaphore is never closed"))
    }

    fn held(&self) -> u64 {
        u64::from(self.units) - self.free.available_permits() as u64
    }
}

impl Budget {
    /// A budget of `bytes` (at least five pages) and `calls` in flight.
    pub fn new(bytes: u64, calls: usize) -> Self {
        let units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX);
        let units = units.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        let page_units = units_for(PAGE_BYTES);
        let first_pages = (units / 4 / page_units).max(LEAST_FIRST_PAGES) * page_units;
        Self {
            shared: Pool::new(units.saturating_sub(first_pages).max(page_units)),
            first_pages: Pool::new(first_pages),
            calls: Arc::new(Semaphore::new(calls)),
            full_pace: Arc::new(Semaphore::new(FULL_PACE_SHARDS)),
        }
    }

    /// Waits until `bytes` are free, in the order of the calls, and takes them.
    pub async fn reserve(&self, bytes: u64, held: &HeldPages) -> Reservation {
        let units = units_for(bytes);
        let mut pages = held.0.subscribe();
        let first_page = async {
            // The shard may come to hold nothing while it waits.
            let _ = pages.wait_for(|pages| *pages == 0).await.map(drop);
            self.first_pages.take(units).await
        };
        let permit = tokio::select! {
            biased;
            permit = self.shared.take(units) => permit,
            permit = first_page => permit,
        };
        held.0.send_modify(|pages| *pages += 1);
        Reservation { permit, held: held.clone() }
    }

    /// Waits until a call may start. It counts until the permit is dropped.
    pub async fn call(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.calls).acquire_owned().await;
        permit.unwrap_or_else(|_| unreachable!("the semaphore is never closed"))
    }

    /// A turn to read empty pages at full pace, if one is free. It lasts until it is dropped.
    pub fn full_pace(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.full_pace).try_acquire_owned().ok()
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
        let budget = Budget::new(8 * PAGE_BYTES, 1);
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
        let shard = HeldPages::default();
        let first = budget.reserve(100 * PAGE_BYTES, &shard).await;
        let mut second = Box::pin(budget.reserve(UNIT_BYTES, &shard));
        assert!(futures_ready(&mut second).await.is_none());
        drop(first);
        assert!(futures_ready(&mut second).await.is_some());
    }

    #[tokio::test]
    async fn shards_that_hold_nothing_get_a_page_when_others_hold_all_that_they_may() {
        let budget = Budget::new(8 * PAGE_BYTES, 1);
        let greedy = HeldPages::default();
        let mut pages = Vec::new();
        while let Some(page) = futures_ready(&mut Box::pin(budget.reserve(PAGE_BYTES, &greedy))).await {
            pages.push(page);
        }
        assert_eq!(pages.len(), 4);
        // Each keeps a little of its page, and nothing more is to be had for it.
        let mut waiting = Vec::new();
        for _ in 0..100 {
            let modest = HeldPages::default();
            let mut page = futures_ready(&mut Box::pin(budget.reserve(PAGE_BYTES, &modest))).await.expect("a page");
            Budget::settle(&mut page, 10 * UNIT_BYTES);
            let mut second = Box::pin(budget.reserve(PAGE_BYTES, &modest));
            assert!(futures_ready(&mut second).await.is_none(), "one for each");
            drop(page);
            let mut page = futures_ready(&mut second).await.expect("a page, once it holds nothing");
            Budget::settle(&mut page, 10 * UNIT_BYTES);
            waiting.push(page);
        }
        assert_eq!(budget.held_bytes(), 4 * PAGE_BYTES + 1_000 * UNIT_BYTES);
    }

    async fn futures_ready<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = std::future::ready(()) => None,
        }
    }
}
