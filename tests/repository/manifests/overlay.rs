//! Overlays, built and read.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use crate::in_package;
use crate::support::dynamodb_local::required_in_ci;
use crate::support::tools;

/// A Python with what tests/repository/manifests/read.py imports.
pub const PYTHON: &str = "SHARDKEEPER_TEST_PYTHON";

/// The program helm.
const HELM: &str = "SHARDKEEPER_TEST_HELM";

/// The resources that an overlay, the base, or the Helm chart applies.
#[derive(Clone, Debug)]
pub struct Overlay {
    /// The folder's name.
    pub name: String,
    /// Its resources.
    pub documents: Vec<Value>,
}

impl Overlay {
    /// The resources of this kind.
    pub fn all(&self, kind: &'static str) -> impl Iterator<Item = &Value> {
        self.documents.iter().filter(move |document| document["kind"] == kind)
    }

    /// The resource of this kind, named like the workers or beginning so.
    pub fn one(&self, kind: &'static str) -> Option<&Value> {
        let is_ours = |document: &&Value| {
            document["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("shardkeeper"))
        };
        self.all(kind).find(is_ours)
    }

    /// The workers: a Deployment or a StatefulSet.
    pub fn workers(&self) -> &Value {
        let found = self.one("Deployment").or_else(|| self.one("StatefulSet"));
        found.unwrap_or_else(|| panic!("{} has no workers", self.name))
    }
}

/// The base, every overlay, and the Helm chart with its defaults and with a check before each worker, checked against the schemas. None, said plainly, where a tool for it is missing; in CI
/// none may be.
pub fn overlays() -> Option<&'static [Overlay]> {
    static OVERLAYS: OnceLock<Option<Vec<Overlay>>> = OnceLock::new();
    OVERLAYS.get_or_init(build_all).as_deref()
}

fn build_all() -> Option<Vec<Overlay>> {
    let python = required_in_ci(PYTHON)?;
    let kubectl = tools::find("kubectl")?;
    let mut folders = vec![in_package("k8s/base")];
    let entries = std::fs::read_dir(in_package("k8s/overlays")).expect("the overlays");
    folders.extend(entries.map(|entry| entry.expect("a folder").path()));
    folders.sort();
    let charts = [("chart", &[][..]), ("chart-preflight", &["--set", "preflight.enabled=true"])];
    let charts = charts.into_iter().filter_map(|(name, arguments)| {
        let rendered = render(arguments)?.unwrap_or_else(|error| panic!("{name}: {error}"));
        Some(checked(name.to_owned(), &rendered, &python))
    });
    let overlays = folders.iter().map(|folder| build(folder, &kubectl, &python));
    Some(overlays.chain(charts).collect())
}

/// The Helm chart as it is rendered with these arguments, or the reason why it is not. None where there is no helm.
pub fn render(arguments: &[&str]) -> Option<Result<Vec<u8>, String>> {
    let helm = required_in_ci(HELM)?;
    let chart = in_package("deploy/helm/shardkeeper");
    let mut command = Command::new(helm);
    command.args(["template", "shardkeeper", "--namespace", "shardkeeper"]).arg(chart).args(arguments);
    let rendered = command.output().expect("helm runs");
    let is_rendered = rendered.status.success();
    Some(if is_rendered { Ok(rendered.stdout) } else { Err(String::from_utf8_lossy(&rendered.stderr).into_owned()) })
}

fn build(folder: &Path, kubectl: &Path, python: &OsString) -> Overlay {
    let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
    let built = Command::new(kubectl).arg("kustomize").arg(folder).output().expect("kubectl runs");
    assert!(built.status.success(), "{name}: {}", String::from_utf8_lossy(&built.stderr));
    checked(name, &built.stdout, python)
}

fn checked(name: String, yaml: &[u8], python: &OsString) -> Overlay {
    let documents = read(python, &[], yaml).unwrap_or_else(|mistakes| panic!("{name}:\n{mistakes}"));
    let documents = documents.as_array().expect("a list").clone();
    assert!(documents.len() > 5, "{name} has hardly anything in it");
    Overlay { name, documents }
}

/// YAML as JSON, through tests/repository/manifests/read.py.
pub fn read(python: &OsString, flags: &[&str], yaml: &[u8]) -> Result<Value, String> {
    let script: PathBuf = in_package("tests/repository/manifests/read.py");
    let mut child = Command::new(python)
        .arg(script)
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python starts");
    let mut stdin = child.stdin.take().expect("a pipe was asked for");
    stdin.write_all(yaml).expect("python reads");
    drop(stdin);
    let output = child.wait_with_output().expect("python ends");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&output.stdout).expect("JSON"))
}

#[test]
fn every_overlay_is_built_and_fits_the_schemas() {
    let Some(overlays) = overlays() else { return };
    let names: Vec<&str> = overlays.iter().map(|overlay| overlay.name.as_str()).collect();
    for name in ["base", "eks", "eks-hpa", "eks-python", "eks-statefulset", "local", "local-sharded"] {
        assert!(names.contains(&name), "{name} is missing in {names:?}");
    }
}

#[test]
fn a_mistyped_field_is_found_in_kubernetes_kinds_and_in_those_of_operators() {
    let Some(python) = required_in_ci(PYTHON) else { return };
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {portz: []}\n";
    let mistakes = read(&python, &[], service.as_bytes()).expect_err("there is no such field");
    assert!(mistakes.contains("portz"), "{mistakes}");
    let monitor = "apiVersion: monitoring.coreos.com/v1\nkind: PodMonitor\nmetadata: {name: a}\n\
                   spec: {selector: {}, podMetricsEndpoints: [{prot: metrics}]}\n";
    let mistakes = read(&python, &[], monitor.as_bytes()).expect_err("there is no such field");
    assert!(mistakes.contains("prot"), "{mistakes}");
}
