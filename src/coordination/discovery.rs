//! The leader's listing of the stream's shards, without holes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::task::JoinSet;

use crate::aws::stream::{Error, Stream};
use crate::model::backoff::Backoff;
use crate::model::checkpoint::Checkpoint;
use crate::model::lease::ShardId;
use crate::model::shard_directory::Listing;
use crate::model::shard_graph::Shard;
use crate::retry::retry;
use crate::shard_directory::ShardDirectory;
use crate::telemetry::scope::inherit;

/// Retries of a listing with holes, and the pause before each.
const HOLE_RETRIES: u32 = 8;
const HOLE_PAUSE: Duration = Duration::from_secs(1);
/// The time before the newest listed shard within which a parent that is not listed was not trimmed, but hidden, in
/// milliseconds.
const YOUNG_MS: u64 = 10_000;
/// The most shards that are probed at once.
const PROBES_AT_ONCE: usize = 8;

/// Lists all shards, and makes sure that the listing lacks no ancestor of a shard without a lease: one whose id is in
/// `known`, having a lease or a child with one.
///
/// The pages of a listing may come from parts of the service that are not equally up to date. Then a shard may be
/// missing whose child is listed, as if it were trimmed, and the child would be read without it. So each parent that is
/// not listed is asked for; while one is there, the shards are listed again. A parent that is not much older than the
/// newest listed shard cannot be trimmed yet: it counts as there, though the part of the service that is asked may not
/// know it.
///
/// # Errors
/// As for [`ShardDirectory::listing`].
pub(super) async fn list_whole(
    directory: &ShardDirectory,
    stream: &Stream,
    known: &BTreeSet<ShardId>,
    rng: &mut Rng,
) -> Result<Arc<Listing>, Error> {
    let mut retries = 0;
    loop {
        let mut listing = directory.listing(Duration::ZERO).await?;
        let newest = listing.graph.ids().filter_map(ShardId::created_ms).max();
        let is_young =
            |id: &ShardId| id.created_ms().is_some_and(|ms| newest.is_some_and(|newest| ms + YOUNG_MS > newest));
        let (young, old): (BTreeSet<_>, BTreeSet<_>) =
            listing.graph.unlisted_parents(known).into_iter().partition(is_young);
        let missing = match retries < HOLE_RETRIES && !young.is_empty() {
            true => young,
            false => existing(stream, &young | &old, rng).await,
        };
        if missing.is_empty() {
            return Ok(listing);
        }
        tracing::debug!(shards = missing.len(), "the listing lacks shards, retrying");
        if retries == HOLE_RETRIES {
            // A service that never lists them tells nothing of their own parents.
            let graph = &mut Arc::make_mut(&mut listing).graph;
            missing.into_iter().for_each(|id| graph.insert(Shard { id, parent: None, closed: true, ending: None }));
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
        probes.spawn(inherit(async move { exists(&stream, &shard, rng).await.then_some(shard) }));
    }
    while let Some(shard) = probes.join_next().await {
        there.extend(shard.ok().flatten());
    }
    there
}

/// Whether the service has a shard: it gives iterators on those that it has, listed or not. Only "not found" denies it.
async fn exists(stream: &Stream, shard: &ShardId, mut rng: Rng) -> bool {
    let tells_nothing = |error: &Error| !matches!(error, Error::NotFound(_) | Error::Trimmed(_));
    let iterator = || stream.shard_iterator(shard, &Checkpoint::TrimHorizon, 0);
    !matches!(retry(Backoff::default(), &mut rng, tells_nothing, iterator).await, Err(Error::NotFound(_)))
}
