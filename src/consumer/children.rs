//! Finding the children of a shard that has ended.
//!
//! Many shards may end at the same moment, and DescribeStream is limited to ten calls a second for the whole fleet.
//! So the shards that wait are answered together: a few by a call each, more by one listing of the stream.

use std::collections::BTreeMap;
use std::sync::Mutex as StdMutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::aws::stream::{Error, Stream};
use crate::core::lease::ShardId;
use crate::core::pacing::Backoff;
use crate::core::rng::Rng;
use crate::core::shard_graph::{Shard, ShardGraph};

/// Up to this many waiting shards are asked about one by one.
const ASKED_ONE_BY_ONE: usize = 2;
/// A listing of more pages than this is not worth it for the shards that wait.
const LISTING_PAGES: usize = 5;
/// How long a closed shard may show no child before it is finished without one. Its children are then found by the
/// leader's listing.
const PATIENCE: Duration = Duration::from_secs(3);

/// Finds children, for all shards of a worker.
#[derive(Debug)]
pub(super) struct ChildFinder {
    stream: Stream,
    state: StdMutex<State>,
    /// Held by whoever asks the service for all who wait.
    asking: Mutex<()>,
    rng: StdMutex<Rng>,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<ShardId, usize>,
    answers: BTreeMap<ShardId, Answer>,
}

#[derive(Clone, Debug)]
enum Answer {
    Children(Vec<Shard>),
    /// The stream is switched off and the shard has no child.
    NoneEver,
}

impl ChildFinder {
    pub(super) fn new(stream: Stream, rng: Rng) -> Self {
        Self { stream, state: StdMutex::default(), asking: Mutex::default(), rng: StdMutex::new(rng) }
    }

    /// The children of a closed shard; none when the stream is switched off, or when none showed up in some seconds.
    pub(super) async fn children(&self, parent: &ShardId) -> Vec<Shard> {
        let started = tokio::time::Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(40), Duration::from_millis(800));
        self.with(|state| *state.waiting.entry(parent.clone()).or_default() += 1);
        let children = loop {
            let asked = {
                let _turn = self.asking.lock().await;
                match self.answer(parent) {
                    Some(answer) => break answer,
                    None => self.ask().await,
                }
            };
            if let Some(answer) = self.answer(parent) {
                break answer;
            }
            match asked {
                Ok(()) if started.elapsed() >= PATIENCE => {
                    tracing::info!(shard = %parent, "no child of this closed shard is visible yet");
                    break Vec::new();
                }
                // A failing service is no reason to finish the shard without its children.
                Ok(()) => {}
                Err(error) => tracing::debug!(shard = %parent, %error, "listing shards failed, trying again"),
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

    /// Asks the service for all who wait and have no answer.
    async fn ask(&self) -> Result<(), Error> {
        let waiting: Vec<ShardId> = self
            .with(|state| state.waiting.keys().filter(|shard| !state.answers.contains_key(*shard)).cloned().collect());
        if waiting.len() > ASKED_ONE_BY_ONE && self.ask_by_listing(&waiting).await? {
            return Ok(());
        }
        for shard in waiting {
            let described = self.stream.children(&shard).await?;
            if !described.shards.is_empty() {
                self.with(|state| state.answers.insert(shard, Answer::Children(described.shards)));
            } else if described.disabled {
                self.with(|state| state.answers.insert(shard, Answer::NoneEver));
            }
        }
        Ok(())
    }

    /// Lists the stream; says whether the listing was short enough to be read whole.
    async fn ask_by_listing(&self, waiting: &[ShardId]) -> Result<bool, Error> {
        let mut graph = ShardGraph::default();
        let (mut after, mut disabled) = (None, false);
        for _ in 0..LISTING_PAGES {
            let page = self.stream.describe(after.as_ref()).await?;
            disabled = page.disabled;
            page.shards.into_iter().for_each(|shard| graph.insert(shard));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        self.with(|state| {
            for shard in waiting {
                let children: Vec<Shard> = graph.shards_named(&graph.children(shard));
                if !children.is_empty() {
                    state.answers.insert(shard.clone(), Answer::Children(children));
                } else if disabled && after.is_none() {
                    state.answers.insert(shard.clone(), Answer::NoneEver);
                }
            }
        });
        Ok(after.is_none())
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
