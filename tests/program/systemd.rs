//! The service manager's side of systemd's protocol, played by the test, and the unit file.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::admin::{address_of, get};
use crate::support::fixture::{Fixture, TABLE, Worker, with_credentials};
use crate::support::tools::find;
use crate::support::wait::{let_last, wait_for};
use crate::support::{finish, shardkeeper};

/// A service manager that listens, and all that it was told.
struct Manager {
    socket: UnixDatagram,
    told: Vec<String>,
}

impl Manager {
    fn new(address: &SocketAddr) -> Self {
        let socket = UnixDatagram::bind_addr(address).expect("a name of the test's own");
        socket.set_nonblocking(true).expect("it can be asked");
        Self { socket, told: Vec::new() }
    }

    fn listen(&mut self) -> &[String] {
        let mut message = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut message) {
            self.told.push(String::from_utf8_lossy(&message[..length]).into_owned());
        }
        &self.told
    }

    fn has_heard(&mut self, message: &str) -> bool {
        self.listen().iter().any(|told| told == message)
    }

    fn wait_for(&mut self, message: &str) {
        wait_for(&format!("{message:?} to be told"), || self.has_heard(message));
    }

    /// The number of times that the watchdog was told.
    fn barks(&mut self) -> usize {
        self.listen().iter().filter(|told| *told == "WATCHDOG=1").count()
    }
}

/// A worker that is told of the socket by `name`.
fn worker(fixture: &Fixture, name: &str, flags: &str) -> Worker {
    let mut command = shardkeeper();
    let url = fixture.service.url();
    let line = format!(
        "run --table {TABLE} --app app --worker-id w --to null --endpoint-url {url} --idle-poll 100ms --metrics-addr \
         127.0.0.1:0 {flags}"
    );
    with_credentials(&mut command).args(line.split_whitespace()).stdout(Stdio::null());
    command.env("NOTIFY_SOCKET", name).env("WATCHDOG_USEC", "1000000");
    Worker::start(&mut command, "w", fixture.log("w"))
}

#[test]
fn a_service_manager_hears_of_readiness_reloads_and_the_end_at_an_abstract_socket() {
    let fixture = Fixture::new("--shards 2");
    let name = format!("shardkeeper-test-{}", std::process::id());
    let mut manager = Manager::new(&SocketAddr::from_abstract_name(&name).expect("a short name"));
    fixture.service.faults(&json!({"refuse": ["tables"]}));
    let mut worker = worker(&fixture, &format!("@{name}"), "");
    worker.wait_for_log("service not reachable yet, retrying");
    worker.signal("HUP");
    worker.wait_for_log("no configuration file is given, nothing to read again");
    manager.wait_for("STATUS=not ready: it is starting: the tables and the stream are looked for");
    assert!(!manager.has_heard("READY=1"), "not by a reload either: {:?}", manager.told);

    fixture.service.faults(&json!({}));
    manager.wait_for("READY=1");
    assert_eq!(get(&address_of(&worker), "/ready").0, 200);
    manager.wait_for("STATUS=reading 2 shards");

    let before = manager.told.len();
    worker.signal("HUP");
    wait_for("the end of the reload", || manager.listen()[before..].iter().any(|told| told == "READY=1"));
    let reload: Vec<&String> =
        manager.told[before..].iter().filter(|told| told.contains("READY=1") || told.contains("RELOADING=1")).collect();
    let moment = reload[0].strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("a reload begins");
    let up: f64 = std::fs::read_to_string("/proc/uptime").expect("Linux").split(' ').next().unwrap().parse().unwrap();
    let age = up - moment.parse::<f64>().expect("microseconds") / 1e6;
    assert!((-1.0..60.0).contains(&age), "{age}");
    assert_eq!(reload.len(), 2, "{reload:?}");

    assert_eq!(worker.stop(), 0);
    manager.wait_for("STOPPING=1");
    assert_eq!(manager.told.iter().filter(|told| *told == "STOPPING=1").count(), 1);
}

#[test]
fn the_watchdog_hears_of_loops_that_come_round_and_of_no_others() {
    let fixture = Fixture::new("--shards 1");
    let path = std::env::temp_dir().join(format!("shardkeeper-test-{}", std::process::id()));
    let mut manager = Manager::new(&SocketAddr::from_pathname(&path).expect("a short path"));
    // Calls of the tables are cut off after seconds, and their loops wait for that.
    let mut worker = worker(&fixture, path.to_str().expect("UTF-8"), "--lease-duration 20s");
    manager.wait_for("READY=1");
    let before = manager.barks();
    wait_for("the watchdog to hear of the loops", || manager.barks() >= before + 3);

    fixture.service.signal("STOP");
    wait_for("the loops to wait", || {
        let before = manager.barks();
        let_last(Duration::from_secs(2));
        manager.barks() == before
    });
    fixture.service.signal("CONT");
    let before = manager.barks();
    wait_for("the watchdog to hear again", || manager.barks() >= before + 3);
    assert_eq!(worker.stop(), 0);
    std::fs::remove_file(path).expect("it is the test's own");
}

#[test]
fn a_socket_that_nobody_listens_on_holds_up_nothing() {
    let fixture = Fixture::new("--shards 1");
    let mut worker = worker(&fixture, "/nowhere/notify", "");
    worker.wait_for_log("\"lease taken\"");
    assert_eq!(worker.stop(), 0);
}

#[test]
fn the_unit_file_is_one_that_systemd_takes_and_is_hardened() {
    let Some(analyze) = find("systemd-analyze") else { return };
    let fixture = Fixture::empty("");
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/shardkeeper@.service");
    let unit = std::fs::read_to_string(unit).expect("it is shipped");
    // The check wants the program where the unit has it.
    let unit = unit.replace("/usr/bin/shardkeeper", env!("CARGO_BIN_EXE_shardkeeper"));
    let folder = fixture.log("units");
    std::fs::create_dir_all(&folder).expect("a folder of the test's own");
    let path = folder.join("shardkeeper@.service");
    std::fs::write(&path, unit).expect("it can be written");
    let verified = finish(Command::new(&analyze).args(["verify", "--man=no"]).arg(&path));
    // The machine's own units may have faults of their own.
    let ours: Vec<&str> = verified.stderr.lines().filter(|line| line.contains("shardkeeper@")).collect();
    assert_eq!((verified.code, ours), (0, Vec::new()));
    let hardened = finish(Command::new(&analyze).args(["security", "--offline=true", "--threshold=20"]).arg(&path));
    assert_eq!(hardened.code, 0, "{}", hardened.stdout);
}
