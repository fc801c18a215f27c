//! The Helm chart: its defaults make the base's objects, and its other values what they say.

use serde_json::{Value, json};

use super::overlay::{Overlay, PYTHON, overlays, read, render};
use crate::in_package;
use crate::support::dynamodb_local::required_in_ci;

/// Labels that belong to Helm, and the one by which two releases in a namespace differ.
const HELMS_LABELS: [&str; 3] = ["app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "helm.sh/chart"];

#[test]
fn the_charts_defaults_make_the_bases_objects() {
    let Some(overlays) = overlays() else { return };
    let named = |name: &str| overlays.iter().find(|overlay| overlay.name == name);
    let (Some(chart), Some(base)) = (named("chart"), named("base")) else { return }; // without helm, which was said
    let (chart, base) = (comparable(chart), comparable(base));
    assert_eq!(chart.len(), base.len());
    for (ours, theirs) in chart.iter().zip(&base) {
        assert_eq!(ours, theirs, "the chart's {}, beside the base's", ours["kind"]);
    }
}

/// The objects by kind, without what Helm and kustomize each add to them. The namespace is helm's to create.
fn comparable(overlay: &Overlay) -> Vec<Value> {
    let settings = overlay.one("ConfigMap").expect("settings")["metadata"]["name"].clone();
    let objects = overlay.documents.iter().filter(|document| document["kind"] != "Namespace");
    let mut objects: Vec<Value> = objects.map(|object| plain(object, &settings)).collect();
    objects.sort_by_key(|object| object["kind"].to_string());
    objects
}

fn plain(value: &Value, settings: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.iter().filter(|(name, _)| {
                !HELMS_LABELS.contains(&name.as_str()) && *name != "checksum/settings" && *name != "namespace"
            });
            let members = kept.map(|(name, value)| (name.clone(), plain(value, settings)));
            members.filter(|(name, value)| name != "annotations" || *value != json!({})).collect()
        }
        Value::Array(list) => list.iter().map(|value| plain(value, settings)).collect(),
        name if name == settings => json!("shardkeeper"),
        other => other.clone(),
    }
}

#[test]
fn the_charts_other_values_reach_their_places() {
    let Some(python) = required_in_ci(PYTHON) else { return };
    let arguments = [
        "--set=replicas=null,podMonitor.enabled=true,networkPolicy.enabled=false,image.tag=9.9.9,image.pullPolicy=Always",
        "--set=settings.SHARDKEEPER_TABLE=null,settings.SHARDKEEPER_STREAM_ARN=arn",
        "--set=settings.SHARDKEEPER_METRICS_ADDR=[::]:9000",
        "--set-json=serviceAccount.annotations={\"eks.amazonaws.com/role-arn\":\"role\"}",
        "--set-json=envFrom=[{\"secretRef\":{\"name\":\"headers\"}}]",
        "--set-json=env=[{\"name\":\"AWS_REGION\",\"value\":\"eu-west-1\"}]",
        "--set-json=containers=[{\"name\":\"handler\",\"image\":\"handler:1\"}]",
        "--set-json=tolerations=[{\"operator\":\"Exists\"}]",
    ];
    let Some(rendered) = render(&arguments) else { return };
    let rendered = rendered.unwrap_or_else(|error| panic!("{error}"));
    let documents = read(&python, &[], &rendered).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let chart = Overlay { name: "values".into(), documents: documents.as_array().expect("a list").clone() };
    let deployment = chart.workers();
    assert_eq!(deployment["spec"].get("replicas"), None);
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(pod["containers"][1]["name"], "handler");
    let worker = &pod["containers"][0];
    assert_eq!((&worker["image"], &worker["imagePullPolicy"]), (&json!("shardkeeper:9.9.9"), &json!("Always")));
    assert_eq!(worker["ports"][0]["containerPort"], 9000);
    assert_eq!(worker["envFrom"][1]["secretRef"]["name"], "headers");
    assert_eq!(worker["env"][1]["value"], "eu-west-1");
    let settings = &chart.one("ConfigMap").expect("settings")["data"];
    assert_eq!((settings.get("SHARDKEEPER_TABLE"), &settings["SHARDKEEPER_STREAM_ARN"]), (None, &json!("arn")));
    let account = chart.one("ServiceAccount").expect("an account");
    assert_eq!(account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"], "role");
    assert!(chart.one("PodMonitor").is_some() && chart.one("NetworkPolicy").is_none());
}

#[test]
fn a_mistyped_value_is_refused() {
    for mistake in ["preflight.enabld=true", "setings.SHARDKEEPER_TABLE=Phones", "replicas=many"] {
        let Some(rendered) = render(&["--set", mistake]) else { return };
        let error = rendered.expect_err(mistake);
        assert!(error.contains("values don't meet the specifications of the schema"), "{error}");
    }
}

#[test]
fn the_charts_version_is_the_programs() {
    let Some(python) = required_in_ci(PYTHON) else { return };
    let text = std::fs::read(in_package("deploy/helm/shardkeeper/Chart.yaml")).expect("the chart");
    let chart = read(&python, &["--cloudformation"], &text).expect("YAML");
    for version in ["version", "appVersion"] {
        assert_eq!(chart[version], env!("CARGO_PKG_VERSION"), "{version}");
    }
}
