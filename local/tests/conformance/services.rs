//! The two services that the transcripts run on.

use std::net::SocketAddr;
use std::process::Child;

use shardkeeper_local::{Clock, LocalOptions, LocalService, Server};

use crate::dynamodb_local;

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

    /// The official DynamoDB Local, where it is installed.
    pub fn dynamodb_local() -> Option<Self> {
        let (process, address) = dynamodb_local::start()?;
        Some(Self { name: "dynamodb-local", address, region: "ddblocal", _running: Running::Process(process) })
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
