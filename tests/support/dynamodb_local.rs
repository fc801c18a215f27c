//! The official DynamoDB Local as a process, for this package's tests and the local service's.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use super::wait::eventually;

/// The variable that names the folder of DynamoDBLocal.jar; .ci/run sets it.
const FOLDER: &str = "SHARDKEEPER_TEST_DYNAMODB_LOCAL";

/// Starts it and waits until it listens; none, said plainly, where it is not installed. In CI it must be.
pub fn start() -> Option<(Child, SocketAddr)> {
    let folder = required_in_ci(FOLDER)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut process = Command::new("java")
        .current_dir(folder)
        .arg("-Djava.library.path=./DynamoDBLocal_lib")
        .args(["-jar", "DynamoDBLocal.jar", "-inMemory", "-sharedDb", "-disableTelemetry", "-port"])
        .arg(address.port().to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("java starts");
    eventually("DynamoDB Local listens", || {
        let ended = process.try_wait().expect("its state is known");
        assert_eq!(ended, None, "DynamoDB Local ended early");
        TcpStream::connect(address).ok()
    });
    Some((process, address))
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
