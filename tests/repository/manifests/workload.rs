//! The manifests beside the program: what they tell it, ask it and expect of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use shardkeeper::internals::telemetry::catalogue;

use super::overlay::{Overlay, overlays};
use crate::support::{finish, shardkeeper};

/// Memory that a worker needs beside its buffer, with much to spare.
const PROGRAM_BYTES: u64 = 64 << 20;

#[test]
fn every_variable_is_a_setting_and_every_value_one_that_it_takes() {
    for overlay in overlays().into_iter().flatten() {
        let settings = settings(overlay);
        assert_eq!(settings["worker-id"], "shardkeeper-0", "{}: the pod's name", overlay.name);
        assert!(settings.contains_key("table") && settings.contains_key("app"), "{}", overlay.name);
    }
}

#[test]
fn ports_and_probes_are_where_the_program_serves_them() {
    for overlay in overlays().into_iter().flatten() {
        let worker = worker(overlay);
        let settings = settings(overlay);
        let port = settings["metrics-addr"].rsplit(':').next().and_then(|port| port.parse::<u64>().ok());
        assert_eq!(worker["ports"], json!([{"name": "metrics", "containerPort": port, "protocol": "TCP"}]));
        for (probe, path) in [("startupProbe", "/live"), ("livenessProbe", "/live"), ("readinessProbe", "/ready")] {
            assert_eq!(worker[probe]["httpGet"], json!({"path": path, "port": "metrics"}), "{}", overlay.name);
        }
        let startup = &worker["startupProbe"];
        let patience = number(&startup["periodSeconds"]) * number(&startup["failureThreshold"]);
        assert!(patience > seconds(&settings["start-timeout"]), "{}: it may still be starting", overlay.name);
        let service = overlay.one("Service").expect("a Service");
        assert_eq!(service["spec"]["ports"][0]["targetPort"], "metrics");
        let ingress = &overlay.one("NetworkPolicy").expect("a NetworkPolicy")["spec"]["ingress"];
        assert_eq!(ingress[0]["ports"], json!([{"port": "metrics", "protocol": "TCP"}]));
        for monitor in overlay.all("PodMonitor") {
            let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
            assert_eq!((&endpoint["port"], &endpoint["path"]), (&json!("metrics"), &json!("/metrics")));
        }
    }
}

#[test]
fn a_check_before_the_worker_is_the_same_program_with_the_same_settings() {
    let mut seen = BTreeSet::new();
    for overlay in overlays().into_iter().flatten() {
        let pod = &overlay.workers()["spec"]["template"]["spec"];
        let mut before = pod["initContainers"].as_array().into_iter().flatten();
        let Some(check) = before.find(|container| container["name"] == "check") else { continue };
        seen.insert(overlay.name.as_str());
        assert_eq!(check["args"], json!(["check"]));
        for part in ["image", "env", "envFrom", "securityContext"] {
            assert_eq!(check[part], worker(overlay)[part], "{}: {part}", overlay.name);
        }
        let mut command = shardkeeper();
        let finished = finish(command.args(["check", "--print-config"]).envs(variables(overlay)));
        assert_eq!(finished.code, 0, "{}: {}", overlay.name, finished.stderr);
    }
    if overlays().is_some() {
        assert!(seen.contains("eks") && !seen.contains("base"), "{seen:?}");
    }
}

#[test]
fn a_worker_has_longer_to_stop_than_it_takes_to_drain_and_memory_for_its_buffer() {
    for overlay in overlays().into_iter().flatten() {
        let settings = settings(overlay);
        let pod = &overlay.workers()["spec"]["template"]["spec"];
        let grace = number(&pod["terminationGracePeriodSeconds"]);
        let drain = seconds(&settings["drain-timeout"]);
        assert!(grace >= drain + 10, "{}: {grace} s to stop, {drain} s to drain", overlay.name);
        let limits = &worker(overlay)["resources"]["limits"];
        let limit = limits["memory"].as_str().and_then(|text| text.strip_suffix("Mi")?.parse::<u64>().ok());
        let buffer = settings["buffer-bytes"].strip_suffix("MiB").and_then(|text| text.parse::<u64>().ok());
        let (limit, buffer) = (limit.expect("in Mi") << 20, buffer.expect("in MiB") << 20);
        assert!(limit >= buffer + PROGRAM_BYTES, "{}: {limit} bytes for a buffer of {buffer}", overlay.name);
        assert_eq!(worker(overlay)["resources"]["requests"]["memory"], limits["memory"], "{}", overlay.name);
        assert_eq!(limits.get("cpu"), None, "{}: a throttled worker is late with its heartbeats", overlay.name);
    }
}

#[test]
fn no_pod_has_privileges_a_writable_root_or_a_token_and_none_gets_variables_of_services() {
    for overlay in overlays().into_iter().flatten() {
        let workloads = ["Deployment", "StatefulSet", "Job"].into_iter().flat_map(|kind| overlay.all(kind));
        for workload in workloads {
            let name = format!("{}: {}", overlay.name, workload["metadata"]["name"]);
            let pod = &workload["spec"]["template"]["spec"];
            assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
            assert_eq!(pod["enableServiceLinks"], false, "{name}");
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
            assert_eq!(pod["securityContext"]["seccompProfile"], json!({"type": "RuntimeDefault"}), "{name}");
            for container in containers(pod) {
                let context = &container["securityContext"];
                assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}), "{name}");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{name}");
                let image = container["image"].as_str().expect("an image");
                assert!(image.rsplit('/').next().is_some_and(|image| image.contains(':')), "{name}: {image} floats");
            }
        }
    }
}

#[test]
fn a_deploy_adds_a_worker_before_it_takes_one_and_a_drain_takes_one_at_a_time() {
    for overlay in overlays().into_iter().flatten() {
        let workers = overlay.workers();
        if workers["kind"] == "Deployment" {
            let strategy = &workers["spec"]["strategy"];
            let wanted = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
            assert_eq!(strategy, &wanted, "{}", overlay.name);
        } else {
            assert_eq!(workers["spec"]["serviceName"], "shardkeeper", "{}", overlay.name);
        }
        let labels = &workers["spec"]["template"]["metadata"]["labels"];
        let is_ours = |selector: &Value| {
            let wanted = selector.as_object().expect("labels");
            !wanted.is_empty() && wanted.iter().all(|(label, value)| labels[label] == *value)
        };
        let budget = &overlay.one("PodDisruptionBudget").expect("a budget")["spec"];
        assert_eq!(budget["maxUnavailable"], 1);
        assert!(is_ours(&budget["selector"]["matchLabels"]), "{}", overlay.name);
        assert!(is_ours(&workers["spec"]["selector"]["matchLabels"]), "{}", overlay.name);
        assert!(is_ours(&overlay.one("Service").expect("a Service")["spec"]["selector"]), "{}", overlay.name);
        let policy = &overlay.one("NetworkPolicy").expect("a policy")["spec"]["podSelector"]["matchLabels"];
        assert!(is_ours(policy), "{}", overlay.name);
        for monitor in overlay.all("PodMonitor") {
            assert!(is_ours(&monitor["spec"]["selector"]["matchLabels"]), "{}", overlay.name);
        }
        for constraint in workers["spec"]["template"]["spec"]["topologySpreadConstraints"].as_array().expect("some") {
            assert!(is_ours(&constraint["labelSelector"]["matchLabels"]), "{}", overlay.name);
        }
    }
}

#[test]
fn autoscalers_follow_the_fleets_own_word_and_wait_longer_than_a_lease_before_they_scale_in() {
    let mut seen = BTreeSet::new();
    for overlay in overlays().into_iter().flatten() {
        let settings = settings(overlay);
        let workers = overlay.workers();
        let app = settings["app"].as_str();
        let mut behaviors = Vec::new();
        for scaler in overlay.all("ScaledObject") {
            seen.insert("keda");
            let spec = &scaler["spec"];
            assert_eq!(spec["scaleTargetRef"]["kind"].as_str().unwrap_or("Deployment"), workers["kind"]);
            assert_eq!(spec["scaleTargetRef"]["name"], workers["metadata"]["name"]);
            let triggers = spec["triggers"].as_array().expect("triggers");
            let of_app = format!("{{app=\"{app}\"");
            for trigger in triggers {
                assert_eq!(trigger["metricType"], "AverageValue", "the queries say how many pods there shall be");
                assert_eq!(trigger["metadata"]["threshold"], "1");
                let query = trigger["metadata"]["query"].as_str().expect("a query");
                let metrics = query.matches("shardkeeper_").count();
                assert_eq!(query.matches(&of_app).count(), metrics, "{}: {query}", overlay.name);
            }
            let signal = &triggers[0]["metadata"]["query"];
            assert_eq!(*signal, format!("max(shardkeeper_desired_workers{of_app}}})"));
            assert_eq!(spec["minReplicaCount"].to_string(), settings["min-workers"], "{}", overlay.name);
            assert_eq!(spec["maxReplicaCount"].to_string(), settings["max-workers"], "{}", overlay.name);
            behaviors.push(spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"].clone());
        }
        for scaler in overlay.all("HorizontalPodAutoscaler") {
            seen.insert("hpa");
            let spec = &scaler["spec"];
            assert_eq!(spec["scaleTargetRef"]["kind"], workers["kind"]);
            let external = &spec["metrics"][0]["external"];
            assert_eq!(external["metric"]["name"], "shardkeeper_desired_workers");
            assert_eq!(external["metric"]["selector"]["matchLabels"]["app"], app);
            assert_eq!(external["target"], json!({"type": "AverageValue", "averageValue": "1"}));
            assert_eq!(spec["minReplicas"].to_string(), settings["min-workers"], "{}", overlay.name);
            assert_eq!(spec["maxReplicas"].to_string(), settings["max-workers"], "{}", overlay.name);
            behaviors.push(spec["behavior"].clone());
        }
        assert!(behaviors.len() <= 1, "{}: two autoscalers pull at one fleet", overlay.name);
        for behavior in behaviors {
            assert_eq!(workers["spec"].get("replicas"), None, "{}: each apply would reset it", overlay.name);
            let window = number(&behavior["scaleDown"]["stabilizationWindowSeconds"]);
            assert!(window >= 10 * seconds(&settings["lease-duration"]), "{}", overlay.name);
        }
    }
    assert!(seen.is_empty() || seen.len() == 2, "only {seen:?}");
}

#[test]
fn every_metric_that_is_named_is_one_of_the_programs() {
    let known: BTreeSet<&str> = catalogue::ALL.iter().map(|metric| metric.name).collect();
    for overlay in overlays().into_iter().flatten() {
        for document in &overlay.documents {
            for name in metric_names(&document.to_string()) {
                let series = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
                let is_known = known.contains(name.as_str()) || series.is_some_and(|name| known.contains(name));
                assert!(is_known, "{}: {} names {name}", overlay.name, document["kind"]);
            }
        }
    }
}

/// Words that begin like a metric of the program, but not parts of recording rules' names, which have colons.
fn metric_names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = text.split(|c| !is_part(c));
    words.filter(|word| word.starts_with("shardkeeper_") && !word.contains(':')).map(str::to_owned).collect()
}

/// The effective settings of a worker of this overlay, by the program's own account. A variable that it doesn't know, or
/// a value that it doesn't take, fails the test.
pub fn settings(overlay: &Overlay) -> BTreeMap<String, String> {
    let mut command = shardkeeper();
    let worker = worker(overlay);
    for argument in worker["args"].as_array().expect("arguments") {
        command.arg(argument.as_str().expect("a string"));
    }
    for (name, value) in variables(overlay) {
        command.env(name, value);
    }
    let finished = finish(command.arg("--print-config"));
    assert_eq!(finished.code, 0, "{}: {}", overlay.name, finished.stderr);
    let table: toml::Table = finished.stdout.parse().expect("the settings are TOML");
    let text = |value: toml::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    table.into_iter().map(|(name, value)| (name, text(value))).collect()
}

/// The environment of the worker's container, where the pod is named shardkeeper-0.
pub fn variables(overlay: &Overlay) -> BTreeMap<String, String> {
    let worker = worker(overlay);
    let map = &worker["envFrom"][0]["configMapRef"]["name"];
    let map = overlay.all("ConfigMap").find(|document| document["metadata"]["name"] == *map);
    let data = map.expect("the ConfigMap is there")["data"].as_object().expect("data");
    let mut variables: BTreeMap<String, String> =
        data.iter().map(|(name, value)| (name.clone(), value.as_str().expect("text").to_owned())).collect();
    for variable in worker["env"].as_array().expect("variables") {
        assert_eq!(variable["valueFrom"]["fieldRef"]["fieldPath"], "metadata.name");
        variables.insert(variable["name"].as_str().expect("a name").to_owned(), "shardkeeper-0".to_owned());
    }
    variables
}

fn worker(overlay: &Overlay) -> &Value {
    let found = containers(&overlay.workers()["spec"]["template"]["spec"]).find(|found| found["name"] == "worker");
    found.expect("a container named worker")
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"].into_iter().filter_map(|list| pod[list].as_array()).flatten()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no whole number"))
}

fn seconds(text: &str) -> u64 {
    let (count, unit) = text.split_at(text.len() - 1);
    let count: u64 = count.parse().unwrap_or_else(|_| panic!("{text} is no length of time"));
    match unit {
        "s" => count,
        "m" => 60 * count,
        _ => panic!("{text} is no length of time in seconds or minutes"),
    }
}
