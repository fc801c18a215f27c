//! `/status`: what `shardkeeper status --json` prints, seldom enough that nobody who polls it can burden the tables.

use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::aws::with_causes;
use crate::cli::run_config::{AwsOptions, RunConfig, Source};
use crate::cli::status::StatusReader;

/// How long a page is good, at the least and at the most.
const SHORTEST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(30);
/// How many shards a second are read on average, at the most: as many as a leader reads.
const SHARDS_A_SECOND: u32 = 250;
/// How old the listing of the stream's shards may be: the fleet shares few calls for it.
const LISTING_AGE: Duration = Duration::from_secs(60);
/// How long a look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(20);

/// The page, and where it comes from.
pub struct StatusPage {
    app: String,
    source: Source,
    aws: AwsOptions,
    lease_duration: Duration,
    /// Whoever holds this looks; the others wait for what it sees.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    looker: Option<StatusReader>,
    page: Option<(Instant, Result<Bytes, String>)>,
}

impl StatusPage {
    /// Of the application that a worker with this configuration belongs to. Nothing is asked yet.
    pub fn new(config: &RunConfig) -> Self {
        Self {
            app: config.app.clone(),
            source: config.source.clone(),
            aws: config.aws.clone(),
            lease_duration: config.lease_duration,
            state: Mutex::default(),
        }
    }

    /// The page, at most so old that looking stays cheap. The error says why there is none.
    pub async fn page(&self) -> Result<Bytes, String> {
        let mut state = self.state.lock().await;
        if let Some((until, page)) = &state.page
            && Instant::now() < *until
        {
            return page.clone();
        }
        let (good_for, page) = match tokio::time::timeout(LOOK_LIMIT, self.look(&mut state.looker)).await {
            Ok(Ok((good_for, page))) => (good_for, Ok(page)),
            Ok(Err(error)) => (SHORTEST, Err(with_causes(&*error))),
            Err(_) => (SHORTEST, Err(format!("looking took longer than {} s", LOOK_LIMIT.as_secs()))),
        };
        state.page = Some((Instant::now() + good_for, page.clone()));
        page
    }

    async fn look(&self, looker: &mut Option<StatusReader>) -> Result<(Duration, Bytes), anyhow::Error> {
        // One that fails is not used again, and neither is one that takes the fleet table for missing.
        let mut used = match looker.take() {
            Some(used) => used,
            None => {
                let source = Some(self.source.clone());
                StatusReader::new(&self.app, source, &self.aws, self.lease_duration).await?
            }
        };
        let status = used.read(LISTING_AGE).await?;
        if !status.workers.is_empty() {
            *looker = Some(used);
        }
        let shards = u32::try_from(status.shards.len()).unwrap_or(u32::MAX);
        let good_for = (Duration::from_secs(1) * shards / SHARDS_A_SECOND).clamp(SHORTEST, LONGEST);
        let page = format!("{}\n", serde_json::to_string_pretty(&status)?);
        Ok((good_for, page.into()))
    }
}
