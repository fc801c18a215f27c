//! Records to a handler over HTTP, and beside it a client that only posts as many bytes.

use std::process::Command;
use std::time::Duration;

use anyhow::ensure;

use super::{Scenario, Stage};
use crate::handler::{CLIENT_ROLE, Handler};
use crate::process::{Ended, Process};
use crate::report::{Figure, Outcome, Run, middle, outcome};
use crate::service::{Backlog, Service};
use crate::workers::Reader;

/// Records of the size of `backlog-300`.
pub const HANDLER: Scenario =
    Scenario { name: "http-handler", title: "a backlog of records with a new image of 300 bytes, to a handler", run };

/// Records of a request: the worker's default.
const BATCH: u64 = 100;
const SHARDS: u32 = 24;
const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(180);

fn run(stage: &Stage) -> Result<Outcome, anyhow::Error> {
    stage.progress.step("making the backlog");
    let service = Service::start(SHARDS, "NEW_IMAGE")?;
    let records_per_shard = stage.pick(500, 10_000);
    let backlog = Backlog { records_per_shard, value_bytes: 250, value_attributes: 3 };
    let total = service.client()?.preload(&backlog)?;
    let handler = Handler::start()?;
    let labels = ["shardkeeper --to null", "shardkeeper --to http://…", "hyper, posting as many bytes"];
    let mut rounds = [const { Vec::new() }; 3];
    let mut bytes_per_record = 0;
    for round in 1..=stage.pick(1, ROUNDS) {
        let mut work = |to: &str, name: &str| -> Result<Ended, anyhow::Error> {
            stage.progress.step(&format!("to {name}, round {round}"));
            let app = format!("handler-{round}-{name}");
            let flags = format!("--to {to} --until-caught-up");
            let (ended, counted) = Reader::worker(&service, stage.folder(), &app, "worker-1", &flags)?.finish(LIMIT)?;
            ensure!(counted.records == total, "{} of {total} records were delivered", counted.records);
            bytes_per_record = counted.bytes / total;
            Ok(ended)
        };
        let ended = [work("null", "null")?, work(&handler.url, "handler")?];
        let mut client = Command::new(std::env::current_exe()?);
        let posts = total / BATCH;
        client.args([CLIENT_ROLE, &handler.url]);
        client.args([bytes_per_record * BATCH, posts, u64::from(SHARDS)].map(|number| number.to_string()));
        let [null, http] = ended;
        let posted = Process::start(&mut client, "the posting client")?.finish(LIMIT)?;
        for (rounds, ended) in rounds.iter_mut().zip([null, http, posted]) {
            let cpu = ended.cpu.as_secs_f64() * 1e6 / total as f64;
            rounds.push(vec![Figure::some("CPU a record", cpu, "µs")]);
        }
    }
    let runs: Vec<Run> = labels.iter().zip(&rounds).map(|(label, rounds)| middle(label, rounds)).collect();
    let setup = format!(
        "{total} records of {bytes_per_record} bytes of JSON in {SHARDS} shards, {BATCH} a request; one process; the \
         middle of {} rounds.",
        rounds[0].len()
    );
    Ok(outcome(&HANDLER, setup, runs))
}
