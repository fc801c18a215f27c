//! A backlog, read as fast as possible by one process: a worker, and beside it the SDK loop.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::{MIB, Scenario, Stage};
use crate::process::own_cpu;
use crate::report::{Figure, Goal, Outcome, Run, middle, outcome};
use crate::service::{Backlog, Client, Service};
use crate::workers::{Counted, CountedLines, Reader};

/// Small records to nowhere and to a pipe.
pub const SMALL: Scenario =
    Scenario { name: "backlog-300", title: "a backlog of records with a new image of 300 bytes", run: small };
/// Larger records.
pub const BOTH_IMAGES: Scenario =
    Scenario { name: "backlog-1k", title: "a backlog of records with two images of 1 KB", run: both_images };
/// The smallest records.
pub const KEYS_ONLY: Scenario =
    Scenario { name: "backlog-keys", title: "a backlog of records with keys only", run: keys_only };

const NULL: &str = "shardkeeper --to null";
const STDOUT: &str = "shardkeeper --to stdout";
const BARE: &str = "SDK loop";
const CPU: &str = "CPU a record";
const SPEED: &str = "records a second";
/// Runs of each reader; the middle figures count.
const ROUNDS: usize = 3;
/// No run takes this long.
const LIMIT: Duration = Duration::from_secs(180);
/// The interval at which the service is asked for its progress.
const LOOK: Duration = Duration::from_millis(10);

fn small(stage: &Stage) -> Result<Outcome, anyhow::Error> {
    let backlog = Backlog { records_per_shard: stage.pick(2500, 40_000), value_bytes: 250, value_attributes: 3 };
    let mut outcome = compare(stage, &SMALL, &Kind { view: "NEW_IMAGE", backlog, to_stdout: true })?;
    let [null, stdout, bare] = &outcome.runs[..] else { anyhow::bail!("three runs were wanted") };
    outcome.goals = vec![
        Goal::at_most("CPU a record against the SDK loop's", ratio(null, bare, CPU) * 100.0, 33.3, " %"),
        Goal::at_most("CPU a record to stdout against the SDK loop's", ratio(stdout, bare, CPU) * 100.0, 60.0, " %"),
        Goal::at_least("records a second against the SDK loop's", ratio(null, bare, SPEED), 2.5, " ×"),
    ];
    Ok(outcome)
}

fn both_images(stage: &Stage) -> Result<Outcome, anyhow::Error> {
    let backlog = Backlog { records_per_shard: stage.pick(1000, 24_000), value_bytes: 950, value_attributes: 7 };
    let kind = Kind { view: "NEW_AND_OLD_IMAGES", backlog, to_stdout: false };
    let mut outcome = compare(stage, &BOTH_IMAGES, &kind)?;
    let [null, bare] = &outcome.runs[..] else { anyhow::bail!("two runs were wanted") };
    outcome.goals =
        vec![Goal::at_most("CPU a record against the SDK loop's", ratio(null, bare, CPU) * 100.0, 20.0, " %")];
    Ok(outcome)
}

fn keys_only(stage: &Stage) -> Result<Outcome, anyhow::Error> {
    let backlog = Backlog { records_per_shard: stage.pick(2500, 40_000), value_bytes: 100, value_attributes: 1 };
    compare(stage, &KEYS_ONLY, &Kind { view: "KEYS_ONLY", backlog, to_stdout: false })
}

struct Kind {
    view: &'static str,
    backlog: Backlog,
    to_stdout: bool,
}

fn ratio(one: &Run, other: &Run, figure: &str) -> f64 {
    one.value(figure) / other.value(figure)
}

fn compare(stage: &Stage, scenario: &Scenario, kind: &Kind) -> Result<Outcome, anyhow::Error> {
    stage.progress.step("making the backlog");
    let shards = stage.pick(4, 24);
    let service = Service::start(shards, kind.view)?;
    let mut client = service.client()?;
    let total = client.preload(&kind.backlog)?;
    ensure!(total == u64::from(shards) * kind.backlog.records_per_shard, "the backlog has {total} records");
    let arn = client.stream_arn()?;

    let mut labels = vec![NULL, BARE];
    if kind.to_stdout {
        labels.insert(1, STDOUT);
    }
    let mut rounds: Vec<Vec<Vec<Figure>>> = vec![Vec::new(); labels.len()];
    let mut bytes_per_record = 0.0;
    for round in 1..=stage.pick(1, ROUNDS) {
        for (label, rounds) in labels.iter().zip(&mut rounds) {
            stage.progress.step(&format!("{label}, round {round}"));
            let app = format!("load-{round}-{}", label.rsplit(' ').next().unwrap_or_default());
            let start = || match *label {
                BARE => Reader::bare(&service, stage.folder(), &app, &arn),
                _ => {
                    let to = label.trim_start_matches("shardkeeper ");
                    let flags = format!("{to} --until-caught-up");
                    Reader::worker(&service, stage.folder(), &app, "worker-1", &flags)
                }
            };
            let (measured, counted) = Measured::of(stage, &service, &mut client, start, *label == STDOUT, total)?;
            ensure!(counted.records == total, "{label} counted {} of {total} records", counted.records);
            if counted.bytes > 0 {
                bytes_per_record = counted.bytes as f64 / total as f64;
            }
            rounds.push(measured.figures(total, bytes_per_record));
        }
    }
    let runs: Vec<Run> = labels.iter().zip(&rounds).map(|(label, rounds)| middle(label, rounds)).collect();
    let setup = format!(
        "{total} records of {bytes_per_record:.0} bytes of JSON in {shards} shards; one process reads all of it; the \
         middle of {} rounds.",
        rounds[0].len()
    );
    Ok(outcome(scenario, setup, runs))
}

/// One reader's figures for the backlog.
struct Measured {
    cpu: Duration,
    peak_bytes: u64,
    /// From the process's start.
    first_record: Duration,
    /// From the first record to the last one.
    reading: Duration,
    /// The part of the CPU time, until the reader's end, that the service took.
    service_part: f64,
    /// GetRecords calls a second while records came.
    calls_per_second: f64,
}

impl Measured {
    fn of(
        stage: &Stage,
        service: &Service,
        client: &mut Client,
        start_reader: impl FnOnce() -> Result<Reader, anyhow::Error>,
        is_piped: bool,
        total: u64,
    ) -> Result<(Self, Counted), anyhow::Error> {
        let (start, before) = (Instant::now(), client.stats()?);
        let (service_cpu, own) = (service.process.cpu()?, own_cpu()?);
        let mut reader = start_reader()?;
        let lines = is_piped.then(|| reader.stdout().map(CountedLines::of)).transpose()?;
        let (mut first, mut last, mut calls) = (None, None, 0);
        while last.is_none() {
            ensure!(start.elapsed() < LIMIT, "the backlog was not read within {LIMIT:?}");
            // In this order: what a reader took before its end is counted after it.
            let is_running = reader.process.is_running()?;
            let stats = client.stats()?;
            let served = stats.served() - before.served();
            stage.progress.part("reading", served, total);
            if served > 0 && first.is_none() {
                first = Some(start.elapsed());
            }
            if served >= total {
                last = Some(start.elapsed());
                calls = stats.calls("GetRecords") - before.calls("GetRecords");
            } else if !is_running {
                break;
            }
            std::thread::sleep(LOOK);
        }
        let (ended, mut counted) = reader.finish(LIMIT)?;
        if let Some(lines) = lines {
            let (count, last_line) = lines.finish()?;
            counted.records = counted.records.min(count);
            last = last_line.map(|at| at.duration_since(start));
        }
        let first_record = first.context("the reader ended without a record")?;
        let reading = last.context("the reader ended before the last record")?.saturating_sub(first_record);
        let service_cpu = service.process.cpu()?.saturating_sub(service_cpu);
        let all_cpu = service_cpu + ended.cpu + own_cpu()?.saturating_sub(own);
        let measured = Self {
            cpu: ended.cpu,
            peak_bytes: ended.peak_bytes,
            first_record,
            reading: reading.max(LOOK),
            service_part: service_cpu.as_secs_f64() / all_cpu.as_secs_f64().max(0.001),
            calls_per_second: calls as f64 / reading.max(LOOK).as_secs_f64(),
        };
        Ok((measured, counted))
    }

    fn figures(&self, total: u64, bytes_per_record: f64) -> Vec<Figure> {
        let per_second = total as f64 / self.reading.as_secs_f64();
        vec![
            Figure::some(SPEED, per_second, ""),
            Figure::some("throughput", per_second * bytes_per_record / 1e6, "MB/s"),
            Figure::some(CPU, self.cpu.as_secs_f64() * 1e6 / total as f64, "µs"),
            Figure::some("peak memory", self.peak_bytes as f64 / MIB, "MiB"),
            Figure::some("first record after the start", self.first_record.as_secs_f64() * 1000.0, "ms"),
            Figure::some("GetRecords calls a second", self.calls_per_second, ""),
            Figure::any("the service's part of all CPU time", self.service_part * 100.0, "%"),
        ]
    }
}
