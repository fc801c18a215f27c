//! The AWS SDK's own decoding of GetRecords answers: its real client, over a connector that gives out a body at hand.

use std::sync::{Arc, Mutex};

use aws_sdk_dynamodbstreams::Client;
use aws_sdk_dynamodbstreams::config::retry::RetryConfig;
use aws_sdk_dynamodbstreams::config::{BehaviorVersion, Config, Credentials, Region};
use aws_sdk_dynamodbstreams::operation::get_records::GetRecordsOutput;
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use tokio::runtime::Runtime;

/// Decodes bodies as the SDK does.
pub struct SdkDecoder {
    client: Client,
    body: Arc<Mutex<Bytes>>,
    runtime: Runtime,
}

impl SdkDecoder {
    /// A client without retries on a runtime of this thread.
    pub fn new() -> Self {
        let body = Arc::new(Mutex::new(Bytes::new()));
        let connector = SharedHttpConnector::new(StaticConnector(Arc::clone(&body)));
        let config = Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("eu-central-1"))
            .credentials_provider(Credentials::new("key", "secret", None, None, "static"))
            .retry_config(RetryConfig::disabled())
            .http_client(http_client_fn(move |_, _| connector.clone()))
            .build();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Self { client: Client::from_conf(config), body, runtime: runtime.expect("a runtime") }
    }

    /// Decodes `body`; `None` when the SDK refuses it.
    pub fn decode(&self, body: Bytes) -> Option<GetRecordsOutput> {
        *self.body.lock().expect("a whole lock") = body;
        let call = self.client.get_records().shard_iterator("iterator").send();
        self.runtime.block_on(call).ok()
    }
}

/// Answers each request with the body at hand.
#[derive(Debug)]
struct StaticConnector(Arc<Mutex<Bytes>>);

impl HttpConnector for StaticConnector {
    fn call(&self, _request: HttpRequest) -> HttpConnectorFuture {
        let body = self.0.lock().expect("a whole lock").clone();
        let ok = StatusCode::try_from(200).expect("a status");
        HttpConnectorFuture::ready(Ok(HttpResponse::new(ok, SdkBody::from(body))))
    }
}
