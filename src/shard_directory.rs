//! The shard directory: one task a worker that asks DescribeStream, and answers every question about shards.
//!
//! DescribeStream is limited to ten calls a second for the whole account. So all parts of a worker share one paced
//! reader, which resumes a listing after a fault at the page where it stopped. Children are looked up by a call for each
//! shard or by one listing, whichever takes fewer calls.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::aws::stream::{Error, Stream};
use crate::model::backoff::Backoff;
use crate::model::lease::ShardId;
use crate::model::shard_directory::{Children, Listing, Presence};
use crate::model::shard_graph::{SETTLING, Shard, ShardGraph};

/// Calls that may follow each other without a pause.
const BURST: u32 = 5;
/// The time for which the service must deny the stream before it counts as gone.
const STREAM_GONE_AFTER: Duration = Duration::from_secs(5);
/// Faults of a listing are logged when they have lasted for this long.
const WARN_AFTER: Duration = Duration::from_secs(3);
/// The shards whose children are looked up one by one while the number of pages of a listing is not known.
const FEW_QUESTIONS: usize = 3;
/// The age at which a listing that proves nothing about a denied shard is followed by another one.
const REVIEW_INTERVAL: Duration = Duration::from_secs(15);

/// A handle of a worker's shard directory. It answers while [`ShardDirectory::serve`] runs.
#[derive(Clone, Debug)]
pub struct ShardDirectory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    origin: Instant,
    state: Mutex<State>,
    /// Notified when there is a new wish or question.
    wanted: Notify,
    /// Notified with each answer. It wakes in the order of waiting, where a watch channel would draw lots.
    answered: Notify,
}

#[derive(Debug, Default)]
struct State {
    listing: Option<Arc<Listing>>,
    /// The times after which a listing is to begin.
    wishes: BTreeSet<Duration>,
    /// Ended shards whose children are wanted.
    questions: BTreeMap<ShardId, Question>,
    /// The last refusal of a listing, and its time.
    refusal: Option<(Duration, Error)>,
    /// Whether the service answers the question for a shard's children with all shards.
    ignores_filter: bool,
    /// The shards of the listing under way that nobody has taken yet, while somebody wants them.
    pages: Option<Vec<Shard>>,
}

#[derive(Debug)]
struct Question {
    asked: Duration,
    /// The time of the next look-up.
    next: Duration,
    backoff: Backoff,
    answer: Option<Vec<Shard>>,
    waiters: usize,
}

enum Step {
    Sleep(Option<Duration>),
    AskChildren(ShardId),
    ListPage,
}

/// A listing under way.
struct Partial {
    began: Duration,
    graph: ShardGraph,
    after: Option<ShardId>,
    pages: usize,
}

impl Default for ShardDirectory {
    fn default() -> Self {
        let shared =
            Shared { origin: Instant::now(), state: Mutex::default(), wanted: Notify::new(), answered: Notify::new() };
        Self(Arc::new(shared))
    }
}

impl ShardDirectory {
    /// The time by which the directory dates its listings.
    pub fn elapsed(&self) -> Duration {
        self.0.origin.elapsed()
    }

    /// A complete listing that began at most `age` ago.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the stream is gone, [`Error::Refused`] when this worker may not list it.
    pub async fn listing(&self, age: Duration) -> Result<Arc<Listing>, Error> {
        let asked = self.elapsed();
        let oldest = asked.saturating_sub(age);
        loop {
            let answered = self.0.answered.notified();
            let answer = self.with(|state| {
                let refusal = state.refusal.as_ref().filter(|(at, _)| *at >= asked);
                let listing = state.listing.as_ref().filter(|listing| listing.began >= oldest);
                if let Some(listing) = listing {
                    return Some(Ok(Arc::clone(listing)));
                }
                if let Some((_, error)) = refusal {
                    return Some(Err(error.clone()));
                }
                state.wishes.insert(oldest);
                None
            });
            if let Some(answer) = answer {
                return answer;
            }
            self.0.wanted.notify_one();
            answered.await;
        }
    }

    /// Shards of the listing under way, as its pages come in. They prove no absence.
    pub async fn pages(&self) -> Vec<Shard> {
        loop {
            let answered = self.0.answered.notified();
            let pages = self.with(|state| std::mem::take(state.pages.get_or_insert_default()));
            if !pages.is_empty() {
                return pages;
            }
            answered.await;
        }
    }

    /// The children of a shard whose last page was just read.
    pub async fn children(&self, parent: &ShardId) -> Children {
        let asked = self.elapsed();
        let mut waiter = None;
        loop {
            let answered = self.0.answered.notified();
            let answer = self.with(|state| {
                let found = state.questions.get(parent).and_then(|question| question.answer.clone());
                let listed = || state.listing.as_ref()?.children(parent, asked);
                found.map(Children::Found).or_else(listed)
            });
            if let Some(answer) = answer {
                return answer;
            }
            waiter.get_or_insert_with(|| Waiter::new(self, parent, asked));
            answered.await;
        }
    }

    /// The presence of a shard that the service has denied since `since`. Does not wait: a listing that tells more is made
    /// for a later question.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the stream is gone.
    pub fn presence(&self, shard: &ShardId, since: Instant, now_ms: u64) -> Result<Presence, Error> {
        let since = since.saturating_duration_since(self.0.origin);
        self.with(|state| {
            if let Some((_, error @ Error::NotFound(_))) = state.refusal.as_ref().filter(|(at, _)| *at >= since) {
                return Err(error.clone());
            }
            let listing = state.listing.as_ref();
            let presence = listing.map_or(Presence::Unknown, |listing| listing.presence(shard, since, now_ms));
            if presence != Presence::Gone {
                let review = listing.map_or(Duration::ZERO, |listing| listing.began + REVIEW_INTERVAL);
                state.wishes.insert(review.max(since + SETTLING));
                self.0.wanted.notify_one();
            }
            Ok(presence)
        })
    }

    /// Answers all questions, with at most `rate` calls of DescribeStream a second, until it is dropped.
    pub async fn serve(&self, stream: &Stream, rate: u32, mut rng: Rng) -> Infallible {
        let mut pace = Pace { gap: Duration::from_secs(1) / rate.max(1), next: Instant::now() };
        let mut partial: Option<Partial> = None;
        let mut faults = Faults::default();
        let mut has_asked = false;
        loop {
            let step = match self.next_step(partial.as_ref(), has_asked) {
                Step::Sleep(until) => {
                    let due = async {
                        match until {
                            Some(until) => tokio::time::sleep_until(self.0.origin + until).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        biased;
                        () = self.0.wanted.notified() => {}
                        () = due => {}
                    }
                    continue;
                }
                step => step,
            };
            pace.wait().await;
            has_asked = matches!(step, Step::AskChildren(_));
            let outcome = match step {
                Step::AskChildren(parent) => self.ask_children(stream, &parent, &mut rng).await,
                _ => self.list_page(stream, &mut partial, &mut rng).await,
            };
            match outcome {
                Ok(()) => faults = Faults::default(),
                Err(error) => {
                    if faults.are_final(&error) {
                        partial = None;
                        self.refuse(error);
                    }
                    tokio::time::sleep(pace.gap / 2 + faults.backoff.next(&mut rng)).await;
                }
            }
        }
    }

    /// The next call, if one is due. Questions and pages take turns: many shards without a child would ask without end, and
    /// only a listing proves that they have none.
    fn next_step(&self, partial: Option<&Partial>, has_asked: bool) -> Step {
        let now = self.elapsed();
        self.with(|state| {
            let listed = state.listing.as_ref().map(|listing| listing.began);
            state.wishes.retain(|wish| listed.is_none_or(|began| began < *wish));
            let open: Vec<_> = state.questions.iter().filter(|(_, question)| question.answer.is_none()).collect();
            let few = state.listing.as_ref().map_or(FEW_QUESTIONS, |listing| listing.pages);
            let by_listing = state.ignores_filter || open.len() > few;
            let listing_due = |question: &Question| match by_listing {
                true => question.next,
                false => question.asked + SETTLING,
            };
            let listing_due =
                open.iter().map(|(_, question)| listing_due(question)).chain(state.wishes.first().copied());
            let listing_due = listing_due.min();
            let is_listing_due = partial.is_some() || listing_due.is_some_and(|due| due <= now);
            let next = open.iter().min_by_key(|(_, question)| question.next).filter(|_| !by_listing);
            if let Some((parent, question)) = next
                && question.next <= now
                && !(is_listing_due && has_asked)
            {
                return Step::AskChildren((*parent).clone());
            }
            if is_listing_due {
                return Step::ListPage;
            }
            let question_due = next.map(|(_, question)| question.next);
            Step::Sleep(listing_due.into_iter().chain(question_due).min())
        })
    }

    async fn ask_children(&self, stream: &Stream, parent: &ShardId, rng: &mut Rng) -> Result<(), Error> {
        let page = stream.children(parent).await?;
        let now = self.elapsed();
        let (children, others): (Vec<Shard>, Vec<Shard>) =
            page.shards.into_iter().partition(|shard| shard.parent.as_ref() == Some(parent));
        self.with(|state| {
            state.ignores_filter |= !others.is_empty();
            if let Some(question) = state.questions.get_mut(parent) {
                match children.is_empty() {
                    true => question.next = now + question.backoff.next(rng),
                    false => question.answer = Some(children),
                }
            }
        });
        self.0.answered.notify_waiters();
        Ok(())
    }

    async fn list_page(&self, stream: &Stream, partial: &mut Option<Partial>, rng: &mut Rng) -> Result<(), Error> {
        let new = || Partial { began: self.elapsed(), graph: ShardGraph::default(), after: None, pages: 0 };
        let under_way = partial.get_or_insert_with(new);
        let page = stream.describe(under_way.after.as_ref()).await?;
        self.with(|state| state.pages.iter_mut().for_each(|pages| pages.extend(page.shards.iter().cloned())));
        page.shards.into_iter().for_each(|shard| under_way.graph.insert(shard));
        under_way.pages += 1;
        under_way.after = page.next;
        if under_way.after.is_some() {
            self.0.answered.notify_waiters();
            return Ok(());
        }
        let Some(Partial { began, graph, pages, .. }) = partial.take() else { return Ok(()) };
        if graph.is_empty() && !page.disabled {
            // A stream that is just being switched on, or a stale answer: one that is on always has a shard.
            return Err(Error::Transient("the stream lists no shard".to_owned()));
        }
        let now = self.elapsed();
        self.with(|state| {
            let listing = Listing::new(graph, page.disabled, (began, now), pages, state.listing.as_deref());
            for question in state.questions.values_mut().filter(|question| question.next <= began) {
                question.next = now + question.backoff.next(rng);
            }
            state.listing = Some(Arc::new(listing));
            state.pages = None;
        });
        self.0.answered.notify_waiters();
        Ok(())
    }

    /// Tells those who wait for a listing that there is none.
    fn refuse(&self, error: Error) {
        let now = self.elapsed();
        self.with(|state| {
            state.wishes.clear();
            state.refusal = Some((now, error));
        });
        self.0.answered.notify_waiters();
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Someone who waits for the children of a shard.
struct Waiter<'a> {
    directory: &'a ShardDirectory,
    parent: &'a ShardId,
}

impl<'a> Waiter<'a> {
    fn new(directory: &'a ShardDirectory, parent: &'a ShardId, asked: Duration) -> Self {
        directory.with(|state| {
            let question = state.questions.entry(parent.clone()).or_insert_with(|| Question {
                asked,
                next: asked,
                backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(2)),
                answer: None,
                waiters: 0,
            });
            question.waiters += 1;
        });
        directory.0.wanted.notify_one();
        Self { directory, parent }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.directory.with(|state| {
            if let Some(question) = state.questions.get_mut(self.parent) {
                question.waiters -= 1;
                if question.waiters == 0 {
                    state.questions.remove(self.parent);
                }
            }
        });
    }
}

/// The pace of calls: one each `gap` on average, a few at once after a pause.
struct Pace {
    gap: Duration,
    next: Instant,
}

impl Pace {
    async fn wait(&mut self) {
        let earliest = Instant::now().checked_sub(self.gap * (BURST - 1)).unwrap_or(self.next);
        self.next = self.next.max(earliest);
        tokio::time::sleep_until(self.next).await;
        self.next += self.gap;
    }
}

/// Faults in a row.
#[derive(Default)]
struct Faults {
    since: Option<Instant>,
    warned: Duration,
    backoff: Backoff,
}

impl Faults {
    /// Whether those who wait for a listing should learn of a fault, rather than wait on.
    fn are_final(&mut self, error: &Error) -> bool {
        let lasted = self.since.get_or_insert_with(Instant::now).elapsed();
        if lasted >= self.warned + WARN_AFTER {
            self.warned = lasted;
            tracing::warn!(%error, "listing the stream's shards failed, retrying");
        }
        match error {
            Error::Refused(_) => true,
            Error::NotFound(_) => lasted >= STREAM_GONE_AFTER,
            _ => false,
        }
    }
}
