//! Errors of a worker that cannot start, and how soon they come.

use std::net::TcpListener;
use std::process::Stdio;

use serde_json::json;

use crate::support::fixture::{Fixture, TABLE, Worker, with_credentials};
use crate::support::local_service::Written;
use crate::support::{finish, shardkeeper};
use crate::surroundings::Server;

const ON_A_TABLE: [&str; 5] = ["run", "--table", "Things", "--app", "audit"];

#[test]
fn without_credentials_it_says_what_to_set() {
    let mut command = shardkeeper();
    // A machine in the cloud would have a role.
    command.env("AWS_EC2_METADATA_DISABLED", "true").env("AWS_REGION", "eu-west-1").args(ON_A_TABLE);
    let finished = finish(&mut command);
    assert_eq!(finished.code, 1);
    for word in ["no AWS credentials", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        assert!(finished.stderr.contains(word), "no {word} in {}", finished.stderr);
    }
}

#[test]
fn without_a_region_and_an_endpoint_it_says_what_to_set() {
    let mut command = shardkeeper();
    with_credentials(&mut command).env("AWS_EC2_METADATA_DISABLED", "true").args(ON_A_TABLE);
    let finished = finish(&mut command);
    assert_eq!(finished.code, 1);
    for word in ["region", "AWS_REGION"] {
        assert!(finished.stderr.contains(word), "no {word} in {}", finished.stderr);
    }
}

#[test]
fn a_url_without_a_scheme_is_refused_at_once_with_the_name_of_its_place() {
    let fixture = Fixture::empty("");
    let profile = fixture.log("profile");
    std::fs::write(&profile, "[default]\nendpoint_url = localhost:8000\n").expect("written");
    let profile = profile.to_str().expect("a path");
    for (variable, value, place) in [
        ("AWS_ENDPOINT_URL", "localhost:8000", "AWS_ENDPOINT_URL: "),
        ("AWS_ENDPOINT_URL_DYNAMODB", "localhost:8000", "AWS_ENDPOINT_URL_DYNAMODB: "),
        ("AWS_ENDPOINT_URL_DYNAMODB_STREAMS", "localhost:8000", "AWS_ENDPOINT_URL_DYNAMODB_STREAMS: "),
        ("AWS_CONFIG_FILE", profile, "endpoint_url of the AWS profile: "),
    ] {
        let mut command = shardkeeper();
        with_credentials(&mut command).env("AWS_REGION", "us-east-1").env(variable, value);
        let finished = finish(command.args(ON_A_TABLE).args(["--start-timeout", "2s"]));
        assert_eq!(finished.code, 1, "{}", finished.stderr);
        let words = format!("error: {place}\"localhost:8000\" is not a URL; write one like http://localhost:8000");
        assert!(finished.stderr.contains(&words), "no {words} in {}", finished.stderr);
        assert!(!finished.stderr.contains("retrying"), "{}", finished.stderr);
    }
}

#[test]
fn variables_that_other_sdks_take_do_not_end_the_program() {
    let fixture = Fixture::new("--shards 1");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 10);
    let url = fixture.service.url();
    for (app, general, flags) in [("variable", &*url, vec![]), ("flag", "", vec!["--endpoint-url", &*url])] {
        let mut deliveries = fixture.deliveries(app);
        let mut command = shardkeeper();
        with_credentials(&mut command).env("AWS_REGION", "us-east-1").env("AWS_ENDPOINT_URL", general);
        for (variable, value) in [
            ("AWS_ENDPOINT_URL_DYNAMODB", ""),
            ("AWS_ENDPOINT_URL_DYNAMODB_STREAMS", ""),
            ("AWS_RETRY_MODE", "legacy"),
            ("AWS_MAX_ATTEMPTS", "0"),
        ] {
            command.env(variable, value);
        }
        command.args(["run", "--until-caught-up", "--table", TABLE, "--app", app, "--worker-id", "w"]).args(flags);
        let mut worker = Worker::start(command.stdout(deliveries.stdout()), app, fixture.log(app));
        assert_eq!(worker.exit_code(), 0, "{}", worker.log());
        assert!(deliveries.has_all(&written));
    }
}

#[test]
fn a_region_that_is_none_is_told_at_once() {
    let mut command = shardkeeper();
    with_credentials(&mut command).env("AWS_REGION", "us east 1");
    let finished = finish(command.args(ON_A_TABLE).args(["--start-timeout", "2s"]));
    assert_eq!(finished.code, 1, "{}", finished.stderr);
    assert!(finished.stderr.contains("error: \"us east 1\" is not the name of a region"), "{}", finished.stderr);
}

#[test]
fn an_answer_that_is_not_the_services_is_told_without_words_of_rust() {
    let portal = Server::start(|_| (200, "<html>log in</html>".to_owned()));
    let fixture = Fixture::empty("");
    let mut command = shardkeeper();
    with_credentials(&mut command).args(ON_A_TABLE).args(["--start-timeout", "2s", "--endpoint-url", &portal.url]);
    let mut worker = Worker::start(&mut command, "w", fixture.log("w"));
    worker.assert_fails(&["the answer is not the service's (HTTP 200"]);
    assert!(!worker.log().contains("Error {") && !worker.log().contains("source:"), "{}", worker.log());
}

#[test]
fn an_endpoint_that_stays_unreachable_is_tried_until_the_start_timeout() {
    let fixture = Fixture::empty("");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
    let mut command = shardkeeper();
    let url = format!("http://127.0.0.1:{port}");
    with_credentials(&mut command).args(ON_A_TABLE).args(["--start-timeout", "2s", "--endpoint-url", &url]);
    let mut worker = Worker::start(&mut command, "w", fixture.log("w"));
    worker.assert_fails(&["could not reach the service within 2s", "refused"]);
    assert!(worker.log().contains("not reachable yet, retrying"), "{}", worker.log());
}

#[test]
fn an_endpoint_that_comes_up_late_is_used() {
    let fixture = Fixture::new("");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 100);
    fixture.service.faults(&json!({"refuse": ["tables", "streams"]}));
    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    worker.wait_for_log("not reachable yet, retrying");
    fixture.service.faults(&json!({}));
    deliveries.wait_for_all(&written);
    // No region is set, and where the service is was told: there is nothing to ask the cloud for.
    assert!(!worker.log().contains("IMDS"), "{}", worker.log());
    assert_eq!(worker.stop(), 0);
}

#[test]
fn a_missing_table_is_named_with_what_to_check() {
    let fixture = Fixture::empty("");
    let mut worker = fixture.worker_on("--table Nowhere", "audit", "w", Stdio::null(), "");
    worker.assert_fails(&["table Nowhere does not exist", "region and endpoint"]);
}

#[test]
fn a_missing_stream_is_named_with_what_to_do() {
    let fixture = Fixture::new("");
    let arn = "arn:aws:dynamodb:us-east-1:000000000000:table/Things/stream/2020-01-01T00:00:00.000";
    let mut worker = fixture.worker_on(&format!("--stream-arn {arn}"), "audit", "w", Stdio::null(), "");
    worker.assert_fails(&["no stream", arn, "a table's name finds its newest stream"]);
}

#[test]
fn a_table_without_a_stream_is_named_with_how_to_switch_one_on() {
    let fixture = Fixture::empty("");
    fixture.service.create_table("Quiet", false);
    let mut worker = fixture.worker_on("--table Quiet", "audit", "w", Stdio::null(), "");
    worker.assert_fails(&["table Quiet has no stream", "update-table"]);
}

#[test]
fn missing_tables_are_not_made_when_that_is_forbidden() {
    let fixture = Fixture::new("");
    let mut worker = fixture.worker("audit", "w", &fixture.deliveries("audit"), "--no-create-tables");
    worker.assert_fails(&["table audit", "does not exist", "told not to create it"]);
    let tables = fixture.service.call("ListTables", &json!({}));
    assert_eq!(tables["TableNames"], json!([TABLE]));
}
