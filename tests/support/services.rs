//! The services that the tests run against, each a process of its own that ends with its value.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use crate::support::{dynamodb_local, shardkeeper};

/// A running service.
pub struct Service {
    pub process: Child,
    /// The address on which it listens.
    pub address: SocketAddr,
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
        Self { process, address }
    }

    /// The official DynamoDB Local, where it is installed.
    pub fn dynamodb_local() -> Option<Self> {
        let (process, address) = dynamodb_local::start()?;
        Some(Self { process, address })
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
