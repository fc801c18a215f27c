//! A service for tests of the adapters: it gives its answers in turn and keeps the requests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;

use super::clients::{Clients, Endpoints, clients};

#[derive(Clone, Debug)]
pub(super) enum Answer {
    Response { status: u16, headers: &'static [(&'static str, &'static str)], body: &'static str },
    ConnectionRefused,
}

impl Answer {
    pub(super) fn ok(body: &'static str) -> Self {
        Self::Response { status: 200, headers: &[], body }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Service {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    requests: Arc<Mutex<Vec<HttpRequest>>>,
}

impl HttpConnector for Service {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        self.requests.lock().unwrap().push(request);
        let answer = self.answers.lock().unwrap().pop_front().expect("an answer for each call");
        HttpConnectorFuture::ready(match answer {
            Answer::ConnectionRefused => Err(ConnectorError::io("connection refused".into())),
            Answer::Response { status, headers, body } => {
                let mut response = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body));
                for (name, value) in headers {
                    response.headers_mut().insert(*name, *value);
                }
                Ok(response)
            }
        })
    }
}

impl Service {
    /// Clients of this service, which will give `answers`.
    pub(super) fn clients(
        &self,
        answers: impl IntoIterator<Item = Answer>,
        credentials: impl ProvideCredentials + 'static,
    ) -> Clients {
        self.answers.lock().unwrap().extend(answers);
        let connector = SharedHttpConnector::new(self.clone());
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("eu-west-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(http_client_fn(move |_, _| connector.clone()))
            .build();
        clients(&config, &Endpoints::default(), Duration::from_secs(1), "test")
    }

    /// The URI, headers and body of a request.
    pub(super) fn request(&self, number: usize) -> (String, BTreeMap<String, String>, Vec<u8>) {
        let requests = self.requests.lock().unwrap();
        let request = &requests[number];
        let headers = request.headers().iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        (request.uri().to_owned(), headers.collect(), request.body().bytes().unwrap().to_vec())
    }
}

pub(super) fn keys() -> Credentials {
    Credentials::new("AKID", "secret", Some("token".into()), None, "test")
}
