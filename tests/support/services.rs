//! The services that the tests run against, each a process of its own that ends with its value.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::support::shardkeeper;
use crate::support::wait::eventually;

/// The variable that names the folder of the official DynamoDB Local; .ci/run sets it.
const DYNAMODB_LOCAL: &str = "SHARDKEEPER_TEST_DYNAMODB_LOCAL";

/// A running service.
#[allow(dead_code, reason = "the conformance suite reads name and region")]
pub struct Service {
    pub process: Child,
    /// The name in transcripts and messages.
    pub name: &'static str,
    /// The address on which it listens.
    pub address: SocketAddr,
    /// The region that its ARNs and records name.
    pub region: &'static str,
}

impl Service {
    /// `shardkeeper local` with further options, split at spaces.
    pub fn shardkeeper_local(options: &str) -> Self {
        let mut process = shardkeeper()
            .args(["local", "--port", "0", "--log-level", "warn"])
            .args(options.split_whitespace())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(process.stdout.take().expect("its output is piped")).lines();
        let first = lines.next().expect("a first line").expect("text");
        let address = first.split("http://").nth(1).and_then(|rest| rest.split(' ').next());
        let address = address.and_then(|address| address.parse().ok());
        let address = address.unwrap_or_else(|| panic!("an address in {first:?}"));
        Self { process, name: "shardkeeper-local", address, region: "us-east-1" }
    }

    /// The official DynamoDB Local; none, said plainly, where it is not installed. In CI it must be.
    pub fn dynamodb_local() -> Option<Self> {
        let folder = PathBuf::from(required_in_ci(DYNAMODB_LOCAL)?);
        let port = free_port();
        let process = Command::new("java")
            .current_dir(&folder)
            .arg("-Djava.library.path=./DynamoDBLocal_lib")
            .args(["-jar", "DynamoDBLocal.jar", "-inMemory", "-sharedDb", "-disableTelemetry", "-port"])
            .arg(port.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("java starts");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut service = Self { process, name: "dynamodb-local", address, region: "ddblocal" };
        eventually("DynamoDB Local listens", || {
            let ended = service.process.try_wait().expect("its state is known");
            assert_eq!(ended, None, "DynamoDB Local ended early");
            TcpStream::connect(address).ok()
        });
        Some(service)
    }

    /// The value for `--endpoint-url`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // The process may have ended by itself; either way nothing is left of it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The variable's value. Without it the caller skips its test, which is said; in CI that is a failure.
pub fn required_in_ci(variable: &str) -> Option<OsString> {
    let value = std::env::var_os(variable);
    if value.is_none() {
        let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
        assert!(!in_ci, "{variable} is not set, and CI skips no tests");
        eprintln!("SKIPPED: {variable} is not set (.ci/run installs what it names and sets it)");
    }
    value
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}
