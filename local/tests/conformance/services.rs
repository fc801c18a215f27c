//! The two services that the transcripts run on.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use shardkeeper_local::{Clock, LocalOptions, LocalService, Server};

/// The variable that names the folder of DynamoDBLocal.jar.
const DYNAMODB_LOCAL: &str = "SHARDKEEPER_TEST_DYNAMODB_LOCAL";
/// Time for the JVM to start on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A running service, which ends with this value.
pub struct Service {
    /// Its name in transcripts and messages.
    pub name: &'static str,
    pub address: SocketAddr,
    /// The region that its ARNs and records name.
    pub region: &'static str,
    _running: Running,
}

enum Running {
    Here { _server: Server, _runtime: tokio::runtime::Runtime },
    Process(Child),
}

impl Service {
    /// This crate's service.
    pub fn shardkeeper_local() -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let service = LocalService::new(LocalOptions::default(), Clock::system());
        let server = runtime.block_on(service.listen()).expect("a free port");
        let address = server.address();
        let running = Running::Here { _server: server, _runtime: runtime };
        Self { name: "shardkeeper-local", address, region: "us-east-1", _running: running }
    }

    /// The official DynamoDB Local. `None` where it is not installed, which standard error says; in CI it must be.
    pub fn dynamodb_local() -> Option<Self> {
        let Some(folder) = std::env::var_os(DYNAMODB_LOCAL) else {
            let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
            assert!(!in_ci, "{DYNAMODB_LOCAL} is not set, and CI skips no tests");
            eprintln!("SKIPPED on DynamoDB Local: {DYNAMODB_LOCAL} does not name the folder of DynamoDBLocal.jar");
            return None;
        };
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
        let mut running = Running::Process(process);
        eventually("DynamoDB Local listens", START, || {
            if let Running::Process(process) = &mut running {
                assert_eq!(process.try_wait().expect("its state is known"), None, "DynamoDB Local ended early");
            }
            TcpStream::connect(address).ok()
        });
        Some(Self { name: "dynamodb-local", address, region: "ddblocal", _running: running })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Running::Process(process) = self {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Polls `poll` until it finds something; fails the test after `limit`.
#[expect(clippy::disallowed_methods, reason = "it waits for another process, which only the real clock does")]
pub fn eventually<T>(what: &str, limit: Duration, mut poll: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}
