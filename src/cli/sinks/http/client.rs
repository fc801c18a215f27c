//! A client of one handler: connections, kept for the next request, and one request and its response.
//!
//! A server may close a connection at the very moment at which the next request is sent on it. That is no failure of
//! the handler: a request whose connection was used before, and ended without a byte of a response, is sent once more on
//! a new one. The handler may then see a batch twice, as after any failure.

use std::io::ErrorKind;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HeaderMap, HeaderName, HeaderValue, LOCATION, PROXY_AUTHORIZATION};
use hyper::rt::{Read, Write};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower_service::Service;

use crate::aws::{authorities, with_causes};
use crate::consumer::BatchError;

/// Limit of a connection attempt, with name resolution and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was idle for longer is not used again: many servers close theirs after 5 s.
const LONGEST_IDLE: Duration = Duration::from_secs(4);
/// When a connection shows no sign of life, its other end is asked for one: a call may last long, and a machine that
/// is gone says nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Time that sent bytes may stay unacknowledged: keep-alive asks nothing while there are any.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// The most requests at once. A process has 1024 files by default, and others need some too.
pub(in crate::cli) const MOST_REQUESTS: usize = 256;
/// A server that has answered early reads the rest of the request within this time, or its connection is not used again.
const READY: Duration = Duration::from_millis(100);
/// The most of a response that is read: more than the failures of any batch take.
pub(in crate::cli) const LARGEST_RESPONSE: usize = 4 << 20;
/// The most of a response that is read when its status says that the call failed.
const LARGEST_ERROR: usize = 8 << 10;

/// A handler's response, or as much as was read of it.
pub(in crate::cli) struct HandlerResponse {
    pub(in crate::cli) status: StatusCode,
    pub(in crate::cli) headers: HeaderMap,
    pub(in crate::cli) body: Vec<u8>,
    /// Whether the body is longer than what was read.
    pub(in crate::cli) is_cut: bool,
}

/// A request without a response.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum RequestError {
    #[error("the handler cannot be reached: {0}")]
    Unreachable(String),
    #[error("the handler's response is incomplete: {0}")]
    BrokenOff(String),
}

impl RequestError {
    /// The failure of the request's batch. A handler that was not reached has not seen a record.
    pub(in crate::cli) fn into_batch(self) -> BatchError {
        match self {
            Self::Unreachable(_) => BatchError::unavailable(self, None),
            Self::BrokenOff(_) => self.into(),
        }
    }
}

impl HandlerResponse {
    /// The target of a redirect, which is not followed.
    pub(in crate::cli) fn location(&self) -> Option<&str> {
        self.headers.get(LOCATION).and_then(|location| location.to_str().ok())
    }
}

type Sender = SendRequest<Full<Bytes>>;

pub(in crate::cli) struct Client {
    uri: Uri,
    connector: Connector,
    /// The proxy that plain requests go to.
    proxy: Option<Intercept>,
    permits: Semaphore,
    /// Connections without a request, the last used last.
    idle: Mutex<Vec<(Sender, Instant)>>,
}

enum Connector {
    Plain(HttpConnector),
    Tls(HttpsConnector<HttpConnector>),
    /// TLS with the handler, through a proxy.
    Tunnel(HttpsConnector<Tunnel<HttpConnector>>),
}

impl Client {
    /// A client for the host of `uri`; no connection is opened yet.
    ///
    /// # Errors
    /// For `https`, when the authorities to trust cannot be read.
    pub(in crate::cli) fn new(uri: Uri) -> std::io::Result<Self> {
        Self::with_limit(uri, UNACKNOWLEDGED)
    }

    pub(in crate::cli) fn with_limit(uri: Uri, unacknowledged: Duration) -> std::io::Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEP_ALIVE));
        tcp.set_keepalive_interval(Some(KEEP_ALIVE / 3));
        tcp.set_keepalive_retries(Some(3));
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        tcp.set_tcp_user_timeout(Some(unacknowledged));
        #[cfg(not(any(target_os = "android", target_os = "fuchsia", target_os = "linux")))]
        let _ = unacknowledged;
        let mut proxy = Matcher::from_env().intercept(&uri);
        let connector = if uri.scheme_str() == Some("https") {
            authorities::check().map_err(std::io::Error::other)?;
            let builder = HttpsConnectorBuilder::new().with_native_roots()?.https_only().enable_http1();
            match proxy.take() {
                Some(proxy) => {
                    let tunnel = Tunnel::new(proxy.uri().clone(), tcp);
                    let authorization = proxy.basic_auth().cloned();
                    let tunnel = authorization.map_or(tunnel.clone(), |auth| tunnel.with_auth(auth));
                    Connector::Tunnel(builder.wrap_connector(tunnel))
                }
                None => Connector::Tls(builder.wrap_connector(tcp)),
            }
        } else {
            Connector::Plain(tcp)
        };
        Ok(Self { uri, connector, proxy, permits: Semaphore::new(MOST_REQUESTS), idle: Mutex::default() })
    }

    /// The target that a request for `uri` names: on a connection to the server itself the path alone, to a proxy the
    /// whole URI (RFC 9112, section 3.2).
    pub(in crate::cli) fn target(&self, uri: &Uri) -> Uri {
        match self.proxy {
            Some(_) => uri.clone(),
            None => uri.path_and_query().map_or("/", |path| path.as_str()).parse().unwrap_or_default(),
        }
    }

    /// The header by which that proxy knows the caller.
    pub(in crate::cli) fn proxy_authorization(&self) -> Option<(HeaderName, HeaderValue)> {
        let value = self.proxy.as_ref()?.basic_auth()?;
        Some((PROXY_AUTHORIZATION, value.clone()))
    }

    /// Sends a request and reads the response.
    pub(in crate::cli) async fn send(
        &self,
        request: impl Fn() -> Request<Full<Bytes>>,
    ) -> Result<HandlerResponse, RequestError> {
        let _permit = self.permits.acquire().await;
        if let Some(mut sender) = self.take_idle().await {
            match sender.send_request(request()).await {
                Ok(response) => return self.read(sender, response).await,
                Err(error) if was_closed(&error) => {
                    tracing::debug!(%error, "the handler has closed the connection, retrying on a new one");
                }
                Err(error) => return Err(broken_off(&error)),
            }
        }
        let mut sender = self.connect().await?;
        let response = sender.send_request(request()).await.map_err(|error| broken_off(&error))?;
        self.read(sender, response).await
    }

    /// A connection that was used not long ago and is still open.
    async fn take_idle(&self) -> Option<Sender> {
        loop {
            let (mut sender, since) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            let is_ready = tokio::time::timeout(READY, sender.ready());
            if since.elapsed() < LONGEST_IDLE && matches!(is_ready.await, Ok(Ok(()))) {
                return Some(sender);
            }
        }
    }

    fn put_back(&self, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(sender, since)| !sender.is_closed() && since.elapsed() < LONGEST_IDLE);
        idle.push((sender, Instant::now()));
    }

    async fn connect(&self) -> Result<Sender, RequestError> {
        let uri = self.proxy.as_ref().map_or(&self.uri, Intercept::uri).clone();
        let connecting = async {
            match &self.connector {
                Connector::Plain(connector) => {
                    let stream = connector.clone().call(uri).await.map_err(|error| with_causes(&error))?;
                    handshake(stream).await
                }
                Connector::Tls(connector) => {
                    let stream = connector.clone().call(uri).await.map_err(|error| with_causes(&*error))?;
                    handshake(stream).await
                }
                Connector::Tunnel(connector) => {
                    let stream = connector.clone().call(uri).await.map_err(|error| with_causes(&*error))?;
                    handshake(stream).await
                }
            }
        };
        let late = || format!("no connection within {CONNECT_TIMEOUT:?}");
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
        connected.map_err(|_| late()).and_then(|connected| connected).map_err(RequestError::Unreachable)
    }

    /// Reads a response up to its limit. The connection is kept if the response ends there.
    async fn read(&self, sender: Sender, response: Response<Incoming>) -> Result<HandlerResponse, RequestError> {
        let (head, mut body) = response.into_parts();
        let limit = if head.status.is_success() { LARGEST_RESPONSE } else { LARGEST_ERROR };
        let mut read = HandlerResponse { status: head.status, headers: head.headers, body: Vec::new(), is_cut: false };
        while let Some(frame) = body.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                // The status says more than that the rest is missing.
                Err(_) if !read.status.is_success() => {
                    read.is_cut = true;
                    return Ok(read);
                }
                Err(error) => return Err(broken_off(&error)),
            };
            let Ok(data) = frame.into_data() else { continue };
            let room = limit - read.body.len();
            read.body.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                read.is_cut = true;
                return Ok(read);
            }
        }
        self.put_back(sender);
        Ok(read)
    }
}

async fn handshake<T: Read + Write + Send + Unpin + 'static>(stream: T) -> Result<Sender, String> {
    let (sender, connection) = http1::handshake(stream).await.map_err(|error| with_causes(&error))?;
    // It ends when its sender is dropped, or with the stream, and then its request fails.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

/// Whether a connection ended before any of a response came.
fn was_closed(error: &hyper::Error) -> bool {
    let is_io = || std::error::Error::source(error).is_some_and(|cause| cause.is::<std::io::Error>());
    error.is_canceled() || error.is_closed() || error.is_incomplete_message() || is_io()
}

fn broken_off(error: &hyper::Error) -> RequestError {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    match cause.map(std::io::Error::kind) {
        // Nothing came back for so long that the machine, or the way to it, is gone.
        Some(ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => {
            RequestError::Unreachable(with_causes(error))
        }
        _ => RequestError::BrokenOff(with_causes(error)),
    }
}
