//! The comparison of the records that were written with those that were delivered.
//!
//! Each phone carries a version, which every write raises by one, and every write makes one record in the stream. The
//! writer registers a write before making it, so that no unregistered record can arrive. Order is checked on first
//! deliveries: a version that arrives after a later one of the same phone is out of order, and one that has arrived
//! before is delivered twice, which at-least-once delivery allows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::phone::{Event, PhoneKey};

/// Compares deliveries with writes. Clones share their state.
#[derive(Clone, Debug, Default)]
pub struct DeliveryChecker(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    phones: BTreeMap<PhoneKey, Phone>,
    verdict: Verdict,
}

/// The records of one phone.
#[derive(Debug, Default)]
struct Phone {
    /// The last version written.
    written: u64,
    /// The highest version delivered.
    delivered: u64,
    /// Writes that are not delivered yet, by version.
    pending: BTreeMap<u64, Pending>,
}

#[derive(Debug)]
struct Pending {
    event: Event,
    since: Instant,
}

/// The result of checking one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The first delivery, in order, this long after it was written.
    InOrder(Duration),
    /// The first delivery, after that of a later record of the same phone.
    OutOfOrder(Duration),
    /// A repeated delivery.
    Repeated,
    /// A record that nobody wrote.
    NeverWritten,
}

/// The result of the demonstration, in numbers of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Written.
    pub written: u64,
    /// Delivered, each counted once.
    pub delivered: u64,
    /// First delivered after a later record of the same phone.
    pub out_of_order: u64,
    /// Deliveries beyond the first of a record.
    pub twice: u64,
    /// Deliveries of records that were never written, or written differently.
    pub never_written: u64,
}

impl Verdict {
    /// Written and not delivered.
    pub fn missing(&self) -> u64 {
        self.written - self.delivered
    }

    /// Whether everything arrived, in order, and nothing else did.
    pub fn is_good(&self) -> bool {
        self.missing() == 0 && self.out_of_order == 0 && self.never_written == 0
    }
}

impl DeliveryChecker {
    /// Registers a write that is about to be made, and returns its version.
    pub fn write(&self, key: &PhoneKey, event: Event) -> u64 {
        let mut state = self.state();
        state.verdict.written += 1;
        let phone = state.phones.entry(key.clone()).or_default();
        phone.written += 1;
        phone.pending.insert(phone.written, Pending { event, since: Instant::now() });
        phone.written
    }

    /// Checks a delivered record.
    pub fn deliver(&self, key: &PhoneKey, event: Event, version: u64) -> Check {
        let mut state = self.state();
        let State { phones, verdict } = &mut *state;
        let check = phones.get_mut(key).map_or(Check::NeverWritten, |phone| phone.deliver(event, version));
        match check {
            Check::InOrder(_) => verdict.delivered += 1,
            Check::OutOfOrder(_) => {
                verdict.delivered += 1;
                verdict.out_of_order += 1;
            }
            Check::Repeated => verdict.twice += 1,
            Check::NeverWritten => verdict.never_written += 1,
        }
        check
    }

    /// Whether this record's first delivery would come before that of an earlier record of the same phone.
    pub fn would_skip(&self, key: &PhoneKey, version: u64) -> bool {
        let state = self.state();
        state.phones.get(key).is_some_and(|phone| phone.pending.range(..version).next().is_some())
    }

    /// The result so far.
    pub fn verdict(&self) -> Verdict {
        self.state().verdict
    }

    /// The age of the oldest write that is not delivered.
    pub fn longest_wait(&self) -> Option<Duration> {
        let state = self.state();
        let first = |phone: &Phone| phone.pending.first_key_value().map(|(_, pending)| pending.since);
        state.phones.values().filter_map(first).min().map(|since| since.elapsed())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Phone {
    fn deliver(&mut self, event: Event, version: u64) -> Check {
        let Some(pending) = self.pending.get(&version) else {
            let is_known = (1..=self.written).contains(&version);
            return if is_known { Check::Repeated } else { Check::NeverWritten };
        };
        if pending.event != event {
            return Check::NeverWritten;
        }
        let delay = pending.since.elapsed();
        self.pending.remove(&version);
        if version < self.delivered {
            return Check::OutOfOrder(delay);
        }
        self.delivered = version;
        Check::InOrder(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A checker with `writes` registered writes of one phone.
    fn checker(writes: u64) -> (DeliveryChecker, PhoneKey) {
        let (checker, key) = (DeliveryChecker::default(), PhoneKey::new("Nokia", "3310"));
        for version in 1..=writes {
            assert_eq!(checker.write(&key, Event::Modify), version);
        }
        (checker, key)
    }

    fn deliver(checker: &DeliveryChecker, key: &PhoneKey, versions: &[u64]) -> Verdict {
        for version in versions {
            checker.deliver(key, Event::Modify, *version);
        }
        checker.verdict()
    }

    #[test]
    fn everything_once_and_in_order_is_good() {
        let (checker, key) = checker(3);
        let verdict = deliver(&checker, &key, &[1, 2, 3]);
        assert_eq!(verdict, Verdict { written: 3, delivered: 3, ..Verdict::default() });
        assert!(verdict.is_good());
    }

    #[test]
    fn a_record_that_never_arrives_is_missing_and_puts_none_out_of_order() {
        let (checker, key) = checker(3);
        let verdict = deliver(&checker, &key, &[1, 3]);
        assert_eq!((verdict.missing(), verdict.out_of_order), (1, 0));
        assert!(!verdict.is_good());
    }

    #[test]
    fn a_record_after_a_later_one_is_out_of_order() {
        let (checker, key) = checker(4);
        let verdict = deliver(&checker, &key, &[1, 4, 2, 3]);
        assert_eq!((verdict.missing(), verdict.out_of_order), (0, 2));
        assert!(!verdict.is_good());
    }

    #[test]
    fn repeated_deliveries_count_as_twice_and_leave_the_order_good() {
        let (checker, key) = checker(4);
        let verdict = deliver(&checker, &key, &[1, 2, 3, 2, 3, 4]);
        assert_eq!(verdict, Verdict { written: 4, delivered: 4, twice: 2, ..Verdict::default() });
        assert!(verdict.is_good());
    }

    #[test]
    fn order_is_checked_for_each_phone_separately() {
        let (checker, first) = checker(2);
        let second = PhoneKey::new("Nokia", "8110");
        checker.write(&second, Event::Modify);
        deliver(&checker, &first, &[1, 2]);
        assert!(deliver(&checker, &second, &[1]).is_good());
    }

    #[test]
    fn a_record_that_nobody_wrote_is_found() {
        let (checker, key) = checker(1);
        assert_eq!(checker.deliver(&key, Event::Modify, 2), Check::NeverWritten);
        assert_eq!(checker.deliver(&key, Event::Remove, 1), Check::NeverWritten);
        assert_eq!(checker.deliver(&PhoneKey::new("Nobody", "None"), Event::Modify, 1), Check::NeverWritten);
        let verdict = deliver(&checker, &key, &[1]);
        assert_eq!((verdict.missing(), verdict.never_written), (0, 3));
        assert!(!verdict.is_good());
    }
}
