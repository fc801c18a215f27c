//! A real Prometheus with the shipped rules, for tests: a minute passes in a second.
//!
//! Its rules are the shipped file with every length of time divided by sixty, but for those that a fleet's own pace sets:
//! the half minute that a new owner or a new leader may take is three seconds, and the age limit of a listing stays above
//! the minute between two listings.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::wait::wait_for;

/// A Prometheus that scrapes workers twice a second, with the shipped rules, for which a minute passes in a second.
pub struct Prometheus {
    process: Child,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts it on these workers; alerts go to the Alertmanager, if there is one. Trim headroom is low when the oldest
    /// change is `old_s` seconds old.
    pub fn start(program: &Path, workers: &[SocketAddr], alertmanager: Option<SocketAddr>, old_s: u32) -> Self {
        let address = free_address();
        let name = format!("prometheus-{}-{}", std::process::id(), address.port());
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir_all(&folder).expect("a folder of the test's own");
        let targets: Vec<String> = workers.iter().map(|worker| format!("'{worker}'")).collect();
        let alertmanager = alertmanager.map(|address| format!("{{static_configs: [{{targets: ['{address}']}}]}}"));
        let config = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}\n\
             rule_files: [rules.yml]\n\
             alerting: {{alertmanagers: [{}]}}\n\
             scrape_configs: [{{job_name: shardkeeper, static_configs: [{{targets: [{}]}}]}}]\n",
            alertmanager.unwrap_or_default(),
            targets.join(", ")
        );
        std::fs::write(folder.join("prometheus.yml"), config).expect("it can be written");
        std::fs::write(folder.join("rules.yml"), hastened(&shipped_rules(), old_s)).expect("it can be written");
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
    pub fn query(&self, query: &str) -> Vec<Value> {
        let (status, body) = get(self.address, &format!("/api/v1/query?query={}", percent_encoded(query)));
        assert_eq!(status, 200, "{query}: {body}");
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(answer["status"], "success", "{query}: {body}");
        answer["data"]["result"].as_array().expect("a list of series").clone()
    }

    /// Waits until a query returns a series.
    pub fn wait(&self, what: &str, query: &str) {
        wait_for(what, || !self.query(query).is_empty());
    }

    /// The names of the alerts that fire.
    pub fn alerts(&self) -> BTreeSet<String> {
        self.alert_names(r#"ALERTS{alertstate="firing"}"#)
    }

    /// The names of the alerts that fired at any time in the last seconds.
    pub fn alerts_within(&self, seconds: u64) -> BTreeSet<String> {
        self.alert_names(&format!(r#"count_over_time(ALERTS{{alertstate="firing"}}[{seconds}s])"#))
    }

    fn alert_names(&self, query: &str) -> BTreeSet<String> {
        let series = self.query(query);
        series.iter().map(|alert| alert["metric"]["alertname"].as_str().expect("a name").to_owned()).collect()
    }

    pub fn wait_for_alert(&self, name: &str) {
        wait_for(&format!("{name} to fire"), || self.alerts().contains(name));
    }

    /// Waits until just these alerts fire.
    pub fn wait_for_alerts(&self, names: &[&str]) {
        let wanted: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut last = BTreeSet::new();
        wait_for(&format!("just {wanted:?} to fire"), || {
            last = self.alerts();
            last == wanted
        });
    }

    /// Checks that every rule was evaluated without an error, and that every recorded series is there.
    pub fn check_rules(&self) {
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

/// The rules for a fleet that lives sixty times as fast: minutes become seconds, and 300 seconds of lag are 15, more than a
/// take-over lasts.
fn hastened(rules: &str, old_s: u32) -> String {
    let mut hastened = rules.to_owned();
    let headroom = format!("vector(24 * 3600 - {old_s})");
    for (before, after) in [
        ("for: 30s", "for: 3s"),
        ("vector(300)", "vector(15)"),
        ("vector(6 * 3600)", &headroom),
        ("vector(600)", "vector(65)"),
        ("shardkeeper_start_time_seconds > 60", "shardkeeper_start_time_seconds > 1"),
    ] {
        assert!(hastened.contains(before), "no {before:?} in the rules");
        hastened = hastened.replace(before, after);
    }
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
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address")
}

pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
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
