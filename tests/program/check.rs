//! `shardkeeper check`: a line for each thing that a worker needs, with what to do about those that are not right.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::support::fixture::{Fixture, TABLE};
use crate::support::local_service::LocalService;
use crate::support::wait::{now, pause};
use crate::support::{Finished, finish, shardkeeper};

const APP: &str = "audit";

fn check_as(caller: &str, url: &str, flags: &str) -> Finished {
    let mut command = shardkeeper();
    command.env("AWS_ACCESS_KEY_ID", caller).env("AWS_SECRET_ACCESS_KEY", caller);
    let line = format!("check --app {APP} --endpoint-url {url} {flags}");
    finish(command.args(line.split_whitespace()).stdin(Stdio::null()))
}

fn check(fixture: &Fixture, flags: &str) -> Finished {
    check_as("local", &fixture.service.url(), &format!("--table {TABLE} {flags}"))
}

fn assert_fails(checked: &Finished, words: &[&str]) {
    assert_eq!(checked.code, 1, "{}{}", checked.stdout, checked.stderr);
    let is_meant = |line: &str| line.starts_with("failure") && words.iter().all(|word| line.contains(word));
    assert!(checked.stdout.lines().any(is_meant), "{words:?} in {}", checked.stdout);
}

/// All items of all tables, and the tables' names.
fn content(service: &LocalService) -> Value {
    let tables = service.call("ListTables", &json!({}))["TableNames"].clone();
    let items = tables.as_array().expect("names").iter().map(|table| {
        let scanned = service.call("Scan", &json!({"TableName": table}));
        scanned["Items"].clone()
    });
    json!([items.collect::<Vec<_>>(), tables])
}

fn run_once(fixture: &Fixture) {
    let mut command = shardkeeper();
    command.env("AWS_ACCESS_KEY_ID", "local").env("AWS_SECRET_ACCESS_KEY", "local");
    let url = fixture.service.url();
    let line = format!("run --table {TABLE} --app {APP} --endpoint-url {url} --until-caught-up --to null");
    let finished = finish(command.args(line.split_whitespace()).stdin(Stdio::null()));
    assert_eq!(finished.code, 0, "{}", finished.stderr);
}

/// The policy of deploy/iam for workers, for the local service's region and account.
fn workers_policy() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/iam/worker.json");
    let mut text = std::fs::read_to_string(path).expect("the policy's file");
    for (name, value) in
        [("AWS_REGION", "us-east-1"), ("AWS_ACCOUNT_ID", "000000000000"), ("TABLE", TABLE), ("APP", APP)]
    {
        text = text.replace(&format!("${{{name}}}"), value);
    }
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn everything_right_is_shown_as_such_before_and_after_the_first_worker_and_nothing_is_written() {
    let fixture = Fixture::new("--shards 2");
    let dead_letters = "--on-failure dead-letter --retry-attempts 1";
    for _ in 0..2 {
        let before = content(&fixture.service);
        let checked = check(&fixture, dead_letters);
        assert_eq!(checked.code, 0, "{}{}", checked.stdout, checked.stderr);
        assert!(checked.stdout.lines().all(|line| line.starts_with("ok")), "{}", checked.stdout);
        assert_eq!(content(&fixture.service), before);
        run_once(&fixture);
    }
    let checked = check(&fixture, "--json");
    let report: Value = serde_json::from_str(&checked.stdout).expect("JSON");
    assert_eq!((checked.code, &report["ok"]), (0, &json!(true)));
    let checks = report["checks"].as_array().expect("findings");
    for name in ["credentials", "stream", "view type", "permissions", "lease table", "fleet table", "clock"] {
        assert!(checks.iter().any(|check| check["name"] == name && check["result"] == "ok"), "{name} in {report}");
    }
}

#[test]
fn a_missing_stream_table_and_application_table_are_named_with_what_to_do() {
    let fixture = Fixture::empty("");
    fixture.service.create_table("Still", false);
    let url = fixture.service.url();
    assert_fails(&check_as("local", &url, "--table Still"), &["has no stream", "update-table"]);
    assert_fails(&check_as("local", &url, "--table Absent"), &["table Absent does not exist"]);
    fixture.service.create_table(TABLE, true);
    assert_fails(&check(&fixture, "--no-create-tables"), &["lease table", "audit does not exist"]);
    fixture.service.create_table(APP, false);
    assert_fails(&check(&fixture, ""), &["belongs to something else", "Choose another application"]);
}

#[test]
fn a_filter_on_an_image_that_the_stream_does_not_hold_fails() {
    let fixture = Fixture::new("");
    let filter = r#"{"dynamodb":{"OldImage":{"status":{"S":["paid"]}}}}"#;
    assert_fails(&check(&fixture, &format!("--filter {filter}")), &["filters", "OldImage"]);
    let no_key = r#"{"dynamodb":{"Keys":{"status":{"S":["paid"]}}}}"#;
    assert_fails(&check(&fixture, &format!("--filter {no_key}")), &["filters", "dynamodb.Keys.status", "it is key"]);
}

#[test]
fn parts_of_filters_that_lambda_would_treat_otherwise_are_warnings() {
    let fixture = Fixture::new("");
    let filter = r#"{"dynamodb":{"NewImage":{"n":{"N":[{"numeric":[">",100]},"7"]}}}}"#;
    let checked = check(&fixture, &format!("--filter {filter}"));
    assert_eq!(checked.code, 0, "{}{}", checked.stdout, checked.stderr);
    let warnings: Vec<&str> = checked.stdout.lines().filter(|line| line.starts_with("warning")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("dynamodb.NewImage.n.N: numeric"), "{warnings:?}");
}

#[test]
fn each_missing_permission_of_a_worker_is_named_with_its_table() {
    let fixture = Fixture::new("--shards 2");
    run_once(&fixture);
    let whole = workers_policy();
    let policy = |policy: &Value| fixture.service.faults(&json!({"policies": {"worker": policy}}));
    let flags = format!("--table {TABLE}");
    policy(&whole);
    let checked = check_as("worker", &fixture.service.url(), &flags);
    assert_eq!(checked.code, 0, "the worker's policy is enough: {}", checked.stdout);

    let mut tried = 0;
    for (index, statement) in whole["Statement"].as_array().expect("statements").iter().enumerate() {
        // KCL's tables, which are read only while leases name its workers.
        let Some(resource) = statement["Resource"].as_str() else { continue };
        let resource = resource.trim_end_matches("/stream/*");
        let table = resource.rsplit('/').next().expect("a table's ARN");
        let actions = match &statement["Action"] {
            Value::String(action) => vec![action.clone()],
            actions => serde_json::from_value(actions.clone()).expect("names"),
        };
        for missing in &actions {
            let rest: Vec<&String> = actions.iter().filter(|action| *action != missing).collect();
            let mut poor = whole.clone();
            match rest.is_empty() {
                true => drop(poor["Statement"].as_array_mut().expect("statements").remove(index)),
                false => poor["Statement"][index]["Action"] = json!(rest),
            }
            policy(&poor);
            assert_fails(&check_as("worker", &fixture.service.url(), &flags), &[missing, table]);
            tried += 1;
        }
    }
    assert_eq!(tried, 17);
}

#[test]
fn a_missing_permission_to_create_tables_is_named_and_no_table_is_created() {
    let fixture = Fixture::new("");
    fixture.service.faults(&json!({"policies": {"worker": workers_policy()}}));
    let checked = check_as("worker", &fixture.service.url(), &format!("--table {TABLE}"));
    assert_fails(&checked, &["dynamodb:CreateTable", "audit"]);
    assert_fails(&checked, &["dynamodb:CreateTable", "audit-Fleet"]);
    assert_eq!(fixture.service.call("ListTables", &json!({}))["TableNames"], json!([TABLE]));
}

#[test]
fn a_handler_is_called_without_records_and_fails_the_check_when_it_is_away_or_refuses() {
    let fixture = Fixture::new("");
    let handler = |status: u16| {
        serve(move |_| format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").into_bytes())
    };
    let good = check(&fixture, &format!("--to {}/records", handler(200)));
    assert_eq!(good.code, 0, "{}", good.stdout);
    assert!(good.stdout.contains("handler"), "{}", good.stdout);
    assert_fails(&check(&fixture, &format!("--to {}/records", handler(404))), &["handler", "404"]);
    let away = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    assert_fails(&check(&fixture, &format!("--to http://{away}/")), &["handler", "cannot be reached"]);
}

#[test]
fn a_living_fleet_of_the_kinesis_client_library_fails_the_check_and_a_dead_one_does_not() {
    let fixture = Fixture::new("");
    let service = &fixture.service;
    service.call(
        "CreateTable",
        &json!({
            "TableName": APP, "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": "leaseKey", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "leaseKey", "KeyType": "HASH"}],
        }),
    );
    let shard = service.shards(TABLE)[0].id.clone();
    let renew = |service: &LocalService, counter: u64| {
        service.call(
            "PutItem",
            &json!({"TableName": APP, "Item": {
                "leaseKey": {"S": shard}, "leaseOwner": {"S": "kcl-worker-7"}, "checkpoint": {"S": "TRIM_HORIZON"},
                "leaseCounter": {"N": counter.to_string()}, "checkpointSubSequenceNumber": {"N": "0"},
                "ownerSwitchesSinceCheckpoint": {"N": "0"},
            }}),
        );
    };
    renew(service, 1);
    let dead = check(&fixture, "--kcl-failover-time 1s");
    assert_eq!(dead.code, 0, "{}", dead.stdout);
    assert!(dead.stdout.contains("kcl-worker-7"), "{}", dead.stdout);
    let mut poor = workers_policy();
    poor["Statement"].as_array_mut().expect("statements").retain(|statement| statement["Sid"] != "KclTables");
    service.faults(&json!({"policies": {"worker": poor}}));
    let flags = format!("--table {TABLE} --kcl-failover-time 1s --no-create-tables");
    let blind = check_as("worker", &service.url(), &flags);
    let names_it =
        |line: &str| line.starts_with("warning") && line.contains("dynamodb:Scan") && line.contains("audit-W");
    assert!(blind.stdout.lines().any(names_it), "{}", blind.stdout);

    let is_over = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut counter = 2;
            while !is_over.load(Ordering::Relaxed) {
                renew(service, counter);
                counter += 1;
                pause();
            }
        });
        let alive = check(&fixture, "");
        is_over.store(true, Ordering::Relaxed);
        assert_fails(&alive, &["KCL fleet", "kcl-worker-7", "stop that fleet"]);
    });
}

#[test]
fn a_clock_five_minutes_off_fails_the_check_and_one_of_half_a_minute_warns() {
    let fixture = Fixture::new("");
    let address = fixture.service.address();
    let behind = |seconds: u64| {
        serve(move |request| {
            let mut service = TcpStream::connect(address).expect("the service listens");
            service.write_all(&closing(request)).expect("it takes the request");
            let mut answer = Vec::new();
            service.read_to_end(&mut answer).expect("an answer");
            with_date(&answer, now() + Duration::from_secs(seconds))
        })
    };
    let flags = format!("--table {TABLE}");
    assert_fails(&check_as("local", &behind(300), &flags), &["clock", "behind", "synchronize"]);
    let slightly = check_as("local", &behind(30), &flags);
    assert_eq!(slightly.code, 0, "{}", slightly.stdout);
    assert!(slightly.stdout.lines().any(|line| line.starts_with("warning  clock")), "{}", slightly.stdout);
}

/// A server that answers each connection's request by a function of its bytes. Returns its URL.
fn serve(answer: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || {
                let Some(request) = read_request(&connection) else { return };
                let _ = (&connection).write_all(&answer(&request));
            });
        }
    });
    url
}

fn read_request(mut connection: &TcpStream) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte).ok()?;
        request.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&request).to_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    connection.read_exact(&mut body).ok()?;
    request.extend(body);
    Some(request)
}

/// The request on a connection that carries no other one.
fn closing(request: &[u8]) -> Vec<u8> {
    let end_of_line = request.windows(2).position(|pair| pair == b"\r\n").expect("a first line") + 2;
    [&request[..end_of_line], b"connection: close\r\n", &request[end_of_line..]].concat()
}

/// The answer, as if it had been given at `time`.
fn with_date(answer: &[u8], time: SystemTime) -> Vec<u8> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&answer[..end]);
    let mut lines: Vec<String> =
        head.lines().filter(|line| !line.to_lowercase().starts_with("date:")).map(str::to_owned).collect();
    let date = aws_smithy_types::DateTime::from(time);
    let date = date.fmt(aws_smithy_types::date_time::Format::HttpDate).expect("a date");
    lines.push(format!("date: {date}"));
    [lines.join("\r\n").as_bytes(), &answer[end..]].concat()
}
