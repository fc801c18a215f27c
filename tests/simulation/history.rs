//! Events of a simulation in one total order: hashed into a trace, kept for the search of faults, and
//! handed to the checker as they happen.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shardkeeper::internals::model::checkpoint::Checkpoint;
use shardkeeper::internals::model::out_of_order_acks::OutOfOrderAcks;

use super::checker::{Checker, Violation};

/// Milliseconds since the simulation began.
pub type Ms = u64;

/// The number of events kept to be shown beside a violation.
const RECENT: usize = 400;

/// One row of the lease table.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Row {
    pub owner: Option<String>,
    pub checkpoint_owner: Option<String>,
    pub counter: Option<u64>,
    pub checkpoint: String,
    /// Acknowledgements beyond the checkpoint, as the row has them.
    pub done: Option<String>,
}

impl Row {
    /// The worker that may read the shard.
    pub fn holder(&self) -> Option<&String> {
        self.checkpoint_owner.as_ref().or(self.owner.as_ref())
    }

    pub fn is_finished(&self) -> bool {
        self.checkpoint == "SHARD_END"
    }

    /// Acknowledgements beyond the checkpoint, as far as the row ties them to this one.
    pub fn done_beyond(&self) -> Option<OutOfOrderAcks> {
        OutOfOrderAcks::parse(self.done.as_ref()?, &Checkpoint::parse(&self.checkpoint).ok()?)
    }

    /// The sequence number of the checkpoint, if it is one.
    pub fn position(&self) -> Option<u128> {
        self.checkpoint.parse().ok()
    }
}

/// The author of a change to the lease table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// The process of this number.
    Process(usize),
    /// An operator, by hand: not held to the protocol.
    Operator,
}

/// Something that happened.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "some fields are there for the trace, which prints them all")]
pub enum Event {
    /// A shard is there: of the table's first stream (0) or a later one.
    Shard { shard: String, stream: usize, parent: Option<String>, is_open: bool },
    /// The service has no such shard any more.
    ShardGone { shard: String },
    /// A record is in the stream.
    Written { shard: String, position: u128, key: String, number: u64 },
    /// Records up to this position were trimmed.
    Trimmed { shard: String, position: u128 },
    /// A row of the lease table is as given now.
    Row { key: String, row: Option<Row>, author: Author },
    /// A processor was called with these records.
    Began { process: usize, shard: String, call: u64, positions: Vec<u128> },
    /// A processor has worked through one record.
    Delivered { process: usize, shard: String, position: u128, key: String, number: u64 },
    /// A processor has said that these records are done.
    Acknowledged { process: usize, shard: String, positions: Vec<u128> },
    /// A dead letter is durable: the record, as it was kept.
    DeadLetter { process: usize, shard: String, position: u128, record: String },
    /// A process was started under a worker id.
    Started { process: usize, worker: String },
    /// A process ended by itself: how, in words, and whether the simulation's faults explain it.
    Ended { process: usize, outcome: String, is_explained: bool },
    /// A call reached the end of its way, or its fault.
    Call { process: usize, operation: String, fate: &'static str },
    /// The simulation did something.
    Action(String),
}

/// The shared record of one simulation.
#[derive(Clone)]
pub struct History(Arc<Mutex<Inner>>);

struct Inner {
    now: Ms,
    hash: DefaultHasher,
    recent: VecDeque<String>,
    echo: bool,
    checker: Checker,
}

impl History {
    /// An empty one; with `echo`, each event is printed.
    pub fn new(checker: Checker, echo: bool) -> Self {
        let (hash, recent) = (DefaultHasher::new(), VecDeque::new());
        Self(Arc::new(Mutex::new(Inner { now: 0, hash, recent, echo, checker })))
    }

    /// Moves the time on.
    pub fn set_now(&self, now: Ms) {
        self.inner().now = now;
    }

    /// Adds an event.
    pub fn note(&self, event: Event) {
        let inner = &mut *self.inner();
        let line = format!("{:>7} {event:?}", inner.now);
        line.hash(&mut inner.hash);
        if inner.echo {
            println!("{line}");
        }
        inner.checker.see(inner.now, &event);
        inner.recent.push_back(line);
        if inner.recent.len() > RECENT {
            inner.recent.pop_front();
        }
    }

    /// Notes what the simulation does.
    pub fn note_action(&self, what: impl Into<String>) {
        self.note(Event::Action(what.into()));
    }

    /// Looks at the checker, or tells it something.
    pub fn checker<T>(&self, look: impl FnOnce(&mut Checker) -> T) -> T {
        look(&mut self.inner().checker)
    }

    /// The first violation, if there is one.
    pub fn violation(&self) -> Option<Violation> {
        self.inner().checker.violation().cloned()
    }

    /// The hash of everything so far.
    pub fn hash(&self) -> u64 {
        self.inner().hash.clone().finish()
    }

    /// The last events, for a report.
    pub fn recent(&self) -> Vec<String> {
        self.inner().recent.iter().cloned().collect()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
