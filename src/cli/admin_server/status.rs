//! `/status`: the output of `shardkeeper status --json`, read so seldom that polling it cannot burden the tables.

use std::time::Duration;

use hyper::body::Bytes;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::aws::clients::Endpoints;
use crate::aws::with_causes;
use crate::cli::reload::{Configuration, Version};
use crate::cli::status::{LISTING_AGE, StatusReader, affordable_pause};
use crate::options::{StreamSelector, WorkerOptions};

/// Bounds of the time for which a page is served.
const SHORTEST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(30);
/// Limit of one reading.
const READ_LIMIT: Duration = Duration::from_secs(20);

/// The page, and where it comes from.
pub struct StatusPage {
    app: String,
    stream: StreamSelector,
    endpoints: Endpoints,
    lease_duration: Duration,
    version: Version,
    /// The holder of this lock reads; the others wait for its page.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    reader: Option<StatusReader>,
    page: Option<(Instant, Configuration, Result<Bytes, String>)>,
}

/// The fleet's state, and of this worker its configuration.
#[derive(Serialize)]
struct Page<'a, S> {
    #[serde(flatten)]
    status: S,
    configuration: &'a Configuration,
}

impl StatusPage {
    /// The page of the application that a worker with these options belongs to. No call is made yet.
    pub fn new(options: &WorkerOptions, version: Version) -> Self {
        Self {
            app: options.app.clone(),
            stream: options.stream.clone(),
            endpoints: options.endpoints.clone(),
            lease_duration: options.lease_duration,
            version,
            state: Mutex::default(),
        }
    }

    /// The page, at most so old that reading stays cheap. The error says why there is none.
    pub async fn page(&self) -> Result<Bytes, String> {
        let mut state = self.state.lock().await;
        let configuration = self.version.configuration();
        if let Some((until, of, page)) = &state.page
            && Instant::now() < *until
            && *of == configuration
        {
            return page.clone();
        }
        let (good_for, page) =
            match tokio::time::timeout(READ_LIMIT, self.read(&mut state.reader, &configuration)).await {
                Ok(Ok((good_for, page))) => (good_for, Ok(page)),
                Ok(Err(error)) => (SHORTEST, Err(with_causes(&*error))),
                Err(_) => (SHORTEST, Err(format!("no status within {} s", READ_LIMIT.as_secs()))),
            };
        state.page = Some((Instant::now() + good_for, configuration, page.clone()));
        page
    }

    async fn read(
        &self,
        reader: &mut Option<StatusReader>,
        configuration: &Configuration,
    ) -> Result<(Duration, Bytes), anyhow::Error> {
        // A reader that failed is not used again.
        let mut used = match reader.take() {
            Some(used) => used,
            None => {
                let stream = Some(self.stream.clone());
                StatusReader::new(&self.app, stream, &self.endpoints, self.lease_duration).await?
            }
        };
        let status = used.read(LISTING_AGE).await?;
        *reader = Some(used);
        let good_for = affordable_pause(&status).clamp(SHORTEST, LONGEST);
        let page = format!("{}\n", serde_json::to_string_pretty(&Page { status, configuration })?);
        Ok((good_for, page.into()))
    }
}
