//! Listing the stream's shards: paced below the service's limit, resumed after a fault, never concluded from a part.

use std::time::Duration;

use tokio::time::Instant;

use crate::aws::stream::{Error, Stream};
use crate::core::pacing::Backoff;
use crate::core::rng::Rng;
use crate::core::shard_graph::ShardGraph;

/// Pages that are read without a pause; most streams have no more.
const QUICK_PAGES: u32 = 3;
/// The pause between further pages: the limit of ten calls a second is the whole account's.
const PAGE_PAUSE: Duration = Duration::from_millis(200);
/// Faults are logged when a listing has been failing for this long.
const PATIENCE: Duration = Duration::from_secs(3);

/// A complete listing.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The shards.
    pub graph: ShardGraph,
    /// Whether the stream is switched off.
    pub is_disabled: bool,
    /// How long the listing took.
    pub took: Duration,
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
                    return Ok(Listing { graph, is_disabled: page.disabled, took: started.elapsed() });
                };
                after = Some(next);
                if pages >= QUICK_PAGES {
                    tokio::time::sleep(PAGE_PAUSE.mul_f64(1.0 + 0.2 * rng.unit())).await;
                }
            }
            Err(error @ (Error::NotFound(_) | Error::Refused(_))) => return Err(error),
            Err(error) => {
                let since = *failing_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= PATIENCE {
                    tracing::warn!(%error, pages, "listing the stream's shards fails, trying on");
                    failing_since = None;
                }
                tokio::time::sleep(PAGE_PAUSE / 4 + backoff.next(rng)).await;
            }
        }
    }
}
