//! A beginner's first steps on DynamoDB Local and on `shardkeeper local`: docs/getting-started.md, command by
//! command as it stands there, and the same with boto3.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::dynamodb_local::required_in_ci;
use crate::support::program::{Program, command, environment};
use crate::support::services::Service;
use crate::support::wait::eventually;

/// A Python with boto3; .ci/run has the AWS CLI beside it.
const PYTHON: &str = "SHARDKEEPER_TEST_PYTHON";
/// The service's URL in the commands of the page.
const URL_OF_PAGE: &str = "http://localhost:8000";

const BOTO3: &str = r#"
import boto3
table = boto3.resource("dynamodb").create_table(
    TableName="Phones",
    AttributeDefinitions=[
        {"AttributeName": "Company", "AttributeType": "S"},
        {"AttributeName": "Model", "AttributeType": "S"},
    ],
    KeySchema=[
        {"AttributeName": "Company", "KeyType": "HASH"},
        {"AttributeName": "Model", "KeyType": "RANGE"},
    ],
    BillingMode="PAY_PER_REQUEST",
    StreamSpecification={"StreamEnabled": True, "StreamViewType": "KEYS_ONLY"},
)
table.wait_until_exists()
from decimal import Decimal
for company, model, colors, size in [
    ("Google", "Pixel 9", {"Peony", "Porcelain"}, "6.3"),
    ("Google", "Pixel 9a", {"Iris"}, "6.3"),
    ("Apple", "iPhone 16", {"Teal", "Pink"}, "6.1"),
    ("Nokia", "3310", {"Blue"}, "2.4"),
]:
    table.put_item(Item={"Company": company, "Model": model, "Colors": colors, "Size": Decimal(size)})
found = table.get_item(Key={"Company": "Apple", "Model": "iPhone 16"})["Item"]
assert found == {"Company": "Apple", "Model": "iPhone 16", "Colors": {"Teal", "Pink"}, "Size": Decimal("6.1")}, found
"#;

#[test]
fn every_command_of_the_getting_started_page_works_on_the_local_service() {
    if let Some(tools) = tools() {
        walk_through_page(&Service::shardkeeper_local(""), &tools);
    }
}

#[test]
fn every_command_of_the_getting_started_page_works_on_dynamodb_local() {
    if let (Some(tools), Some(service)) = (tools(), Service::dynamodb_local()) {
        walk_through_page(&service, &tools);
    }
}

#[test]
fn four_phones_put_with_boto3_are_four_lines_on_the_local_service() {
    if let Some(python) = required_in_ci(PYTHON) {
        walk_through_boto3(&Service::shardkeeper_local(""), &python);
    }
}

#[test]
fn four_phones_put_with_boto3_are_four_lines_on_dynamodb_local() {
    if let (Some(python), Some(service)) = (required_in_ci(PYTHON), Service::dynamodb_local()) {
        walk_through_boto3(&service, &python);
    }
}

#[test]
fn the_compose_file_serves_the_address_of_the_page() {
    let compose = std::fs::read_to_string(in_package("docker-compose.yml")).expect("the compose file");
    assert!(compose.contains(":8000:8000\""), "{compose}");
    assert!(compose.contains("image: amazon/dynamodb-local:"), "{compose}");
    assert!(blocks().iter().any(|block| block.contains(URL_OF_PAGE)));
}

/// Carries out the page's blocks in their order: what starts or stops a service is the test's own business, what
/// exports variables is read, workers stay running, and everything else is the shell's.
fn walk_through_page(service: &Service, tools: &OsString) {
    let mut variables = BTreeMap::from([("PATH".to_owned(), tools.to_string_lossy().into_owned())]);
    let mut workers: Vec<Program> = Vec::new();
    let mut seen = Vec::new();
    for block in blocks() {
        let commands = block.replace("\\\n", " ");
        let of_service = ["docker compose", "shardkeeper local"].iter().any(|start| commands.starts_with(start));
        if of_service {
            seen.push("service");
        } else if commands.starts_with("export ") {
            seen.push("export");
            variables.extend(exports(&commands, &service.url()));
        } else if commands.contains("--until-caught-up") {
            seen.push("once");
            let ended = Program::start(&variables, arguments(&commands)).end();
            assert_eq!(ended.code, Some(0), "{}", ended.log);
            assert_eq!(phones(&ended.out), ["3310", "5", "Pixel 9", "Pixel 9a", "iPhone 16"]);
        } else if commands.starts_with("shardkeeper run ") {
            seen.push("worker");
            workers.push(Program::start(&variables, arguments(&commands)));
            if let [worker] = &workers[..] {
                await_lines(&workers, 4);
                assert_eq!(phones(&worker.lines()), ["3310", "Pixel 9", "Pixel 9a", "iPhone 16"]);
            } else {
                await_log(&workers[workers.len() - 1], "starting");
            }
        } else {
            seen.push("shell");
            shell(&commands, &variables);
            if !workers.is_empty() {
                await_lines(&workers, 5);
            }
        }
    }
    let wanted = ["service", "service", "export", "shell", "shell", "worker", "worker", "shell", "once", "service"];
    assert_eq!(seen, wanted, "the page has other commands than this test knows");
    stop(workers, 5);
}

fn walk_through_boto3(service: &Service, python: &OsString) {
    let variables = environment(&service.url());
    let output = command(Path::new(python), &variables).args(["-c", BOTO3]).output().expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The endpoint by its flag, where the page has the variable.
    let mut rest = variables.clone();
    rest.remove("AWS_ENDPOINT_URL");
    let line = format!("run --table Phones --app phone-printer --endpoint-url {}", service.url());
    let workers = vec![Program::start(&rest, &line)];
    await_lines(&workers, 4);
    assert_eq!(phones(&workers[0].lines()), ["3310", "Pixel 9", "Pixel 9a", "iPhone 16"]);
    stop(workers, 4);
}

/// Stops all workers, which end well and have printed so many lines together.
fn stop(workers: Vec<Program>, lines: usize) {
    workers.iter().for_each(Program::terminate);
    let mut printed = 0;
    for ended in workers.into_iter().map(Program::end) {
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        printed += ended.out.len();
    }
    assert_eq!(printed, lines);
}

fn await_lines(workers: &[Program], count: usize) {
    eventually(&format!("{count} records are printed"), || {
        let printed: usize = workers.iter().map(|worker| worker.lines().len()).sum();
        (printed >= count).then_some(())
    });
}

fn await_log(worker: &Program, word: &str) {
    eventually(&format!("the log says {word:?}"), || worker.log().contains(word).then_some(()));
}

/// The models on these lines, sorted, each of which must be the record of an insert with keys only.
fn phones(lines: &[String]) -> Vec<String> {
    let mut models: Vec<String> = lines
        .iter()
        .map(|line| {
            let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert_eq!(record["eventName"], "INSERT", "{line}");
            let change = record["dynamodb"].as_object().expect("the change");
            assert!(!change.contains_key("NewImage") && !change.contains_key("OldImage"), "{line}");
            assert_eq!(change["StreamViewType"], "KEYS_ONLY", "{line}");
            let keys = change["Keys"].as_object().expect("keys");
            assert_eq!(keys.keys().collect::<Vec<_>>(), ["Company", "Model"], "{line}");
            keys["Model"]["S"].as_str().expect("a model").to_owned()
        })
        .collect();
    models.sort();
    models
}

fn shell(commands: &str, variables: &BTreeMap<String, String>) {
    let output = command("bash", variables).args(["-euc", commands]).output().expect("bash starts");
    assert!(output.status.success(), "{commands}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// The variables of `export A=1 B=2` lines, the service's address in place of the page's.
fn exports(commands: &str, url: &str) -> Vec<(String, String)> {
    let words = commands.split_whitespace().filter(|word| *word != "export");
    let pairs = words.map(|word| word.split_once('=').unwrap_or_else(|| panic!("no variable: {word}")));
    pairs.map(|(name, value)| (name.to_owned(), value.replace(URL_OF_PAGE, url))).collect()
}

/// The arguments after the program's name.
fn arguments(commands: &str) -> &str {
    commands.trim().strip_prefix("shardkeeper ").unwrap_or_else(|| panic!("not one command: {commands}"))
}

/// The shell blocks of the page.
fn blocks() -> Vec<String> {
    let page = std::fs::read_to_string(in_package("docs/getting-started.md")).expect("the page");
    let starts = page.split("```sh\n").skip(1);
    starts.map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

fn in_package(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A PATH with the AWS CLI: beside the tests' Python, or where it is anyway.
pub fn tools() -> Option<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    if let Some(folder) = required_in_ci(PYTHON).and_then(|python| Some(Path::new(&python).parent()?.to_owned())) {
        folders.insert(0, folder);
    }
    if !folders.iter().any(|folder| folder.join("aws").is_file()) {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "there is no AWS CLI, and CI skips no tests");
        eprintln!("SKIPPED: there is no AWS CLI on PATH or beside {PYTHON}");
        return None;
    }
    Some(std::env::join_paths(folders).expect("folders of a PATH"))
}
