//! The demonstration's own record of what was written, and what it says of what was delivered.
//!
//! Each phone carries a version, and every write raises it by one and makes one record in the stream. The writer enters
//! what it writes before it writes it, so that no record can arrive that the ledger doesn't know. Order is judged on
//! first deliveries: a version that comes after a later one of the same phone is out of order, and one that had come
//! before is delivered twice, which at-least-once delivery allows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::phone::{Event, PhoneKey};

/// What was written and what has arrived of it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    phones: BTreeMap<PhoneKey, Phone>,
    verdict: Verdict,
}

/// The records of one phone.
#[derive(Debug, Default)]
struct Phone {
    /// The version of the last write.
    written: u64,
    /// The highest version that has arrived.
    arrived: u64,
    /// What was written and has not arrived, by version.
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    event: Event,
    since: Instant,
}

/// What an arriving record was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The first delivery, in order, this long after it was written.
    InOrder(Duration),
    /// The first delivery, after that of a later record of the same phone.
    OutOfOrder(Duration),
    /// It had arrived before.
    Again,
    /// Nobody wrote it.
    NeverWritten,
}

/// How it went, in numbers of records.
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
    /// Deliveries of what was never written, or not so.
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

impl Ledger {
    /// Enters what is about to be written, and tells the version that it is to carry.
    pub fn write(&self, key: &PhoneKey, event: Event) -> u64 {
        let mut entries = self.entries();
        entries.verdict.written += 1;
        let phone = entries.phones.entry(key.clone()).or_default();
        phone.written += 1;
        phone.waiting.insert(phone.written, Waiting { event, since: Instant::now() });
        phone.written
    }

    /// Enters a record that a worker delivered.
    pub fn deliver(&self, key: &PhoneKey, event: Event, version: u64) -> Arrival {
        let mut entries = self.entries();
        let Entries { phones, verdict } = &mut *entries;
        let arrival = phones.get_mut(key).map_or(Arrival::NeverWritten, |phone| phone.deliver(event, version));
        match arrival {
            Arrival::InOrder(_) => verdict.delivered += 1,
            Arrival::OutOfOrder(_) => {
                verdict.delivered += 1;
                verdict.out_of_order += 1;
            }
            Arrival::Again => verdict.twice += 1,
            Arrival::NeverWritten => verdict.never_written += 1,
        }
        arrival
    }

    /// Whether this record's first delivery would come before that of an earlier record of the same phone.
    pub fn would_skip(&self, key: &PhoneKey, version: u64) -> bool {
        let entries = self.entries();
        entries.phones.get(key).is_some_and(|phone| phone.waiting.range(..version).next().is_some())
    }

    /// How it stands.
    pub fn verdict(&self) -> Verdict {
        self.entries().verdict
    }

    /// For how long the record has been waiting that waits longest.
    pub fn longest_wait(&self) -> Option<Duration> {
        let entries = self.entries();
        let first = |phone: &Phone| phone.waiting.first_key_value().map(|(_, waiting)| waiting.since);
        entries.phones.values().filter_map(first).min().map(|since| since.elapsed())
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Phone {
    fn deliver(&mut self, event: Event, version: u64) -> Arrival {
        let Some(waiting) = self.waiting.get(&version) else {
            let is_known = (1..=self.written).contains(&version);
            return if is_known { Arrival::Again } else { Arrival::NeverWritten };
        };
        if waiting.event != event {
            return Arrival::NeverWritten;
        }
        let delay = waiting.since.elapsed();
        self.waiting.remove(&version);
        if version < self.arrived {
            return Arrival::OutOfOrder(delay);
        }
        self.arrived = version;
        Arrival::InOrder(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ledger with `writes` records of one phone.
    fn ledger(writes: u64) -> (Ledger, PhoneKey) {
        let (ledger, key) = (Ledger::default(), PhoneKey::new("Nokia", "3310"));
        for version in 1..=writes {
            assert_eq!(ledger.write(&key, Event::Modify), version);
        }
        (ledger, key)
    }

    fn deliver(ledger: &Ledger, key: &PhoneKey, versions: &[u64]) -> Verdict {
        for version in versions {
            ledger.deliver(key, Event::Modify, *version);
        }
        ledger.verdict()
    }

    #[test]
    fn everything_once_and_in_order_is_good() {
        let (ledger, key) = ledger(3);
        let verdict = deliver(&ledger, &key, &[1, 2, 3]);
        assert_eq!(verdict, Verdict { written: 3, delivered: 3, ..Verdict::default() });
        assert!(verdict.is_good());
    }

    #[test]
    fn a_record_that_never_arrives_is_missing_and_puts_none_out_of_order() {
        let (ledger, key) = ledger(3);
        let verdict = deliver(&ledger, &key, &[1, 3]);
        assert_eq!((verdict.missing(), verdict.out_of_order), (1, 0));
        assert!(!verdict.is_good());
    }

    #[test]
    fn a_record_after_a_later_one_is_out_of_order() {
        let (ledger, key) = ledger(4);
        let verdict = deliver(&ledger, &key, &[1, 4, 2, 3]);
        assert_eq!((verdict.missing(), verdict.out_of_order), (0, 2));
        assert!(!verdict.is_good());
    }

    #[test]
    fn what_comes_again_counts_as_twice_and_does_no_harm_also_from_the_middle() {
        let (ledger, key) = ledger(4);
        let verdict = deliver(&ledger, &key, &[1, 2, 3, 2, 3, 4]);
        assert_eq!(verdict, Verdict { written: 4, delivered: 4, twice: 2, ..Verdict::default() });
        assert!(verdict.is_good());
    }

    #[test]
    fn order_is_judged_for_each_phone_by_itself() {
        let (ledger, first) = ledger(2);
        let second = PhoneKey::new("Nokia", "8110");
        ledger.write(&second, Event::Modify);
        deliver(&ledger, &first, &[1, 2]);
        assert!(deliver(&ledger, &second, &[1]).is_good());
    }

    #[test]
    fn what_nobody_wrote_is_found() {
        let (ledger, key) = ledger(1);
        assert_eq!(ledger.deliver(&key, Event::Modify, 2), Arrival::NeverWritten);
        assert_eq!(ledger.deliver(&key, Event::Remove, 1), Arrival::NeverWritten);
        assert_eq!(ledger.deliver(&PhoneKey::new("Nobody", "None"), Event::Modify, 1), Arrival::NeverWritten);
        let verdict = deliver(&ledger, &key, &[1]);
        assert_eq!((verdict.missing(), verdict.never_written), (0, 3));
        assert!(!verdict.is_good());
    }
}
