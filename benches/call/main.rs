//! CPU time of a GetRecords call: the worker's client, a loop on the SDK, and hyper with a signature by hand.
//!
//!     cargo bench --bench call                    all pages, five rounds
//!     cargo bench --bench call -- --rounds 2 --calls 2000
//!
//! The three read the same pages from the same server, a process of its own, in turn. A line gives microseconds of CPU a
//! call, user and system, and their ratio to the SDK's, with the least and the most of all rounds.

mod raw;
mod server;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider};
use rustix::time::{ClockId, clock_gettime};
use shardkeeper::Endpoints;
use shardkeeper::internals::aws::clients::{self, Clients, SdkConfig};
use shardkeeper::internals::aws::stream::Stream;
use tokio::task::JoinSet;

/// Calls in flight at once.
const IN_FLIGHT: usize = 16;
const CONTENDERS: [Contender; 3] = [Contender::Sdk, Contender::Ours, Contender::Raw];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contender {
    Ours,
    Sdk,
    Raw,
}

impl Contender {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "shardkeeper",
            Self::Sdk => "SDK loop",
            Self::Raw => "raw hyper",
        }
    }
}

fn main() -> Result<(), anyhow::Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == server::ROLE) {
        return server::run();
    }
    let number = |name: &str, default: usize| -> Result<usize, anyhow::Error> {
        let Some(at) = arguments.iter().position(|argument| argument == name) else { return Ok(default) };
        arguments.get(at + 1).and_then(|text| text.parse().ok()).with_context(|| format!("{name} takes a number"))
    };
    let (rounds, calls) = (number("--rounds", 5)?, number("--calls", 4000)?);
    let server = Server::start()?;
    println!("{:<8} {:<12} {:>10} {:>24}", "page", "client", "us a call", "of the SDK's (min..max)");
    tokio::runtime::Runtime::new()?.block_on(compare(&server.url, rounds, calls))
}

async fn compare(url: &str, rounds: usize, calls: usize) -> Result<(), anyhow::Error> {
    let clients = clients(url);
    for page in server::PAGES {
        let mut costs = [const { Vec::new() }; CONTENDERS.len()];
        for round in 0..=rounds {
            for (contender, costs) in CONTENDERS.into_iter().zip(&mut costs) {
                let cost = measure(contender, &clients, url, page, calls).await?;
                if round > 0 {
                    costs.push(cost); // the first warms up
                }
            }
        }
        for (contender, of_contender) in CONTENDERS.iter().zip(&costs) {
            let ratios: Vec<f64> = of_contender.iter().zip(&costs[0]).map(|(cost, sdk)| cost / sdk).collect();
            let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
            let most = ratios.iter().copied().fold(0.0, f64::max);
            let (cost, ratio) = (median(of_contender), median(&ratios));
            println!("{page:<8} {:<12} {cost:>10.1} {ratio:>8.2} ({least:.2}..{most:.2})", contender.name());
        }
    }
    Ok(())
}

/// Microseconds of CPU a call.
async fn measure(
    contender: Contender,
    clients: &Clients,
    url: &str,
    page: &'static str,
    calls: usize,
) -> Result<f64, anyhow::Error> {
    let stream = Stream::new(clients.streams.clone(), "arn:aws:dynamodb:us-east-1:000000000000:table/Things/stream/1");
    let raw = raw::Raw::new(url)?;
    let before = cpu();
    let mut tasks = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (stream, raw, client) = (stream.clone(), raw.clone(), clients.streams.clone());
        tasks.spawn(async move {
            let mut records = 0;
            for _ in 0..calls / IN_FLIGHT {
                records += match contender {
                    Contender::Ours => stream.records(page, 1000).await?.records.len(),
                    Contender::Sdk => client.get_records().shard_iterator(page).send().await?.records().len(),
                    Contender::Raw => raw.get_records(page).await?,
                };
            }
            anyhow::Ok(records)
        });
    }
    let mut records = 0;
    for outcome in tasks.join_all().await {
        records += outcome?;
    }
    let calls = calls / IN_FLIGHT * IN_FLIGHT;
    anyhow::ensure!(
        contender == Contender::Raw || records == calls * server::records_of(page),
        "{} read {records} records in {calls} calls of page {page:?}",
        contender.name()
    );
    Ok((cpu() - before).as_secs_f64() * 1e6 / calls as f64)
}

fn clients(url: &str) -> Clients {
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

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The server, which ends with the bench.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start() -> Result<Self, anyhow::Error> {
        let mut child = Command::new(std::env::current_exe()?).arg(server::ROLE).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("no output")?;
        let mut url = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut url)?;
        Ok(Self { child, url: url.trim().to_owned() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
