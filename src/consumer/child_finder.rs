//! The search for the children of a shard that has ended.
//!
//! Many shards may end at the same moment, and DescribeStream is limited to ten calls a second for the whole fleet. So
//! the finder looks children up together: for a few shards by a call each, for more by one listing of the stream. It
//! makes no call for children that an earlier listing has shown for certain, such as the leader's on this worker.

use std::collections::BTreeMap;
use std::sync::Mutex as StdMutex;
use std::sync::PoisonError;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::known_shards::KnownShards;
use crate::aws::stream::{Error, Stream};
use crate::model::backoff::Backoff;
use crate::model::lease::ShardId;
use crate::model::shard_graph::{Shard, ShardGraph};

/// The time after which a closed shard that shows no child is finished without one. The leader's listing finds its
/// children later.
const PATIENCE: Duration = Duration::from_secs(3);
/// The gap between two calls after a throttled one, and the widest gap.
const FIRST_GAP: Duration = Duration::from_millis(120);
const WIDEST_GAP: Duration = Duration::from_secs(1);
/// The failed calls in a row that end a listing.
const FAILURES: u32 = 5;

/// The finder of children for all shards of a worker.
#[derive(Debug)]
pub(super) struct ChildFinder {
    stream: Stream,
    state: StdMutex<State>,
    /// Locked by the consumer that calls the service on behalf of all, so that calls keep to one pace.
    asking: Mutex<Pace>,
    rng: StdMutex<Rng>,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<ShardId, usize>,
    answers: BTreeMap<ShardId, Answer>,
    known: KnownShards,
    /// The pages of the last listing.
    pages: usize,
}

#[derive(Debug, Default)]
struct Pace {
    gap: Duration,
    last_call: Option<Instant>,
}

#[derive(Clone, Debug)]
enum Answer {
    Children(Vec<Shard>),
    /// The stream is disabled and the shard has no child.
    NoneEver,
}

impl ChildFinder {
    pub(super) fn new(stream: Stream, rng: Rng) -> Self {
        Self { stream, state: StdMutex::default(), asking: Mutex::default(), rng: StdMutex::new(rng) }
    }

    /// The children of a closed shard; none if the stream is disabled or none shows up within some seconds.
    pub(super) async fn children(&self, parent: &ShardId) -> Vec<Shard> {
        if let Some(children) = self.known_children(parent) {
            return children;
        }
        let started = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(40), Duration::from_millis(800));
        self.with(|state| *state.waiting.entry(parent.clone()).or_default() += 1);
        let children = loop {
            let asked = {
                let mut pace = self.asking.lock().await;
                match self.answer(parent).or_else(|| self.known_children(parent)) {
                    Some(answer) => break answer,
                    None => self.ask(&mut pace).await,
                }
            };
            if let Some(answer) = self.answer(parent) {
                break answer;
            }
            match asked {
                Ok(()) if started.elapsed() >= PATIENCE => {
                    tracing::info!(shard = %parent, "no child of the closed shard is visible yet");
                    break Vec::new();
                }
                // The shard is not finished without its children because a service fails.
                Ok(()) => {}
                Err(error) => tracing::debug!(shard = %parent, %error, "listing shards failed, retrying"),
            }
            let wait = backoff.next(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner));
            tokio::time::sleep(wait.max(Duration::from_millis(10))).await;
        };
        self.with(|state| {
            state.waiting.remove(parent);
            state.answers.remove(parent);
        });
        children
    }

    fn answer(&self, parent: &ShardId) -> Option<Vec<Shard>> {
        self.with(|state| match state.answers.get(parent)? {
            Answer::Children(children) => Some(children.clone()),
            Answer::NoneEver => Some(Vec::new()),
        })
    }

    /// Adds a listing that the leader has made on this worker.
    pub(super) fn note_listing(&self, graph: &ShardGraph, took: Duration) {
        let now = Instant::now();
        self.with(|state| state.known.note(graph.clone(), now.checked_sub(took).unwrap_or(now)));
    }

    fn known_children(&self, parent: &ShardId) -> Option<Vec<Shard>> {
        self.with(|state| state.known.children(parent))
    }

    /// Looks up the children of all waiting shards: by a call each or by one listing, whichever takes fewer calls.
    async fn ask(&self, pace: &mut Pace) -> Result<(), Error> {
        let (waiting, pages): (Vec<ShardId>, usize) = self.with(|state| {
            let open = state.waiting.keys().filter(|shard| !state.answers.contains_key(*shard));
            (open.cloned().collect(), state.pages.max(1))
        });
        if waiting.len() > pages {
            return self.ask_by_listing(&waiting, pace).await;
        }
        for shard in waiting {
            let described = self.paced(pace, || self.stream.children(&shard)).await?;
            if !described.shards.is_empty() {
                self.with(|state| state.answers.insert(shard, Answer::Children(described.shards)));
            } else if described.disabled {
                self.with(|state| state.answers.insert(shard, Answer::NoneEver));
            }
        }
        Ok(())
    }

    async fn ask_by_listing(&self, waiting: &[ShardId], pace: &mut Pace) -> Result<(), Error> {
        let (began, mut graph) = (Instant::now(), ShardGraph::default());
        let (mut after, mut pages, mut failures) = (None, 0, 0);
        let is_disabled = loop {
            match self.paced(pace, || self.stream.describe(after.as_ref())).await {
                Ok(page) => {
                    page.shards.into_iter().for_each(|shard| graph.insert(shard));
                    (pages, failures, after) = (pages + 1, 0, page.next);
                    if after.is_none() {
                        break page.disabled;
                    }
                }
                Err(error) => {
                    failures += 1;
                    if failures >= FAILURES {
                        return Err(error);
                    }
                }
            }
        };
        self.with(|state| {
            for shard in waiting {
                let children: Vec<Shard> = graph.shards_named(&graph.children(shard));
                if !children.is_empty() {
                    state.answers.insert(shard.clone(), Answer::Children(children));
                } else if is_disabled {
                    state.answers.insert(shard.clone(), Answer::NoneEver);
                }
            }
            state.known.note(graph, began);
            state.pages = pages;
        });
        Ok(())
    }

    /// Makes a call when the pace allows it, and adapts the pace to the outcome.
    async fn paced<T, C: Future<Output = Result<T, Error>>>(
        &self,
        pace: &mut Pace,
        call: impl FnOnce() -> C,
    ) -> Result<T, Error> {
        if let Some(last) = pace.last_call {
            let jitter = self.rng.lock().unwrap_or_else(PoisonError::into_inner).f64();
            tokio::time::sleep_until(last + pace.gap.mul_f64(1.0 + 0.2 * jitter)).await;
        }
        pace.last_call = Some(Instant::now());
        let outcome = call().await;
        pace.gap = match &outcome {
            Err(Error::Throttled(_)) => (pace.gap * 3 / 2).clamp(FIRST_GAP, WIDEST_GAP),
            Err(_) => pace.gap.max(FIRST_GAP), // other faults slow the calls down only briefly
            Ok(_) if pace.gap < FIRST_GAP / 4 => Duration::ZERO,
            Ok(_) => pace.gap * 9 / 10,
        };
        outcome
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
