//! A real Prometheus over real workers, through half a minute in which something happens: what it shows is what
//! happened, every query of the dashboard and every rule returns series, and the right alerts fire and clear.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

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
    let prometheus = Prometheus::start(&prometheus, &addresses);
    let mut deliveries = fixture.deliveries("audit");
    let flags = |address: &SocketAddr| {
        format!("--metrics-addr {address} --metrics-per-shard --unready-after 2s --lease-duration 4s")
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

/// A Prometheus that scrapes workers twice a second, with the shipped rules, for which a minute passes in a second.
struct Prometheus {
    process: Child,
    address: SocketAddr,
}

impl Prometheus {
    fn start(program: &Path, workers: &[SocketAddr]) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("prometheus-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir_all(&folder).expect("a folder of the test's own");
        let targets: Vec<String> = workers.iter().map(|worker| format!("'{worker}'")).collect();
        let config = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}\n\
             rule_files: [rules.yml]\n\
             scrape_configs: [{{job_name: shardkeeper, static_configs: [{{targets: [{}]}}]}}]\n",
            targets.join(", ")
        );
        std::fs::write(folder.join("prometheus.yml"), config).expect("it can be written");
        std::fs::write(folder.join("rules.yml"), hastened(&shipped_rules())).expect("it can be written");
        let address = free_address();
        let process = Command::new(program)
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .stdout(Stdio::null())
            .spawn()
            .expect("prometheus starts");
        let prometheus = Self { process, address };
        wait_for("prometheus to be ready", || try_get(address, "/-/ready").is_some_and(|(status, _)| status == 200));
        prometheus
    }

    /// The series that a query returns now.
    fn query(&self, query: &str) -> Vec<Value> {
        let (status, body) = get(self.address, &format!("/api/v1/query?query={}", percent_encoded(query)));
        assert_eq!(status, 200, "{query}: {body}");
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(answer["status"], "success", "{query}: {body}");
        answer["data"]["result"].as_array().expect("a list of series").clone()
    }

    /// Waits until a query returns a series.
    fn wait(&self, what: &str, query: &str) {
        wait_for(what, || !self.query(query).is_empty());
    }

    /// The names of the alerts that fire.
    fn alerts(&self) -> BTreeSet<String> {
        let firing = self.query(r#"ALERTS{alertstate="firing"}"#);
        firing.iter().map(|alert| alert["metric"]["alertname"].as_str().expect("a name").to_owned()).collect()
    }

    fn wait_for_alert(&self, name: &str) {
        wait_for(&format!("{name} to fire"), || self.alerts().contains(name));
    }

    /// Waits until just these alerts fire.
    fn wait_for_alerts(&self, names: &[&str]) {
        let wanted: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut last = BTreeSet::new();
        wait_for(&format!("just {wanted:?} to fire"), || {
            last = self.alerts();
            last == wanted
        });
    }

    /// Checks that every rule was evaluated without an error, and that every recorded series is there.
    fn check_rules(&self) {
        let (_, body) = get(self.address, "/api/v1/rules");
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        let groups = answer["data"]["groups"].as_array().expect("groups");
        let rules: Vec<&Value> = groups.iter().flat_map(|group| group["rules"].as_array().expect("rules")).collect();
        assert!(rules.len() > 15, "{} rules", rules.len());
        for rule in rules {
            assert_eq!(rule["health"], "ok", "{rule}");
            if rule["type"] == "recording" {
                let name = rule["name"].as_str().expect("a name");
                assert!(!self.query(name).is_empty(), "{name} has no series");
            }
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("firing: {:?}", try_get(self.address, "/api/v1/alerts"));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn shipped_rules() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("observability/prometheus/rules.yml");
    std::fs::read_to_string(path).expect("the rules are there")
}

/// The rules for a fleet that lives sixty times as fast: minutes become seconds, and 300 seconds of lag are 5.
fn hastened(rules: &str) -> String {
    let mut hastened = rules.replace("for: 30s", "for: 500ms").replace("vector(300)", "vector(5)");
    for minutes in [1, 2, 5, 10, 15] {
        for (before, after) in [("for: ", "\n"), ("[", "]"), ("offset ", ")")] {
            let from = format!("{before}{minutes}m{after}");
            hastened = hastened.replace(&from, &format!("{before}{minutes}s{after}"));
        }
    }
    assert!(!hastened.contains("0m]") && !hastened.contains("5m\n"), "a length of time was missed");
    hastened
}

/// An address that was free a moment ago.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address")
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    try_get(address, path).unwrap_or_else(|| panic!("no answer from http://{address}{path}"))
}

/// The status and the body of an answer; nothing without one.
fn try_get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut connection = TcpStream::connect(address).ok()?;
    connection.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    // HTTP/1.0: the answer comes in one piece and ends with the connection.
    write!(connection, "GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

fn percent_encoded(text: &str) -> String {
    let bytes = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    bytes.collect()
}
