//! One GetRecords call: the worker's client, the SDK's, and hyper with a signature by hand.

use std::time::Duration;

use anyhow::{Context, ensure};
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use shardkeeper::Endpoints;
use shardkeeper::internals::aws::clients::{self, Clients, SdkConfig};
use shardkeeper::internals::aws::stream::Stream;
use tokio::task::JoinSet;

use super::{Scenario, Stage};
use crate::raw::Raw;
use crate::report::{Figure, Goal, Outcome, Run, middle, outcome};
use crate::service::{Backlog, Service};

/// The three in turn.
pub const CALL: Scenario = Scenario { name: "call", title: "CPU time of a GetRecords call", run: call };

/// Calls in flight at once.
const IN_FLIGHT: usize = 16;
const ROUNDS: usize = 5;
const EMPTY: &str = "an empty page";
/// Pages by their names and records, and the calls of a round.
const PAGES: [(&str, u64, usize); 3] =
    [(EMPTY, 0, 4000), ("a page of 3 records", 3, 4000), ("a page of 1000 records", 1000, 400)];
const CONTENDERS: [(Contender, &str); 3] =
    [(Contender::Ours, "shardkeeper"), (Contender::Sdk, "SDK"), (Contender::Raw, "hyper")];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contender {
    Ours,
    Sdk,
    Raw,
}

fn call(stage: &Stage) -> Result<Outcome, anyhow::Error> {
    let runtime = tokio::runtime::Runtime::new()?;
    let mut rounds = [const { Vec::new() }; CONTENDERS.len()];
    let pages = PAGES.map(|(_, records, _)| Page::make(records));
    let pages = pages.into_iter().collect::<Result<Vec<Page>, _>>()?;
    for round in 0..=stage.pick(1, ROUNDS) {
        stage.progress.step(&format!("round {round}"));
        for ((contender, _), rounds) in CONTENDERS.into_iter().zip(&mut rounds) {
            let mut figures = Vec::new();
            for ((name, _, calls), page) in PAGES.into_iter().zip(&pages) {
                let cost = runtime.block_on(page.cost(contender, stage.pick(calls / 20, calls)))?;
                figures.push(Figure::some(name, cost, "µs"));
            }
            if round > 0 {
                rounds.push(figures); // the first warms up
            }
        }
    }
    let runs: Vec<Run> = CONTENDERS.iter().zip(&rounds).map(|((_, label), rounds)| middle(label, rounds)).collect();
    let [ours, sdk, raw] = [0, 1, 2].map(|run: usize| runs[run].value(EMPTY));
    let setup = format!(
        "{IN_FLIGHT} calls at once, of one process; hyper is a client without retries, time-outs and decoding, \
         whose signature is made by hand; the middle of {} rounds.",
        rounds[0].len()
    );
    let mut outcome = outcome(&CALL, setup, runs);
    outcome.goals = vec![
        Goal::at_most("an empty page against the SDK's", ours / sdk * 100.0, 50.0, " %"),
        Goal::at_most("an empty page against hyper's", ours / raw * 100.0, 200.0, " %"),
    ];
    Ok(outcome)
}

/// A service's page, which its iterator gets each time.
pub struct Page {
    records: usize,
    /// Its iterator.
    pub iterator: String,
    /// The service's address.
    pub url: String,
    clients: Clients,
    _service: Service,
}

impl Page {
    /// A page of so many records.
    pub fn make(records: u64) -> Result<Self, anyhow::Error> {
        let service = Service::start(1, "NEW_IMAGE")?;
        let mut client = service.client()?;
        if records > 0 {
            client.preload(&Backlog { records_per_shard: records, value_bytes: 250, value_attributes: 3 })?;
        }
        let request = json!({
            "StreamArn": client.stream_arn()?, "ShardId": client.first_shard()?, "ShardIteratorType": "TRIM_HORIZON",
        });
        let answer = client.call("GetShardIterator", &request)?;
        let iterator = answer["ShardIterator"].as_str().context("no iterator")?.to_owned();
        let (url, records) = (service.url(), usize::try_from(records)?);
        Ok(Self { records, iterator, clients: clients(&url), url, _service: service })
    }

    /// Microseconds of this process's CPU a call.
    async fn cost(&self, contender: Contender, calls: usize) -> Result<f64, anyhow::Error> {
        let stream = stream(&self.clients);
        let raw = Raw::new(&self.url)?;
        let before = cpu();
        let mut tasks = JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let (stream, raw, client) = (stream.clone(), raw.clone(), self.clients.streams.clone());
            let (iterator, expected) = (self.iterator.clone(), self.records);
            tasks.spawn(async move {
                for _ in 0..calls / IN_FLIGHT {
                    let records = match contender {
                        Contender::Ours => stream.records(&iterator, 1000).await?.records.len(),
                        Contender::Sdk => client.get_records().shard_iterator(&iterator).send().await?.records().len(),
                        Contender::Raw => raw.get_records(&iterator).await.map(|_| expected)?,
                    };
                    ensure!(records == expected, "a page has {records} records instead of {expected}");
                }
                anyhow::Ok(())
            });
        }
        for outcome in tasks.join_all().await {
            outcome?;
        }
        Ok((cpu() - before).as_secs_f64() * 1e6 / (calls / IN_FLIGHT * IN_FLIGHT) as f64)
    }
}

/// The stream of a worker.
pub fn stream(clients: &Clients) -> Stream {
    Stream::new(clients.streams.clone(), "arn:aws:dynamodb:us-east-1:000000000000:table/T/stream/1")
}

/// The clients of a worker.
pub fn clients(url: &str) -> Clients {
    let credentials = Credentials::new("bench", "bench", None, None, "bench");
    let config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .endpoint_url(url)
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build();
    clients::clients(&clients::with_own_pool(&config), &Endpoints::default(), Duration::from_secs(1), "bench")
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
