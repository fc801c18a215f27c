//! The overlay for one's own machine, played without a cluster: its scripts make the table and write to it, and a
//! worker with its settings reads what they wrote.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::overlay::{Overlay, PYTHON, overlays};
use super::workload::variables;
use crate::in_package;
use crate::support::dynamodb_local::required_in_ci;
use crate::support::services::Service;
use crate::support::{finish, shardkeeper};

#[test]
fn the_local_overlays_scripts_write_what_its_workers_read_on_dynamodb_local() {
    let Some(overlay) = overlay("local") else { return };
    if let Some(service) = Service::dynamodb_local() {
        play(overlay, &service);
    }
}

#[test]
fn the_sharded_local_overlay_does_the_same_on_the_service_of_its_own_arguments() {
    let Some(overlay) = overlay("local-sharded") else { return };
    let is_service = |document: &&Value| document["metadata"]["name"] == "dynamodb-local";
    let deployment = overlay.all("Deployment").find(is_service).expect("the service");
    let arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().expect("arguments");
    let arguments: Vec<&str> = arguments.iter().filter_map(Value::as_str).collect();
    assert_eq!(arguments[..5], ["local", "--host", "0.0.0.0", "--port", "8000"]);
    play(overlay, &Service::shardkeeper_local(&arguments[5..].join(" ")));
}

fn overlay(name: &str) -> Option<&'static Overlay> {
    overlays()?.iter().find(|overlay| overlay.name == name)
}

fn play(overlay: &Overlay, service: &Service) {
    let Some(python) = required_in_ci(PYTHON) else { return };
    // The AWS CLI is beside it.
    let tools = PathBuf::from(python).parent().expect("a folder of programs").to_owned();
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").expect("a path"));
    let mut variables = variables(overlay);
    for url in ["AWS_ENDPOINT_URL", "SHARDKEEPER_ENDPOINT_URL"] {
        assert_eq!(variables[url], "http://dynamodb-local:8000", "the Service's name and port");
        variables.insert(url.to_owned(), service.url());
    }
    // Twice: the Job may be run again.
    for script in [&["create-table.sh"][..], &["create-table.sh"], &["write.sh", "2"]] {
        let file = in_package("k8s/overlays/local").join(script[0]);
        let mut shell = Command::new("sh");
        shell.arg(file).args(&script[1..]).env_clear().env("PATH", &path).envs(&variables);
        let done = finish(&mut shell);
        assert_eq!(done.code, 0, "{script:?}: {}", done.stderr);
    }
    variables.insert("SHARDKEEPER_METRICS_ADDR".to_owned(), "127.0.0.1:0".to_owned());
    let worker = finish(shardkeeper().args(["run", "--until-caught-up"]).envs(&variables));
    assert_eq!(worker.code, 0, "{}", worker.stderr);
    assert_eq!(worker.stdout.lines().count(), 40, "{}", worker.stderr);
    // `kubectl exec … -- shardkeeper status` has the same variables.
    let status = finish(shardkeeper().arg("status").envs(&variables));
    assert_eq!(status.code, 0, "{}", status.stderr);
    assert!(status.stdout.contains("no worker is alive"), "{}", status.stdout);
}
