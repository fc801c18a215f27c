//! The events of this process: its last log lines that matter to an operator, each with a kind that programs can rely on.
//!
//! An event is a log line: [`layer`] hears all lines of the worker, whatever `--log` shows, and keeps every warning and
//! error, and the lines of [`KINDS`]. So no place in the worker reports twice, and an event's text is the line that the
//! log and docs/messages.md have.

pub mod layer;

use std::collections::VecDeque;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::watch;

/// The number of events that are kept.
pub const KEPT: usize = 1_000;
/// The most bytes kept of a text or of a field.
const MOST_BYTES: usize = 1_000;

/// The kinds of events, by how their log lines begin. Warnings and errors that are not listed have the kinds `warning`
/// and `error`.
pub const KINDS: &[(&str, &str)] = &[
    ("starting", "worker_starting"),
    ("leaving the fleet", "worker_leaving"),
    ("done", "worker_ended"),
    ("the worker ended with a failure", "worker_failed"),
    ("dead worker removed from the fleet", "worker_dead"),
    ("this worker was taken for dead and rejoins the fleet", "worker_rejoined"),
    ("heartbeat deadline missed", "heartbeat_missed"),
    ("this worker leads the fleet", "leader_elected"),
    ("this worker no longer leads the fleet", "leader_resigned"),
    ("making leases", "leases_created"),
    ("assigning a lease", "lease_assigned"),
    ("lease taken", "lease_taken"),
    ("lease lost", "lease_lost"),
    ("lease released", "lease_released"),
    ("handing a lease over", "hand_off_begun"),
    ("lease handed over", "hand_off_ended"),
    ("forcing a hand-off that hangs", "hand_off_forced"),
    ("shard finished", "shard_finished"),
    ("gap: ", "gap"),
    ("record keeps failing, shard blocked", "record_halted"),
    ("blocked record succeeded, shard resumed", "record_resumed"),
    ("record dead-lettered", "record_dead_lettered"),
    ("record skipped", "record_skipped"),
    ("writing a dead letter failed, retrying", "dead_letter_failed"),
    ("processor failed, retrying", "processor_failed"),
    ("processor unavailable, retrying", "processor_unavailable"),
    ("the processor hangs", "processor_hangs"),
    ("shard stalled: ", "shard_stalled"),
    ("shard moves again", "shard_resumed"),
    ("reading failed, retrying", "reading_failed"),
    ("reading recovered", "reading_recovered"),
    ("a call was refused, retrying", "call_refused"),
    ("every call on the table failed, retrying", "table_failing"),
    ("the table answers again", "table_recovered"),
    ("overload of the processors has changed", "overload_changed"),
];

/// The events of this process, like the log that they come from.
pub static EVENTS: LazyLock<EventLog> = LazyLock::new(EventLog::default);

/// One event. Its JSON form is stable: fields may be added, none changes its meaning.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Rises with each event, and over restarts of the process too: it starts at the time of day.
    pub id: u64,
    /// The time (ms since the epoch).
    pub at_ms: u64,
    /// The kind: see [`KINDS`].
    pub kind: &'static str,
    /// The log line's level: `info`, `warn` or `error`.
    pub level: &'static str,
    /// The shard that it is about.
    pub shard: Option<String>,
    /// The log line's sentence.
    pub text: String,
    /// The log line's other fields.
    pub details: Map<String, Value>,
}

/// The last [`KEPT`] events.
#[derive(Debug)]
pub struct EventLog {
    ring: Mutex<Ring>,
    /// The id of the last event.
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Event>,
    /// The id of the last event that was dropped.
    dropped: u64,
}

/// The events after an id.
#[derive(Debug, Default, PartialEq)]
pub struct News {
    pub events: Vec<Event>,
    /// Whether events between that id and these were dropped.
    pub has_missed: bool,
}

impl Default for EventLog {
    fn default() -> Self {
        Self { ring: Mutex::default(), last: watch::Sender::new(0) }
    }
}

impl EventLog {
    /// Adds an event and gives it its id.
    fn push(&self, mut event: Event) {
        let mut ring = self.ring();
        let before = ring.events.back().map_or(0, |event| event.id);
        event.id = (before + 1).max(event.at_ms.saturating_mul(1_000));
        let id = event.id;
        ring.events.push_back(event);
        if ring.events.len() > KEPT {
            ring.dropped = ring.events.pop_front().map_or(0, |event| event.id);
        }
        drop(ring);
        self.last.send_replace(id);
    }

    /// At most `most` of the events after the one with this id, oldest first.
    pub fn after(&self, id: u64, most: usize) -> News {
        let ring = self.ring();
        let from = ring.events.partition_point(|event| event.id <= id);
        let events = ring.events.range(from..).take(most).cloned().collect();
        News { events, has_missed: id != 0 && id < ring.dropped }
    }

    /// The last `most` events, oldest first.
    pub fn last(&self, most: usize) -> Vec<Event> {
        let ring = self.ring();
        ring.events.range(ring.events.len().saturating_sub(most)..).cloned().collect()
    }

    /// Follows the id of the last event.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kind of a log line, if it is an event.
fn kind(level: &'static str, text: &str) -> Option<&'static str> {
    let listed = KINDS.iter().find(|(sentence, _)| text.starts_with(sentence)).map(|(_, kind)| *kind);
    listed.or(match level {
        "error" => Some("error"),
        "warn" => Some("warning"),
        _ => None,
    })
}

/// A text cut to what is kept of it.
fn cut(mut text: String) -> String {
    if text.len() > MOST_BYTES {
        text.truncate(text.floor_char_boundary(MOST_BYTES));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(log: &EventLog, at_ms: u64) {
        let (text, details) = ("lease taken".into(), Map::new());
        log.push(Event { id: 0, at_ms, kind: "lease_taken", level: "info", shard: None, text, details });
    }

    #[test]
    fn the_last_thousand_events_are_kept_and_readers_learn_what_they_missed() {
        let log = EventLog::default();
        (0..1_500).for_each(|_| push(&log, 7));
        let all = log.after(0, usize::MAX);
        assert_eq!((all.events.len(), all.has_missed), (KEPT, false));
        let first = all.events[0].id;
        assert_eq!(first, 7_500);
        assert!(log.after(first - 2, 1).has_missed);
        let news = log.after(first, 2);
        assert!(!news.has_missed);
        assert_eq!(news.events, all.events[1..3]);
        assert_eq!(log.last(3), all.events[KEPT - 3..]);
    }

    #[test]
    fn ids_rise_over_restarts_and_when_the_clock_is_set_back() {
        let log = EventLog::default();
        [1_000, 400, 2_000].into_iter().for_each(|at_ms| push(&log, at_ms));
        let ids: Vec<u64> = log.last(3).iter().map(|event| event.id).collect();
        assert_eq!(ids, [1_000_000, 1_000_001, 2_000_000]);
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let text = cut("é".repeat(MOST_BYTES));
        assert_eq!(text.len(), MOST_BYTES + '…'.len_utf8());
    }
}
