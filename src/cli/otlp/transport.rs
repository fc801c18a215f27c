//! The way of exports to the collector: the same client as handlers have.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use opentelemetry_http::{HttpClient, HttpError};
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use crate::aws::request_signer::RequestSigner;
use crate::cli::sinks::http::client::Client;

/// The services of AWS that take exports, by the first part of their hosts: CloudWatch's metrics, X-Ray's traces.
const AWS_SERVICES: [&str; 2] = ["monitoring", "xray"];

/// The runtime on which all calls run, whatever thread they come from.
static RUNTIME: OnceLock<Handle> = OnceLock::new();

/// A client for one of OpenTelemetry's exporters.
pub struct Transport {
    /// The things that are sent, in the log's words.
    sent: &'static str,
    timeout: Duration,
    /// The client of the collector: an exporter has one address.
    client: Mutex<Option<Arc<Client>>>,
    /// The signer of requests to AWS, once there was one.
    signer: Arc<OnceCell<RequestSigner>>,
    /// Whether the last export failed.
    is_failing: AtomicBool,
}

impl Transport {
    /// A transport with a limit for each call.
    pub fn new(sent: &'static str, timeout: Duration) -> Self {
        Self { sent, timeout, client: Mutex::default(), signer: Arc::default(), is_failing: AtomicBool::new(false) }
    }

    /// Lets all transports use the current runtime.
    pub fn use_runtime() {
        let _ = RUNTIME.set(Handle::current());
    }

    fn client(&self, uri: &Uri) -> std::io::Result<Arc<Client>> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if client.is_none() {
            *client = Some(Arc::new(Client::new(uri.clone())?));
        }
        client.clone().ok_or_else(|| std::io::Error::other("there is no client"))
    }

    async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client(request.uri())?;
        let timeout = self.timeout;
        let runtime = RUNTIME.get().ok_or("the worker has not started yet")?;
        let signer = Arc::clone(&self.signer);
        let sent = runtime.spawn(async move {
            if let Some((service, region)) = aws_service(&request) {
                let signer = signer.get_or_try_init(|| RequestSigner::load(&region)).await;
                signer.map_err(|error| error.to_string())?.sign(&mut request, service).await?;
            }
            let response = tokio::time::timeout(timeout, client.send(|| outgoing(&client, &request))).await;
            let response = response.map_err(|_| format!("no response within {timeout:?}"))?;
            response.map_err(|error| error.to_string())
        });
        let answer = sent.await?.map_err(HttpError::from)?;
        let (status, body) = (answer.status, Bytes::from(answer.body));
        if !status.is_success() {
            return Err(format!("the collector answered {status}: {}", String::from_utf8_lossy(&body)).into());
        }
        let mut response = Response::new(body);
        *response.status_mut() = status;
        Ok(response)
    }
}

#[async_trait]
impl HttpClient for Transport {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let outcome = self.send(request).await;
        let was_failing = self.is_failing.swap(outcome.is_err(), Ordering::Relaxed);
        match (&outcome, was_failing) {
            (Err(error), false) => tracing::warn!(sent = self.sent, %error, "sending by OTLP failed, retrying"),
            (Ok(_), true) => tracing::info!(sent = self.sent, "sending by OTLP succeeds again"),
            _ => {}
        }
        outcome
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

/// The service of AWS and the region that a request goes to, if it is to be signed.
fn aws_service(request: &Request<Bytes>) -> Option<(&'static str, String)> {
    let mut parts = request.uri().host()?.split('.');
    let service = parts.next().and_then(|name| AWS_SERVICES.into_iter().find(|service| *service == name))?;
    let region = parts.next()?.to_owned();
    let is_aws = parts.next() == Some("amazonaws") && parts.next() == Some("com");
    (is_aws && !request.headers().contains_key(AUTHORIZATION)).then_some((service, region))
}

/// The request as it goes over a connection.
fn outgoing(client: &Client, request: &Request<Bytes>) -> Request<Full<Bytes>> {
    let mut outgoing = Request::new(Full::new(request.body().clone()));
    *outgoing.method_mut() = request.method().clone();
    *outgoing.headers_mut() = request.headers().clone();
    *outgoing.uri_mut() = client.target(request.uri());
    let host = request.uri().authority().and_then(|authority| authority.as_str().parse().ok());
    outgoing.headers_mut().insert(HOST, host.unwrap_or_else(|| HeaderValue::from_static("localhost")));
    outgoing.headers_mut().extend(client.proxy_authorization());
    outgoing
}
