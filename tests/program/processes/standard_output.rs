//! Records on a standard output that is not always ready for them.

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::support::fixture::{Fixture, TABLE};
use crate::support::local_service::Written;
use crate::support::wait::let_last;

#[test]
fn an_output_that_would_block_is_waited_for_and_gets_each_line_once() {
    let fixture = Fixture::new("");
    fixture.service.write(TABLE, &mut Written::default(), 3_000);
    let (ours, theirs) = UnixStream::pair().expect("two ends");
    // The flag belongs to what both processes share.
    theirs.set_nonblocking(true).expect("it can be set");
    let stdout = Stdio::from(OwnedFd::from(theirs));
    let mut worker = fixture.worker_on(&format!("--table {TABLE}"), "audit", "w", stdout, "--until-caught-up");
    let mut events = std::collections::BTreeSet::new();
    for (count, line) in BufReader::with_capacity(4096, ours).lines().enumerate() {
        let line = line.expect("a line");
        let record: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(events.insert(record["eventID"].to_string()), "twice: {line}");
        if count % 200 == 0 {
            let_last(Duration::from_millis(50));
        }
    }
    assert_eq!(events.len(), 3_000);
    assert_eq!(worker.exit_code(), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn an_output_that_may_not_grow_ends_between_lines_and_its_worker_stops_as_asked() {
    let fixture = Fixture::new("--shards 1");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 10);
    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    deliveries.wait_for_all(&written);
    let limit = std::process::Command::new("prlimit").args(["--fsize=32768", "--pid", &worker.process_id()]).status();
    assert!(limit.expect("it is part of util-linux").success());
    fixture.service.write(TABLE, &mut written, 1_000);
    worker.wait_for_log("File too large");
    assert_eq!(worker.stop(), 0);
    let delivered = deliveries.firsts();
    assert!((10..1_000).contains(&delivered), "{delivered}");
    assert_eq!(deliveries.repeats(), []);
    let mut unlimited = fixture.worker("audit", "w", &deliveries, "");
    deliveries.wait_for_all(&written);
    assert_eq!(unlimited.stop(), 0);
    assert_eq!(deliveries.repeats(), []);
}
