//! A real Prometheus over real workers, through half a minute in which something happens: what it shows is what
//! happened, every query of the dashboard and every rule returns series, and the right alerts fire and clear.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::prometheus_server::{Prometheus, free_address, get};
use crate::support::fixture::{Fixture, TABLE};
use crate::support::local_service::Written;
use crate::support::wait::wait_for;
use crate::support::{dashboard, tools};

/// Records enough to fill the pipe of a worker that nobody reads.
const PIPE_FILLING_RECORDS: usize = 2_000;

#[test]
fn prometheus_shows_what_happens_to_a_fleet_and_alerts_on_it() {
    let (Some(prometheus), Some(promtool)) = (tools::find("prometheus"), tools::find("promtool")) else { return };
    let fixture = Fixture::new("--shards 6");
    let addresses: Vec<SocketAddr> = (0..3).map(|_| free_address()).collect();
    let prometheus = Prometheus::start(&prometheus, &addresses, None, 35);
    let mut deliveries = fixture.deliveries("audit");
    let flags = |address: &SocketAddr| {
        format!("--metrics-addr {address} --metrics-per-shard --unready-after 2s --lease-duration 8s")
    };
    let start = |id: &str, address: &SocketAddr, stdout: Stdio| {
        fixture.worker_on(&format!("--table {TABLE}"), "audit", id, stdout, &flags(address))
    };
    // The first one leads, and lives through it all: only a leader speaks for the whole group.
    let mut reading = start("reading", &addresses[0], deliveries.stdout());
    reading.wait_for_log("this worker leads the fleet");
    let mut dying = start("dying", &addresses[1], deliveries.stdout());
    let mut stuck = start("stuck", &addresses[2], Stdio::piped());
    let mut written = Written::default();

    // Each has two shards, everything is read, and nothing is behind.
    wait_for("two shards each", || fixture.service.shares("audit").into_values().collect::<Vec<_>>() == [2, 2, 2]);
    fixture.service.write(TABLE, &mut written, 60);
    fixture.service.change_shards(TABLE, "rollover");
    fixture.service.write(TABLE, &mut written, 60);
    prometheus.wait("all workers to be scraped and ready", "sum(shardkeeper_ready) == 3");
    prometheus.wait("all records to be counted", "sum(shardkeeper_records_processed_total) >= 120");
    prometheus.wait("no lag, once everything is read and nothing new comes", "shardkeeper:group_lag_seconds == 0");
    prometheus.wait("no shard without an owner", r#"sum(shardkeeper:group_shards{state="reading"}) == 6"#);
    check_metrics(&promtool, addresses[0]);
    prometheus.wait_for_alerts(&[]);

    // A worker dies. What its shards get meanwhile counts, though no worker reads it.
    dying.kill();
    fixture.service.write(TABLE, &mut written, 60);
    prometheus.wait(
        "the dead worker's shards to show",
        r#"sum(shardkeeper:group_shards{state=~"unowned|owner_silent"}) > 0"#,
    );
    prometheus.wait("their lag to count", "shardkeeper:group_lag_seconds > 1");
    prometheus.wait_for_alert("ShardkeeperShardsUnowned");
    prometheus.wait("the others to take them over", r#"sum(shardkeeper:group_shards{state="reading"}) == 6"#);
    prometheus.wait("the lag to be worked off", "shardkeeper:group_lag_seconds == 0");

    // A processor gets stuck: nobody reads what the worker prints.
    fixture.service.write(TABLE, &mut written, PIPE_FILLING_RECORDS);
    prometheus.wait("the stuck shards to show", r#"sum(shardkeeper_shards_stuck{cause="processor"}) > 0"#);
    prometheus.wait("the lag to grow", "shardkeeper:group_lag_seconds > 5");
    prometheus.wait_for_alert("ShardkeeperShardsStuck");
    prometheus.wait_for_alert("ShardkeeperLagHigh");
    prometheus.wait("the stuck worker to say that it isn't ready", "min(shardkeeper_ready) == 0");
    assert_eq!(get(addresses[2], "/live").0, 200, "it may still recover by itself");

    // Every query works, and shows something, while there is something to show.
    for query in dashboard::queries(&dashboard::dashboard()) {
        let query = with_variables(&query);
        // A passing event, such as the mark of a start, need not show now; it must only be a good query.
        let passes = query.contains("changes(shardkeeper_is_leader") || query.contains(" < 30");
        match passes {
            true => drop(prometheus.query(&query)),
            false => prometheus.wait(&format!("series of {query}"), &query),
        }
    }

    // Somebody reads again.
    let mut output = stuck.take_stdout();
    let drained = std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    prometheus.wait("nothing to be stuck", "sum(shardkeeper_shards_stuck) == 0");
    prometheus.wait("no lag", "shardkeeper:group_lag_seconds == 0");
    prometheus.wait("both to be ready", "sum(shardkeeper_ready) == 2");
    prometheus.wait_for_alerts(&[]);
    prometheus.check_rules();

    deliveries.refresh();
    assert_eq!([reading.stop(), stuck.stop()], [0, 0]);
    drained.join().expect("it does not panic").expect("the pipe can be read");
}

/// The text of /metrics passes promtool without a warning.
fn check_metrics(promtool: &Path, address: SocketAddr) {
    let (status, text) = get(address, "/metrics");
    assert_eq!(status, 200);
    let mut check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    check.stdin.take().expect("a pipe was asked for").write_all(text.as_bytes()).expect("promtool reads");
    let output = check.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// A query as Grafana sends it for all applications and tables.
fn with_variables(query: &str) -> String {
    query.replace("$__rate_interval", "10s").replace("$app", ".*").replace("$table", ".*")
}
