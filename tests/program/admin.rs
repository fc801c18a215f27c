//! The admin server of real workers on the local service: metrics, liveness, readiness, and the fleet's state.

use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::fixture::{Fixture, TABLE, Worker, with_credentials};
use crate::support::local_service::Written;
use crate::support::shardkeeper;
use crate::support::wait::{let_last, wait_for};

pub const ANY_PORT: &str = "--metrics-addr 127.0.0.1:0";

/// Status and body of a GET.
pub fn get(address: &str, path: &str) -> (u16, String) {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n"))
}

pub fn ask(address: &str, request: &str) -> (u16, String) {
    let mut connection = TcpStream::connect(address).expect("it listens");
    connection.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
    connection.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("it answers and closes");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    (head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status"), body.to_owned())
}

/// The address of a worker that was told to take any port.
pub fn address_of(worker: &Worker) -> String {
    worker.wait_for_log("serving /metrics");
    let log = worker.log();
    let line = log.lines().find(|line| line.contains("serving /metrics")).expect("it says where");
    let line: Value = serde_json::from_str(line).expect("a line of JSON");
    line["address"].as_str().expect("an address").to_owned()
}

/// The value of the only series whose line begins so.
pub fn value(metrics: &str, series: &str) -> Option<f64> {
    let line = metrics.lines().find(|line| line.starts_with(series))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn a_worker_that_loses_its_tables_is_not_ready_within_five_seconds_lives_on_and_is_ready_again() {
    let fixture = Fixture::new("--shards 2");
    let deliveries = fixture.deliveries("app");
    let worker = fixture.worker("app", "w", &deliveries, &format!("{ANY_PORT} --lease-duration 5s"));
    let address = address_of(&worker);
    assert_eq!(get(&address, "/live"), (200, "alive\n".into()));
    wait_for("it to be ready", || get(&address, "/ready") == (200, "ready\n".into()));

    fixture.service.faults(&json!({"refuse": ["tables"]}));
    let mut body = String::new();
    wait_for("it not to be ready", || {
        let (status, text) = get(&address, "/ready");
        body = text;
        status == 503
    });
    assert!(body.starts_with("not ready:\n- ") && body.contains("table"), "{body}");
    assert_eq!(get(&address, "/live").0, 200);
    assert_eq!(get(&address, "/status").0, 503);
    let_last(Duration::from_secs(6));
    assert_eq!((get(&address, "/ready").0, get(&address, "/live").0), (503, 200), "longer than a lease");

    fixture.service.faults(&json!({}));
    wait_for("it to be ready again", || get(&address, "/ready").0 == 200);
}

#[test]
fn a_lease_table_alone_that_is_lost_is_found_out_by_asking() {
    let fixture = Fixture::new("--shards 1");
    let deliveries = fixture.deliveries("app");
    // A follower has no business with the lease table while nothing happens.
    let leader = fixture.worker("app", "a", &deliveries, "--metrics-addr off --lease-duration 5s");
    leader.wait_for_log("\"lease taken\"");
    let worker = fixture.worker("app", "b", &deliveries, &format!("{ANY_PORT} --lease-duration 5s --max-leases 1"));
    let address = address_of(&worker);
    wait_for("it to be ready", || get(&address, "/ready").0 == 200);
    // Reading single items, which looking at its own item in the fleet table does too, but heartbeats continue.
    let plan = json!({"rules": [
        {"share": 1.0, "effect": "error", "code": "InternalServerError", "operations": ["GetItem"]}
    ]});
    fixture.service.faults(&plan);
    let mut body = String::new();
    wait_for("it not to be ready", || {
        let (status, text) = get(&address, "/ready");
        body = text;
        status == 503
    });
    assert!(body.contains("every call on the lease table has failed"), "{body}");
    fixture.service.faults(&json!({}));
    wait_for("it to be ready again", || get(&address, "/ready").0 == 200);
}

#[test]
fn a_shard_that_stands_still_is_named_and_its_lag_grows_until_it_moves_again() {
    let fixture = Fixture::new("--shards 1");
    let source = format!("--table {TABLE}");
    let flags = format!("{ANY_PORT} --unready-after 1s --metrics-per-shard");
    let mut worker = fixture.worker_on(&source, "app", "w", Stdio::piped(), &flags);
    let address = address_of(&worker);
    wait_for("it to be ready", || get(&address, "/ready").0 == 200);
    // Nobody reads its standard output: the pipe fills up, and the sink behind it.
    fixture.service.write(TABLE, &mut Written::default(), 20_000);
    let mut body = String::new();
    wait_for("it to be stuck", || {
        let (status, text) = get(&address, "/ready");
        body = text;
        status == 503 && body.contains("made no progress")
    });
    assert!(body.contains("- shard shardId-") && body.contains("a call of the processor does not return"), "{body}");
    let metrics = get(&address, "/metrics").1;
    assert_eq!(value(&metrics, "shardkeeper_ready"), Some(0.0));
    wait_for("its lag to grow", || {
        let metrics = get(&address, "/metrics").1;
        let lag = |series: &str| value(&metrics, series).is_some_and(|lag| lag > 3.0);
        lag("shardkeeper_lag_seconds{app=\"app\",table=\"Things\",stat=\"max\"}")
            && lag("shardkeeper_group_lag_seconds{")
            && lag("shardkeeper_shard_lag_seconds{app=\"app\",table=\"Things\",shard=\"shardId-")
    });
    worker.wait_for_log("shard stalled");

    let mut stdout = worker.take_stdout();
    let reader = std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    wait_for("it to be ready again", || get(&address, "/ready").0 == 200);
    wait_for("it to be caught up", || {
        let metrics = get(&address, "/metrics").1;
        value(&metrics, "shardkeeper_shard_lag_seconds{") == Some(0.0)
            && value(&metrics, "shardkeeper_group_lag_seconds{") == Some(0.0)
    });
    worker.wait_for_log("shard moves again");
    assert_eq!(worker.stop(), 0);
    reader.join().expect("it does not panic").expect("the pipe ends");
}

#[test]
fn the_series_of_a_finished_shard_disappears() {
    let fixture = Fixture::new("--shards 1");
    let deliveries = fixture.deliveries("app");
    let worker = fixture.worker("app", "w", &deliveries, &format!("{ANY_PORT} --metrics-per-shard"));
    let address = address_of(&worker);
    let shards = || -> Vec<String> {
        let metrics = get(&address, "/metrics").1;
        let lines = metrics.lines().filter(|line| line.starts_with("shardkeeper_shard_lag_seconds{"));
        lines.filter_map(|line| Some(line.split("shard=\"").nth(1)?.split('"').next()?.to_owned())).collect()
    };
    wait_for("the shard's series", || shards().len() == 1);
    let parent = shards();
    fixture.service.change_shards(TABLE, "split");
    wait_for("the children's series alone", || shards().len() == 2 && !shards().contains(&parent[0]));
}

#[test]
fn the_status_page_says_what_the_command_says_and_costs_the_tables_little() {
    let fixture = Fixture::new("--shards 3");
    let deliveries = fixture.deliveries("app");
    let worker = fixture.worker("app", "w", &deliveries, ANY_PORT);
    let address = address_of(&worker);
    wait_for("three shards that are read", || {
        let (status, page) = get(&address, "/status");
        let page: Value = serde_json::from_str(&page).unwrap_or_default();
        status == 200 && page["totals"]["shards"]["reading"] == 3
    });
    let page: Value = serde_json::from_str(&get(&address, "/status").1).expect("JSON");
    let url = fixture.service.url();
    let mut command = shardkeeper();
    let line = format!("status --app app --table {TABLE} --json --endpoint-url {url} --lease-duration 2s");
    let output = with_credentials(&mut command).args(line.split(' ')).output().expect("it runs");
    let printed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let names = |value: &Value| -> Vec<String> { value.as_object().expect("an object").keys().cloned().collect() };
    let shared: Vec<String> = names(&page).into_iter().filter(|name| name != "configuration").collect();
    assert_eq!(shared, names(&printed));
    assert_eq!(page["configuration"]["version"], 1);
    assert_eq!((&page["stream"], &page["leader"]), (&printed["stream"], &printed["leader"]));
    assert_eq!(names(&page["shards"][0]), names(&printed["shards"][0]));

    let listed = fixture.service.calls("DescribeStream");
    (0..50).for_each(|_| assert_eq!(get(&address, "/status").0, 200));
    assert!(fixture.service.calls("DescribeStream") <= listed + 5, "each page lists the shards");
}

#[test]
fn a_finished_shard_whose_lease_is_cleaned_up_is_not_shown_as_one_without_a_lease() {
    let fixture = Fixture::new("--shards 2");
    let deliveries = fixture.deliveries("app");
    let worker = fixture.worker("app", "w", &deliveries, ANY_PORT);
    let address = address_of(&worker);
    let shards = || -> Value {
        let page: Value = serde_json::from_str(&get(&address, "/status").1).unwrap_or_default();
        page["totals"]["shards"].clone()
    };
    wait_for("two shards that are read", || shards() == json!({"reading": 2}));
    let parents: Vec<String> = fixture.service.leases("app").into_keys().collect();
    fixture.service.change_shards(TABLE, "split");
    wait_for("their children to be read", || shards()["reading"] == 4);
    // As the leader does after its next listing.
    for parent in &parents {
        fixture.service.call("DeleteItem", &json!({"TableName": "app", "Key": {"leaseKey": {"S": parent}}}));
    }
    // Longer than one reading of the status is shown.
    let_last(Duration::from_secs(3));
    assert_eq!(shards(), json!({"reading": 4}));
}

#[test]
fn events_are_log_lines_with_kinds_and_a_client_that_comes_back_misses_none() {
    let fixture = Fixture::new("--shards 2");
    let deliveries = fixture.deliveries("app");
    // Whatever the log shows.
    let worker = fixture.worker("app", "w", &deliveries, &format!("{ANY_PORT} --log-level warn,shardkeeper::cli=info"));
    let address = address_of(&worker);
    let events = |query: &str| -> Vec<Value> {
        let (status, body) = get(&address, &format!("/events{query}"));
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("an array")
    };
    let taken = || events("?limit=1000").into_iter().filter(|event| event["kind"] == "lease_taken").count();
    wait_for("both leases to be taken", || taken() == 2);
    assert!(!worker.log().contains("lease taken"), "the log has a filter of its own");
    let all = events("?limit=1000");
    let event = all.iter().find(|event| event["kind"] == "lease_taken").expect("it was found");
    assert_eq!(
        (&event["worker"], &event["level"], &event["text"]),
        (&json!("w"), &json!("info"), &json!("lease taken"))
    );
    assert!(event["shard"].as_str().is_some_and(|shard| shard.starts_with("shardId-")), "{event}");
    assert_eq!(event["details"]["reason"], "new");
    assert!(event["at_ms"].as_u64().is_some_and(|at_ms| at_ms > 1_700_000_000_000), "{event}");
    assert_eq!(events("?limit=1"), all[all.len() - 1..]);
    assert_eq!(get(&address, "/events?limit=many").0, 400);

    // The stream tells all that is kept, or what came after the id that the client has, and then what happens.
    let mut whole = Stream::open(&address, None);
    let told: Vec<Value> = (0..all.len()).map(|_| whole.next()).collect();
    assert_eq!(told, all);
    let middle = all.len() / 2;
    let mut rest = Stream::open(&address, all[middle]["id"].as_u64());
    let told: Vec<Value> = (middle + 1..all.len()).map(|_| rest.next()).collect();
    assert_eq!(told, all[middle + 1..]);
    fixture.service.change_shards(TABLE, "split");
    let mut kinds = std::iter::repeat_with(|| rest.next()["kind"].as_str().expect("a kind").to_owned());
    assert!(kinds.any(|kind| kind == "shard_finished"));

    // Clients beyond the limit are told so, and keep nobody else out.
    let more: Vec<Stream> = (0..6).map(|_| Stream::open(&address, None)).collect();
    assert_eq!(get(&address, "/events").0, 503);
    assert_eq!(get(&address, "/live").0, 200);
    drop(more);
}

#[test]
fn a_worker_tells_its_figures_of_the_last_minutes() {
    let fixture = Fixture::new("--shards 2");
    let deliveries = fixture.deliveries("app");
    let worker = fixture.worker("app", "w", &deliveries, ANY_PORT);
    let address = address_of(&worker);
    fixture.service.write(TABLE, &mut Written::default(), 100);
    wait_for("a sample of a fleet that is caught up", || {
        let page: Value = serde_json::from_str(&get(&address, "/worker").1).expect("JSON");
        assert_eq!((&page["app"], &page["worker"], &page["interval_ms"]), (&json!("app"), &json!("w"), &json!(5_000)));
        page["samples"].as_array().expect("an array").last().is_some_and(|sample| {
            sample["records"] == 100
                && sample["workers"] == 1
                && [&sample["lag_ms"], &sample["fleet_lag_ms"]].iter().all(|lag| **lag == 0)
                && sample["fleet_trim_headroom_ms"].as_u64().is_some_and(|left| left > 86_000_000)
        })
    });
}

/// A client of `/events`.
struct Stream(std::io::BufReader<TcpStream>);

impl Stream {
    fn open(address: &str, last: Option<u64>) -> Stream {
        let mut connection = TcpStream::connect(address).expect("it listens");
        connection.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
        let last = last.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
        let head = format!("GET /events HTTP/1.1\r\nhost: {address}\r\n{last}\r\n");
        connection.write_all(head.as_bytes()).expect("it reads");
        let mut stream = Stream(std::io::BufReader::new(connection));
        while stream.line() != "retry: 1000" {}
        stream
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.0.read_line(&mut line).expect("it is told something"), 0, "the stream ended");
        line.trim_end().to_owned()
    }

    /// The next event.
    fn next(&mut self) -> Value {
        loop {
            if let Some(data) = self.line().strip_prefix("data: ") {
                return serde_json::from_str(data).expect("JSON");
            }
        }
    }
}

#[test]
fn a_taken_default_address_is_done_without_and_a_taken_chosen_one_is_an_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let chosen = taken.local_addr().expect("an address");
    let fixture = Fixture::new("--shards 1");
    let deliveries = fixture.deliveries("app");
    let mut worker = fixture.worker("app", "w", &deliveries, &format!("--metrics-addr {chosen}"));
    worker.assert_fails(&["cannot serve metrics on", "port 0 is any free one"]);
    // Whether the default is free here or not, a worker starts with it, and so does the next one.
    let first = fixture.worker("app", "first", &deliveries, "");
    first.wait_for_log("\"lease taken\"");
    let second = fixture.worker("app", "second", &deliveries, "");
    second.wait_for_log("the default address is taken, perhaps by another worker");
}

#[test]
fn requests_that_are_not_for_it_are_refused_and_slow_ones_keep_nobody_out() {
    let fixture = Fixture::new("--shards 1");
    let deliveries = fixture.deliveries("app");
    let worker = fixture.worker("app", "w", &deliveries, ANY_PORT);
    let address = address_of(&worker);
    assert_eq!(ask(&address, "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").0, 405);
    assert_eq!(get(&address, "/secrets").0, 404);
    // More connections that never ask for anything than there may be at once.
    let idle: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(&address).expect("it listens")).collect();
    assert_eq!(get(&address, "/live").0, 200, "once the first of them are given up");
    drop(idle);
}
