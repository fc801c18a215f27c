//! The transport in memory, beneath the real SDK: for tests and simulations.
//!
//! Under a paused tokio clock and one seed, whole fleets of SDK clients run on it deterministically. The SDK asks it
//! for neither threads nor time; delays are tokio's.

use std::fmt;
use std::sync::Arc;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::date_time::{DateTime, Format};
use bytes::Bytes;

use crate::emulator::{Answer, Request};
use crate::faults::InjectedFault;
use crate::server;
use crate::service::{LocalService, LostCall};
use crate::timestamp::Timestamp;

/// One call that the SDK is about to make, as a [`FaultHook`] sees it.
#[derive(Debug)]
pub struct Call<'a> {
    /// The label of the client that makes it: [`InMemoryClient::label`].
    pub client: &'a str,
    /// The operation and its body.
    pub request: &'a Request,
    /// The service's time.
    pub now: Timestamp,
}

/// Decides for each call what goes wrong with it; `None` leaves it to the service's fault plan.
pub type FaultHook = Arc<dyn Fn(&Call<'_>) -> Option<InjectedFault> + Send + Sync>;

/// An HTTP client for the SDK's configuration whose every call goes to a local service in this process.
#[derive(Clone)]
pub struct InMemoryClient {
    service: LocalService,
    label: Arc<str>,
    hook: Option<FaultHook>,
}

impl InMemoryClient {
    /// A client without label or hook.
    pub fn new(service: LocalService) -> Self {
        Self { service, label: Arc::from(""), hook: None }
    }

    /// Sets the label by which hooks tell clients apart.
    #[must_use]
    pub fn label(mut self, label: &str) -> Self {
        self.label = Arc::from(label);
        self
    }

    /// Sets the hook, which may make each call fail.
    #[must_use]
    pub fn hook(mut self, hook: impl Fn(&Call<'_>) -> Option<InjectedFault> + Send + Sync + 'static) -> Self {
        self.hook = Some(Arc::new(hook));
        self
    }

    /// The value for `http_client` of an SDK configuration.
    pub fn shared(self) -> SharedHttpClient {
        SharedHttpClient::new(self)
    }

    async fn carry(self, caller: Option<String>, request: Request) -> Result<HttpResponse, ConnectorError> {
        let call = Call { client: &self.label, request: &request, now: self.service.now() };
        let fault = self.hook.as_ref().and_then(|hook| hook(&call));
        let answer = match fault {
            Some(fault) => self.service.call_with(request, fault).await,
            None => match caller {
                Some(caller) => self.service.call_as(&caller, request).await,
                None => self.service.call(request).await,
            },
        };
        match answer {
            Ok(answer) => to_response(answer, self.service.now()),
            Err(LostCall) => Err(ConnectorError::io(Box::new(LostCall))),
        }
    }
}

impl HttpClient for InMemoryClient {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for InMemoryClient {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.clone();
        HttpConnectorFuture::new(async move {
            let caller = request.headers().get("authorization").and_then(server::caller).map(str::to_owned);
            client.carry(caller, from_sdk(&request)?).await
        })
    }
}

impl fmt::Debug for InMemoryClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InMemoryClient").field("label", &self.label).finish_non_exhaustive()
    }
}

fn from_sdk(request: &HttpRequest) -> Result<Request, ConnectorError> {
    let target = request.headers().get("x-amz-target").unwrap_or_default().to_owned();
    let body = request
        .body()
        .bytes()
        .ok_or_else(|| ConnectorError::user("the in-memory client takes no streaming bodies".into()))?;
    Ok(Request { target, body: Bytes::copy_from_slice(body) })
}

fn to_response(answer: Answer, now: Timestamp) -> Result<HttpResponse, ConnectorError> {
    let status = answer.status.try_into().map_err(|error| ConnectorError::other(Box::new(error), None))?;
    let mut response = HttpResponse::new(status, SdkBody::from(answer.body));
    let headers = response.headers_mut();
    headers.insert("content-type", "application/x-amz-json-1.0");
    headers.insert("x-amzn-requestid", answer.request_id);
    if let Ok(date) = DateTime::from_millis(i64::try_from(now.as_millis()).unwrap_or(i64::MAX)).fmt(Format::HttpDate) {
        headers.insert("date", date);
    }
    Ok(response)
}
