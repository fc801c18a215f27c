//! The parts of a release: one version everywhere, workflows and forms that can be read, and a Debian package.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::in_package;
use crate::manifests::{PYTHON, read};
use crate::support::dynamodb_local::required_in_ci;
use crate::support::tools::find;

fn yaml(path: &Path) -> Option<Value> {
    let python = required_in_ci(PYTHON)?;
    let text = std::fs::read(path).expect("the file");
    Some(read(&python, &["--cloudformation"], &text).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

#[test]
fn every_place_that_names_the_version_names_the_same() {
    let version = env!("CARGO_PKG_VERSION");
    for (file, line) in [
        ("local/Cargo.toml", format!("version = \"{version}\"")),
        ("Cargo.toml", format!("shardkeeper-local = {{ path = \"local\", version = \"{version}\"")),
        ("k8s/base/kustomization.yaml", format!("newTag: {version}")),
        ("k8s/overlays/eks/kustomization.yaml", format!("newTag: {version}")),
        ("deploy/helm/shardkeeper/Chart.yaml", format!("appVersion: {version}")),
        ("deploy/helm/shardkeeper/Chart.yaml", format!("\nversion: {version}")),
    ] {
        let text = std::fs::read_to_string(in_package(file)).expect("the file");
        assert!(text.contains(&line), "{file} lacks {line}");
    }
}

#[test]
fn a_release_has_static_programs_packages_checksums_a_bill_of_materials_and_attestations() {
    let Some(workflow) = yaml(&in_package(".github/workflows/release.yml")) else { return };
    let jobs = &workflow["jobs"];
    let targets = jobs["programs"]["strategy"]["matrix"]["include"].as_array().expect("platforms");
    for (target, debian) in [("x86_64-unknown-linux-musl", "amd64"), ("aarch64-unknown-linux-musl", "arm64")] {
        let row = targets.iter().find(|row| row["target"] == target).expect(target);
        assert_eq!(row["debian"], debian);
    }
    let needs = jobs["release"]["needs"].as_array().expect("jobs before it");
    for job in ["programs", "crates", "image"] {
        assert!(needs.contains(&job.into()) && jobs[job].is_object(), "{job}");
    }
    let steps = |job: &str| jobs[job]["steps"].as_array().expect("steps").clone();
    let has = |job: &str, word: &str| steps(job).iter().any(|step| step.to_string().contains(word));
    for (job, word) in [
        ("crates", "cargo publish --dry-run --locked --package shardkeeper-local --package shardkeeper"),
        ("crates", "cargo semver-checks --package shardkeeper-local --package shardkeeper --baseline-rev"),
        ("release", "sha256sum"),
        ("release", "sbom-action"),
        ("release", "attest-build-provenance"),
        ("release", "attest-sbom"),
        ("image", "attest-build-provenance"),
    ] {
        assert!(has(job, word), "{job} has no {word}");
    }
    for job in ["release", "image"] {
        let permissions = &jobs[job]["permissions"];
        assert_eq!((&permissions["id-token"], &permissions["attestations"]), (&"write".into(), &"write".into()));
    }
}

#[test]
fn forms_for_issues_can_be_read_and_ask_for_what_a_report_needs() {
    let mut forms = 0;
    for entry in std::fs::read_dir(in_package(".github/ISSUE_TEMPLATE")).expect("the forms") {
        let path = entry.expect("an entry").path();
        let Some(form) = yaml(&path) else { return };
        if path.file_name().is_some_and(|name| name == "config.yml") {
            continue;
        }
        forms += 1;
        let fields = form["body"].as_array().expect("fields");
        assert!(form["name"].is_string() && form["description"].is_string(), "{}", path.display());
        assert!(fields.iter().any(|field| field["validations"]["required"] == true), "{}", path.display());
    }
    assert_eq!(forms, 2);
}

#[test]
fn a_debian_package_holds_the_program_with_its_pages_and_completions() {
    if find("dpkg-deb").is_none() {
        return; // which was said
    }
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("shardkeeper-{}.deb", std::process::id()));
    let built = Command::new(in_package("deploy/deb/build"))
        .args([env!("CARGO_BIN_EXE_shardkeeper"), "amd64"])
        .arg(&package)
        .env("DPKG_DEB_COMPRESSOR_TYPE", "none") // compression of a build for tests takes minutes
        .output()
        .expect("the script runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let shown = |flag: &str| {
        let shown = Command::new("dpkg-deb").arg(flag).arg(&package).output().expect("dpkg-deb runs");
        String::from_utf8(shown.stdout).expect("text")
    };
    let (content, control) = (shown("--contents"), shown("--field"));
    let root = package.with_extension("root");
    let extracted = Command::new("dpkg-deb").arg("--extract").args([&package, &root]).status().expect("dpkg-deb runs");
    assert!(extracted.success());
    let program = root.join("usr/bin/shardkeeper");
    let version = Command::new(&program).arg("--version").output().expect("the installed program runs").stdout;
    assert_eq!(String::from_utf8_lossy(&version).trim(), format!("shardkeeper {}", env!("CARGO_PKG_VERSION")));
    let unit = std::fs::read_to_string(root.join("usr/lib/systemd/system/shardkeeper@.service")).expect("the unit");
    let called = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")?.split(' ').next()).expect("a program");
    assert!(root.join(called.trim_start_matches('/')).is_file(), "{called} is not in the package");
    std::fs::remove_dir_all(&root).expect("it was just made");
    std::fs::remove_file(&package).expect("it was just made");
    for file in [
        "./usr/bin/shardkeeper\n",
        "./usr/share/man/man1/shardkeeper-run.1.gz\n",
        "./usr/share/bash-completion/completions/shardkeeper\n",
        "./usr/share/zsh/vendor-completions/_shardkeeper\n",
        "./usr/share/fish/vendor_completions.d/shardkeeper.fish\n",
        "./usr/share/doc/shardkeeper/copyright\n",
        "./usr/share/doc/shardkeeper/examples/shardkeeper.toml\n",
    ] {
        assert!(content.contains(file), "{file} in {content}");
    }
    assert!(content.lines().all(|line| line.contains("root/root")), "{content}");
    assert!(control.contains(&format!("Version: {}", env!("CARGO_PKG_VERSION"))), "{control}");
    assert!(control.contains("Depends: libc6"), "this build is not static: {control}");
}
