//! The demonstration as a newcomer meets it: one command, real processes, a verdict.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::admin::get;
use crate::support::wait::wait_for;
use crate::support::{Finished, finish, shardkeeper};

fn demo(line: &str) -> Finished {
    finish(shardkeeper().arg("demo").args(line.split_whitespace()))
}

/// The number beside `name` in the verdict.
fn count(stdout: &str, name: &str) -> u64 {
    let (_, verdict) = stdout.split_once("\nVerdict").unwrap_or_else(|| panic!("no verdict in\n{stdout}"));
    let line = verdict.lines().find_map(|line| line.trim().strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {name} in\n{verdict}"))
}

/// Starts a demonstration without end and waits for its first record. Gives the lines that follow, and the service's
/// address.
fn start_demo() -> (Child, impl Iterator<Item = String>, String) {
    let mut child = shardkeeper().args(["demo", "--keep-going"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find(|line| line.contains("service")).unwrap();
    let service = line.split_whitespace().nth(1).unwrap().to_string();
    assert!(lines.any(|line| line.contains("INSERT")), "no record came");
    assert!(!processes_with(&service).is_empty(), "no worker has the service's address in its environment");
    (child, lines, service)
}

#[test]
fn every_record_arrives_in_order_while_a_worker_is_killed_and_another_starts() {
    let demo = demo("--for 12s --rollover 3s --rate 100");
    let tail: String = demo.stdout.lines().rev().take(40).map(|line| format!("{line}\n")).collect();
    assert_eq!(demo.code, 0, "{}\nthe end of standard output, last line first:\n{tail}", demo.stderr);
    let written = count(&demo.stdout, "written");
    assert!(written > 500, "{written} written");
    assert_eq!(count(&demo.stdout, "delivered"), written);
    assert_eq!(count(&demo.stdout, "missing"), 0);
    assert_eq!(count(&demo.stdout, "out of order"), 0);
    assert!(demo.stdout.contains("PASSED"));
    // A record that is delivered twice is shown twice.
    let shown =
        demo.stdout.lines().filter(|line| ["INSERT", "MODIFY", "REMOVE"].iter().any(|word| line.contains(word)));
    let deliveries = written + count(&demo.stdout, "delivered twice");
    assert_eq!(shown.count() as u64, deliveries, "one line for each delivery");
    for said in ["killed worker-2 (kill -9)", "starting worker-4", "asking the workers to stop (SIGTERM)"] {
        assert!(demo.stdout.contains(said), "never said {said:?}");
    }
    assert!(!demo.stdout.contains('\x1b'), "control characters outside of a terminal");
}

#[test]
fn an_interrupt_ends_it_in_good_order_with_the_verdict_so_far_and_no_process_left() {
    let (mut child, lines, service) = start_demo();
    let status = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status();
    assert!(status.unwrap().success());
    let rest: Vec<String> = lines.collect();
    assert!(child.wait().unwrap().success(), "{}", rest.join("\n"));
    assert!(rest.iter().any(|line| line.contains("PASSED")), "{}", rest.join("\n"));
    assert_eq!(processes_with(&service), Vec::<u32>::new());
}

#[test]
fn no_worker_outlives_a_demonstration_that_is_killed() {
    let (mut child, _lines, service) = start_demo();
    child.kill().unwrap();
    child.wait().unwrap();
    let ended = wait_until(Duration::from_secs(30), || processes_with(&service).is_empty());
    assert!(ended, "still there: {:?}", processes_with(&service));
}

/// Looks again and again whether `is_there`, until the time is over.
fn wait_until(limit: Duration, is_there: impl Fn() -> bool) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let look = async {
            while !is_there() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(limit, look).await.is_ok()
    })
}

/// The processes whose environment points at the service at `url`.
fn processes_with(url: &str) -> Vec<u32> {
    let wanted = format!("AWS_ENDPOINT_URL={url}");
    let folders =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    folders
        .filter(|id: &u32| {
            // A process that is gone meanwhile has none.
            let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
        })
        .collect()
}

#[test]
fn open_hands_the_browser_a_page_of_the_fleet() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("demo-open-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder of the test's own");
    // In place of a browser: leaves the page's beginning in a file.
    let (opener, page) = (folder.join("xdg-open"), folder.join("page"));
    std::fs::write(&opener, format!("#!/bin/sh\necho \"$1\" > {0}.part && mv {0}.part {0}\n", page.display())).unwrap();
    std::fs::set_permissions(&opener, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let mut command = shardkeeper();
    command.args(["demo", "--keep-going", "--workers", "2", "--open"]).env("PATH", path).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    wait_for("the browser to be opened", || page.exists());
    let url = std::fs::read_to_string(&page).unwrap();
    let address = url.trim().trim_start_matches("http://").trim_end_matches('/').to_owned();
    let (status, text) = get(&address, "/");
    assert_eq!(status, 200);
    assert!(text.contains("<title>shardkeeper</title>"), "{text}");
    wait_for("the fleet in it", || get(&address, "/status").1.contains("\"worker-2\""));
    let status = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status();
    assert!(status.unwrap().success());
    assert!(child.wait().unwrap().success());
    let _ = std::fs::remove_dir_all(&folder);
}
