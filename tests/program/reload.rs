//! A configuration file that is read again by a running worker: at SIGHUP, and when it changes.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex};

use serde_json::{Value, json};

use crate::admin::{address_of, ask, get, value};
use crate::support::fixture::{Fixture, TABLE, Worker};
use crate::support::local_service::Written;
use crate::support::wait::{let_last, wait_for};
use crate::surroundings::Server;

/// A handler whose answers the test decides, by the number of the records of a request and its body.
struct Handler {
    server: Server,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    holds: bool,
    fails: bool,
    held: usize,
}

impl Handler {
    fn start() -> Self {
        let state = Arc::<(Mutex<State>, Condvar)>::default();
        let shared = Arc::clone(&state);
        let server = Server::start(move |_| {
            let (state, changed) = &*shared;
            let mut state = state.lock().expect("nobody panics holding it");
            state.held += 1;
            while state.holds {
                state = changed.wait(state).expect("nobody panics holding it");
            }
            state.held -= 1;
            (if state.fails { 500 } else { 200 }, String::new())
        });
        Self { server, state }
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.0.lock().expect("nobody panics holding it"));
        self.state.1.notify_all();
    }

    /// The requests that wait for an answer.
    fn held(&self) -> usize {
        self.state.0.lock().expect("nobody panics holding it").held
    }

    /// The number of records of each request that was answered.
    fn batches(&self) -> Vec<usize> {
        let requests = self.server.requests();
        let body = |request: &String| {
            let (_, body) = request.split_once("\r\n\r\n").expect("a head");
            serde_json::from_str::<Value>(body).expect("JSON")
        };
        requests.iter().map(|request| body(request)["Records"].as_array().expect("records").len()).collect()
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.set(|state| state.holds = false);
    }
}

/// A worker with a configuration file, and what its handler gets.
struct Configured {
    fixture: Fixture,
    handler: Handler,
    worker: Worker,
    file: PathBuf,
    written: Written,
    reloads: usize,
}

impl Configured {
    fn start(content: &str, flags: &str) -> Self {
        let (fixture, handler) = (Fixture::new("--shards 1"), Handler::start());
        let file = fixture.log("toml");
        std::fs::write(&file, content).expect("it can be written");
        let flags = format!("--config {} --to {} {flags}", file.display(), handler.server.url);
        let worker = fixture.worker_on(&format!("--table {TABLE}"), "app", "w", Stdio::null(), &flags);
        worker.wait_for_log("\"lease taken\"");
        Self { fixture, handler, worker, file, written: Written::default(), reloads: 0 }
    }

    fn write(&mut self, count: usize) {
        self.fixture.service.write(TABLE, &mut self.written, count);
    }

    /// Waits until the handler has got these numbers of records, in the sum of all its requests.
    fn wait_for_records(&self, count: usize) {
        wait_for(&format!("{count} records to arrive"), || self.handler.batches().iter().sum::<usize>() >= count);
    }

    fn wait_for_checkpoints(&self) {
        self.fixture.wait_for_checkpoints("app");
    }

    /// Replaces the file in one step, as editors do.
    fn replace_file(&self, content: &str) {
        let replacement = self.file.with_extension("new");
        std::fs::write(&replacement, content).expect("it can be written");
        std::fs::rename(replacement, &self.file).expect("it replaces the other");
    }

    /// Changes the file, and waits until the worker has taken it.
    fn reload(&mut self, content: &str) {
        self.replace_file(content);
        self.worker.signal("HUP");
        self.reloads += 1;
        wait_for("the configuration to be reloaded", || self.lines("\"configuration reloaded\"").len() == self.reloads);
    }

    /// Changes the file, of whose taking the log says nothing.
    fn reload_unseen(&self, content: &str) {
        self.replace_file(content);
        self.worker.signal("HUP");
    }

    /// The lines of the log that hold these words.
    fn lines(&self, words: &str) -> Vec<Value> {
        let log = self.worker.log();
        log.lines().filter(|line| line.contains(words)).map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

#[test]
fn batches_follow_a_reload() {
    let mut it = Configured::start("batch-size = 1", "");
    it.write(3);
    it.wait_for_records(3);
    assert_eq!(it.handler.batches(), [1, 1, 1]);
    // A window that no test lasts: a batch goes out when it is full.
    it.reload("batch-size = 5\nbatch-window = '5m'");
    it.write(5);
    it.wait_for_records(8);
    assert_eq!(it.handler.batches()[3..], [5]);
    it.reload("batch-bytes = 1");
    it.write(2);
    it.wait_for_records(10);
    assert_eq!(it.handler.batches()[4..], [1, 1]);
    it.reload("");
    it.wait_for_checkpoints();
    let changed = it.lines("\"configuration reloaded\"").pop().expect("a line");
    assert_eq!((&changed["version"], &changed["options"]), (&json!(4), &json!("batch-bytes")));
    assert_eq!(it.worker.stop(), 0);
}

#[test]
fn filters_follow_a_reload_and_what_they_leave_out_is_done() {
    let mut it = Configured::start("", "");
    it.write(2);
    it.wait_for_records(2);
    it.reload("events = 'remove'");
    it.write(2);
    it.wait_for_checkpoints();
    it.reload("filter = '{\"dynamodb\":{\"NewImage\":{\"n\":{\"N\":[\"1\"]}}}}'");
    it.write(1);
    it.wait_for_checkpoints();
    assert_eq!(it.handler.batches().iter().sum::<usize>(), 3, "items begin with 1");
    it.reload("skip-ttl-deletes = true");
    it.write(1);
    it.wait_for_records(4);
    assert_eq!(it.worker.stop(), 0);
}

#[test]
fn concurrency_follows_a_reload_beside_a_delivery_that_lasts() {
    let mut it = Configured::start("batch-size = 1", "");
    it.handler.set(|state| state.holds = true);
    it.write(6);
    wait_for("a delivery", || it.handler.held() == 1);
    it.reload("batch-size = 1\nconcurrency = 3");
    wait_for("three deliveries at once", || it.handler.held() == 3);
    it.reload("batch-size = 1\nconcurrency = 3\nshard-concurrency = 2");
    it.handler.set(|state| state.holds = false);
    it.wait_for_checkpoints();
    it.reload("batch-size = 1\nshard-concurrency = 4");
    it.handler.set(|state| state.holds = true);
    it.write(6);
    wait_for("four deliveries at once", || it.handler.held() == 4);
    it.reload("batch-size = 1");
    it.handler.set(|state| state.holds = false);
    it.wait_for_checkpoints();
    it.handler.set(|state| state.holds = true);
    it.write(6);
    wait_for("a delivery", || it.handler.held() == 1);
    let_last(std::time::Duration::from_millis(500));
    assert_eq!(it.handler.held(), 1, "one after the other again");
    it.handler.set(|state| state.holds = false);
    it.wait_for_checkpoints();
    assert_eq!(it.worker.stop(), 0);
}

#[test]
fn a_lower_concurrency_holds_for_what_begins() {
    let mut it = Configured::start("batch-size = 1\nconcurrency = 4", "");
    it.handler.set(|state| state.holds = true);
    it.write(6);
    wait_for("four deliveries at once", || it.handler.held() == 4);
    it.reload("batch-size = 1\nconcurrency = 2");
    let answered = it.handler.batches().len();
    it.handler.set(|state| state.holds = false);
    it.wait_for_checkpoints();
    assert!(it.handler.batches().len() > answered);
    it.handler.set(|state| state.holds = true);
    it.write(6);
    wait_for("two deliveries at once", || it.handler.held() == 2);
    let_last(std::time::Duration::from_millis(500));
    assert_eq!(it.handler.held(), 2);
    it.handler.set(|state| state.holds = false);
    it.wait_for_checkpoints();
    assert_eq!(it.worker.stop(), 0);
}

#[test]
fn the_handling_of_failures_follows_a_reload_and_frees_a_blocked_shard() {
    let mut it = Configured::start("", "");
    it.handler.set(|state| state.fails = true);
    it.write(1);
    it.worker.wait_for_log("record keeps failing, shard blocked");
    // After the eighth failure the waits are up to 25 seconds long.
    it.worker.wait_for_log("\"attempts\":8");
    it.reload("on-failure = 'skip'\nretry-attempts = 1");
    it.wait_for_checkpoints();
    assert_eq!(it.lines("\"record skipped\"").len(), 1);

    it.reload("on-failure = 'dead-letter'\nretry-attempts = 0");
    it.write(1);
    it.wait_for_checkpoints();
    assert_eq!(it.lines("\"record dead-lettered\"").len(), 1);
    let letters = it.fixture.service.call("Scan", &json!({"TableName": "app-DeadLetters"}));
    assert_eq!(letters["Count"], 1);

    let file = it.fixture.log("letters");
    it.reload(&format!("on-failure = 'dead-letter'\nretry-attempts = 0\ndead-letters = 'file:{}'", file.display()));
    it.write(1);
    it.wait_for_checkpoints();
    assert_eq!(std::fs::read_to_string(file).expect("it is written").lines().count(), 1);

    it.reload("on-failure = 'skip'\nmax-record-age = '1s'\nbisect = false");
    it.write(2);
    it.wait_for_checkpoints();
    let ages: Vec<Value> = it.lines("\"record skipped\"").iter().map(|line| line["reason"].clone()).collect();
    assert_eq!(ages, ["attempts", "age", "age"]);

    it.handler.set(|state| (state.fails, state.holds) = (false, true));
    it.reload("on-failure = 'skip'\nretry-attempts = 0\nhandler-timeout = '100ms'");
    it.write(1);
    it.worker.wait_for_log("the call took longer than the handler's timeout, 100ms");
    it.handler.set(|state| state.holds = false);
    it.wait_for_checkpoints();
    assert_eq!(it.worker.stop(), 0);
}

#[test]
fn dead_letters_that_cannot_be_written_wait_for_a_policy_that_works() {
    let mut it = Configured::start("on-failure = 'dead-letter'\nretry-attempts = 0", "");
    it.handler.set(|state| state.fails = true);
    it.fixture.service.call("DeleteTable", &json!({"TableName": "app-DeadLetters"}));
    it.write(1);
    it.worker.wait_for_log("writing a dead letter failed, retrying");
    it.reload("on-failure = 'skip'\nretry-attempts = 0");
    it.wait_for_checkpoints();
    assert_eq!(it.lines("\"record skipped\"").len(), 1);
    assert_eq!(it.worker.stop(), 0);
}

#[test]
fn a_wrong_file_changes_nothing_and_all_its_mistakes_are_logged() {
    let mut it = Configured::start("batch-size = 1", "--metrics-addr 127.0.0.1:0");
    let address = address_of(&it.worker);
    it.replace_file("batch-size = 0\nbatch-sise = 5\nlog-level = 'loud'");
    it.worker.signal("HUP");
    it.worker.wait_for_log("configuration refused, keeping the last one");
    let refused = it.lines("configuration refused").pop().expect("a line");
    let mistakes = refused["mistakes"].as_str().expect("text");
    for mistake in [":1: batch-size: 0 is out of range", ":2: unknown key \"batch-sise\"", ":3: log-level: \"loud\""] {
        assert!(mistakes.contains(mistake), "no {mistake} in {mistakes}");
    }
    // What is right by itself, and cannot work on this stream.
    it.replace_file("filter = '{\"dynamodb\":{\"Keys\":{\"key\":{\"X\":[\"1\"]}}}}'");
    it.worker.signal("HUP");
    wait_for("a second refusal", || it.lines("configuration refused").len() == 2);
    it.write(3);
    it.wait_for_records(3);
    assert_eq!(it.handler.batches(), [1, 1, 1]);
    let (_, metrics) = get(&address, "/metrics");
    assert_eq!(value(&metrics, "shardkeeper_config_last_reload_successful"), Some(0.0));
    assert_eq!(it.worker.stop(), 0);
}

#[test]
fn what_needs_a_restart_is_named_once_and_kept() {
    let mut it = Configured::start("batch-size = 1\nunready-after = '9s'", "--metrics-addr 127.0.0.1:0");
    let address = address_of(&it.worker);
    // The default size of batches belongs to the destination, which stays.
    it.reload("to = 'null'\nlease-duration = '9s'\nmax-leases = 3\nlog-level = 'debug'");
    let kept = it.lines("changed options need a restart, keeping their last values");
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0]["options"], "max-leases, unready-after", "flags go before the file");
    it.write(3);
    it.wait_for_records(3);
    wait_for("the configuration's version", || {
        let (status, page) = get(&address, "/status");
        status == 200 && serde_json::from_str::<Value>(&page).expect("JSON")["configuration"]["version"] == 2
    });
    let (_, metrics) = get(&address, "/metrics");
    assert_eq!(
        value(&metrics, "shardkeeper_config_reloads_total{app=\"app\",table=\"Things\",result=\"applied\""),
        Some(1.0)
    );
    assert_eq!(value(&metrics, "shardkeeper_config_last_reload_successful"), Some(1.0));
    assert_eq!(it.worker.stop(), 0);
}

#[test]
fn the_level_of_the_log_follows_a_reload_and_the_admin_address() {
    let mut it = Configured::start("", "--metrics-addr 127.0.0.1:0");
    let address = address_of(&it.worker);
    let put = |level: &str| {
        let length = level.len();
        let head = format!("PUT /log-level HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\n\r\n");
        ask(&address, &(head + level))
    };
    assert_eq!(get(&address, "/log-level"), (200, "info\n".into()));
    it.reload_unseen("log-level = 'error'");
    wait_for("the file's level", || get(&address, "/log-level") == (200, "error\n".into()));
    assert_eq!(put("shardkeeper=debug,warn"), (200, "shardkeeper=debug,warn\n".into()));
    let (status, mistake) = put("loud");
    assert!(status == 400 && mistake.contains("\"loud\" is neither a level"), "{status} {mistake}");
    assert_eq!(ask(&address, "DELETE /log-level HTTP/1.1\r\nhost: x\r\n\r\n").0, 405);
    assert_eq!(ask(&address, "PUT /ready HTTP/1.1\r\nhost: x\r\n\r\n").0, 405);
    it.handler.set(|state| state.fails = true);
    it.write(1);
    it.worker.wait_for_log("processor failed, retrying");
    it.handler.set(|state| state.fails = false);
    assert_eq!(put("off"), (200, "off\n".into()));
    it.reload_unseen("log-level = 'info'\nbatch-size = 7");
    wait_for("the file's level", || get(&address, "/log-level") == (200, "info\n".into()));
    assert_eq!(it.worker.stop(), 0);
}

#[test]
fn a_watched_file_is_read_when_it_changes() {
    let mut it = Configured::start("batch-size = 1", "--watch-config");
    it.replace_file("batch-size = 2\nbatch-window = '5m'");
    it.worker.wait_for_log("\"configuration reloaded\"");
    it.write(2);
    it.wait_for_records(2);
    assert_eq!(it.handler.batches(), [2]);
    std::fs::remove_file(&it.file).expect("it is there");
    it.replace_file("batch-size = 3\nbatch-window = '5m'");
    wait_for("the next version", || it.lines("\"configuration reloaded\"").len() == 2);
    assert_eq!(it.lines("configuration refused"), Vec::<Value>::new());
    assert_eq!(it.worker.stop(), 0);
}

#[test]
fn hang_ups_without_a_file_during_the_start_and_during_the_drain_do_no_harm() {
    let fixture = Fixture::new("--shards 1");
    let handler = Handler::start();
    let url = &handler.server.url;
    fixture.service.faults(&json!({"refuse": ["tables"]}));
    let mut worker = fixture.worker_on(
        &format!("--table {TABLE}"),
        "app",
        "w",
        Stdio::null(),
        &format!("--to {url} --drain-timeout 20s"),
    );
    worker.wait_for_log("service not reachable yet, retrying");
    worker.signal("HUP");
    worker.wait_for_log("no configuration file is given, nothing to read again");
    fixture.service.faults(&json!({}));
    worker.wait_for_log("\"lease taken\"");
    handler.set(|state| state.holds = true);
    fixture.service.write(TABLE, &mut Written::default(), 1);
    wait_for("a delivery", || handler.held() == 1);
    worker.signal("TERM");
    worker.wait_for_log("asked to stop");
    worker.signal("HUP");
    wait_for("the second hang-up", || worker.log().matches("no configuration file is given").count() == 2);
    handler.set(|state| state.holds = false);
    assert_eq!(worker.exit_code(), 0, "{}", worker.log());
    fixture.wait_for_checkpoints("app");
}

#[test]
fn a_file_that_changes_during_the_start_counts_once_the_stream_is_found() {
    let fixture = Fixture::new("--shards 1");
    let handler = Handler::start();
    let file = fixture.log("toml");
    std::fs::write(&file, "batch-size = 1").expect("it can be written");
    fixture.service.faults(&json!({"refuse": ["tables"]}));
    let flags = format!("--to {} --config {}", handler.server.url, file.display());
    let mut worker = fixture.worker_on(&format!("--table {TABLE}"), "app", "w", Stdio::null(), &flags);
    worker.wait_for_log("service not reachable yet, retrying");
    std::fs::write(&file, "batch-size = 2\nbatch-window = '5m'").expect("it can be written");
    worker.signal("HUP");
    worker.wait_for_log("asked to read the configuration again");
    fixture.service.faults(&json!({}));
    worker.wait_for_log("\"configuration reloaded\"");
    fixture.service.write(TABLE, &mut Written::default(), 2);
    wait_for("the records", || handler.batches() == [2]);
    assert_eq!(worker.stop(), 0);
}
