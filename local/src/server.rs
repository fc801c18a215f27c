//! The transport over HTTP/1.1: DynamoDB and DynamoDB Streams on one port, and the control plane beside them.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use aws_smithy_types::date_time::{DateTime, Format};
use bytes::Bytes;
use http::request::Parts;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::compression::Encoding;
use crate::emulator::{Answer, Request};
use crate::error::ServiceError;
use crate::faults::FaultPlan;
use crate::page;
use crate::preload::Preload;
use crate::request::Parameters;
use crate::service::{LocalService, LostCall};
use crate::stream::StreamAction;

/// The longest request body that is read: a BatchWriteItem may have 16 MB.
const MAX_REQUEST_BYTES: usize = 20 * 1024 * 1024;
/// Pause between checks for due roll-over, trimming and expiry when no calls come.
const TICK: Duration = Duration::from_millis(100);
/// Time for open connections to finish at shutdown.
const GRACE: Duration = Duration::from_secs(1);

type HttpRequest = hyper::Request<Incoming>;
type HttpAnswer = Result<Response<Full<Bytes>>, LostCall>;

/// A [`LocalService`] on a port of this machine. Dropping it closes the port.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    _stop: DropGuard,
}

impl Server {
    pub(crate) fn start(listener: TcpListener, service: LocalService) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(async move {
            if let Err(error) = serve(listener, service, stopped).await {
                tracing::error!(%error, "the local service's listener failed");
            }
        });
        Ok(Self { address, _stop: stop.drop_guard() })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The endpoint URL for SDKs and the AWS CLI.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

pub(crate) async fn serve(
    listener: TcpListener,
    service: LocalService,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let stopping = CancellationToken::new();
    let mut connections = JoinSet::new();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, service.clone(), stopping.clone()));
                }
                Err(error) if is_passing(&error) => tokio::time::sleep(TICK).await,
                Err(error) => return Err(error),
            },
            Some(_) = connections.join_next() => {}
            _ = ticks.tick() => service.tick(),
        }
    }
    stopping.cancel();
    let all_ended = async { while connections.join_next().await.is_some() {} };
    // Connections that take longer end with the set.
    let _ = tokio::time::timeout(GRACE, all_ended).await;
    Ok(())
}

/// Whether accepting may succeed again: a connection that broke early, or too many open files for now.
fn is_passing(error: &io::Error) -> bool {
    const TOO_MANY_FILES: [i32; 2] = [23, 24]; // ENFILE, EMFILE
    error.kind() == io::ErrorKind::ConnectionAborted
        || error.raw_os_error().is_some_and(|code| TOO_MANY_FILES.contains(&code))
}

async fn serve_connection(stream: TcpStream, service: LocalService, stopping: CancellationToken) {
    // Answers are written at once, so waiting for more bytes to send only costs time.
    let _ = stream.set_nodelay(true);
    let respond = hyper::service::service_fn(move |request| respond(request, service.clone()));
    let connection =
        hyper::server::conn::http1::Builder::new().keep_alive(true).serve_connection(TokioIo::new(stream), respond);
    tokio::pin!(connection);
    let outcome = tokio::select! {
        biased;
        outcome = &mut connection => outcome,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "connection to the local service ended");
    }
}

async fn respond(request: HttpRequest, service: LocalService) -> HttpAnswer {
    let (head, body) = request.into_parts();
    let accepted = head.headers.get(ACCEPT_ENCODING).and_then(|header| Encoding::accepted(header.to_str().ok()?));
    let answer = match read_body(&head, body).await {
        Ok(body) => answer(&head, body, &service).await?,
        Err(refusal) => refusal,
    };
    let mut answer = match accepted {
        Some(encoding) => encoded(answer, encoding).await,
        None => answer,
    };
    let now = DateTime::from_millis(i64::try_from(service.now().as_millis()).unwrap_or(i64::MAX));
    if let Some(date) = now.fmt(Format::HttpDate).ok().and_then(|date| HeaderValue::from_str(&date).ok()) {
        answer.headers_mut().insert(DATE, date);
    }
    Ok(answer)
}

/// The body in plain, or the answer to one that cannot be read.
async fn read_body(head: &Parts, body: Incoming) -> Result<Bytes, Response<Full<Bytes>>> {
    let too_large = || text(StatusCode::PAYLOAD_TOO_LARGE, "the request body is too large or broke off\n");
    let refused = |why: String| from_error(&ServiceError::new("SerializationException", why));
    let encoding = match head.headers.get(CONTENT_ENCODING).map(|header| header.to_str().unwrap_or_default()) {
        None | Some("identity") => None,
        Some(name) => {
            let unknown = || refused(format!("The local service takes no bodies in the encoding {name}"));
            Some(Encoding::named(name).ok_or_else(unknown)?)
        }
    };
    let body = Limited::new(body, MAX_REQUEST_BYTES).collect().await.map_err(|_| too_large())?.to_bytes();
    let Some(encoding) = encoding else {
        return Ok(body);
    };
    let plain = encoding.decode(&body, MAX_REQUEST_BYTES);
    let plain = plain.map_err(|error| refused(format!("The body is not {}: {error}", encoding.name())))?;
    if plain.len() > MAX_REQUEST_BYTES { Err(too_large()) } else { Ok(plain) }
}

/// The same answer with its body in this encoding.
async fn encoded(answer: Response<Full<Bytes>>, encoding: Encoding) -> Response<Full<Bytes>> {
    let (mut head, body) = answer.into_parts();
    let Ok(plain) = body.collect().await.map(http_body_util::Collected::to_bytes);
    match encoding.encode(&plain) {
        Ok(body) => {
            head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
            Response::from_parts(head, Full::new(body))
        }
        Err(_) => Response::from_parts(head, Full::new(plain)),
    }
}

async fn answer(head: &Parts, body: Bytes, service: &LocalService) -> HttpAnswer {
    let target = head.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    match (&head.method, head.uri.path(), target) {
        (&Method::POST, "/", Some(target)) => {
            let request = Request { target: target.to_owned(), body };
            let answer = match head.headers.get(AUTHORIZATION).and_then(|header| caller(header.to_str().ok()?)) {
                Some(caller) => service.call_as(caller, request).await?,
                None => service.call(request).await?,
            };
            Ok(from_answer(answer))
        }
        (&Method::POST, "/", None) => {
            Ok(from_error(&ServiceError::new("UnknownOperationException", "The request has no x-amz-target header")))
        }
        (&Method::GET, path, _) if let Some(part) = page::answer(path, &head.headers) => Ok(part),
        (&Method::GET, "/", _) => Ok(text(StatusCode::OK, "healthy: dynamodb, dynamodb streams (shardkeeper local)\n")),
        (method, path, _) => Ok(control(method, path, &body, service)),
    }
}

/// The access key id that a call is signed with: `AWS4-HMAC-SHA256 Credential=ID/DATE/REGION/SERVICE/aws4_request, …`.
/// Signatures are not checked.
pub(crate) fn caller(authorization: &str) -> Option<&str> {
    let (_, credential) = authorization.split_once("Credential=")?;
    credential.split('/').next()
}

/// The control plane: see the crate's documentation.
fn control(method: &Method, path: &str, body: &[u8], service: &LocalService) -> Response<Full<Bytes>> {
    let outcome = match (method, path) {
        (&Method::GET, "/_local/stats") => Ok(service.stats().to_json()),
        (&Method::GET, "/_local/faults") => Ok(service.faults().to_json()),
        (&Method::POST, "/_local/faults") => change_faults(body, service),
        (&Method::POST, "/_local/streams") => change_streams(body, service),
        (&Method::POST, "/_local/preload") => preload(body, service),
        (&Method::POST, "/_local/tick") => {
            service.tick();
            Ok(json!({}))
        }
        _ => return text(StatusCode::NOT_FOUND, "no such page\n"),
    };
    match outcome {
        Ok(json) => reply(StatusCode::OK, "application/json", json.to_string().into()),
        Err(error) => from_error(&error),
    }
}

fn change_faults(body: &[u8], service: &LocalService) -> Result<Value, ServiceError> {
    let plan = FaultPlan::from_json(&parse(body)?)?;
    let json = plan.to_json();
    service.set_faults(plan);
    Ok(json)
}

fn change_streams(body: &[u8], service: &LocalService) -> Result<Value, ServiceError> {
    let json = parse(body)?;
    let members = Parameters::new(&json, &["table", "action", "shard"])?;
    let table = members.required_text("table")?;
    let action = members.required_text("action")?;
    let action = StreamAction::parse(action)
        .ok_or_else(|| ServiceError::validation(format!("action must be split, rollover or trim, not {action:?}")))?;
    let touched = service.change_shards(table, action, members.text("shard")?)?;
    Ok(json!({"shards": touched}))
}

fn preload(body: &[u8], service: &LocalService) -> Result<Value, ServiceError> {
    let json = parse(body)?;
    let known = [
        "table",
        "records_per_shard",
        "keys_per_shard",
        "value_bytes",
        "value_attributes",
        "first_version",
        "pages_ahead",
    ];
    let members = Parameters::new(&json, &known)?;
    let number = |name, default| match members.integer(name)? {
        None => Ok(default),
        Some(number) => {
            u64::try_from(number).map_err(|_| ServiceError::validation(format!("{name} must not be below 0")))
        }
    };
    let preload = Preload {
        records_per_shard: number("records_per_shard", 1000)?,
        keys_per_shard: number("keys_per_shard", 100)?,
        value_bytes: usize::try_from(number("value_bytes", 64)?).unwrap_or(usize::MAX),
        value_attributes: usize::try_from(number("value_attributes", 1)?).unwrap_or(usize::MAX),
        first_version: number("first_version", 0)?,
        pages_ahead: members.flag("pages_ahead")?.unwrap_or(false),
    };
    if preload.value_bytes > 400 * 1024 {
        return Err(ServiceError::validation("value_bytes must not be above an item's 400 KB"));
    }
    let written = service.preload(members.required_text("table")?, &preload)?;
    Ok(json!({"records": written}))
}

fn parse(body: &[u8]) -> Result<Value, ServiceError> {
    serde_json::from_slice(body)
        .map_err(|error| ServiceError::validation(format!("the request body is not JSON: {error}")))
}

fn from_answer(answer: Answer) -> Response<Full<Bytes>> {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = reply(status, "application/x-amz-json-1.0", answer.body);
    if let Ok(id) = HeaderValue::from_str(&answer.request_id) {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    response
}

fn from_error(error: &ServiceError) -> Response<Full<Bytes>> {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    reply(status, "application/x-amz-json-1.0", error.to_json().to_string().into())
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    reply(status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

fn reply(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
