//! Copies of the files that kustomize cannot read in their place.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::overlay::overlays;
use crate::in_package;

#[test]
fn alerts_and_dashboards_are_the_ones_of_the_observability_folder() {
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("manifests-{}", std::process::id()));
    let status = Command::new("bash").arg(in_package("k8s/update")).arg(&made).status().expect("bash runs");
    assert!(status.success());
    let wanted = files(&made);
    std::fs::remove_dir_all(&made).expect("it was just made");
    let mut found = files(&in_package("k8s/components/prometheus-operator"));
    assert!(found.remove("podmonitor.yaml").is_some());
    let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&wanted), "bash k8s/update makes them");
    for (name, text) in wanted {
        assert!(found[&name] == text, "{name} is out of date: bash k8s/update makes it");
    }
}

#[test]
fn another_applications_name_reaches_the_workers_and_the_autoscalers() {
    if overlays().is_none() {
        return; // which was said
    }
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("k8s-{}", std::process::id()));
    for (name, text) in files(&in_package("k8s")) {
        let path = copy.join("k8s").join(&name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder of the test's own");
        let text = text.replace("SHARDKEEPER_APP=phone-audit # yours", "SHARDKEEPER_APP=orders");
        std::fs::write(path, text).expect("a file of the test's own");
    }
    for (overlay, wanted) in [("eks", "{app=\"orders\""), ("eks-hpa", "app: orders")] {
        let built = Command::new("kubectl").arg("kustomize").arg(copy.join("k8s/overlays").join(overlay)).output();
        let built = built.expect("kubectl runs");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let built = String::from_utf8(built.stdout).expect("text");
        assert!(built.contains(wanted) && built.contains("SHARDKEEPER_APP: orders"), "{built}");
        assert!(!built.contains("app=\"phone-audit\"") && !built.contains("app: phone-audit"), "{built}");
    }
    std::fs::remove_dir_all(&copy).expect("it was just made");
}

/// All files under a folder, with what is in them.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(rest, text)| (format!("{name}/{rest}"), text)));
        } else {
            found.insert(name, std::fs::read_to_string(&path).expect("text"));
        }
    }
    found
}
