//! Listing the stream's shards: paced below the service's limit, resumed after a fault, never concluded from a part.

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::aws::stream::{Error, Stream};
use crate::model::backoff::Backoff;
use crate::model::checkpoint::Checkpoint;
use crate::model::lease::ShardId;
use crate::model::shard_graph::{Shard, ShardGraph};
use crate::retry::retry;

/// Pages that are read without a pause; most streams have no more.
const QUICK_PAGES: u32 = 3;
/// The pause between further pages: the limit of ten calls a second is the whole account's.
const PAGE_PAUSE: Duration = Duration::from_millis(200);
/// Faults are logged when a listing has been failing for this long.
const WARN_AFTER: Duration = Duration::from_secs(3);

/// Retries of a listing with holes, and the pause before each.
const HOLE_RETRIES: u32 = 8;
const HOLE_PAUSE: Duration = Duration::from_secs(1);
/// The most shards that are probed at once.
const PROBES_AT_ONCE: usize = 8;

/// A complete listing.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The shards.
    pub graph: ShardGraph,
    /// Whether the stream is switched off.
    pub is_disabled: bool,
    /// The time that the listing took.
    pub took: Duration,
    /// The time that it would take without any fault, at the pace that the service's limit allows.
    pub(crate) least_time: Duration,
}

/// Lists all shards, however long the service takes.
///
/// # Errors
/// When the stream isn't there, or we may not list it.
pub async fn list(stream: &Stream, rng: &mut Rng) -> Result<Listing, Error> {
    let started = Instant::now();
    let mut graph = ShardGraph::default();
    let mut backoff = Backoff::default();
    let (mut after, mut pages, mut failing_since) = (None, 0, None);
    loop {
        match stream.describe(after.as_ref()).await {
            Ok(page) => {
                page.shards.into_iter().for_each(|shard| graph.insert(shard));
                pages += 1;
                (backoff, failing_since) = (Backoff::default(), None);
                let Some(next) = page.next else {
                    let (is_disabled, took) = (page.disabled, started.elapsed());
                    return Ok(Listing { graph, is_disabled, took, least_time: PAGE_PAUSE * pages });
                };
                after = Some(next);
                if pages >= QUICK_PAGES {
                    tokio::time::sleep(PAGE_PAUSE.mul_f64(1.0 + 0.2 * rng.f64())).await;
                }
            }
            Err(error @ (Error::NotFound(_) | Error::Refused(_))) => return Err(error),
            Err(error) => {
                let since = *failing_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= WARN_AFTER {
                    tracing::warn!(%error, pages, "listing the stream's shards failed, retrying");
                    failing_since = None;
                }
                tokio::time::sleep(PAGE_PAUSE / 4 + backoff.next(rng)).await;
            }
        }
    }
}

/// Lists all shards, and makes sure that the listing lacks no ancestor of a shard without a lease: one whose id is in
/// `known`, having a lease or a child with one.
///
/// The pages of a listing may come from parts of the service that are not equally up to date. Then a shard may be
/// missing whose child is listed, as if it were trimmed, and the child would be read without it. So each parent that is
/// not listed is asked for; while one is there, the shards are listed again.
///
/// # Errors
/// As for [`list`].
pub(super) async fn list_whole(stream: &Stream, known: &BTreeSet<ShardId>, rng: &mut Rng) -> Result<Listing, Error> {
    let started = Instant::now();
    let mut retries = 0;
    loop {
        let mut listing = list(stream, rng).await?;
        let missing = existing(stream, listing.graph.unlisted_parents(known), rng).await;
        listing.took = started.elapsed();
        if missing.is_empty() {
            return Ok(listing);
        }
        tracing::debug!(shards = missing.len(), "the listing lacks shards, retrying");
        if retries == HOLE_RETRIES {
            // A service that never lists them tells nothing of their own parents.
            missing.into_iter().for_each(|id| listing.graph.insert(Shard { id, parent: None, closed: true }));
            return Ok(listing);
        }
        retries += 1;
        tokio::time::sleep(HOLE_PAUSE).await;
    }
}

/// Those of the shards that the service still has.
async fn existing(stream: &Stream, shards: BTreeSet<ShardId>, rng: &mut Rng) -> BTreeSet<ShardId> {
    let (mut there, mut probes) = (BTreeSet::new(), JoinSet::new());
    for shard in shards {
        if probes.len() >= PROBES_AT_ONCE {
            there.extend(probes.join_next().await.and_then(Result::ok).flatten());
        }
        let (stream, rng) = (stream.clone(), rng.fork());
        probes.spawn(async move { exists(&stream, &shard, rng).await.then_some(shard) });
    }
    while let Some(shard) = probes.join_next().await {
        there.extend(shard.ok().flatten());
    }
    there
}

/// Whether the service has a shard: it gives iterators on those that it has, listed or not.
async fn exists(stream: &Stream, shard: &ShardId, mut rng: Rng) -> bool {
    let is_transient = |error: &Error| matches!(error, Error::Transient(_) | Error::Throttled(_));
    let iterator = || stream.shard_iterator(shard, &Checkpoint::TrimHorizon);
    retry(Backoff::default(), &mut rng, is_transient, iterator).await.is_ok()
}
