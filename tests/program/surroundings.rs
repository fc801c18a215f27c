//! Credentials, proxies and variables as they are found on machines: in profiles, behind a company's proxy, beside other
//! services in a cluster.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::fixture::{Fixture, TABLE, Worker, with_credentials};
use crate::support::local_service::Written;
use crate::support::tools::find;
use crate::support::{Finished, finish, shardkeeper};

/// A server that answers each request by a function of it, and closes the connection.
pub struct Server {
    pub url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it has one"));
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&requests);
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let Some(request) = read_request(&stream) else { return };
                    let (status, body) = answer(&request);
                    seen.lock().expect("nobody panics holding it").push(request);
                    let length = body.len();
                    let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
                    let _ = (&stream).write_all((head + &body).as_bytes());
                });
            }
        });
        Server { url, requests }
    }

    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("nobody panics holding it").clone()
    }
}

/// A request's head in lower case, and its body.
fn read_request(mut stream: &TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    Some(head + &String::from_utf8_lossy(&body))
}

/// The answer of STS to `operation`, with the access key `role`.
fn role_credentials(operation: &str) -> String {
    let fields = [
        ("AccessKeyId", "role"),
        ("SecretAccessKey", "x"),
        ("SessionToken", "t"),
        ("Expiration", "2100-01-01T00:00:00Z"),
    ];
    let fields: String = fields.iter().map(|(name, value)| format!("<{name}>{value}</{name}>")).collect();
    format!(
        "<{operation}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{operation}Result><Credentials>\
         {fields}</Credentials></{operation}Result></{operation}Response>"
    )
}

/// A worker's command that reads [`TABLE`] to its end, without credentials.
pub fn until_caught_up(fixture: &Fixture) -> Command {
    let mut command = shardkeeper();
    let url = fixture.service.url();
    command.args(["run", "--table", TABLE, "--app", "audit", "--worker-id", "w", "--until-caught-up"]);
    command.args(["--metrics-addr", "off", "--idle-poll", "100ms"]).env("SHARDKEEPER_ENDPOINT_URL", url);
    command.env("AWS_EC2_METADATA_DISABLED", "true").env("AWS_REGION", "us-east-1");
    command
}

pub fn written(count: usize) -> Fixture {
    let fixture = Fixture::new("");
    fixture.service.write(TABLE, &mut Written::default(), count);
    // Callers with a policy are counted.
    let keys = ["process", "sso", "role", "old", "new"];
    let policies: serde_json::Map<_, _> = keys.map(|key| (key.to_owned(), allowing(&["*"]))).into_iter().collect();
    fixture.service.faults(&json!({ "policies": policies }));
    fixture
}

/// A policy that allows these actions on everything.
fn allowing(actions: &[&str]) -> Value {
    json!({"Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]})
}

/// A file of the test's own.
fn file(fixture: &Fixture, name: &str, content: &str) -> PathBuf {
    let path = fixture.log(name);
    std::fs::write(&path, content).expect("it can be written");
    path
}

/// The access keys that the service has seen.
fn callers(fixture: &Fixture) -> BTreeSet<String> {
    let stats = fixture.service.stats();
    stats["actions"].as_object().expect("counts by caller").keys().cloned().collect()
}

pub fn assert_reads(finished: &Finished, count: usize) {
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    assert_eq!(finished.stdout.lines().count(), count);
}

#[test]
fn a_profiles_credential_process_is_asked() {
    let fixture = written(20);
    let answer = r#"{"Version":1,"AccessKeyId":"process","SecretAccessKey":"x"}"#;
    let config = file(&fixture, "config", &format!("[profile proc]\ncredential_process = /bin/echo '{answer}'\n"));
    let mut command = until_caught_up(&fixture);
    assert_reads(&finish(command.env("AWS_CONFIG_FILE", config).env("AWS_PROFILE", "proc")), 20);
    assert!(callers(&fixture).contains("process"));
}

#[test]
fn a_profile_of_the_identity_center_uses_the_tokens_of_the_command_line_tools() {
    let fixture = written(20);
    let roles = Server::start(|_| {
        let expires = 4_102_444_800_000_u64;
        let role = json!({"accessKeyId": "sso", "secretAccessKey": "x", "sessionToken": "t", "expiration": expires});
        (200, json!({ "roleCredentials": role }).to_string())
    });
    let home = fixture.log("home");
    let cache = home.join(".aws/sso/cache");
    std::fs::create_dir_all(&cache).expect("a folder of the test's own");
    // The name is the SHA-1 of the start URL.
    let token = json!({"accessToken": "token", "expiresAt": "2100-01-01T00:00:00Z", "region": "us-east-1",
        "startUrl": "https://example.awsapps.com/start"});
    let name = "e8be5486177c5b5392bd9aa76563515b29358e6e.json";
    std::fs::write(cache.join(name), token.to_string()).expect("it can be written");
    let config = "[profile dev]\nregion = us-east-1\nsso_start_url = https://example.awsapps.com/start\n\
        sso_region = us-east-1\nsso_account_id = 123456789012\nsso_role_name = Dev\n";
    let config = file(&fixture, "config", config);
    let mut command = until_caught_up(&fixture);
    command.env("HOME", home).env("AWS_CONFIG_FILE", config).env("AWS_PROFILE", "dev");
    assert_reads(&finish(command.env("AWS_ENDPOINT_URL_SSO", &roles.url)), 20);
    assert!(callers(&fixture).contains("sso"));
}

#[test]
fn a_profile_of_aws_login_is_understood() {
    let fixture = Fixture::new("");
    let config = file(&fixture, "config", "[profile login]\nlogin_session = arn:aws:iam::123456789012:user/me\n");
    let mut command = until_caught_up(&fixture);
    let finished = finish(
        command
            .env("HOME", fixture.log("home"))
            .env("AWS_CONFIG_FILE", config)
            .env("AWS_PROFILE", "login")
            .args(["--start-timeout", "1s"]),
    );
    assert_eq!(finished.code, 1);
    assert!(finished.stderr.contains("login") && !finished.stderr.contains("cargo feature"), "{}", finished.stderr);
}

#[test]
fn a_source_of_credentials_that_is_not_there_yet_is_waited_for() {
    let fixture = written(20);
    let token = file(&fixture, "token", "a.b.c");
    let calls = Mutex::new(0);
    let sts = Server::start(move |_| {
        let mut calls = calls.lock().expect("nobody panics holding it");
        *calls += 1;
        if *calls <= 5 {
            return (503, String::new());
        }
        (200, role_credentials("AssumeRoleWithWebIdentity"))
    });
    let mut command = until_caught_up(&fixture);
    command.env("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/x").env("AWS_WEB_IDENTITY_TOKEN_FILE", token);
    let finished = finish(command.env("AWS_ENDPOINT_URL_STS", &sts.url).args(["--start-timeout", "30s"]));
    assert_reads(&finished, 20);
    assert!(callers(&fixture).contains("role"));
}

#[test]
fn a_source_of_credentials_that_stays_away_is_named_after_the_start_timeout() {
    let fixture = Fixture::new("");
    let token = file(&fixture, "token", "a.b.c");
    let mut command = until_caught_up(&fixture);
    command.env("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/x").env("AWS_WEB_IDENTITY_TOKEN_FILE", token);
    let finished = finish(command.env("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1").args(["--start-timeout", "3s"]));
    assert_eq!(finished.code, 1);
    assert!(finished.stderr.contains("within 3s") && finished.stderr.contains("credentials"), "{}", finished.stderr);
    assert!(!finished.stderr.contains("AWS_SECRET_ACCESS_KEY"), "nothing is missing: {}", finished.stderr);
}

#[test]
fn a_stream_in_another_account_is_read_by_a_role_and_the_tables_stay_in_the_own_account() {
    let fixture = written(20);
    let allow = |actions: &[&str], resource: &str| json!({"Effect": "Allow", "Action": actions, "Resource": resource});
    let stream = ["DescribeStream", "GetShardIterator", "GetRecords"].map(|name| format!("dynamodb:{name}"));
    let stream: Vec<&str> = stream.iter().map(String::as_str).collect();
    let own = allow(&["dynamodb:*"], "arn:aws:dynamodb:*:*:table/audit*");
    let other = [
        allow(&["dynamodb:DescribeTable"], "arn:aws:dynamodb:*:*:table/Things"),
        allow(&stream, "arn:aws:dynamodb:*:*:table/Things/stream/*"),
    ];
    let policies = json!({"policies": {"own": {"Statement": [own]}, "role": {"Statement": other}}});
    fixture.service.faults(&policies);
    let sts = Server::start(|_| (200, role_credentials("AssumeRole")));
    let table = "arn:aws:dynamodb:us-east-1:000000000000:table/Things";
    let mut command = shardkeeper();
    command.args(["run", "--table", table, "--app", "audit", "--worker-id", "w", "--until-caught-up"]);
    command.args(["--metrics-addr", "off", "--endpoint-url", &fixture.service.url(), "--idle-poll", "100ms"]);
    command.args(["--stream-role-arn", "arn:aws:iam::000000000000:role/reader"]);
    command.args(["--stream-role-external-id", "told-beforehand", "--stream-role-session-name", "audit"]);
    command.env("AWS_ENDPOINT_URL_STS", &sts.url).env("AWS_REGION", "eu-west-1");
    let finished = finish(command.env("AWS_ACCESS_KEY_ID", "own").env("AWS_SECRET_ACCESS_KEY", "x"));
    assert_reads(&finished, 20);
    let request = sts.requests().first().cloned().expect("the role is assumed");
    for part in ["Action=AssumeRole", "ExternalId=told-beforehand", "RoleSessionName=audit"] {
        assert!(request.contains(part), "no {part} in {request}");
    }
}

#[test]
fn a_credentials_file_that_is_replaced_is_read_again_by_a_worker_whose_old_key_is_refused() {
    let fixture = written(20);
    let content = |key: &str| format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = x\n");
    let path = file(&fixture, "credentials", &content("old"));
    let mut command = shardkeeper();
    let url = fixture.service.url();
    command.args(["run", "--table", TABLE, "--app", "audit", "--worker-id", "w", "--to", "null"]);
    command.args(["--endpoint-url", &url, "--idle-poll", "100ms", "--metrics-addr", "off"]);
    command.args(["--checkpoint-interval", "200ms"]);
    command.env("AWS_SHARED_CREDENTIALS_FILE", &path).env("AWS_CONFIG_FILE", "/dev/null").stdout(Stdio::null());
    let mut worker = Worker::start(&mut command, "w", fixture.log("w"));
    fixture.wait_for_checkpoints("audit");
    assert_eq!(callers(&fixture), ["old".to_owned()].into());
    fixture.service.faults(&json!({"policies": {"old": allowing(&[]), "new": allowing(&["*"])}}));
    worker.wait_for_log("a call was refused, retrying");
    let put =
        |n: usize| fixture.service.call("PutItem", &json!({"TableName": TABLE, "Item": {"key": {"S": n.to_string()}}}));
    (0..20).for_each(|n| drop(put(n)));
    let replacement = file(&fixture, "credentials", &content("new"));
    std::fs::rename(replacement, &path).expect("it replaces the other");
    fixture.wait_for_checkpoints("audit");
    assert!(callers(&fixture).contains("new"));
    assert_eq!(worker.stop(), 0);
}

#[test]
fn proxies_of_the_environment_carry_calls_to_the_services() {
    let proxy = Server::start(|_| (502, String::new()));
    let run = |url: &str, no_proxy: &str| {
        let mut command = shardkeeper();
        let line = format!("run --table Things --app audit --start-timeout 1s --region us-east-1 --endpoint-url {url}");
        with_credentials(&mut command).args(line.split(' ')).env("NO_PROXY", no_proxy);
        finish(command.env("HTTPS_PROXY", &proxy.url).env("HTTP_PROXY", &proxy.url))
    };
    run("https://dynamodb.nowhere.invalid", "");
    let seen = proxy.requests();
    assert!(seen.iter().any(|head| head.starts_with("connect dynamodb.nowhere.invalid:443 ")), "{seen:?}");
    run("http://dynamodb.elsewhere.invalid", "");
    let seen = proxy.requests();
    assert!(seen.iter().any(|head| head.starts_with("post http://dynamodb.elsewhere.invalid/ ")), "{seen:?}");
    run("http://dynamodb.elsewhere.invalid", "localhost,.elsewhere.invalid");
    assert_eq!(proxy.requests().len(), seen.len());
}

#[test]
fn proxies_of_the_environment_carry_calls_to_handlers() {
    let fixture = written(20);
    let proxy = Server::start(|_| (200, String::new()));
    let mut command = until_caught_up(&fixture);
    with_credentials(&mut command).args(["--to", "http://handler.invalid/records", "--drain-timeout", "1s"]);
    command.args(["--on-failure", "skip", "--retry-attempts", "0"]);
    command.env("NO_PROXY", "127.0.0.1").env("HTTP_PROXY", &proxy.url);
    let finished = finish(&mut command);
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let seen = proxy.requests();
    assert!(seen.iter().all(|head| head.starts_with("post http://handler.invalid/records ")), "{seen:?}");
    assert!(!seen.is_empty());
}

/// The places that a program calls, by the names that it asks a proxy for.
fn called(line: &str, variables: &[(&str, &str)]) -> BTreeSet<String> {
    let proxy = Server::start(|_| (502, String::new()));
    let mut command = shardkeeper();
    with_credentials(&mut command).args(line.split(' ')).envs(variables.iter().copied());
    finish(command.env("HTTPS_PROXY", &proxy.url));
    let target = |head: String| head.split(' ').nth(1).map(str::to_owned);
    proxy.requests().into_iter().filter_map(target).collect()
}

#[test]
fn fips_dual_stack_and_account_endpoints_are_resolved_for_tables_and_streams() {
    let arn = "arn:aws:dynamodb:us-east-1:123456789012:table/Things/stream/2026-01-01T00:00:00.000";
    let line = format!("check --stream-arn {arn} --app audit --region us-east-1");
    let hosts = |variables: &[(&str, &str)]| called(&line, variables);
    let has = |hosts: &BTreeSet<String>, wanted: [&str; 2]| {
        wanted.iter().for_each(|host| assert!(hosts.contains(*host), "no {host} in {hosts:?}"));
    };
    has(&hosts(&[]), ["dynamodb.us-east-1.amazonaws.com:443", "streams.dynamodb.us-east-1.amazonaws.com:443"]);
    let dual = hosts(&[("AWS_USE_DUALSTACK_ENDPOINT", "true")]);
    has(&dual, ["dynamodb.us-east-1.api.aws:443", "streams-dynamodb.us-east-1.api.aws:443"]);
    let fips = hosts(&[("AWS_USE_FIPS_ENDPOINT", "true")]);
    assert_eq!(fips.iter().filter(|host| host.contains("-fips.us-east-1.")).count(), 2, "{fips:?}");
    let account = hosts(&[("AWS_ACCOUNT_ID", "123456789012")]);
    assert!(account.contains("123456789012.ddb.us-east-1.amazonaws.com:443"), "{account:?}");
    let off = hosts(&[("AWS_ACCOUNT_ID", "123456789012"), ("AWS_ACCOUNT_ID_ENDPOINT_MODE", "disabled")]);
    assert!(off.contains("dynamodb.us-east-1.amazonaws.com:443"), "{off:?}");
}

#[test]
fn calls_of_the_stream_are_made_in_its_region_and_those_of_the_tables_in_the_workers() {
    let service = Server::start(|_| (400, r#"{"__type":"ResourceNotFoundException","message":"none"}"#.into()));
    let arn = "arn:aws:dynamodb:eu-west-1:123456789012:table/Things";
    let regions = |flags: &str| {
        let before = service.requests().len();
        let mut command = shardkeeper();
        let line = format!("run --app audit --region us-east-1 --endpoint-url {} {flags}", service.url);
        assert_eq!(finish(with_credentials(&mut command).args(line.split(' '))).code, 1);
        let region_of = |request: &String| {
            let region = request.split("credential=local/").nth(1)?.split('/').nth(1)?.to_owned();
            Some((request.contains("audit"), region))
        };
        service.requests()[before..].iter().filter_map(region_of).collect::<BTreeSet<(bool, String)>>()
    };
    let apart: BTreeSet<_> = [(true, "us-east-1".to_owned()), (false, "eu-west-1".to_owned())].into();
    assert_eq!(regions("--table Things --stream-region eu-west-1"), apart);
    assert_eq!(regions(&format!("--table {arn}")), apart);
    let other: BTreeSet<_> = [(true, "us-east-1".to_owned()), (false, "eu-north-1".to_owned())].into();
    assert_eq!(regions(&format!("--table {arn} --stream-region eu-north-1")), other);
}

#[test]
fn a_handler_over_http_gets_at_most_a_megabyte_at_once() {
    let fixture = Fixture::new("--shards 1");
    let put = |n: usize| {
        let item = json!({"key": {"S": format!("large-{n}")}, "pad": {"S": "x".repeat(100_000)}});
        fixture.service.call("PutItem", &json!({"TableName": TABLE, "Item": item}));
    };
    (0..25).for_each(put);
    let handler = Server::start(|_| (200, String::new()));
    let finished = finish(with_credentials(&mut until_caught_up(&fixture)).args(["--to", &handler.url]));
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let requests = handler.requests();
    let sizes: Vec<usize> = requests.iter().map(|request| request.len()).collect();
    assert!(sizes.iter().all(|size| *size < 1_100_000), "{sizes:?}");
    assert!(sizes.iter().any(|size| *size > 500_000), "{sizes:?}");
    let records: usize = requests.iter().map(|request| request.matches("SequenceNumber").count()).sum();
    assert_eq!(records, 25);
}

#[test]
fn a_table_that_is_missing_is_waited_for_when_asked_and_then_its_stream() {
    let fixture = Fixture::empty("");
    let deliveries = fixture.deliveries("audit");
    let mut worker = fixture.worker("audit", "w", &deliveries, "--wait-for-table --start-timeout 1m");
    worker.wait_for_log("waiting for the table and its stream");
    fixture.service.create_table(TABLE, false);
    let stream = json!({"StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"});
    fixture.service.call("UpdateTable", &json!({"TableName": TABLE, "StreamSpecification": stream}));
    worker.wait_for_log("\"lease taken\"");
    assert_eq!(worker.stop(), 0);
}

#[test]
fn a_table_that_stays_missing_ends_the_worker_at_once_or_after_the_start_timeout() {
    let fixture = Fixture::empty("");
    let deliveries = fixture.deliveries("audit");
    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    worker.assert_fails(&["table Things does not exist here"]);
    assert!(!worker.log().contains("waiting for"));
    let mut worker = fixture.worker("audit", "w", &deliveries, "--wait-for-table --start-timeout 2s");
    worker.assert_fails(&["table Things does not exist here"]);
    assert!(worker.log().contains("waiting for the table and its stream"));
    let line = format!("check --table {TABLE} --app audit --wait-for-table --endpoint-url {}", fixture.service.url());
    let checked = finish(with_credentials(&mut shardkeeper()).args(line.split(' ')));
    assert!(checked.stdout.contains("a worker would wait for it for 60 s"), "{}", checked.stdout);
    assert!(
        fixture.service.try_call("DescribeTable", &json!({"TableName": "audit"})).is_err(),
        "nothing is left behind"
    );
}

#[test]
fn variables_that_kubernetes_sets_for_services_are_no_mistakes() {
    let mut command = shardkeeper();
    command.args(["run", "--table", "Things", "--app", "audit", "--print-config"]);
    for name in ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP", "PORT_80_TCP_ADDR"] {
        for service in ["", "HANDLER_", "METRICS_", "MY_OWN_HANDLER_"] {
            command.env(format!("SHARDKEEPER_{service}{name}"), "tcp://10.0.0.1:80");
        }
    }
    let finished = finish(&mut command);
    assert_eq!(finished.code, 0, "{}", finished.stderr);
}

#[cfg(target_os = "linux")]
#[test]
fn the_log_is_for_people_on_a_terminal_and_for_programs_elsewhere_unless_it_is_set() {
    let Some(script) = find("script") else { return };
    let program = env!("CARGO_BIN_EXE_shardkeeper");
    let line = "run --table Things --app audit --region us-east-1 --endpoint-url http://127.0.0.1:1 --start-timeout 1s";
    let on_terminal = |flags: &str| {
        let mut command = Command::new(&script);
        command.args(["-qec", &format!("{program} {line} {flags}"), "/dev/null"]).stdin(Stdio::null());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        finish(with_credentials(&mut command)).stdout
    };
    let elsewhere =
        |flags: &str| finish(with_credentials(&mut shardkeeper()).args(line.split(' ')).args(flags.split(' '))).stderr;
    let is_json =
        |log: &str| log.lines().any(|line| line.starts_with('{') && line.contains("\"message\":\"starting\""));
    let is_human = |log: &str| log.lines().any(|line| !line.starts_with('{') && line.contains("starting"));
    let (default, set) = (on_terminal(""), on_terminal("--log-format json"));
    assert!(is_human(&default) && !is_json(&default), "{default}");
    assert!(is_json(&set), "{set}");
    let (default, set) = (elsewhere("--log-level info"), elsewhere("--log-format human"));
    assert!(is_json(&default), "{default}");
    assert!(is_human(&set) && !is_json(&set), "{set}");
}

#[cfg(target_os = "linux")]
#[test]
fn two_containers_on_one_host_network_have_different_worker_ids() {
    let id = || {
        let program = env!("CARGO_BIN_EXE_shardkeeper");
        let mut command = Command::new("unshare");
        command.args(["-rpf", "--mount-proc", program, "run", "--table", "Things", "--app", "audit", "--print-config"]);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let finished = finish(command.env("HOSTNAME", "node1"));
        assert_eq!(finished.code, 0, "{}", finished.stderr);
        let line = finished.stdout.lines().find(|line| line.starts_with("worker-id")).map(str::to_owned);
        line.expect("it is shown")
    };
    let (one, other) = (id(), id());
    assert!(one.contains("node1-") && one != other, "{one} {other}");
}
